package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"portico/workers"
)

// Bounds of the tools that work on models.
const (
	defaultToolTimeout = 30 * time.Minute
	toolKillGrace      = 5 * time.Second // between asking a tool to end and ending it
	maxToolReport      = 1 << 20         // bytes
	maxToolNoise       = 16 << 10        // bytes of a tool's output that are shown when it fails
	maxToolRounds      = 10_000
)

// modelTool is one run of a tool.
type modelTool struct {
	output, query   string
	python          string
	requirements    []string // of the model, beside the tool's own
	samples         string
	tolerance       float64
	timeout         time.Duration
	overwrite       bool
	source, target  string
	name            string   // optimize or convert
	arguments       []string // of this tool only
	columns         []column
	fromModel       []string // requirements that an MLflow model names
	ownRequirements string   // file in workers.Tools
}

const pickleWarning = "\n\nReading a pickle, a joblib file or a PyTorch model runs the code that it holds. The tool runs as you, in a process\n" +
	"without your environment variables, but it can read your files: convert only what you trust."

func (a *App) modelToolCommand() *cobra.Command {
	c := &cobra.Command{Use: "model", Short: "Tools for model files on this machine: convert to ONNX, optimise ONNX"}
	return group(c, a.modelConvert(), a.modelOptimize())
}

func (t *modelTool) bind(c *cobra.Command) {
	f := c.Flags()
	f.StringVarP(&t.output, "output", "o", "json", "output format of the report: "+strings.Join(formats, ", "))
	f.StringVar(&t.query, "query", "", "JMESPath expression that selects from the report")
	f.StringVar(&t.samples, "samples", "", "sample inputs: a JSON file as a request has it, .npy, or .npz with one array per input")
	f.DurationVar(&t.timeout, "timeout", defaultToolTimeout, "how long the tool may take")
	f.BoolVar(&t.overwrite, "overwrite", false, "replace TARGET when it exists")
	f.StringVar(&t.python, "python", "",
		"interpreter that has the packages; without it an environment with pinned packages is built once and kept in the user's cache")
	must(c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)))
}

func (a *App) modelOptimize() *cobra.Command {
	t := &modelTool{name: "optimize", ownRequirements: "requirements-optimize.txt", columns: []column{
		{"Bytes", "bytes_before"}, {"BytesAfter", "bytes_after"}, {"Ms", "run_ms_before"}, {"MsAfter", "run_ms_after"},
		{"MaxDifference", "max_difference"}, {"EqualLabels", "equal_labels"},
	}}
	var level string
	var int8 bool
	var rounds int
	c := &cobra.Command{
		Use: "optimize SOURCE TARGET", Short: "Optimise an ONNX model, and report what that changes", Args: cobra.ExactArgs(2),
		Long: "Optimise an ONNX model: its graph by ONNX Runtime, and with --int8 its weights to 8 bits (dynamic quantisation).\n" +
			"The report compares size, time of a run on one thread and outputs on sample inputs, made up at random when none are\n" +
			"given. Without --int8 outputs that differ by more than 0.0001 (relative to 1 + their size) are refused; with it they are\n" +
			"reported, and refused when they differ by more than --tolerance. Nothing is written when it is refused.",
		Example: "  portico model optimize net.onnx small.onnx --int8 --samples rows.json -o table",
	}
	t.bind(c)
	f := c.Flags()
	f.StringVar(&level, "level", "extended", "graph optimisations: none, basic, extended")
	f.BoolVar(&int8, "int8", false, "store weights of matrix products and convolutions in 8 bits")
	f.IntVar(&rounds, "rounds", 50, "measured runs of each model")
	f.Float64Var(&t.tolerance, "tolerance", -1, "largest difference of outputs; negative: 0.0001, or none with --int8")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if _, ok := matchWord("none|basic|extended", level); !ok {
			return usagef("--level %q is not one of none, basic, extended", level)
		}
		if rounds < 1 || rounds > maxToolRounds {
			return usagef("--rounds must be between 1 and %d", maxToolRounds)
		}
		t.source, t.target = args[0], args[1]
		t.arguments = []string{"--level", strings.ToLower(level), "--rounds", strconv.Itoa(rounds)}
		if int8 {
			t.arguments = append(t.arguments, "--int8")
		}
		return a.runModelTool(cmd.Context(), t)
	}
	return c
}

func (a *App) modelConvert() *cobra.Command {
	t := &modelTool{name: "convert", ownRequirements: "requirements-convert.txt", columns: []column{
		{"Framework", "framework"}, {"Model", "model"}, {"Bytes", "bytes"}, {"Opset", "opset"}, {"Samples", "samples"},
		{"MaxDifference", "max_difference"}, {"EqualLabels", "equal_labels"},
	}}
	var opset int
	c := &cobra.Command{
		Use: "convert SOURCE TARGET", Short: "Convert a trained model to ONNX, verified against the original", Args: cobra.ExactArgs(2),
		Long: "Convert a model to ONNX with skl2onnx, onnxmltools or torch.onnx. SOURCE is a pickle or joblib file of scikit-learn,\n" +
			"XGBoost or LightGBM, a PyTorch model (.pt, .pth), or a folder that MLflow saved. The original and the result then run on\n" +
			"the same samples, and TARGET is written only when labels are equal and numbers differ by no more than --tolerance\n" +
			"(relative to 1 + their size). Without --samples a saved input example is used, or numbers are made up.\n" +
			"The packages must be those that the model was saved with: an MLflow model names them, for others use --requirement." +
			pickleWarning,
		Example: "  portico model convert model.pkl model.onnx --samples rows.json --requirement scikit-learn==1.5.2\n" +
			"  portico model convert ./mlruns/1/artifacts/model model.onnx -o table",
	}
	t.bind(c)
	f := c.Flags()
	f.StringArrayVar(&t.requirements, "requirement", nil, "package that the model needs, as pip writes it: NAME==VERSION (repeatable)")
	f.IntVar(&opset, "opset", 0, "version of ONNX's operators (default: the converter's)")
	f.Float64Var(&t.tolerance, "tolerance", -1, "largest difference of outputs; negative: 0.0001, and 0.001 for PyTorch")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if opset < 0 {
			return usagef("--opset must be above 0")
		}
		if t.python != "" && len(t.requirements) > 0 {
			return usagef("--requirement is for the environment that is built; --python names one that is there")
		}
		t.source, t.target = args[0], args[1]
		t.arguments = []string{"--opset", strconv.Itoa(opset)}
		return a.runModelTool(cmd.Context(), t)
	}
	return c
}

// runModelTool runs a tool and prints its report.
func (a *App) runModelTool(ctx context.Context, t *modelTool) error {
	p := &printer{out: a.Out, format: t.output, query: t.query, color: isTerminal(a.Out) && a.Getenv("NO_COLOR") == ""}
	if err := p.check(); err != nil {
		return err
	}
	if err := t.checkFiles(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	python := t.python
	if python == "" {
		var err error
		if python, err = a.toolPython(ctx, t); err != nil {
			return err
		}
	}
	report, err := t.run(ctx, python, a.Err)
	if err != nil {
		return err
	}
	return p.print(report, t.columns)
}

// checkFiles makes paths absolute and refuses what cannot work, before anything is built.
func (t *modelTool) checkFiles() error {
	for _, p := range []*string{&t.source, &t.target, &t.samples} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return usagef("%s: %v", *p, err)
		}
		*p = abs
	}
	for what, path := range map[string]string{"SOURCE": t.source, "--samples": t.samples} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return usagef("%s cannot be read: %v", what, err)
		}
		if info.IsDir() && (what != "SOURCE" || t.name != "convert") {
			return usagef("%s %s is a folder, not a file", what, path)
		}
	}
	if t.timeout <= 0 {
		return usagef("--timeout must be above 0")
	}
	if t.name == "convert" && strings.EqualFold(filepath.Ext(t.source), ".onnx") {
		return usagef("SOURCE %s is an ONNX model already; `portico model optimize` makes it smaller and faster", t.source)
	}
	if info, err := os.Stat(filepath.Dir(t.target)); err != nil || !info.IsDir() {
		return usagef("TARGET cannot be written: there is no folder %s", filepath.Dir(t.target))
	}
	_, err := os.Stat(t.target)
	switch {
	case err == nil && !t.overwrite:
		return usagef("%s exists; give --overwrite to replace it", t.target)
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return usagef("TARGET cannot be written: %v", err)
}

// run starts the tool without anything of this process's environment, and reads what it reports.
func (t *modelTool) run(ctx context.Context, python string, noise io.Writer) (map[string]any, error) {
	dir, err := os.MkdirTemp("", "portico-tool-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the tool: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := os.CopyFS(filepath.Join(dir, "lib"), workers.Tools()); err != nil {
		return nil, fmt.Errorf("write the tool: %w", err)
	}
	file := filepath.Join(dir, "report.json")
	args := append([]string{"-m", "portico_tools", t.name, t.source, t.target, file, "--tolerance", strconv.FormatFloat(t.tolerance, 'g', -1, 64)},
		t.arguments...)
	if t.samples != "" {
		args = append(args, "--samples", t.samples)
	}
	cmd := exec.CommandContext(ctx, python, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + filepath.Dir(python) + ":/usr/local/bin:/usr/bin:/bin", "HOME=" + dir, "TMPDIR=" + dir, "LANG=C.UTF-8",
		"PYTHONPATH=" + filepath.Join(dir, "lib"), "PYTHONDONTWRITEBYTECODE=1", "PYTHONWARNINGS=ignore"}
	tail := &tailWriter{limit: maxToolNoise}
	cmd.Stdout, cmd.Stderr = tail, tail
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what a model's code starts ends with the tool
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = toolKillGrace
	ran := cmd.Run()
	report, err := readToolReport(file)
	switch {
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("the tool took longer than --timeout %s", t.timeout)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err == nil && report["error"] != nil:
		return nil, fmt.Errorf("%v", report["error"])
	case ran != nil || err != nil:
		_, _ = noise.Write(tail.kept) // a lost message is the least of it
		if ran == nil {
			ran = err
		}
		return nil, fmt.Errorf("the tool failed in %s: %w", python, ran)
	}
	return report, nil
}

func readToolReport(path string) (map[string]any, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxToolReport))
	if err != nil {
		return nil, err
	}
	var report map[string]any
	if err := json.Unmarshal(text, &report); err != nil {
		return nil, fmt.Errorf("read the tool's report: %w", err)
	}
	return report, nil
}

// tailWriter keeps the end of what is written.
type tailWriter struct {
	kept  []byte
	limit int
}

func (w *tailWriter) Write(p []byte) (int, error) {
	w.kept = append(w.kept, p...)
	if over := len(w.kept) - w.limit; over > 0 {
		w.kept = w.kept[over:]
	}
	return len(p), nil
}
