package cli

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"portico/internal/online"
	"portico/internal/server"
)

// inferPort is the port of the reference inference server.
const inferPort = 5001

// inferVariables are the environment variables of the reference inference server that stand for flags.
var inferVariables = map[string]string{
	"entry-script": "AZUREML_ENTRY_SCRIPT", "app-root": "AML_APP_ROOT", "model-dir": "AZUREML_MODEL_DIR",
	"worker-count": "WORKER_COUNT",
}

func (a *App) inferCommand() *cobra.Command {
	var cfg server.InferConfig
	var variables []string
	c := &cobra.Command{
		Use: "infer", Short: "Serve one scoring script on this machine, without a server", Args: cobra.NoArgs,
		Long: "Run one instance of a scoring script behind a plain HTTP listener: POST /score, GET / for liveness. It is the\n" +
			"same instance that a deployment runs, for a desk or a container. It ends with status 3 when init fails.",
		Example: "  portico infer --app-root ./src --entry-script score.py --model-dir ./models\n" +
			"  curl -d '{\"data\": []}' http://127.0.0.1:5001/score",
	}
	f := c.Flags()
	f.StringVar(&cfg.EntryScript, "entry-script", "", "scoring script, relative to --app-root")
	f.StringVar(&cfg.AppRoot, "app-root", ".", "folder of the code")
	f.StringVar(&cfg.ModelDir, "model-dir", "", "folder that the script finds in AZUREML_MODEL_DIR")
	f.StringVar(&cfg.Host, "host", "127.0.0.1", "address to listen on")
	f.IntVar(&cfg.Port, "port", inferPort, "port to listen on; 0 takes a free one")
	f.IntVar(&cfg.WorkerCount, "worker-count", 1, "processes that score at the same time")
	f.StringVar(&cfg.Python, "python", "python3", "Python interpreter")
	f.StringVar(&cfg.ReadyFile, "ready-file", "", "file that gets the address once requests are served")
	f.IntVar(&cfg.MaxConcurrent, "max-concurrent", server.DefaultInferConcurrent,
		"requests that are admitted, executing or waiting")
	f.DurationVar(&cfg.RequestTimeout, "request-timeout", server.DefaultInferTimeout, "longest time of a request")
	f.Int64Var(&cfg.MaxRequestBytes, "max-request-bytes", server.DefaultInferBytes, "largest body of a request")
	f.DurationVar(&cfg.DrainTimeout, "drain-timeout", server.DefaultInferDrain,
		"how long requests may take to finish when it is stopped")
	f.StringArrayVar(&variables, "env", nil, "environment variable for the script: NAME=VALUE (repeatable)")
	for _, name := range slices.Sorted(maps.Keys(inferVariables)) {
		f.Lookup(name).Usage += " ($" + inferVariables[name] + ")"
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		for name, variable := range inferVariables {
			if value := a.Getenv(variable); value != "" && !cmd.Flags().Changed(name) {
				if err := cmd.Flags().Set(name, value); err != nil {
					return usagef("$%s: %v", variable, err)
				}
			}
		}
		if err := required("--entry-script", cfg.EntryScript); err != nil {
			return err
		}
		var err error
		if cfg.Environment, err = parseVariables(variables); err != nil {
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
		return server.RunInfer(cmd.Context(), cfg, a.logger("info", "text"))
	}
	return c
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
