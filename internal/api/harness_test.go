package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"portico/internal/access"
	"portico/internal/artifact"
	"portico/internal/control"
	"portico/internal/cost"
	"portico/internal/online"
	"portico/internal/store"
	"portico/internal/store/sqlite"
	"portico/internal/telemetry"
	"portico/internal/testkit"
	"portico/internal/vault"
)

const (
	token1 = "0123456789abcdef"
	token2 = "fedcba9876543210" // of another principal
	wsPath = "/subscriptions/sub/resourceGroups/group/providers/Microsoft.MachineLearningServices/workspaces/home"
)

// site is a management listener over a real store and real uploads, with a hand that plays reconcile.
type site struct {
	*httptest.Server
	t     testing.TB
	store store.Store
	api   *API

	identities *control.Identities
	// metrics keeps what a test records for a hundred years of the real clock.
	metrics *telemetry.Telemetry
	log     *testkit.Buffer

	mu    sync.Mutex
	clock time.Time
	ready error
	logs  func(control.LogQuery) (io.ReadCloser, error)
}

func (s *site) Logs(_ context.Context, q control.LogQuery) (io.ReadCloser, error) {
	return s.logs(q)
}

// Minutes and Connections: what a test recorded, and two connections in every minute up to the clock.
func (s *site) Minutes(endpoint string, since, until time.Time) []telemetry.Series {
	return s.metrics.Minutes(endpoint, since, until)
}

func (s *site) CollectedMinutes(endpoint string, since, until time.Time) []telemetry.CollectedMinute {
	return s.metrics.CollectedMinutes(endpoint, since, until)
}

func (s *site) Connections(since, until time.Time) []telemetry.ConnectionMinute {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []telemetry.ConnectionMinute
	for at := since.Truncate(time.Minute); at.Before(until) && !at.After(s.clock); at = at.Add(time.Minute) {
		out = append(out, telemetry.ConnectionMinute{Time: at, Active: 2, Most: 3, Least: 1, Opened: 30})
	}
	return out
}

func (s *site) Query(endpoint string, since, until time.Time) telemetry.Summary {
	return telemetry.Summary{Since: since, Until: until, Total: telemetry.Row{Endpoint: endpoint, Requests: 3},
		Deployments: []telemetry.Row{}}
}

func (s *site) tick() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = s.clock.Add(time.Second)
	return s.clock
}

// testKey is made once: making one takes long.
var testKey = sync.OnceValues(access.NewSigningKey)

func newSite(t testing.TB) *site {
	t.Helper()
	ctx, dir := context.Background(), t.TempDir()
	s := &site{t: t, log: &testkit.Buffer{}, clock: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	s.logs = func(control.LogQuery) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("line\n")), nil }
	log := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	v, err := vault.OpenOrCreate(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(ctx, filepath.Join(dir, "store.db"), v, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s.store = db
	trees, err := artifact.Open(filepath.Join(dir, "artifacts"), artifact.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	if s.metrics, err = telemetry.New(telemetry.Config{Retention: 100 * 365 * 24 * time.Hour}, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.metrics.Close() })
	uploads, err := artifact.OpenUploads(filepath.Join(dir, "uploads"), s.tick)
	if err != nil {
		t.Fatal(err)
	}
	s.identities, err = control.OpenIdentities(ctx, control.IdentityConfig{Store: db, Administrator: token1,
		Issuer: func(tenant string) string { return "https://issuer/" + tenant + "/v2.0" }, NewKey: testKey, Now: s.tick})
	if err != nil {
		t.Fatal(err)
	}
	service, err := control.New(ctx, control.Config{Store: db, Identities: s.identities, Artifacts: trees, Uploads: uploads,
		Catalogue: online.Catalogue{Types: online.AzureTypes()}, Logs: s, Metrics: s, Caches: s,
		Prices: cost.Prices{PerHour: map[string]float64{"standard_ds3_v2": 0.25}},
		Default: online.WorkspaceID{Subscription: "sub", ResourceGroup: "group",
			Name: "home"}, Location: "local", Now: s.tick, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	who := access.Verifier{Issuer: s.identities.Issuer(), Principals: s.identities,
		Audiences: []string{"https://management.azure.com"}}
	who.Add(token1, online.Principal{ID: "1", Name: "admin"})
	who.Add(token2, online.Principal{ID: "2", Name: "mallory"})
	s.api = New(Config{Control: service, Access: &who, Uploads: uploads,
		Identity:   NewIdentity(s.identities, "", s.tick, log),
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

// settle does what reconcile would do when everything works.
func (s *site) settle() {
	s.t.Helper()
	err := s.store.Update(context.Background(), func(tx store.Tx) error {
		for _, prefix := range []string{"deployments/", "onlineendpoints/"} {
			recs, err := tx.List(prefix, store.Page{})
			if err != nil {
				return err
			}
			for _, rec := range recs {
				if err := settleOne(tx, rec, s.tick()); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func settleOne(tx store.Tx, rec *store.Record, now time.Time) error {
	ops, err := tx.Operations(rec.UID, true)
	if err != nil {
		return err
	}
	for _, op := range ops {
		op.State, op.End = online.OperationSucceeded, now
		if err := tx.PutOperation(op); err != nil {
			return err
		}
	}
	if !rec.Deleting.IsZero() {
		return tx.Remove(rec.ID, "", now)
	}
	doc, err := json.Marshal(map[string]any{"observedGeneration": rec.Generation, "state": online.StateSucceeded})
	return errors.Join(err, tx.PutStatus(rec.ID, rec.UID, doc))
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
