package cost_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"portico/internal/cost"
	"portico/internal/online"
)

var home = online.WorkspaceID{Subscription: "sub", ResourceGroup: "group", Name: "home"}

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

func interval(deployment, kind, start, end string) online.Interval {
	iv := online.Interval{Instance: deployment + start, Deployment: home.Deployment("fraud", deployment), UID: "uid-" + deployment,
		InstanceType: kind, Start: at(start)}
	if end != "" {
		iv.End = at(end)
	}
	return iv
}

var prices = cost.Prices{Currency: "EUR", PerHour: map[string]float64{"standard_ds3_v2": 0.5, "standard_f2s_v2": 2}}

func TestMeter(t *testing.T) {
	november := cost.Span{From: at("2026-11-01T00:00:00Z"), To: at("2026-12-01T00:00:00Z")}
	later := at("2027-06-01T00:00:00Z")
	for name, c := range map[string]struct {
		intervals []online.Interval
		span      cost.Span
		now       time.Time
		by        cost.Granularity
		want      []string // day, deployment, type, duration, cost
	}{
		"one hour": {
			[]online.Interval{interval("blue", "Standard_DS3_v2", "2026-11-05T10:00:00Z", "2026-11-05T11:00:00Z")},
			november, later, cost.Daily, []string{"2026-11-05 blue Standard_DS3_v2 1h0m0s 0.50"},
		},
		"types in any case, unknown ones for nothing": {
			[]online.Interval{interval("blue", "STANDARD_F2S_V2", "2026-11-05T10:00:00Z", "2026-11-05T10:30:00Z"),
				interval("blue", "other", "2026-11-05T10:00:00Z", "2026-11-05T10:30:00Z")},
			november, later, cost.Daily, []string{"2026-11-05 blue other 30m0s 0.00", "2026-11-05 blue STANDARD_F2S_V2 30m0s 1.00"},
		},
		"over midnight": {
			[]online.Interval{interval("blue", "Standard_DS3_v2", "2026-11-05T23:00:00Z", "2026-11-07T02:00:00Z")},
			november, later, cost.Daily, []string{"2026-11-05 blue Standard_DS3_v2 1h0m0s 0.50",
				"2026-11-06 blue Standard_DS3_v2 24h0m0s 12.00", "2026-11-07 blue Standard_DS3_v2 2h0m0s 1.00"},
		},
		"a local time with another offset counts by UTC": {
			[]online.Interval{interval("blue", "Standard_DS3_v2", "2026-11-05T23:30:00-05:00", "2026-11-06T00:30:00-05:00")},
			november, later, cost.Daily, []string{"2026-11-06 blue Standard_DS3_v2 1h0m0s 0.50"},
		},
		"cut at both ends of the span": {
			[]online.Interval{interval("blue", "Standard_DS3_v2", "2026-10-01T00:00:00Z", "2027-01-01T00:00:00Z")},
			november, later, cost.Monthly, []string{"2026-11-01 blue Standard_DS3_v2 720h0m0s 360.00"},
		},
		"still running": {
			[]online.Interval{interval("blue", "Standard_DS3_v2", "2026-11-05T10:00:00Z", "")},
			november, at("2026-11-05T14:00:00Z"), cost.None, []string{"0001-01-01 blue Standard_DS3_v2 4h0m0s 2.00"},
		},
		"nothing of the future": {
			[]online.Interval{interval("blue", "Standard_DS3_v2", "2026-11-05T10:00:00Z", "2026-11-05T20:00:00Z")},
			november, at("2026-11-05T11:00:00Z"), cost.Daily, []string{"2026-11-05 blue Standard_DS3_v2 1h0m0s 0.50"},
		},
		"the clock was set back": {
			[]online.Interval{interval("blue", "Standard_DS3_v2", "2026-11-05T10:00:00Z", "2026-11-05T09:00:00Z")},
			november, later, cost.Daily, nil,
		},
		"two instances, two deployments": {
			[]online.Interval{interval("green", "Standard_DS3_v2", "2026-11-05T10:00:00Z", "2026-11-05T11:00:00Z"),
				interval("blue", "Standard_DS3_v2", "2026-11-05T10:00:00Z", "2026-11-05T11:00:00Z"),
				interval("blue", "Standard_DS3_v2", "2026-11-05T10:30:00Z", "2026-11-05T11:00:00Z")},
			november, later, cost.Daily, []string{"2026-11-05 blue Standard_DS3_v2 1h30m0s 0.75",
				"2026-11-05 green Standard_DS3_v2 1h0m0s 0.50"},
		},
		"an empty span": {
			[]online.Interval{interval("blue", "Standard_DS3_v2", "2026-11-05T10:00:00Z", "")},
			cost.Span{From: later, To: later}, later, cost.Daily, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, u := range cost.Meter(c.intervals, prices, c.span.From, c.span.To, c.now, c.by) {
				got = append(got, fmt.Sprintf("%s %s %s %s %.2f", u.Begin.Format(time.DateOnly), u.Deployment.Name, u.InstanceType,
					u.Duration, u.Cost()))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestSumsAgree: days, months and the whole are the same time, cut differently, in any zone and over any change of
// clocks; and the whole is what one gets by looking at each interval alone.
func TestSumsAgree(t *testing.T) {
	zones := []*time.Location{time.UTC, time.FixedZone("east", 14*3600), time.FixedZone("west", -12*3600)}
	for _, name := range []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe"} {
		if z, err := time.LoadLocation(name); err == nil { // a machine may lack the zone files
			zones = append(zones, z)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		base := at("2026-01-01T00:00:00Z")
		moment := func(label string) time.Time {
			ms := rapid.Int64Range(0, int64(400*24*time.Hour/time.Millisecond)).Draw(t, label)
			return base.Add(time.Duration(ms) * time.Millisecond).In(rapid.SampledFrom(zones).Draw(t, label+" zone"))
		}
		now, from, to := moment("now"), moment("from"), moment("to")
		var intervals []online.Interval
		var want time.Duration
		wantCost := 0.0
		for i := range rapid.IntRange(0, 8).Draw(t, "intervals") {
			iv := online.Interval{Instance: fmt.Sprint(i), UID: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "uid"), Start: moment("start"),
				InstanceType: rapid.SampledFrom([]string{"Standard_DS3_v2", "Standard_F2s_v2", "free"}).Draw(t, "type")}
			iv.Deployment = home.Deployment("fraud", iv.UID)
			if rapid.Bool().Draw(t, "ended") {
				iv.End = moment("end")
			}
			intervals = append(intervals, iv)
			// The same, without looking at units.
			begin, end := iv.Start, now
			if !iv.End.IsZero() && iv.End.Before(end) {
				end = iv.End
			}
			if to.Before(end) {
				end = to
			}
			if begin.Before(from) {
				begin = from
			}
			if d := end.Sub(begin); d > 0 {
				want += d
				price, _ := prices.Of(iv.InstanceType)
				wantCost += d.Hours() * price
			}
		}
		for _, by := range []cost.Granularity{cost.None, cost.Daily, cost.Monthly} {
			var sum time.Duration
			money := 0.0
			uses := cost.Meter(intervals, prices, from, to, now, by)
			for i, u := range uses {
				sum += u.Duration
				money += u.Cost()
				if u.Duration <= 0 || by == cost.Daily && u.Duration > 8*24*time.Hour {
					t.Fatalf("%d: %+v", by, u)
				}
				if i > 0 && u.Begin.Before(uses[i-1].Begin) {
					t.Fatal("out of order")
				}
				if b := u.Begin; by != cost.None && (b.Location() != time.UTC || b.Hour()+b.Minute()+b.Second()+b.Nanosecond() != 0) {
					t.Fatalf("a unit begins at %s", b)
				}
			}
			if sum != want || math.Abs(money-wantCost) > 1e-6*(1+wantCost) {
				t.Fatalf("granularity %d: %s and %v, want %s and %v", by, sum, money, want, wantCost)
			}
		}
	})
}

func TestFrame(t *testing.T) {
	now := at("2026-03-01T01:30:00+02:00") // still February in UTC, a Saturday
	for name, want := range map[string][2]string{
		cost.MonthToDate: {"2026-02-01", "2026-03-01"}, cost.BillingMonthToDate: {"2026-02-01", "2026-03-01"},
		cost.TheLastMonth: {"2026-01-01", "2026-02-01"}, cost.TheLastBillingMonth: {"2026-01-01", "2026-02-01"},
		cost.WeekToDate: {"2026-02-22", "2026-03-01"},
	} {
		s, ok := cost.Frame(name, now)
		if !ok || s.From.Format(time.DateOnly) != want[0] || s.To.Format(time.DateOnly) != want[1] {
			t.Errorf("%s: %v, want %v", name, s, want)
		}
	}
	for _, name := range []string{cost.Custom, "Yesterday"} {
		if _, ok := cost.Frame(name, now); ok {
			t.Errorf("%s is a frame of its own", name)
		}
	}
	if len(cost.Timeframes) != 6 {
		t.Error("the list of time frames is not complete")
	}
}

func TestLongUseStaysPositive(t *testing.T) {
	var all []online.Interval
	for i := range 5 {
		all = append(all, interval("blue", "x", fmt.Sprintf("1900-01-0%dT00:00:00Z", i+1), ""))
	}
	uses := cost.Meter(all, prices, at("1800-01-01T00:00:00Z"), at("2100-01-01T00:00:00Z"), at("2100-01-01T00:00:00Z"), cost.None)
	if len(uses) != 1 || uses[0].Duration <= 0 {
		t.Errorf("%+v", uses)
	}
}
