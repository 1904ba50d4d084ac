package api

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"portico/internal/access"
	"portico/internal/control"
	"portico/internal/online"
)

// person makes a principal over the wire.
func (s *site) person(name string) (client, secret string) {
	s.t.Helper()
	a := s.do("PUT", principalsPath+"/"+name, "").want(201)
	if a.header.Get("Cache-Control") != "no-store" {
		s.t.Error("a secret may be kept by a cache")
	}
	return a.get("clientId").(string), a.get("clientSecret").(string)
}

// form posts to a token endpoint.
func (s *site) form(path string, values ...string) answer {
	s.t.Helper()
	f := url.Values{}
	for i := 0; i < len(values); i += 2 {
		f.Add(values[i], values[i+1])
	}
	return s.do("POST", path, f.Encode(), "Authorization", "", "Content-Type", "application/x-www-form-urlencoded")
}

// opens says whether a token opens the management API.
func (s *site) opens(token any) int {
	s.t.Helper()
	text, _ := token.(string)
	return s.do("GET", wsPath, "", "Authorization", "Bearer "+text).status
}

func (s *site) tenant() string { return s.identities.Issuer().Tenant() }

const management = "https://management.azure.com"

func TestClientCredentials(t *testing.T) {
	s := newSite(t)
	client, secret := s.person("ci")
	for _, path := range []string{"/" + s.tenant() + "/oauth2/v2.0/token", "/" + strings.ToUpper(s.tenant()) +
		"/oauth2/v2.0/token",
		"/common/oauth2/v2.0/token", "/organizations/oauth2/v2.0/token", "/adfs/oauth2/token"} {
		a := s.form(path, "grant_type", "client_credentials", "client_id", client, "client_secret", secret,
			"client_info", "1",
			"scope", management+"/.default").want(200)
		if a.get("token_type") != "Bearer" || a.get("expires_in") != 3600.0 ||
			a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s", path, a.body)
		}
		if status := s.opens(a.get("access_token")); status != 200 {
			t.Errorf("%s: the token is answered %d", path, status)
		}
	}
	// The older protocol names a resource; Basic is the other way to send a secret.
	a := s.form("/"+s.tenant()+"/oauth2/token", "grant_type", "client_credentials", "client_id", client,
		"client_secret", secret,
		"resource", "https://management.core.windows.net/").want(200)
	claims, err := s.identities.Issuer().Verify(a.get("access_token").(string))
	if err != nil || claims.Audience != "https://management.core.windows.net/" || claims.ObjectID != client {
		t.Errorf("%+v, %v", claims, err)
	}
	req, _ := http.NewRequest(http.MethodPost, s.URL+"/common/oauth2/v2.0/token",
		strings.NewReader("grant_type=client_credentials&scope=x/.default"))
	req.SetBasicAuth(url.QueryEscape(client), url.QueryEscape(secret))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if resp, err := s.Client().Do(req); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("basic: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
}

func TestAssertion(t *testing.T) {
	s := newSite(t)
	client, _ := s.person("ci")
	assertion := s.do("POST", principalsPath+"/ci/federatedToken", "").want(200).get("token").(string)
	ask := func(values ...string) answer {
		return s.form("/"+s.tenant()+"/oauth2/v2.0/token", append([]string{"grant_type", "client_credentials",
			"scope", management + "/.default"}, values...)...)
	}
	a := ask("client_id", client, "client_assertion", assertion, "client_assertion_type", assertionType).want(200)
	if status := s.opens(a.get("access_token")); status != 200 {
		t.Errorf("the token is answered %d", status)
	}
	if status := s.opens(assertion); status != 401 {
		t.Errorf("an assertion opens the management API: %d", status)
	}
	access := a.get("access_token").(string)
	ask("client_id", client, "client_assertion", access, "client_assertion_type", assertionType).want(401)
	ask("client_id", client, "client_assertion", assertion).want(400)
	s.do("POST", principalsPath+"/ci/resetCredential", "").want(200)
	ask("client_id", client, "client_assertion", assertion, "client_assertion_type", assertionType).want(401)
	s.do("DELETE", principalsPath+"/ci", "").want(204)
	if status := s.opens(access); status != 401 {
		t.Errorf("a token of a principal that is gone: %d", status)
	}
}

func TestTokenErrors(t *testing.T) {
	s := newSite(t)
	client, secret := s.person("ci")
	v2 := "/" + s.tenant() + "/oauth2/v2.0/token"
	good := []string{"grant_type", "client_credentials", "client_id", client, "client_secret", secret, "scope",
		management + "/.default"}
	with := func(name, value string) []string {
		out := append([]string(nil), good...)
		for i := 0; i < len(out); i += 2 {
			if out[i] == name {
				out[i+1] = value
				return out
			}
		}
		return append(out, name, value)
	}
	said := map[string]any{}
	for _, c := range []struct {
		what, path string
		form       []string
		status     int
		code       string
	}{
		{"wrong secret", v2, with("client_secret", "wrong"), 401, "invalid_client"},
		{"unknown client", v2, with("client_id", "00000000-0000-0000-0000-000000000000"), 401, "invalid_client"},
		{"no secret", v2, with("client_secret", ""), 400, "invalid_request"},
		{"password grant", v2, with("grant_type", "password"), 400, "unsupported_grant_type"},
		{"no scope", v2, with("scope", ""), 400, "invalid_scope"},
		{"not default", v2, with("scope", management+"/user_impersonation"), 400, "invalid_scope"},
		{"two resources", v2, with("scope", "a/.default b/.default"), 400, "invalid_scope"},
		{"reserved", v2, with("scope", "azureml/.default"), 400, "invalid_resource"},
		{"exchange", v2, with("scope", access.AudienceExchange+"/.default"), 400, "invalid_resource"},
		{"twice", v2, append(with("scope", "a/.default"), "scope", "b/.default"), 400, "invalid_request"},
		{"assertion and secret", v2, append(with("client_assertion", "a.b.c"), "client_assertion_type",
			assertionType), 400, "invalid_request"},
		{"another tenant", "/99999999-9999-9999-9999-999999999999/oauth2/v2.0/token", good, 400, "invalid_request"},
		{"huge", v2, with("scope", strings.Repeat("x", maxIdentityForm)), 400, "invalid_request"},
	} {
		a := s.form(c.path, c.form...)
		if a.status != c.status || a.get("error") != c.code ||
			!strings.HasPrefix(a.get("error_description").(string), "AADSTS") ||
			a.get("correlation_id") == nil || a.get("error_codes.0") == nil {
			t.Errorf("%s: %d %s", c.what, a.status, a.body)
		}
		if strings.Contains(a.body, secret) {
			t.Errorf("%s: the answer repeats the secret: %s", c.what, a.body)
		}
		said[c.what] = a.get("error_description")
	}
	if said["wrong secret"] != said["unknown client"] {
		t.Errorf("the answer tells which clients exist: %v", said)
	}
	a := s.do("GET", v2, "", "Authorization", "")
	if a.want(405); a.header.Get("Allow") != "POST" {
		t.Errorf("%v", a.header)
	}
	// A secret in the query is not read: it would be in logs of whoever is between.
	s.do("POST", v2+"?"+url.Values{"client_secret": {secret}}.Encode(),
		"grant_type=client_credentials&scope=a/.default&client_id="+client,
		"Authorization", "", "Content-Type", "application/x-www-form-urlencoded").want(400)
	if log := s.log.String(); strings.Contains(log, secret) || !strings.Contains(log, "token request refused") {
		t.Errorf("log: %s", log)
	}
}

// TestGuessingIsBounded: after a burst, an address is told nothing more than to wait; who has a good secret is not.
func TestGuessingIsBounded(t *testing.T) {
	s := newSite(t)
	client, secret := s.person("ci")
	// The clock of the site moves by a second with each reading, so the bucket never empties by itself: the limiter
	// is
	// filled first, at a time that stands still.
	now := s.Tick()
	for range access.AttemptBurst {
		s.api.Identity.limits.Allow("address 127.0.0.1", now.AddDate(0, 0, 1))
	}
	a := s.form("/common/oauth2/v2.0/token", "grant_type", "client_credentials", "client_id", client, "client_secret",
		"wrong", "scope", "a/.default")
	if a.status != 429 || a.header.Get("Retry-After") == "" || a.get("error") != "temporarily_unavailable" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if strings.Contains(s.log.String(), "token request refused") {
		t.Error("guesses beyond the rate fill the log")
	}
	s.form("/common/oauth2/v2.0/token", "grant_type", "client_credentials", "client_id", client, "client_secret",
		secret, "scope", "a/.default").want(200)
}

func TestManagedIdentity(t *testing.T) {
	s := newSite(t)
	client, secret := s.person("ci")
	at := PathManagedIdentity + "?api-version=2019-08-01&resource=" + url.QueryEscape(management)
	for what, c := range map[string]struct {
		path, field, value string
		status             int
	}{
		"App Service":         {at, "X-IDENTITY-HEADER", secret, 200},
		"Azure ML":            {strings.Replace(at, "2019-08-01", "2017-09-01", 1), "secret", secret, 200},
		"the administrator":   {at, "X-IDENTITY-HEADER", token1, 200},
		"its client id":       {at + "&client_id=" + client, "X-IDENTITY-HEADER", secret, 200},
		"Azure ML's spelling": {at + "&clientid=" + client, "secret", secret, 200},
		"another client id":   {at + "&client_id=" + online.Administrator.ID, "X-IDENTITY-HEADER", secret, 400},
		"two ids": {at + "&client_id=" + client + "&object_id=" +
			client, "X-IDENTITY-HEADER", secret, 400},
		"wrong":                {at, "X-IDENTITY-HEADER", "wrong", 401},
		"no secret":            {at, "Metadata", "true", 400},
		"no resource":          {PathManagedIdentity, "X-IDENTITY-HEADER", secret, 400},
		"a reserved resource":  {PathManagedIdentity + "?resource=azureml", "X-IDENTITY-HEADER", secret, 400},
		"IMDS is not served":   {PathIMDS + "?resource=x", "Metadata", "true", 404},
		"the secret as bearer": {at, "Authorization", "Bearer " + secret, 400},
	} {
		a := s.do("GET", c.path, "", "Authorization", "", c.field, c.value)
		if a.status != c.status {
			t.Errorf("%s: %d %s", what, a.status, a.body)
			continue
		}
		if c.status != 200 {
			if c.status != 404 && (a.get("statusCode") != float64(c.status) || a.get("message") == nil) {
				t.Errorf("%s: not App Service's shape: %s", what, a.body)
			}
			continue
		}
		if status := s.opens(a.get("access_token")); status != 200 {
			t.Errorf("%s: the token is answered %d", what, status)
		}
		_, text := a.get("expires_on").(string)
		if text != (c.field == "X-IDENTITY-HEADER") || a.get("resource") != management {
			t.Errorf("%s: %s", what, a.body)
		}
	}
	s.do("POST", at, "", "Authorization", "", "X-IDENTITY-HEADER", secret).want(405)
}

// TestIdentityListener: the listener for processes of this machine has the identity service, and IMDS where an
// operator
// names a principal for it.
func TestIdentityListener(t *testing.T) {
	s := newSite(t)
	ask := func(imds, path string, header ...string) answer {
		t.Helper()
		l := httptest.NewUnstartedServer(nil)
		l.Config = NewIdentityServer(NewIdentity(s.identities, imds, s.Tick, s.api.Logger), "/collect", http.NotFoundHandler())
		l.Start()
		defer l.Close()
		req, err := http.NewRequest(http.MethodGet, l.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := l.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer{t, resp.StatusCode, resp.Header, string(text)}
	}
	imds := PathIMDS + "?api-version=2018-02-01&resource=" + url.QueryEscape(management)
	ask("", imds, "Metadata", "true").want(404)
	a := ask("administrator", imds, "Metadata", "true").want(200)
	if n, err := strconv.Atoi(a.get("expires_in").(string)); err != nil || n != 3600 ||
		s.opens(a.get("access_token")) != 200 {
		t.Errorf("%s", a.body)
	}
	ask("administrator", imds).want(400)
	ask("administrator", imds, "Metadata", "true", "X-Forwarded-For", "10.0.0.1").want(400)
	ask("administrator", imds+"&client_id=x", "Metadata", "true").want(400)
	ask("gone", imds, "Metadata", "true").want(400)
	ask("", PathManagedIdentity+"?resource=x", "X-IDENTITY-HEADER", token1).want(200)
	ask("", wsPath, "Authorization", "Bearer "+token1).want(404)
	ask("", "/healthz").want(404)
	doc := ask("", "/"+s.tenant()+"/v2.0/"+pathOpenID).want(200)
	if doc.get("issuer") != s.identities.Issuer().URL() || !strings.HasPrefix(doc.get("token_endpoint").(string),
		"http://127.0.0.1:") {
		t.Errorf("%s", doc.body)
	}
}

// TestDiscovery follows the documents from an issuer to the keys, as a verifier does, without a credential.
func TestDiscovery(t *testing.T) {
	s := newSite(t)
	host := strings.TrimPrefix(s.URL, "https://")
	for _, path := range []string{"/" + s.tenant() + "/v2.0/", "/" + s.tenant() + "/", "/common/v2.0/", "/adfs/"} {
		doc := s.do("GET", path+pathOpenID, "", "Authorization", "").want(200)
		if doc.get("issuer") != s.URL+"/"+s.tenant()+"/v2.0" {
			t.Errorf("%s: issuer %v", path, doc.get("issuer"))
		}
		keys := s.do("GET", doc.get("jwks_uri").(string), "", "Authorization", "").want(200)
		if keys.body != string(s.identities.Issuer().JWKS()) {
			t.Errorf("%s: keys %s", path, keys.body)
		}
		s.form(doc.get("token_endpoint").(string), "grant_type", "x").want(400)
	}
	for _, path := range []string{"/discovery/instance", "/common/discovery/instance"} {
		doc := s.do("GET", path+"?api-version=1.1&authorization_endpoint="+url.QueryEscape("https://"+host+"/common/oauth2/v2.0/authorize"), "",
			"Authorization", "").want(200)
		next, _ := doc.get("tenant_discovery_endpoint").(string)
		s.do("GET", next, "", "Authorization", "").want(200)
		if doc.get("metadata.0.preferred_network") != host || doc.get("metadata.0.aliases.0") != host {
			t.Errorf("%s: %s", path, doc.body)
		}
	}
	// What only looks like a path of the identity service is not.
	for _, path := range []string{"/nobody/oauth2/v2.0/token", "/" + s.tenant() + "/oauth2/v3.0/token", "/" +
		s.tenant(),
		"/blobs/oauth2/v2.0/token"} {
		if s.api.Identity.Handles(path) {
			t.Errorf("%s is handled", path)
		}
	}
}

func TestChallenge(t *testing.T) {
	s := newSite(t)
	want := `Bearer authorization_uri="` + s.URL + "/" + s.tenant() + `", error="invalid_token", error_description="`
	for _, value := range []string{"", "Bearer nonsense", "Bearer a.b.c", "Basic xyz"} {
		a := s.do("GET", wsPath, "", "Authorization", value).wantError(401, online.CodeUnauthorized, "")
		got := a.header.Get("WWW-Authenticate")
		if !strings.HasPrefix(got, want) || strings.Count(got, `"`) != 6 {
			t.Errorf("%q: %s", value, got)
		}
	}
	managed, err := s.identities.Issuer().Issue(access.Subject{ObjectID: "o", Resource: "/x"}, management)
	if err != nil {
		t.Fatal(err)
	}
	a := s.do("GET", wsPath, "", "Authorization", "Bearer "+managed.Text.Reveal()).wantError(403,
		online.CodeForbidden, "")
	if a.header.Get("WWW-Authenticate") != "" {
		t.Error("a known caller without rights is sent for another token")
	}
	if got := quotable("a \"b\" \\ c\r\nä"); strings.ContainsAny(got, "\"\\\r\n") {
		t.Errorf("%q", got)
	}
}

// TestPrincipalNamesTheActivity: what a principal does with its token is written down under its name.
func TestPrincipalNamesTheActivity(t *testing.T) {
	s := newSite(t)
	_, secret := s.person("release-bot")
	a := s.do("GET", PathManagedIdentity+"?resource="+management, "", "Authorization", "", "X-IDENTITY-HEADER",
		secret).want(200)
	bearer := "Bearer " + a.get("access_token").(string)
	made := s.do("PUT", wsPath+"/onlineEndpoints/fraud", `{"properties":{"authMode":"AMLToken"}}`, "Authorization",
		bearer).want(201)
	if made.get("systemData.createdBy") != "release-bot" || made.get("identity.tenantId") != s.tenant() {
		t.Errorf("%s", made.body)
	}
	s.Settle()
	token := s.do("POST", wsPath+"/onlineEndpoints/fraud/token", "", "Authorization", bearer).want(200)
	issued := s.Now().Unix()
	if token.get("tokenType") != "Bearer" ||
		token.get("expiryTimeUtc").(float64)-token.get("refreshAfterTimeUtc").(float64) != 12*3600 ||
		token.get("expiryTimeUtc").(float64)-float64(issued) > 24*3600 ||
		token.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s", token.body)
	}
	if status := s.opens(token.get("accessToken")); status != 401 {
		t.Errorf("an endpoint's token opens the management API: %d", status)
	}
	s.do("POST", wsPath+"/onlineEndpoints/fraud/listKeys", "").wantError(400, online.CodeBadArgument, "-")
	log := s.do("GET", wsPath+"/onlineEndpoints/fraud/activities", "").want(200)
	if strings.Count(log.body, `"release-bot"`) != 2 {
		t.Errorf("%s", log.body)
	}
	all := s.do("GET", principalsPath, "").want(200)
	if strings.Contains(all.body, secret) || strings.Contains(all.body, "clientSecret") ||
		!strings.Contains(all.body, `"release-bot"`) {
		t.Errorf("%s", all.body)
	}
	var page struct{ Value []struct{ Kind string } }
	if err := json.Unmarshal([]byte(all.body), &page); err != nil ||
		page.Value[0].Kind != control.PrincipalAdministrator {
		t.Errorf("%v: %s", err, all.body)
	}
	s.do("POST", "/portico/v1/rotateSigningKey", "").want(204)
	if status := s.opens(a.get("access_token")); status != 200 {
		t.Errorf("a token from before the rotation: %d", status)
	}
}
