package reconcile

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"portico/internal/compute"
	"portico/internal/mlflow"
	"portico/internal/online"
	"portico/internal/onnx"
	"portico/internal/store"
)

// Environments builds the Python environment of a spec, or finds it built.
type Environments interface {
	Ensure(ctx context.Context, spec online.EnvironmentSpec, progress io.Writer) (Environment, error)
	// EnsureImage gives the file system of an image. version is the environment version that names it.
	EnsureImage(ctx context.Context, version online.ID, image string, progress io.Writer) (Environment, error)
}

// Environment is a built environment.
type Environment struct {
	ID     string
	Python string // absolute path of its interpreter; empty for an image
	Image  *compute.Image
}

// Artifacts finds the bytes of models and code.
type Artifacts interface {
	// Path is the root of the read-only tree with this digest.
	Path(digest string) (string, error)
	// Named is a folder that holds that tree as a folder of this name.
	Named(ctx context.Context, digest, name string) (string, error)
}

// prepared is all that a template needs beyond its spec.
type prepared struct {
	environment           Environment
	codeDir               string
	modelDir, modelDigest string
	mlflowModel           string             // folder of the MLmodel file, inside modelDir; empty for other models
	onnx                  *compute.ONNXModel // nil for other models
}

// preparations runs and remembers the preparation of each set.
type preparations struct {
	env       Environments
	artifacts Artifacts
	log       func(uid string) (io.WriteCloser, error)
	now       func() time.Time
	done      func(key online.ID) // called when one ended
	wg        sync.WaitGroup

	mu   sync.Mutex
	sets map[string]*preparation
}

type preparation struct {
	Preparation
	uid    string
	result *prepared
	cancel context.CancelFunc
}

// state tells how far a set is.
func (p *preparations) state(set string) (Preparation, *prepared) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.sets[set]; r != nil {
		return r.Preparation, r.result
	}
	return Preparation{}, nil
}

// start begins to prepare a set unless that was begun already.
func (p *preparations) start(ctx context.Context, set string, d *store.Deployment, assets map[online.Kind]*online.AssetSpec) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sets[set] != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &preparation{Preparation: Preparation{State: PrepareRunning, Stage: online.StageEnvironment, Since: p.now()}, uid: d.UID, cancel: cancel}
	p.sets[set] = r
	p.wg.Go(func() {
		defer cancel()
		result, stage, err := p.run(ctx, r, d, assets)
		p.mu.Lock()
		r.result, r.Ended = result, p.now()
		r.State = PrepareDone
		if err != nil {
			r.State, r.Stage, r.Err = PrepareFailed, stage, err
		}
		p.mu.Unlock()
		p.done(d.ID)
	})
}

func (p *preparations) run(ctx context.Context, r *preparation, d *store.Deployment, assets map[online.Kind]*online.AssetSpec) (*prepared, string, *online.Error) {
	out := &prepared{}
	progress, err := p.log(d.UID)
	if err != nil {
		return nil, online.StageEnvironment, targetError(online.CodeInternalServerError, "", fmt.Errorf("open the build log: %w", err))
	}
	defer progress.Close()
	model, err := p.openMLflow(d, assets[online.KindModel])
	if err != nil {
		return nil, online.StageEnvironment, targetError(online.CodeNotFound, "properties.model", err)
	}
	if d.Spec.Image != "" {
		if out.environment, err = p.env.EnsureImage(ctx, d.Spec.Environment.ID(), d.Spec.Image, progress); err != nil {
			return nil, online.StageEnvironment, targetError(online.CodeImageBuildFailure, "properties.environmentId", err)
		}
		if d.Spec.Command == "" && len(out.environment.Image.Command) == 0 {
			return nil, online.StageEnvironment, online.Errorf(online.CodeImageBuildFailure, "properties.environmentId",
				"the image names no program to start; give one in the property %s of the deployment", online.PropertyCommand)
		}
	} else if spec, target, err := environmentOf(assets[online.KindEnvironment], model, progress); err != nil {
		return nil, online.StageEnvironment, targetError(online.CodeImageBuildFailure, target, err)
	} else if spec != nil {
		env, err := p.env.Ensure(ctx, *spec, progress)
		if err != nil {
			return nil, online.StageEnvironment, targetError(online.CodeImageBuildFailure, target, err)
		}
		out.environment = env
	}
	p.mu.Lock()
	r.Stage, r.Since = online.StageModel, p.now()
	p.mu.Unlock()
	p.done(d.ID)
	if asset := assets[online.KindCode]; asset != nil {
		if out.codeDir, err = p.artifacts.Path(asset.Digest); err != nil {
			return nil, online.StageModel, targetError(online.CodeNotFound, "properties.codeConfiguration.codeId", err)
		}
	}
	if asset := assets[online.KindModel]; asset != nil {
		out.modelDigest = asset.Digest
		if out.modelDir, err = p.modelDir(ctx, asset); err != nil {
			return nil, online.StageModel, targetError(online.CodeNotFound, "properties.model", err)
		}
		if d.Spec.Runtime == online.RuntimeONNX {
			if out.onnx, err = p.openONNX(d, asset, out.modelDir, progress); err != nil {
				return nil, online.StageModel, targetError(online.CodeNotFound, "properties.model", err)
			}
		}
		if model != nil {
			out.mlflowModel = filepath.Join(out.modelDir, filepath.FromSlash(asset.Path), filepath.FromSlash(model.Dir))
		}
	}
	fmt.Fprintf(progress, "%s model and code are in place\n", p.now().UTC().Format(time.RFC3339))
	return out, "", nil
}

// openMLflow reads the model of a deployment that MLflow serves; nil for any other.
func (p *preparations) openMLflow(d *store.Deployment, asset *online.AssetSpec) (*mlflow.Model, error) {
	if d.Spec.Runtime != online.RuntimeMLflow || asset == nil {
		return nil, nil
	}
	root, err := p.artifacts.Path(asset.Digest)
	if err != nil {
		return nil, err
	}
	return mlflow.Open(root)
}

// openONNX finds the model of a deployment that ONNX Runtime serves. It is called as it is registered, unless a model
// repository has names of its own.
func (p *preparations) openONNX(d *store.Deployment, asset *online.AssetSpec, modelDir string, progress io.Writer) (
	*compute.ONNXModel, error) {
	root, err := p.artifacts.Path(asset.Digest)
	if err != nil {
		return nil, err
	}
	out := &compute.ONNXModel{Name: d.Spec.Model.Name, Version: d.Spec.Model.Version}
	if !asset.IsFile {
		modelDir = filepath.Join(modelDir, filepath.FromSlash(asset.Path))
		if saved, err := mlflow.Open(root); err == nil && saved.ONNX != "" {
			out.File = filepath.Join(modelDir, filepath.FromSlash(saved.Dir), filepath.FromSlash(saved.ONNX))
			return out, nil
		}
	}
	found, err := onnx.Open(root)
	if err != nil {
		return nil, err
	}
	if found.Name != "" {
		out.Name, out.Version = found.Name, found.Version
	}
	if found.Config != nil {
		out.Declared = found.Config.Declared
		for _, note := range append(found.Config.Notes, found.Config.Overridden(d.Spec.Batching)...) {
			fmt.Fprintf(progress, "the model's configuration: %s\n", note)
		}
	}
	out.File = filepath.Join(modelDir, filepath.FromSlash(found.File))
	return out, nil
}

// environmentOf is the environment that the deployment names, else the one that its MLflow model asks for; nil when
// there is none. target is the field to blame.
func environmentOf(asset *online.AssetSpec, model *mlflow.Model, progress io.Writer) (
	spec *online.EnvironmentSpec, target string, err error) {
	if asset != nil && asset.Environment != nil {
		if e := asset.Environment; !e.Packages() {
			fmt.Fprintf(progress, "the environment has no Python packages: the command runs with the system's programs\n")
			return nil, "", nil // only custom servers are deployed with such a one
		}
		return asset.Environment, "properties.environmentId", nil
	}
	if model == nil {
		return nil, "", nil
	}
	own, notes, err := model.Environment()
	for _, note := range notes {
		fmt.Fprintf(progress, "the model's environment: %s\n", note)
	}
	return &own, "properties.model", err
}

// modelDir is what AZUREML_MODEL_DIR shows: a folder with the registered file, or with the registered folder under
// its name (concept-online-deployment-model-specification).
func (p *preparations) modelDir(ctx context.Context, model *online.AssetSpec) (string, error) {
	if model.IsFile || model.Path == "" {
		return p.artifacts.Path(model.Digest)
	}
	return p.artifacts.Named(ctx, model.Digest, model.Path)
}

// keep forgets, and stops, the preparations of a deployment that belong to none of these sets.
func (p *preparations) keep(uid string, sets ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, r := range p.sets {
		if r.uid != uid {
			continue
		}
		keep := false
		for _, s := range sets {
			keep = keep || s == id
		}
		if !keep {
			r.cancel()
			delete(p.sets, id)
		}
	}
}
