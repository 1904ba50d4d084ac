package control

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"portico/internal/access"
	"portico/internal/arm"
	"portico/internal/artifact"
	"portico/internal/control/controltest"
	"portico/internal/online"
	"portico/internal/store"
	"portico/internal/telemetry"
)

var (
	home  = online.WorkspaceID{Subscription: "sub", ResourceGroup: "group", Name: "home"}
	admin = Caller{Principal: online.Principal{ID: "1", Name: "admin"}, RequestID: "r", ClientIP: "127.0.0.1"}
)

// bench is a Service over a real store and real artifacts, with a hand that plays reconcile.
type bench struct {
	*controltest.Ground
	*Service
	t      testing.TB
	purged purges
	logs   string
}

func (b *bench) Logs(_ context.Context, q LogQuery) (io.ReadCloser, error) {
	if q.Instance == "gone" {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(b.logs)), nil
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

func (b *bench) Query(endpoint string, since, until time.Time) telemetry.Summary {
	return telemetry.Summary{Since: since, Until: until, Total: telemetry.Row{Endpoint: endpoint, Requests: 3},
		Deployments: []telemetry.Row{{Endpoint: endpoint, Deployment: "blue", Requests: 3}}}
}

// testKey2 is made once, as the other one is.
var testKey2 = sync.OnceValues(access.NewSigningKey)

func newBench(t testing.TB) *bench {
	t.Helper()
	return openBench(t, t.TempDir())
}

func openBench(t testing.TB, dir string) *bench {
	t.Helper()
	ctx, log := context.Background(), slog.New(slog.DiscardHandler)
	b := &bench{t: t, Ground: controltest.Open(t, dir, log)}
	identities, err := OpenIdentities(ctx, IdentityConfig{Store: b.Records, Administrator: "administrator's token",
		Issuer: func(tenant string) string { return "https://issuer/" + tenant + "/v2.0" }, NewKey: controltest.SigningKey, Now: b.Tick})
	if err != nil {
		t.Fatal(err)
	}
	b.Service, err = New(ctx, Config{Store: b.Records, Identities: identities, Artifacts: b.Trees, Uploads: b.Blobs,
		Catalogue: online.Catalogue{Types: online.AzureTypes()},
		Logs:      b, Metrics: b, Caches: &b.purged, Default: home, Location: "local", Now: b.Tick, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	return b
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
	b.Settle()
	return out.Resource
}

func (b *bench) mustDeployment(endpoint, name string) Deployment {
	b.t.Helper()
	out, err := b.deployment(endpoint, name)
	if err != nil {
		b.t.Fatalf("deployment %s: %v", name, err)
	}
	b.Settle()
	return out.Resource
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
