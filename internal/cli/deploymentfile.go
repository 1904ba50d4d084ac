package cli

import (
	"portico/internal/arm"
	"portico/internal/online"
)

// deploymentFile is the managedOnlineDeployment schema: what a person writes, and what the deployment commands
// print.
type deploymentFile struct {
	Schema                   string             `json:"$schema,omitempty"`
	ID                       string             `json:"id,omitempty" show:"only"`
	Name                     string             `json:"name"`
	EndpointName             string             `json:"endpoint_name"`
	Type                     string             `json:"type,omitempty" one:"managed|kubernetes"`
	Description              string             `json:"description,omitempty"`
	Tags                     map[string]string  `json:"tags"`
	Properties               map[string]string  `json:"properties"`
	Model                    *modelRef          `json:"model,omitempty"`
	ModelMountPath           string             `json:"model_mount_path,omitempty"`
	Command                  string             `json:"command,omitempty"` // of a custom server; Portico's own key
	CodeConfiguration        *codeFile          `json:"code_configuration,omitempty"`
	Environment              *environmentRef    `json:"environment,omitempty"`
	EnvironmentVariables     map[string]string  `json:"environment_variables"`
	InstanceType             string             `json:"instance_type,omitempty"`
	InstanceCount            *int               `json:"instance_count,omitempty"`
	AppInsightsEnabled       *bool              `json:"app_insights_enabled,omitempty"`
	ScaleSettings            *scaleFile         `json:"scale_settings,omitempty"`
	RequestSettings          *requestFile       `json:"request_settings,omitempty"`
	Batching                 *batchingFile      `json:"batching,omitempty"`
	LivenessProbe            *probeFile         `json:"liveness_probe,omitempty"`
	ReadinessProbe           *probeFile         `json:"readiness_probe,omitempty"`
	StartupProbe             *probeFile         `json:"startup_probe,omitempty"`
	EgressPublicNetwork      string             `json:"egress_public_network_access,omitempty" one:"enabled|disabled"`
	DataCollector            *dataCollectorFile `json:"data_collector,omitempty"`
	ResponseCache            *cacheFile         `json:"response_cache,omitempty"` // Portico's own
	PrivateNetworkConnection *bool              `json:"private_network_connection,omitempty"`
	Location                 string             `json:"location,omitempty"`
	ProvisioningState        string             `json:"provisioning_state,omitempty" show:"only"`
	Instances                []arm.Instance     `json:"instances,omitempty" show:"only"`
	Stages                   []stageFile        `json:"stages,omitempty" show:"only"`
	Error                    *arm.ErrorDetail   `json:"error,omitempty" show:"only"`
	CreationContext          *createdFile       `json:"creation_context,omitempty" show:"only"`
	ResourceGroup            string             `json:"resourceGroup,omitempty" show:"only"`
}

// stageFile is one step of the newest change.
type stageFile struct {
	Name      string `json:"name"`
	State     string `json:"state"`
	StartTime string `json:"start_time,omitempty"`
	EndTime   string `json:"end_time,omitempty"`
	Detail    string `json:"detail,omitempty"`
}

type codeFile struct {
	Code          string `json:"code,omitempty"` // a folder, relative to the file; or azureml:NAME:VERSION
	ScoringScript string `json:"scoring_script,omitempty"`
}

type scaleFile struct {
	Type              string `json:"type,omitempty" one:"default|target_utilization"`
	MinInstances      *int   `json:"min_instances,omitempty"`
	MaxInstances      *int   `json:"max_instances,omitempty"`
	PollingInterval   *int   `json:"polling_interval,omitempty"` // seconds
	TargetUtilization *int   `json:"target_utilization_percentage,omitempty"`
}

type requestFile struct {
	MaxConcurrent    *int `json:"max_concurrent_requests_per_instance,omitempty"`
	RequestTimeoutMS *int `json:"request_timeout_ms,omitempty"`
	MaxQueueWaitMS   *int `json:"max_queue_wait_ms,omitempty"`
}

type probeFile struct {
	InitialDelay     *int `json:"initial_delay,omitempty"` // seconds
	Period           *int `json:"period,omitempty"`        // seconds
	Timeout          *int `json:"timeout,omitempty"`       // seconds
	SuccessThreshold *int `json:"success_threshold,omitempty"`
	FailureThreshold *int `json:"failure_threshold,omitempty"`
}

var (
	typeWords  = words{{"managed", "Managed"}, {"kubernetes", "Kubernetes"}}
	scaleWords = words{{"default", "Default"}, {"target_utilization", "TargetUtilization"}}
)

// resolvedAssets are the ids under which the assets of a deployment were found or registered; empty where the
// deployment has none.
type resolvedAssets struct {
	Model, Code, Environment string
	Data                     map[string]string // by collection
}

// wire gives the body of a PUT.
func (f *deploymentFile) wire(ids resolvedAssets) *arm.Deployment {
	out := &arm.Deployment{
		Location: f.Location, Tags: orEmpty(f.Tags),
		SKU: &arm.SKU{Name: "Default", Capacity: f.InstanceCount},
		Properties: arm.DeploymentProperties{
			EndpointComputeType: typeWords.wire(orDefault(f.Type, "managed")), Description: f.Description,
			Properties: orEmpty(f.Properties), Model: optional(ids.Model), ModelMountPath: optional(f.ModelMountPath),
			EnvironmentID: optional(ids.Environment), EnvironmentVariables: orEmpty(f.EnvironmentVariables),
			InstanceType: f.InstanceType, AppInsightsEnabled: isTrue(f.AppInsightsEnabled),
			LivenessProbe: f.LivenessProbe.wire(), ReadinessProbe: f.ReadinessProbe.wire(),
			StartupProbe:              f.StartupProbe.wire(),
			EgressPublicNetworkAccess: accessWords.wire(f.EgressPublicNetwork), DataCollector: f.DataCollector.wire(ids.Data),
			PrivateNetworkConnection: arm.Refused(isTrue(f.PrivateNetworkConnection)),
		},
	}
	p := &out.Properties
	if c := f.CodeConfiguration; c != nil {
		p.CodeConfiguration = &arm.CodeConfiguration{CodeID: ids.Code, ScoringScript: c.ScoringScript}
	}
	if r := f.RequestSettings; r != nil {
		p.RequestSettings = &arm.RequestSettings{
			MaxConcurrent: r.MaxConcurrent, MaxQueueWait: milliseconds(r.MaxQueueWaitMS),
			RequestTimeout: milliseconds(r.RequestTimeoutMS),
		}
	}
	if s := f.ScaleSettings; s != nil {
		p.ScaleSettings = &arm.ScaleSettings{
			ScaleType: scaleWords.wire(orDefault(s.Type, "default")), MinInstances: s.MinInstances,
			MaxInstances:    s.MaxInstances,
			PollingInterval: seconds(s.PollingInterval), TargetUtilization: s.TargetUtilization,
		}
	}
	return out
}

// mergeCommand adds the command to the other properties, where it stands on the wire.
func (f *deploymentFile) mergeCommand() error {
	if f.Command == "" {
		return nil
	}
	return addSettings(&f.Properties, "command", map[string]string{online.PropertyCommand: f.Command})
}

func isTrue(b *bool) bool { return b != nil && *b }

func (f *probeFile) wire() *arm.Probe {
	if f == nil {
		return nil
	}
	return &arm.Probe{
		InitialDelay: seconds(f.InitialDelay), Period: seconds(f.Period), Timeout: seconds(f.Timeout),
		SuccessThreshold: f.SuccessThreshold, FailureThreshold: f.FailureThreshold,
	}
}

// deploymentFromWire gives a deployment as it is printed.
func deploymentFromWire(w *arm.Deployment) *deploymentFile {
	p := &w.Properties
	f := &deploymentFile{
		ID: w.ID, Name: w.Name, EndpointName: segment(w.ID, "onlineEndpoints"), Type: typeWords.file(p.EndpointComputeType),
		Description: p.Description, Tags: orEmpty(w.Tags), Properties: orEmpty(p.Properties),
		Model: modelReference(text(p.Model)), ModelMountPath: text(p.ModelMountPath),
		Environment:          environmentReference(text(p.EnvironmentID)),
		EnvironmentVariables: orEmpty(p.EnvironmentVariables), InstanceType: p.InstanceType,
		AppInsightsEnabled: &p.AppInsightsEnabled,
		LivenessProbe:      probeFromWire(p.LivenessProbe), ReadinessProbe: probeFromWire(p.ReadinessProbe),
		StartupProbe:        probeFromWire(p.StartupProbe),
		EgressPublicNetwork: accessWords.file(p.EgressPublicNetworkAccess),
		DataCollector:       collectorFromWire(p.DataCollector),
		Location:            w.Location, ProvisioningState: p.ProvisioningState, Instances: p.Instances, Error: p.ServiceError,
		CreationContext: createdFromWire(w.SystemData), ResourceGroup: segment(w.ID, "resourceGroups"),
	}
	f.Command = f.Properties[online.PropertyCommand]
	delete(f.Properties, online.PropertyCommand)
	f.Batching = batchingFromProperties(f.Properties)
	f.ResponseCache = cacheFromProperties(f.Properties)
	for _, stage := range p.Stages {
		f.Stages = append(f.Stages, stageFile(stage))
	}
	if w.SKU != nil {
		f.InstanceCount = w.SKU.Capacity
	}
	if c := p.CodeConfiguration; c != nil {
		f.CodeConfiguration = &codeFile{Code: shownReference(c.CodeID), ScoringScript: c.ScoringScript}
	}
	if r := p.RequestSettings; r != nil {
		f.RequestSettings = &requestFile{
			MaxConcurrent: r.MaxConcurrent, MaxQueueWaitMS: inMilliseconds(r.MaxQueueWait),
			RequestTimeoutMS: inMilliseconds(r.RequestTimeout),
		}
	}
	if s := p.ScaleSettings; s != nil {
		f.ScaleSettings = &scaleFile{
			Type: scaleWords.file(s.ScaleType), MinInstances: s.MinInstances, MaxInstances: s.MaxInstances,
			PollingInterval: inSeconds(s.PollingInterval), TargetUtilization: s.TargetUtilization,
		}
	}
	return f
}

func probeFromWire(p *arm.Probe) *probeFile {
	if p == nil {
		return nil
	}
	return &probeFile{
		InitialDelay: inSeconds(p.InitialDelay), Period: inSeconds(p.Period), Timeout: inSeconds(p.Timeout),
		SuccessThreshold: p.SuccessThreshold, FailureThreshold: p.FailureThreshold,
	}
}

func orDefault(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}
