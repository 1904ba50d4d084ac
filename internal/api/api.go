package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"

	"portico/internal/arm"
	"portico/internal/artifact"
	"portico/internal/control"
	"portico/internal/online"
)

// Bounds of a request to the management API.
const (
	MaxBodyBytes   = 4 << 20  // of a JSON document
	drainBytes     = 16 << 20 // read and thrown away so that a client that sends too much sees the answer
	MaxHeaderBytes = 64 << 10
	HeaderTimeout  = 10 * time.Second
	IdleTimeout    = 2 * time.Minute
	// RequestTimeout bounds one command; uploads have UploadTimeout.
	RequestTimeout = 5 * time.Minute
	UploadTimeout  = time.Hour
	maxClientID    = 128 // bytes of x-ms-client-request-id that are echoed
)

// defaultVersion is the api-version in the links of a request that named none.
const defaultVersion = "2024-04-01"

// Config is what the handlers work with.
type Config struct {
	Control *control.Service
	Access  Access
	Uploads *artifact.Uploads
	// Identity answers token requests on the paths that it handles; nil: none do.
	Identity *Identity
	// ScoringURI gives the URL that an endpoint is called at, SwaggerURI that of its description. path is the last part.
	ScoringURI func(endpoint, path string) string
	SwaggerURI func(endpoint string) string
	// PublicURL is the base of links (https://HOST:PORT); empty: the host that the request named.
	PublicURL string
	// StorageAccount is set where clients know this server by Azure's own names: they ask for blobs at
	// https://ACCOUNT.blob.core.windows.net. Empty: at this listener, under AccountPath.
	StorageAccount string
	Metrics        http.Handler // Prometheus exposition
	Settings       func() any   // the configuration in force, as JSON
	Ready          func() error // why the server is not ready yet, or nil
	Logger         *slog.Logger
}

// Access says who sent a request from the value of its Authorization field. The error is an *online.Error with
// CodeUnauthorized.
type Access interface {
	Verify(authorization string) (online.Principal, error)
}

// API is the handler of the management listener.
type API struct {
	Config
	mux *http.ServeMux
}

// New makes the handler.
func New(cfg Config) *API {
	a := &API{Config: cfg, mux: http.NewServeMux()}
	a.routeHealth()
	a.routeWorkspaces()
	a.routeEndpoints()
	a.routeDeployments()
	a.routeAssets()
	a.routeDatastores()
	a.routeOperations()
	a.routeMonitor()
	a.routeCost()
	a.routeAbsent()
	a.routePortico()
	a.routePrincipals()
	a.routeBlobs()
	a.routeMetadata()
	return a
}

// NewServer makes the server of the management listener with its bounds set. Bodies have their own deadlines, which
// ServeHTTP sets by what is asked.
func NewServer(a *API) *http.Server {
	return &http.Server{Handler: a, ReadHeaderTimeout: HeaderTimeout, IdleTimeout: IdleTimeout,
		MaxHeaderBytes: MaxHeaderBytes, ErrorLog: slog.NewLogLogger(a.Logger.Handler(), slog.LevelDebug)}
}

// ServeHTTP answers one request. Whatever happens, the answer has a request id and, unless it is a blob, is JSON.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	blobs := a.blobPath(r)
	if blobs == "" && a.Identity != nil && a.Identity.Handles(r.URL.Path) {
		conn := http.NewResponseController(w)
		deadline := time.Now().Add(identityTimeout)
		// As below, not every transport has deadlines.
		_, _ = conn.SetReadDeadline(deadline), conn.SetWriteDeadline(deadline)
		a.Identity.ServeHTTP(w, r)
		return
	}
	c := &call{api: a, w: &recorder{ResponseWriter: w}, r: r, requestID: uuid.NewString(), sentPath: r.URL.EscapedPath()}
	c.headers()
	timeout := RequestTimeout
	if blobs != "" {
		timeout = UploadTimeout
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	conn := http.NewResponseController(w)
	deadline := time.Now().Add(timeout)
	// Not every transport has deadlines (tests that call the handler have none); then the context bounds the work.
	_, _ = conn.SetReadDeadline(deadline), conn.SetWriteDeadline(deadline)
	defer a.rescue(c)
	r = r.WithContext(context.WithValue(ctx, callKey{}, c))
	if blobs != "" {
		a.serveBlob(c, r, blobs)
		return
	}
	if r = canonical(r); r == nil {
		c.fail(online.Errorf(online.CodeNotFound, "", "the path holds an empty or relative segment"))
		return
	}
	c.r = r
	if _, pattern := a.mux.Handler(r); pattern == "" {
		c.fail(online.Errorf(online.CodeNotFound, "", "there is nothing at %.200q", r.URL.Path))
		return
	}
	a.mux.ServeHTTP(c.w, r)
}

// rescue answers a request whose handler panicked; its stack goes to the log only.
func (a *API) rescue(c *call) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	a.Logger.Error("management request panicked", "request_id", c.requestID, "method", c.r.Method, "path", c.r.URL.Path,
		"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if c.w.wrote {
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
	c.writeError(internalError())
}

func internalError() *online.Error {
	return online.Errorf(online.CodeInternalServerError, "", "the server failed; its log tells more under the request id")
}

// recorder knows whether an answer has begun.
type recorder struct {
	http.ResponseWriter
	wrote bool
}

func (r *recorder) WriteHeader(status int) {
	r.wrote = true
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.wrote = true
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController find the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// call is one request with what is known of it.
type call struct {
	api       *API
	w         *recorder
	r         *http.Request
	requestID string
	sentPath  string // escaped, as the client sent it; r has it as the mux wants it
	caller    control.Caller
	warnings  []string
}

type callKey struct{}

// handler answers a call, or gives the error to answer with.
type handler func(c *call) error

// methods are the handlers of one path.
type methods map[string]handler

// route registers a path. Every method that is not given is answered with 405 and those that are.
func (a *API) route(path string, m methods) {
	var allowed []string
	for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"} {
		if h := m[method]; h != nil {
			allowed = append(allowed, method)
			a.mux.HandleFunc(method+" "+path, func(_ http.ResponseWriter, r *http.Request) { a.authenticated(r, h) })
		}
	}
	allow := strings.Join(allowed, ", ")
	a.mux.HandleFunc(path, func(_ http.ResponseWriter, r *http.Request) {
		c := r.Context().Value(callKey{}).(*call)
		c.w.Header().Set("Allow", allow)
		c.fail(online.Errorf(online.CodeMethodNotAllowed, "", "%.20s is not possible here; use %s", r.Method, allow))
	})
}

func (a *API) authenticated(r *http.Request, h handler) {
	c := r.Context().Value(callKey{}).(*call)
	c.r = r
	who, err := a.Access.Verify(r.Header.Get("Authorization"))
	if err != nil {
		c.unauthorized(err)
		return
	}
	c.caller = control.Caller{Principal: who, RequestID: c.requestID, ClientIP: remoteIP(r)}
	if err := h(c); err != nil {
		c.fail(err)
	}
}

func (c *call) unauthorized(err error) {
	if !online.IsCode(err, online.CodeForbidden) {
		c.w.Header().Set("WWW-Authenticate", c.challenge(err))
	}
	c.fail(err)
}

func remoteIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// headers sets what every answer has.
func (c *call) headers() {
	h := c.w.Header()
	h.Set("x-ms-request-id", c.requestID)
	correlation := clean(c.r.Header.Get("x-ms-correlation-request-id"))
	if correlation == "" {
		correlation = c.requestID
	}
	h.Set("x-ms-correlation-request-id", correlation)
	if id := clean(c.r.Header.Get("x-ms-client-request-id")); id != "" {
		h.Set("x-ms-client-request-id", id)
	}
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
}

// clean keeps of a client's id what is safe to echo and to log.
func clean(id string) string {
	id = strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return -1
	}, id)
	return id[:min(len(id), maxClientID)]
}

// fail answers with an error. What no user can act on is logged and shown as an internal error.
func (c *call) fail(err error) {
	e, known := online.AsError(err)
	switch {
	case errors.Is(err, context.Canceled) && c.r.Context().Err() != nil:
		return // the client is gone
	case errors.Is(err, context.DeadlineExceeded) && c.r.Context().Err() != nil:
		e = online.Errorf(online.CodeServiceUnavailable, "", "the command took longer than the server allows")
	case !known:
		c.api.Logger.Error("management request failed", "request_id", c.requestID, "method", c.r.Method,
			"path", c.r.URL.Path, "error", err)
		e = internalError()
	case e.HTTPStatus() >= http.StatusInternalServerError:
		c.api.Logger.Warn("management request refused", "request_id", c.requestID, "method", c.r.Method,
			"path", c.r.URL.Path, "error", err, "cause", errors.Unwrap(e))
	}
	c.writeError(e)
}

func (c *call) writeError(e *online.Error) {
	status := e.HTTPStatus()
	h := c.w.Header()
	h.Set("x-ms-error-code", string(e.Code))
	h.Set("x-ms-response-type", "error")
	h.Del("Retry-After") // azure-core retries any status >= 400 that has one
	c.write(status, arm.NewErrorBody(e, c.requestID))
}

// json answers with a document.
func (c *call) json(status int, v any) error {
	c.w.Header().Set("x-ms-response-type", "standard")
	c.write(status, v)
	return nil
}

// empty answers without a body.
func (c *call) empty(status int) error {
	c.warn()
	c.w.WriteHeader(status)
	return nil
}

func (c *call) write(status int, v any) {
	var doc bytes.Buffer
	enc := json.NewEncoder(&doc)
	enc.SetEscapeHTML(false) // URLs are read by people, too
	if err := enc.Encode(v); err != nil {
		c.api.Logger.Error("cannot encode an answer", "request_id", c.requestID, "error", err)
		status = http.StatusInternalServerError
		doc.Reset()
		doc.WriteString(`{"error":{"code":"InternalServerError","message":"the server failed"}}`)
	}
	c.warn()
	c.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write(doc.Bytes()) // a client that is gone is not told
	}
}

// warn tells what was accepted but not acted on.
func (c *call) warn() {
	for _, text := range c.warnings {
		c.w.Header().Add("x-portico-warning", text)
	}
}

// note adds a warning; text is made safe for a header.
func (c *call) note(text string) {
	c.warnings = append(c.warnings, strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text))
}

// decode reads the body, which must be one JSON object. Fields that are not known are named in a warning.
func (c *call) decode(into any) error {
	doc, err := c.body()
	if err != nil {
		return err
	}
	unknown, err := arm.Decode(doc, into)
	if len(unknown) > 0 {
		c.note("unknown fields were ignored: " + strings.Join(unknown, ", "))
	}
	return err
}

// decodeOptional reads a body that may be absent.
func (c *call) decodeOptional(into any) error {
	doc, err := c.body()
	if err != nil || len(strings.TrimSpace(string(doc))) == 0 {
		return err
	}
	unknown, err := arm.Decode(doc, into)
	if len(unknown) > 0 {
		c.note("unknown fields were ignored: " + strings.Join(unknown, ", "))
	}
	return err
}

func (c *call) body() ([]byte, error) {
	doc, err := io.ReadAll(io.LimitReader(c.r.Body, MaxBodyBytes+1))
	if err != nil {
		return nil, online.Errorf(online.CodeInvalidContent, "", "the body could not be read to its end")
	}
	if len(doc) > MaxBodyBytes {
		_, _ = io.CopyN(io.Discard, c.r.Body, drainBytes)
		return nil, online.Errorf(online.CodeTooLarge, "", "the body is larger than %d bytes", MaxBodyBytes)
	}
	return doc, nil
}

// workspace is the workspace that the path names.
func (c *call) workspace() online.WorkspaceID {
	return online.WorkspaceID{Subscription: c.r.PathValue("subscription"), ResourceGroup: c.r.PathValue("group"),
		Name: c.r.PathValue("workspace")}
}

// base is the beginning of absolute links.
func (c *call) base() string {
	if c.api.PublicURL != "" {
		return strings.TrimSuffix(c.api.PublicURL, "/")
	}
	scheme := "https://"
	if c.r.TLS == nil {
		scheme = "http://"
	}
	return scheme + c.r.Host
}

// version is the api-version for links.
func (c *call) version() string {
	if v := clean(c.r.URL.Query().Get("api-version")); v != "" {
		return v
	}
	return defaultVersion
}
