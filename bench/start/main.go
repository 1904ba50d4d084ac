// Start measures how long a worker takes from the order to start it until its first answer is in: as a new interpreter,
// as a fork, and as a fork that was waiting. User id, cgroup, file system, journal, loading the script and its model are
// part of it. The ways take turns on one machine in one run.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"portico/bench/side"
	"portico/internal/host"
	"portico/internal/online"
	"portico/workers"
)

const (
	body         = `{"data": [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3], [7.7, 3.8, 6.7, 2.2]]}`
	want         = "[0, 1, 2]"
	sparesServer = "fork-server-with-spares"
	forksServer  = "fork-server"
	idle         = 300 * time.Millisecond // before memory is read, and between starts: a spare is made meanwhile
)

type options struct {
	*side.Command

	python, code, model string
	starts              int
}

// row is one way of starting.
type row struct {
	name, from string
	spare      bool
	took       []time.Duration
	cpu        []time.Duration // of the worker and the host, until the answer
	private    []int64         // bytes
	resident   []int64
}

func main() {
	o := &options{Command: side.NewCommand()}
	o.Path(&o.python, "python", "python3", "Python with scikit-learn")
	o.Path(&o.code, "code", "bench/start/score", "folder of score.py")
	o.Path(&o.model, "model", "", "folder of model.joblib")
	flag.IntVar(&o.starts, "starts", 50, "starts of each way; the median counts")
	o.Run(o.bench)
}

func (o *options) bench(ctx context.Context, dir string) (err error) {
	client, err := host.EnsureRunning(ctx, host.Config{DataDir: dir, Executable: o.Portico})
	if err != nil {
		return fmt.Errorf("start the host: %w", err)
	}
	defer func() {
		err = errors.Join(err, client.Shutdown(context.WithoutCancel(ctx), 0), client.Close())
	}()
	b, err := newBench(ctx, o, dir, client)
	if err != nil {
		return err
	}
	rows := []*row{
		{name: "spawn"}, {name: "fork", from: forksServer}, {name: "spare", from: sparesServer, spare: true},
		{name: "fork (again)", from: forksServer},
	}
	for n := range o.starts + 1 {
		for _, r := range rows {
			if err := b.measure(ctx, r, n == 0); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	report(rows)
	return b.floor(ctx)
}

type bench struct {
	o            *options
	dir, runtime string
	sockets      string
	client       *host.Client
	view         []host.View
	number       int
}

func newBench(ctx context.Context, o *options, dir string, client *host.Client) (*bench, error) {
	caps := client.Info().Capabilities
	fmt.Printf("isolation: user ids %v, own file system %v, cgroups %v; forks %v\n",
		caps.Users, caps.Mounts, caps.Memory && caps.CPU && caps.Pids, caps.Forks)
	for _, r := range caps.Reductions {
		fmt.Println("  " + r)
	}
	b := &bench{o: o, dir: dir, client: client}
	var err error
	if b.runtime, err = workers.Write(filepath.Join(dir, "runtime")); err != nil {
		return nil, err
	}
	if b.sockets, err = host.SocketDir(dir); err != nil {
		return nil, fmt.Errorf("find the directory of sockets: %w", err)
	}
	venv := filepath.Dir(filepath.Dir(o.python))
	real, err := filepath.EvalSymlinks(o.python)
	if err != nil {
		return nil, fmt.Errorf("find Python: %w", err)
	}
	b.view = []host.View{{Path: b.runtime}, {Path: venv}, {Path: filepath.Dir(filepath.Dir(real))}}
	for id, spares := range map[string]int{forksServer: 0, sparesServer: 1} {
		began := time.Now()
		_, err := client.Start(ctx, host.ProcessSpec{
			ID: id, Argv: []string{o.python, b.runtime, "fork-server", "joblib", "json", "numpy", "os"},
			Env: b.environment(nil), User: host.UserSeparate, View: b.view, Forks: &host.ForkSpec{Spares: spares},
			Log: host.LogSpec{Dir: filepath.Join(dir, "log", id)},
		})
		if err != nil {
			return nil, fmt.Errorf("start a fork server: %w", err)
		}
		fmt.Printf("a fork server was ready after %.0f ms\n", millis(time.Since(began)))
	}
	return b, nil
}

// environment is that of the local engine, for one processor.
func (b *bench) environment(more map[string]string) map[string]online.Secret {
	env := map[string]online.Secret{
		"PATH": online.Secret(filepath.Dir(b.o.python) + ":/usr/bin:/bin"), "LANG": "C.UTF-8",
		"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp", "TMPDIR": "/tmp",
	}
	for _, name := range []string{"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"} {
		env[name] = "1"
	}
	for name, value := range more {
		env[name] = online.Secret(value)
	}
	return env
}

// measure starts one worker, asks it once, and ends it.
func (b *bench) measure(ctx context.Context, r *row, warm bool) error {
	b.number++
	id := fmt.Sprintf("w%d", b.number)
	scratch := filepath.Join(b.dir, "scratch", id)
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	spec := host.ProcessSpec{
		ID: id, From: r.from, Argv: []string{b.o.python, b.runtime}, User: host.UserSeparate, Dir: b.o.code,
		Env: b.environment(map[string]string{
			"AML_APP_ROOT": b.o.code, "AZUREML_ENTRY_SCRIPT": "score.py", "AZUREML_MODEL_DIR": b.o.model,
			"HOME": scratch, "TMPDIR": scratch,
		}),
		Limits: host.Limits{MemoryBytes: 2 << 30, CPUMillis: 2000, Pids: 4096},
		View: append([]host.View{
			{Path: scratch, Writable: true}, {Path: b.o.code}, {Path: b.o.model},
		}, b.view...),
		Socket: filepath.Join(b.sockets, id), Page: filepath.Join(b.dir, id+".page"),
		Log: host.LogSpec{Dir: filepath.Join(b.dir, "log", id)},
	}
	spent, err := cpu(b.client.Info().PID)
	if err != nil {
		return err
	}
	began := time.Now()
	p, err := b.client.Start(ctx, spec)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := ask(ctx, spec.Socket); err != nil {
		return err
	}
	took := time.Since(began)
	supervisor, err := cpu(b.client.Info().PID)
	if err != nil {
		return err
	}
	worker, err := cpu(p.PID)
	if err != nil {
		return err
	}
	time.Sleep(idle)
	private, resident, err := memory(p.PID)
	if err == nil {
		err = b.client.Signal(ctx, id, syscall.SIGKILL, true)
	}
	if err != nil {
		return err
	}
	if r.spare != p.Spare {
		return fmt.Errorf("spare is %v: the machine is too slow to make one in %s", p.Spare, idle)
	}
	if !warm {
		r.cpu = append(r.cpu, supervisor-spent+worker)
		r.took, r.private, r.resident = append(r.took, took), append(r.private, private), append(r.resident, resident)
	}
	return b.gone(ctx, id)
}

// gone waits until a worker has ended, so that its end does not disturb the next start.
func (b *bench) gone(ctx context.Context, id string) error {
	for {
		all, err := b.client.List(ctx)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(p host.Process) bool { return p.ID == id && !p.Running() }) {
			return b.client.Forget(ctx, id)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ask sends the first request, which waits in the socket until the worker takes it.
func ask(ctx context.Context, socket string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST /score HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"+
		"x-portico-number: 1\r\n\r\n%s", len(body), body)
	if err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || string(text) != want {
		return fmt.Errorf("the answer is %q, want %q (%w)", text, want, err)
	}
	return nil
}

// cpu is the processor time that a process's threads have had.
func cpu(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("read the processor time of %d: %w", pid, errors.Join(err, os.ErrNotExist))
	}
	var sum time.Duration
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // the thread ended meanwhile
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, _ := strconv.ParseInt(first, 10, 64)
		sum += time.Duration(n)
	}
	return sum, nil
}

// memory is what a process has for itself, and what it has in all.
func memory(pid int) (private, resident int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "Private_Clean:", "Private_Dirty:":
			private += kib << 10
		case "Rss:":
			resident = kib << 10
		}
	}
	return private, resident, nil
}

func report(rows []*row) {
	fmt.Printf("\nfrom the order to the first answer, median of %d\n\n", len(rows[0].took))
	fmt.Println("| | ms: median | fastest, 90 of 100 | times as fast | CPU ms since its fork, with the host | private MB when idle | resident MB |")
	fmt.Println("|---|---|---|---|---|---|---|")
	first := median(rows[0].took)
	for _, r := range rows {
		slices.Sort(r.took)
		mid := median(r.took)
		fmt.Printf("| %s | %.1f | %.1f, %.1f | %.1f | %.1f | %.1f | %.1f |\n", r.name, millis(mid), millis(r.took[0]),
			millis(r.took[len(r.took)*9/10]), float64(first)/float64(mid), millis(median(r.cpu)), float64(median(r.private))/1e6, float64(median(r.resident))/1e6)
	}
}

// floor prints what the same fork takes where nothing is set up.
func (b *bench) floor(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, b.o.python, "bench/start/floor.py", b.runtime, filepath.Join(b.o.model, "model.joblib"),
		body, strconv.Itoa(b.o.starts))
	for name, value := range b.environment(nil) {
		cmd.Env = append(cmd.Env, name+"="+value.Reveal())
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("fork without any setting up: %w", err)
	}
	var took []time.Duration
	for _, f := range strings.Fields(string(out)) {
		ms, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return fmt.Errorf("read what a bare fork took: %w", err)
		}
		took = append(took, time.Duration(ms*float64(time.Millisecond)))
	}
	slices.Sort(took)
	fmt.Printf("\nos.fork() in Python, model and predict() alone: median %.1f ms, fastest %.1f\n", millis(median(took)), millis(took[0]))
	return nil
}

func median[T time.Duration | int64](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
