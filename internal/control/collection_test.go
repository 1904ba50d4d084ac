package control

import (
	"context"
	"strings"
	"testing"

	"portico/internal/arm"
	"portico/internal/online"
)

// TestCollections: an enabled collection has a data asset, the default one or one that was named, and its blobs lie where
// that says: in the workspace's own datastore and not where clients upload.
func TestCollections(t *testing.T) {
	b := newBench(t)
	b.assets()
	b.mustEndpoint("fraud", nil)
	ctx := context.Background()
	put := func(deployment, collection, data string, enabled bool) (Accepted[Deployment], error) {
		req := request()
		req.Spec.DataCollector = &online.DataCollector{RollingRate: "Day", Collections: []online.Collection{
			{Name: collection, Enabled: enabled, SamplingRate: 0.5}}}
		if data != "" {
			req.Data = map[string]string{collection: data}
		}
		return b.PutDeployment(ctx, admin, home, "fraud", deployment, PutDeployment{Request: req})
	}
	store, err := b.GetDatastore(ctx, admin, home, DatastoreName)
	if err != nil {
		t.Fatal(err)
	}
	asset := func(name, version, uri, kind string) {
		b.register(online.KindData, name, version, online.AssetSpec{URI: uri, DataType: kind})
	}
	const paths = "azureml://datastores/workspaceblobstore/paths/"

	for range 2 { // the second time the asset is there
		out, err := put("blue", "model_inputs", "", true)
		if err != nil {
			t.Fatal(err)
		}
		c := out.Resource.Spec.DataCollector.Collections[0]
		if c.Blobs != store.Container+"/modelDataCollector/fraud/blue/model_inputs" || c.Data == nil || c.Data.Name != "fraud-blue-model_inputs" {
			t.Errorf("%+v", c)
		}
	}
	if a, err := b.GetAsset(ctx, admin, home, online.KindData, "fraud-blue-model_inputs", "1"); err != nil ||
		a.Spec.DataType != "uri_folder" || a.Spec.URI != paths+"modelDataCollector/fraud/blue/model_inputs" {
		t.Errorf("the default data asset: %+v, %v", a.Spec, err)
	}
	if _, err := put("off", "model_inputs", "", false); err != nil {
		t.Error(err)
	}
	if _, err := b.GetAsset(ctx, admin, home, online.KindData, "fraud-off-model_inputs", "1"); !online.IsCode(err, online.CodeNotFound) {
		t.Errorf("a disabled collection has a data asset: %v", err)
	}
	// Joined by hyphens, the names of another deployment are the same.
	b.mustEndpoint("fraud-a", nil)
	b.mustEndpoint("fraud-a-b", nil)
	same := func(endpoint, deployment string) error {
		req := request()
		req.Spec.DataCollector = &online.DataCollector{RollingRate: "Day", Collections: []online.Collection{{Name: "in", Enabled: true, SamplingRate: 1}}}
		_, err := b.PutDeployment(ctx, admin, home, endpoint, deployment, PutDeployment{Request: req})
		return err
	}
	if err := same("fraud-a", "b-red"); err != nil {
		t.Error(err)
	}
	wantError(t, same("fraud-a-b", "red"), online.CodeBadArgument, "properties.dataCollector.collections.in.dataId", "fraud-a/b-red/in")

	asset("mine", "3", paths+"kept/here/", "uri_folder")
	out, err := put("green", "in", arm.FormatID(home.Asset(online.KindData, "mine", "3")), true)
	if err != nil || out.Resource.Spec.DataCollector.Collections[0].Blobs != store.Container+"/kept/here" {
		t.Errorf("%+v, %v", out.Resource.Spec.DataCollector, err)
	}

	asset("file", "1", paths+"x.jsonl", "uri_file")
	asset("upload", "1", paths+"LocalUpload/0123/x", "uri_folder")
	asset("far", "1", "https://example.com/x", "uri_folder")
	asset("long", "1", paths+strings.Repeat("x/", 300)+"x", "uri_folder")
	for ref, text := range map[string]string{
		"azureml:none:1": "does not exist", "azureml:file:1": "uri_file", "azureml:upload:1": "where clients upload",
		"azureml:far:1": "not an upload of this workspace", "azureml:long:1": "longer than",
	} {
		_, err := put("red", "in", ref, true)
		wantError(t, err, online.CodeBadArgument, "properties.dataCollector.collections.in.dataId", text)
	}
}
