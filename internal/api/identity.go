package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"portico/internal/access"
	"portico/internal/control"
	"portico/internal/online"
)

// Paths of the identity service below a server's root. Those of a tenant begin with its id, or with a word of
// tenantWords; AuthorityADFS is the word with which Microsoft's libraries ask nobody else whom to trust.
const (
	PathManagedIdentity = "/msi/token"                       // IDENTITY_ENDPOINT and MSI_ENDPOINT
	PathIMDS            = "/metadata/identity/oauth2/token"  // below AZURE_POD_IDENTITY_AUTHORITY_HOST
	AuthorityADFS       = "adfs"                             // AZURE_TENANT_ID without a look at Microsoft's own hosts
	pathDiscovery       = "discovery/instance"               // below a tenant, or alone
	pathOpenID          = ".well-known/openid-configuration" // below a tenant, with or without v2.0/
)

// Bounds of the identity service.
const (
	maxIdentityForm   = 64 << 10 // bytes of a token request; an assertion is about 1 KiB
	identityTimeout   = 10 * time.Second
	maxIdentityHeader = 16 << 10
)

// tenantWords stand for the server's only tenant.
var tenantWords = map[string]bool{"common": true, "organizations": true, AuthorityADFS: true}

// Identity answers token requests: managed identities (App Service, Azure ML and, where named, IMDS), OAuth client
// credentials, and the documents by which libraries find them and verify what they got. Each request carries its own
// credential. Secrets are compared by digest and never kept or logged.
type Identity struct {
	identities *control.Identities
	imds       string
	now        func() time.Time
	log        *slog.Logger
	limits     access.Limiter
}

// NewIdentity makes the service. imds names the principal that every process of this machine may speak for by asking
// the instance metadata service, which has no secret; empty: nobody.
func NewIdentity(identities *control.Identities, imds string, now func() time.Time, log *slog.Logger) *Identity {
	return &Identity{identities: identities, imds: imds, now: now, log: log}
}

// NewIdentityServer makes the server of the identity listener, which is on loopback and without TLS. collector takes the
// events that instances send to collectPath.
func NewIdentityServer(i *Identity, collectPath string, collector http.Handler) *http.Server {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == collectPath:
			collector.ServeHTTP(w, r)
		case r.URL.Path == PathIMDS:
			i.serve(w, r, i.instanceMetadata)
		case i.Handles(r.URL.Path):
			i.ServeHTTP(w, r)
		default:
			http.NotFound(w, r)
		}
	})
	return &http.Server{Handler: h, ReadTimeout: identityTimeout, WriteTimeout: identityTimeout,
		IdleTimeout:    IdleTimeout,
		MaxHeaderBytes: maxIdentityHeader, ErrorLog: slog.NewLogLogger(i.log.Handler(), slog.LevelDebug)}
}

// Handles says whether a path is one of the identity service's. IMDS is not among them: it is on the identity
// listener alone.
func (i *Identity) Handles(path string) bool { return i.find(path) != nil }

// ServeHTTP answers a request whose path it handles.
func (i *Identity) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.serve(w, r, i.find(r.URL.Path))
}

// identityHandler answers one request, or gives the error to answer with.
type identityHandler func(c *identityCall) error

// identityCall is one request to the identity service.
type identityCall struct {
	w      http.ResponseWriter
	r      *http.Request
	tenant string // as the path names it
}

// find gives what answers a path, or nil.
func (i *Identity) find(path string) identityHandler {
	if path == PathManagedIdentity {
		return i.managedIdentity
	}
	tenant, rest, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if path == "/"+pathDiscovery {
		return i.instanceDiscovery
	}
	if _, err := uuid.Parse(tenant); !ok || err != nil && !tenantWords[tenant] {
		return nil
	}
	h := map[string]identityHandler{
		"oauth2/v2.0/token": i.token, "oauth2/token": i.token, pathDiscovery: i.instanceDiscovery,
		pathOpenID: i.openID, "v2.0/" + pathOpenID: i.openID,
		"discovery/keys": i.keys, "discovery/v2.0/keys": i.keys,
	}[rest]
	if h == nil {
		return nil
	}
	return func(c *identityCall) error {
		if c.tenant = tenant; !tenantWords[tenant] && !strings.EqualFold(tenant, i.identities.Issuer().Tenant()) {
			return &oauthError{http.StatusBadRequest, "invalid_request", 90002,
				"this server does not have this tenant; its own is " + i.identities.Issuer().Tenant(), 0}
		}
		return h(c)
	}
}

func (i *Identity) serve(w http.ResponseWriter, r *http.Request, h identityHandler) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	r.Body = http.MaxBytesReader(w, r.Body, maxIdentityForm)
	err := h(&identityCall{w: w, r: r})
	if err == nil {
		return
	}
	var e *oauthError
	if !errors.As(err, &e) {
		if r.Context().Err() == nil {
			i.log.Error("token request failed", "path", r.URL.Path, "error", err)
		}
		e = &oauthError{http.StatusInternalServerError, "server_error", 90055,
			"the server failed; its log tells more", 0}
	}
	e.write(w, i.now())
}

// oauthError is an error as token endpoints answer it: RFC 6749 section 5.2 with the members that Microsoft's
// libraries show, and those of App Service beside them.
type oauthError struct {
	status int
	code   string
	number int // of Microsoft's list, where people look for causes
	text   string
	wait   time.Duration // sent in Retry-After
}

// Error is for logs.
func (e *oauthError) Error() string { return e.code + ": " + e.text }

func (e *oauthError) write(w http.ResponseWriter, now time.Time) {
	switch {
	case e.wait > 0:
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.wait.Seconds()))))
	case e.code == "invalid_client":
		w.Header().Set("WWW-Authenticate", `Basic realm="portico"`)
	}
	text := "AADSTS" + strconv.Itoa(e.number) + ": " + e.text
	writeIdentity(w, e.status, map[string]any{
		"error": e.code, "error_description": text, "error_codes": []int{e.number}, "statusCode": e.status,
		"message":   text,
		"timestamp": now.UTC().Format("2006-01-02 15:04:05Z"), "trace_id": uuid.NewString(),
		"correlation_id": uuid.NewString(),
	})
}

func writeIdentity(w http.ResponseWriter, status int, v any) {
	doc, err := json.Marshal(v)
	if err != nil {
		panic(err) // texts and numbers always marshal
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(doc) // a client that is gone is not told
}

func badRequest(format string) *oauthError {
	return &oauthError{http.StatusBadRequest, "invalid_request", 900144, format, 0}
}

// issue makes a token for a principal that has proved who it is.
func (i *Identity) issue(who access.Subject, audience string) (access.Token, error) {
	if wait, ok := i.limits.Allow("principal "+who.ObjectID, i.now()); !ok {
		return access.Token{}, tooMany(wait)
	}
	t, err := i.identities.Issuer().Issue(who, audience)
	if e, ok := online.AsError(err); ok {
		return t, &oauthError{http.StatusBadRequest, "invalid_resource", 500011, e.Message, 0}
	}
	if err == nil {
		i.log.Debug("token issued", "principal", who.ObjectID, "name", who.Name, "audience", audience)
	}
	return t, err
}

func tooMany(wait time.Duration) *oauthError {
	return &oauthError{http.StatusTooManyRequests, "temporarily_unavailable", 90033,
		"too many token requests; try again later", wait}
}

// refused answers a credential that is nobody's. Beyond its rate an address learns no more than that there were too
// many attempts, and the log hears of it no more.
func (i *Identity) refused(c *identityCall, err error, e *oauthError) error {
	if !errors.Is(err, control.ErrCredential) {
		return err
	}
	from := remoteIP(c.r)
	if wait, ok := i.limits.Allow("address "+from, i.now()); !ok {
		return tooMany(wait)
	}
	i.log.Warn("token request refused", "client", from, "path", c.r.URL.Path, "reason", e.code)
	return e
}

// token is the OAuth token endpoint. It knows one grant: client credentials, with a secret or an assertion.
func (i *Identity) token(c *identityCall) error {
	if c.r.Method != http.MethodPost {
		c.w.Header().Set("Allow", http.MethodPost)
		return &oauthError{http.StatusMethodNotAllowed, "invalid_request", 900561, "the token endpoint takes POST", 0}
	}
	if err := c.r.ParseForm(); err != nil {
		return badRequest("the body is not a form of at most 64 KiB")
	}
	form := c.r.PostForm
	for name, values := range form {
		if len(values) > 1 {
			return badRequest("the parameter " + strconv.QuoteToASCII(name[:min(len(name), 40)]) + " is given twice")
		}
	}
	if grant := form.Get("grant_type"); grant != "client_credentials" {
		return &oauthError{http.StatusBadRequest, "unsupported_grant_type", 70003,
			"grant_type must be client_credentials", 0}
	}
	who, err := i.client(c, form)
	if err != nil {
		return i.refused(c, err, &oauthError{http.StatusUnauthorized, "invalid_client", 7000215,
			"the client id is not known, or its secret or assertion is wrong or has expired", 0})
	}
	audience, err := audienceOf(form)
	if err != nil {
		return err
	}
	t, err := i.issue(who, audience)
	if err != nil {
		return err
	}
	life := int64(t.Expires.Sub(t.Issued).Seconds())
	writeIdentity(c.w, http.StatusOK, map[string]any{"token_type": "Bearer", "expires_in": life,
		"ext_expires_in": life, "expires_on": strconv.FormatInt(t.Expires.Unix(), 10), "resource": audience,
		"access_token": t.Text.Reveal()})
	return nil
}

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// client finds who asks. The error wraps control.ErrCredential, or is an oauthError.
func (i *Identity) client(c *identityCall, form url.Values) (access.Subject, error) {
	id, secret := form.Get("client_id"), form.Get("client_secret")
	if user, password, ok := c.r.BasicAuth(); ok {
		// RFC 6749 section 2.3.1: both halves are form-encoded first.
		var err, worse error
		id, err = url.QueryUnescape(user)
		secret, worse = url.QueryUnescape(password)
		if err != nil || worse != nil {
			return access.Subject{}, badRequest("the Authorization field is not form-encoded")
		}
	}
	if assertion := form.Get("client_assertion"); assertion != "" {
		if form.Get("client_assertion_type") != assertionType || secret != "" {
			return access.Subject{}, badRequest("an assertion comes alone, with client_assertion_type " +
				assertionType)
		}
		return i.identities.ByAssertion(id, assertion)
	}
	if id == "" || secret == "" {
		return access.Subject{}, badRequest("client_id and client_secret (or client_assertion) are needed")
	}
	return i.identities.BySecret(id, online.Secret(secret))
}

// audienceOf reads for whom a token is wanted: the one resource that scope names, or resource of the older protocol.
func audienceOf(form url.Values) (string, error) {
	found := ""
	for _, scope := range strings.Fields(form.Get("scope")) {
		if scope == "openid" || scope == "profile" || scope == "offline_access" {
			continue
		}
		audience, ok := strings.CutSuffix(scope, "/.default")
		if !ok || audience == "" || found != "" {
			return "", &oauthError{http.StatusBadRequest, "invalid_scope", 1002012,
				"scope must be one RESOURCE/.default", 0}
		}
		found = audience
	}
	if found == "" {
		found = form.Get("resource")
	}
	if found == "" {
		return "", &oauthError{http.StatusBadRequest, "invalid_scope", 1002012,
			"scope is missing: name RESOURCE/.default", 0}
	}
	return found, nil
}

// managedIdentity answers App Service's protocol (field X-IDENTITY-HEADER) and Azure ML's (field secret).
func (i *Identity) managedIdentity(c *identityCall) error {
	if err := onlyGet(c); err != nil {
		return err
	}
	secret, appService := c.r.Header.Get("X-Identity-Header"), true
	if secret == "" {
		secret, appService = c.r.Header.Get("Secret"), false
	}
	q := c.r.URL.Query()
	sel, err := selectorOf(q)
	if err != nil {
		return err
	}
	if secret == "" {
		return badRequest("the field X-IDENTITY-HEADER (or secret) is missing; its value is in IDENTITY_HEADER (or MSI_SECRET)")
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), identityTimeout)
	defer cancel()
	who, err := i.identities.ByIdentitySecret(ctx, online.Secret(secret), sel)
	if e, ok := online.AsError(err); ok {
		return badRequest(e.Message)
	}
	if err != nil {
		return i.refused(c, err, &oauthError{http.StatusUnauthorized, "invalid_client", 7000215,
			"the secret of the managed identity is not known, or its deployment is gone", 0})
	}
	return i.answerManaged(c, who, q.Get("resource"), func(t access.Token, out map[string]any) {
		if out["expires_on"] = t.Expires.Unix(); appService {
			out["expires_on"] = strconv.FormatInt(t.Expires.Unix(), 10)
		}
	})
}

// instanceMetadata answers the instance metadata service's protocol, which has no secret.
func (i *Identity) instanceMetadata(c *identityCall) error {
	if err := onlyGet(c); err != nil {
		return err
	}
	if i.imds == "" {
		return &oauthError{http.StatusNotFound, "invalid_request", 900144,
			"the instance metadata service is off; the server's setting imds_principal turns it on", 0}
	}
	// The field is what a browser or a redirected fetch cannot send, and a proxy says that the caller is elsewhere.
	if !strings.EqualFold(c.r.Header.Get("Metadata"), "true") || !direct(c.r) {
		return badRequest("the field Metadata: true is missing, or the request comes through a proxy")
	}
	who, err := i.identities.ByName(i.imds)
	if errors.Is(err, control.ErrCredential) {
		return badRequest("the principal that imds_principal names does not exist")
	}
	if err != nil {
		return err
	}
	q := c.r.URL.Query()
	sel, err := selectorOf(q)
	if err != nil {
		return err
	}
	if !sel.Matches(who) {
		return badRequest("the instance has no identity with this id")
	}
	return i.answerManaged(c, who, q.Get("resource"), func(t access.Token, out map[string]any) {
		out["expires_in"] = strconv.Itoa(int(t.Expires.Sub(t.Issued).Seconds()))
		out["expires_on"] = strconv.FormatInt(t.Expires.Unix(), 10)
		out["not_before"] = strconv.FormatInt(t.Issued.Unix(), 10)
	})
}

func (i *Identity) answerManaged(c *identityCall, who access.Subject, resource string,
	more func(access.Token, map[string]any)) error {
	if resource == "" {
		return badRequest("the parameter resource is missing")
	}
	t, err := i.issue(who, resource)
	if err != nil {
		return err
	}
	out := map[string]any{"access_token": t.Text.Reveal(), "token_type": "Bearer", "resource": resource,
		"client_id": who.AppID}
	more(t, out)
	writeIdentity(c.w, http.StatusOK, out)
	return nil
}

// selectorOf reads which identity is meant; the names are those of the three protocols.
func selectorOf(q url.Values) (control.Selector, error) {
	pick := func(names ...string) string {
		for _, n := range names {
			if v := q.Get(n); v != "" {
				return v
			}
		}
		return ""
	}
	s := control.Selector{ClientID: pick("client_id", "clientid"), ObjectID: pick("object_id", "principal_id"),
		ResourceID: pick("mi_res_id", "msi_res_id")}
	n := 0
	for _, v := range []string{s.ClientID, s.ObjectID, s.ResourceID} {
		if v != "" {
			n++
		}
	}
	if n > 1 {
		return s, badRequest("client_id, object_id and mi_res_id exclude each other")
	}
	return s, nil
}

func onlyGet(c *identityCall) error {
	if c.r.Method != http.MethodGet {
		c.w.Header().Set("Allow", http.MethodGet)
		return &oauthError{http.StatusMethodNotAllowed, "invalid_request", 900561, "use GET", 0}
	}
	return nil
}

// authority is the base of the tenant's URLs as the client reaches them.
func authority(c *identityCall) string {
	scheme := "https://"
	if c.r.TLS == nil {
		scheme = "http://"
	}
	return scheme + c.r.Host + "/" + c.tenant
}

// openID is the discovery document (OpenID Connect Discovery 1.0).
func (i *Identity) openID(c *identityCall) error {
	if err := onlyGet(c); err != nil {
		return err
	}
	base := authority(c)
	writeIdentity(c.w, http.StatusOK, map[string]any{
		"issuer":                 i.issuerFor(c),
		"token_endpoint":         base + tokenPath(c.tenant),
		"authorization_endpoint": base + strings.TrimSuffix(tokenPath(c.tenant), "token") + "authorize",
		"jwks_uri":               base + "/discovery/v2.0/keys",
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic",
			"private_key_jwt"},
		"grant_types_supported":                 []string{"client_credentials"},
		"response_types_supported":              []string{"token"},
		"subject_types_supported":               []string{"pairwise"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
	})
	return nil
}

// issuerFor is the issuer that a discovery document names. Below the server's own name it is that of the tokens.
// Clients that know the server by another name, such as Azure's, refuse a document that names a third: they never look into
// a token, and who does must read the document that the token's issuer leads to.
func (i *Identity) issuerFor(c *identityCall) string {
	if c.r.TLS == nil {
		return i.identities.Issuer().URL()
	}
	return "https://" + c.r.Host + "/" + i.identities.Issuer().Tenant() + "/v2.0"
}

func tokenPath(tenant string) string {
	if tenant == AuthorityADFS {
		return "/oauth2/token"
	}
	return "/oauth2/v2.0/token"
}

// instanceDiscovery tells libraries that the host which they asked about is one to trust, with its other names.
func (i *Identity) instanceDiscovery(c *identityCall) error {
	if err := onlyGet(c); err != nil {
		return err
	}
	hosts := []string{c.r.Host}
	c.tenant = i.identities.Issuer().Tenant()
	base := authority(c)
	if u, err := url.Parse(c.r.URL.Query().Get("authorization_endpoint")); err == nil && u.Scheme == "https" &&
		u.Host == c.r.Host {
		tenant, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
		if tenantWords[tenant] {
			c.tenant = tenant
			base = authority(c)
		}
	}
	writeIdentity(c.w, http.StatusOK, map[string]any{
		"tenant_discovery_endpoint": base + "/v2.0/" + pathOpenID, "api-version": "1.1",
		"metadata": []map[string]any{{"preferred_network": hosts[0], "preferred_cache": hosts[0], "aliases": hosts}},
	})
	return nil
}

// keys publishes what tokens are verified with.
func (i *Identity) keys(c *identityCall) error {
	if err := onlyGet(c); err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_, _ = c.w.Write(i.identities.Issuer().JWKS()) // a client that is gone is not told
	return nil
}
