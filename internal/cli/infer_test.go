package cli

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"portico/internal/server"
)

// TestInferArguments: the reference server's name, flags and variables mean what they mean there.
func TestInferArguments(t *testing.T) {
	for _, c := range []struct{ argv, want []string }{
		{[]string{"/usr/bin/azmlinfsrv", "--port", "1"}, []string{"infer", "--host", "0.0.0.0", "--port", "1"}},
		{[]string{"portico", "infer"}, []string{"infer"}},
		{nil, nil},
	} {
		if got := Arguments(c.argv); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.argv, got, c.want)
		}
	}
	env := map[string]string{
		"AZUREML_MODEL_DIR": "/models", "WORKER_COUNT": "3", "WORKER_TIMEOUT": "7", healthVariable: "true",
	}
	a := &App{Getenv: func(name string) string { return env[name] }}
	settle := func(args ...string) (server.InferConfig, error) {
		var cfg server.InferConfig
		var flags inferFlags
		f := pflag.NewFlagSet("infer", pflag.ContinueOnError)
		bindInfer(f, &cfg, &flags)
		if err := f.Parse(args); err != nil {
			return cfg, err
		}
		return cfg, a.settleInfer(f, &cfg, &flags, slog.New(slog.DiscardHandler))
	}
	cfg, err := settle("--entry_script", "s.py", "--worker_count=2", "--access_control_allow_origins", "a.example")
	if err != nil || cfg.EntryScript != "s.py" || cfg.WorkerCount != 2 || cfg.ModelDir != "/models" || cfg.Port != 5001 ||
		cfg.RequestTimeout != 7*time.Second || cfg.HealthPort != 5000 || !cfg.AccessLog ||
		cfg.Environment["AML_CORS_ORIGINS"].Reveal() != "a.example" {
		t.Errorf("%+v %v", cfg, err)
	}
	cfg, err = settle("--config_file", "c.json", "--health-port", "9", "--request-timeout", "3s", "--model-dir", "m")
	if err != nil || cfg.ConfigFile != "c.json" || cfg.HealthPort != 9 || cfg.RequestTimeout != 3*time.Second || cfg.ModelDir != "m" {
		t.Errorf("%+v %v", cfg, err)
	}
	env["PORTICO_BATCHING_MAX_SIZE"] = "8"
	cfg, err = settle("--entry-script", "s.py", "--batching_max_wait_ms", "20")
	if err != nil || cfg.Batching.MaxSize != 8 || cfg.Batching.MaxWait != 20*time.Millisecond {
		t.Errorf("%+v %v", cfg.Batching, err)
	}
	for _, args := range [][]string{
		{"--batching-max-size", "257"}, {"--batching-max-size", "-1"}, {"--batching-max-wait-ms", "1001"},
		{"--max-concurrent", "7"}, {"--batching-max-wait-ms", "-1"}, {"--worker-count", "65"}, {"--worker_count", "0"},
	} {
		if _, err := settle(append(args, "--entry-script", "s.py")...); err == nil || ExitCode(err) != ExitUsage {
			t.Errorf("%v: %v", args, err)
		}
	}
	delete(env, "PORTICO_BATCHING_MAX_SIZE")
	env["WORKER_TIMEOUT"] = "soon"
	if _, err := settle("--entry_script", "s.py"); err == nil || ExitCode(err) != ExitUsage {
		t.Errorf("WORKER_TIMEOUT=soon: %v", err)
	}
}
