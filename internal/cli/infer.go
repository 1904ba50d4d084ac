package cli

import (
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"portico/internal/online"
	"portico/internal/server"
)

// inferPort is the port of the reference inference server.
const inferPort = 5001

// healthPort is where the reference inference server answers probes when they have a port of their own.
const healthPort = 5000

// healthVariable turns that port on. The spelling is the reference server's.
const healthVariable = "SEPERATE_HEALTH_ENDPOINT" //nolint:misspell // see above

// inferName is the reference inference server's name. Called by it, the program is `portico infer`.
const inferName = "azmlinfsrv"

// inferVariables are the environment variables that stand for flags, those of the reference inference server first.
var inferVariables = map[string]string{
	"entry-script": "AZUREML_ENTRY_SCRIPT", "app-root": "AML_APP_ROOT", "model-dir": "AZUREML_MODEL_DIR",
	"worker-count": "WORKER_COUNT", "config-file": "AZUREML_CONFIG_FILE",
	"batching-max-size": "PORTICO_BATCHING_MAX_SIZE", "batching-max-wait-ms": "PORTICO_BATCHING_MAX_WAIT_MS",
}

// Arguments gives the command line of an invocation, whose first element is the program's name. Under the reference
// server's name it is `portico infer` on every address, as there; a flag of the invocation still wins.
func Arguments(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	if strings.TrimSuffix(filepath.Base(argv[0]), ".exe") == inferName {
		return append([]string{"infer", "--host", "0.0.0.0"}, argv[1:]...)
	}
	return argv[1:]
}

// inferFlags are flags that are not fields of the configuration.
type inferFlags struct {
	variables                 []string
	origins, insights, python string
	rest                      bool
	batchWaitMS               int
}

func (a *App) inferCommand() *cobra.Command {
	cfg := server.InferConfig{Banner: true}
	var flags inferFlags
	c := &cobra.Command{
		Use: "infer", Short: "Serve one scoring script on this machine, without a server", Args: cobra.NoArgs,
		Long: "Run one instance of a scoring script behind a plain HTTP listener: /score, /swagger.json, and GET / for\n" +
			"liveness. It is the same instance that a deployment runs, for a desk or a container. It takes the flags of\n" +
			inferName + ", with hyphens or underscores, and may be called by that name. It ends with status 3 when the\n" +
			"script cannot be loaded or init() fails.",
		Example: "  portico infer --entry_script score.py --model_dir ./models --port 5001 --reload --debug\n" +
			"  curl -d '{\"data\": []}' http://127.0.0.1:5001/score",
	}
	bindInfer(c.Flags(), &cfg, &flags)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		logger := a.logger("info", "text")
		if err := a.settleInfer(cmd.Flags(), &cfg, &flags, logger); err != nil {
			return err
		}
		return server.RunInfer(cmd.Context(), cfg, logger)
	}
	return c
}

func bindInfer(f *pflag.FlagSet, cfg *server.InferConfig, flags *inferFlags) {
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	f.StringVar(&cfg.EntryScript, "entry-script", "", "scoring script, relative to --app-root or to the working directory")
	f.StringVar(&cfg.ConfigFile, "config-file", "", "JSON file of settings: names of environment variables and their values")
	f.StringVar(&cfg.AppRoot, "app-root", ".", "folder of the code")
	f.StringVar(&cfg.ModelDir, "model-dir", "",
		"folder that the script finds in AZUREML_MODEL_DIR; without a script an MLflow or ONNX model, or an .onnx file")
	f.StringVar(&cfg.DataDir, "data-dir", "", "data directory in which ONNX Runtime is installed (default $"+envDataDir+" or "+
		defaultDataDir+")")
	f.StringVar(&cfg.Host, "host", "127.0.0.1", "address to listen on")
	f.IntVar(&cfg.Port, "port", inferPort, "port to listen on; 0 takes a free one")
	f.IntVar(&cfg.HealthPort, "health-port", 0, "second port with the same routes, for probes (5000 with $"+healthVariable+")")
	f.IntVar(&cfg.WorkerCount, "worker-count", 1, "processes that score at the same time")
	f.StringVar(&flags.python, "python", "", "Python interpreter (default python3); an MLflow model with an ONNX flavor then runs in it")
	f.StringVar(&cfg.ReadyFile, "ready-file", "", "file that gets the address once requests are served")
	f.IntVar(&cfg.MaxConcurrent, "max-concurrent", server.DefaultInferConcurrent,
		"requests that are admitted, executing or waiting")
	f.IntVar(&cfg.Batching.MaxSize, "batching-max-size", 0,
		"requests that wait are scored together, up to so many; 0 or 1: each alone")
	f.IntVar(&flags.batchWaitMS, "batching-max-wait-ms", int(online.DefaultBatchWait.Milliseconds()),
		"milliseconds for which a batch is held back for callers that are expected")
	f.DurationVar(&cfg.RequestTimeout, "request-timeout", server.DefaultInferTimeout,
		"longest time of a request ($WORKER_TIMEOUT, in seconds)")
	f.Int64Var(&cfg.MaxRequestBytes, "max-request-bytes", server.DefaultInferBytes, "largest body of a request")
	f.DurationVar(&cfg.DrainTimeout, "drain-timeout", server.DefaultInferDrain,
		"how long requests may take to finish when it is stopped")
	f.BoolVar(&cfg.Reload, "reload", false, "take up changes of the code and the model while it runs")
	f.BoolVar(&cfg.Debug, "debug", false, "answer a failure with its traceback; never where strangers can call")
	f.BoolVar(&cfg.AccessLog, "access-log", true, "a line for each request")
	f.StringVar(&flags.origins, "access-control-allow-origins", "",
		"origins whose pages may call, separated by commas ($AML_CORS_ORIGINS)")
	f.StringVar(&flags.insights, "appinsights-instrumentation-key", "", "not acted on: nothing is sent to Application Insights")
	f.BoolVar(&flags.rest, "rest", false, "what is served anyway")
	must(f.MarkHidden("rest"))
	f.StringArrayVar(&flags.variables, "env", nil, "environment variable for the script: NAME=VALUE (repeatable)")
	for _, name := range slices.Sorted(maps.Keys(inferVariables)) {
		f.Lookup(name).Usage += " ($" + inferVariables[name] + ")"
	}
}

// settleInfer completes the configuration from the environment and checks it.
func (a *App) settleInfer(f *pflag.FlagSet, cfg *server.InferConfig, flags *inferFlags, logger *slog.Logger) error {
	for name, variable := range inferVariables {
		if value := a.Getenv(variable); value != "" && !f.Changed(name) {
			if err := f.Set(name, value); err != nil {
				return usagef("$%s: %v", variable, err)
			}
		}
	}
	if err := a.settleSeconds(f, cfg); err != nil {
		return err
	}
	if strings.EqualFold(a.Getenv(healthVariable), "true") && !f.Changed("health-port") {
		cfg.HealthPort = healthPort
	}
	if cfg.ConfigFile == "" && cfg.ModelDir == "" { // a model that MLflow saved needs no script
		if err := required("--entry-script", cfg.EntryScript); err != nil {
			return err
		}
	}
	var err error
	if cfg.Environment, err = parseVariables(flags.variables); err != nil {
		return err
	}
	if flags.origins != "" {
		cfg.Environment["AML_CORS_ORIGINS"] = online.Secret(flags.origins)
	}
	if flags.insights != "" || a.Getenv("AML_APP_INSIGHTS_KEY") != "" {
		logger.Warn("Application Insights is not supported: nothing is sent there")
	}
	if strings.EqualFold(a.Getenv("WORKER_PRELOAD"), "true") {
		logger.Warn("WORKER_PRELOAD is not acted on: each worker runs init for itself")
	}
	if err := settleBatching(cfg, flags.batchWaitMS); err != nil {
		return err
	}
	cfg.Python = flags.python
	if cfg.DataDir, err = dataDir(cfg.DataDir, a.Getenv); err != nil {
		return err
	}
	for _, n := range []struct {
		flag  string
		value int64
	}{{"worker-count", int64(cfg.WorkerCount)}, {"max-concurrent", int64(cfg.MaxConcurrent)},
		{"max-request-bytes", cfg.MaxRequestBytes}} {
		if n.value < 1 {
			return usagef("--%s must be at least 1, not %s", n.flag, strconv.FormatInt(n.value, 10))
		}
	}
	if cfg.WorkerCount > online.MaxWorkers {
		return usagef("--worker-count must be at most %d, not %d", online.MaxWorkers, cfg.WorkerCount)
	}
	return nil
}

// settleBatching checks what was said of batches.
func settleBatching(cfg *server.InferConfig, waitMS int) error {
	b := &cfg.Batching
	b.MaxWait = time.Duration(waitMS) * time.Millisecond
	switch {
	case b.MaxSize < 0 || b.MaxSize > online.MaxBatchSize:
		return usagef("--batching-max-size must be from 0 to %d, not %d", online.MaxBatchSize, b.MaxSize)
	case b.MaxSize > cfg.MaxConcurrent:
		return usagef("--batching-max-size %d is more than --max-concurrent %d: no batch could be full",
			b.MaxSize, cfg.MaxConcurrent)
	case waitMS < 0 || b.MaxWait > online.MaxBatchWait:
		return usagef("--batching-max-wait-ms must be from 0 to %d, not %d", online.MaxBatchWait.Milliseconds(), waitMS)
	}
	return nil
}

// settleSeconds takes the time limit of a request from the reference server's variable.
func (a *App) settleSeconds(f *pflag.FlagSet, cfg *server.InferConfig) error {
	value := a.Getenv("WORKER_TIMEOUT")
	if value == "" || f.Changed("request-timeout") {
		return nil
	}
	seconds, err := strconv.Atoi(value)
	if err != nil || seconds < 1 {
		return usagef("$WORKER_TIMEOUT is %q, which is not a number of seconds", value)
	}
	cfg.RequestTimeout = time.Duration(seconds) * time.Second
	return nil
}

func parseVariables(pairs []string) (map[string]online.Secret, error) {
	out := map[string]online.Secret{}
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, usagef("--env takes NAME=VALUE, for example --env MODEL_NAME=blue")
		}
		out[name] = online.Secret(value)
	}
	return out, nil
}
