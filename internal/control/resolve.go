package control

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"

	"portico/internal/arm"
	"portico/internal/environment"
	"portico/internal/mlflow"
	"portico/internal/online"
	"portico/internal/onnx"
	"portico/internal/route"
	"portico/internal/store"
)

// CuratedPrefix begins the names of the environments that Azure ships; ours follow it.
const CuratedPrefix = "AzureML-"

// resolve turns a request's references into stored versions and checks that they can be used. It gives what a
// person can mend as faults. A curated environment becomes a version in the workspace, so that every stored
// reference names a record.
func (s *Service) resolve(tx store.Tx, c Caller, w online.WorkspaceID, spec *online.DeploymentSpec,
	in arm.DeploymentRequest) ([]*online.Error, error) {
	var faults []*online.Error
	var model *online.AssetSpec
	spec.Image = "" // the environment says it
	if spec.Command != "" {
		spec.Runtime = online.RuntimeServer
		if in.Environment == "" {
			faults = append(faults, online.Errorf(online.CodeBadArgument, "properties.environmentId",
				"a command needs an environment whose inferenceConfig says where its server answers"))
		}
	}
	for _, r := range []struct {
		ref    string
		kind   online.Kind
		target string
		into   **online.AssetRef
		check  func(*online.AssetSpec, string) *online.Error
	}{
		{in.Model, online.KindModel, "properties.model", &spec.Model,
			func(a *online.AssetSpec, _ string) *online.Error { model = a; return nil }},
		{in.Code, online.KindCode, "properties.codeConfiguration.codeId", &spec.Code,
			func(a *online.AssetSpec, _ string) *online.Error { return s.checkScript(a, spec.ScoringScript) }},
		{in.Environment, online.KindEnvironment, "properties.environmentId", &spec.Environment,
			func(a *online.AssetSpec, target string) *online.Error { return s.checkEnvironment(spec, a, target) }},
	} {
		if r.ref == "" {
			continue
		}
		asset, err := s.find(tx, c, w, r.ref, r.kind, r.target)
		if fault, ok := online.AsError(err); ok {
			faults = append(faults, fault)
			continue
		}
		if err != nil {
			return nil, err
		}
		*r.into = &online.AssetRef{Workspace: asset.ID.Workspace, Kind: r.kind, Name: asset.ID.Parent,
			Version: asset.ID.Name}
		if fault := r.check(&asset.Spec, r.target); fault != nil {
			faults = append(faults, fault)
		}
	}
	if spec.Code == nil && spec.ScoringScript != "" && in.Code == "" {
		faults = append(faults, online.Errorf(online.CodeBadArgument, "properties.codeConfiguration.codeId",
			"codeConfiguration names a scoring script but no code; give codeId"))
	}
	if in.Code == "" && spec.ScoringScript == "" && model != nil && spec.Runtime == "" {
		var fault *online.Error
		if spec.Runtime, fault = s.runtimeOf(model, in.Environment == ""); fault == nil && spec.Runtime == online.RuntimeONNX {
			if fault = s.checkONNX(spec, in.Environment == ""); fault == nil {
				fault = s.batchAsConfigured(spec, model)
			}
		}
		if fault != nil {
			faults = append(faults, fault)
		}
	}
	return faults, nil
}

// Types under which models are registered; Azure's own SDK often says custom_model instead.
const (
	typeMLflow = "mlflow_model"
	typeTriton = "triton_model"
)

// runtimeOf finds what can serve a model without code; none is no fault, unless the model is declared as one that has
// a runtime. Its own environment is looked at when it is the one that will be used.
func (s *Service) runtimeOf(model *online.AssetSpec, ownEnvironment bool) (online.Runtime, *online.Error) {
	const target = "properties.model"
	root, err := s.Artifacts.Path(model.Digest)
	if err != nil {
		return "", online.Errorf(online.CodeConflict, target,
			"the content of the model is gone: %w; register it again", err)
	}
	var m *mlflow.Model
	if err = mlflow.ErrNone; !model.IsFile { // a lone MLmodel file is no model
		m, err = mlflow.Open(root)
	}
	switch fault, ok := online.AsError(err); {
	case errors.Is(err, mlflow.ErrNone) && model.DataType == typeMLflow:
		return online.RuntimeMLflow, online.Errorf(online.CodeBadArgument, target,
			"the model is declared as %s, but there is %w; register the folder that MLflow saved", typeMLflow, err)
	case errors.Is(err, mlflow.ErrNone):
		return onnxRuntime(root, model.DataType)
	case ok: // it is an MLflow model, whatever is wrong with it
		return online.RuntimeMLflow, fault
	case err != nil:
		return "", online.Errorf(online.CodeConflict, target, "the content of the model cannot be read: %w", withoutPath(err))
	}
	if m.ONNX != "" && (ownEnvironment || !m.Python) {
		return online.RuntimeONNX, savedONNX(root, m)
	}
	if !ownEnvironment {
		return online.RuntimeMLflow, nil
	}
	spec, _, err := m.Environment()
	if err == nil {
		_, err = environment.Check(spec)
	}
	if fault, ok := online.AsError(err); ok {
		return online.RuntimeMLflow, online.Errorf(fault.Code, target,
			"the environment that the model asks for cannot be built: %s; name one in the deployment", fault.Message)
	}
	return online.RuntimeMLflow, nil
}

// onnxRuntime is the runtime of an ONNX model; empty: the tree holds none.
func onnxRuntime(root, declared string) (online.Runtime, *online.Error) {
	_, err := onnx.Open(root)
	switch fault, ok := online.AsError(err); {
	case err == nil:
		return online.RuntimeONNX, nil
	case ok:
		return online.RuntimeONNX, fault
	case !errors.Is(err, onnx.ErrNone):
		return "", online.Errorf(online.CodeConflict, "properties.model", "the content of the model cannot be read: %w", withoutPath(err))
	case declared == typeTriton:
		return online.RuntimeONNX, online.Errorf(online.CodeNotImplemented, "properties.model",
			"the model is declared as %s, but there is %w; models of other frameworks are not implemented", typeTriton, err)
	}
	return "", nil
}

// savedONNX sees that the file that an MLflow model names is there.
func savedONNX(root string, m *mlflow.Model) *online.Error {
	name := path.Join(m.Dir, m.ONNX)
	tree, err := os.OpenRoot(root)
	if err == nil {
		_, err = tree.Stat(name)
		err = errors.Join(err, tree.Close())
	}
	if err != nil {
		return online.Errorf(online.CodeBadArgument, "properties.model", "the model's file %s is not there", name)
	}
	return nil
}

// checkONNX sees that ONNX models can be served as the deployment asks.
func (s *Service) checkONNX(spec *online.DeploymentSpec, ownEnvironment bool) *online.Error {
	if !ownEnvironment {
		return online.Errorf(online.CodeBadArgument, "properties.environmentId",
			"an ONNX model is served without Python: leave the environment out, or add a scoring script")
	}
	if t, ok := s.Catalogue.Find(spec.InstanceType); ok && t.GPUs > 0 {
		return online.Errorf(online.CodeNotImplemented, "properties.instanceType",
			"ONNX models run on processors; GPUs are not implemented for them, and %s has some", spec.InstanceType)
	}
	for _, name := range spec.DataCollector.Enabled() {
		if !online.Reserved(name) {
			return online.Errorf(online.CodeNotImplemented, "properties.dataCollector.collections."+name,
				"an ONNX model fills no collection; only %s and %s are", online.CollectionRequest, online.CollectionResponse)
		}
	}
	if s.ONNXRuntime == nil {
		return nil
	}
	if err := s.ONNXRuntime(); err != nil {
		return online.Errorf(online.CodeConflict, "properties.model", "this server cannot serve ONNX models: %w", err)
	}
	return nil
}

// batchAsConfigured takes over what the configuration of a model repository says of batches, where the deployment says
// nothing. One that admits fewer requests at once gets smaller batches, or none.
func (s *Service) batchAsConfigured(spec *online.DeploymentSpec, model *online.AssetSpec) *online.Error {
	if spec.Batching != nil {
		return nil
	}
	root, err := s.Artifacts.Path(model.Digest)
	if err != nil {
		return online.Errorf(online.CodeConflict, "properties.model", "the content of the model is gone: %w; register it again", err)
	}
	found, err := onnx.Open(root)
	if err != nil || found.Config == nil || found.Config.Batching == nil {
		return nil //nolint:nilerr // what an MLflow model names is served whatever lies beside it
	}
	b := *found.Config.Batching
	if most := spec.Request.MaxConcurrent; most > 0 {
		b.MaxSize = min(b.MaxSize, most)
	}
	if b.MaxSize >= online.MinBatchSize {
		spec.Batching = &b
	}
	return nil
}

// find reads the version that a reference names. An *online.Error says what is wrong with the reference.
func (s *Service) find(tx store.Tx, c Caller, w online.WorkspaceID, text string, kind online.Kind,
	target string) (*store.Asset, error) {
	ref, err := arm.ParseReference(text, kind, w, target)
	if err != nil {
		return nil, err
	}
	if ref.Registry != "" {
		return s.curated(tx, c, w, ref, target)
	}
	if ref.Label != "" {
		return latest(tx, ref, target)
	}
	rec, err := find(tx, ref.Workspace.Asset(kind, ref.Name, ref.Version))
	if err != nil {
		return nil, err
	}
	if rec == nil && kind == online.KindEnvironment && hasFoldedPrefix(ref.Name, CuratedPrefix) {
		return s.curated(tx, c, w, ref, target)
	}
	if rec == nil {
		return nil, online.Errorf(online.CodeBadArgument, target,
			"%s %s:%s does not exist in workspace %q; register it first",
			kind, ref.Name, ref.Version, ref.Workspace.Name)
	}
	return store.Decode[online.AssetSpec, struct{}](rec)
}

func hasFoldedPrefix(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// latest finds the version that was registered last and is not archived.
func latest(r store.Reader, ref arm.Reference, target string) (*store.Asset, error) {
	if !strings.EqualFold(ref.Label, "latest") {
		return nil, online.Errorf(online.CodeBadArgument, target,
			"the label %.40q is not known; use @latest or a version", ref.Label)
	}
	all, err := versions(r, ref.Workspace, ref.Kind, ref.Name)
	if err != nil {
		return nil, err
	}
	if newest := newestOf(all); newest != nil {
		return newest, nil
	}
	return nil, online.Errorf(online.CodeBadArgument, target, "%s %s has no version in workspace %q; register one first",
		ref.Kind, ref.Name, ref.Workspace.Name)
}

// curated finds an environment that ships with Portico and registers it in the workspace at its first use.
func (s *Service) curated(tx store.Tx, c Caller, w online.WorkspaceID, ref arm.Reference,
	target string) (*store.Asset, error) {
	if ref.Kind != online.KindEnvironment {
		return nil, online.Errorf(online.CodeNotImplemented, target,
			"assets of registries are not implemented yet; register the %s in the workspace", ref.Kind)
	}
	if ref.Registry != "" && !strings.EqualFold(ref.Registry, "azureml") {
		return nil, online.Errorf(online.CodeNotImplemented, target,
			"the registry %.40q is not known; only curated environments of the registry azureml are", ref.Registry)
	}
	if ref.Label != "" && !strings.EqualFold(ref.Label, "latest") {
		return nil, online.Errorf(online.CodeBadArgument, target,
			"the label %.40q is not known; use latest or a version", ref.Label)
	}
	name, err := environment.CuratedName(ref.Name)
	if err != nil {
		return nil, moveTarget(err, target)
	}
	version := ref.Version
	if version == "" {
		version = "1"
	}
	id := w.Asset(online.KindEnvironment, ref.Name, version)
	rec, err := find(tx, id)
	if err != nil {
		return nil, err
	}
	if rec == nil {
		asset := online.AssetSpec{Environment: &online.EnvironmentSpec{Curated: name, OSType: "Linux"},
			Description: "Portico's curated environment " + name + "."}
		if rec, err = s.storeAsset(tx, c, id, &asset, nil, "create"); err != nil {
			return nil, err
		}
	}
	return store.Decode[online.AssetSpec, struct{}](rec)
}

// moveTarget puts another target on an error that a user sees.
func moveTarget(err error, target string) error {
	if fault, ok := online.AsError(err); ok {
		moved := *fault
		moved.Target = target
		return &moved
	}
	return err
}

// checkEnvironment says why a registered environment cannot be deployed. A custom server's routes become part of its spec.
func (s *Service) checkEnvironment(spec *online.DeploymentSpec, a *online.AssetSpec, target string) *online.Error {
	e := a.Environment
	if e == nil {
		return online.Errorf(online.CodeBadArgument, target, "the environment has no content; register it again")
	}
	packages := e.Packages()
	if e.Image != "" && !packages && (spec.Runtime == online.RuntimeServer || e.InferenceConfig != (online.InferenceConfig{})) {
		spec.Runtime, spec.Image = online.RuntimeServer, e.Image
	}
	switch routes := e.InferenceConfig; {
	case spec.Runtime == online.RuntimeServer:
		spec.Inference = routes
		for _, r := range []struct {
			name string
			of   online.Route
		}{{"livenessRoute", routes.Liveness}, {"readinessRoute", routes.Readiness}, {"scoringRoute", routes.Scoring}} {
			if r.of == (online.Route{}) {
				return online.Errorf(online.CodeBadArgument, target,
					"the environment's inferenceConfig lacks %s; a custom server needs livenessRoute, readinessRoute and scoringRoute, each with path and port", r.name)
			}
			if _, ok := route.Clean(r.of.Path); !ok {
				return online.Errorf(online.CodeBadArgument, target, "the path of the environment's %s, %.80q, is not one of a URL", r.name, r.of.Path)
			}
		}
		if spec.Image != "" {
			return s.checkImage(spec, target)
		}
		return nil
	case routes != (online.InferenceConfig{}) && packages:
		return online.Errorf(online.CodeNotImplemented, target,
			"the environment has an inferenceConfig, which is for custom servers, and the deployment runs a scoring script; register one without it, or give the command of the server in the property %s", online.PropertyCommand)
	case !packages:
		return online.Errorf(online.CodeNotImplemented, target,
			"the environment is an image alone, without an inferenceConfig that says where the server in it answers, and scoring scripts do not run in images; register one with an inferenceConfig, or with a conda file or pip requirements for a scoring script")
	}
	return nil
}

// checkImage says why an image cannot be run.
func (s *Service) checkImage(spec *online.DeploymentSpec, target string) *online.Error {
	if t, ok := s.Catalogue.Find(spec.InstanceType); ok && t.GPUs > 0 {
		return online.Errorf(online.CodeNotImplemented, "properties.instanceType",
			"images run on processors; GPUs are not implemented for them, and %s has some", spec.InstanceType)
	}
	err := environment.CheckImage(spec.Image)
	if fault, ok := online.AsError(err); ok {
		return online.Errorf(fault.Code, target, "%s", fault.Message)
	}
	err = errors.New("this server runs none")
	if s.Images != nil {
		err = s.Images()
	}
	if err != nil {
		return online.Errorf(online.CodeNotImplemented, target,
			"the environment is an image, which cannot run on this machine: %w. Or give the command that its server is started with in the property %s, with an environment that has a conda file or pip requirements: those are run without the image", err, online.PropertyCommand)
	}
	return nil
}

// checkScript looks for the scoring script in the code's tree.
func (s *Service) checkScript(code *online.AssetSpec, script string) *online.Error {
	const target = "properties.codeConfiguration.scoringScript"
	if script == "" || !fs.ValidPath(path.Clean(script)) {
		return nil // Validate says what is wrong with it
	}
	root, err := s.Artifacts.Path(code.Digest)
	if err != nil {
		return online.Errorf(online.CodeConflict, "properties.codeConfiguration.codeId",
			"the content of the code is gone: %w; register it again", err)
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return online.Errorf(online.CodeConflict, "properties.codeConfiguration.codeId",
			"the content of the code cannot be read: %w", withoutPath(err))
	}
	defer func() { _ = dir.Close() }() // only read
	info, err := dir.Stat(path.Clean(script))
	if err != nil {
		return online.Errorf(online.CodeBadArgument, target, "the scoring script %.80q is not in the code", script)
	}
	if !info.Mode().IsRegular() {
		return online.Errorf(online.CodeBadArgument, target, "the scoring script %.80q is not a file", script)
	}
	return nil
}

// withoutPath drops the path of the server's own from an error that a user sees.
func withoutPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
