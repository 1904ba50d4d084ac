package onnx

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protoreflect"

	"portico/internal/online"
	"portico/internal/onnx/modelconfig"
)

// ConfigFile is the configuration of a model in a repository, in the folder of the model.
const ConfigFile = "config.pbtxt"

// maxConfigBytes bounds it.
const maxConfigBytes = 1 << 20

// Config is what the configuration of a repository's model asks for.
type Config struct {
	// Declared is what it says of inputs and outputs, for the worker to compare with the model: a JSON object, see
	// onnxserve.Declared. Empty: nothing.
	Declared string
	// Batching is what it says of batches; nil: nothing.
	Batching *online.Batching
	// Notes say what of it is not acted on, each in a sentence.
	Notes []string

	filename string
	versions func(version int64) bool // those that may be served
}

// declared is the JSON of Declared.
type declared struct {
	MaxBatchSize int              `json:"max_batch_size,omitempty"`
	Inputs       []declaredTensor `json:"inputs,omitempty"`
	Outputs      []declaredTensor `json:"outputs,omitempty"`
}

type declaredTensor struct {
	Name     string   `json:"name"`
	Datatype string   `json:"datatype,omitempty"` // as the Open Inference Protocol has it
	Dims     []int64  `json:"dims,omitempty"`     // without the dimension of the batch where there is one
	Reshape  *[]int64 `json:"reshape,omitempty"`  // what the model has in place of dims
}

func refuse(code online.Code, format string, args ...any) error {
	return online.Errorf(code, target, "the model's "+ConfigFile+": "+format, args...)
}

func notImplemented(what string) error {
	return refuse(online.CodeNotImplemented, "%s is not implemented; remove it", what)
}

// readConfig reads the configuration of the model in dir; nil: it has none.
func readConfig(tree fs.FS, dir string) (*Config, error) {
	f, err := tree.Open(path.Join(dir, ConfigFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the model's configuration: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	text, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the model's configuration: %w", err)
	}
	if len(text) > maxConfigBytes {
		return nil, refuse(online.CodeBadArgument, "it has more than %d bytes", maxConfigBytes)
	}
	return parseConfig(text, path.Base(dir))
}

// parseConfig reads the configuration of the model with this name.
func parseConfig(text []byte, name string) (*Config, error) {
	// What is refused is found first, whatever is in it; then what remains must be known to its last field.
	var c modelconfig.ModelConfig
	if err := (prototext.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, &c); err != nil {
		return nil, refuse(online.CodeBadArgument, "%s", syntax(err))
	}
	if err := refused(&c, name); err != nil {
		return nil, err
	}
	if err := prototext.Unmarshal(text, &c); err != nil {
		return nil, refuse(online.CodeBadArgument, "%s", syntax(err))
	}
	out := &Config{filename: c.DefaultModelFilename}
	if out.filename != "" && !fs.ValidPath(out.filename) || strings.Contains(out.filename, "/") {
		return nil, refuse(online.CodeBadArgument, "default_model_filename %.80q is not the name of a file", out.filename)
	}
	out.choose(c.VersionPolicy)
	if err := out.declare(&c); err != nil {
		return nil, err
	}
	if err := out.batch(&c); err != nil {
		return nil, err
	}
	out.note(&c)
	return out, nil
}

// syntax is the library's error without its own name.
func syntax(err error) string {
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ") // the library varies the space, so that nobody compares its errors
	return strings.TrimPrefix(text, "proto: ")
}

// refused says what of a configuration this server cannot do.
func refused(c *modelconfig.ModelConfig, name string) error {
	switch {
	case c.Name != "" && c.Name != name:
		return refuse(online.CodeBadArgument, "name is %.80q, but the model's folder is %q", c.Name, name)
	case c.Platform != "" && c.Platform != "onnxruntime_onnx":
		return refuse(online.CodeNotImplemented, "platform %.80q is not implemented; onnxruntime_onnx is", c.Platform)
	case c.Backend != "" && c.Backend != "onnxruntime":
		return refuse(online.CodeNotImplemented, "backend %.80q is not implemented; onnxruntime is", c.Backend)
	case c.Runtime != "":
		return notImplemented("runtime")
	case c.MaxBatchSize < 0:
		return refuse(online.CodeBadArgument, "max_batch_size %d is negative", c.MaxBatchSize)
	case c.ModelTransactionPolicy.GetDecoupled():
		return notImplemented("model_transaction_policy.decoupled")
	}
	message := c.ProtoReflect()
	for _, field := range []protoreflect.Name{"sequence_batching", "ensemble_scheduling", "batch_input", "batch_output", "model_operations",
		"model_repository_agents", "cc_model_filenames"} {
		if message.Has(message.Descriptor().Fields().ByName(field)) {
			return notImplemented(string(field))
		}
	}
	if c.Optimization.GetExecutionAccelerators() != nil {
		return notImplemented("optimization.execution_accelerators")
	}
	b := c.GetDynamicBatching()
	if b.GetPriorityLevels() != 0 || b.GetDefaultPriorityLevel() != 0 || b.GetDefaultQueuePolicy() != nil || len(b.GetPriorityQueuePolicy()) > 0 {
		return notImplemented("a priority or queue policy of dynamic_batching")
	}
	for _, in := range c.Input {
		if what := unusual(in.IsShapeTensor, in.IsNonLinearFormatIo); what != "" {
			return notImplemented(fmt.Sprintf("%s of the input %q", what, in.Name))
		}
		if in.AllowRaggedBatch {
			return notImplemented(fmt.Sprintf("allow_ragged_batch of the input %q", in.Name))
		}
		if in.Optional {
			return notImplemented(fmt.Sprintf("optional of the input %q", in.Name))
		}
	}
	for _, o := range c.Output {
		if what := unusual(o.IsShapeTensor, o.IsNonLinearFormatIo); what != "" {
			return notImplemented(fmt.Sprintf("%s of the output %q", what, o.Name))
		}
	}
	return nil
}

// unusual names what a tensor has that changes the meaning of its shape.
func unusual(shapeTensor, nonLinear bool) string {
	switch {
	case shapeTensor:
		return "is_shape_tensor"
	case nonLinear:
		return "is_non_linear_format_io"
	}
	return ""
}

// choose takes the policy by which versions are served.
func (c *Config) choose(policy *modelconfig.ModelVersionPolicy) {
	c.versions = func(int64) bool { return true }
	if specific := policy.GetSpecific(); specific != nil {
		c.versions = func(version int64) bool { return slices.Contains(specific.Versions, version) }
	}
	if policy.GetAll() != nil || policy.GetLatest().GetNumVersions() > 1 || len(policy.GetSpecific().GetVersions()) > 1 {
		c.Notes = append(c.Notes, "version_policy chooses several versions; the newest of them is served, the others are not")
	}
}

// declare takes what is said of inputs and outputs.
func (c *Config) declare(from *modelconfig.ModelConfig) error {
	d := declared{MaxBatchSize: int(from.MaxBatchSize)}
	add := func(to *[]declaredTensor, what, name string, kind modelconfig.DataType, dims []int64, reshape *modelconfig.ModelTensorReshape) error {
		if name == "" {
			return refuse(online.CodeBadArgument, "an %s has no name", what)
		}
		if slices.ContainsFunc(*to, func(t declaredTensor) bool { return t.Name == name }) {
			return refuse(online.CodeBadArgument, "the %s %q stands there twice", what, name)
		}
		if slices.ContainsFunc(dims, func(d int64) bool { return d == 0 || d < -1 }) {
			return refuse(online.CodeBadArgument, "dims of the %s %q must be sizes, or -1 for any", what, name)
		}
		model, err := reshaped(dims, reshape, from.MaxBatchSize > 0)
		if err != nil {
			return refuse(online.CodeBadArgument, "reshape of the %s %q %w", what, name, err)
		}
		*to = append(*to, declaredTensor{Name: name, Datatype: wire(kind), Dims: dims, Reshape: model})
		return nil
	}
	for _, in := range from.Input {
		if err := add(&d.Inputs, "input", in.Name, in.DataType, in.Dims, in.Reshape); err != nil {
			return err
		}
	}
	for _, o := range from.Output {
		if err := add(&d.Outputs, "output", o.Name, o.DataType, o.Dims, o.Reshape); err != nil {
			return err
		}
		if o.LabelFilename != "" {
			c.Notes = append(c.Notes, fmt.Sprintf("label_filename of the output %q is not acted on: classification is not implemented", o.Name))
		}
	}
	if d.MaxBatchSize == 0 && d.Inputs == nil && d.Outputs == nil {
		return nil
	}
	doc, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode what the model's configuration declares: %w", err)
	}
	c.Declared = string(doc)
	return nil
}

// reshaped is the shape that the model has where callers see dims; nil: dims. Between sizes that are left open both have as
// many elements, so that the open sizes of one are those of the other, in order.
func reshaped(dims []int64, reshape *modelconfig.ModelTensorReshape, batched bool) (*[]int64, error) {
	if reshape == nil {
		return nil, nil
	}
	model := append([]int64{}, reshape.Shape...)
	switch {
	case len(dims) == 0:
		return nil, errors.New("needs dims, which callers see")
	case slices.ContainsFunc(model, func(d int64) bool { return d == 0 || d < -1 }):
		return nil, errors.New("must be to sizes, or -1 for any")
	case len(model) == 0 && !batched:
		return nil, errors.New("to no dimensions needs a max_batch_size, which adds one")
	}
	from, err := elements(dims)
	if err != nil {
		return nil, err
	}
	to, err := elements(model)
	if err != nil {
		return nil, err
	}
	if len(from) != len(to) {
		return nil, errors.New("and its dims leave different numbers of sizes open")
	}
	if !slices.Equal(from, to) {
		return nil, errors.New("and its dims have different numbers of elements")
	}
	return &model, nil
}

// maxElements bounds the elements that the sizes of a configuration ask for.
const maxElements = 1 << 31

// elements are the elements before, between and after the sizes that are left open.
func elements(dims []int64) ([]int64, error) {
	counts := []int64{1}
	for _, d := range dims {
		last := len(counts) - 1
		if d < 0 {
			counts = append(counts, 1)
		} else if counts[last] *= min(d, maxElements+1); counts[last] > maxElements {
			return nil, fmt.Errorf("has more than %d elements", maxElements)
		}
	}
	return counts, nil
}

// wire is a type's name in the Open Inference Protocol; empty where the configuration says none.
func wire(kind modelconfig.DataType) string {
	switch kind {
	case modelconfig.DataType_TYPE_INVALID:
		return ""
	case modelconfig.DataType_TYPE_STRING:
		return "BYTES"
	}
	return strings.TrimPrefix(kind.String(), "TYPE_")
}

// batch takes dynamic_batching. Triton counts rows and Portico requests, which mostly have one.
func (c *Config) batch(from *modelconfig.ModelConfig) error {
	b := from.GetDynamicBatching()
	if b == nil {
		return nil
	}
	size := from.MaxBatchSize
	for _, preferred := range b.PreferredBatchSize {
		if preferred < 1 || preferred > from.MaxBatchSize {
			return refuse(online.CodeBadArgument, "preferred_batch_size %d is not between 1 and the max_batch_size %d", preferred, from.MaxBatchSize)
		}
	}
	if len(b.PreferredBatchSize) > 0 {
		size = slices.Max(b.PreferredBatchSize)
	}
	if len(b.PreferredBatchSize) > 1 {
		c.Notes = append(c.Notes, fmt.Sprintf("of the preferred_batch_size of dynamic_batching the largest, %d, is acted on", size))
	}
	if size < online.MinBatchSize {
		c.Notes = append(c.Notes, "dynamic_batching is not acted on: max_batch_size "+strconv.Itoa(int(from.MaxBatchSize))+" leaves nothing to join")
		return nil
	}
	delay := time.Duration(min(b.MaxQueueDelayMicroseconds, uint64(online.MaxBatchWait.Microseconds()))) * time.Microsecond
	c.Batching = &online.Batching{MaxSize: min(int(size), online.MaxBatchSize), MaxWait: max(delay, online.MinBatchWait)}
	if int(size) > online.MaxBatchSize {
		c.Notes = append(c.Notes, fmt.Sprintf("dynamic_batching joins at most %d requests, not %d", online.MaxBatchSize, size))
	}
	if asked := b.MaxQueueDelayMicroseconds; asked > 0 && asked != uint64(c.Batching.MaxWait.Microseconds()) {
		c.Notes = append(c.Notes, fmt.Sprintf("max_queue_delay_microseconds %d is taken as %v: from %v to %v are possible", asked,
			c.Batching.MaxWait, online.MinBatchWait, online.MaxBatchWait))
	}
	return nil
}

// Overridden says what of dynamic_batching does not hold, because the settings of the deployment do. nil: there is no batching.
func (c *Config) Overridden(by *online.Batching) []string {
	switch {
	case c.Batching == nil || by != nil && *by == *c.Batching:
		return nil
	case by == nil:
		return []string{"dynamic_batching is not acted on: the settings of the deployment leave nothing to join"}
	}
	return []string{fmt.Sprintf("dynamic_batching asks for batches of %d requests within %v; by the deployment's settings they are %d within %v",
		c.Batching.MaxSize, c.Batching.MaxWait, by.MaxSize, by.MaxWait)}
}

// note says what is passed over because it changes no answer.
func (c *Config) note(from *modelconfig.ModelConfig) {
	message := from.ProtoReflect()
	for _, field := range []protoreflect.Name{"instance_group", "optimization", "parameters", "model_warmup", "response_cache", "metric_tags",
		"model_metrics"} {
		if message.Has(message.Descriptor().Fields().ByName(field)) {
			c.Notes = append(c.Notes, string(field)+" is not acted on")
		}
	}
}
