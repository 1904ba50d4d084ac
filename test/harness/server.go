package harness

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"portico/internal/host"
	"portico/internal/testkit"
)

// Bounds of every wait. They are reached only when what is waited for never comes.
const (
	startTimeout = 2 * time.Minute
	stopTimeout  = 2 * time.Minute
	// WaitTimeout is for conditions that a server brings about.
	WaitTimeout = 5 * time.Minute
)

// BinaryVariable names a program that exists, such as a release, to test instead of one that is built from the sources.
const BinaryVariable = "PORTICO_TEST_BINARY"

// Program gives the program under test: the one that BinaryVariable names, or one that is built into a directory of
// its own, which remove takes away.
func Program() (binary string, remove func(), err error) {
	if binary = os.Getenv(BinaryVariable); binary != "" {
		return binary, func() {}, nil
	}
	dir, err := os.MkdirTemp("", "portico-test-")
	if err != nil {
		return "", nil, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	binary = filepath.Join(dir, "portico")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", filepath.Dir(binary), "portico/cmd/portico", "portico/cmd/portico-onnx")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		remove()
		return "", nil, fmt.Errorf("build: %w\n%s", err, out)
	}
	return binary, remove, nil
}

// Ready is the ready file of a server.
type Ready struct {
	PID            int    `json:"pid"`
	ManagementURL  string `json:"management_url"`
	ScoringURL     string `json:"scoring_url"`
	ScoringHTTPURL string `json:"scoring_http_url"`
	InterceptURL   string `json:"intercept_url"`
	IdentityURL    string `json:"identity_url"`
	CAFile         string `json:"ca_file"`
}

// Server is one `portico serve` with its data directory. It may be started again after it ended.
type Server struct {
	Dir   string         // the data directory
	Flags []string       // of serve, beside the data directory
	Env   []string       // nil: this process's environment
	Ready Ready          // of the newest start
	Log   testkit.Buffer // of all starts

	binary string
	cmd    *exec.Cmd
	exit   chan struct{} // closed when the process has ended; nil while none runs
}

// NewServer describes a server on free ports of this machine. Up starts it.
func NewServer(binary, dir string, flags ...string) *Server {
	return &Server{Dir: dir, binary: binary, Flags: append([]string{
		"--management", "127.0.0.1:0", "--scoring", "127.0.0.1:0", "--scoring-http", "127.0.0.1:0",
	}, flags...)}
}

// Up starts the process and waits until it serves. After an error End still has to be called.
func (s *Server) Up() error {
	file := s.Dir + ".ready.json"
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	args := append([]string{"serve", "--data-dir", s.Dir, "--ready-file", file}, s.Flags...)
	s.cmd = exec.Command(s.binary, args...) //nolint:noctx // End ends it
	s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = s.Env, &s.Log, &s.Log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	exit := make(chan struct{})
	s.exit = exit
	go func(cmd *exec.Cmd) {
		defer close(exit)
		_ = cmd.Wait() // its ProcessState tells
	}(s.cmd)
	for deadline := time.Now().Add(startTimeout); ; {
		doc, err := os.ReadFile(file)
		if err == nil {
			s.Ready = Ready{}
			return json.Unmarshal(doc, &s.Ready)
		}
		select {
		case <-exit:
			s.exit = nil
			return fmt.Errorf("serve ended before it was ready: %s\n%s", s.cmd.ProcessState, &s.Log)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("serve is not ready after %s\n%s", startTimeout, &s.Log)
		}
	}
}

// Client gives a client that trusts the server's own authority.
func (s *Server) Client() (*http.Client, error) {
	ca, err := os.ReadFile(s.Ready.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: 64,
	}}, nil
}

// Stop ends the server as an operator does and gives its exit status.
func (s *Server) Stop() (int, error) { return s.signal(syscall.SIGTERM) }

// Kill ends the server without a chance to do anything.
func (s *Server) Kill() error {
	_, err := s.signal(syscall.SIGKILL)
	return err
}

func (s *Server) signal(sig os.Signal) (int, error) {
	if s.exit == nil {
		return -1, errors.New("serve does not run")
	}
	// It may be ending by itself at this moment.
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return -1, err
	}
	select {
	case <-s.exit:
		s.exit = nil
		return s.cmd.ProcessState.ExitCode(), nil
	case <-time.After(stopTimeout):
		_ = s.cmd.Process.Kill()
		return -1, fmt.Errorf("serve does not end\n%s", &s.Log)
	}
}

// End ends the server, if it runs, and its host with all that the host started.
func (s *Server) End() error {
	var ends []error
	if s.exit != nil {
		_, err := s.Stop()
		ends = append(ends, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if c, err := host.Dial(ctx, s.Dir); err == nil {
		if err := c.Shutdown(ctx, time.Second); err != nil {
			ends = append(ends, fmt.Errorf("shut the host down: %w", err))
		}
		_ = c.Close()
	} else if !errors.Is(err, host.ErrNotRunning) {
		ends = append(ends, fmt.Errorf("reach the host: %w", err))
	}
	// Sockets lie elsewhere when the path of the data directory is too long for one.
	if dir, err := host.SocketDir(s.Dir); err == nil {
		_ = os.RemoveAll(dir)
	}
	return errors.Join(ends...)
}
