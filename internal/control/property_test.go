package control

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"portico/internal/online"
	"portico/internal/store"
)

// TestCommandsKeepTheRules gives random commands in random order, with reconcile catching up at random moments, and
// looks after each one whether everything that must always hold still does.
func TestCommandsKeepTheRules(t *testing.T) {
	b := newBench(t)
	b.assets()
	second := online.WorkspaceID{Subscription: "sub", ResourceGroup: "group", Name: "second"}
	if _, err := b.PutWorkspace(context.Background(), admin, second, online.WorkspaceSpec{}, Match{}); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{bench: b, workspaces: []online.WorkspaceID{home, second}}
		t.Repeat(map[string]func(*rapid.T){
			"":                 m.check,
			"putEndpoint":      m.putEndpoint,
			"putDeployment":    m.putDeployment,
			"deleteDeployment": m.deleteDeployment,
			"deleteEndpoint":   m.deleteEndpoint,
			"rollback":         m.rollback,
			"scale":            m.scale,
			"settle":           func(*rapid.T) { m.Settle() },
		})
	})
}

type machine struct {
	*bench
	workspaces []online.WorkspaceID
}

func (m *machine) where(t *rapid.T) (online.WorkspaceID, string) {
	return rapid.SampledFrom(m.workspaces).Draw(t, "workspace"), rapid.SampledFrom([]string{"alpha", "Beta"}).Draw(t,
		"endpoint")
}

func deploymentName(t *rapid.T) string {
	return rapid.SampledFrom([]string{"blue", "GREEN", "red"}).Draw(t, "deployment")
}

// expected fails on an error that is not one a person can act on.
func expected(t *rapid.T, err error) {
	if _, ok := online.AsError(err); err != nil && !ok {
		t.Fatalf("an internal error: %v", err)
	}
	if online.IsCode(err, online.CodeInternalServerError) {
		t.Fatalf("an internal error: %v", err)
	}
}

func (m *machine) putEndpoint(t *rapid.T) {
	w, name := m.where(t)
	traffic := rapid.MapOf(rapid.SampledFrom([]string{"blue", "green", "Green", "red", "none"}),
		rapid.SampledFrom([]int{-10, 0, 10, 50, 90, 100})).Draw(t, "traffic")
	_, err := m.PutEndpoint(context.Background(), admin, w, name,
		PutEndpoint{Spec: online.EndpointSpec{Traffic: traffic}})
	expected(t, err)
}

func (m *machine) putDeployment(t *rapid.T) {
	w, endpoint := m.where(t)
	req := request()
	req.Spec.InstanceCount = rapid.IntRange(-1, 60).Draw(t, "count")
	req.Model = "/subscriptions/sub/resourceGroups/group/providers/Microsoft.MachineLearningServices/workspaces/home/models/m/versions/1"
	req.Code = strings.Replace(req.Model, "models/m", "codes/c", 1)
	req.Environment = strings.Replace(req.Model, "models/m", "environments/e", 1)
	_, err := m.PutDeployment(context.Background(), admin, w, endpoint, deploymentName(t), PutDeployment{Request: req})
	expected(t, err)
}

func (m *machine) scale(t *rapid.T) {
	w, endpoint := m.where(t)
	n := rapid.IntRange(-1, 60).Draw(t, "count")
	_, err := m.PatchDeployment(context.Background(), admin, w, endpoint, deploymentName(t),
		PatchDeployment{Capacity: &n})
	expected(t, err)
}

func (m *machine) deleteDeployment(t *rapid.T) {
	w, endpoint := m.where(t)
	_, err := m.DeleteDeployment(context.Background(), admin, w, endpoint, deploymentName(t), Match{})
	expected(t, err)
}

func (m *machine) deleteEndpoint(t *rapid.T) {
	w, endpoint := m.where(t)
	_, err := m.DeleteEndpoint(context.Background(), admin, w, endpoint, Match{})
	expected(t, err)
}

func (m *machine) rollback(t *rapid.T) {
	w, endpoint := m.where(t)
	_, err := m.Rollback(context.Background(), admin, w, endpoint, deploymentName(t), 0, Match{})
	expected(t, err)
}

// check looks at everything that is stored.
func (m *machine) check(t *rapid.T) {
	err := m.Store.View(context.Background(), func(r store.Reader) error {
		endpoints, err := store.List[online.EndpointSpec, online.EndpointStatus](r, kindPrefix(online.KindEndpoint),
			store.Page{})
		if err != nil {
			return err
		}
		deployments, err := store.List[online.DeploymentSpec, online.DeploymentStatus](r,
			kindPrefix(online.KindDeployment), store.Page{})
		if err != nil {
			return err
		}
		return checkRules(r, endpoints, deployments)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkRules(r store.Reader, endpoints []*store.Endpoint, deployments []*store.Deployment) error {
	names, behind := map[string]*store.Endpoint{}, map[string]*store.Deployment{}
	for _, e := range endpoints {
		name := strings.ToLower(e.ID.Name)
		if names[name] != nil {
			return fmt.Errorf("the endpoint name %s is there twice", name)
		}
		names[name] = e
		keys, err := readKeys(r, e.UID)
		if err != nil || len(keys.Primary) < minKeyLength || len(keys.Secondary) < minKeyLength {
			return fmt.Errorf("endpoint %s has no keys: %w", name, err)
		}
	}
	for _, d := range deployments {
		parent := names[strings.ToLower(d.ID.Parent)]
		switch {
		case parent == nil:
			return fmt.Errorf("deployment %s has no endpoint", d.ID.Key())
		case !parent.Deleting.IsZero() && d.Deleting.IsZero():
			return fmt.Errorf("deployment %s stays behind a deleted endpoint", d.ID.Key())
		case d.Spec.InstanceCount < 1 || d.Spec.InstanceCount > online.MaxInstances:
			return fmt.Errorf("deployment %s has %d instances", d.ID.Key(), d.Spec.InstanceCount)
		case d.ID.Name != strings.ToLower(d.ID.Name):
			return fmt.Errorf("deployment %s is not kept in lower case", d.ID.Name)
		}
		behind[d.ID.Key()] = d
		if err := runningOperation(r, d.Record,
			d.Generation > d.Status.ObservedGeneration || !d.Deleting.IsZero()); err != nil {
			return err
		}
	}
	for _, e := range endpoints {
		if sum := e.Spec.Traffic.Sum(); sum != 0 && sum != 100 {
			return fmt.Errorf("traffic of %s adds up to %d", e.ID.Name, sum)
		}
		for name, share := range e.Spec.Traffic {
			d := behind[e.ID.Workspace.Deployment(e.ID.Name, name).Key()]
			if share <= 0 || d == nil || e.Deleting.IsZero() && !d.Deleting.IsZero() {
				return fmt.Errorf("endpoint %s sends %d %% to %s, which is %v", e.ID.Name, share, name, d)
			}
		}
		if err := runningOperation(r, e.Record,
			e.Generation > e.Status.ObservedGeneration || !e.Deleting.IsZero()); err != nil {
			return err
		}
	}
	return nil
}

// runningOperation checks that a resource has an operation exactly when something is still to be done for it.
func runningOperation(r store.Reader, rec store.Record, wanted bool) error {
	ops, err := r.Operations(rec.UID, true)
	if err != nil {
		return err
	}
	if wanted != (len(ops) > 0) {
		return fmt.Errorf("%s has %d running operations; something to do: %v", rec.ID.Key(), len(ops), wanted)
	}
	return nil
}
