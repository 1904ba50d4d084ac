package control

import (
	"context"
	"errors"
	"testing"
	"time"

	"portico/internal/online"
)

// TestONNXDeployments: the tree tells whether ONNX Runtime serves a model, and what does not fit is said to the PUT.
func TestONNXDeployments(t *testing.T) {
	const both = "flavors:\n  python_function:\n    env: conda.yaml\n  onnx:\n    data: model.onnx\n"
	b := newBench(t)
	var missing error
	b.ONNXRuntime = func() error { return missing }
	b.assets()
	b.mustEndpoint("fraud", nil)
	for name, c := range map[string]struct {
		files       map[string]string
		kind        string
		environment string
		types       string
		batching    *online.Batching
		collector   *online.DataCollector
		missing     error
		runtime     online.Runtime
		code        online.Code // of the refusal; empty: accepted
		target      string
		text        string
	}{
		"file":       {files: map[string]string{"iris.onnx": "x"}, runtime: online.RuntimeONNX},
		"folder":     {files: map[string]string{"iris/iris.onnx": "x", "iris/iris.onnx.data": "x"}, runtime: online.RuntimeONNX},
		"repository": {files: map[string]string{"iris/1/model.onnx": "x"}, kind: "triton_model", runtime: online.RuntimeONNX},
		"saved":      {files: map[string]string{"MLmodel": both, "model.onnx": "x"}, kind: "mlflow_model", runtime: online.RuntimeONNX},
		"only":       {files: map[string]string{"MLmodel": "flavors: {onnx: {}}", "model.onnx": "x"}, runtime: online.RuntimeONNX},
		"python":     {files: map[string]string{"MLmodel": both, "model.onnx": "x"}, environment: "azureml:e:1", runtime: online.RuntimeMLflow},
		"environment": {
			files: map[string]string{"iris.onnx": "x"}, environment: "azureml:e:1",
			code: online.CodeBadArgument, target: "properties.environmentId", text: "leave the environment out"},
		"lost": {
			files: map[string]string{"MLmodel": both, "other.onnx": "x"},
			code:  online.CodeBadArgument, target: "properties.model", text: "model.onnx is not there"},
		"two": {
			files: map[string]string{"a.onnx": "x", "b.onnx": "x"},
			code:  online.CodeBadArgument, target: "properties.model", text: "several ONNX models"},
		"torch": {
			files: map[string]string{"net/1/model.pt": "x"}, kind: "triton_model",
			code: online.CodeNotImplemented, target: "properties.model", text: "other frameworks"},
		"untrue": {
			files: map[string]string{"model.pt": "x"}, kind: "triton_model",
			code: online.CodeNotImplemented, target: "properties.model", text: "declared as triton_model"},
		"gpu": {
			files: map[string]string{"iris.onnx": "x"}, types: "Standard_NC6s_v3",
			code: online.CodeNotImplemented, target: "properties.instanceType", text: "ONNX models run on processors"},
		"batches": {
			files: map[string]string{"iris.onnx": "x"}, batching: &online.Batching{MaxSize: 4}, runtime: online.RuntimeONNX},
		"collects": {
			files: map[string]string{"iris.onnx": "x"}, collector: &online.DataCollector{Collections: []online.Collection{{Name: "model_inputs", Enabled: true}}},
			code: online.CodeNotImplemented, target: "properties.dataCollector.collections.model_inputs", text: "fills no collection"},
		"configured": {
			files: map[string]string{"iris/1/model.onnx": "x", "iris/config.pbtxt": `platform: "onnxruntime_onnx"`}, runtime: online.RuntimeONNX},
		"tensorrt": {
			files: map[string]string{"iris/1/model.onnx": "x", "iris/config.pbtxt": `platform: "tensorrt_plan"`},
			code:  online.CodeNotImplemented, target: "properties.model", text: `config.pbtxt: platform "tensorrt_plan" is not implemented`},
		"missing": {
			files: map[string]string{"iris.onnx": "x"}, missing: errors.New("not there; type this"),
			code: online.CodeConflict, target: "properties.model", text: "not there; type this"},
	} {
		missing = c.missing
		b.register(online.KindModel, name, "1", online.AssetSpec{URI: b.upload(online.KindModel, c.files), DataType: c.kind})
		req := request()
		req.Model, req.Code, req.Environment, req.Spec.ScoringScript = "azureml:"+name+":1", "", c.environment, ""
		if c.types != "" {
			req.Spec.InstanceType = c.types
		}
		req.Spec.Batching, req.Spec.DataCollector = c.batching, c.collector
		out, err := b.PutDeployment(context.Background(), admin, home, "fraud", name, PutDeployment{Request: req})
		if c.code != "" {
			wantError(t, err, c.code, c.target, c.text)
			continue
		}
		if err != nil || out.Resource.Spec.Runtime != c.runtime {
			t.Errorf("%s: %+v, %v", name, out.Resource, err)
		}
	}
}

// TestConfiguredBatches: what the configuration of a model repository says of batches holds where the deployment says
// nothing.
func TestConfiguredBatches(t *testing.T) {
	b := newBench(t)
	b.assets()
	b.mustEndpoint("fraud", nil)
	b.register(online.KindModel, "iris", "1", online.AssetSpec{URI: b.upload(online.KindModel, map[string]string{
		"iris/1/model.onnx": "x", "iris/config.pbtxt": "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 2000 }",
	})})
	own := online.Batching{MaxSize: 3, MaxWait: 7 * time.Millisecond}
	for name, c := range map[string]struct {
		concurrent int
		batching   *online.Batching
		want       *online.Batching
		admits     int
	}{
		"configured": {want: &online.Batching{MaxSize: 8, MaxWait: 2 * time.Millisecond}, admits: 16},
		"smaller":    {concurrent: 4, want: &online.Batching{MaxSize: 4, MaxWait: 2 * time.Millisecond}, admits: 4},
		"none":       {concurrent: 1, admits: 1},
		"own":        {batching: &own, want: &own, admits: 6},
	} {
		req := request()
		req.Model, req.Code, req.Environment, req.Spec.ScoringScript = "azureml:iris:1", "", "", ""
		req.Spec.Batching, req.Spec.Request.MaxConcurrent = c.batching, c.concurrent
		out, err := b.PutDeployment(context.Background(), admin, home, "fraud", name, PutDeployment{Request: req})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		spec := out.Resource.Spec
		if (spec.Batching == nil) != (c.want == nil) || c.want != nil && *spec.Batching != *c.want || spec.Request.MaxConcurrent != c.admits {
			t.Errorf("%s: %+v, %d at once", name, spec.Batching, spec.Request.MaxConcurrent)
		}
	}
}
