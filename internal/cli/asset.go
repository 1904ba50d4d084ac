package cli

import (
	"encoding/json"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"portico/internal/arm"
	"portico/internal/online"
)

// referencePrefix begins a reference to a registered asset in a file.
const referencePrefix = "azureml:"

// modelRef is `model:` of a deployment: a reference, or a model written in place.
type modelRef = assetRef[modelFile]

// modelFile is the model schema.
type modelFile struct {
	Schema          string            `json:"$schema,omitempty"`
	ID              string            `json:"id,omitempty" show:"only"`
	Name            string            `json:"name,omitempty"`
	Version         string            `json:"version,omitempty"`
	Description     string            `json:"description,omitempty"`
	Tags            map[string]string `json:"tags"`
	Properties      map[string]string `json:"properties"`
	Type            string            `json:"type,omitempty" one:"custom_model|mlflow_model|triton_model"`
	Path            string            `json:"path,omitempty"` // file or folder, relative to the YAML file
	Digest          string            `json:"digest,omitempty" show:"only"`
	Stage           string            `json:"stage,omitempty" show:"only"`
	Archived        *bool             `json:"is_archived,omitempty" show:"only"`
	CreationContext *createdFile      `json:"creation_context,omitempty" show:"only"`
	ResourceGroup   string            `json:"resourceGroup,omitempty" show:"only"`
}

// environmentRef is `environment:` of a deployment.
type environmentRef = assetRef[environmentFile]

// environmentFile is the environment schema.
type environmentFile struct {
	Schema          string            `json:"$schema,omitempty"`
	ID              string            `json:"id,omitempty" show:"only"`
	Name            string            `json:"name,omitempty"`
	Version         string            `json:"version,omitempty"`
	Description     string            `json:"description,omitempty"`
	Tags            map[string]string `json:"tags"`
	Properties      map[string]string `json:"properties"`
	Image           string            `json:"image,omitempty"`
	CondaFile       *condaFile        `json:"conda_file,omitempty"`
	Requirements    string            `json:"requirements,omitempty"` // pip requirements file, relative to the YAML file
	Build           *buildFile        `json:"build,omitempty"`
	InferenceConfig *inferenceFile    `json:"inference_config,omitempty"`
	OSType          string            `json:"os_type,omitempty" one:"linux|windows"`
	Archived        *bool             `json:"is_archived,omitempty" show:"only"`
	CreationContext *createdFile      `json:"creation_context,omitempty" show:"only"`
	ResourceGroup   string            `json:"resourceGroup,omitempty" show:"only"`
}

type buildFile struct {
	Path           string `json:"path,omitempty"`
	DockerfilePath string `json:"dockerfile_path,omitempty"`
}

type inferenceFile struct {
	LivenessRoute  *routeFile `json:"liveness_route,omitempty"`
	ReadinessRoute *routeFile `json:"readiness_route,omitempty"`
	ScoringRoute   *routeFile `json:"scoring_route,omitempty"`
}

type routeFile struct {
	Path string `json:"path,omitempty"`
	Port *int   `json:"port,omitempty"`
}

func (f *inferenceFile) wire() *arm.InferenceConfig {
	if f == nil {
		return nil
	}
	return &arm.InferenceConfig{LivenessRoute: f.LivenessRoute.wire(), ReadinessRoute: f.ReadinessRoute.wire(),
		ScoringRoute: f.ScoringRoute.wire()}
}

func (f *routeFile) wire() *arm.Route {
	if f == nil {
		return nil
	}
	r := &arm.Route{Path: f.Path}
	if f.Port != nil {
		r.Port = *f.Port
	}
	return r
}

// condaFile is `conda_file:`, the path of a conda specification or the specification itself.
type condaFile struct {
	Path string
	Text string // YAML, when it was written in place or came from the service
}

func (c *condaFile) decodeNode(d *decoder, n *yaml.Node, path string) {
	switch n.Kind {
	case yaml.ScalarNode:
		if inline := d.unfold(n, yaml.MappingNode); inline.Kind == yaml.MappingNode {
			c.Path, c.Text = "", n.Value
			return
		}
		c.Path, c.Text = n.Value, ""
	case yaml.MappingNode:
		text, err := yaml.Dump(n)
		if err != nil {
			d.add(n, path, "cannot be written as a conda specification: %v", err)
			return
		}
		c.Path, c.Text = "", string(text)
	default:
		d.add(n, path, "must be the path of a conda file or its mapping, not %s", describe(n))
	}
}

// MarshalJSON shows the specification as a mapping, as az does.
func (c *condaFile) MarshalJSON() ([]byte, error) {
	if c.Text == "" {
		return json.Marshal(c.Path)
	}
	var n yaml.Node
	if err := yaml.Load([]byte(c.Text), &n); err == nil {
		if ordered, err := yamlToJSON(&n); err == nil {
			return ordered, nil
		}
	}
	return json.Marshal(c.Text)
}

// assetRef is a field that names a registered asset, or has one written in place.
type assetRef[T placed] struct {
	Reference string
	Inline    *T
}

// placed says how an asset is written in place, with %s for the path.
type placed interface{ inPlace() string }

func (modelFile) inPlace() string       { return "model: {path: %s}" }
func (environmentFile) inPlace() string { return "environment: {conda_file: %s}" }

func (r *assetRef[T]) decodeNode(d *decoder, n *yaml.Node, path string) {
	n = d.unfold(n, yaml.MappingNode)
	inline := new(T)
	if ref, ok := decodeReference(d, n, path, (*inline).inPlace()); ok {
		*r = assetRef[T]{Reference: ref}
		return
	}
	if n.Kind == yaml.MappingNode {
		// An override changes what is there; a file replaces it.
		if d.merge && r.Inline != nil {
			inline = r.Inline
		}
		*r = assetRef[T]{Inline: decodeInto(d, n, inline, path)}
	}
}

// MarshalJSON shows the reference, or what was written in place.
func (r *assetRef[T]) MarshalJSON() ([]byte, error) {
	if r.Inline != nil {
		return json.Marshal(r.Inline)
	}
	return json.Marshal(r.Reference)
}

// decodeReference reads the text form of an asset. inPlace says how the same thing is written in place, with %s for
// the path; it is shown to who wrote a bare path.
func decodeReference(d *decoder, n *yaml.Node, path, inPlace string) (string, bool) {
	switch {
	case n.Kind == yaml.ScalarNode && isReference(n.Value):
		return n.Value, true
	case n.Kind == yaml.ScalarNode:
		d.add(n, path, "%q is not a reference; write azureml:NAME:VERSION or azureml:NAME@latest for a registered asset, "+
			"or %s for a local one",
			n.Value, strings.ReplaceAll(inPlace, "%s", n.Value))
	case n.Kind != yaml.MappingNode:
		d.add(n, path, "must be a reference such as azureml:NAME:VERSION, or a mapping, not %s", describe(n))
	}
	return "", false
}

// isReference tells the name of a registered asset from a local path. The server reads it, labels included.
func isReference(s string) bool {
	return strings.HasPrefix(s, referencePrefix) || strings.HasPrefix(strings.ToLower(s), "/subscriptions/")
}

func modelReference(id string) *modelRef {
	if id == "" {
		return nil
	}
	return &modelRef{Reference: shownReference(id)}
}

func environmentReference(id string) *environmentRef {
	if id == "" {
		return nil
	}
	return &environmentRef{Reference: shownReference(id)}
}

// shownReference writes an id of the service so that a file can hold it.
func shownReference(id string) string {
	if strings.HasPrefix(id, "/") {
		return referencePrefix + id
	}
	return id
}

// milliseconds, seconds and their opposites translate between a file's whole numbers and the wire's durations.
func milliseconds(n *int) *arm.Duration { return scaled(n, time.Millisecond) }
func seconds(n *int) *arm.Duration      { return scaled(n, time.Second) }

func scaled(n *int, unit time.Duration) *arm.Duration {
	if n == nil {
		return nil
	}
	d := arm.Duration(time.Duration(*n) * unit)
	return &d
}

func inMilliseconds(d *arm.Duration) *int { return whole(d, time.Millisecond) }
func inSeconds(d *arm.Duration) *int      { return whole(d, time.Second) }

func whole(d *arm.Duration, unit time.Duration) *int {
	if d == nil {
		return nil
	}
	n := int(time.Duration(*d).Round(unit) / unit)
	return &n
}

var osWords = words{{"linux", "Linux"}, {"windows", "Windows"}}

func modelFromWire(w *arm.Asset) *modelFile {
	p := &w.Properties
	return &modelFile{
		ID: w.ID, Name: segment(w.ID, string(online.KindModel)), Version: orDefault(segment(w.ID, "versions"), w.Name),
		Description: p.Description, Tags: orEmpty(p.Tags), Properties: orEmpty(p.Properties), Type: p.ModelType,
		Path:   p.ModelURI,
		Digest: p.Digest, Stage: p.Stage, Archived: &p.IsArchived,
		CreationContext: createdFromWire(w.SystemData), ResourceGroup: segment(w.ID, "resourceGroups"),
	}
}

func environmentFromWire(w *arm.Asset) *environmentFile {
	p := &w.Properties
	f := &environmentFile{
		ID: w.ID, Name: segment(w.ID, string(online.KindEnvironment)),
		Version:     orDefault(segment(w.ID, "versions"), w.Name),
		Description: p.Description, Tags: orEmpty(p.Tags), Properties: orEmpty(p.Properties), Image: p.Image,
		Requirements: p.Requirements, OSType: osWords.file(p.OSType), Archived: &p.IsArchived,
		CreationContext: createdFromWire(w.SystemData), ResourceGroup: segment(w.ID, "resourceGroups"),
	}
	if p.CondaFile != "" {
		f.CondaFile = &condaFile{Text: p.CondaFile}
	}
	if c := p.InferenceConfig; c != nil {
		f.InferenceConfig = &inferenceFile{LivenessRoute: routeFromWire(c.LivenessRoute),
			ReadinessRoute: routeFromWire(c.ReadinessRoute), ScoringRoute: routeFromWire(c.ScoringRoute)}
	}
	return f
}

func routeFromWire(r *arm.Route) *routeFile {
	if r == nil {
		return nil
	}
	return &routeFile{Path: r.Path, Port: &r.Port}
}
