package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"portico/internal/control"
	"portico/internal/online"
)

const fraud = wsPath + "/onlineEndpoints/fraud"

// TestLongRunningOperations walks through the protocol of section 3.4 as the SDKs do.
func TestLongRunningOperations(t *testing.T) {
	s := newSite(t)
	s.assets()
	put := s.do("PUT", fraud+"?api-version=2022-02-01-preview", `{"properties":{"authMode":"key"}}`).want(201)
	if put.get("properties.provisioningState") != "Creating" || put.get("properties.scoringUri") != nil {
		t.Errorf("created: %s", put.body)
	}
	poll, location := put.header.Get("Azure-AsyncOperation"), put.header.Get("Location")
	if !strings.HasPrefix(poll, s.URL+"/subscriptions/sub/providers/Microsoft.MachineLearningServices/locations/local/mfeOperationsStatus/") ||
		!strings.HasSuffix(poll, "?api-version=2022-02-01-preview") || put.header.Get("Retry-After") != "1" {
		t.Errorf("headers of the start: %v", put.header)
	}
	if got := put.get("properties.properties.AzureAsyncOperationUri"); got != poll {
		t.Errorf("AzureAsyncOperationUri %v, header %s", got, poll)
	}
	if p := s.do("GET", poll, "").want(200); p.get("status") != "InProgress" || p.header.Get("Retry-After") != "1" {
		t.Errorf("poll: %s", p.body)
	}
	if r := s.do("GET", location, "").want(202); r.header.Get("Location") == "" {
		t.Errorf("result of a running operation: %v", r.header)
	}
	s.Settle()
	if p := s.do("GET", poll, "").want(200); p.get("status") != "Succeeded" || p.get("percentComplete") != 100.0 {
		t.Errorf("poll: %s", p.body)
	}
	if r := s.do("GET", location, "").want(200); r.get("name") != "fraud" {
		t.Errorf("result: %s", r.body)
	}
	e := s.do("GET", fraud, "").want(200)
	if e.get("properties.scoringUri") != "https://score/endpoints/fraud/score" || e.header.Get("ETag") == "" || e.get("etag") != e.header.Get("ETag") {
		t.Errorf("endpoint: %s", e.body)
	}
	if again := s.do("GET", fraud, "").want(200); again.body != e.body {
		t.Error("two reads of the same thing differ")
	}

	// A deployment PUT always has the header, also when nothing changes.
	for i, status := range []int{201, 200} {
		d := s.do("PUT", fraud+"/deployments/blue", deploymentBody).want(status)
		if d.header.Get("Azure-AsyncOperation") == "" || d.header.Get("Location") == "" {
			t.Errorf("deployment PUT %d: %v", i, d.header)
		}
		s.Settle()
	}
	patched := s.do("PATCH", fraud+"/deployments/blue", `{"sku":{"capacity":2},"tags":{"a":"b"}}`).want(202)
	if patched.get("sku.capacity") != 2.0 || patched.get("properties.provisioningState") != "Updating" {
		t.Errorf("patch: %s", patched.body)
	}
	s.Settle()
	s.do("PATCH", fraud, `{"tags":{"a":"b"}}`).want(202)
	s.Settle()

	gone := s.do("DELETE", fraud+"/deployments/blue", "").want(202)
	if strings.TrimSpace(gone.body) != "null" {
		t.Errorf("body of a deletion: %q", gone.body)
	}
	s.Settle()
	s.do("GET", gone.header.Get("Location"), "").want(204)
	s.do("DELETE", fraud+"/deployments/blue", "").want(204)
	s.do("GET", wsPath+"/../"+"x", "")
	s.do("GET", strings.Replace(poll, "/sub/", "/other/", 1), "").wantError(404, online.CodeNotFound, "-")
}

// TestPathsAreFolded asks in the spellings that clients use.
func TestPathsAreFolded(t *testing.T) {
	s := newSite(t)
	s.do("PUT", fraud, `{}`).want(201)
	for _, path := range []string{
		strings.ToLower(fraud), strings.ToUpper(fraud),
		strings.Replace(fraud, "resourceGroups", "resourcegroups", 1) + "/",
		strings.Replace(fraud, "fraud", "FRAUD", 1) + "?api-version=2099-01-01",
	} {
		s.do("GET", path, "").want(200)
	}
	if got := s.do("GET", strings.ToLower(fraud), "").want(200).get("id"); got != fraud {
		t.Errorf("id %v, want %s", got, fraud)
	}
	s.do("POST", strings.ToLower(fraud)+"/listkeys", "").want(200)
	// A name that looks like a type stays a name.
	named := strings.Replace(fraud, "fraud", "MODELS", 1)
	if got := s.do("PUT", named, `{}`).want(201).get("name"); got != "MODELS" {
		t.Errorf("name %v", got)
	}
}

func TestWhoIsAsked(t *testing.T) {
	s := newSite(t)
	for _, h := range []string{"", "Bearer wrong", "Basic abc", "Bearer"} {
		a := s.do("GET", fraud, "", "Authorization", h).wantError(401, online.CodeUnauthorized, "-")
		if a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%q: no WWW-Authenticate", h)
		}
	}
	s.do("GET", "/healthz", "", "Authorization", "").want(200)
	s.do("GET", "/readyz", "", "Authorization", "").want(200)
	s.mu.Lock()
	s.ready = errors.New("still loading")
	s.mu.Unlock()
	if a := s.do("GET", "/readyz", "", "Authorization", "").want(503); !strings.Contains(a.body, "still loading") {
		t.Error(a.body)
	}
	s.do("GET", "/metrics", "", "Authorization", "").want(200)
	s.do("GET", "/metrics", "", "Authorization", "", "X-Forwarded-For", "10.0.0.1").wantError(401,
		online.CodeUnauthorized, "-")
	s.do("GET", "/metrics", "", "X-Forwarded-For", "10.0.0.1").want(200)
	s.do("GET", "/portico/v1/config", "", "Authorization", "").wantError(401, online.CodeUnauthorized, "-")
	if a := s.do("GET", "/portico/v1/config", "").want(200); a.get("data_dir") != "x" {
		t.Error(a.body)
	}
}

func TestRequestIDs(t *testing.T) {
	s := newSite(t)
	a := s.do("GET", fraud, "", "x-ms-client-request-id", "my-id\t<x>", "x-ms-correlation-request-id", "corr")
	if a.header.Get("x-ms-client-request-id") != "my-idx" || a.header.Get("x-ms-correlation-request-id") != "corr" || len(a.header.Get("x-ms-request-id")) != 36 {
		t.Errorf("%v", a.header)
	}
	if got := a.get("error.additionalInfo.0.info.value"); got != a.header.Get("x-ms-request-id") {
		t.Errorf("the body names %v", got)
	}
}

// TestBadRequests gives every bad input that the management listener can see. Each is a clear 4xx.
func TestBadRequests(t *testing.T) {
	s := newSite(t)
	s.assets()
	s.do("PUT", fraud, `{}`).want(201)
	s.do("PUT", fraud+"/deployments/blue", deploymentBody).want(201)
	s.Settle()
	s.do("PUT", fraud, `{"properties":{"traffic":{"blue":100}}}`).want(200)
	s.Settle()
	etag := s.do("GET", fraud, "").header.Get("ETag")
	deployment := fraud + "/deployments/green"
	with := func(old, new string) string { return strings.Replace(deploymentBody, old, new, 1) }
	for _, c := range []struct {
		what, method, path, body string
		status                   int
		code                     online.Code
		target                   string
	}{
		{"garbage", "PUT", fraud, "\x16\x03\x01 garbage", 400, online.CodeInvalidContent, ""},
		{"10 MB of garbage", "PUT", fraud, strings.Repeat("garbage!!!", 1<<20), 413, online.CodeTooLarge, ""},
		{"no body", "PUT", fraud, "", 400, online.CodeInvalidContent, ""},
		{"array", "PUT", fraud, "[]", 400, online.CodeInvalidContent, ""},
		{"type", "PUT", fraud, `{"properties":{"traffic":{"blue":"100"}}}`, 400, online.CodeBadArgument,
			"properties.traffic.blue"},
		{"bad name", "PUT", wsPath + "/onlineEndpoints/a_b", `{}`, 400, online.CodeBadArgument, "name"},
		{"sum 90", "PUT", fraud, `{"properties":{"traffic":{"blue":90}}}`, 400, online.CodeBadArgument,
			"properties.traffic"},
		{"unknown deployment", "PUT", fraud, `{"properties":{"traffic":{"red":100}}}`, 400, online.CodeBadArgument,
			"properties.traffic.red"},
		{"mirror onto live", "PUT", fraud, `{"properties":{"traffic":{"blue":100},"mirrorTraffic":{"blue":10}}}`, 400,
			online.CodeBadArgument, "properties.mirrorTraffic.blue"},
		{"encryption", "PUT", fraud, `{"properties":{"encryption":{"key":"x"}}}`, 400, online.CodeNotImplemented,
			"properties.encryption"},
		{"private", "PUT", fraud, `{"properties":{"publicNetworkAccess":"disabled"}}`, 400, online.CodeNotImplemented,
			"properties.publicNetworkAccess"},
		{"unknown type", "PUT", deployment, with("Standard_DS3_v2", "Standard_Nope"), 400, online.CodeBadArgument,
			"properties.instanceType"},
		{"GPU type", "PUT", deployment, with("Standard_DS3_v2", "Standard_NC6s_v3"), 400, online.CodeOutOfQuota,
			"properties.instanceType"},
		{"missing script", "PUT", deployment, with("score.py", "other.py"), 400, online.CodeBadArgument,
			"properties.codeConfiguration.scoringScript"},
		{"missing model", "PUT", deployment, with("azureml:m:1", "azureml:m:2"), 400, online.CodeBadArgument,
			"properties.model"},
		{"missing environment", "PUT", deployment, with("azureml:e:1", "azureml:e:2"), 400, online.CodeBadArgument,
			"properties.environmentId"},
		{"zero instances", "PUT", deployment, with(`"capacity":1`, `"capacity":0`), 400, online.CodeBadArgument,
			"sku.capacity"},
		{"no endpoint", "PUT", wsPath + "/onlineEndpoints/none/deployments/blue", deploymentBody, 404,
			online.CodeNotFound, "-"},
		{"no workspace", "PUT", strings.Replace(fraud, "home", "none", 1), `{}`, 404, online.CodeNotFound, "-"},
		{"live traffic", "DELETE", fraud + "/deployments/blue", "", 409, online.CodeConflict, "-"},
		{"model path", "PUT", wsPath + "/models/x/versions/1",
			`{"properties":{"modelUri":"azureml://datastores/workspaceblobstore/paths/none"}}`, 400, online.CodeBadArgument, "properties.modelUri"},
		{"other datastore", "PUT", wsPath + "/datastores/mine", `{}`, 400, online.CodeNotImplemented, ""},
		{"no key type", "POST", fraud + "/regenerateKeys", `{}`, 400, online.CodeBadArgument, "keyType"},
		{"token", "POST", fraud + "/token", "", 400, online.CodeBadArgument, "-"},
		{"log tail", "POST", fraud + "/deployments/blue/getLogs", `{"tail":5001}`, 400, online.CodeBadArgument, "tail"},
		{"log container", "POST", fraud + "/deployments/blue/getLogs", `{"containerType":"x"}`, 400,
			online.CodeBadArgument, "containerType"},
		{"no cache", "POST", fraud + "/deployments/blue/purgeCache", "", 400, online.CodeBadArgument, "-"},
		{"method", "POST", fraud, `{}`, 405, online.CodeMethodNotAllowed, ""},
		{"nowhere", "GET", wsPath + "/pipelines/x", "", 404, online.CodeNotFound, ""},
		{"relative path", "GET", wsPath + "/%2e%2e/x", "", 404, online.CodeNotFound, ""},
		{"empty segment", "GET", wsPath + "//x", "", 404, online.CodeNotFound, ""},
		{"order", "GET", wsPath + "/onlineEndpoints?orderBy=colour", "", 400, online.CodeBadArgument, "orderBy"},
		{"page size", "GET", wsPath + "/onlineEndpoints?count=x", "", 400, online.CodeBadArgument, "$top"},
		{"page token", "GET", wsPath + "/onlineEndpoints?$skip=x", "", 400, online.CodeBadArgument, "$skip"},
		{"filter", "GET", wsPath + "/models?description=x", "", 400, online.CodeNotImplemented, "description"},
		{"time", "GET", fraud + "/metrics?since=yesterday", "", 400, online.CodeBadArgument, "since"},
		{"revision", "POST", fraud + "/deployments/blue/rollback", `{"revision":0}`, 400, online.CodeBadArgument,
			"revision"},
		{"operation", "GET", "/subscriptions/sub/providers/Microsoft.MachineLearningServices/locations/l/mfeOperationsStatus/x", "", 404, online.CodeNotFound, "x"},
	} {
		t.Run(c.what, func(t *testing.T) {
			a := s.do(c.method, c.path, c.body)
			a.t = t
			a.wantError(c.status, c.code, c.target)
		})
	}
	for _, h := range []string{`"1"`, `"x"`, `1`, `W/"1"`} {
		s.do("PUT", fraud, `{}`, "If-Match", h).wantError(412, online.CodePrecondition, "-")
	}
	s.do("PUT", fraud, `{}`, "If-None-Match", "*").wantError(412, online.CodePrecondition, "-")
	if now := s.do("GET", fraud, "").header.Get("ETag"); now != etag {
		t.Errorf("refused requests changed the endpoint: ETag %s, then %s", etag, now)
	}
	s.do("GET", deployment, "").wantError(404, online.CodeNotFound, "-")
}

func TestWarnings(t *testing.T) {
	s := newSite(t)
	a := s.do("PUT", fraud, `{"colour":"red","properties":{"auth":"key","tagś\n":1}}`).want(201)
	if w := a.header.Get("x-portico-warning"); !strings.Contains(w, "colour, properties.auth, properties.tag") {
		t.Errorf("warning %q", w)
	}
	a = s.do("PUT", wsPath+"/environments/e/versions/1", `{"properties":{"image":"x","requirements":"numpy"}}`).want(201)
	if w := a.header.Get("x-portico-warning"); !strings.Contains(w, "image is recorded") {
		t.Errorf("warning %q", w)
	}
	if a = s.do("PUT", fraud, `{"id":"x","systemData":{"createdAt":"x"},"kind":"Managed","etag":"x","properties":{"scoringUri":null,"provisioningState":"Succeeded"}}`); a.header.Get("x-portico-warning") != "" {
		t.Errorf("what the service answers is unknown to it: %v", a.header)
	}
}

func TestListsOverTheWire(t *testing.T) {
	s := newSite(t)
	for i := range 5 {
		s.do("PUT", fmt.Sprintf("%s/onlineEndpoints/e-%d", wsPath, i), fmt.Sprintf(`{"tags":{"n":"%d"}}`, i%2)).want(201)
	}
	var names []string
	for next, pages := wsPath+"/onlineEndpoints?count=2&api-version=2024-04-01", 0; next != ""; pages++ {
		a := s.do("GET", next, "").want(200)
		var page struct {
			Value    []struct{ Name string }
			NextLink *string
		}
		if err := json.Unmarshal([]byte(a.body), &page); err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Value {
			names = append(names, e.Name)
		}
		if next = ""; page.NextLink != nil {
			next = *page.NextLink
			if !strings.HasPrefix(next, s.URL) {
				t.Fatalf("nextLink %s is not absolute", next)
			}
		}
		if pages > 3 {
			t.Fatal("the listing does not end")
		}
	}
	if strings.Join(names, " ") != "e-0 e-1 e-2 e-3 e-4" {
		t.Errorf("pages gave %v", names)
	}
	if a := s.do("GET", wsPath+"/onlineEndpoints?tags=n=1", ""); strings.Count(a.body, `"kind":"Managed"`) != 2 {
		t.Errorf("by tag: %s", a.body)
	}
	if a := s.do("GET", wsPath+"/onlineEndpoints?orderBy=CreatedAtDesc&count=1", ""); a.get("value.0.name") != "e-4" {
		t.Errorf("by time: %s", a.body)
	}
	if a := s.do("GET", wsPath+"/models", "").want(200); a.body != `{"value":[],"nextLink":null}`+"\n" {
		t.Errorf("empty listing: %s", a.body)
	}
}

func TestAssetsOverTheWire(t *testing.T) {
	s := newSite(t)
	s.assets()
	c := s.do("GET", wsPath+"/models/m", "").want(200)
	if c.get("properties.latestVersion") != "1" || c.get("properties.nextVersion") != "2" {
		t.Errorf("container: %s", c.body)
	}
	v := s.do("GET", wsPath+"/models/m/versions?$orderBy=createdtime%20desc&$top=1", "").want(200)
	if v.get("value.0.name") != "1" || v.get("value.0.properties.flavors") == nil {
		t.Errorf("versions: %s", v.body)
	}
	s.do("PUT", wsPath+"/environments/e/versions/1", `{"properties":{"requirements":"pandas"}}`).wantError(409,
		online.CodeConflict, "-")
	s.do("PUT", wsPath+"/environments/e/versions/1",
		`{"properties":{"requirements":"numpy","isArchived":true}}`).want(200)
	if a := s.do("GET", wsPath+"/environments/e/versions", "").want(200); a.get("value.0.name") != nil {
		t.Errorf("an archived version is listed: %s", a.body)
	}
	if a := s.do("GET", wsPath+"/environments/e/versions?listViewType=All", "").want(200); a.get("value.0.name") != "1" {
		t.Errorf("all: %s", a.body)
	}
	s.do("PUT", wsPath+"/data/d/versions/1", `{"properties":{"dataUri":"azureml://datastores/workspaceblobstore/paths/x"}}`).want(201)
	s.do("DELETE", wsPath+"/data/d", "").want(200)
	s.do("DELETE", wsPath+"/data/d", "").want(204)
	s.do("PUT", wsPath+"/models/m", `{"properties":{"description":"ours","isArchived":true}}`).want(200)
	up := s.do("PUT", wsPath+"/codes/h/versions/1", `{"properties":{"codeUri":"x"}}`)
	up.wantError(400, online.CodeBadArgument, "properties.codeUri")

	d := s.do("GET", wsPath+"/datastores?isDefault=true", "").want(200)
	for _, f := range []string{"datastoreType", "accountName", "containerName", "credentials.credentialsType"} {
		if d.get("value.0.properties."+f) == nil {
			t.Errorf("datastore without %s: %s", f, d.body)
		}
	}
	if a := s.do("POST", wsPath+"/datastores/workspaceblobstore/listSecrets",
		`{"expirableSecret":true,"expireAfterHours":1}`).want(200); a.get("secretsType") != "Sas" {
		t.Errorf("secrets: %s", a.body)
	}
	w := s.do("PUT", strings.Replace(wsPath, "home", "new", 1),
		`{"location":"mars","properties":{"keyVault":null,"publicNetworkAccess":"Enabled"}}`).want(201)
	if w.get("location") != "mars" || w.get("properties.workspaceId") == nil {
		t.Errorf("workspace: %s", w.body)
	}
	s.do("PATCH", strings.Replace(wsPath, "home", "new", 1), `{"tags":{"a":"b"}}`).want(200)
	if a := s.do("GET", "/subscriptions/sub/providers/Microsoft.MachineLearningServices/workspaces",
		"").want(200); strings.Count(a.body, `"kind":"Default"`) != 2 {
		t.Errorf("workspaces: %s", a.body)
	}
	s.do("DELETE", strings.Replace(wsPath, "home", "new", 1), "").want(200)
	s.do("DELETE", wsPath, "").wantError(409, online.CodeConflict, "-")
}

func TestKeysLogsAndPorticosOwn(t *testing.T) {
	s := newSite(t)
	s.assets()
	s.do("PUT", fraud, `{"properties":{"keys":{"primaryKey":"my-own-primary-key-1"}}}`).want(201)
	k := s.do("POST", fraud+"/listKeys", "").want(200)
	if k.get("primaryKey") != "my-own-primary-key-1" {
		t.Error(k.body)
	}
	if e := s.do("GET", fraud, ""); strings.Contains(e.body, "my-own") {
		t.Error("an endpoint shows its keys")
	}
	secondary, _ := k.get("secondaryKey").(string)
	s.do("POST", fraud+"/regenerateKeys", `{"keyType":"secondary","keyValue":"`+secondary+`"}`).want(200)
	if now := s.do("POST", fraud+"/listKeys", ""); now.get("secondaryKey") == secondary || now.get("primaryKey") != "my-own-primary-key-1" {
		t.Error("the key that was sent was not replaced, or the other was")
	}

	first := s.do("PUT", fraud+"/deployments/blue", deploymentBody).want(201)
	s.Settle()
	if a := s.do("POST", fraud+"/deployments/blue/getLogs", "").want(200); a.get("content") != "line\n" {
		t.Error(a.body)
	}
	if a := s.do("GET", fraud+"/deployments/blue/skus", "").want(200); a.get("value.0.capacity.maximum") != 50.0 {
		t.Error(a.body)
	}
	s.do("PATCH", fraud+"/deployments/blue", `{"sku":{"capacity":3}}`).want(202)
	s.Settle()
	revs := s.do("GET", fraud+"/deployments/blue/revisions", "").want(200)
	if revs.get("value.0.inForce") != true || revs.get("value.0.sku.capacity") != 3.0 || revs.get("value.0.properties.environmentVariables.A") != "[redacted]" {
		t.Error(revs.body)
	}
	number := strings.Trim(first.header.Get("ETag"), `"`)
	if a := s.do("POST", fraud+"/deployments/blue/rollback",
		`{"revision":`+number+`}`).want(202); a.get("sku.capacity") != 1.0 || a.get("properties.environmentVariables.A") != "1" {
		t.Error(a.body)
	}
	s.Settle()
	if a := s.do("GET", fraud+"/metrics?since=PT10M&deployment=blue", "").want(200); a.get("total.endpoint") != "fraud" {
		t.Error(a.body)
	}
	acts := s.do("GET", fraud+"/activities?$top=2", "").want(200)
	if acts.get("value.0.action") != "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments/rollback/action" || acts.get("value.0.caller") != "admin" {
		t.Error(acts.body)
	}
}

// TestConcurrentIfMatch sends the same ETag from many clients at once: one gets through.
func TestConcurrentIfMatch(t *testing.T) {
	s := newSite(t)
	etag := s.do("PUT", fraud, `{}`).want(201).header.Get("ETag")
	const clients = 8
	var wg sync.WaitGroup
	codes := make([]int, clients)
	for i := range clients {
		wg.Go(func() {
			codes[i] = s.do("PATCH", fraud, fmt.Sprintf(`{"tags":{"winner":"%d"}}`, i), "If-Match", etag).status
		})
	}
	wg.Wait()
	won := 0
	for _, c := range codes {
		if c == 202 {
			won++
		} else if c != 412 {
			t.Errorf("status %d", c)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d got through", won, clients)
	}
}

func TestPanicAndInternalErrorsTellNothing(t *testing.T) {
	s := newSite(t)
	s.assets()
	s.do("PUT", fraud, `{}`).want(201)
	s.do("PUT", fraud+"/deployments/blue", deploymentBody).want(201)
	logs := fraud + "/deployments/blue/getLogs"
	s.logs = func(control.LogQuery) (io.ReadCloser, error) { return nil, errors.New("secret path /srv/x") }
	a := s.do("POST", logs, "").wantError(500, online.CodeInternalServerError, "")
	if strings.Contains(a.body, "secret") || !strings.Contains(s.log.String(),
		a.header.Get("x-ms-request-id")) || !strings.Contains(s.log.String(), "secret path") {
		t.Errorf("an internal error: %s\nlog: %s", a.body, s.log.String())
	}
	s.logs = func(control.LogQuery) (io.ReadCloser, error) { panic("secret state") }
	a = s.do("POST", logs, "").wantError(500, online.CodeInternalServerError, "")
	if strings.Contains(a.body, "secret") || !strings.Contains(s.log.String(), "secret state") {
		t.Errorf("a panic: %s", a.body)
	}
	s.do("GET", fraud, "").want(200)
	if strings.Contains(s.log.String(), token1) {
		t.Error("the log holds the token")
	}
}

func TestHeadAndSecurityHeaders(t *testing.T) {
	s := newSite(t)
	s.do("PUT", fraud, `{}`).want(201)
	a := s.do(http.MethodHead, fraud, "").want(200)
	if a.body != "" || a.header.Get("Strict-Transport-Security") == "" || a.header.Get("X-Content-Type-Options") != "nosniff" || a.header.Get("Cache-Control") != "no-cache" {
		t.Errorf("%v", a.header)
	}
}
