package arm

import (
	"maps"
	"time"

	"portico/internal/online"
)

// Deployment is an online deployment on the wire, in both directions.
type Deployment struct {
	ID         string               `json:"id,omitempty"`
	Name       string               `json:"name,omitempty"`
	Type       string               `json:"type,omitempty"`
	ETag       string               `json:"etag,omitempty"`
	Location   string               `json:"location,omitempty"`
	Tags       map[string]string    `json:"tags"`
	Kind       string               `json:"kind,omitempty"`
	Identity   *Identity            `json:"identity,omitempty"`
	SKU        *SKU                 `json:"sku,omitempty"`
	SystemData *SystemData          `json:"systemData,omitempty"`
	Properties DeploymentProperties `json:"properties"`
}

// DeploymentProperties are the properties of a managed online deployment.
type DeploymentProperties struct {
	EndpointComputeType       string             `json:"endpointComputeType,omitempty"`
	Description               string             `json:"description"`
	Properties                map[string]string  `json:"properties"`
	ProvisioningState         string             `json:"provisioningState,omitempty"`
	InstanceType              string             `json:"instanceType,omitempty"`
	Model                     *string            `json:"model"`
	ModelMountPath            *string            `json:"modelMountPath"`
	CodeConfiguration         *CodeConfiguration `json:"codeConfiguration"`
	EnvironmentID             *string            `json:"environmentId"`
	EnvironmentVariables      map[string]string  `json:"environmentVariables"`
	AppInsightsEnabled        bool               `json:"appInsightsEnabled"`
	EgressPublicNetworkAccess string             `json:"egressPublicNetworkAccess,omitempty"`
	RequestSettings           *RequestSettings   `json:"requestSettings,omitempty"`
	LivenessProbe             *Probe             `json:"livenessProbe,omitempty"`
	ReadinessProbe            *Probe             `json:"readinessProbe,omitempty"`
	StartupProbe              *Probe             `json:"startupProbe,omitempty"`
	ScaleSettings             *ScaleSettings     `json:"scaleSettings,omitempty"`
	DataCollector             *DataCollector     `json:"dataCollector,omitempty"`
	PrivateNetworkConnection  Refused            `json:"privateNetworkConnection,omitzero"`
	Instances                 []Instance         `json:"instances,omitempty"` // answered only
	Stages                    []Stage            `json:"stages,omitempty"`    // answered only
	ServiceError              *ErrorDetail       `json:"error,omitempty"`     // why provisioningState is Failed
}

// CodeConfiguration names the scoring code.
type CodeConfiguration struct {
	CodeID        string `json:"codeId,omitempty"`
	ScoringScript string `json:"scoringScript"`
}

// RequestSettings bound the requests of a deployment.
type RequestSettings struct {
	MaxConcurrent  *int      `json:"maxConcurrentRequestsPerInstance,omitempty"`
	MaxQueueWait   *Duration `json:"maxQueueWait,omitempty"`
	RequestTimeout *Duration `json:"requestTimeout,omitempty"`
}

// Probe says how health is judged.
type Probe struct {
	FailureThreshold *int      `json:"failureThreshold,omitempty"`
	SuccessThreshold *int      `json:"successThreshold,omitempty"`
	Timeout          *Duration `json:"timeout,omitempty"`
	Period           *Duration `json:"period,omitempty"`
	InitialDelay     *Duration `json:"initialDelay,omitempty"`
}

// ScaleSettings choose how the instance count is set.
type ScaleSettings struct {
	ScaleType         string    `json:"scaleType"`
	MinInstances      *int      `json:"minInstances,omitempty"`
	MaxInstances      *int      `json:"maxInstances,omitempty"`
	PollingInterval   *Duration `json:"pollingInterval,omitempty"`
	TargetUtilization *int      `json:"targetUtilizationPercentage,omitempty"`
}

// Instance is one running copy, as people see it.
type Instance struct {
	ID         string `json:"id"`
	Generation int64  `json:"generation"`
	State      string `json:"state"`
	Restarts   int    `json:"restarts"`
	Reason     string `json:"reason,omitempty"`
}

// DeploymentPatch is the body of a PATCH: absent members stay as they are.
type DeploymentPatch struct {
	Tags *map[string]string `json:"tags,omitempty"`
	SKU  *SKU               `json:"sku,omitempty"`
}

// Domain gives the instance count that is asked for (nil: none) and reports what the SKU cannot mean here.
func (p *DeploymentPatch) Domain() (capacity *int, faults []*online.Error) {
	if p.SKU != nil {
		capacity = p.SKU.Capacity
	}
	return capacity, refuse(nil, p.SKU.refusals()...)
}

// LogRequest is the body of getLogs. Instance is Portico's own: logs of one instance.
type LogRequest struct {
	ContainerType string `json:"containerType,omitempty"`
	Tail          *int   `json:"tail,omitempty"`
	Instance      string `json:"instanceId,omitempty"`
}

// Logs is the answer of getLogs.
type Logs struct {
	Content string `json:"content"`
}

// SKUCapacity is one entry of a deployment's skus.
type SKUCapacity struct {
	ResourceType string   `json:"resourceType"`
	SKU          SKU      `json:"sku"`
	Capacity     Capacity `json:"capacity"`
}

// Capacity is the range of counts of a SKU.
type Capacity struct {
	Default   int    `json:"default"`
	Minimum   int    `json:"minimum"`
	Maximum   int    `json:"maximum"`
	ScaleType string `json:"scaleType"`
}

var (
	computeTypes   = []string{"Managed", "Kubernetes", "AzureMLCompute"}
	scaleTypes     = []string{"Default", "TargetUtilization"}
	containerTypes = []string{"InferenceServer", "StorageInitializer", "ModelDataCollector"}
)

// Container gives the canonical containerType; InferenceServer when absent.
func (r LogRequest) Container() string {
	if r.ContainerType == "" {
		return containerTypes[0]
	}
	return word(r.ContainerType, containerTypes...)
}

// DeploymentRequest is a deployment with its references as a person wrote them; control resolves them.
type DeploymentRequest struct {
	Spec        online.DeploymentSpec // without Model, Code and Environment
	Model       string
	Code        string
	Environment string
	Data        map[string]string // data asset by collection; without one the collection gets its default
}

// Domain translates a request into the domain. It reports what the domain cannot express: fields that are not
// implemented, and explicit zeroes that defaults would otherwise hide.
func (d *Deployment) Domain() (DeploymentRequest, []*online.Error) {
	p := &d.Properties
	faults := refuse(nil, refusal{p.PrivateNetworkConnection, "properties.privateNetworkConnection"},
		onlyKind(d.Kind, "Managed"), noIdentity(d.Identity))
	faults = refuse(faults, d.SKU.refusals()...)
	r := DeploymentRequest{Spec: online.DeploymentSpec{
		Location: d.Location, Description: p.Description, Tags: d.Tags, Properties: ownProperties(p.Properties),
		EndpointComputeType: word(p.EndpointComputeType, computeTypes...),
		InstanceType:        p.InstanceType, ModelMountPath: text(p.ModelMountPath),
		AppInsightsEnabled: p.AppInsightsEnabled, EgressPublicAccess: word(p.EgressPublicNetworkAccess, access...),
	}, Model: text(p.Model), Environment: text(p.EnvironmentID)}
	if c := p.CodeConfiguration; c != nil {
		r.Code, r.Spec.ScoringScript = c.CodeID, c.ScoringScript
	}
	if len(p.EnvironmentVariables) > 0 {
		r.Spec.EnvironmentVariables = make(map[string]online.Secret, len(p.EnvironmentVariables))
		for k, v := range p.EnvironmentVariables {
			r.Spec.EnvironmentVariables[k] = online.Secret(v)
		}
	}
	if d.SKU != nil {
		r.Spec.InstanceCount, faults = positive(d.SKU.Capacity, "sku.capacity", faults)
	}
	if q := p.RequestSettings; q != nil {
		const path = "properties.requestSettings."
		r.Spec.Request.MaxConcurrent, faults = positive(q.MaxConcurrent, path+"maxConcurrentRequestsPerInstance", faults)
		r.Spec.Request.Timeout, faults = positive(q.RequestTimeout.domain(), path+"requestTimeout", faults)
		if q.MaxQueueWait != nil {
			r.Spec.Request.MaxQueueWait = time.Duration(*q.MaxQueueWait)
		}
	}
	r.Spec.Liveness, faults = p.LivenessProbe.domain("properties.livenessProbe.", faults)
	r.Spec.Readiness, faults = p.ReadinessProbe.domain("properties.readinessProbe.", faults)
	if p.StartupProbe != nil {
		var startup online.Probe
		startup, faults = p.StartupProbe.domain("properties.startupProbe.", faults)
		r.Spec.Startup = &startup
	}
	r.Spec.Scale, faults = p.ScaleSettings.domain(faults)
	r.Spec.DataCollector, r.Data, faults = p.DataCollector.domain(faults)
	return r, readSettings(&r.Spec, faults)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// positive reads a number whose zero would be taken for "absent" by the domain's defaults.
func positive[N int | time.Duration](v *N, path string, faults []*online.Error) (N, []*online.Error) {
	if v == nil {
		return 0, faults
	}
	if *v == 0 {
		faults = append(faults, online.Errorf(online.CodeBadArgument, path,
			"0 is not allowed here; use at least 1, or leave the field out"))
	}
	return *v, faults
}

func (d *Duration) domain() *time.Duration { return (*time.Duration)(d) }

func (p *Probe) domain(path string, faults []*online.Error) (online.Probe, []*online.Error) {
	var out online.Probe
	if p == nil {
		return out, faults
	}
	out.FailureThreshold, faults = positive(p.FailureThreshold, path+"failureThreshold", faults)
	out.SuccessThreshold, faults = positive(p.SuccessThreshold, path+"successThreshold", faults)
	out.Timeout, faults = positive(p.Timeout.domain(), path+"timeout", faults)
	out.Period, faults = positive(p.Period.domain(), path+"period", faults)
	out.InitialDelay, faults = positive(p.InitialDelay.domain(), path+"initialDelay", faults)
	return out, faults
}

func (s *ScaleSettings) domain(faults []*online.Error) (online.ScaleSettings, []*online.Error) {
	var out online.ScaleSettings
	if s == nil {
		return out, faults
	}
	out.Type = word(s.ScaleType, scaleTypes...)
	for _, f := range []struct {
		set  bool
		name string
	}{{s.MinInstances != nil, "minInstances"}, {s.MaxInstances != nil, "maxInstances"},
		{s.PollingInterval != nil, "pollingInterval"}, {s.TargetUtilization != nil, "targetUtilizationPercentage"}} {
		if f.set && out.Type != "TargetUtilization" {
			faults = append(faults, online.Errorf(online.CodeBadArgument, "properties.scaleSettings."+f.name,
				"%s belongs to scaleType TargetUtilization; leave it out with scaleType Default", f.name))
		}
	}
	if s.MinInstances != nil {
		out.MinInstances = *s.MinInstances
	}
	if s.MaxInstances != nil {
		out.MaxInstances = *s.MaxInstances
	}
	if s.TargetUtilization != nil {
		out.TargetUtilization = *s.TargetUtilization
	}
	if s.PollingInterval != nil {
		out.PollingInterval = time.Duration(*s.PollingInterval)
	}
	return out, faults
}

// NewDeployment renders a deployment with what the service has filled in. extra are properties that the service adds.
func NewDeployment(m Meta, s online.DeploymentSpec, st online.DeploymentStatus, extra map[string]string) Deployment {
	d := Deployment{
		ID: FormatID(m.ID), Name: m.ID.Name, Type: TypeOf(m.ID), ETag: m.ETag, Location: s.Location,
		Tags: orEmpty(s.Tags), Kind: "Managed", SystemData: m.systemData(), SKU: deploymentSKU(s),
		Properties: deploymentProperties(s),
	}
	p := &d.Properties
	p.ProvisioningState = string(m.State)
	maps.Copy(p.Properties, extra)
	for _, i := range st.Instances {
		p.Instances = append(p.Instances, Instance{ID: i.ID, Generation: i.Generation, State: string(i.State),
			Restarts: i.Restarts, Reason: i.Reason})
	}
	p.Stages = stages(st.Stages)
	if st.Error != nil && m.State == online.StateFailed {
		e := errorDetail(st.Error)
		p.ServiceError = &e
	}
	return d
}

func deploymentSKU(s online.DeploymentSpec) *SKU {
	return &SKU{Name: "Default", Tier: "Standard", Capacity: new(s.InstanceCount)}
}

// deploymentProperties renders a spec.
func deploymentProperties(s online.DeploymentSpec) DeploymentProperties {
	p := DeploymentProperties{
		EndpointComputeType: s.EndpointComputeType, Description: s.Description, Properties: map[string]string{},
		InstanceType: s.InstanceType, EnvironmentVariables: map[string]string{},
		AppInsightsEnabled: s.AppInsightsEnabled, EgressPublicNetworkAccess: s.EgressPublicAccess,
		RequestSettings: &RequestSettings{MaxConcurrent: new(s.Request.MaxConcurrent),
			MaxQueueWait: new(Duration(s.Request.MaxQueueWait)), RequestTimeout: new(Duration(s.Request.Timeout))},
		LivenessProbe: newProbe(s.Liveness), ReadinessProbe: newProbe(s.Readiness),
		ScaleSettings: &ScaleSettings{ScaleType: s.Scale.Type},
		DataCollector: newDataCollector(s.DataCollector),
	}
	maps.Copy(p.Properties, s.Properties)
	showSettings(&s, p.Properties)
	if s.Startup != nil {
		p.StartupProbe = newProbe(*s.Startup)
	}
	if s.Model != nil {
		p.Model = new(FormatID(s.Model.ID()))
	}
	if s.ModelMountPath != "" {
		p.ModelMountPath = &s.ModelMountPath
	}
	if s.Code != nil {
		p.CodeConfiguration = &CodeConfiguration{CodeID: FormatID(s.Code.ID()), ScoringScript: s.ScoringScript}
	}
	if s.Environment != nil {
		p.EnvironmentID = new(FormatID(s.Environment.ID()))
	}
	// In clear, as Azure answers them: a client that reads, changes and writes back would lose them otherwise.
	for k, v := range s.EnvironmentVariables {
		p.EnvironmentVariables[k] = v.Reveal()
	}
	return p
}

func newProbe(p online.Probe) *Probe {
	return &Probe{FailureThreshold: new(p.FailureThreshold), SuccessThreshold: new(p.SuccessThreshold),
		Timeout: new(Duration(p.Timeout)), Period: new(Duration(p.Period)), InitialDelay: new(Duration(p.InitialDelay))}
}
