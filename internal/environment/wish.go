package environment

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"portico/internal/online"
)

const sourceConda = "a conda file"

// wish is an EnvironmentSpec that was read and checked, before anything of this machine is known.
type wish struct {
	Source string     // in words: "a conda file", "requirements", "curated NAME", "nothing"
	Conda  *condaFile // a conda file, given or curated
	Reqs   *requirements
	Notes  []string
}

// Check reads a spec as far as that is possible without building: its form, its names, what a build cannot honour.
// The notes are for the person who gave it. The error is an *online.Error with the field as target.
func Check(spec online.EnvironmentSpec) (notes []string, err error) {
	w, err := readSpec(spec)
	if err != nil {
		return nil, err
	}
	return w.Notes, nil
}

func readSpec(spec online.EnvironmentSpec) (*wish, error) {
	given := 0
	for _, s := range []string{spec.CondaFile, spec.Requirements, spec.Curated} {
		if strings.TrimSpace(s) != "" {
			given++
		}
	}
	if given > 1 {
		return nil, badSpec("", "an environment has one source: a conda file, a requirements text, or a curated name")
	}
	if os := spec.OSType; os != "" && !strings.EqualFold(os, "Linux") {
		return nil, badSpec("osType", "the operating system %.20q is not supported; use Linux", os)
	}
	w := &wish{Source: "nothing", Reqs: &requirements{}}
	var err error
	switch {
	case strings.TrimSpace(spec.Curated) != "":
		err = w.readCurated(spec.Curated)
	case strings.TrimSpace(spec.CondaFile) != "":
		w.Source = sourceConda
		w.Conda, err = parseConda(spec.CondaFile)
	case strings.TrimSpace(spec.Requirements) != "":
		w.Source = "requirements"
		w.Reqs, err = parseRequirements(spec.Requirements, requirementsTarget)
	case spec.Image != "":
		if err = CheckImage(spec.Image); err == nil && spec.InferenceConfig == (online.InferenceConfig{}) {
			w.Notes = append(w.Notes, "the environment is an image without an inferenceConfig, which says where the server in it answers: "+
				"it can be deployed with neither a scoring script nor by itself")
		}
	}
	if err != nil {
		return nil, err
	}
	if w.Conda != nil {
		w.Notes = append(w.Notes, w.Conda.Notes...)
		w.Reqs = w.Conda.Pip
	}
	w.noteServers()
	return w, nil
}

func (w *wish) readCurated(name string) error {
	c, note, err := findCurated(name)
	if err != nil {
		return err
	}
	w.Source = "curated " + c.Name
	if note != "" {
		w.Notes = append(w.Notes, note)
	}
	text, err := curatedFiles.ReadFile("curated/" + c.Name + ".yaml")
	if err != nil {
		return fmt.Errorf("read curated environment %s: %w", c.Name, err)
	}
	if w.Conda, err = parseConda(string(text)); err != nil {
		return fmt.Errorf("curated environment %s: %w", c.Name, err)
	}
	return nil
}

// serverPackages are listed by habit because Azure's images need them to serve; here they are only importable.
var serverPackages = wordSet("azureml-defaults azureml-inference-server-http azureml-contrib-services")

func (w *wish) noteServers() {
	names := w.Reqs.names()
	if w.Conda != nil {
		for _, m := range w.Conda.Packages {
			names = append(names, normalName(m.Name))
		}
	}
	var found []string
	for _, n := range names {
		if serverPackages[n] {
			found = append(found, n)
		}
	}
	if len(found) > 0 {
		w.Notes = append(w.Notes, strings.Join(found, ", ")+": installed as asked, but the HTTP server in it is not used; "+
			"Portico's own worker runs the scoring script")
	}
}

func (w *wish) python() [][]term {
	if w.Conda != nil {
		return w.Conda.Python
	}
	return nil
}

// The engines that fill an environment.
const (
	enginePip   = "pip"
	engineConda = "conda"
)

// builderVersion is part of every content id. Raise it when a build of the same content gives something that running
// deployments must not share with what older builders made.
const builderVersion = 1

// content is what the id of an environment is computed over.
type content struct {
	Builder  int      `json:"builder"`
	Platform string   `json:"platform"`
	Engine   string   `json:"engine"`
	Python   string   `json:"python"` // minor version for pip; the pin for conda, which brings its own interpreter
	Channels []string `json:"channels,omitempty"`
	Conda    []string `json:"conda,omitempty"`
	Options  []string `json:"options,omitempty"`
	Packages []string `json:"packages,omitempty"`
}

// id is stable over blanks, comments, key order, the file's name and the order of packages. It leaves out the patch
// level of Python and the place of the interpreter: a system update must not rebuild, with newer packages, what a
// running deployment was tested with.
func (c content) id() string {
	c.Conda, c.Packages = slices.Sorted(slices.Values(c.Conda)), slices.Sorted(slices.Values(c.Packages))
	data, err := json.Marshal(c)
	if err != nil {
		panic("environment: a struct of texts cannot fail to marshal: " + err.Error())
	}
	sum := sha256.Sum256(data)
	prefix := "conda"
	if c.Engine == enginePip {
		prefix = "py" + strings.ReplaceAll(c.Python, ".", "")
	}
	return prefix + "-" + hex.EncodeToString(sum[:12])
}
