package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"portico/internal/inference"
	"portico/internal/mlflow"
	"portico/internal/onnx"
)

// findModel takes the MLflow or ONNX model in the model folder where there is no script. ModelDir is absolute.
func (c *InferConfig) findModel() error {
	if c.EntryScript != "" || c.ConfigFile != "" {
		return nil
	}
	const needs = "start inference server: an entry script, a configuration file, or an MLflow or ONNX model is required"
	if c.ModelDir == "" {
		return errors.New(needs)
	}
	if strings.EqualFold(filepath.Ext(c.ModelDir), onnx.Extension) {
		file := c.ModelDir
		c.ModelDir = filepath.Dir(file)
		return c.useONNX(file, "", "")
	}
	m, err := mlflow.Open(c.ModelDir)
	if errors.Is(err, mlflow.ErrNone) {
		found, err := onnx.Open(c.ModelDir)
		if errors.Is(err, onnx.ErrNone) {
			return fmt.Errorf(needs+"; in %s there is %w, and %w", c.ModelDir, mlflow.ErrNone, err)
		}
		if err != nil {
			return fmt.Errorf("start inference server: %w", err)
		}
		return c.useRepository(found)
	}
	if err != nil {
		return fmt.Errorf("start inference server: %w", err)
	}
	folder := filepath.Join(c.ModelDir, filepath.FromSlash(m.Dir))
	// A named interpreter is an environment that was made for the model, and asks for MLflow.
	if m.ONNX != "" && (c.Python == "" || !m.Python) {
		return c.useONNX(filepath.Join(folder, filepath.FromSlash(m.ONNX)), filepath.Base(c.ModelDir), "")
	}
	c.mlflowModel = folder
	return nil
}

// serveMLflow has the routes of MLflow's own scoring server beside those of Azure's. False: the path is none of them.
func (h *inferHandler) serveMLflow(ctx context.Context, s *scoring) bool {
	switch s.path {
	case "/invocations":
		h.serve(ctx, s, http.MethodPost)
	case "/version":
		h.serve(ctx, s, http.MethodGet)
	case "/ping", "/health":
		h.ping(s)
	default:
		return false
	}
	return true
}

// ping answers for the worker, so that a long request does not make the instance look dead.
func (h *inferHandler) ping(s *scoring) {
	if s.Method != http.MethodGet {
		s.message(http.StatusMethodNotAllowed, notAllowed)
		return
	}
	status := http.StatusOK
	if h.instance.current.Load().Status().State != inference.StateReady {
		status = http.StatusServiceUnavailable
	}
	s.document(status, "application/json", "\n", false)
}
