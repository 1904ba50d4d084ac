package control

import (
	"context"
	"testing"

	"portico/internal/online"
)

// TestMLflowDeployments: what the official SDK sends for Model(path="./mlflow-model") is a custom_model without code
// and without environment; the tree tells what it is.
func TestMLflowDeployments(t *testing.T) {
	const pyfunc = "flavors:\n  python_function:\n    env: conda.yaml\n"
	const conda = "dependencies:\n- python=3.11\n- pip:\n  - mlflow==3.1.0\n"
	b := newBench(t)
	b.assets()
	b.register(online.KindEnvironment, "image", "1", online.AssetSpec{Environment: &online.EnvironmentSpec{Image: "x"}})
	b.mustEndpoint("fraud", nil)
	for name, c := range map[string]struct {
		files       map[string]string
		kind        string
		environment string
		code        online.Code // of the refusal; empty: accepted
		target      string
		text        string
	}{
		"custom":    {files: map[string]string{"MLmodel": pyfunc, "conda.yaml": conda}},
		"declared":  {files: map[string]string{"MLmodel": pyfunc, "conda.yaml": conda}, kind: "mlflow_model"},
		"subfolder": {files: map[string]string{"run/MLmodel": pyfunc, "run/conda.yaml": conda}},
		"named": { // what the model asks for could not be built, and is not
			files: map[string]string{"MLmodel": pyfunc}, environment: "azureml:e:1"},
		"image": {
			files: map[string]string{"MLmodel": pyfunc}, environment: "azureml:image:1",
			code: online.CodeNotImplemented, target: "properties.environmentId", text: "image"},
		"unbuildable": {
			files: map[string]string{"MLmodel": pyfunc, "conda.yaml": "dependencies: [{pip: [./x.whl]}]"},
			code:  online.CodeBadArgument, target: "properties.model", text: "cannot be built"},
		"pyfunc": {
			files: map[string]string{"MLmodel": "flavors: {keras: {}}"},
			code:  online.CodeBadArgument, target: "properties.model", text: "no python_function flavor"},
		"untrue": {
			files: map[string]string{"model.pkl": "x"}, kind: "mlflow_model",
			code: online.CodeBadArgument, target: "properties.model", text: "no MLmodel file"},
		"other": {
			files: map[string]string{"model.pkl": "x"},
			code:  online.CodeNotImplemented, target: "properties.codeConfiguration", text: "needs an MLflow or ONNX model"},
	} {
		b.register(online.KindModel, name, "1", online.AssetSpec{URI: b.upload(online.KindModel, c.files), DataType: c.kind})
		req := request()
		req.Model, req.Code, req.Environment, req.Spec.ScoringScript = "azureml:"+name+":1", "", c.environment, ""
		out, err := b.PutDeployment(context.Background(), admin, home, "fraud", name, PutDeployment{Request: req})
		if c.code != "" {
			wantError(t, err, c.code, c.target, c.text)
			continue
		}
		if err != nil || out.Resource.Spec.Runtime != online.RuntimeMLflow || out.Resource.Spec.Code != nil {
			t.Errorf("%s: %+v, %v", name, out.Resource.Spec, err)
		}
	}
	// With a script it is a script's deployment, whatever the model is.
	req := request()
	req.Model = "azureml:custom:1"
	out, err := b.PutDeployment(context.Background(), admin, home, "fraud", "scripted", PutDeployment{Request: req})
	if err != nil || out.Resource.Spec.Runtime != "" {
		t.Errorf("with a script: %+v, %v", out.Resource.Spec, err)
	}
}
