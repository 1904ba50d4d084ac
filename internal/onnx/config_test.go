package onnx_test

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"portico/internal/online"
	"portico/internal/onnx"
)

// configured is a repository of the model iris with these versions and this configuration.
func configured(config string, versions ...string) fstest.MapFS {
	files := []string{}
	for _, v := range versions {
		files = append(files, "iris/"+v+"/model.onnx")
	}
	out := tree(files...)
	out["iris/config.pbtxt"] = &fstest.MapFile{Data: []byte(config)}
	return out
}

const iris = `
# as in Triton's documentation
name: "iris"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [
  { name: "label", data_type: TYPE_INT64, dims: [ -1 ] label_filename: "labels.txt" },
  { name: "names" data_type: TYPE_STRING }
]
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] } ]
dynamic_batching { preferred_batch_size: [ 2, 4 ] max_queue_delay_microseconds: 2500 }
parameters: { key: "intra_op_thread_count" value: { string_value: "2" } }
`

func TestConfigIsRead(t *testing.T) {
	m, err := onnx.Read(configured(iris, "1", "3"))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"max_batch_size":8,"inputs":[{"name":"X","datatype":"FP32","dims":[4]}],` +
		`"outputs":[{"name":"label","datatype":"INT64","dims":[-1]},{"name":"names","datatype":"BYTES"}]}`
	if c := m.Config; m.Version != "3" || c.Declared != want || c.Batching == nil || *c.Batching != (online.Batching{MaxSize: 4, MaxWait: 2500 * time.Microsecond}) {
		t.Errorf("%+v %+v", m, c)
	}
	notes := strings.Join(m.Config.Notes, "; ")
	if notes != `label_filename of the output "label" is not acted on: classification is not implemented; of the preferred_batch_size of `+
		`dynamic_batching the largest, 4, is acted on; instance_group is not acted on; parameters is not acted on` {
		t.Error(notes)
	}
}

func TestConfigChoosesVersionAndFile(t *testing.T) {
	for config, want := range map[string]string{
		``: "iris/10/model.onnx",
		`version_policy: { latest: { num_versions: 2 } }`:            "iris/10/model.onnx",
		`version_policy { all {} }`:                                  "iris/10/model.onnx",
		`version_policy: { specific: { versions: [ 1, 3, 7 ] } }`:    "iris/3/model.onnx",
		`version_policy: { specific { versions: 1 } }`:               "iris/1/model.onnx",
		`default_model_filename: "model.onnx" backend:"onnxruntime"`: "iris/10/model.onnx",
	} {
		m, err := onnx.Read(configured(config, "1", "3", "10"))
		if err != nil || m.File != want {
			t.Errorf("%s: %+v %v, want %s", config, m, err, want)
		}
	}
	several := configured(`default_model_filename: "b.bin"`, "1")
	several["iris/1/b.bin"], several["iris/1/a.onnx"] = &fstest.MapFile{}, &fstest.MapFile{}
	if m, err := onnx.Read(several); err != nil || m.File != "iris/1/b.bin" {
		t.Errorf("%+v %v", m, err)
	}
}

func TestConfigOfBatches(t *testing.T) {
	for config, want := range map[string]*online.Batching{
		`max_batch_size: 8`:                     nil,
		`max_batch_size: 8 dynamic_batching {}`: {MaxSize: 8, MaxWait: time.Millisecond},
		`max_batch_size: 4096 dynamic_batching { max_queue_delay_microseconds: 90000000 }`: {MaxSize: 256, MaxWait: time.Second},
		`max_batch_size: 8 dynamic_batching { preferred_batch_size: 1 }`:                   nil,
		`dynamic_batching { preserve_ordering: true }`:                                     nil,
	} {
		m, err := onnx.Read(configured(config, "1"))
		if err != nil {
			t.Errorf("%s: %v", config, err)
			continue
		}
		if got := m.Config.Batching; (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: %+v, want %+v", config, got, want)
		}
		if strings.Contains(config, "dynamic") && want == nil && !slices.ContainsFunc(m.Config.Notes, func(n string) bool {
			return strings.HasPrefix(n, "dynamic_batching is not acted on")
		}) {
			t.Errorf("%s: %v", config, m.Config.Notes)
		}
	}
}

func TestConfigIsRefused(t *testing.T) {
	const bad, missing = online.CodeBadArgument, online.CodeNotImplemented
	for config, want := range map[string]struct {
		code online.Code
		text string
	}{
		`max_batch_size: `:                                          {bad, "unexpected"},
		"name: \"iris\"\nmax_batchsize: 3":                          {bad, `(line 2:1): unknown field: max_batchsize`},
		`input { name: "X" dim: 4 }`:                                {bad, "unknown field: dim"},
		`input { name: "X" data_type: TYPE_FP8 }`:                   {bad, "TYPE_FP8"},
		`name: "rose"`:                                              {bad, `name is "rose", but the model's folder is "iris"`},
		`platform: "pytorch_libtorch"`:                              {missing, `platform "pytorch_libtorch"`},
		`platform: "ensemble" ensemble_scheduling { step [ { } ] }`: {missing, `platform "ensemble"`},
		`backend: "python"`:                                         {missing, `backend "python"`},
		`max_batch_size: -1`:                                        {bad, "max_batch_size -1 is negative"},
		`sequence_batching { direct {} }`:                           {missing, "sequence_batching is not"},
		`model_transaction_policy { decoupled: true }`:              {missing, "decoupled"},
		`optimization { execution_accelerators { gpu_execution_accelerator: [ { name: "tensorrt" } ] } }`: {missing, "execution_accelerators"},
		`dynamic_batching { default_queue_policy { timeout_action: REJECT } }`:                            {missing, "queue policy"},
		`dynamic_batching { preferred_batch_size: 4 }`:                                                    {bad, "preferred_batch_size 4 is not between 1 and the max_batch_size 0"},
		`input { name: "X" reshape { shape: [ 4 ] } }`:                                                    {bad, `reshape of the input "X" needs dims`},
		`input { name: "X" dims: 4 reshape { shape: [ 4, 0 ] } }`:                                         {bad, `reshape of the input "X" must be to sizes`},
		`output { name: "y" dims: 4 reshape { shape: -2 } }`:                                              {bad, `reshape of the output "y" must be to sizes`},
		`input { name: "X" dims: 1 reshape { } }`:                                                         {bad, "needs a max_batch_size"},
		`max_batch_size: 2 input { name: "X" dims: 2 reshape { } }`:                                       {bad, "different numbers of elements"},
		`max_batch_size: 2 input { name: "X" dims: -1 reshape { } }`:                                      {bad, "different numbers of sizes open"},
		`input { name: "X" dims: [ 2, 4, -1, 6 ] reshape { shape: [ 8, -1, 6, 2 ] } }`:                    {bad, "different numbers of elements"},
		`input { name: "X" dims: [ -1, 4 ] reshape { shape: [ 4 ] } }`:                                    {bad, "different numbers of sizes open"},
		`input { name: "X" dims: [ 4294967296, 4294967296 ] reshape { shape: [ 1 ] } }`:                   {bad, "more than 2147483648 elements"},
		`input { name: "X" allow_ragged_batch: true }`:                                                    {missing, "allow_ragged_batch"},
		`input { name: "X" optional: true }`:                                                              {missing, "optional"},
		`output { name: "y" is_shape_tensor: true }`:                                                      {missing, "is_shape_tensor"},
		`input { dims: 4 }`:                                  {bad, "an input has no name"},
		`input [ { name: "X" }, { name: "X" } ]`:             {bad, "twice"},
		`input { name: "X" dims: 0 }`:                        {bad, "dims of the input"},
		`batch_input { kind: BATCH_ELEMENT_COUNT }`:          {missing, "batch_input"},
		`cc_model_filenames { key: "7.5" value: "x.onnx" }`:  {missing, "cc_model_filenames"},
		`version_policy { specific { versions: [ 2, 4 ] } }`: {bad, "chooses none of the versions that are there: 1, 3"},
		`default_model_filename: "other.onnx"`:               {bad, `"other.onnx" is not a file of version 3`},
		`default_model_filename: "../secret"`:                {bad, "not the name of a file"},
		strings.Repeat("#", 1<<20+1):                         {bad, "more than 1048576 bytes"},
	} {
		_, err := onnx.Read(configured(config, "1", "3"))
		fault, ok := online.AsError(err)
		if !ok || fault.Code != want.code || !strings.Contains(fault.Message, want.text) || !strings.Contains(fault.Message, "config.pbtxt") {
			t.Errorf("%.80s: %v, want %s", config, err, want.text)
		}
	}
}

// TestConfigReshapes: dims are what callers see, reshape is what the model has.
func TestConfigReshapes(t *testing.T) {
	for config, want := range map[string]string{
		`max_batch_size: 4 input { name: "X" dims: 1 reshape { } } output { name: "y" dims: [ 1, 1 ] reshape: { shape: [ ] } }`: `{"max_batch_size":4,` +
			`"inputs":[{"name":"X","dims":[1],"reshape":[]}],"outputs":[{"name":"y","dims":[1,1],"reshape":[]}]}`,
		`input { name: "X" dims: [ 2, 4, -1, 6 ] reshape { shape: [ 8, -1, 1, 6 ] } }`: `{"inputs":[{"name":"X","dims":[2,4,-1,6],"reshape":[8,-1,1,6]}]}`,
	} {
		m, err := onnx.Read(configured(config, "1"))
		if err != nil || m.Config.Declared != want {
			t.Errorf("%s: %+v %v, want %s", config, m, err, want)
		}
	}
}

// TestConfigSaysWhatOfBatchesDoesNotHold: what is taken otherwise than it is written, and what the deployment overrides.
func TestConfigSaysWhatOfBatchesDoesNotHold(t *testing.T) {
	own := &online.Batching{MaxSize: 3, MaxWait: 7 * time.Millisecond}
	for _, c := range []struct {
		config string
		by     *online.Batching
		want   []string
	}{
		{`max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 2000 }`, &online.Batching{MaxSize: 8, MaxWait: 2 * time.Millisecond}, nil},
		{`max_batch_size: 8`, own, nil},
		{`max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 100 }`, &online.Batching{MaxSize: 8, MaxWait: time.Millisecond},
			[]string{"max_queue_delay_microseconds 100 is taken as 1ms: from 1ms to 1s are possible"}},
		{`max_batch_size: 1024 dynamic_batching { preferred_batch_size: [ 8, 512 ] }`, &online.Batching{MaxSize: 256, MaxWait: time.Millisecond},
			[]string{"of the preferred_batch_size of dynamic_batching the largest, 512, is acted on", "dynamic_batching joins at most 256 requests, not 512"}},
		{`max_batch_size: 8 dynamic_batching { }`, own, []string{
			"dynamic_batching asks for batches of 8 requests within 1ms; by the deployment's settings they are 3 within 7ms"}},
		{`max_batch_size: 8 dynamic_batching { }`, nil, []string{
			"dynamic_batching is not acted on: the settings of the deployment leave nothing to join"}},
	} {
		m, err := onnx.Read(configured(c.config, "1"))
		if err != nil {
			t.Fatal(err)
		}
		if got := append(m.Config.Notes, m.Config.Overridden(c.by)...); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.config, got, c.want)
		}
	}
}
