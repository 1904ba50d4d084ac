package online

import (
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DeploymentSpec is what a person wishes of a deployment: which model, code and environment, on how many
// instances of which type, and how requests and probes behave.
type DeploymentSpec struct {
	Location             string            `json:"location,omitempty"`
	Description          string            `json:"description,omitempty"`
	Tags                 map[string]string `json:"tags,omitempty"`
	Properties           map[string]string `json:"properties,omitempty"`
	EndpointComputeType  string            `json:"endpointComputeType"` // Managed
	InstanceType         string            `json:"instanceType"`
	InstanceCount        int               `json:"instanceCount"` // sku.capacity on the wire
	Model                *AssetRef         `json:"model,omitempty"`
	Code                 *AssetRef         `json:"code,omitempty"`
	ScoringScript        string            `json:"scoringScript,omitempty"`  // slash-separated, relative to the code
	Runtime              Runtime           `json:"runtime,omitempty"`        // what serves a model without code; set by control
	Command              string            `json:"command,omitempty"`        // of a custom server, as it was typed; see SplitCommand
	Image                string            `json:"image,omitempty"`          // that a custom server runs in, from its environment; without Command the image's own
	Inference            InferenceConfig   `json:"inferenceConfig,omitzero"` // of a custom server: the environment's; set by control
	Environment          *AssetRef         `json:"environment,omitempty"`
	EnvironmentVariables map[string]Secret `json:"-"` // sealed beside the spec, see store.Record.Secrets
	ModelMountPath       string            `json:"modelMountPath,omitempty"`
	AppInsightsEnabled   bool              `json:"appInsightsEnabled"`
	EgressPublicAccess   string            `json:"egressPublicNetworkAccess"` // Enabled | Disabled
	Request              RequestSettings   `json:"requestSettings"`
	Liveness             Probe             `json:"livenessProbe"`
	Readiness            Probe             `json:"readinessProbe"`
	Startup              *Probe            `json:"startupProbe,omitempty"`
	Scale                ScaleSettings     `json:"scaleSettings"`
	DataCollector        *DataCollector    `json:"dataCollector,omitempty"`
	Cache                *ResponseCache    `json:"responseCache,omitempty"`
	Batching             *Batching         `json:"batching,omitempty"`
}

// Runtime is what runs in the instances of a deployment without a scoring script.
type Runtime string

// The runtimes. Without a script and without a runtime nothing could answer.
const (
	RuntimeMLflow Runtime = "mlflow" // loads the model with MLflow
	RuntimeServer Runtime = "server" // runs Command, or Image, which answers HTTP at Inference
	RuntimeONNX   Runtime = "onnx"   // runs the model with ONNX Runtime, without Python
)

// AssetRef names one version of a registered asset. Control resolves labels (@latest) and names before it
// stores a spec, so a stored reference always has all parts.
type AssetRef struct {
	Workspace WorkspaceID `json:"workspace"`
	Kind      Kind        `json:"kind"`
	Name      string      `json:"name"`
	Version   string      `json:"version"`
}

// ID is the asset version's resource id.
func (r AssetRef) ID() ID { return r.Workspace.Asset(r.Kind, r.Name, r.Version) }

// RequestSettings bound the requests of one deployment.
type RequestSettings struct {
	Timeout       time.Duration `json:"timeout"`       // from arrival to last byte, queueing included; 408 after it
	MaxConcurrent int           `json:"maxConcurrent"` // executing or handed to an instance, per instance
	MaxQueueWait  time.Duration `json:"maxQueueWait"`  // deprecated by Azure; kept and shown, Timeout decides
}

// Bounds and defaults of request settings (reference-yaml-deployment-managed-online, how-to-manage-quotas).
const (
	DefaultRequestTimeout = 5 * time.Second
	MaxRequestTimeout     = 180 * time.Second
	DefaultMaxConcurrent  = 1
	MaxMaxConcurrent      = 10000
	DefaultMaxQueueWait   = 500 * time.Millisecond
	MaxInstances          = 50
	MaxDeployments        = 20  // behind one endpoint
	MaxEndpoints          = 100 // in one subscription
)

// PendingLimit is how many requests of a deployment may be in flight at once: half execute, half queue.
func (r RequestSettings) PendingLimit(instances int) int {
	return 2 * r.MaxConcurrent * max(instances, 1)
}

// Probe says how an instance's health is judged.
type Probe struct {
	InitialDelay     time.Duration `json:"initialDelay"`
	Period           time.Duration `json:"period"`
	Timeout          time.Duration `json:"timeout"`
	SuccessThreshold int           `json:"successThreshold"`
	FailureThreshold int           `json:"failureThreshold"`
}

// DefaultProbe is Azure's.
func DefaultProbe() Probe {
	return Probe{InitialDelay: 10 * time.Second, Period: 10 * time.Second, Timeout: 2 * time.Second, SuccessThreshold: 1, FailureThreshold: 30}
}

// ScaleSettings choose between a fixed count and automatic scaling.
type ScaleSettings struct {
	Type              string        `json:"type"` // Default | TargetUtilization
	MinInstances      int           `json:"minInstances,omitempty"`
	MaxInstances      int           `json:"maxInstances,omitempty"`
	TargetUtilization int           `json:"targetUtilization,omitempty"` // percent
	PollingInterval   time.Duration `json:"pollingInterval,omitempty"`
}

// DeploymentStatus is what is. Only reconcile writes it.
type DeploymentStatus struct {
	ObservedGeneration int64             `json:"observedGeneration"` // the newest spec that was brought to an end
	State              ProvisioningState `json:"state"`              // Succeeded | Failed of ObservedGeneration
	Error              *Error            `json:"error,omitempty"`
	Current            *SetStatus        `json:"current,omitempty"` // the set that serves
	Target             *SetStatus        `json:"target,omitempty"`  // the set that is being brought up
	Stages             []Stage           `json:"stages,omitempty"`  // progress of the newest change
	Instances          []InstanceStatus  `json:"instances,omitempty"`
}

// SetStatus names an instance set and says which template it runs.
type SetStatus struct {
	ID         string    `json:"id"`
	Generation int64     `json:"generation"` // of the spec that it was made from
	Template   string    `json:"template"`   // digest of everything in the spec that an instance can see
	Count      int       `json:"count"`      // asked of the engine
	Since      time.Time `json:"since"`
}

// InstanceStatus is an instance as people see it.
type InstanceStatus struct {
	ID         string        `json:"id"`
	Generation int64         `json:"generation"`
	State      InstanceState `json:"state"`
	Restarts   int           `json:"restarts"`
	Reason     string        `json:"reason,omitempty"`
}

// InstanceState is the life of one instance.
type InstanceState string

// The states of an instance, in the usual order.
const (
	InstancePending  InstanceState = "Pending"  // wanted, not yet started, or waiting out a restart's back-off
	InstanceStarting InstanceState = "Starting" // runs, init has not returned
	InstanceReady    InstanceState = "Ready"    // may be called
	InstanceUnready  InstanceState = "Unready"  // runs, but its probes fail
	InstanceDraining InstanceState = "Draining" // finishes what it has
	InstanceStopped  InstanceState = "Stopped"  // gone for good
)

// ReservedVariables begins the names of environment variables that Portico itself gives to workers.
const ReservedVariables = "PORTICO_"

// MaxWorkers bounds WORKER_COUNT.
const MaxWorkers = 64

// WorkerCount is how many processes each instance runs: the environment variable WORKER_COUNT, 1 without it.
func (s *DeploymentSpec) WorkerCount() (int, *Error) {
	v, ok := s.EnvironmentVariables["WORKER_COUNT"]
	if !ok {
		return 1, nil
	}
	n, err := strconv.Atoi(v.Reveal())
	if err != nil || n < 1 || n > MaxWorkers {
		return 0, Errorf(CodeBadArgument, "properties.environmentVariables.WORKER_COUNT", "WORKER_COUNT must be a whole number from 1 to %d", MaxWorkers)
	}
	return n, nil
}

// Default fills in what Azure's service fills in.
func (s *DeploymentSpec) Default() {
	if s.EndpointComputeType == "" {
		s.EndpointComputeType = "Managed"
	}
	if s.InstanceCount == 0 {
		s.InstanceCount = 1
	}
	if s.EgressPublicAccess == "" {
		s.EgressPublicAccess = "Enabled"
	}
	if s.Request.Timeout == 0 {
		s.Request.Timeout = DefaultRequestTimeout
	}
	if s.Batching != nil {
		s.Batching.fill()
		if workers, fault := s.WorkerCount(); s.Request.MaxConcurrent == 0 && fault == nil {
			s.Request.MaxConcurrent = max(s.Batching.concurrent(workers), 0) // Validate tells of a size below 0
		}
	}
	if s.Request.MaxConcurrent == 0 {
		s.Request.MaxConcurrent = DefaultMaxConcurrent
	}
	s.Liveness.fill()
	s.Readiness.fill()
	if s.Startup != nil {
		s.Startup.fill()
	}
	if s.Scale.Type == "" {
		s.Scale.Type = "Default"
	}
	if s.Cache != nil {
		s.Cache.fill()
	}
}

func (p *Probe) fill() {
	d := DefaultProbe()
	if p.InitialDelay == 0 {
		p.InitialDelay = d.InitialDelay
	}
	if p.Period == 0 {
		p.Period = d.Period
	}
	if p.Timeout == 0 {
		p.Timeout = d.Timeout
	}
	if p.SuccessThreshold == 0 {
		p.SuccessThreshold = d.SuccessThreshold
	}
	if p.FailureThreshold == 0 {
		p.FailureThreshold = d.FailureThreshold
	}
}

// Validate checks the spec after Default. Every fault is reported with the wire path of its field. types is
// the catalogue in force, with what the machine can offer.
func (s *DeploymentSpec) Validate(types Catalogue) []*Error {
	var faults []*Error
	add := func(code Code, target, format string, args ...any) {
		faults = append(faults, Errorf(code, target, format, args...))
	}
	switch s.EndpointComputeType {
	case "Managed":
	case "Kubernetes", "AzureMLCompute":
		add(CodeNotImplemented, "properties.endpointComputeType", "endpointComputeType %s is not implemented; use Managed", s.EndpointComputeType)
	default:
		add(CodeBadArgument, "properties.endpointComputeType", "endpointComputeType %.40q is not one of Managed, Kubernetes, AzureMLCompute", s.EndpointComputeType)
	}
	if err := types.Check(s.InstanceType); err != nil {
		faults = append(faults, err)
	}
	if s.InstanceCount < 0 || s.InstanceCount > MaxInstances {
		add(CodeBadArgument, "sku.capacity", "instance count %d is not between 1 and %d", s.InstanceCount, MaxInstances)
	}
	if s.ScoringScript != "" {
		if clean := path.Clean(s.ScoringScript); path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsAny(s.ScoringScript, "\x00\\") {
			add(CodeBadArgument, "properties.codeConfiguration.scoringScript", "scoring script %.80q must be a relative path inside the code", s.ScoringScript)
		}
	}
	if s.Code != nil && s.ScoringScript == "" && s.Runtime != RuntimeServer {
		add(CodeBadArgument, "properties.codeConfiguration.scoringScript", "a scoring script is required with code")
	}
	if s.Code == nil && s.Runtime == "" {
		add(CodeNotImplemented, "properties.codeConfiguration", "a deployment without code needs an MLflow or ONNX model, which this is not: it has no MLmodel file and no .onnx file in its folder or its only sub-folder, and is no model repository with one; give code_configuration with a scoring script, or a command that serves it in the property %s", PropertyCommand)
	}
	if s.Code != nil && s.Environment == nil {
		add(CodeBadArgument, "properties.environmentId", "an environment is required with a scoring script")
	}
	if s.Request.Timeout < time.Millisecond || s.Request.Timeout > MaxRequestTimeout {
		add(CodeBadArgument, "properties.requestSettings.requestTimeout", "request timeout %s is not between 1ms and %s", s.Request.Timeout, MaxRequestTimeout)
	}
	if s.Request.MaxConcurrent < 1 || s.Request.MaxConcurrent > MaxMaxConcurrent {
		add(CodeBadArgument, "properties.requestSettings.maxConcurrentRequestsPerInstance", "max concurrent requests per instance %d is not between 1 and %d", s.Request.MaxConcurrent, MaxMaxConcurrent)
	}
	if s.Request.MaxQueueWait < 0 || s.Request.MaxQueueWait > MaxRequestTimeout {
		add(CodeBadArgument, "properties.requestSettings.maxQueueWait", "max queue wait %s is not between 0s and %s", s.Request.MaxQueueWait, MaxRequestTimeout)
	}
	faults = append(faults, s.Liveness.validate("properties.livenessProbe", true)...)
	faults = append(faults, s.Readiness.validate("properties.readinessProbe", false)...)
	if s.Startup != nil {
		faults = append(faults, s.Startup.validate("properties.startupProbe", true)...)
	}
	switch s.Scale.Type {
	case "Default":
	case "TargetUtilization":
		add(CodeNotImplemented, "properties.scaleSettings.scaleType", "scaleType TargetUtilization is not implemented yet; use Default and set the instance count")
	default:
		add(CodeBadArgument, "properties.scaleSettings.scaleType", "scaleType %.40q is not one of Default, TargetUtilization", s.Scale.Type)
	}
	switch s.EgressPublicAccess {
	case "Enabled":
	case "Disabled":
		add(CodeNotImplemented, "properties.egressPublicNetworkAccess", "egressPublicNetworkAccess Disabled is not implemented yet; use Enabled")
	default:
		add(CodeBadArgument, "properties.egressPublicNetworkAccess", "egressPublicNetworkAccess %.40q is not one of Enabled, Disabled", s.EgressPublicAccess)
	}
	faults = append(faults, s.validateServer()...)
	if s.AppInsightsEnabled {
		add(CodeNotImplemented, "properties.appInsightsEnabled", "appInsightsEnabled is not implemented yet; leave it false")
	}
	if s.Batching != nil {
		faults = append(faults, s.Batching.validate(s.Request.MaxConcurrent)...)
	}
	if s.Cache != nil {
		faults = append(faults, s.Cache.validate()...)
		// A worker of ours says whether its script sees headers; of a server that is not ours nobody knows.
		if s.Runtime == RuntimeServer && len(s.Cache.Vary) == 0 {
			add(CodeBadArgument, "properties.properties."+PropertyCacheVary, "a custom server may answer by any header, so its response cache needs vary: the headers that answers depend on")
		}
	}
	faults = append(faults, s.DataCollector.validate()...)
	if _, err := s.WorkerCount(); err != nil {
		faults = append(faults, err)
	}
	return append(faults, s.validateVariables()...)
}

// Bounds of environment variables. A process can be given 128 KiB in one variable and, with its arguments, a
// quarter of its stack in all (execve(2)); these stay well below.
const (
	MaxVariableBytes  = 64 << 10
	MaxVariablesBytes = 512 << 10 // of all names and values together
)

func (s *DeploymentSpec) validateVariables() []*Error {
	const target = "properties.environmentVariables"
	var faults []*Error
	total := 0
	for _, name := range slices.Sorted(maps.Keys(s.EnvironmentVariables)) {
		value := s.EnvironmentVariables[name].Reveal()
		total += len(name) + len(value)
		switch at := target + "." + name; {
		case name == "" || strings.ContainsAny(name, "=\x00"):
			faults = append(faults, Errorf(CodeBadArgument, target, "environment variable name %.40q is not valid", name))
		case strings.HasPrefix(name, ReservedVariables):
			faults = append(faults, Errorf(CodeBadArgument, at, "names that begin with %s are Portico's own; choose another name", ReservedVariables))
		case strings.Contains(value, "\x00"):
			faults = append(faults, Errorf(CodeBadArgument, at, "the value holds a NUL character"))
		case len(value) > MaxVariableBytes:
			faults = append(faults, Errorf(CodeBadArgument, at, "the value has %d bytes; at most %d are allowed", len(value), MaxVariableBytes))
		case strings.HasPrefix(value, "${{azureml://"), strings.HasPrefix(value, "${{keyvault:"):
			faults = append(faults, Errorf(CodeNotImplemented, at, "secret injection from connections and key vaults is not implemented yet; give the value itself"))
		}
	}
	if total > MaxVariablesBytes {
		faults = append(faults, Errorf(CodeBadArgument, target, "the variables have %d bytes together; at most %d are allowed", total, MaxVariablesBytes))
	}
	return faults
}

func (p Probe) validate(target string, successIsOne bool) []*Error {
	var faults []*Error
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"initialDelay", p.InitialDelay}, {"period", p.Period}, {"timeout", p.Timeout}} {
		if d.v < time.Second {
			faults = append(faults, Errorf(CodeBadArgument, target+"."+d.name, "%s %s is less than the minimum of 1 second", d.name, d.v))
		}
	}
	if p.SuccessThreshold < 1 || successIsOne && p.SuccessThreshold != 1 {
		faults = append(faults, Errorf(CodeBadArgument, target+".successThreshold", "successThreshold %d is not valid here; use 1", p.SuccessThreshold))
	}
	if p.FailureThreshold < 1 {
		faults = append(faults, Errorf(CodeBadArgument, target+".failureThreshold", "failureThreshold %d is less than 1", p.FailureThreshold))
	}
	return faults
}
