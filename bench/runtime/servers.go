package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"portico/bench/side"
)

// server is one that takes part: how it is started with a script or model, and what it speaks.
type server struct {
	short, name string
	start       func(b bench, ctx context.Context) (side.Side, *side.Process, error)
	path        string // of the URL where start leaves it to us; %s is the script
	body        string
	answer      func(got any) any // the values in an answer's JSON
	echoes      string            // what the echo's values are
}

// servers are compared in this order; the first is what the others are compared with.
var servers = []server{
	{"infer", "portico infer", command(infer), "/score", body, whole, body},
	{"serve", "portico serve (key, split, log)", bench.serve, "", body, whole, body},
	{"azmlinfsrv", "azureml-inference-server-http", command(azmlinfsrv), "/score", body, whole, body},
	{"mlserver", "MLServer", bench.mlserver, "/v2/models/%s/infer", tensor, outputs, flat},
	{"bentoml", "BentoML", command(bentoml), "/score", body, whole, rows},
	{"litserve", "LitServe", command(litserve), "/score", body, whole, body},
	{"mlflow", "mlflow models serve", command(mlflow), "/invocations", inputs, predictions, rows},
}

// start starts a server and waits until it answers rightly.
func (b bench) start(ctx context.Context, c server) (side.Side, error) {
	s, p, err := c.start(b, ctx)
	if err != nil {
		return s, fmt.Errorf("start %s: %w", c.name, err)
	}
	s.Name, s.Body = c.name, []byte(c.body)
	if c.path != "" {
		s.URL += c.path
		if c.short == "mlserver" {
			s.URL = fmt.Sprintf(s.URL, b.script)
		}
	}
	want := c.echoes
	if b.script == "lr" {
		want = classes
	}
	right := side.Equals(want)
	if err := s.Ready(ctx, p, func(got any) bool { return right(c.answer(got)) }); err != nil {
		return s, errors.Join(err, p.Stop())
	}
	return s, nil
}

func whole(got any) any { return got }

// outputs gives the data of an answer of the Open Inference Protocol.
func outputs(got any) any {
	tensors, ok := member(got, "outputs").([]any)
	if !ok || len(tensors) == 0 {
		return nil
	}
	return member(tensors[0], "data")
}

func predictions(got any) any { return member(got, "predictions") }

func member(value any, name string) any {
	object, ok := value.(map[string]any)
	if !ok {
		return nil
	}
	return object[name]
}

// command makes a server of a command line that listens on an address that it is given.
func command(line func(b bench, host, port string) *exec.Cmd) func(bench, context.Context) (side.Side, *side.Process, error) {
	return func(b bench, _ context.Context) (side.Side, *side.Process, error) {
		address, err := side.FreeAddress()
		if err != nil {
			return side.Side{}, nil, err
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return side.Side{}, nil, err
		}
		cmd := line(b, host, port)
		if cmd.Env == nil {
			cmd.Env = environ()
		}
		if cmd.Dir == "" {
			cmd.Dir = b.dir
		}
		p, err := side.Launch(b.dir, filepath.Base(cmd.Path)+"-"+port, cmd)
		if err != nil {
			return side.Side{}, nil, err
		}
		s := side.Of(p.AnyExit())
		s.URL = "http://" + address
		return s, p, nil
	}
}

//nolint:noctx // every server is stopped by its Side, in order
func infer(b bench, host, port string) *exec.Cmd {
	return exec.Command(b.Portico, "infer", "--entry-script", b.script+".py", "--app-root", filepath.Join(b.source, "score"),
		"--python", b.python("azmlinfsrv"), "--host", host, "--port", port)
}

func (b bench) serve(ctx context.Context) (side.Side, *side.Process, error) {
	conda := "      - python"
	if b.script == "lr" {
		conda += "\n      - pip:\n          - numpy==" + numpyVersion + "\n          - scikit-learn==" + sklearnVersion
	}
	return side.Deployment{
		Portico: b.Portico, Code: filepath.Join(b.source, "score"), Script: b.script + ".py", Conda: conda,
		Workers: 1, Connections: max(b.Connections, 1),
	}.Serve(ctx, b.dir)
}

// The versions that every server has; requirements/ says the same.
const (
	numpyVersion   = "2.4.6"
	sklearnVersion = "1.7.2"
)

//nolint:noctx // as infer
func azmlinfsrv(b bench, _, port string) *exec.Cmd {
	cmd := exec.Command(b.python("azmlinfsrv"), "-m", "azureml_inference_server_http", "--entry_script", b.script+".py", "--port", port)
	code := filepath.Join(b.source, "score")
	cmd.Dir, cmd.Env = code, environ("AML_APP_ROOT="+code, "PYTHONPATH="+code)
	return cmd
}

func (b bench) mlserver(context.Context) (side.Side, *side.Process, error) {
	models := filepath.Join(b.dir, "mlserver")
	if err := b.save("mlserver", models); err != nil {
		return side.Side{}, nil, err
	}
	return side.MLServer{
		Program: filepath.Join(b.venvs, "mlserver", "bin", "mlserver"), Model: filepath.Join(models, b.script),
		Env: environ("PYTHONPATH=" + filepath.Join(b.source, "peers")),
	}.Start(b.dir)
}

// save lets a peer's own library write the models that it serves.
func (b bench) save(peer, folder string) error {
	cmd := exec.Command(b.python(peer), filepath.Join(b.source, "peers", peer+"save.py"), folder) //nolint:noctx // short
	cmd.Dir = b.dir
	cmd.Env = environ("PYTHONPATH=" + filepath.Join(b.source, "peers"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("save models for %s: %w\n%s", peer, err, out)
	}
	return nil
}

//nolint:noctx // as infer
func bentoml(b bench, host, port string) *exec.Cmd {
	class := map[string]string{"echo": "Echo", "lr": "LR"}[b.script]
	cmd := exec.Command(filepath.Join(b.venvs, "bentoml", "bin", "bentoml"), "serve", "bento:"+class, "--host", host, "--port", port)
	cmd.Dir = filepath.Join(b.source, "peers")
	cmd.Env = environ("BENTOML_DO_NOT_TRACK=True", "BENTOML_HOME="+filepath.Join(b.dir, "bentoml"))
	return cmd
}

//nolint:noctx // as infer
func litserve(b bench, _, port string) *exec.Cmd {
	return exec.Command(b.python("litserve"), filepath.Join(b.source, "peers", "lit.py"), b.script, port)
}

//nolint:noctx // as infer
func mlflow(b bench, host, port string) *exec.Cmd {
	bin := filepath.Join(b.venvs, "mlflow", "bin")
	cmd := exec.Command(filepath.Join(bin, "mlflow"), "models", "serve", "--model-uri", filepath.Join(b.venvs, "mlflow", "models", b.script),
		"--env-manager", "local", "--workers", "1", "--host", host, "--port", port)
	cmd.Env = environ("PATH="+bin+":"+os.Getenv("PATH"), "MLFLOW_DISABLE_TELEMETRY=true")
	return cmd
}
