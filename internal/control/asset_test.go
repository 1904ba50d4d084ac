package control

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"portico/internal/artifact"
	"portico/internal/online"
	"portico/internal/store"
)

func TestAssetVersionsNeverChange(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	files := map[string]string{"model.pkl": "weights"}
	uri := b.upload(online.KindModel, files)
	out := b.register(online.KindModel, "m", "1", online.AssetSpec{URI: uri + "?sig=secret", DataType: "custom_model"})
	a := out.Resource
	if !out.Created || !strings.HasPrefix(a.Spec.Digest,
		"sha256:") || a.Spec.Path != "src" || a.Spec.IsFile || strings.Contains(a.Spec.URI, "sig") {
		t.Fatalf("registered %+v", a.Spec)
	}
	if left := b.Uploads.List(strings.Split(strings.TrimPrefix(uri, "https://host:8443/blobs/"), "/")[0]+"/", "",
		10); len(left) != 0 {
		t.Errorf("the upload still holds %v", left)
	}
	// The same address again, though the upload is gone: a lost answer may be asked for again.
	if again := b.register(online.KindModel, "m", "1", online.AssetSpec{URI: uri,
		DataType: "custom_model"}); again.Created || again.Resource.Meta.ETag != a.Meta.ETag {
		t.Errorf("repeated: %+v", again)
	}
	// The same content from elsewhere is the same version.
	b.register(online.KindModel, "m", "1", online.AssetSpec{URI: b.upload(online.KindModel, files),
		DataType: "custom_model"})
	other := online.AssetSpec{URI: b.upload(online.KindModel, map[string]string{"model.pkl": "others"}),
		DataType: "custom_model"}
	_, err := b.PutAsset(ctx, admin, home, online.KindModel, "m", "1", PutAsset{Spec: other})
	if !online.IsCode(err, online.CodeConflict) {
		t.Errorf("other content: %v", err)
	}
	// Words and the archived mark may change.
	words := a.Spec
	words.Description, words.IsArchived, words.Tags = "old", true, map[string]string{"k": "v"}
	if out := b.register(online.KindModel, "m", "1",
		words); out.Resource.Spec.Description != "old" || out.Resource.Spec.Digest != a.Spec.Digest {
		t.Errorf("changed words: %+v", out.Resource.Spec)
	}
	// Not even after deletion can the number mean something else.
	if found, err := b.DeleteAsset(ctx, admin, home, online.KindModel, "m", "1", Match{}); err != nil || !found {
		t.Fatal(found, err)
	}
	other.URI = b.upload(online.KindModel, map[string]string{"model.pkl": "others"})
	if _, err = b.PutAsset(ctx, admin, home, online.KindModel, "m", "1", PutAsset{Spec: other}); !online.IsCode(err,
		online.CodeConflict) {
		t.Errorf("other content after deletion: %v", err)
	}
	if c, err := b.GetContainer(ctx, admin, home, online.KindModel, "m"); err != nil || c.Next != "2" || c.Latest != "" {
		t.Errorf("container %+v, %v", c, err)
	}
	b.register(online.KindModel, "m", "1", online.AssetSpec{URI: b.upload(online.KindModel, files),
		DataType: "custom_model"})
}

func TestBadAssets(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	other := online.WorkspaceID{Subscription: "sub", ResourceGroup: "group", Name: "other"}
	if _, err := b.PutWorkspace(ctx, admin, other, online.WorkspaceSpec{}, Match{}); err != nil {
		t.Fatal(err)
	}
	foreign, err := b.StartPendingUpload(ctx, admin, other, online.KindModel, "m", "1")
	if err != nil {
		t.Fatal(err)
	}
	one := b.upload(online.KindCode, map[string]string{"score.py": "x"})
	before := b.revision()
	for _, c := range []struct {
		what          string
		kind          online.Kind
		name, version string
		spec          online.AssetSpec
		target, part  string
	}{
		{"no location", online.KindModel, "m", "1", online.AssetSpec{}, "properties.modelUri", "required"},
		{"a file here", online.KindModel, "m", "1", online.AssetSpec{URI: "file:///etc/passwd"}, "properties.modelUri",
			"this server can read"},
		{"elsewhere", online.KindModel, "m", "1", online.AssetSpec{URI: "https://example.org/x"}, "properties.modelUri",
			"not an upload of this workspace"},
		{"nothing there", online.KindModel, "m", "1",
			online.AssetSpec{URI: "azureml://datastores/workspaceblobstore/paths/LocalUpload/x"}, "properties.modelUri", "nothing was uploaded"},
		{"climbing", online.KindModel, "m", "1",
			online.AssetSpec{URI: "azureml://datastores/workspaceblobstore/paths/../x"}, "properties.modelUri", "invalid path"},
		{"other datastore", online.KindModel, "m", "1", online.AssetSpec{URI: "azureml://datastores/mine/paths/x"},
			"properties.modelUri", "datastore"},
		{"other workspace's upload", online.KindModel, "m", "1",
			online.AssetSpec{URI: "https://h" + BlobPath + foreign.Container + "/src"}, "properties.modelUri", "this workspace"},
		{"code that is a file", online.KindCode, "c", "1", online.AssetSpec{URI: one + "/score.py"},
			"properties.codeUri", "folder"},
		{"bad name", online.KindModel, "a/b", "1", online.AssetSpec{URI: one}, "name", "a/b"},
		{"bad version", online.KindModel, "m", "1 2", online.AssetSpec{URI: one}, "version", "1 2"},
		{"empty environment", online.KindEnvironment, "e", "1",
			online.AssetSpec{Environment: &online.EnvironmentSpec{}}, "properties", "condaFile"},
		{"bad conda file", online.KindEnvironment, "e", "1",
			online.AssetSpec{Environment: &online.EnvironmentSpec{CondaFile: "- ]"}}, "properties.condaFile", "YAML"},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, err := b.PutAsset(ctx, admin, home, c.kind, c.name, c.version, PutAsset{Spec: c.spec})
			wantError(t, err, online.CodeBadArgument, c.target, c.part)
		})
	}
	if after := b.revision(); after != before {
		t.Errorf("refused commands changed the store: revision %d, then %d", before, after)
	}
}

func TestDatastoreUploadIsKept(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	d, err := b.GetDatastore(ctx, admin, home, "WorkspaceBlobStore")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Uploads.View(OwnerOf(admin.Principal)).Put(ctx, d.Container+"/LocalUpload/h/model.pkl", strings.NewReader("w"),
		artifact.PutOptions{Size: 1, MaxBytes: 9}); err != nil {
		t.Fatal(err)
	}
	const uri = "azureml://subscriptions/SUB/resourcegroups/group/workspaces/home/datastores/workspaceblobstore/paths/LocalUpload/h/model.pkl"
	for _, v := range []string{"1", "2"} {
		out := b.register(online.KindModel, "m", v, online.AssetSpec{URI: uri, DataType: "custom_model"})
		if !out.Resource.Spec.IsFile || out.Resource.Spec.Path != "model.pkl" {
			t.Errorf("%+v", out.Resource.Spec)
		}
	}
	if _, err := b.GetDatastore(ctx, admin, home, "mine"); !online.IsCode(err, online.CodeNotFound) {
		t.Errorf("other datastore: %v", err)
	}
}

func TestGrants(t *testing.T) {
	dir := t.TempDir()
	b := openBench(t, dir)
	up, err := b.StartPendingUpload(context.Background(), admin, home, online.KindModel, "m", "1")
	if err != nil {
		t.Fatal(err)
	}
	verify := func(s *Service, change func(url.Values), container string) (Grant, error) {
		q, err := url.ParseQuery(up.Query)
		if err != nil {
			t.Fatal(err)
		}
		change(q)
		return s.VerifyGrant(q, container)
	}
	same := func(url.Values) {}
	g, err := verify(b.Service, same, up.Container)
	if err != nil || !g.Allows(up.Container, "w") || g.Allows(up.Container, "d") || g.Allows("other", "r") ||
		g.Owner != OwnerOf(admin.Principal) {
		t.Fatalf("grant %+v, %v", g, err)
	}
	for what, change := range map[string]func(url.Values){
		"more permissions": func(q url.Values) { q.Set("sp", "rcwld") },
		"longer":           func(q url.Values) { q.Set("se", "2099-01-01T00:00:00Z") },
		"other owner":      func(q url.Values) { q.Set("skoid", OwnerOf(online.System)) },
		"no signature":     func(q url.Values) { q.Del("sig") },
		"other version":    func(q url.Values) { q.Set("sv", "2020-01-01") },
	} {
		if _, err := verify(b.Service, change, up.Container); !online.IsCode(err, online.CodeForbidden) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := verify(b.Service, same, "other"); !online.IsCode(err, online.CodeForbidden) {
		t.Errorf("other container: %v", err)
	}
	b.Pass(GrantLifetime)
	if _, err := verify(b.Service, same, up.Container); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("after its time: %v", err)
	}
}

func TestWorkspaces(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	w := online.WorkspaceID{Subscription: "sub", ResourceGroup: "group", Name: "Second"}
	out, err := b.PutWorkspace(ctx, admin, w, online.WorkspaceSpec{Location: "mars"}, Match{})
	if err != nil || !out.Created || out.Resource.Spec.Location != "mars" {
		t.Fatalf("%+v, %v", out, err)
	}
	_, err = b.PutWorkspace(ctx, admin, w, online.WorkspaceSpec{Location: "venus"}, Match{})
	wantError(t, err, online.CodeBadArgument, "location", "cannot change")
	_, err = b.PutWorkspace(ctx, admin, online.WorkspaceID{Subscription: "s", ResourceGroup: "g", Name: "a b"},
		online.WorkspaceSpec{}, Match{})
	wantError(t, err, online.CodeBadArgument, "id", "a b")
	if l, err := b.ListWorkspaces(ctx, admin, "SUB", "", ListQuery{}); err != nil || len(l.Items) != 2 {
		t.Fatalf("%d workspaces, %v", len(l.Items), err)
	}
	if _, err := b.PutEndpoint(ctx, admin, w, "fraud", PutEndpoint{}); err != nil {
		t.Fatal(err)
	}
	_, err = b.DeleteWorkspace(ctx, admin, w, Match{})
	if !online.IsCode(err, online.CodeConflict) {
		t.Errorf("deletion of a workspace in use: %v", err)
	}
	if _, err := b.DeleteEndpoint(ctx, admin, w, "fraud", Match{}); err != nil {
		t.Fatal(err)
	}
	b.Settle()
	if found, err := b.DeleteWorkspace(ctx, admin, w, Match{}); err != nil || !found {
		t.Errorf("deletion: %v, %v", found, err)
	}
	if _, err := b.DeleteWorkspace(ctx, admin, home, Match{}); !online.IsCode(err, online.CodeConflict) {
		t.Errorf("deletion of the default workspace: %v", err)
	}
}

// TestAssetsOfASetThatStillServes deletes what only an older generation names: it is in use while that one serves.
func TestAssetsOfASetThatStillServes(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	b.assets()
	b.register(online.KindModel, "m", "2", online.AssetSpec{URI: b.upload(online.KindModel, map[string]string{"model.pkl": "new"})})
	b.mustEndpoint("fraud", nil)
	d := b.mustDeployment("fraud", "blue")
	status := func(current *online.SetStatus) {
		t.Helper()
		doc, err := json.Marshal(online.DeploymentStatus{ObservedGeneration: 1, State: online.StateSucceeded, Current: current})
		if err != nil {
			t.Fatal(err)
		}
		err = b.Store.Update(ctx, func(tx store.Tx) error { return tx.PutStatus(d.Meta.ID, d.Meta.UID, doc) })
		if err != nil {
			t.Fatal(err)
		}
	}
	status(&online.SetStatus{ID: "s", Generation: 1, Count: 1})
	req := request()
	req.Model = "azureml:m:2"
	if _, err := b.PutDeployment(ctx, admin, home, "fraud", "blue", PutDeployment{Request: req}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.DeleteAsset(ctx, admin, home, online.KindModel, "m", "1", Match{}); !online.IsCode(err, online.CodeConflict) {
		t.Errorf("the model of the set that serves: %v", err)
	}
	status(&online.SetStatus{ID: "s2", Generation: 2, Count: 1})
	if _, err := b.DeleteAsset(ctx, admin, home, online.KindModel, "m", "1", Match{}); err != nil {
		t.Errorf("the model of a set that is gone: %v", err)
	}
	if _, err := b.DeleteAsset(ctx, admin, home, online.KindModel, "m", "2", Match{}); !online.IsCode(err, online.CodeConflict) {
		t.Errorf("the model of the newest set: %v", err)
	}
}
