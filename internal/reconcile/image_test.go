package reconcile

import (
	"io"
	"testing"
	"time"

	"portico/internal/online"
	"portico/internal/store"
)

// TestPrepareImage: a deployment of an image asks for the image of its environment version, and its template runs it.
func TestPrepareImage(t *testing.T) {
	env := asked{program: []string{"serve"}}
	var log buffer
	p := &preparations{env: &env, artifacts: artifacts{}, now: time.Now, done: func(online.ID) {},
		log: func(string) (io.WriteCloser, error) { return &log, nil }}
	d := &store.Deployment{Spec: online.DeploymentSpec{
		Runtime: online.RuntimeServer, Image: "localhost/server:1", InstanceType: "Standard_DS3_v2",
		Environment: &online.AssetRef{Kind: online.KindEnvironment, Name: "server", Version: "7"},
	}}
	out, _, fault := p.run(t.Context(), &preparation{}, d, map[online.Kind]*online.AssetSpec{
		online.KindEnvironment: {Environment: &online.EnvironmentSpec{Image: "localhost/server:1"}}})
	if fault != nil {
		t.Fatal(fault)
	}
	if env.image != "localhost/server:1" || env.version.Parent != "server" || env.version.Name != "7" {
		t.Errorf("asked for %q of %+v", env.image, env.version)
	}
	set := &online.SetStatus{ID: "s"}
	got, err := template(d, set, out, online.Catalogue{Types: []online.InstanceType{{Name: "Standard_DS3_v2"}}})
	if err != nil || got.Server == nil || got.Server.Image == nil || got.Server.Image.Tree != "/tree" || got.Server.Command != nil || got.Workers != 1 {
		t.Errorf("%+v, %v", got.Server, err)
	}
	env.program = nil
	images := map[online.Kind]*online.AssetSpec{online.KindEnvironment: {Environment: &online.EnvironmentSpec{Image: "localhost/server:1"}}}
	if _, _, fault = p.run(t.Context(), &preparation{}, d, images); fault == nil || fault.Code != online.CodeImageBuildFailure {
		t.Errorf("without a program: %v", fault)
	}
	named := *d
	named.Spec.Command = "serve"
	if _, _, fault = p.run(t.Context(), &preparation{}, &named, images); fault != nil {
		t.Errorf("with a command: %v", fault)
	}
	other := d.Spec
	other.Image = "localhost/server:2"
	if Digest(&d.Spec) == Digest(&other) {
		t.Error("another image starts nothing")
	}
}
