package control

import (
	"context"
	"errors"
	"testing"

	"portico/internal/arm"
	"portico/internal/online"
)

// TestImageDeployments: an environment that is an image and says where its server answers is run, with the image's own
// program or the deployment's command; what cannot be is refused by the PUT.
func TestImageDeployments(t *testing.T) {
	b := newBench(t)
	var missing error
	b.Images = func() error { return missing }
	b.assets()
	b.mustEndpoint("boxed", nil)
	routes := online.InferenceConfig{
		Liveness: online.Route{Path: "/live", Port: 80}, Readiness: online.Route{Path: "/ready", Port: 80}, Scoring: online.Route{Path: "/", Port: 80},
	}
	const image = "localhost/server:1"
	b.register(online.KindEnvironment, "server", "1", online.AssetSpec{Environment: &online.EnvironmentSpec{Image: image, InferenceConfig: routes}})
	b.register(online.KindEnvironment, "packages", "1", online.AssetSpec{Environment: &online.EnvironmentSpec{
		Image: image, InferenceConfig: routes, CondaFile: "dependencies: [python]"}})
	b.register(online.KindEnvironment, "half", "1", online.AssetSpec{Environment: &online.EnvironmentSpec{
		Image: image, InferenceConfig: online.InferenceConfig{Scoring: routes.Scoring}}})
	gpu := ""
	for _, i := range b.Catalogue.Types {
		if i.GPUs > 0 && i.GPUs <= b.Catalogue.GPUs {
			gpu = i.Name
		}
	}
	alone := func(r *arm.DeploymentRequest) { r.Model, r.Code, r.Spec.ScoringScript = "", "", "" }
	for name, c := range map[string]struct {
		environment string
		change      func(*arm.DeploymentRequest)
		missing     error
		image       string
		code        online.Code // of the refusal; empty: accepted
		target      string
		text        string
	}{
		"alone":       {environment: "server", change: alone, image: image},
		"with-code":   {environment: "server", change: func(r *arm.DeploymentRequest) { r.Spec.ScoringScript = "" }, image: image},
		"with-script": {environment: "server", change: func(*arm.DeploymentRequest) {}, image: image},
		"command": {environment: "server", image: image,
			change: func(r *arm.DeploymentRequest) { alone(r); r.Spec.Command = "/bin/serve --port {port}" }},
		"mount": {environment: "server", image: image,
			change: func(r *arm.DeploymentRequest) {
				r.Code, r.Spec.ScoringScript = "", ""
				r.Spec.ModelMountPath = "/opt/m"
			}},
		"packages": {environment: "packages", change: func(r *arm.DeploymentRequest) { alone(r); r.Spec.Command = "serve" }},
		"mount-proc": {environment: "server",
			change: func(r *arm.DeploymentRequest) {
				r.Code, r.Spec.ScoringScript = "", ""
				r.Spec.ModelMountPath = "/proc/m"
			},
			code: online.CodeBadArgument, target: "properties.modelMountPath", text: "where the system has"},
		"relative": {environment: "server", change: func(r *arm.DeploymentRequest) { alone(r); r.Spec.Command = "./serve" },
			code: online.CodeBadArgument, target: "properties.properties." + online.PropertyCommand, text: "in the image"},
		"half": {environment: "half", change: alone, code: online.CodeBadArgument, target: "properties.environmentId", text: "livenessRoute"},
		"missing": {environment: "server", change: alone, missing: errors.New("install podman"),
			code: online.CodeNotImplemented, target: "properties.environmentId", text: "install podman"},
	} {
		missing = c.missing
		req := request()
		req.Environment = "azureml:" + c.environment + ":1"
		c.change(&req)
		out, err := b.PutDeployment(context.Background(), admin, home, "boxed", name, PutDeployment{Request: req})
		if c.code != "" {
			wantError(t, err, c.code, c.target, c.text)
			continue
		}
		if err != nil || out.Resource.Spec.Runtime != online.RuntimeServer || out.Resource.Spec.Image != c.image || out.Resource.Spec.Inference != routes {
			t.Errorf("%s: %+v, %v", name, out.Resource.Spec, err)
		}
	}
	missing = nil
	if gpu != "" {
		req := request()
		alone(&req)
		req.Environment, req.Spec.InstanceType = "azureml:server:1", gpu
		_, err := b.PutDeployment(context.Background(), admin, home, "boxed", "gpu", PutDeployment{Request: req})
		wantError(t, err, online.CodeNotImplemented, "properties.instanceType", "GPUs")
	}
	b.Images = nil
	req := request()
	alone(&req)
	req.Environment = "azureml:server:1"
	_, err := b.PutDeployment(context.Background(), admin, home, "boxed", "never", PutDeployment{Request: req})
	wantError(t, err, online.CodeNotImplemented, "properties.environmentId", "cannot run on this machine")
}
