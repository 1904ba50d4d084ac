package arm

import (
	"slices"
	"strconv"
	"strings"

	"portico/internal/online"
)

// Asset is one version of a model, code, environment or data asset, in both directions. Which properties belong to
// which kind says the domain translation of each kind.
type Asset struct {
	ID         string          `json:"id,omitempty"`
	Name       string          `json:"name,omitempty"`
	Type       string          `json:"type,omitempty"`
	ETag       string          `json:"etag,omitempty"`
	SystemData *SystemData     `json:"systemData,omitempty"`
	Properties AssetProperties `json:"properties"`
}

// AssetProperties hold the properties of every kind of asset version.
type AssetProperties struct {
	Description       string            `json:"description"`
	Tags              map[string]string `json:"tags"`
	Properties        map[string]string `json:"properties"`
	IsAnonymous       bool              `json:"isAnonymous"`
	IsArchived        bool              `json:"isArchived"`
	ProvisioningState string            `json:"provisioningState,omitempty"`
	Stage             string            `json:"stage,omitempty"`

	ModelURI  string   `json:"modelUri,omitempty"`
	ModelType string   `json:"modelType,omitempty"`
	JobName   Refused  `json:"jobName,omitzero"`
	Flavors   *Flavors `json:"flavors,omitempty"`

	CodeURI string `json:"codeUri,omitempty"`

	DataURI  string `json:"dataUri,omitempty"`
	DataType string `json:"dataType,omitempty"`

	EnvironmentType string  `json:"environmentType,omitempty"`
	OSType          string  `json:"osType,omitempty"`
	Image           string  `json:"image,omitempty"`
	CondaFile       string  `json:"condaFile,omitempty"`
	Requirements    string  `json:"requirements,omitempty"` // Portico's own: pip requirements text
	AutoRebuild     string  `json:"autoRebuild,omitempty"`
	Build           Refused `json:"build,omitzero"`
	IntellectualP   Refused `json:"intellectualProperty,omitzero"`

	InferenceConfig *InferenceConfig `json:"inferenceConfig,omitempty"`

	Digest string `json:"digest,omitempty"` // answered only: the server's own digest of the content
}

// InferenceConfig says where the server inside an environment's image answers.
type InferenceConfig struct {
	LivenessRoute  *Route `json:"livenessRoute,omitempty"`
	ReadinessRoute *Route `json:"readinessRoute,omitempty"`
	ScoringRoute   *Route `json:"scoringRoute,omitempty"`
}

// Route is a path and a port inside an instance.
type Route struct {
	Path string `json:"path"`
	Port int    `json:"port"`
}

// maxPort is the largest number of a TCP port.
const maxPort = 1<<16 - 1

// domain translates the routes; absent ones are zero.
func (c *InferenceConfig) domain() (out online.InferenceConfig, faults []*online.Error) {
	if c == nil {
		return out, nil
	}
	for _, r := range []struct {
		name string
		from *Route
		into *online.Route
	}{{"livenessRoute", c.LivenessRoute, &out.Liveness}, {"readinessRoute", c.ReadinessRoute, &out.Readiness},
		{"scoringRoute", c.ScoringRoute, &out.Scoring}} {
		if r.from == nil {
			continue
		}
		*r.into = online.Route(*r.from)
		field := "properties.inferenceConfig." + r.name
		if !strings.HasPrefix(r.from.Path, "/") {
			faults = append(faults, online.Errorf(online.CodeBadArgument, field+".path",
				"path %.80q does not begin with a slash", r.from.Path))
		}
		if r.from.Port < 1 || r.from.Port > maxPort {
			faults = append(faults, online.Errorf(online.CodeBadArgument, field+".port", "port %d is not 1 to %d", r.from.Port, maxPort))
		}
	}
	return out, faults
}

func newInferenceConfig(c online.InferenceConfig) *InferenceConfig {
	if c == (online.InferenceConfig{}) {
		return nil
	}
	route := func(r online.Route) *Route {
		if r == (online.Route{}) {
			return nil
		}
		out := Route(r)
		return &out
	}
	return &InferenceConfig{LivenessRoute: route(c.Liveness), ReadinessRoute: route(c.Readiness), ScoringRoute: route(c.Scoring)}
}

// Flavors of a model are kept by MLflow's runtime, which is not here yet; SDKs need the object to be there.
type Flavors struct{}

// MarshalJSON prints an empty object.
func (Flavors) MarshalJSON() ([]byte, error) { return []byte("{}"), nil }

// AssetContainer is the container of an asset's versions.
type AssetContainer struct {
	ID         string                   `json:"id,omitempty"`
	Name       string                   `json:"name,omitempty"`
	Type       string                   `json:"type,omitempty"`
	ETag       string                   `json:"etag,omitempty"`
	SystemData *SystemData              `json:"systemData,omitempty"`
	Properties AssetContainerProperties `json:"properties"`
}

// AssetContainerProperties are the properties of a container.
type AssetContainerProperties struct {
	Description       string            `json:"description"`
	Tags              map[string]string `json:"tags"`
	Properties        map[string]string `json:"properties"`
	IsArchived        bool              `json:"isArchived"`
	LatestVersion     *string           `json:"latestVersion"`
	NextVersion       string            `json:"nextVersion,omitempty"`
	DataType          string            `json:"dataType,omitempty"` // data only
	ProvisioningState string            `json:"provisioningState,omitempty"`
}

// PendingUploadRequest is the body of startPendingUpload.
type PendingUploadRequest struct {
	PendingUploadID   string `json:"pendingUploadId,omitempty"`
	PendingUploadType string `json:"pendingUploadType,omitempty"`
}

// PendingUpload says where to upload the content of a version.
type PendingUpload struct {
	PendingUploadID   string        `json:"pendingUploadId"`
	PendingUploadType string        `json:"pendingUploadType"`
	BlobReference     BlobReference `json:"blobReferenceForConsumption"`
}

// BlobReference is a container with a credential for it.
type BlobReference struct {
	BlobURI             string         `json:"blobUri"`
	StorageAccountARMID string         `json:"storageAccountArmId"`
	Credential          BlobCredential `json:"credential"`
}

// BlobCredential is a shared access signature in a URL.
type BlobCredential struct {
	CredentialType string `json:"credentialType"`
	SASURI         string `json:"sasUri"`
}

var (
	modelTypes = []string{"custom_model", "mlflow_model", "triton_model"}
	dataTypes  = []string{"uri_file", "uri_folder", "mltable"}
	osTypes    = []string{"Linux", "Windows"}
	rebuild    = []string{"Disabled", "OnBaseImageUpdate"}
)

// Domain translates a version of a kind. Content (Digest, Path) is found by control from URI.
func (a *Asset) Domain(kind online.Kind) (online.AssetSpec, []*online.Error) {
	p := &a.Properties
	spec := online.AssetSpec{Description: p.Description, Tags: p.Tags, Properties: p.Properties,
		IsAnonymous: p.IsAnonymous, IsArchived: p.IsArchived}
	faults := p.foreign(kind)
	switch kind {
	case online.KindModel:
		spec.URI, spec.DataType = p.ModelURI, word(orDefault(p.ModelType, modelTypes[0]), modelTypes...)
		faults = oneOf(faults, "properties.modelType", spec.DataType, modelTypes)
	case online.KindCode:
		spec.URI = p.CodeURI
	case online.KindData:
		spec.URI, spec.DataType = p.DataURI, word(orDefault(p.DataType, "uri_folder"), dataTypes...)
		faults = oneOf(faults, "properties.dataType", spec.DataType, dataTypes)
	case online.KindEnvironment:
		faults = append(faults, p.environment(&spec)...)
	}
	return spec, refuse(faults, refusal{p.IntellectualP, "properties.intellectualProperty"},
		refusal{Refused(p.Stage != ""), "properties.stage"}, refusal{p.JobName, "properties.jobName"})
}

func (p *AssetProperties) environment(spec *online.AssetSpec) []*online.Error {
	osType := word(orDefault(p.OSType, osTypes[0]), osTypes...)
	routes, faults := p.InferenceConfig.domain()
	spec.Environment = &online.EnvironmentSpec{Image: p.Image, CondaFile: p.CondaFile, Requirements: p.Requirements,
		OSType: osType, InferenceConfig: routes}
	faults = oneOf(faults, "properties.osType", osType, osTypes)
	if osType == "Windows" {
		faults = refuse(faults, refusal{true, "properties.osType"})
	}
	if r := word(p.AutoRebuild, rebuild...); r == rebuild[1] {
		faults = refuse(faults, refusal{true, "properties.autoRebuild"})
	} else if r != "" {
		faults = oneOf(faults, "properties.autoRebuild", r, rebuild)
	}
	return refuse(faults, refusal{p.Build, "properties.build"})
}

// foreign refuses properties of another kind of asset: keeping silent about them would lose them.
func (p *AssetProperties) foreign(kind online.Kind) []*online.Error {
	var faults []*online.Error
	for _, f := range []struct {
		set  bool
		name string
		kind online.Kind
	}{
		{p.ModelURI != "", "modelUri", online.KindModel}, {p.ModelType != "", "modelType", online.KindModel},
		{p.CodeURI != "", "codeUri", online.KindCode},
		{p.DataURI != "", "dataUri", online.KindData}, {p.DataType != "", "dataType", online.KindData},
		{p.Image != "", "image", online.KindEnvironment}, {p.CondaFile != "", "condaFile", online.KindEnvironment},
		{p.Requirements != "", "requirements", online.KindEnvironment},
		{p.InferenceConfig != nil, "inferenceConfig", online.KindEnvironment},
	} {
		if f.set && f.kind != kind {
			faults = append(faults, online.Errorf(online.CodeBadArgument, "properties."+f.name,
				"%s is a property of %s, not of %s", f.name, f.kind, kind))
		}
	}
	return faults
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func oneOf(faults []*online.Error, path, value string, allowed []string) []*online.Error {
	if slices.Contains(allowed, value) {
		return faults
	}
	return append(faults, online.Errorf(online.CodeBadArgument, path, "%s %.40q is not one of %s",
		path[strings.LastIndex(path, ".")+1:], value, strings.Join(allowed, ", ")))
}

// NewAsset renders a version.
func NewAsset(m Meta, s online.AssetSpec) Asset {
	p := AssetProperties{Description: s.Description, Tags: orEmpty(s.Tags), Properties: orEmpty(s.Properties),
		IsAnonymous: s.IsAnonymous, IsArchived: s.IsArchived, ProvisioningState: string(m.State), Digest: s.Digest}
	switch m.ID.Kind {
	case online.KindModel:
		p.ModelURI, p.ModelType, p.Flavors = s.URI, s.DataType, &Flavors{}
	case online.KindCode:
		p.CodeURI = s.URI
	case online.KindData:
		p.DataURI, p.DataType = s.URI, s.DataType
	case online.KindEnvironment:
		p.EnvironmentType = "UserCreated"
		if e := s.Environment; e != nil {
			p.Image, p.CondaFile, p.Requirements, p.OSType = e.Image, e.CondaFile, e.Requirements, e.OSType
			p.InferenceConfig = newInferenceConfig(e.InferenceConfig)
			if e.Curated != "" {
				p.EnvironmentType = "Curated"
			}
		}
	}
	return Asset{ID: FormatID(m.ID), Name: m.ID.Name, Type: TypeOf(m.ID), ETag: m.ETag, SystemData: m.systemData(),
		Properties: p}
}

// Domain translates a container: only its words, tags and archived mark are a person's.
func (c *AssetContainer) Domain() online.AssetSpec {
	p := &c.Properties
	return online.AssetSpec{Description: p.Description, Tags: p.Tags, Properties: p.Properties, IsArchived: p.IsArchived}
}

// NewAssetContainer renders a container. latest is empty while it has no version.
func NewAssetContainer(m Meta, s online.AssetSpec, latest, next string) AssetContainer {
	c := AssetContainer{ID: FormatID(m.ID), Name: m.ID.Name, Type: TypeOf(m.ID), ETag: m.ETag, SystemData: m.systemData(),
		Properties: AssetContainerProperties{Description: s.Description, Tags: orEmpty(s.Tags),
			Properties: orEmpty(s.Properties), IsArchived: s.IsArchived, NextVersion: next,
			DataType: s.DataType, ProvisioningState: string(m.State)}}
	if latest != "" {
		c.Properties.LatestVersion = &latest
	}
	return c
}

// NextVersion is one more than the largest whole number among versions, as text.
func NextVersion(versions []string) string {
	largest := 0
	for _, v := range versions {
		if n, err := strconv.Atoi(v); err == nil && n > largest {
			largest = n
		}
	}
	return strconv.Itoa(largest + 1)
}
