package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	ml "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/machinelearning/armmachinelearning/v4"
)

const (
	subscription = "00000000-0000-0000-0000-000000000001"
	group        = "portico"
	workspace    = "default"
	endpointName = "go-endpoint"
	workspaceID  = "/subscriptions/" + subscription + "/resourceGroups/" + group +
		"/providers/Microsoft.MachineLearningServices/workspaces/" + workspace

	// pollEvery is how often the tests ask for an operation; the default of the client is 30 s.
	pollEvery = time.Second
	// testTimeout bounds a whole test; the first deployment builds a Python environment.
	testTimeout = 10 * time.Minute
)

const script = `import json, os

def init():
    print("init of the Go client's script")

def run(raw_data):
    return {"version": os.environ["VERSION"], "sum": sum(json.loads(raw_data)["features"])}
`

// clients are made as every program makes them: default credential, default options.
func clients(t *testing.T) (context.Context, *ml.ClientFactory) {
	t.Helper()
	credential, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := ml.NewClientFactory(subscription, credential, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx, f
}

// done waits for an operation.
func done[T any](ctx context.Context, t *testing.T, p *runtime.Poller[T], err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: pollEvery})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestLifecycle(t *testing.T) {
	ctx, f := clients(t)
	endpoints, deployments := f.NewOnlineEndpointsClient(), f.NewOnlineDeploymentsClient()

	p, err := endpoints.BeginCreateOrUpdate(ctx, group, workspace, endpointName, ml.OnlineEndpoint{
		Location: to.Ptr("eastus"), Tags: map[string]*string{"team": to.Ptr("go")},
		Identity:   &ml.ManagedServiceIdentity{Type: to.Ptr(ml.ManagedServiceIdentityTypeSystemAssigned)},
		Properties: &ml.OnlineEndpointProperties{AuthMode: to.Ptr(ml.EndpointAuthModeKey), Description: to.Ptr("from Go")},
	}, nil)
	e := done(ctx, t, p, err).OnlineEndpoint
	if got := *e.Properties.ScoringURI; got != "https://go-endpoint.eastus.inference.ml.azure.com/score" {
		t.Errorf("scoring URI: %s", got)
	}
	if e.Identity.PrincipalID == nil || e.Identity.TenantID == nil {
		t.Errorf("the identity has no principal: %+v", e.Identity)
	}

	deploy(ctx, t, f, "blue", "one")
	e.Properties.Traffic = map[string]*int32{"blue": to.Ptr(int32(100))}
	p, err = endpoints.BeginCreateOrUpdate(ctx, group, workspace, endpointName, e, nil)
	e = done(ctx, t, p, err).OnlineEndpoint
	if *e.Properties.Traffic["blue"] != 100 {
		t.Errorf("traffic: %v", e.Properties.Traffic)
	}

	keys, err := endpoints.ListKeys(ctx, group, workspace, endpointName, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := score(ctx, t, *e.Properties.ScoringURI, *keys.PrimaryKey); got.Version != "one" || got.Sum != 6 {
		t.Errorf("prediction: %+v", got)
	}
	r, err := endpoints.BeginRegenerateKeys(ctx, group, workspace, endpointName,
		ml.RegenerateEndpointKeysRequest{KeyType: to.Ptr(ml.KeyTypePrimary)}, nil)
	done(ctx, t, r, err)
	after, err := endpoints.ListKeys(ctx, group, workspace, endpointName, nil)
	if err != nil || *after.PrimaryKey == *keys.PrimaryKey || *after.SecondaryKey != *keys.SecondaryKey {
		t.Errorf("the primary key alone must change: %v", err)
	}

	t.Run("patch", func(t *testing.T) { patch(ctx, t, endpoints, deployments) })
	t.Run("logs", func(t *testing.T) { logs(ctx, t, deployments) })
	t.Run("skus", func(t *testing.T) { skus(ctx, t, deployments) })
	t.Run("list", func(t *testing.T) { list(ctx, t, endpoints, deployments) })
	t.Run("errors", func(t *testing.T) { refusals(ctx, t, endpoints, deployments) })

	// A deployment with live traffic stays.
	_, err = deployments.BeginDelete(ctx, group, workspace, endpointName, "blue", nil)
	if re := refusal(t, err); re != nil && re.StatusCode != http.StatusBadRequest && re.StatusCode != http.StatusConflict {
		t.Errorf("delete with live traffic: %d %s", re.StatusCode, re.ErrorCode)
	}
	e.Properties.Traffic = map[string]*int32{}
	p, err = endpoints.BeginCreateOrUpdate(ctx, group, workspace, endpointName, e, nil)
	done(ctx, t, p, err)
	d, err := deployments.BeginDelete(ctx, group, workspace, endpointName, "blue", nil)
	done(ctx, t, d, err)
	x, err := endpoints.BeginDelete(ctx, group, workspace, endpointName, nil)
	done(ctx, t, x, err)
	_, err = endpoints.Get(ctx, group, workspace, endpointName, nil)
	wantCode(t, err, http.StatusNotFound, "ResourceNotFound")
}

// deploy uploads the script as the SDKs do and makes a deployment of it.
func deploy(ctx context.Context, t *testing.T, f *ml.ClientFactory, name, version string) {
	t.Helper()
	codes := f.NewCodeVersionsClient()
	const code = "8d3e0e63-1f5a-4f3e-9d55-5d0a3f7f0001"
	up, err := codes.CreateOrGetStartPendingUpload(ctx, group, workspace, code, "1",
		ml.PendingUploadRequestDto{PendingUploadType: to.Ptr(ml.PendingUploadTypeTemporaryBlobReference)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sas := *up.BlobReferenceForConsumption.Credential.(*ml.SASCredentialDto).SasURI
	base, query, _ := strings.Cut(sas, "?")
	put(ctx, t, base+"/src/score.py?"+query, script)
	_, err = codes.CreateOrUpdate(ctx, group, workspace, code, "1", ml.CodeVersion{Properties: &ml.CodeVersionProperties{
		CodeURI: to.Ptr(*up.BlobReferenceForConsumption.BlobURI + "/src"), IsAnonymous: to.Ptr(true),
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	environment, err := f.NewEnvironmentVersionsClient().CreateOrUpdate(ctx, group, workspace, "plain", "1",
		ml.EnvironmentVersion{Properties: &ml.EnvironmentVersionProperties{
			CondaFile: to.Ptr("name: plain\ndependencies:\n  - python\n"),
		}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := f.NewOnlineDeploymentsClient().BeginCreateOrUpdate(ctx, group, workspace, endpointName, name,
		ml.OnlineDeployment{
			Location: to.Ptr("eastus"), SKU: &ml.SKU{Name: to.Ptr("Default"), Capacity: to.Ptr(int32(1))},
			Properties: &ml.ManagedOnlineDeployment{
				EndpointComputeType: to.Ptr(ml.EndpointComputeTypeManaged), InstanceType: to.Ptr("Standard_DS3_v2"),
				CodeConfiguration: &ml.CodeConfiguration{CodeID: to.Ptr(workspaceID + "/codes/" + code + "/versions/1"),
					ScoringScript: to.Ptr("score.py")},
				EnvironmentID:        environment.ID,
				EnvironmentVariables: map[string]*string{"VERSION": &version},
				ScaleSettings:        &ml.DefaultScaleSettings{ScaleType: to.Ptr(ml.ScaleTypeDefault)},
				RequestSettings: &ml.OnlineRequestSettings{RequestTimeout: to.Ptr("PT10S"),
					MaxConcurrentRequestsPerInstance: to.Ptr(int32(2))},
			},
		}, nil)
	d := done(ctx, t, p, err)
	m, ok := d.Properties.(*ml.ManagedOnlineDeployment)
	if !ok || *m.ProvisioningState != ml.DeploymentProvisioningStateSucceeded || *d.SKU.Capacity != 1 ||
		*m.RequestSettings.RequestTimeout != "PT10S" {
		t.Errorf("deployment: %+v", d.Properties)
	}
}

// put writes one blob.
func put(ctx context.Context, t *testing.T, url, content string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("x-ms-blob-type", "BlockBlob")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusCreated {
		t.Fatalf("put blob: %s %s", resp.Status, body)
	}
}

type prediction struct {
	Version string
	Sum     int
}

// score asks for a prediction with Go's own HTTP client.
func score(ctx context.Context, t *testing.T, url, key string) (p prediction) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewBufferString(`{"features":[1,2,3]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("score: %s %s %v", resp.Status, body, err)
	}
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func patch(ctx context.Context, t *testing.T, endpoints *ml.OnlineEndpointsClient, deployments *ml.OnlineDeploymentsClient) {
	p, err := endpoints.BeginUpdate(ctx, group, workspace, endpointName, ml.PartialMinimalTrackedResourceWithIdentity{
		Tags: map[string]*string{"team": to.Ptr("platform"), "tier": to.Ptr("gold")}}, nil)
	done(ctx, t, p, err)
	e, err := endpoints.Get(ctx, group, workspace, endpointName, nil)
	if err != nil {
		t.Fatal(err)
	}
	if *e.Tags["team"] != "platform" || *e.Tags["tier"] != "gold" || *e.Properties.Traffic["blue"] != 100 {
		t.Errorf("after PATCH: %v %v", e.Tags, e.Properties.Traffic)
	}
	q, err := deployments.BeginUpdate(ctx, group, workspace, endpointName, "blue", ml.PartialMinimalTrackedResourceWithSKU{
		SKU: &ml.PartialSKU{Capacity: to.Ptr(int32(2))}}, nil)
	done(ctx, t, q, err)
	d, err := deployments.Get(ctx, group, workspace, endpointName, "blue", nil)
	if err != nil {
		t.Fatal(err)
	}
	if *d.SKU.Capacity != 2 {
		t.Errorf("capacity after PATCH: %d", *d.SKU.Capacity)
	}
}

func logs(ctx context.Context, t *testing.T, deployments *ml.OnlineDeploymentsClient) {
	for container, want := range map[ml.ContainerType]string{
		ml.ContainerTypeInferenceServer: "init of the Go client's script", ml.ContainerTypeStorageInitializer: "",
	} {
		l, err := deployments.GetLogs(ctx, group, workspace, endpointName, "blue",
			ml.DeploymentLogsRequest{ContainerType: &container, Tail: to.Ptr(int32(100))}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if *l.Content == "" || !strings.Contains(*l.Content, want) {
			t.Errorf("%s: %q", container, *l.Content)
		}
	}
}

func skus(ctx context.Context, t *testing.T, deployments *ml.OnlineDeploymentsClient) {
	n := 0
	for p := deployments.NewListSKUsPager(group, workspace, endpointName, "blue", nil); p.More(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page.Value {
			n++
			if *s.SKU.Name == "" || *s.Capacity.Maximum < *s.Capacity.Minimum || *s.Capacity.ScaleType == "" {
				t.Errorf("sku: %+v %+v", s.SKU, s.Capacity)
			}
		}
	}
	if n == 0 {
		t.Error("no sku is listed")
	}
}

func list(ctx context.Context, t *testing.T, endpoints *ml.OnlineEndpointsClient, deployments *ml.OnlineDeploymentsClient) {
	for _, name := range []string{"go-second", "go-third"} {
		p, err := endpoints.BeginCreateOrUpdate(ctx, group, workspace, name, ml.OnlineEndpoint{Location: to.Ptr("eastus"),
			Properties: &ml.OnlineEndpointProperties{AuthMode: to.Ptr(ml.EndpointAuthModeKey)}}, nil)
		done(ctx, t, p, err)
		defer func() {
			d, err := endpoints.BeginDelete(ctx, group, workspace, name, nil)
			done(ctx, t, d, err)
		}()
	}
	seen, pages := map[string]bool{}, 0
	for p := endpoints.NewListPager(group, workspace,
		&ml.OnlineEndpointsClientListOptions{Count: to.Ptr(int32(2))}); p.More(); pages++ {
		page, err := p.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Value {
			if seen[*e.Name] {
				t.Errorf("%s is listed twice", *e.Name)
			}
			seen[*e.Name] = true
		}
	}
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, []string{endpointName, "go-second", "go-third"}) || pages != 2 {
		t.Errorf("%d pages list %v", pages, got)
	}
	tagged := endpoints.NewListPager(group, workspace, &ml.OnlineEndpointsClientListOptions{Tags: to.Ptr("tier=gold")})
	page, err := tagged.NextPage(ctx)
	if err != nil || len(page.Value) != 1 || *page.Value[0].Name != endpointName {
		t.Errorf("by tag: %v %v", page.Value, err)
	}
	all, err := deployments.NewListPager(group, workspace, endpointName, nil).NextPage(ctx)
	if err != nil || len(all.Value) != 1 || *all.Value[0].Name != "blue" {
		t.Errorf("deployments: %v %v", all.Value, err)
	}
}

var deploymentID = regexp.MustCompile(`^` + workspaceID + `/onlineEndpoints/[a-z-]+/deployments/[a-z]+$`)

// refusals are errors that programs branch on.
func refusals(ctx context.Context, t *testing.T, endpoints *ml.OnlineEndpointsClient, deployments *ml.OnlineDeploymentsClient) {
	d, err := deployments.Get(ctx, group, workspace, endpointName, "blue", nil)
	if err != nil || !deploymentID.MatchString(*d.ID) {
		t.Errorf("id: %v %v", d.ID, err)
	}
	_, err = endpoints.Get(ctx, group, workspace, "is-not-there", nil)
	wantCode(t, err, http.StatusNotFound, "ResourceNotFound")
	_, err = deployments.Get(ctx, group, workspace, endpointName, "red", nil)
	wantCode(t, err, http.StatusNotFound, "ResourceNotFound")
	_, err = endpoints.Get(ctx, "no-such-group", "nowhere", endpointName, nil)
	if re := refusal(t, err); re != nil && re.StatusCode != http.StatusNotFound {
		t.Errorf("another workspace: %d %s", re.StatusCode, re.ErrorCode)
	}
	for what, c := range map[string]struct {
		name string
		body ml.OnlineEndpoint
		code string
	}{
		"a bad name": {"-bad-", ml.OnlineEndpoint{Location: to.Ptr("eastus"),
			Properties: &ml.OnlineEndpointProperties{AuthMode: to.Ptr(ml.EndpointAuthModeKey)}}, "BadArgument"},
		"traffic to nobody": {endpointName, ml.OnlineEndpoint{Location: to.Ptr("eastus"),
			Properties: &ml.OnlineEndpointProperties{AuthMode: to.Ptr(ml.EndpointAuthModeKey),
				Traffic: map[string]*int32{"red": to.Ptr(int32(100))}}}, "BadArgument"},
		"private access": {"go-private", ml.OnlineEndpoint{Location: to.Ptr("eastus"),
			Properties: &ml.OnlineEndpointProperties{AuthMode: to.Ptr(ml.EndpointAuthModeKey),
				PublicNetworkAccess: to.Ptr(ml.PublicNetworkAccessTypeDisabled)}}, "NotImplemented"},
	} {
		_, err := endpoints.BeginCreateOrUpdate(ctx, group, workspace, c.name, c.body, nil)
		if re := refusal(t, err); re != nil && re.ErrorCode != c.code {
			t.Errorf("%s: %d %s, not %s", what, re.StatusCode, re.ErrorCode, c.code)
		}
	}
	// The Go client can send what the Python SDK refuses to.
	_, err = deployments.BeginCreateOrUpdate(ctx, group, workspace, endpointName, "scaled", ml.OnlineDeployment{
		Location: to.Ptr("eastus"), SKU: &ml.SKU{Name: to.Ptr("Default"), Capacity: to.Ptr(int32(1))},
		Properties: &ml.ManagedOnlineDeployment{
			EndpointComputeType: to.Ptr(ml.EndpointComputeTypeManaged), InstanceType: to.Ptr("Standard_DS3_v2"),
			CodeConfiguration: d.Properties.(*ml.ManagedOnlineDeployment).CodeConfiguration,
			EnvironmentID:     d.Properties.(*ml.ManagedOnlineDeployment).EnvironmentID,
			ScaleSettings: &ml.TargetUtilizationScaleSettings{ScaleType: to.Ptr(ml.ScaleTypeTargetUtilization),
				MinInstances: to.Ptr(int32(2)), MaxInstances: to.Ptr(int32(10))},
		}}, nil)
	if re := refusal(t, err); re != nil && (re.ErrorCode != "NotImplemented" || !strings.Contains(re.Error(), "scaleSettings")) {
		t.Errorf("TargetUtilization: %v", re)
	}
}

// refusal gives the service's error; anything else fails the test.
func refusal(t *testing.T, err error) *azcore.ResponseError {
	t.Helper()
	var re *azcore.ResponseError
	if !errors.As(err, &re) {
		t.Errorf("not the service's error: %v", err)
		return nil
	}
	return re
}

func wantCode(t *testing.T, err error, status int, code string) {
	t.Helper()
	if re := refusal(t, err); re != nil && (re.StatusCode != status || re.ErrorCode != code) {
		t.Errorf("%d %s, not %d %s", re.StatusCode, re.ErrorCode, status, code)
	}
}
