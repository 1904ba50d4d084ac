package control

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"portico/internal/arm"
	"portico/internal/online"
	"portico/internal/store"
)

func TestDeploymentLife(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	b.assets()
	b.mustEndpoint("fraud", nil)
	req := request()
	req.Spec.InstanceType = "standard_ds3_V2"
	req.Spec.EnvironmentVariables = map[string]online.Secret{"TOKEN": "s3cret", "azureml_thing": "1"}
	out, err := b.PutDeployment(ctx, admin, home, "fraud", "blue", PutDeployment{Request: req})
	if err != nil {
		t.Fatal(err)
	}
	d := out.Resource
	if !out.Created || out.Operation == nil || d.Meta.State != online.StateCreating || d.Spec.InstanceType != "Standard_DS3_v2" {
		t.Fatalf("create: %+v", out)
	}
	if d.Spec.Code == nil || *d.Spec.Code != (online.AssetRef{Workspace: home, Kind: online.KindCode, Name: "c",
		Version: "1"}) {
		t.Fatalf("code reference %+v", d.Spec.Code)
	}
	if d.Spec.Request.Timeout != 5*time.Second || d.Spec.Liveness != online.DefaultProbe() {
		t.Fatalf("defaults %+v", d.Spec)
	}
	b.Settle()
	if d, err = b.GetDeployment(ctx, admin, home, "fraud",
		"blue"); err != nil || d.Spec.EnvironmentVariables["TOKEN"] != "s3cret" {
		t.Fatalf("environment variables %v, %v", d.Spec.EnvironmentVariables["TOKEN"].Reveal(), err)
	}

	three := 3
	scaled, err := b.PatchDeployment(ctx, admin, home, "fraud", "blue", PatchDeployment{Capacity: &three})
	if err != nil || scaled.Resource.Meta.State != online.StateScaling || scaled.Resource.Spec.EnvironmentVariables["TOKEN"] != "s3cret" {
		t.Fatalf("scale: %+v, %v", scaled, err)
	}
	b.Settle()
	req.Spec.InstanceCount = 3
	req.Spec.EnvironmentVariables = map[string]online.Secret{"TOKEN": "other", "azureml_thing": "1"}
	updated, err := b.PutDeployment(ctx, admin, home, "fraud", "blue", PutDeployment{Request: req})
	if err != nil || updated.Created || updated.Resource.Meta.State != online.StateUpdating {
		t.Fatalf("a changed secret is an update: %s, %v", updated.Resource.Meta.State, err)
	}
	for _, n := range []int{0, -1, 51} {
		if _, err := b.PatchDeployment(ctx, admin, home, "fraud", "blue",
			PatchDeployment{Capacity: &n}); !online.IsCode(err, online.CodeBadArgument) {
			t.Errorf("capacity %d: %v", n, err)
		}
	}
}

// TestBadDeployments gives every kind of wrong deployment: each is refused with the field's path, nothing changes.
func TestBadDeployments(t *testing.T) {
	b := newBench(t)
	b.assets()
	b.register(online.KindEnvironment, "image", "1",
		online.AssetSpec{Environment: &online.EnvironmentSpec{Image: "docker.io/x:1", OSType: "Linux"}})
	b.mustEndpoint("fraud", nil)
	before := b.revision()
	const id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/"
	for _, c := range []struct {
		what         string
		change       func(*arm.DeploymentRequest)
		code         online.Code
		target, part string
	}{
		{"unknown type", func(r *arm.DeploymentRequest) { r.Spec.InstanceType = "Standard_X9" }, online.CodeBadArgument,
			"properties.instanceType", "not in the catalogue"},
		{"no type", func(r *arm.DeploymentRequest) { r.Spec.InstanceType = "" }, online.CodeBadArgument,
			"properties.instanceType", "required"},
		{"GPU type", func(r *arm.DeploymentRequest) { r.Spec.InstanceType = "Standard_NC6s_v3" }, online.CodeOutOfQuota,
			"properties.instanceType", "GPU"},
		{"51 instances", func(r *arm.DeploymentRequest) { r.Spec.InstanceCount = 51 }, online.CodeBadArgument,
			"sku.capacity", "51"},
		{"missing script", func(r *arm.DeploymentRequest) { r.Spec.ScoringScript = "other.py" }, online.CodeBadArgument,
			"properties.codeConfiguration.scoringScript", "other.py"},
		{"script is a folder", func(r *arm.DeploymentRequest) { r.Spec.ScoringScript = "lib" }, online.CodeBadArgument,
			"properties.codeConfiguration.scoringScript", "not a file"},
		{"script outside", func(r *arm.DeploymentRequest) { r.Spec.ScoringScript = "../../etc/passwd" },
			online.CodeBadArgument, "properties.codeConfiguration.scoringScript", "inside the code"},
		{"no script", func(r *arm.DeploymentRequest) { r.Spec.ScoringScript = "" }, online.CodeBadArgument,
			"properties.codeConfiguration.scoringScript", "required"},
		{"script without code", func(r *arm.DeploymentRequest) { r.Code = "" }, online.CodeBadArgument,
			"properties.codeConfiguration.codeId", "no code"},
		{"no code at all", func(r *arm.DeploymentRequest) { r.Code, r.Spec.ScoringScript = "", "" },
			online.CodeNotImplemented, "properties.codeConfiguration", "without code"},
		{"unknown model", func(r *arm.DeploymentRequest) { r.Model = "azureml:m:9" }, online.CodeBadArgument,
			"properties.model", "m:9 does not exist"},
		{"unknown latest", func(r *arm.DeploymentRequest) { r.Model = "azureml:none@latest" }, online.CodeBadArgument,
			"properties.model", "no version"},
		{"unknown label", func(r *arm.DeploymentRequest) { r.Model = "azureml:m@newest" }, online.CodeBadArgument,
			"properties.model", "label"},
		{"model of another workspace", func(r *arm.DeploymentRequest) { r.Model = id + "models/m/versions/1" },
			online.CodeBadArgument, "properties.model", "does not exist"},
		{"not a reference", func(r *arm.DeploymentRequest) { r.Model = "./model" }, online.CodeBadArgument,
			"properties.model", "azureml:NAME:VERSION"},
		{"an environment as model", func(r *arm.DeploymentRequest) { r.Model = id + "environments/e/versions/1" },
			online.CodeBadArgument, "properties.model", "does not name"},
		{"model of a registry", func(r *arm.DeploymentRequest) { r.Model = "azureml://registries/azureml/models/m/versions/1" }, online.CodeNotImplemented, "properties.model", "registries"},
		{"no environment", func(r *arm.DeploymentRequest) { r.Environment = "" }, online.CodeBadArgument,
			"properties.environmentId", "required"},
		{"image alone", func(r *arm.DeploymentRequest) { r.Environment = "azureml:image:1" }, online.CodeNotImplemented,
			"properties.environmentId", "image"},
		{"unknown curated", func(r *arm.DeploymentRequest) { r.Environment = "azureml:AzureML-no-such:1" },
			online.CodeBadArgument, "properties.environmentId", "minimal"},
		{"unknown registry", func(r *arm.DeploymentRequest) { r.Environment = "azureml://registries/mine/environments/x/versions/1" }, online.CodeNotImplemented, "properties.environmentId", "registry"},
		{"autoscale", func(r *arm.DeploymentRequest) { r.Spec.Scale.Type = "TargetUtilization" },
			online.CodeNotImplemented, "properties.scaleSettings.scaleType", "TargetUtilization"},
		{"kubernetes", func(r *arm.DeploymentRequest) { r.Spec.EndpointComputeType = "Kubernetes" },
			online.CodeNotImplemented, "properties.endpointComputeType", "Kubernetes"},
		{"no egress", func(r *arm.DeploymentRequest) { r.Spec.EgressPublicAccess = "Disabled" },
			online.CodeNotImplemented, "properties.egressPublicNetworkAccess", "Disabled"},
		{"insights", func(r *arm.DeploymentRequest) { r.Spec.AppInsightsEnabled = true }, online.CodeNotImplemented,
			"properties.appInsightsEnabled", "appInsights"},
		{"mount path", func(r *arm.DeploymentRequest) { r.Spec.ModelMountPath = "/m" }, online.CodeBadArgument,
			"properties.modelMountPath", "custom servers"},
		{"a command with an environment that does not say where its server answers",
			func(r *arm.DeploymentRequest) { r.Spec.Command = "python serve.py" }, online.CodeBadArgument, "properties.environmentId", "livenessRoute"},
		{"a command without environment",
			func(r *arm.DeploymentRequest) { r.Spec.Command, r.Environment = "python serve.py", "" }, online.CodeBadArgument, "properties.environmentId", "inferenceConfig"},
		{"collector", func(r *arm.DeploymentRequest) { r.Spec.DataCollector = &online.DataCollector{RollingRate: "Week"} }, online.CodeBadArgument, "properties.dataCollector.rollingRate", "rollingRate"},
		{"long timeout", func(r *arm.DeploymentRequest) { r.Spec.Request.Timeout = 181 * time.Second },
			online.CodeBadArgument, "properties.requestSettings.requestTimeout", "3m1s"},
		{"fast probe", func(r *arm.DeploymentRequest) { r.Spec.Readiness.Period = time.Millisecond },
			online.CodeBadArgument, "properties.readinessProbe.period", "1 second"},
		{"liveness successes", func(r *arm.DeploymentRequest) { r.Spec.Liveness.SuccessThreshold = 2 },
			online.CodeBadArgument, "properties.livenessProbe.successThreshold", "use 1"},
		{"variable", func(r *arm.DeploymentRequest) { r.Spec.EnvironmentVariables = map[string]online.Secret{"A=B": "x"} }, online.CodeBadArgument, "properties.environmentVariables", "A=B"},
		{"injected secret", func(r *arm.DeploymentRequest) {
			r.Spec.EnvironmentVariables = map[string]online.Secret{"A": "${{keyvault:https://v/secrets/s}}"}
		}, online.CodeNotImplemented, "properties.environmentVariables.A", "injection"},
		{"NUL in a variable", func(r *arm.DeploymentRequest) { r.Spec.EnvironmentVariables = map[string]online.Secret{"A": "x\x00"} }, online.CodeBadArgument, "properties.environmentVariables.A", "NUL"},
		{"large variable", func(r *arm.DeploymentRequest) {
			r.Spec.EnvironmentVariables = map[string]online.Secret{"A": online.Secret(strings.Repeat("x",
				online.MaxVariableBytes+1))}
		}, online.CodeBadArgument, "properties.environmentVariables.A", "65537"},
		{"location", func(r *arm.DeploymentRequest) { r.Spec.Location = "mars" }, online.CodeBadArgument, "location",
			"endpoint"},
	} {
		t.Run(c.what, func(t *testing.T) {
			req := request()
			c.change(&req)
			_, err := b.PutDeployment(context.Background(), admin, home, "fraud", "blue", PutDeployment{Request: req})
			wantError(t, err, c.code, c.target, c.part)
		})
	}
	for _, c := range []struct{ endpoint, name string }{{"absent", "blue"}, {"fraud", "b"}} {
		if _, err := b.deployment(c.endpoint, c.name); err == nil {
			t.Errorf("deployment %s/%s was accepted", c.endpoint, c.name)
		}
	}
	if after := b.revision(); after != before {
		t.Errorf("refused commands changed the store: revision %d, then %d", before, after)
	}
}

func TestCuratedEnvironmentBecomesAVersion(t *testing.T) {
	b := newBench(t)
	b.assets()
	b.mustEndpoint("fraud", nil)
	for i, ref := range []string{"azureml:AzureML-sklearn-1.5:7",
		"azureml://registries/azureml/environments/sklearn-1.5/labels/latest"} {
		req := request()
		req.Environment = ref
		out, err := b.PutDeployment(context.Background(), admin, home, "fraud", fmt.Sprintf("blue-%d", i),
			PutDeployment{Request: req})
		if err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
		at := out.Resource.Spec.Environment
		a, err := b.GetAsset(context.Background(), admin, home, online.KindEnvironment, at.Name, at.Version)
		if err != nil || a.Spec.Environment.Curated != "sklearn-1.5" {
			t.Errorf("%s: stored as %+v: %+v, %v", ref, at, a.Spec.Environment, err)
		}
	}
}

func TestLatestIsTheNewestThatIsNotArchived(t *testing.T) {
	b := newBench(t)
	b.assets()
	b.mustEndpoint("fraud", nil)
	for _, v := range []string{"10", "9"} { // 9 is registered last
		b.register(online.KindModel, "m", v, online.AssetSpec{URI: b.upload(online.KindModel,
			map[string]string{"model.pkl": v})})
	}
	latest := func() string {
		t.Helper()
		req := request()
		req.Model = "azureml:m@latest"
		out, err := b.PutDeployment(context.Background(), admin, home, "fraud", "blue", PutDeployment{Request: req})
		if err != nil {
			t.Fatal(err)
		}
		return out.Resource.Spec.Model.Version
	}
	if v := latest(); v != "9" {
		t.Errorf("latest is %s, want 9", v)
	}
	a, _ := b.GetAsset(context.Background(), admin, home, online.KindModel, "m", "9")
	a.Spec.IsArchived = true
	b.register(online.KindModel, "m", "9", a.Spec)
	if v := latest(); v != "10" {
		t.Errorf("with 9 archived latest is %s, want 10", v)
	}
}

func TestDeploymentQuota(t *testing.T) {
	b := newBench(t)
	b.assets()
	b.mustEndpoint("fraud", nil)
	for i := range online.MaxDeployments {
		if _, err := b.deployment("fraud", fmt.Sprintf("d-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.deployment("fraud", "one-more")
	wantError(t, err, online.CodeOutOfQuota, "name", "20 deployments")
}

func TestRollback(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	b.assets()
	b.mustEndpoint("fraud", nil)
	put := func(count int, secret online.Secret) Deployment {
		t.Helper()
		req := request()
		req.Spec.InstanceCount = count
		req.Spec.EnvironmentVariables = map[string]online.Secret{"TOKEN": secret}
		out, err := b.PutDeployment(ctx, admin, home, "fraud", "blue", PutDeployment{Request: req})
		if err != nil {
			t.Fatal(err)
		}
		b.Settle()
		return out.Resource
	}
	first := put(1, "one")
	put(2, "two")
	if _, err := b.Rollback(ctx, admin, home, "fraud", "blue", 999999, Match{}); !online.IsCode(err,
		online.CodeBadArgument) {
		t.Errorf("unknown revision: %v", err)
	}
	back, err := b.Rollback(ctx, admin, home, "fraud", "blue", revisionOf(t, first.Meta.ETag), Match{})
	if err != nil || back.Resource.Spec.InstanceCount != 1 || back.Resource.Spec.EnvironmentVariables["TOKEN"] != "one" {
		t.Fatalf("rollback: %+v, %v", back, err)
	}
	b.Settle()
	// Without a number: the revision before the one in force, which has two instances.
	if back, err = b.Rollback(ctx, admin, home, "fraud", "blue", 0,
		Match{}); err != nil || back.Resource.Spec.InstanceCount != 2 {
		t.Fatalf("rollback to the one before: %+v, %v", back, err)
	}
	b.Settle()
	if _, err := b.DeleteDeployment(ctx, admin, home, "fraud", "blue", Match{}); err != nil {
		t.Fatal(err)
	}
	b.Settle()
	all, err := b.ListRevisions(ctx, admin, home, "fraud", "blue")
	if err != nil || len(all) != 5 || all[0].Why != store.WhyDelete || all[0].InForce || !strings.HasPrefix(all[1].Why,
		"rollback to ") {
		t.Fatalf("revisions after deletion: %+v, %v", all, err)
	}
	back, err = b.Rollback(ctx, admin, home, "fraud", "blue", 0, Match{})
	if err != nil || !back.Created || back.Resource.Spec.InstanceCount != 2 || back.Resource.Spec.EnvironmentVariables["TOKEN"] != "two" {
		t.Fatalf("rollback of a deleted deployment: %+v, %v", back, err)
	}
	if back.Resource.Meta.UID == first.Meta.UID {
		t.Error("a deployment that was created again has the old UID")
	}
	b.Settle()
	// A model that a revision used can go only when no deployment names it; then the revision cannot come back.
	if _, err := b.DeleteAsset(ctx, admin, home, online.KindModel, "m", "1", Match{}); !online.IsCode(err,
		online.CodeConflict) {
		t.Fatalf("deletion of a model in use: %v", err)
	}
	if _, err := b.DeleteDeployment(ctx, admin, home, "fraud", "blue", Match{}); err != nil {
		t.Fatal(err)
	}
	b.Settle()
	if _, err := b.DeleteAsset(ctx, admin, home, online.KindModel, "m", "1", Match{}); err != nil {
		t.Fatal(err)
	}
	_, err = b.Rollback(ctx, admin, home, "fraud", "blue", 0, Match{})
	wantError(t, err, online.CodeConflict, "properties.model", "was deleted")
	if _, err := b.ListRevisions(ctx, admin, home, "fraud", "never"); !online.IsCode(err, online.CodeNotFound) {
		t.Errorf("revisions of a name that never was: %v", err)
	}
}

func TestShownState(t *testing.T) {
	yes := func() bool { return true }
	for _, c := range []struct {
		generation, observed int64
		state                online.ProvisioningState
		scaling              func() bool
		want                 online.ProvisioningState
	}{
		{1, 0, "", never, online.StateCreating},
		{3, 0, "", yes, online.StateCreating},
		{1, 1, online.StateSucceeded, never, online.StateSucceeded},
		{1, 1, online.StateFailed, never, online.StateFailed},
		{2, 1, online.StateSucceeded, never, online.StateUpdating},
		{2, 1, online.StateSucceeded, yes, online.StateScaling},
	} {
		if got := shownState(c.generation, c.observed, c.state, c.scaling); got != c.want {
			t.Errorf("%d/%d %s: %s, want %s", c.generation, c.observed, c.state, got, c.want)
		}
	}
}

// TestFailedDeploymentIsMendedByTheSamePut puts again what failed: a new attempt, not "unchanged".
func TestFailedDeploymentIsMendedByTheSamePut(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	b.assets()
	b.mustEndpoint("fraud", nil)
	d := b.mustDeployment("fraud", "blue")
	status, err := json.Marshal(online.DeploymentStatus{ObservedGeneration: 1, State: online.StateFailed,
		Error:  online.Errorf(online.CodeResourceNotReady, "", "init raised"),
		Stages: []online.Stage{{Name: online.StageStart, State: "Failed"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Store.Update(ctx, func(tx store.Tx) error {
		return tx.PutStatus(d.Meta.ID, d.Meta.UID,
			status)
	}); err != nil {
		t.Fatal(err)
	}
	if d, err = b.GetDeployment(ctx, admin, home, "fraud",
		"blue"); err != nil || d.Meta.State != online.StateFailed || d.Status.Error.Message != "init raised" {
		t.Fatalf("failed: %+v, %v", d, err)
	}
	if op, err := b.GetOperation(ctx, admin, d.LastOperation); err != nil || len(op.Stages) != 1 {
		t.Fatalf("stages of the operation: %+v, %v", op, err)
	}
	out, err := b.deployment("fraud", "blue")
	if err != nil || out.Operation.State != online.OperationRunning || out.Operation.Generation != 2 {
		t.Fatalf("second attempt: %+v, %v", out.Operation, err)
	}
}

func TestLogsMetricsActivities(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	b.assets()
	b.mustEndpoint("fraud", nil)
	b.mustEndpoint("fraud2", nil)
	b.mustDeployment("fraud", "blue")
	b.logs = "first\nsecond\n"
	if text, err := b.GetLogs(ctx, admin, home, "fraud", "blue", LogQuery{Container: InferenceServer,
		Tail: 10}); err != nil || text != b.logs {
		t.Errorf("logs %q, %v", text, err)
	}
	b.logs = strings.Repeat("x", 99) + "\n"
	b.logs = strings.Repeat(b.logs, MaxLogBytes/50)
	if text, err := b.GetLogs(ctx, admin, home, "fraud", "blue", LogQuery{Container: StorageInitializer,
		Tail: 10}); err != nil ||
		len(text) > MaxLogBytes || len(text) < MaxLogBytes-100 || len(text)%100 != 0 {
		t.Errorf("long logs: %d bytes, %v", len(text), err)
	}
	for _, q := range []LogQuery{{Container: "Other", Tail: 1}, {Container: InferenceServer, Tail: 0},
		{Container: InferenceServer, Tail: MaxLogTail + 1}} {
		if _, err := b.GetLogs(ctx, admin, home, "fraud", "blue", q); !online.IsCode(err, online.CodeBadArgument) {
			t.Errorf("%+v: %v", q, err)
		}
	}
	if _, err := b.GetLogs(ctx, admin, home, "fraud", "blue", LogQuery{Container: InferenceServer, Tail: 1,
		Instance: "gone"}); !online.IsCode(err, online.CodeNotFound) {
		t.Errorf("logs of an instance that is not there: %v", err)
	}

	m, err := b.GetMetrics(ctx, admin, home, "FRAUD", MetricsQuery{})
	if err != nil || m.Total.Endpoint != "fraud" || m.Until.Sub(m.Since) != DefaultSpan || m.Total.Requests != 3 {
		t.Errorf("metrics %+v, %v", m, err)
	}
	if m, err = b.GetMetrics(ctx, admin, home, "fraud",
		MetricsQuery{Deployment: "green"}); err != nil || m.Total.Requests != 0 || len(m.Deployments) != 0 {
		t.Errorf("metrics of a deployment without requests: %+v, %v", m, err)
	}
	if _, err = b.GetMetrics(ctx, admin, home, "fraud",
		MetricsQuery{Since: b.Tick().Add(-48 * time.Hour)}); !online.IsCode(err, online.CodeBadArgument) {
		t.Errorf("two days: %v", err)
	}

	if _, err := b.ListKeys(ctx, admin, home, "fraud"); err != nil {
		t.Fatal(err)
	}
	all, err := b.ListActivities(ctx, admin, home, "fraud", time.Time{}, time.Time{}, 10)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range all {
		got = append(got, strings.TrimPrefix(a.Action,
			arm.Namespace+"/workspaces/onlineEndpoints/")+" "+a.Target.Name+" "+a.Outcome)
	}
	want := "listKeys/action fraud Succeeded,deployments/write blue Accepted,write fraud Accepted"
	if strings.Join(got, ",") != want {
		t.Errorf("activities %v\nwant %s", got, want)
	}
	if all[0].Principal != "admin" || all[0].RequestID != "r" || all[0].ClientIP != "127.0.0.1" {
		t.Errorf("who: %+v", all[0])
	}
}
