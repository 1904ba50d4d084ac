package cost

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"portico/internal/online"
)

// DefaultCurrency is that of a price list that names none.
const DefaultCurrency = "USD"

// Prices is a price list. The zero value prices everything at 0.
type Prices struct {
	Currency string             // ISO 4217
	PerHour  map[string]float64 // by name of the instance type, lower-case; absent: no price is known
}

// Of is the price of an instance type for one hour; known is false when the list lacks it.
func (p Prices) Of(instanceType string) (perHour float64, known bool) {
	perHour, known = p.PerHour[strings.ToLower(instanceType)]
	return perHour, known
}

// Granularity is the unit of time that use is told apart by.
type Granularity int

// The granularities of Azure's cost queries.
const (
	None Granularity = iota // the whole span at once
	Daily
	Monthly
)

// Use is how long instances of one deployment and type existed in one unit of time.
type Use struct {
	Begin        time.Time // of the day or month, UTC; the zero time without granularity
	Deployment   online.ID
	UID          string // of the deployment: a name may be used again
	InstanceType string
	Duration     time.Duration // summed over instances
	PerHour      float64
}

// Cost is what the use costs.
func (u Use) Cost() float64 { return u.Duration.Hours() * u.PerHour }

// Meter adds up the part of each interval that lies in [from, to) and not after now, by unit of time, deployment and
// instance type, in this order. An interval without an end goes on until now; one that ends before it begins (the
// clock was set back) counts as nothing. Days and months are those of UTC, so none is longer or shorter than another
// by a change of clocks.
func Meter(intervals []online.Interval, prices Prices, from, to, now time.Time, by Granularity) []Use {
	if now.Before(to) {
		to = now
	}
	type key struct {
		begin     int64
		uid, kind string
	}
	sums := map[key]*Use{}
	for i := range intervals {
		iv := &intervals[i]
		start, end := iv.Start.UTC(), iv.End.UTC()
		if iv.End.IsZero() || end.After(to) {
			end = to.UTC()
		}
		if start.Before(from) {
			start = from.UTC()
		}
		for start.Before(end) {
			begin, next := unit(start, by)
			if by == None || next.After(end) {
				next = end
			}
			k := key{begin.Unix(), iv.UID, strings.ToLower(iv.InstanceType)}
			u := sums[k]
			if u == nil {
				u = &Use{Begin: begin, Deployment: iv.Deployment, UID: iv.UID, InstanceType: iv.InstanceType}
				u.PerHour, _ = prices.Of(iv.InstanceType)
				sums[k] = u
			}
			u.Duration = addUp(u.Duration, next.Sub(start))
			start = next
		}
	}
	out := make([]Use, 0, len(sums))
	for _, u := range sums {
		out = append(out, *u)
	}
	slices.SortFunc(out, func(a, b Use) int {
		return cmp.Or(a.Begin.Compare(b.Begin), cmp.Compare(a.Deployment.Key(), b.Deployment.Key()), cmp.Compare(a.UID, b.UID),
			cmp.Compare(strings.ToLower(a.InstanceType), strings.ToLower(b.InstanceType)))
	})
	return out
}

// addUp stays at the largest duration (292 years) instead of turning negative.
func addUp(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// unit gives the day or month of a moment, and when the next begins.
func unit(t time.Time, by Granularity) (begin, next time.Time) {
	switch by {
	case Daily:
		begin = time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
		return begin, begin.AddDate(0, 0, 1)
	case Monthly:
		begin = time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
		return begin, begin.AddDate(0, 1, 0)
	}
	return time.Time{}, time.Time{}
}

// Span is a stretch of time, To not included.
type Span struct{ From, To time.Time }

// The time frames of Azure's cost queries. A billing month is a calendar month here: there is no invoice.
const (
	MonthToDate         = "MonthToDate"
	BillingMonthToDate  = "BillingMonthToDate"
	TheLastMonth        = "TheLastMonth"
	TheLastBillingMonth = "TheLastBillingMonth"
	WeekToDate          = "WeekToDate"
	Custom              = "Custom"
)

// Timeframes lists the time frames.
var Timeframes = []string{MonthToDate, BillingMonthToDate, TheLastMonth, TheLastBillingMonth, WeekToDate, Custom}

// Frame gives the span of a time frame other than Custom, as of now. Weeks begin on Sunday.
func Frame(name string, now time.Time) (Span, bool) {
	day, _ := unit(now.UTC(), Daily)
	month, next := unit(now.UTC(), Monthly)
	switch name {
	case MonthToDate, BillingMonthToDate:
		return Span{month, next}, true
	case TheLastMonth, TheLastBillingMonth:
		return Span{month.AddDate(0, -1, 0), month}, true
	case WeekToDate:
		sunday := day.AddDate(0, 0, -int(day.Weekday()))
		return Span{sunday, sunday.AddDate(0, 0, 7)}, true
	}
	return Span{}, false
}
