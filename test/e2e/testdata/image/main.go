// Image is a server that knows nothing of Portico, for an image without anything else.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "remove" { // while the image is built
		for _, path := range os.Args[2:] {
			if err := os.RemoveAll(path); err != nil {
				panic(err)
			}
		}
		return
	}
	port := "8501"
	if len(os.Args) > 1 {
		port = os.Args[1]
	}
	quit := make(chan os.Signal, 1)
	signal.Notify(quit, syscall.SIGQUIT)
	go func() {
		<-quit
		fmt.Println("the server was asked to end")
		os.Exit(0)
	}()
	http.HandleFunc("GET /live", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("GET /v1/file", look)
	http.HandleFunc("GET /v1/stream", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "data: first\n\n")
		w.(http.Flusher).Flush()
		fmt.Fprint(w, "data: last\n\n")
	})
	http.HandleFunc("GET /v1/endless", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "data: first\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		fmt.Println("an answer was given up")
	})
	http.HandleFunc("POST /v1/exit", func(http.ResponseWriter, *http.Request) { os.Exit(3) })
	http.HandleFunc("/", tell)
	l, err := net.Listen("tcp", ":"+port) //nolint:noctx,gosec // its network is its own
	if err != nil {
		panic(err)
	}
	fmt.Println("the server listens on", port)
	panic(http.Serve(l, nil)) //nolint:gosec // a program of a test
}

// look says what a path is, and whether something can be written there.
func look(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Query().Get("path")
	info, err := os.Lstat(path)
	if err != nil {
		fmt.Fprint(w, err)
		return
	}
	if !info.IsDir() {
		text, err := os.ReadFile(path)
		fmt.Fprintf(w, "%s %.40q %d %v", info.Mode(), text, len(text), err)
		return
	}
	err = os.WriteFile(filepath.Join(path, "written"), []byte("x"), 0o600)
	fmt.Fprintf(w, "%s %v", info.Mode(), err)
}

func tell(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	model, err := os.ReadFile(filepath.Join(os.Getenv("AZUREML_MODEL_DIR"), "words.txt"))
	code, _ := os.ReadFile(filepath.Join(os.Getenv("AML_APP_ROOT"), "settings.txt"))
	earlier, _ := os.ReadFile("/earlier")
	writes := "ok"
	if err := os.WriteFile("/earlier", fmt.Appendf(earlier, "%d ", os.Getpid()), 0o600); err != nil {
		writes = err.Error()
	}
	name, _ := os.Hostname()
	dir, _ := os.Getwd()
	env := map[string]string{}
	for _, v := range os.Environ() {
		k, v, _ := strings.Cut(v, "=")
		env[k] = v
	}
	interfaces, _ := net.Interfaces()
	var networks []string
	for _, i := range interfaces {
		networks = append(networks, i.Name)
	}
	_, outside := os.Stat("/usr")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"method": r.Method, "target": r.RequestURI, "body": string(body), "pid": os.Getpid(), "uid": os.Getuid(), "gid": os.Getgid(),
		"model": string(model), "modelError": fmt.Sprint(err), "code": string(code), "writes": writes, "earlier": string(earlier), "hostname": name, "dir": dir,
		"env": env, "args": os.Args, "networks": strings.Join(networks, " "), "outside": outside == nil, "host": r.Host,
	})
}
