// Inprocess is what `portico infer` is measured against for ONNX models: the same codec and the same ONNX Runtime behind the
// same HTTP server, in one process. It has no queue, no deadline and no worker, so a crash of the library ends it.
package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/google/uuid"

	"portico/internal/onnxrt"
	"portico/internal/onnxserve"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "inprocess:", err)
		os.Exit(1)
	}
}

func run() error {
	library := flag.String("library", "", "ONNX Runtime")
	file := flag.String("model", "", "the .onnx file")
	address := flag.String("address", "127.0.0.1:5001", "where to listen")
	flag.Parse()
	lib, err := onnxrt.Open(*library)
	if err != nil {
		return err
	}
	session, err := lib.Load(*file, onnxrt.Options{Threads: 1, Optimization: onnxrt.OptimizeAll})
	if err != nil {
		return err
	}
	model, err := onnxserve.NewModel("model", "1", session, onnxserve.Declared{})
	if err != nil {
		return err
	}
	n := 2 * runtime.GOMAXPROCS(0)
	free := make(chan *onnxserve.Executor, n)
	for range n {
		e, err := model.NewExecutor(0)
		if err != nil {
			return err
		}
		free <- e
	}
	server := http.Server{Addr: *address, ReadHeaderTimeout: 10 * time.Second, Handler: handler{free}}
	return server.ListenAndServe()
}

// handler answers with one of the executors.
type handler struct{ free chan *onnxserve.Executor }

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	e := <-h.free
	defer func() { h.free <- e }()
	a := e.Handle(&onnxserve.Request{Method: []byte(r.Method), Path: []byte(r.URL.Path), Body: body})
	w.Header().Set("Content-Type", a.Kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(a.Body)))
	w.Header().Set("X-Request-Id", uuid.NewString())
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // a caller that hung up learns nothing
}
