package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"portico/internal/inference"
	"portico/internal/online"
	"portico/internal/onnx"
)

// inferONNX is an ONNX model that `portico infer` serves.
type inferONNX struct{ worker, library, file, name, version, declared string }

// variables tell the worker what it serves.
func (o *inferONNX) variables() map[string]string {
	return map[string]string{
		inference.VariableONNXLibrary: o.library, inference.VariableONNXModel: o.file,
		inference.VariableONNXName: o.name, inference.VariableONNXVersion: o.version, inference.VariableONNXDeclared: o.declared,
	}
}

// firstVersion is that of a model which has none of its own.
const firstVersion = "1"

// useONNX makes the file what is served. Without a name of its own the model is called by its file.
func (c *InferConfig) useONNX(file, name, version string) error {
	library, err := onnx.Library(c.DataDir)
	if errors.Is(err, onnx.ErrMissing) {
		return fmt.Errorf("start inference server: %w --data-dir %s", err, c.DataDir)
	}
	if err != nil {
		return fmt.Errorf("start inference server: %w", err)
	}
	worker, err := onnxWorker()
	if err != nil {
		return fmt.Errorf("start inference server: %w", err)
	}
	if name == "" {
		name = strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	}
	orElse(&version, firstVersion)
	c.onnx = &inferONNX{worker: worker, library: library, file: file, name: name, version: version}
	return nil
}

// useRepository makes the model that was found what is served, as its configuration says.
func (c *InferConfig) useRepository(m *onnx.Model) error {
	if err := c.useONNX(filepath.Join(c.ModelDir, filepath.FromSlash(m.File)), m.Name, m.Version); err != nil || m.Config == nil {
		return err
	}
	c.onnx.declared, c.notes = m.Config.Declared, m.Config.Notes
	c.batchAsConfigured(m.Config.Batching)
	var holds *online.Batching
	if b := online.Batching(c.Batching); b.MaxSize >= online.MinBatchSize {
		holds = &b
	}
	c.notes = append(c.notes, m.Config.Overridden(holds)...)
	return nil
}

// batchAsConfigured takes over what a model's configuration says of batches. What was said of them on the command line
// stands, and no batch has more requests than are admitted.
func (c *InferConfig) batchAsConfigured(b *online.Batching) {
	if b == nil || c.Batching.MaxSize != 0 {
		return
	}
	c.Batching = inference.Batching(*b)
	if c.MaxConcurrent > 0 {
		c.Batching.MaxSize = min(b.MaxSize, c.MaxConcurrent)
	}
}

// onnx finds what ONNX models are served with.
func (s *serving) onnx() (worker, library string, err error) {
	if worker, err = onnxWorker(); err != nil {
		return "", "", err
	}
	library, err = onnx.Library(s.cfg.DataDir)
	return worker, library, err
}

// onnxWorker is the program that serves ONNX models; it lies beside this one.
func onnxWorker() (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", fmt.Errorf("look for %s: %w", onnx.Worker, err)
	}
	path := filepath.Join(filepath.Dir(self), onnx.Worker)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the program %s is not beside %s; `make build` makes both", onnx.Worker, filepath.Base(self))
	}
	return path, nil
}

// protocolPrefix begins the paths of the Open Inference Protocol.
const protocolPrefix = "/v2"

// serveProtocol has the routes of the Open Inference Protocol. False: the path is none of them. Whether the instance lives
// and is ready is answered here: the worker may not answer yet, or be busy for longer than a probe waits.
func (h *inferHandler) serveProtocol(ctx context.Context, s *scoring) bool {
	path, ok := strings.CutPrefix(s.path, protocolPrefix)
	if !ok || path != "" && path[0] != '/' {
		return false
	}
	ready := h.instance.current.Load().Status().State == inference.StateReady
	status, document := http.StatusOK, ""
	switch {
	case s.Method != http.MethodGet && s.Method != http.MethodHead:
	case ready && s.field("origin") != "": // a page, and no probe: the worker knows which may read the answer
	case path == "/health/live":
		document = `{"live":true}`
	case path == "/health/ready" && ready:
		document = `{"ready":true}`
	case strings.HasSuffix(path, "/ready") && !ready:
		status, document = http.StatusServiceUnavailable, `{"ready":false}`
	}
	if document == "" {
		h.serve(ctx, s, http.MethodGet, http.MethodHead, http.MethodPost, http.MethodOptions)
	} else if h.identified(s) {
		s.document(status, "application/json", document, false)
	}
	return true
}
