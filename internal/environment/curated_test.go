package environment

import (
	"context"
	"os"
	"testing"
	"time"

	"portico/internal/online"
)

// indexVariable makes TestCuratedInstall run: it takes minutes and gigabytes of an index that no test may count on.
const indexVariable = "PORTICO_TEST_INDEX"

// Every curated environment can be installed from the index of this machine, and what it is for can be imported.
func TestCuratedInstall(t *testing.T) {
	if os.Getenv(indexVariable) == "" {
		t.Skip(indexVariable + " is not set: installing every curated environment needs a package index and minutes")
	}
	imports := map[string]string{
		"lightgbm-4": "lightgbm, sklearn, pandas", "minimal": "numpy, pandas", "mlflow-2": "mlflow.pyfunc, sklearn",
		"onnxruntime-1": "onnxruntime, numpy", "sklearn-1.5": "sklearn, joblib, pandas", "sklearn-1.6": "sklearn, joblib, pandas",
		"xgboost-2": "xgboost, sklearn, pandas",
	}
	b := newBuilder(t, func(c *Config) { c.Getenv, c.Uv = os.LookupEnv, "" })
	for _, c := range Curated() {
		t.Run(c.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			env, err := b.Ensure(ctx, online.EnvironmentSpec{Curated: c.Name}, nil)
			if err != nil {
				t.Fatal(err)
			}
			run(t, env.Python, "-c", "import "+imports[c.Name])
			d, err := b.Describe(env.ID)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s in %s, %d MiB: %v", d.Tool, d.BuildTime, d.Bytes>>20, d.Packages)
			if err := b.Remove(env.ID); err != nil {
				t.Error(err)
			}
		})
	}
}
