package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"portico/internal/cost"
	"portico/internal/online"
	"portico/internal/store"
)

// existed records that an instance existed from a moment for some hours.
func (b *bench) existed(d online.ID, uid, kind string, start time.Time, hours float64) {
	b.t.Helper()
	err := b.Store.Update(context.Background(), func(tx store.Tx) error {
		id := fmt.Sprint(uid, start.UnixNano(), kind)
		if err := tx.OpenInterval(online.Interval{Instance: id, Deployment: d, UID: uid, InstanceType: kind, Start: start}); err != nil {
			return err
		}
		return tx.CloseInterval(id, start.Add(time.Duration(hours*float64(time.Hour))), "stopped")
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (r CostReport) text() []string {
	var out []string
	for _, l := range r.Lines {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %.2f", l.Begin.Format(time.DateOnly), strings.Join(l.Keys, ","), l.Sums)))
	}
	return out
}

func TestCosts(t *testing.T) {
	b := newBench(t)
	b.Prices = cost.Prices{Currency: "EUR", PerHour: map[string]float64{"standard_ds3_v2": 0.5, "standard_f2s_v2": 2}}
	b.assets()
	ctx := context.Background()
	if _, err := b.PutEndpoint(ctx, admin, home, "fraud", PutEndpoint{Spec: online.EndpointSpec{Tags: map[string]string{"Team": "risk",
		"cost-center": "12"}}}); err != nil {
		t.Fatal(err)
	}
	req := request()
	req.Spec.Tags = map[string]string{"team": "blue-team", TagDeployment: "forged"}
	if _, err := b.PutDeployment(ctx, admin, home, "fraud", "blue", PutDeployment{Request: req}); err != nil {
		t.Fatal(err)
	}
	blue, err := b.GetDeployment(ctx, admin, home, "fraud", "blue")
	if err != nil {
		t.Fatal(err)
	}
	b.mustEndpoint("other", nil)
	other := b.mustDeployment("other", "blue")
	day := b.Tick().Truncate(24*time.Hour).AddDate(0, 0, -3)
	b.existed(blue.Meta.ID, blue.Meta.UID, "Standard_DS3_v2", day.Add(22*time.Hour), 4)
	b.existed(blue.Meta.ID, blue.Meta.UID, "Standard_F2s_v2", day, 1)
	b.existed(other.Meta.ID, other.Meta.UID, "Standard_E2s_v3", day, 10)
	// A deployment of the same name that was deleted keeps its costs, with the tags that it had.
	b.mustDeployment("other", "gone")
	gone, err := b.GetDeployment(ctx, admin, home, "other", "gone")
	if err != nil {
		t.Fatal(err)
	}
	b.existed(gone.Meta.ID, gone.Meta.UID, "Standard_DS3_v2", day, 2)
	if _, err := b.DeleteEndpoint(ctx, admin, home, "other", Match{}); err != nil {
		t.Fatal(err)
	}
	b.Settle()
	date := func(n int) string { return day.AddDate(0, 0, n).Format(time.DateOnly) }
	span := cost.Span{From: day, To: day.AddDate(0, 0, 5)}
	tag := func(name string, values ...string) *CostFilter {
		return &CostFilter{Key: CostKey{Tag: true, Name: name}, Values: values}
	}
	sub := CostScope{Workspace: online.WorkspaceID{Subscription: "SUB"}}
	none := "0001-01-01"
	for what, c := range map[string]struct {
		q    CostQuery
		want []string
	}{
		"daily":          {CostQuery{Scope: sub, By: cost.Daily}, []string{date(0) + "  [4.00]", date(1) + "  [1.00]"}},
		"whole":          {CostQuery{Scope: sub}, []string{none + "  [5.00]"}},
		"with hours":     {CostQuery{Scope: sub, Sums: []string{UsageQuantity, PreTaxCost}}, []string{none + "  [17.00 5.00]"}},
		"group":          {CostQuery{Scope: CostScope{Workspace: online.WorkspaceID{Subscription: "sub", ResourceGroup: "GROUP"}}}, []string{none + "  [5.00]"}},
		"other group":    {CostQuery{Scope: CostScope{Workspace: online.WorkspaceID{Subscription: "sub", ResourceGroup: "gro"}}}, nil},
		"workspace":      {CostQuery{Scope: CostScope{Workspace: home}}, []string{none + "  [5.00]"}},
		"one endpoint":   {CostQuery{Scope: CostScope{Workspace: home, Resource: home.Endpoint("Fraud")}}, []string{none + "  [4.00]"}},
		"one deployment": {CostQuery{Scope: CostScope{Workspace: home, Resource: home.Deployment("other", "gone")}}, []string{none + "  [1.00]"}},
		"by deployment": {CostQuery{Scope: sub, Group: []CostKey{{true, TagEndpoint}, {true, TagDeployment}}},
			[]string{none + " fraud,blue [4.00]", none + " other,blue [0.00]", none + " other,gone [1.00]"}},
		"by type, dearest first": {CostQuery{Scope: sub, Group: []CostKey{{false, "Meter"}}, OrderBy: PreTaxCost, Backward: true},
			[]string{none + " Standard_DS3_v2 [3.00]", none + " Standard_F2s_v2 [2.00]", none + " Standard_E2s_v3 [0.00]"}},
		"by a tag that some lack": {CostQuery{Scope: sub, Group: []CostKey{{true, "cost-center"}}}, []string{none + "  [1.00]", none + " 12 [4.00]"}},
		"by where it is": {CostQuery{Scope: sub, Group: []CostKey{{false, "ResourceGroupName"}, {false, "ResourceLocation"}, {false, "SubscriptionId"}}},
			[]string{none + " group,local,sub [5.00]"}},
		"by what it is": {CostQuery{Scope: CostScope{Workspace: home, Resource: home.Endpoint("fraud")}, Group: []CostKey{{false, "ResourceType"}, {false, "resourceId"}}},
			[]string{none + " microsoft.machinelearningservices/workspaces/onlineendpoints/deployments," +
				"/subscriptions/sub/resourcegroups/group/providers/microsoft.machinelearningservices/workspaces/home/onlineendpoints/fraud/deployments/blue [4.00]"}},
		"the alias":               {CostQuery{Scope: sub, Filter: tag(TagEndpointAlias, "FRAUD")}, []string{none + "  [4.00]"}},
		"only that it is there":   {CostQuery{Scope: sub, Filter: tag(TagEndpointAlias)}, []string{none + "  [5.00]"}},
		"the deployment's tag":    {CostQuery{Scope: sub, Filter: tag("TEAM", "blue-team")}, []string{none + "  [4.00]"}},
		"the endpoint's tag":      {CostQuery{Scope: sub, Filter: tag("cost-center", "11", "12")}, []string{none + "  [4.00]"}},
		"covered by its own":      {CostQuery{Scope: sub, Filter: tag("team", "risk")}, nil},
		"nobody forges our tags":  {CostQuery{Scope: sub, Filter: tag(TagDeployment, "forged")}, nil},
		"one and the other":       {CostQuery{Scope: sub, Filter: &CostFilter{And: []*CostFilter{tag(TagEndpoint, "other"), tag(TagDeployment, "gone")}}}, []string{none + "  [1.00]"}},
		"one or the other":        {CostQuery{Scope: sub, Filter: &CostFilter{Or: []*CostFilter{tag(TagDeployment, "gone"), tag("team")}}}, []string{none + "  [5.00]"}},
		"a dimension in the tree": {CostQuery{Scope: sub, Filter: &CostFilter{And: []*CostFilter{tag(TagEndpoint, "fraud"), {Key: CostKey{Name: "Meter"}, Values: []string{"standard_f2s_v2"}}}}}, []string{none + "  [2.00]"}},
		"a month":                 {CostQuery{Scope: sub, By: cost.Monthly}, []string{day.Format("2006-01") + "-01  [5.00]"}},
		"another subscription":    {CostQuery{Scope: CostScope{Workspace: online.WorkspaceID{Subscription: "su"}}}, nil},
	} {
		t.Run(what, func(t *testing.T) {
			c.q.Span = span
			if c.q.Sums == nil {
				c.q.Sums = []string{PreTaxCost}
			}
			r, err := b.Costs(ctx, admin, c.q)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.text(); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			if r.Currency != "EUR" {
				t.Errorf("currency %s", r.Currency)
			}
		})
	}
	r, err := b.Costs(ctx, admin, CostQuery{Scope: sub, Span: span, Sums: []string{Cost}})
	if err != nil || !slices.Equal(r.Unpriced, []string{"Standard_E2s_v3"}) {
		t.Errorf("types without a price: %v, %v", r.Unpriced, err)
	}
	for what, c := range map[string]struct {
		q      CostQuery
		target string
	}{
		"no time":   {CostQuery{Scope: sub, Span: cost.Span{From: day, To: day}, Sums: []string{Cost}}, "timePeriod"},
		"two years": {CostQuery{Scope: sub, Span: cost.Span{From: day, To: day.AddDate(2, 0, 0)}, Sums: []string{Cost}}, "timePeriod"},
		"no sums":   {CostQuery{Scope: sub, Span: span}, "dataset"},
		"dimension": {CostQuery{Scope: sub, Span: span, Sums: []string{Cost}, Group: []CostKey{{false, "Colour"}}}, "dataset.grouping"},
		"in a filter": {CostQuery{Scope: sub, Span: span, Sums: []string{Cost}, Filter: &CostFilter{Or: []*CostFilter{tag("x"),
			{And: []*CostFilter{{Key: CostKey{Name: "Colour"}}}}}}}, "dataset.filter"},
		"nameless tag": {CostQuery{Scope: sub, Span: span, Sums: []string{Cost}, Filter: tag("")}, "dataset.filter"},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := b.Costs(ctx, admin, c.q)
			wantError(t, err, online.CodeBadArgument, c.target, "")
		})
	}
}

func TestEvents(t *testing.T) {
	b := newBench(t)
	b.assets()
	b.mustEndpoint("fraud", nil)
	b.mustDeployment("fraud", "blue")
	ctx := context.Background()
	all, err := b.Events(ctx, admin, "SUB", time.Time{}, time.Time{})
	if err != nil || len(all) < 5 {
		t.Fatalf("%d events, %v", len(all), err)
	}
	kinds := map[online.Kind]bool{}
	for i, a := range all {
		kinds[a.Target.Kind] = true
		if i > 0 && a.Revision > all[i-1].Revision {
			t.Error("events are not newest first")
		}
	}
	for _, k := range []online.Kind{online.KindEndpoint, online.KindDeployment, online.KindModel, online.KindCode, online.KindEnvironment} {
		if !kinds[k] {
			t.Errorf("no event of %s", k)
		}
	}
	cut, err := b.Events(ctx, admin, "sub", all[2].Time, all[0].Time)
	if err != nil || len(cut) == 0 || len(cut) >= len(all) {
		t.Errorf("%d events in a shorter span, %v", len(cut), err)
	}
	if other, err := b.Events(ctx, admin, "su", time.Time{}, time.Time{}); err != nil || len(other) != 0 {
		t.Errorf("another subscription has %d events, %v", len(other), err)
	}
}

// TestMirrorIsDropped walks through the rollout of the documentation, which sends one object over and over.
func TestMirrorIsDropped(t *testing.T) {
	b := newBench(t)
	b.assets()
	b.mustEndpoint("fraud", nil)
	b.mustDeployment("fraud", "blue")
	b.mustDeployment("fraud", "green")
	ctx := context.Background()
	put := func(traffic, mirror online.Traffic) (Accepted[Endpoint], error) {
		out, err := b.PutEndpoint(ctx, admin, home, "fraud", PutEndpoint{Spec: online.EndpointSpec{Traffic: traffic, MirrorTraffic: mirror}})
		b.Settle()
		return out, err
	}
	mirror := online.Traffic{"Green": 10}
	for step, c := range []struct {
		traffic online.Traffic
		dropped bool
	}{
		{online.Traffic{"blue": 100}, false},
		{online.Traffic{"blue": 90, "green": 10}, true},
		{online.Traffic{"blue": 90, "green": 10}, true}, // the client repeats itself
		{online.Traffic{"blue": 50, "green": 50}, true},
		{online.Traffic{"green": 100}, true},
		{online.Traffic{"blue": 100}, false}, // back again: the mirror is possible, and asked for
		{online.Traffic{"blue": 0, "green": 100}, true},
	} {
		out, err := put(c.traffic, mirror)
		if err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		inForce := out.Resource.Spec.MirrorTraffic["green"]
		if c.dropped != (inForce == 0) || c.dropped != (len(out.Notes) == 1 && strings.Contains(out.Notes[0], "green")) {
			t.Errorf("step %d: mirror %v, notes %q", step, out.Resource.Spec.MirrorTraffic, out.Notes)
		}
	}
	// Whoever did not send it before is told that it cannot be.
	if _, err := put(online.Traffic{"blue": 50, "green": 50}, nil); err != nil {
		t.Fatal(err)
	}
	_, err := put(online.Traffic{"blue": 90, "green": 10}, mirror)
	wantError(t, err, online.CodeBadArgument, "properties.mirrorTraffic.green", "live traffic")
	// An echo is one only with the same share.
	for _, c := range []struct{ traffic, mirror online.Traffic }{{online.Traffic{"blue": 100}, mirror}, {online.Traffic{"green": 100}, mirror}} {
		if _, err := put(c.traffic, c.mirror); err != nil {
			t.Fatal(err)
		}
	}
	tags := map[string]string{"a": "b"}
	if _, err := b.PatchEndpoint(ctx, admin, home, "fraud", PatchEndpoint{Tags: &tags}); err != nil {
		t.Fatal(err)
	}
	if _, err := put(online.Traffic{"blue": 10, "green": 90}, mirror); err != nil {
		t.Errorf("a change of tags in between: %v", err)
	}
	_, err = put(online.Traffic{"green": 100}, online.Traffic{"green": 20})
	wantError(t, err, online.CodeBadArgument, "properties.mirrorTraffic.green", "live traffic")
	told := 0
	log, err := b.ListActivities(ctx, admin, home, "fraud", time.Time{}, time.Time{}, MaxActivities)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range log {
		if strings.Contains(a.Detail, "the mirror of 10 % to deployment green was dropped") {
			told++
		}
	}
	if told < 5 {
		t.Errorf("%d activities tell that the mirror was dropped", told)
	}
}
