package arm

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"portico/internal/online"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs:\n%s", name, got)
	}
}

var (
	noon = time.Date(2026, 11, 23, 12, 0, 0, 123456700, time.UTC)
	ws   = online.WorkspaceID{Subscription: "s", ResourceGroup: "g", Name: "w"}
)

func metaOf(id online.ID, state online.ProvisioningState) Meta {
	return Meta{ID: id, UID: "u-1", ETag: `"7"`, State: state, CreatedAt: noon, CreatedBy: "ada",
		UpdatedAt: noon.Add(time.Minute), UpdatedBy: "bob"}
}

func read(t *testing.T, name string, into any) {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := Decode(doc, into)
	if err != nil || len(unknown) > 0 {
		t.Fatalf("%s: unknown %v, %v", name, unknown, err)
	}
}

// TestGoldenEndpoint reads the request of the Python SDK's endpoint PUT and renders what the service answers.
func TestGoldenEndpoint(t *testing.T) {
	var e Endpoint
	read(t, "endpoint.request.json", &e)
	spec, faults := e.Domain()
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	spec.Default()
	extra := map[string]string{PropertyEndpointID: "/subscriptions/s/..."}
	identity := Identity{Type: spec.Identity.Type, PrincipalID: metaOf(ws.Endpoint("fraud"), online.StateFailed).UID,
		TenantID: "11111111-2222-3333-4444-555555555555"}
	golden(t, "endpoint.creating.json", NewEndpoint(metaOf(ws.Endpoint("fraud"), online.StateCreating), spec, identity,
		"", "", extra, nil))
	golden(t, "endpoint.failed.json", NewEndpoint(metaOf(ws.Endpoint("fraud"), online.StateFailed), spec, identity,
		"https://h/endpoints/fraud/score",
		"https://h/endpoints/fraud/swagger.json", extra, online.Errorf(online.CodeOutOfQuota, "", "no room")))
}

// TestGoldenDeployment does the same for a deployment with every member set; sending the answer back changes nothing.
func TestGoldenDeployment(t *testing.T) {
	var d Deployment
	read(t, "deployment.request.json", &d)
	r, faults := d.Domain()
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	r.Spec.Default()
	r.Spec.Model = &online.AssetRef{Workspace: ws, Kind: online.KindModel, Name: "m", Version: "1"}
	r.Spec.Code = &online.AssetRef{Workspace: ws, Kind: online.KindCode, Name: "c", Version: "1"}
	r.Spec.Environment = &online.AssetRef{Workspace: ws, Kind: online.KindEnvironment, Name: "e", Version: "1"}
	status := online.DeploymentStatus{ObservedGeneration: 1, State: online.StateFailed,
		Error: &online.Error{Code: online.CodeResourceNotReady, Message: "init raised ValueError"},
		Stages: []online.Stage{{Name: online.StageEnvironment, State: "Succeeded", Start: noon,
			End: noon.Add(time.Second)}, {Name: online.StageStart, State: "Failed", Detail: "exit 3"}},
		Instances: []online.InstanceStatus{{ID: "i-1", Generation: 1, State: online.InstanceStarting, Restarts: 2,
			Reason: "init raised ValueError"}}}
	answer := NewDeployment(metaOf(ws.Deployment("fraud", "blue"), online.StateFailed), r.Spec, status, nil)
	golden(t, "deployment.failed.json", answer)

	doc, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	var back Deployment
	if unknown, err := Decode(doc, &back); err != nil || len(unknown) > 0 {
		t.Fatalf("the answer as a request: unknown %v, %v", unknown, err)
	}
	again, faults := back.Domain()
	again.Spec.Model, again.Spec.Code, again.Spec.Environment = r.Spec.Model, r.Spec.Code, r.Spec.Environment
	again.Spec.Default()
	was, _ := json.Marshal(r.Spec)
	is, _ := json.Marshal(again.Spec)
	if len(faults) > 0 || string(was) != string(is) {
		t.Errorf("sent back, the answer means\n%s\nand the request meant\n%s\n%v", is, was, faults)
	}
	golden(t, "revision.json", NewRevision(RevisionMeta{Number: 7, Generation: 1, UID: "u-1", At: noon, By: "ada",
		Why: "create", InForce: true}, r.Spec))
}

func TestGoldenAssets(t *testing.T) {
	for _, c := range []struct {
		kind online.Kind
		name string
	}{{online.KindModel, "model"}, {online.KindCode, "code"}, {online.KindEnvironment, "environment"}, {online.KindData,
		"data"}} {
		var a Asset
		read(t, c.name+".request.json", &a)
		spec, faults := a.Domain(c.kind)
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		spec.Digest = map[bool]string{true: "sha256:0123"}[c.kind == online.KindModel || c.kind == online.KindCode]
		golden(t, c.name+".json", NewAsset(metaOf(ws.Asset(c.kind, "x", "1"), online.StateSucceeded), spec))
	}
	golden(t, "container.json", NewAssetContainer(metaOf(ws.Asset(online.KindModel, "", "x"), online.StateSucceeded),
		online.AssetSpec{}, "9", NextVersion([]string{"9", "10", "v2"})))
}

func TestGoldenRest(t *testing.T) {
	golden(t, "workspace.json", NewWorkspace(metaOf(ws.ID(), online.StateSucceeded),
		online.WorkspaceSpec{Location: "local", Tags: map[string]string{"a": "b"}}))
	golden(t, "datastore.json", NewDatastore(metaOf(ws.ID(), online.StateSucceeded), "workspaceblobstore", "portico",
		"azureml-blobstore-1", "h:8443/blobs"))
	op := online.Operation{ID: "o-1", Target: ws.Deployment("fraud", "blue"), Action: "write",
		State: online.OperationRunning, Start: noon}
	stages := []online.Stage{{Name: online.StageEnvironment, State: "Succeeded", Start: noon, End: noon},
		{Name: online.StageStart, State: "InProgress", Start: noon}}
	golden(t, "operation.running.json", NewOperationStatus("/path", &op, stages))
	op.State, op.End = online.OperationFailed, noon.Add(time.Minute)
	op.Error = &online.Error{Code: online.CodeBadArgument, Message: "2 fields are not valid",
		Details: []online.Error{{Code: online.CodeBadArgument, Message: "a", Target: "t"}}}
	golden(t, "operation.failed.json", NewOperationStatus("/path", &op, nil))
	golden(t, "error.json", NewErrorBody(op.Error, "r-1"))
	golden(t, "page.json", NewPage([]string{"a"}, "https://next"))
	golden(t, "page.empty.json", NewPage[string](nil, ""))
	golden(t, "activity.json", NewActivity(online.Activity{Time: noon, Principal: "ada",
		Action: TypeOf(ws.Endpoint("x")) + "/write", Target: ws.Endpoint("fraud"), Outcome: "Accepted"}))
}
