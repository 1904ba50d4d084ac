package reconcile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"portico/internal/compute"
	"portico/internal/online"
	"portico/internal/store"
)

// Digest is the content id of everything in a spec that an instance can see. Specs that differ only in count,
// tags or description have the same digest, so changing those starts nothing.
func Digest(spec *online.DeploymentSpec) string {
	h := sha256.New()
	enc := json.NewEncoder(h)
	// Encoding plain data into a hash cannot fail.
	_ = enc.Encode([]any{
		"template/1", spec.InstanceType, spec.Model, spec.Code, spec.ScoringScript, spec.Environment,
		spec.Request.Timeout, spec.Request.MaxConcurrent, spec.Liveness, spec.Readiness, spec.Startup,
	})
	if c := collected(spec.DataCollector); c != "" {
		_ = enc.Encode([]string{"collector", c})
	}
	if spec.Runtime != "" { // absent before there were any: digests of script deployments stay what they were
		_ = enc.Encode(spec.Runtime)
	}
	if spec.Batching != nil { // likewise
		_ = enc.Encode(spec.Batching)
	}
	if headerless(spec) {
		_ = enc.Encode("headerless")
	}
	if spec.Runtime == online.RuntimeServer {
		_ = enc.Encode([]any{spec.Command, spec.Inference, spec.ModelMountPath})
	}
	if spec.Image != "" {
		_ = enc.Encode([]string{"image", spec.Image})
	}
	for _, name := range slices.Sorted(maps.Keys(spec.EnvironmentVariables)) {
		_ = enc.Encode([]string{name, spec.EnvironmentVariables[name].Reveal()})
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// headerless says that no script of the deployment may read request headers: its answers are given again to requests whose
// headers nobody compares.
func headerless(spec *online.DeploymentSpec) bool {
	return spec.Cache != nil && len(spec.Cache.Vary) == 0
}

// template puts a set's parts together.
func template(d *store.Deployment, set *online.SetStatus, p *prepared, types online.Catalogue) (compute.Template, error) {
	itype, ok := types.Find(d.Spec.InstanceType)
	if !ok {
		return compute.Template{}, types.Check(d.Spec.InstanceType)
	}
	workers, fault := d.Spec.WorkerCount()
	if fault != nil {
		return compute.Template{}, fault
	}
	var server *compute.Server
	if d.Spec.Runtime == online.RuntimeServer {
		server = &compute.Server{Routes: d.Spec.Inference, ModelMount: d.Spec.ModelMount(), Image: p.environment.Image}
		if d.Spec.Command != "" {
			var err error
			if server.Command, err = online.SplitCommand(d.Spec.Command); err != nil {
				return compute.Template{}, fmt.Errorf("read the command: %w", err)
			}
		}
		workers = 1
	}
	return compute.Template{
		Set: set.ID, Generation: set.Generation, Digest: set.Template,
		Endpoint: d.ID.Parent, Deployment: d.ID.Name, DeploymentID: d.ID, UID: d.UID, Type: itype,
		Python: p.environment.Python, EnvironmentID: p.environment.ID,
		CodeDir: p.codeDir, ScoringScript: d.Spec.ScoringScript, ModelDir: p.modelDir, ModelDigest: p.modelDigest,
		MLflowModel: p.mlflowModel, ONNX: p.onnx, Server: server, Headerless: headerless(&d.Spec),
		Variables: variables(&d.Spec),
		Workers:   workers, MaxConcurrent: d.Spec.Request.MaxConcurrent, RequestTimeout: d.Spec.Request.Timeout,
		Batching: d.Spec.Batching,
		Liveness: d.Spec.Liveness, Readiness: d.Spec.Readiness, Startup: d.Spec.Startup,
	}, nil
}

// CollectorVariable tells a worker which collections its code may fill, and at which rates: a JSON object of rates by
// name. Workers without any lack it.
const CollectorVariable = online.ReservedVariables + "DATA_COLLECTOR"

// variables are a person's, with those that the spec implies.
func variables(spec *online.DeploymentSpec) map[string]online.Secret {
	c := collected(spec.DataCollector)
	if c == "" {
		return spec.EnvironmentVariables
	}
	out := maps.Clone(spec.EnvironmentVariables)
	if out == nil {
		out = map[string]online.Secret{}
	}
	out[CollectorVariable] = online.Secret(c)
	return out
}

// collected describes the collections that code fills; empty: none.
func collected(c *online.DataCollector) string {
	rates := map[string]float64{}
	for _, name := range c.Enabled() {
		if !online.Reserved(name) {
			rates[name] = c.Find(name).SamplingRate
		}
	}
	if len(rates) == 0 {
		return ""
	}
	doc, _ := json.Marshal(rates) // of finite numbers
	return string(doc)
}

// targetError makes any error of a preparation one that its reader can act on.
func targetError(code online.Code, target string, err error) *online.Error {
	if e, ok := online.AsError(err); ok {
		return e
	}
	return online.Errorf(code, target, "%s", fmt.Sprintf("%v", err))
}
