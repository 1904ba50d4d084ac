package online

// AssetSpec is one version of a model, code or environment. A version is immutable once registered, except for
// its description, tags and the archived mark. Fields that a kind does not have stay empty.
type AssetSpec struct {
	Description string            `json:"description,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
	Properties  map[string]string `json:"properties,omitempty"`
	IsAnonymous bool              `json:"isAnonymous"`
	IsArchived  bool              `json:"isArchived"`

	// Models, codes and data: the bytes. Digest is the server's own over the content store's tree; URI is what
	// the client gave and is only shown.
	URI    string `json:"uri,omitempty"`
	Digest string `json:"digest,omitempty"`
	// Path is the name of the file or folder that AZUREML_MODEL_DIR holds (a folder's name is kept).
	Path   string `json:"path,omitempty"`
	IsFile bool   `json:"isFile,omitempty"`
	// ContentHash of a code is the server's own computation of the hash by which the Python SDK looks codes up.
	ContentHash string `json:"contentHash,omitempty"`
	DataType    string `json:"dataType,omitempty"` // models: custom_model | mlflow_model | triton_model; data: uri_file | uri_folder | mltable

	Environment *EnvironmentSpec `json:"environment,omitempty"`
}

// EnvironmentSpec says what Python (or container) an instance runs in.
type EnvironmentSpec struct {
	Image        string `json:"image,omitempty"`        // with CondaFile, Requirements or Curated it is recorded and not run
	CondaFile    string `json:"condaFile,omitempty"`    // YAML text
	Requirements string `json:"requirements,omitempty"` // pip requirements text
	OSType       string `json:"osType,omitempty"`
	Curated      string `json:"curated,omitempty"` // name of a curated environment that ships with Portico
	// InferenceConfig says where a custom server answers.
	InferenceConfig InferenceConfig `json:"inferenceConfig,omitzero"`
}

// Packages says that Python packages are named: then the environment is built from them.
func (e *EnvironmentSpec) Packages() bool {
	return e.CondaFile != "" || e.Requirements != "" || e.Curated != ""
}

// InferenceConfig says where a custom server answers.
type InferenceConfig struct {
	Liveness  Route `json:"liveness,omitzero"`
	Readiness Route `json:"readiness,omitzero"`
	Scoring   Route `json:"scoring,omitzero"`
}

// Route is a path and a port inside an instance.
type Route struct {
	Path string `json:"path"`
	Port int    `json:"port"`
}

// WorkspaceSpec is a workspace: a place for endpoints and assets with one location.
type WorkspaceSpec struct {
	Location     string            `json:"location"`
	FriendlyName string            `json:"friendlyName,omitempty"`
	Description  string            `json:"description,omitempty"`
	Tags         map[string]string `json:"tags,omitempty"`
}
