package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"

	"portico/internal/inference"
	"portico/internal/mlflow"
)

// findModel takes the MLflow model in the model folder where there is no script. ModelDir is absolute.
func (c *InferConfig) findModel() error {
	if c.EntryScript != "" || c.ConfigFile != "" {
		return nil
	}
	const needs = "start inference server: an entry script, a configuration file or an MLflow model is required"
	if c.ModelDir == "" {
		return errors.New(needs)
	}
	m, err := mlflow.Open(c.ModelDir)
	if errors.Is(err, mlflow.ErrNone) {
		return fmt.Errorf(needs+"; in %s there is %w", c.ModelDir, err)
	}
	if err != nil {
		return fmt.Errorf("start inference server: %w", err)
	}
	c.mlflowModel = filepath.Join(c.ModelDir, filepath.FromSlash(m.Dir))
	return nil
}

// serveMLflow has the routes of MLflow's own scoring server beside those of Azure's. False: the path is none of them.
func (h *inferHandler) serveMLflow(w http.ResponseWriter, r *http.Request) bool {
	switch r.URL.Path {
	case "/invocations":
		h.serve(w, r, http.MethodPost)
	case "/version":
		h.serve(w, r, http.MethodGet)
	case "/ping", "/health":
		h.ping(w, r)
	default:
		return false
	}
	return true
}

// ping answers for the worker, so that a long request does not make the instance look dead.
func (h *inferHandler) ping(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		writeMessage(w, http.StatusMethodNotAllowed, notAllowed)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if h.instance.current.Load().Status().State != inference.StateReady {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = io.WriteString(w, "\n") // a prober that hung up learns nothing
}
