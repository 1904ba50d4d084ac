package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"portico/internal/access"
	"portico/internal/arm"
	"portico/internal/artifact"
	"portico/internal/online"
	"portico/internal/store"
	"portico/internal/store/sqlite"
	"portico/internal/telemetry"
	"portico/internal/vault"
)

var (
	home  = online.WorkspaceID{Subscription: "sub", ResourceGroup: "group", Name: "home"}
	admin = Caller{Principal: online.Principal{ID: "1", Name: "admin"}, RequestID: "r", ClientIP: "127.0.0.1"}
)

// bench is a Service over a real store and real artifacts, with a hand that plays reconcile.
type bench struct {
	purged purges
	*Service
	t testing.TB
	// metrics keeps what a test records for a hundred years of the real clock.
	metrics *telemetry.Telemetry
	logs    string

	mu    sync.Mutex
	clock time.Time
}

func (b *bench) Logs(_ context.Context, q LogQuery) (io.ReadCloser, error) {
	if q.Instance == "gone" {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(b.logs)), nil
}

// Minutes and Connections: what a test recorded, and two connections in every minute up to the clock.
func (b *bench) Minutes(endpoint string, since, until time.Time) []telemetry.Series {
	return b.metrics.Minutes(endpoint, since, until)
}

// CollectedMinutes: one event of blue in every minute but the first, which has an error.
func (b *bench) CollectedMinutes(endpoint string, since, until time.Time) []telemetry.CollectedMinute {
	c := telemetry.Collected{Endpoint: endpoint, Deployment: "blue", Instance: "i-1", Collection: "model_inputs",
		Reason: telemetry.UncollectedQueue}
	var out []telemetry.CollectedMinute
	for at := since.Truncate(time.Minute); at.Before(until); at = at.Add(time.Minute) {
		out = append(out, telemetry.CollectedMinute{Time: at, Collected: c, Events: 2})
		c.Reason = ""
	}
	return out
}

func (b *bench) Connections(since, until time.Time) []telemetry.ConnectionMinute {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []telemetry.ConnectionMinute
	for at := since.Truncate(time.Minute); at.Before(until) && !at.After(b.clock); at = at.Add(time.Minute) {
		out = append(out, telemetry.ConnectionMinute{Time: at, Active: 2, Most: 3, Least: 1, Opened: 30})
	}
	return out
}

func (b *bench) Query(endpoint string, since, until time.Time) telemetry.Summary {
	return telemetry.Summary{Since: since, Until: until, Total: telemetry.Row{Endpoint: endpoint, Requests: 3},
		Deployments: []telemetry.Row{{Endpoint: endpoint, Deployment: "blue", Requests: 3}}}
}

// Signing keys are made once: making one takes long.
var (
	testKey  = sync.OnceValues(access.NewSigningKey)
	testKey2 = sync.OnceValues(access.NewSigningKey)
)

func newBench(t testing.TB) *bench {
	t.Helper()
	return openBench(t, t.TempDir())
}

func openBench(t testing.TB, dir string) *bench {
	t.Helper()
	ctx := context.Background()
	v, err := vault.OpenOrCreate(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	db, err := sqlite.Open(ctx, filepath.Join(dir, "store.db"), v, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	trees, err := artifact.Open(filepath.Join(dir, "artifacts"), artifact.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, clock: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	if b.metrics, err = telemetry.New(telemetry.Config{Retention: 100 * 365 * 24 * time.Hour}, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.metrics.Close() })
	uploads, err := artifact.OpenUploads(filepath.Join(dir, "uploads"), b.tick)
	if err != nil {
		t.Fatal(err)
	}
	identities, err := OpenIdentities(ctx, IdentityConfig{Store: db, Administrator: "administrator's token",
		Issuer: func(tenant string) string { return "https://issuer/" + tenant + "/v2.0" }, NewKey: testKey, Now: b.tick})
	if err != nil {
		t.Fatal(err)
	}
	b.Service, err = New(ctx, Config{Store: db, Identities: identities, Artifacts: trees, Uploads: uploads,
		Catalogue: online.Catalogue{Types: online.AzureTypes()},
		Logs:      b, Metrics: b, Caches: &b.purged, Default: home, Location: "local", Now: b.tick, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tick is a clock on which no two moments are the same.
func (b *bench) tick() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = b.clock.Add(time.Second)
	return b.clock
}

// upload puts files below a fresh container and gives the location of its folder "src".
func (b *bench) upload(kind online.Kind, files map[string]string) string {
	b.t.Helper()
	up, err := b.StartPendingUpload(context.Background(), admin, home, kind, "x", "1")
	if err != nil {
		b.t.Fatal(err)
	}
	for name, text := range files {
		_, err := b.Uploads.View(up.Grant.Owner).Put(context.Background(), up.Container+"/src/"+name, strings.NewReader(text),
			artifact.PutOptions{Size: int64(len(text)), MaxBytes: 1 << 20})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	return "https://host:8443" + BlobPath + up.Container + "/src"
}

// register puts one asset version.
func (b *bench) register(kind online.Kind, name, version string, spec online.AssetSpec) Accepted[Asset] {
	b.t.Helper()
	out, err := b.PutAsset(context.Background(), admin, home, kind, name, version, PutAsset{Spec: spec})
	if err != nil {
		b.t.Fatalf("register %s %s:%s: %v", kind, name, version, err)
	}
	return out
}

// assets registers a model, a code and an environment that a deployment can use.
func (b *bench) assets() {
	b.t.Helper()
	b.register(online.KindModel, "m", "1", online.AssetSpec{URI: b.upload(online.KindModel,
		map[string]string{"model.pkl": "weights"})})
	b.register(online.KindCode, "c", "1", online.AssetSpec{URI: b.upload(online.KindCode,
		map[string]string{"score.py": "def init(): pass\ndef run(d): return d\n", "lib/x.py": ""})})
	b.register(online.KindEnvironment, "e", "1",
		online.AssetSpec{Environment: &online.EnvironmentSpec{Requirements: "numpy", OSType: "Linux"}})
}

// request is a deployment that is right in every field.
func request() arm.DeploymentRequest {
	return arm.DeploymentRequest{
		Spec:  online.DeploymentSpec{InstanceType: "Standard_DS3_v2", InstanceCount: 1, ScoringScript: "score.py"},
		Model: "azureml:m:1", Code: "azureml:c:1", Environment: "azureml:e:1",
	}
}

func (b *bench) endpoint(name string, traffic online.Traffic) (Accepted[Endpoint], error) {
	return b.PutEndpoint(context.Background(), admin, home, name,
		PutEndpoint{Spec: online.EndpointSpec{Traffic: traffic}})
}

func (b *bench) deployment(endpoint, name string) (Accepted[Deployment], error) {
	return b.PutDeployment(context.Background(), admin, home, endpoint, name, PutDeployment{Request: request()})
}

func (b *bench) mustEndpoint(name string, traffic online.Traffic) Endpoint {
	b.t.Helper()
	out, err := b.endpoint(name, traffic)
	if err != nil {
		b.t.Fatalf("endpoint %s: %v", name, err)
	}
	b.settle()
	return out.Resource
}

func (b *bench) mustDeployment(endpoint, name string) Deployment {
	b.t.Helper()
	out, err := b.deployment(endpoint, name)
	if err != nil {
		b.t.Fatalf("deployment %s: %v", name, err)
	}
	b.settle()
	return out.Resource
}

// settle does what reconcile would do when everything works: specs are in force, deletions are done, operations end.
func (b *bench) settle() {
	b.t.Helper()
	err := b.Store.Update(context.Background(), func(tx store.Tx) error {
		for _, kind := range []online.Kind{online.KindDeployment, online.KindEndpoint} {
			recs, err := tx.List(kindPrefix(kind), store.Page{})
			if err != nil {
				return err
			}
			for _, rec := range recs {
				if err := settleOne(tx, rec, b.tick()); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
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
	if err != nil {
		return err
	}
	return tx.PutStatus(rec.ID, rec.UID, doc)
}

// wantError checks code, target and that the message names something, of the error or of one of its details.
func wantError(t testing.TB, err error, code online.Code, target, part string) {
	t.Helper()
	var e *online.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an error with code %s", err, code)
	}
	for _, one := range append([]online.Error{*e}, e.Details...) {
		if one.Code == code && one.Target == target && strings.Contains(one.Message, part) {
			return
		}
	}
	t.Fatalf("got %s (%s): %s %v\nwant %s (%s): ...%s...", e.Code, e.Target, e.Message, e.Details, code, target, part)
}

// revision is the store's newest revision: what it was before a refused command, it is after it.
func (b *bench) revision() int64 {
	b.t.Helper()
	var n int64
	if err := b.Store.View(context.Background(),
		func(r store.Reader) error { n = r.Revision(); return nil }); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// purges stands in for the gateway. It notes which deployments were purged.
type purges struct{ of []string }

func (p *purges) PurgeCache(uid string) (entries int, bytes int64, ok bool) {
	p.of = append(p.of, uid)
	return 3, 300, true
}
