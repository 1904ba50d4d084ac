package api

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"portico/internal/access"
	"portico/internal/control"
	"portico/internal/control/controltest"
	"portico/internal/cost"
	"portico/internal/online"
	"portico/internal/telemetry"
	"portico/internal/testkit"
)

const (
	token1 = "0123456789abcdef"
	token2 = "fedcba9876543210" // of another principal
	wsPath = "/subscriptions/sub/resourceGroups/group/providers/Microsoft.MachineLearningServices/workspaces/home"
)

// site is a management listener over a real store and real uploads, with a hand that plays reconcile.
type site struct {
	*httptest.Server
	*controltest.Ground
	t   testing.TB
	api *API
	log *testkit.Buffer

	identities *control.Identities

	mu    sync.Mutex
	ready error
	logs  func(control.LogQuery) (io.ReadCloser, error)
}

func (s *site) Logs(_ context.Context, q control.LogQuery) (io.ReadCloser, error) {
	return s.logs(q)
}

func (s *site) CollectedMinutes(endpoint string, since, until time.Time) []telemetry.CollectedMinute {
	return s.Measured.CollectedMinutes(endpoint, since, until)
}

func (s *site) Query(endpoint string, since, until time.Time) telemetry.Summary {
	return telemetry.Summary{Since: since, Until: until, Total: telemetry.Row{Endpoint: endpoint, Requests: 3},
		Deployments: []telemetry.Row{}}
}

func newSite(t testing.TB) *site {
	t.Helper()
	ctx := context.Background()
	s := &site{t: t, log: &testkit.Buffer{}}
	s.logs = func(control.LogQuery) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("line\n")), nil }
	log := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.Ground = controltest.Open(t, t.TempDir(), log)
	var err error
	s.identities, err = control.OpenIdentities(ctx, control.IdentityConfig{Store: s.Records, Administrator: token1,
		Issuer: func(tenant string) string { return "https://issuer/" + tenant + "/v2.0" }, NewKey: controltest.SigningKey, Now: s.Tick})
	if err != nil {
		t.Fatal(err)
	}
	service, err := control.New(ctx, control.Config{Store: s.Records, Identities: s.identities, Artifacts: s.Trees, Uploads: s.Blobs,
		Catalogue: online.Catalogue{Types: online.AzureTypes()}, Logs: s, Metrics: s, Caches: s,
		Prices: cost.Prices{PerHour: map[string]float64{"standard_ds3_v2": 0.25}},
		Default: online.WorkspaceID{Subscription: "sub", ResourceGroup: "group",
			Name: "home"}, Location: "local", Now: s.Tick, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	who := access.Verifier{Issuer: s.identities.Issuer(), Principals: s.identities,
		Audiences: []string{"https://management.azure.com"}}
	who.Add(token1, online.Principal{ID: "1", Name: "admin"})
	who.Add(token2, online.Principal{ID: "2", Name: "mallory"})
	s.api = New(Config{Control: service, Access: &who, Uploads: s.Blobs,
		Identity:   NewIdentity(s.identities, "", s.Tick, log),
		ScoringURI: func(e, path string) string { return "https://score/endpoints/" + e + path },
		SwaggerURI: func(e string) string { return "https://score/endpoints/" + e + "/swagger.json" },
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_,
				_ = io.WriteString(w, "portico_up 1\n")
		}),
		Settings: func() any { return map[string]string{"data_dir": "x"} },
		Ready:    func() error { s.mu.Lock(); defer s.mu.Unlock(); return s.ready }, Logger: log})
	s.Server = httptest.NewUnstartedServer(s.api)
	s.Config = NewServer(s.api)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// answer is what came back.
type answer struct {
	t      testing.TB
	status int
	header http.Header
	body   string
}

// do sends a request; header is name, value, name, value ...
func (s *site) do(method, path, body string, header ...string) answer {
	s.t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = s.URL + path
	}
	req, err := http.NewRequest(method, path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token1)
	for i := 0; i < len(header); i += 2 {
		if req.Header.Set(header[i], header[i+1]); header[i+1] == "" {
			req.Header.Del(header[i])
		}
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{s.t, resp.StatusCode, resp.Header, string(text)}
}

// want checks the status.
func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	return a
}

// get reads a value of the JSON body by its path.
func (a answer) get(path string) any {
	a.t.Helper()
	var v any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		a.t.Fatalf("%v in %s", err, a.body)
	}
	for _, name := range strings.Split(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[name]
		case []any:
			if name != "0" || len(at) == 0 {
				return nil
			}
			v = at[0]
		default:
			return nil
		}
	}
	return v
}

// wantError checks an ARM error: status, code, target, and that it can be told apart by machines.
func (a answer) wantError(status int, code online.Code, target string) answer {
	a.t.Helper()
	a.want(status)
	if a.get("error.code") != string(code) || a.header.Get("x-ms-error-code") != string(code) {
		a.t.Fatalf("code %v, header %s, want %s: %s", a.get("error.code"), a.header.Get("x-ms-error-code"), code, a.body)
	}
	if got, _ := a.get("error.target").(string); target != "-" && got != target {
		a.t.Fatalf("target %q, want %q: %s", got, target, a.body)
	}
	if a.header.Get("Retry-After") != "" {
		a.t.Fatal("an error with Retry-After is retried by SDKs")
	}
	if a.header.Get("x-ms-request-id") == "" {
		a.t.Fatal("no request id")
	}
	return a
}

// assets uploads and registers what a deployment needs, over the wire, as a client does.
func (s *site) assets() {
	s.t.Helper()
	for _, a := range []struct{ kind, name, field, file, text string }{
		{"codes", "c", "codeUri", "score.py", "def init(): pass\ndef run(d): return d\n"},
		{"models", "m", "modelUri", "model.pkl", "weights"},
	} {
		up := s.do("POST", wsPath+"/"+a.kind+"/"+a.name+"/versions/1/startPendingUpload",
			`{"pendingUploadType":"TemporaryBlobReference"}`).want(200)
		sas, _ := up.get("blobReferenceForConsumption.credential.sasUri").(string)
		uri, _ := up.get("blobReferenceForConsumption.blobUri").(string)
		base, query, _ := strings.Cut(sas, "?")
		s.do("PUT", base+"/src/"+a.file+"?"+query, a.text, "Authorization", "", "x-ms-blob-type", "BlockBlob",
			"If-None-Match", "*").want(201)
		s.do("PUT", wsPath+"/"+a.kind+"/"+a.name+"/versions/1", `{"properties":{"`+a.field+`":"`+uri+`/src"}}`).want(201)
	}
	s.do("PUT", wsPath+"/environments/e/versions/1", `{"properties":{"requirements":"numpy"}}`).want(201)
}

const deploymentBody = `{"location":"local","sku":{"name":"Default","capacity":1},"properties":{"endpointComputeType":"Managed",
	"instanceType":"Standard_DS3_v2","model":"azureml:m:1","environmentId":"azureml:e:1",
	"codeConfiguration":{"codeId":"azureml:c:1","scoringScript":"score.py"},"environmentVariables":{"A":"1"}}}`

// PurgeCache stands in for the gateway.
func (*site) PurgeCache(string) (entries int, bytes int64, ok bool) { return 3, 300, true }
