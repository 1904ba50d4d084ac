package control

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"portico/internal/online"
	"portico/internal/store"
)

func TestEndpointLife(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	out, err := b.endpoint("Fraud", nil)
	if err != nil {
		t.Fatal(err)
	}
	e := out.Resource
	if !out.Created || out.Operation == nil || out.Operation.State != online.OperationRunning || e.Meta.State != online.StateCreating {
		t.Fatalf("create gave %+v", out)
	}
	if e.Spec.AuthMode != online.AuthKey || e.Spec.Identity.Type != "SystemAssigned" || e.Spec.Location != "local" || e.Spec.PublicNetworkAccess != "Enabled" {
		t.Fatalf("defaults: %+v", e.Spec)
	}
	changes, err := b.Store.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for told := false; !told; { // reconcile is woken by the store's own watch
		select {
		case change := <-changes:
			told = change.Type == store.ChangeSpec && change.ID.Same(e.Meta.ID)
		case <-time.After(90 * time.Second):
			t.Fatal("the store tells of no change of the endpoint")
		}
	}
	before := e.Meta.ETag
	b.Settle()
	if e, _ = b.GetEndpoint(ctx, admin, home, "fRAUD"); e.Meta.State != online.StateSucceeded || e.Meta.ETag != before || e.Meta.ID.Name != "Fraud" {
		t.Fatalf("after it was brought about: %+v; a status must not change the ETag %s", e.Meta, before)
	}
	if op, err := b.GetOperation(ctx, admin, out.Operation.ID); err != nil || op.State != online.OperationSucceeded {
		t.Fatalf("operation: %+v, %v", op, err)
	}

	tags := map[string]string{"team": "risk"}
	patched, err := b.PatchEndpoint(ctx, admin, home, "fraud", PatchEndpoint{Tags: &tags})
	if err != nil || patched.Resource.Meta.State != online.StateUpdating || patched.Resource.Spec.Tags["team"] != "risk" || patched.Created {
		t.Fatalf("patch: %+v, %v", patched, err)
	}
	if _, err := b.PatchEndpoint(ctx, admin, home, "absent", PatchEndpoint{}); !online.IsCode(err, online.CodeNotFound) {
		t.Fatalf("patch of nothing: %v", err)
	}
	b.Settle()

	op, err := b.DeleteEndpoint(ctx, admin, home, "fraud", Match{})
	if err != nil || op == nil {
		t.Fatalf("delete: %v, %v", op, err)
	}
	again, err := b.DeleteEndpoint(ctx, admin, home, "fraud", Match{})
	if err != nil || again.ID != op.ID {
		t.Fatalf("a second deletion gave %v, %v, want the operation %s", again, err, op.ID)
	}
	if e, _ = b.GetEndpoint(ctx, admin, home, "fraud"); e.Meta.State != online.StateDeleting {
		t.Fatalf("state while it is deleted: %s", e.Meta.State)
	}
	_, err = b.endpoint("fraud", nil)
	wantError(t, err, online.CodeConflict, "/subscriptions/sub/resourceGroups/group/providers/Microsoft.MachineLearningServices/workspaces/home/onlineEndpoints/Fraud", "being deleted")
	b.Settle()
	if _, err := b.GetEndpoint(ctx, admin, home, "fraud"); !online.IsCode(err, online.CodeNotFound) {
		t.Fatalf("after deletion: %v", err)
	}
	if op, err := b.DeleteEndpoint(ctx, admin, home, "fraud", Match{}); err != nil || op != nil {
		t.Fatalf("deletion of nothing: %v, %v", op, err)
	}
}

func TestRepeatedPutChangesNothing(t *testing.T) {
	b := newBench(t)
	b.assets()
	first := b.mustEndpoint("fraud", nil)
	out, err := b.endpoint("fraud", nil)
	if err != nil || out.Created || out.Operation.State != online.OperationSucceeded || out.Resource.Meta.ETag != first.Meta.ETag {
		t.Fatalf("repeated endpoint: %+v, %v", out, err)
	}
	d := b.mustDeployment("fraud", "blue")
	same, err := b.deployment("fraud", "blue")
	if err != nil || same.Operation == nil || same.Operation.State != online.OperationSucceeded || same.Resource.Meta.ETag != d.Meta.ETag {
		t.Fatalf("repeated deployment: %+v, %v", same, err)
	}
	all, err := b.ListRevisions(context.Background(), admin, home, "fraud", "blue")
	if err != nil || len(all) != 1 {
		t.Fatalf("%d revisions, %v", len(all), err)
	}
}

func TestEndpointNamesAreUniqueInTheServer(t *testing.T) {
	b := newBench(t)
	other := online.WorkspaceID{Subscription: "sub", ResourceGroup: "group", Name: "other"}
	if _, err := b.PutWorkspace(context.Background(), admin, other, online.WorkspaceSpec{}, Match{}); err != nil {
		t.Fatal(err)
	}
	b.mustEndpoint("fraud", nil)
	_, err := b.PutEndpoint(context.Background(), admin, other, "FRAUD", PutEndpoint{})
	wantError(t, err, online.CodeConflict, "name", "unique per server")
}

func TestEndpointQuota(t *testing.T) {
	b := newBench(t)
	for i := range online.MaxEndpoints {
		if _, err := b.endpoint(fmt.Sprintf("e-%d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.endpoint("one-more", nil)
	wantError(t, err, online.CodeOutOfQuota, "name", "100 endpoints")
	if _, err := b.DeleteEndpoint(context.Background(), admin, home, "e-7", Match{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.endpoint("one-more", nil); err != nil {
		t.Fatalf("after one was deleted: %v", err)
	}
}

// TestBadEndpoints gives every kind of wrong endpoint: each is refused with the field's path, and nothing changes.
func TestBadEndpoints(t *testing.T) {
	b := newBench(t)
	b.assets()
	b.mustEndpoint("fraud", nil)
	b.mustDeployment("fraud", "blue")
	b.mustDeployment("fraud", "green")
	b.mustEndpoint("fraud", online.Traffic{"blue": 100})
	before := b.revision()
	for _, c := range []struct {
		what, name   string
		spec         online.EndpointSpec
		code         online.Code
		target, part string
	}{
		{"short name", "ab", online.EndpointSpec{}, online.CodeBadArgument, "name", "3 to 32"},
		{"bad name", "no_underscore", online.EndpointSpec{}, online.CodeBadArgument, "name",
			"letters, digits and hyphens"},
		{"sum 90", "fraud", online.EndpointSpec{Traffic: online.Traffic{"blue": 90}}, online.CodeBadArgument,
			"properties.traffic", "90"},
		{"negative", "fraud", online.EndpointSpec{Traffic: online.Traffic{"blue": 100, "green": -1}},
			online.CodeBadArgument, "properties.traffic.green", "-1"},
		{"unknown deployment", "fraud", online.EndpointSpec{Traffic: online.Traffic{"red": 100}},
			online.CodeBadArgument, "properties.traffic.red", "does not exist"},
		{"traffic at creation", "fresh", online.EndpointSpec{Traffic: online.Traffic{"blue": 100}},
			online.CodeBadArgument, "properties.traffic.blue", "does not exist"},
		{"twice", "fraud", online.EndpointSpec{Traffic: online.Traffic{"blue": 50, "Blue": 50}}, online.CodeBadArgument,
			"properties.traffic.blue", "twice"},
		{"mirror onto live", "fraud", online.EndpointSpec{Traffic: online.Traffic{"blue": 100},
			MirrorTraffic: online.Traffic{"blue": 10}}, online.CodeBadArgument, "properties.mirrorTraffic.blue", "live traffic"},
		{"mirror of two", "fraud", online.EndpointSpec{MirrorTraffic: online.Traffic{"blue": 10, "green": 10}},
			online.CodeBadArgument, "properties.mirrorTraffic", "only one"},
		{"mirror of most", "fraud", online.EndpointSpec{Traffic: online.Traffic{"blue": 100},
			MirrorTraffic: online.Traffic{"green": 51}}, online.CodeBadArgument, "properties.mirrorTraffic.green", "50"},
		{"negative mirror", "fraud", online.EndpointSpec{Traffic: online.Traffic{"blue": 100},
			MirrorTraffic: online.Traffic{"green": -1}}, online.CodeBadArgument, "properties.mirrorTraffic.green", "-1"},
		{"mirror to nobody", "fraud", online.EndpointSpec{Traffic: online.Traffic{"blue": 100},
			MirrorTraffic: online.Traffic{"red": 10}}, online.CodeBadArgument, "properties.mirrorTraffic.red", "does not exist"},
		{"no such mode", "fraud", online.EndpointSpec{AuthMode: "Password"}, online.CodeBadArgument,
			"properties.authMode", "Password"},
		{"private", "fraud", online.EndpointSpec{PublicNetworkAccess: "Disabled"}, online.CodeNotImplemented,
			"properties.publicNetworkAccess", "Disabled"},
		{"compute", "fraud", online.EndpointSpec{Compute: "k8s"}, online.CodeNotImplemented, "properties.compute",
			"Kubernetes"},
		{"identity", "fraud", online.EndpointSpec{Identity: online.Identity{Type: "None"}}, online.CodeBadArgument,
			"identity", "cannot change"},
		{"identities", "fresh", online.EndpointSpec{Identity: online.Identity{Type: "SystemAssigned",
			UserAssigned: []string{userIdentity("a")}}}, online.CodeBadArgument, "identity.userAssignedIdentities", "SystemAssigned"},
		{"no identities", "fresh", online.EndpointSpec{Identity: online.Identity{Type: "UserAssigned"}}, online.CodeBadArgument,
			"identity.userAssignedIdentities", "at least one"},
		{"identity id", "fresh", online.EndpointSpec{Identity: online.Identity{Type: "UserAssigned",
			UserAssigned: []string{"/subscriptions/s/x"}}}, online.CodeBadArgument, "identity.userAssignedIdentities", "userAssignedIdentities/NAME"},
		{"location", "fraud", online.EndpointSpec{Location: "mars"}, online.CodeBadArgument, "location", "cannot change"},
		{"tag", "fraud", online.EndpointSpec{Tags: map[string]string{"k": strings.Repeat("v", 257)}},
			online.CodeBadArgument, "tags.k", "256"},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, err := b.PutEndpoint(context.Background(), admin, home, c.name, PutEndpoint{Spec: c.spec})
			wantError(t, err, c.code, c.target, c.part)
		})
	}
	if after := b.revision(); after != before {
		t.Errorf("refused commands changed the store: revision %d, then %d", before, after)
	}
	_, err := b.PutEndpoint(context.Background(), admin, online.WorkspaceID{Subscription: "sub", ResourceGroup: "group",
		Name: "nowhere"}, "fraud", PutEndpoint{})
	if !online.IsCode(err, online.CodeNotFound) {
		t.Errorf("unknown workspace: %v", err)
	}
	_, err = b.PutEndpoint(context.Background(), Caller{}, home, "fraud", PutEndpoint{})
	if !online.IsCode(err, online.CodeUnauthorized) {
		t.Errorf("nobody: %v", err)
	}
}

func TestTrafficIsKeptInLowerCase(t *testing.T) {
	b := newBench(t)
	b.assets()
	b.mustEndpoint("fraud", nil)
	if d := b.mustDeployment("fraud", "Blue"); d.Meta.ID.Name != "blue" {
		t.Fatalf("the deployment is kept as %q", d.Meta.ID.Name)
	}
	e := b.mustEndpoint("fraud", online.Traffic{"BLUE": 100, "gone": 0})
	if len(e.Spec.Traffic) != 1 || e.Spec.Traffic["blue"] != 100 {
		t.Fatalf("traffic %v", e.Spec.Traffic)
	}
	op, err := b.DeleteDeployment(context.Background(), admin, home, "fraud", "BLUE", Match{})
	if op != nil || !online.IsCode(err, online.CodeConflict) || !strings.Contains(err.Error(), "100 %") {
		t.Fatalf("deletion with live traffic: %v, %v", op, err)
	}
	// Deleting the endpoint takes the deployment along, traffic or not.
	if _, err := b.DeleteEndpoint(context.Background(), admin, home, "fraud", Match{}); err != nil {
		t.Fatal(err)
	}
	d, err := b.GetDeployment(context.Background(), admin, home, "fraud", "blue")
	if err != nil || d.Meta.State != online.StateDeleting {
		t.Fatalf("deployment of a deleted endpoint: %s, %v", d.Meta.State, err)
	}
}

func TestKeys(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	given := Keys{Primary: "a-key-of-my-own-choice==", Secondary: ""}
	if _, err := b.PutEndpoint(ctx, admin, home, "fraud", PutEndpoint{Keys: given}); err != nil {
		t.Fatal(err)
	}
	k, err := b.ListKeys(ctx, admin, home, "fraud")
	if err != nil || k.Primary != given.Primary || len(k.Secondary) != 44 {
		t.Fatalf("keys %d and %d characters, %v", len(k.Primary), len(k.Secondary), err)
	}
	if _, err := b.PutEndpoint(ctx, admin, home, "fraud", PutEndpoint{Keys: given}); err != nil {
		t.Errorf("repeating the keys in force: %v", err)
	}
	_, err = b.PutEndpoint(ctx, admin, home, "fraud", PutEndpoint{Keys: Keys{Primary: "another-key-of-mine"}})
	wantError(t, err, online.CodeBadArgument, "properties.keys", "regenerateKeys")
	_, err = b.PutEndpoint(ctx, admin, home, "second", PutEndpoint{Keys: Keys{Secondary: "short"}})
	wantError(t, err, online.CodeBadArgument, "properties.keys.secondaryKey", "16 to 256")

	for _, c := range []struct {
		what  string
		value online.Secret
		check func(was, is online.Secret) bool
	}{
		{"absent", "", func(was, is online.Secret) bool { return is != was && len(is) == 44 }},
		{"the current one", "CURRENT", func(was, is online.Secret) bool { return is != was && len(is) == 44 }},
		{"another", "my-very-own-secret-key", func(_, is online.Secret) bool { return is == "my-very-own-secret-key" }},
	} {
		was, _ := b.ListKeys(ctx, admin, home, "fraud")
		value := c.value
		if value == "CURRENT" {
			value = was.Secondary
		}
		op, err := b.RegenerateKey(ctx, admin, home, "fraud", "Secondary", value)
		is, _ := b.ListKeys(ctx, admin, home, "fraud")
		if err != nil || op.State != online.OperationSucceeded || is.Primary != was.Primary || !c.check(was.Secondary,
			is.Secondary) {
			t.Errorf("%s: %v, %v", c.what, op, err)
		}
	}
	var first online.Secret
	// A client that repeats a request whose answer it missed gets the key that the first made.
	was, _ := b.ListKeys(ctx, admin, home, "fraud")
	for range 3 {
		if _, err := b.RegenerateKey(ctx, admin, home, "fraud", "Primary", was.Primary); err != nil {
			t.Fatal(err)
		}
		is, _ := b.ListKeys(ctx, admin, home, "fraud")
		if is.Primary == was.Primary {
			t.Fatal("a repeated request brought the old key back")
		}
		if first == "" {
			first = is.Primary
		}
		if is.Primary != first {
			t.Error("a repeated request made another key")
		}
	}
	_, err = b.RegenerateKey(ctx, admin, home, "fraud", "Third", "")
	wantError(t, err, online.CodeBadArgument, "keyType", "Primary or Secondary")
	_, err = b.RegenerateKey(ctx, admin, home, "fraud", "Primary", "has a space in it, long")
	wantError(t, err, online.CodeBadArgument, "keyValue", "letters")
	if _, err := b.Token(ctx, admin, home, "fraud"); !online.IsCode(err, online.CodeBadArgument) {
		t.Errorf("token: %v", err)
	}
}

// TestIfMatch lets many callers change what they all read: exactly one of each round gets through.
func TestIfMatch(t *testing.T) {
	b := newBench(t)
	const rounds, callers = 5, 8
	e := b.mustEndpoint("fraud", nil)
	for round := range rounds {
		match := Match{Revision: revisionOf(t, e.Meta.ETag)}
		var wg sync.WaitGroup
		results := make([]error, callers)
		for i := range callers {
			wg.Go(func() {
				tags := map[string]string{"winner": fmt.Sprint(round, i)}
				_, results[i] = b.PatchEndpoint(context.Background(), admin, home, "fraud",
					PatchEndpoint{Tags: &tags, Match: match})
			})
		}
		wg.Wait()
		winner := -1
		for i, err := range results {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("round %d: %d and %d both got through", round, winner, i)
			case err == nil:
				winner = i
			case !online.IsCode(err, online.CodePrecondition):
				t.Fatalf("round %d: %v", round, err)
			}
		}
		var err error
		if e, err = b.GetEndpoint(context.Background(), admin, home,
			"fraud"); err != nil || winner < 0 || e.Spec.Tags["winner"] != fmt.Sprint(round, winner) {
			t.Fatalf("round %d: winner %d, stored %v, %v", round, winner, e.Spec.Tags, err)
		}
	}
	_, err := b.DeleteEndpoint(context.Background(), admin, home, "fraud", Match{Revision: 1})
	if !online.IsCode(err, online.CodePrecondition) {
		t.Errorf("stale deletion: %v", err)
	}
	_, err = b.PutEndpoint(context.Background(), admin, home, "fraud", PutEndpoint{Match: Match{None: true}})
	if !online.IsCode(err, online.CodePrecondition) {
		t.Errorf("If-None-Match on what exists: %v", err)
	}
	_, err = b.PutEndpoint(context.Background(), admin, home, "absent", PutEndpoint{Match: Match{Exists: true}})
	if !online.IsCode(err, online.CodePrecondition) {
		t.Errorf("If-Match: * on nothing: %v", err)
	}
}

func revisionOf(t testing.TB, etag string) int64 {
	t.Helper()
	var n int64
	if _, err := fmt.Sscanf(etag, `"%d"`, &n); err != nil {
		t.Fatalf("ETag %s: %v", etag, err)
	}
	return n
}

func TestListing(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	for i := range 7 {
		tags := map[string]string{"n": fmt.Sprint(i % 2)}
		if _, err := b.PutEndpoint(ctx, admin, home, fmt.Sprintf("e-%d", (i*3)%7),
			PutEndpoint{Spec: online.EndpointSpec{Tags: tags}}); err != nil {
			t.Fatal(err)
		}
	}
	names := func(q ListQuery) string {
		t.Helper()
		var all []string
		for range 10 {
			l, err := b.ListEndpoints(ctx, admin, home, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range l.Items {
				all = append(all, e.Meta.ID.Name[2:])
			}
			if q.Skip = l.Next; q.Skip == "" {
				break
			}
			all = append(all, "|")
		}
		return strings.Join(all, "")
	}
	for _, c := range []struct {
		q    ListQuery
		want string
	}{
		{ListQuery{}, "0123456"},
		{ListQuery{Limit: 3}, "012|345|6"},
		{ListQuery{Limit: 7}, "0123456"},
		{ListQuery{OrderBy: ByCreatedAsc, Limit: 4}, "0362|514"},
		{ListQuery{OrderBy: ByCreatedDesc, Limit: 5}, "41526|30"},
		{ListQuery{Tags: map[string]string{"n": "1"}}, "123"},
		{ListQuery{Tags: map[string]string{"n": ""}, Name: "E-4"}, "4"},
		{ListQuery{Tags: map[string]string{"x": ""}}, ""},
		{ListQuery{Compute: "Kubernetes"}, ""},
	} {
		if got := names(c.q); got != c.want {
			t.Errorf("%+v: %s, want %s", c.q, got, c.want)
		}
	}
	for _, q := range []ListQuery{{Skip: "garbage"}, {Limit: MaxPage + 1}} {
		if _, err := b.ListEndpoints(ctx, admin, home, q); !online.IsCode(err, online.CodeBadArgument) {
			t.Errorf("%+v: %v", q, err)
		}
	}
	// A page token goes on at the right place although its entry is gone.
	l, _ := b.ListEndpoints(ctx, admin, home, ListQuery{Limit: 3})
	if _, err := b.DeleteEndpoint(ctx, admin, home, "e-2", Match{}); err != nil {
		t.Fatal(err)
	}
	b.Settle()
	if got := names(ListQuery{Skip: l.Next}); got != "3456" {
		t.Errorf("after the entry of the token was deleted: %s", got)
	}
}

// fullStore answers every write as a full disk does.
type fullStore struct{ store.Store }

func (fullStore) Update(context.Context, func(store.Tx) error) error {
	return fmt.Errorf("commit: %w", store.ErrFull)
}

func TestFullDiskIsServiceUnavailable(t *testing.T) {
	b := newBench(t)
	b.mustEndpoint("fraud", nil)
	b.Store = fullStore{b.Store}
	_, err := b.endpoint("second", nil)
	wantError(t, err, online.CodeServiceUnavailable, "", "free space")
	if _, err := b.GetEndpoint(context.Background(), admin, home, "fraud"); err != nil {
		t.Errorf("reading on a full disk: %v", err)
	}
}
