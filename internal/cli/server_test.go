package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"portico/internal/arm"
	"portico/internal/artifact"
	"portico/internal/online"
	"portico/internal/server"
)

const wsPath = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/portico/providers/Microsoft.MachineLearningServices/workspaces/default"

// recorded is one request that the fake server got.
type recorded struct {
	method, path, query, body string
	header                    http.Header
}

func (r recorded) String() string { return r.method + " " + strings.TrimPrefix(r.path, wsPath) }

// fakeServer speaks as much of the management API as the flows need: it stores what is put, hands out uploads and
// runs operations that end after a few polls. It refuses a request without the token.
type fakeServer struct {
	t   *testing.T
	url string
	dir string // data directory with ready file and token

	mu        sync.Mutex
	requests  []recorded
	resources map[string]map[string]any // by lower-case path
	blobs     map[string][]byte
	blocks    map[string]map[string][]byte
	etag      int
	polls     map[string]int
	uploads   int
	operation func(n int) arm.OperationStatus // what the n-th poll of an operation answers; nil: ends at the second
	hook      func(w http.ResponseWriter, r *http.Request) bool
}

const fakeToken = "the-administrator's-token"

func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	f := &fakeServer{
		t: t, resources: map[string]map[string]any{}, blobs: map[string][]byte{},
		blocks: map[string]map[string][]byte{}, polls: map[string]int{},
	}
	s := httptest.NewUnstartedServer(f)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // a client that refuses the certificate is part of a test
	s.StartTLS()
	t.Cleanup(s.Close)
	f.url, f.dir = s.URL, t.TempDir()
	ca := filepath.Join(f.dir, "ca.pem")
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	ready, err := json.Marshal(readyFile{PID: os.Getpid(), ManagementURL: s.URL, ScoringURL: s.URL, CAFile: ca})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(f.dir, "server.json"), string(ready))
	write(t, filepath.Join(f.dir, "admin.token"), fakeToken+"\n")
	return f
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// put stores a resource before a test.
func (f *fakeServer) put(path string, properties map[string]any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.store(wsPath+path, map[string]any{"properties": properties, "tags": map[string]any{}})
}

func (f *fakeServer) store(path string, doc map[string]any) {
	f.etag++
	doc["id"], doc["name"], doc["etag"] = path, filepath.Base(path), fmt.Sprintf("%q", fmt.Sprint(f.etag))
	if p, ok := doc["properties"].(map[string]any); ok {
		p["provisioningState"] = "Succeeded"
	}
	f.resources[strings.ToLower(path)] = doc
}

// sent lists the requests that changed something or asked for a named thing, as "METHOD /path".
func (f *fakeServer) sent(methods ...string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, r := range f.requests {
		if slices.Contains(methods, r.method) {
			out = append(out, r.String())
		}
	}
	return out
}

func (f *fakeServer) find(request string) recorded {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range slices.Backward(f.requests) {
		if r.String() == request {
			return r
		}
	}
	f.t.Fatalf("no request %s among %v", request, f.requests)
	return recorded{}
}

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		f.t.Errorf("read the request: %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, recorded{r.Method, r.URL.Path, r.URL.RawQuery, string(body), r.Header.Clone()})
	if f.hook != nil && f.hook(w, r) {
		return
	}
	if strings.HasPrefix(r.URL.Path, "/blobs/") {
		f.blob(w, r, body)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/endpoints/") {
		f.score(w, r, body)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+fakeToken {
		f.fail(w, online.Errorf(online.CodeUnauthorized, "", "who are you"))
		return
	}
	if r.URL.Query().Get("api-version") == "" {
		f.t.Errorf("%s %s has no api-version", r.Method, r.URL)
	}
	f.manage(w, r, body)
}

func (f *fakeServer) fail(w http.ResponseWriter, e *online.Error) {
	w.Header().Set("X-Ms-Error-Code", string(e.Code))
	w.WriteHeader(e.HTTPStatus())
	_ = json.NewEncoder(w).Encode(arm.NewErrorBody(e, "rid"))
}

func (f *fakeServer) answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (f *fakeServer) manage(w http.ResponseWriter, r *http.Request, body []byte) {
	path := r.URL.Path
	key := strings.ToLower(path)
	switch {
	case strings.Contains(path, "/mfeOperationsStatus/"):
		f.polls[path]++
		status := arm.OperationStatus{Status: "InProgress"}
		if f.polls[path] > 1 {
			status.Status = "Succeeded"
		}
		if f.operation != nil {
			status = f.operation(f.polls[path])
		}
		f.answer(w, 200, status)
	case path == "/portico/v1/config":
		f.answer(w, 200, []server.Value{{Key: "workspace", Value: "default", Source: "flag --workspace"},
			{Key: "isolation_in_force", Value: "no user ids", Source: "machine"}})
	case r.Method == http.MethodPost && strings.HasSuffix(path, "/startPendingUpload"):
		f.uploads++
		place := fmt.Sprintf("%s/blobs/upload-%d", f.url, f.uploads)
		f.answer(w, 200, arm.PendingUpload{PendingUploadID: "1", PendingUploadType: "TemporaryBlobReference",
			BlobReference: arm.BlobReference{
				BlobURI: place, Credential: arm.BlobCredential{CredentialType: "SAS", SASURI: place + "?sig=secret&sp=rcw"},
			}})
	case r.Method == http.MethodPost && strings.HasSuffix(path, "/listKeys"):
		f.answer(w, 200, arm.Keys{PrimaryKey: "primary", SecondaryKey: "secondary"})
	case r.Method == http.MethodPost && strings.HasSuffix(path, "/getLogs"):
		f.answer(w, 200, arm.Logs{Content: "line 1\nline 2"})
	case r.Method == http.MethodPost:
		f.accepted(w, 202)
	case r.Method == http.MethodPut:
		var doc map[string]any
		if err := json.Unmarshal(body, &doc); err != nil {
			f.t.Errorf("PUT %s: %v in %s", path, err, body)
		}
		old, exists := f.resources[key]
		if m := r.Header.Get("If-Match"); m != "" && (!exists || old["etag"] != m) {
			f.fail(w, online.Errorf(online.CodePrecondition, path, "changed since you read it"))
			return
		}
		f.addDigest(doc)
		f.store(path, doc)
		if strings.Contains(path, "/onlineEndpoints/") {
			w.Header().Set("Azure-AsyncOperation", fmt.Sprintf("https://elsewhere.example/subscriptions/x/mfeOperationsStatus/%d?t=1", f.etag))
			w.Header().Set("Retry-After", "0")
		}
		f.answer(w, map[bool]int{true: 200, false: 201}[exists], f.resources[key])
	case r.Method == http.MethodDelete:
		if _, ok := f.resources[key]; !ok {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		delete(f.resources, key)
		f.accepted(w, 202)
	default:
		f.get(w, r, key)
	}
}

// addDigest adds to a model or code the digest of what was uploaded for it.
func (f *fakeServer) addDigest(doc map[string]any) {
	properties, _ := doc["properties"].(map[string]any)
	for _, field := range []string{"codeUri", "modelUri"} {
		at, _ := properties[field].(string)
		u, err := url.Parse(at)
		if at == "" || err != nil {
			continue
		}
		var files []artifact.File
		for name, body := range f.blobs {
			rel, ok := strings.CutPrefix(name, u.Path+"/")
			if name == u.Path {
				rel, ok = name[strings.LastIndex(name, "/")+1:], true
			}
			if ok {
				files = append(files, artifact.File{Path: rel, Size: int64(len(body)), Sum: sha256.Sum256(body)})
			}
		}
		properties["digest"] = artifact.DigestOf(files)
	}
}

func (f *fakeServer) accepted(w http.ResponseWriter, status int) {
	f.etag++
	w.Header().Set("Azure-AsyncOperation", fmt.Sprintf("%s/subscriptions/x/mfeOperationsStatus/%d", f.url, f.etag))
	w.Header().Set("Retry-After", "0")
	f.answer(w, status, nil)
}

// get answers a resource, or pages of two of those right below the path.
func (f *fakeServer) get(w http.ResponseWriter, r *http.Request, key string) {
	if doc, ok := f.resources[key]; ok {
		f.answer(w, 200, doc)
		return
	}
	var found []any
	for _, k := range sortedKeys(f.resources) {
		if rest, ok := strings.CutPrefix(k, key+"/"); ok && !strings.Contains(rest, "/") {
			found = append(found, f.resources[k])
		}
	}
	last := key[strings.LastIndex(key, "/")+1:]
	if found == nil && !slices.Contains([]string{"onlineendpoints", "deployments", "versions", "models"}, last) {
		f.fail(w, online.Errorf(online.CodeNotFound, r.URL.Path, "%s does not exist", r.URL.Path))
		return
	}
	skip := 0
	_, _ = fmt.Sscan(r.URL.Query().Get("$skip"), &skip)
	page := found[min(skip, len(found)):min(skip+2, len(found))]
	next := ""
	if skip+2 < len(found) {
		next = fmt.Sprintf("%s%s?%s", f.url, r.URL.Path, url.Values{"$skip": {fmt.Sprint(skip + 2)}}.Encode())
	}
	f.answer(w, 200, arm.NewPage(page, next))
}

func (f *fakeServer) blob(w http.ResponseWriter, r *http.Request, body []byte) {
	if r.Header.Get("Authorization") != "" {
		f.t.Error("an upload carries the administrator's token")
	}
	q := r.URL.Query()
	if q.Get("sig") != "secret" || r.Method != http.MethodPut {
		f.fail(w, online.Errorf(online.CodeForbidden, "", "bad signature"))
		return
	}
	switch q.Get("comp") {
	case "block":
		if f.blocks[r.URL.Path] == nil {
			f.blocks[r.URL.Path] = map[string][]byte{}
		}
		f.blocks[r.URL.Path][q.Get("blockid")] = body
	case "blocklist":
		var whole []byte
		for part := range strings.SplitSeq(string(body), "<Latest>") {
			if id, _, ok := strings.Cut(part, "</Latest>"); ok {
				whole = append(whole, f.blocks[r.URL.Path][id]...)
			}
		}
		f.blobs[r.URL.Path] = whole
	default:
		if r.Header.Get("X-Ms-Blob-Type") != "BlockBlob" {
			f.t.Errorf("x-ms-blob-type is %q", r.Header.Get("X-Ms-Blob-Type"))
		}
		f.blobs[r.URL.Path] = body
	}
	w.WriteHeader(http.StatusCreated)
}

func (f *fakeServer) score(w http.ResponseWriter, r *http.Request, body []byte) {
	w.Header().Set("X-Request-Id", "req-1")
	if r.Header.Get("Authorization") != "Bearer primary" {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":{"code":"key_auth_access_denied"}}`)
		return
	}
	if string(body) == "boom" {
		w.Header().Set("Ms-Azureml-Model-Error-Statuscode", "500")
		w.Header().Set("Ms-Azureml-Model-Error-Reason", "model_error")
		w.WriteHeader(http.StatusFailedDependency)
		_, _ = io.WriteString(w, `{"error":{"message":"division by zero"}}`)
		return
	}
	w.Header().Set("Azureml-Model-Deployment", orDefault(r.Header.Get("Azureml-Model-Deployment"), "blue"))
	_, _ = w.Write(bytes.ToUpper(body))
}

// outcome is what a command line left.
type outcome struct {
	code     int
	out, err string
}

// portico runs a command line against the fake server.
func (f *fakeServer) portico(args ...string) outcome { return f.with("", nil, args...) }

func (f *fakeServer) with(stdin string, env map[string]string, args ...string) outcome {
	f.t.Helper()
	f.t.Setenv("XDG_CONFIG_HOME", filepath.Join(f.dir, "user"))
	var out, errs bytes.Buffer
	app := &App{In: strings.NewReader(stdin), Out: &out, Err: &errs, Version: "test", Getenv: func(k string) string {
		if v, ok := env[k]; ok {
			return v
		}
		if k == envDataDir {
			return f.dir
		}
		return ""
	}}
	return outcome{app.Run(context.Background(), args), out.String(), errs.String()}
}

// must runs a command line that has to succeed.
func (f *fakeServer) must(args ...string) outcome {
	f.t.Helper()
	o := f.portico(args...)
	if o.code != 0 {
		f.t.Fatalf("portico %s: exit %d\n%s%s", strings.Join(args, " "), o.code, o.err, o.out)
	}
	return o
}
