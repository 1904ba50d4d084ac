package environment

import (
	"embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

//go:embed curated/*.yaml
var curatedFiles embed.FS

// CuratedEnvironment is an environment that ships with Portico.
type CuratedEnvironment struct {
	Name        string
	Description string
}

// curated lists what ships; each has curated/NAME.yaml. A name keeps its meaning for ever: a newer generation of a
// library is a new name.
var curated = []CuratedEnvironment{
	{"lightgbm-4", "LightGBM 4 with scikit-learn and pandas"},
	{"minimal", "Python with numpy and pandas"},
	{"mlflow-2", "MLflow 2 models of scikit-learn"},
	{"onnxruntime-1", "ONNX Runtime 1 on the CPU"},
	{"sklearn-1.5", "scikit-learn 1.5 with pandas and joblib"},
	{"sklearn-1.6", "scikit-learn 1.6 with pandas and joblib"},
	{"xgboost-2", "XGBoost 2 with scikit-learn and pandas"},
}

// Curated lists the environments that ship with Portico, by name.
func Curated() []CuratedEnvironment { return slices.Clone(curated) }

// azureNames maps names of Azure's curated environments (the last part of a registry path, in lower case) to ours.
// Only those are here whose libraries ours has in the same major and minor version.
var azureNames = map[string]string{
	"sklearn-1.5":             "sklearn-1.5",
	"minimal-py311-inference": "minimal",
	"minimal-py312-inference": "minimal",
}

var (
	registryReference = regexp.MustCompile(`(?i)^azureml://registries/[^/]+/environments/([^/]+)(?:/(?:versions|labels)/[^/]+)?$`)
	assetReference    = regexp.MustCompile(`(?i)^azureml:([^:@/]+)(?:[:@][^:@/]+)?$`)
)

// CuratedName reads a reference to a curated environment in any of the forms that clients write (sklearn-1.5,
// azureml:AzureML-NAME:1, azureml://registries/azureml/environments/NAME/labels/latest) and gives Portico's name
// for it. The error is an *online.Error that lists what ships.
func CuratedName(reference string) (string, error) {
	c, _, err := findCurated(reference)
	return c.Name, err
}

func findCurated(reference string) (CuratedEnvironment, string, error) {
	name := strings.TrimSpace(reference)
	foreign := false
	if m := registryReference.FindStringSubmatch(name); m != nil {
		name, foreign = m[1], true
	} else if m := assetReference.FindStringSubmatch(name); m != nil {
		name = m[1]
	}
	key := strings.ToLower(name)
	if short, ok := strings.CutPrefix(key, "azureml-"); ok {
		key, foreign = short, true
	}
	own := key
	if to, ok := azureNames[key]; ok {
		own, foreign = to, foreign || to != key
	}
	for _, c := range curated {
		if c.Name != own {
			continue
		}
		if foreign {
			return c, fmt.Sprintf("Portico's curated environment %s stands in for %s: same main libraries, "+
				"other packages and versions may differ", c.Name, strings.TrimSpace(reference)), nil
		}
		return c, "", nil
	}
	names := make([]string, len(curated))
	for i, c := range curated {
		names[i] = c.Name
	}
	return CuratedEnvironment{}, "", badSpec("curated", "the curated environment %.120q does not ship with Portico; "+
		"there are %s. Or give a conda file", reference, strings.Join(names, ", "))
}
