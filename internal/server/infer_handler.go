package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"portico/internal/http1"
	"portico/internal/inference"
	"portico/internal/route"
)

// inferHandler has the routes of the reference inference server. Errors are {"message": ...}, as there.
type inferHandler struct {
	instance *generations
	mlflow   bool       // MLflow's own routes are served too
	protocol bool       // the Open Inference Protocol is served below /v2
	access   *accessLog // nil: none
	version  string     // of the server, as the health page tells it; empty: not told
	timeout  time.Duration
	maxBytes int64
	log      *slog.Logger
	scorings sync.Pool // of *scoring
}

// Fields by which inference.HTTPUpstream learns what a status cannot say.
const (
	headerDeadline   = "x-portico-deadline-ms"
	headerNotStarted = "x-portico-not-started"
	headerLost       = "x-portico-lost"
)

// scoring is a request, what is answered, and the memory for both.
type scoring struct {
	*http1.Request
	path   string // in the form that paths are compared in
	id     string
	header []http1.Field // of the answer
	body   []byte        // of the request
	chunk  []byte        // of the answer

	status int
	length int64 // of the answer, as far as it was sent
	stream bool
}

// Serve implements http1.Handler.
func (h *inferHandler) Serve(ctx context.Context, r *http1.Request) {
	s, ok := h.scorings.Get().(*scoring)
	if !ok {
		s = &scoring{chunk: make([]byte, chunkBytes)}
	}
	s.Request = r
	if s.path, ok = route.Clean(r.Path); !ok {
		s.path = ""
	}
	h.route(ctx, s)
	if cap(s.body) > keptBody {
		s.body = nil
	}
	clear(s.header)
	*s = scoring{header: s.header[:0], body: s.body[:0], chunk: s.chunk}
	h.scorings.Put(s)
}

func (h *inferHandler) route(ctx context.Context, s *scoring) {
	switch s.path {
	case "/":
		h.health(s)
	case "/score":
		h.serve(ctx, s, http.MethodGet, http.MethodPost, http.MethodOptions, http.MethodHead)
	case "/swagger.json":
		h.serve(ctx, s, http.MethodGet, http.MethodHead)
	default:
		if h.mlflow && h.serveMLflow(ctx, s) || h.protocol && h.serveProtocol(ctx, s) {
			return
		}
		s.message(http.StatusNotFound, "The requested URL was not found on the server. "+
			"If you entered the URL manually please check your spelling and try again.")
	}
}

// serve hands a request to a worker and, where that is asked for, writes its access line.
func (h *inferHandler) serve(ctx context.Context, s *scoring, methods ...string) {
	if !slices.Contains(methods, s.Method) {
		s.failure(http.StatusMethodNotAllowed, notAllowed)
		return
	}
	if s.id = s.field("x-request-id"); s.id == "" {
		s.id = uuid.NewString()
	}
	h.score(ctx, s)
	if h.access == nil {
		return
	}
	now := time.Now()
	entry := accessEntry{id: s.id, method: s.Method, target: s.target(), status: s.status, took: now.Sub(s.Arrival), length: s.length}
	if s.stream {
		entry.length = -1
	}
	h.access.add(now, entry)
}

// target is what the request line named.
func (s *scoring) target() string {
	if s.Query == "" {
		return s.Path
	}
	return s.Path + "?" + s.Query
}

// field gives the first value of a field of the request; name is in lower case.
func (s *scoring) field(name string) string {
	for _, f := range s.Header {
		if http1.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// set adds a field to the answer.
func (s *scoring) set(name, value string) {
	s.header = append(s.header, http1.Field{Name: name, Value: value})
}

// begin sends the status and the header.
func (s *scoring) begin(status int, length int64, hangUp bool) {
	s.status, s.stream = status, length < 0
	s.Begin(status, s.header, length, hangUp)
}

// write sends bytes of the answer. A caller that hung up learns nothing.
func (s *scoring) write(p []byte) error {
	n, err := s.Write(p)
	s.length += int64(n)
	return err
}

// document answers with a document.
func (s *scoring) document(status int, kind, text string, hangUp bool) {
	s.set("Content-Type", kind)
	s.begin(status, int64(len(text)), hangUp)
	_ = s.write([]byte(text)) // see there
}

// notAllowed is the reference server's text.
const notAllowed = "The method is not allowed for the requested URL."

func (h *inferHandler) health(s *scoring) {
	if s.Method != http.MethodGet && s.Method != http.MethodHead {
		s.message(http.StatusMethodNotAllowed, notAllowed)
		return
	}
	if !h.identified(s) {
		return
	}
	if state := h.instance.current.Load().Status().State; state != inference.StateReady {
		s.message(http.StatusServiceUnavailable, "The instance is "+state.String()+".")
		return
	}
	s.document(http.StatusOK, "text/html; charset=utf-8", "Healthy", false)
}

// identified writes the fields that the answer of a worker would have. False: the request was refused.
func (h *inferHandler) identified(s *scoring) bool {
	if !s.identify() {
		s.message(http.StatusRequestHeaderFieldsTooLarge, "A request id must not exceed 100 characters")
		return false
	}
	if h.version != "" {
		s.set("X-Ms-Server-Version", h.version)
	}
	return true
}

// maxID is the longest request id, in characters, that the reference server takes.
const maxID = 100

// identify writes the ids of a request into the answer's header, as a worker does for the routes that it serves. False:
// one is too long.
func (s *scoring) identify() bool {
	id := s.field("x-request-id")
	if id == "" {
		id = uuid.NewString()
	}
	legacy, client := s.field("x-ms-request-id"), s.field("x-ms-client-request-id")
	if client == "" {
		client = legacy
	}
	if legacy == "" {
		legacy = client
	}
	if max(len(id), len(legacy), len(client)) > maxID {
		return false
	}
	if legacy == "" {
		legacy = id
	}
	s.set("X-Request-Id", id)
	s.set("X-Ms-Request-Id", legacy)
	for _, f := range []http1.Field{{Name: "X-Ms-Client-Request-Id", Value: client}, {Name: "TraceId", Value: s.field("traceid")}} {
		if f.Value != "" {
			s.set(f.Name, f.Value)
		}
	}
	return true
}

// do calls the instance; a pool that a reload has replaced meanwhile sends the call on to its successor.
func (h *inferHandler) do(ctx context.Context, call *inference.Call) (*inference.Answer, error) {
	for {
		pool := h.instance.current.Load()
		answer, err := pool.Do(ctx, call)
		if !errors.Is(err, inference.ErrClosed) || h.instance.current.Load() == pool {
			return answer, err
		}
	}
}

func (h *inferHandler) score(ctx context.Context, s *scoring) {
	deadline := s.Arrival.Add(h.limit(s))
	if !h.readBody(ctx, s, deadline) {
		return
	}
	call := inference.Call{
		ID: s.id, ClientID: s.field("x-ms-client-request-id"), Method: s.Method,
		Path: s.path, Query: s.Query, Host: s.Host, Header: endToEnd(s.Header), Body: s.body, Deadline: deadline,
	}
	answer, err := h.do(ctx, &call)
	if err != nil {
		h.refuse(ctx, s, err)
		return
	}
	defer answer.Body.Close()
	s.header = append(s.header, answer.Header...)
	s.begin(answer.Status, answer.ContentLength, false)
	if err := s.pass(answer); err != nil {
		h.log.Debug("an answer was broken off", "request_id", call.ID, "error", err)
		s.Abort()
	}
}

// limit is how long the request may take: what its sender says, within what is configured.
func (h *inferHandler) limit(s *scoring) time.Duration {
	ms, err := strconv.ParseInt(s.field(headerDeadline), 10, 64)
	if err != nil || ms < 0 || ms > h.timeout.Milliseconds() {
		return h.timeout
	}
	return time.Duration(ms) * time.Millisecond
}

// Memory of a request.
const (
	keptBody     = 64 << 10 // bytes of a body's buffer that are kept for the next request
	trustedBytes = 1 << 20  // of an announced body that memory is set aside for at once
	chunkBytes   = 32 << 10 // in which answers are copied
)

// readBody reads the whole body. False: there is none to go on with, and the caller has been told.
func (h *inferHandler) readBody(ctx context.Context, s *scoring, deadline time.Time) bool {
	switch {
	case s.Length == 0:
		return true
	case s.Length > h.maxBytes:
		s.tooLarge(h.maxBytes)
		return false
	}
	_ = s.SetReadDeadline(deadline) // it never fails
	var err error
	for s.body = slices.Grow(s.body, int(max(512, min(s.Length, trustedBytes))))[:0]; err == nil && int64(len(s.body)) <= h.maxBytes; {
		if len(s.body) == cap(s.body) {
			s.body = slices.Grow(s.body, 1)
		}
		var n int
		n, err = s.ReadBody(s.body[len(s.body):cap(s.body)])
		s.body = s.body[:len(s.body)+n]
	}
	switch {
	case int64(len(s.body)) > h.maxBytes:
		s.tooLarge(h.maxBytes)
	case errors.Is(err, io.EOF):
		return true
	case ctx.Err() != nil:
		s.Abort() // nobody is there
	default:
		s.hangUp(http.StatusBadRequest, "The body could not be read.")
	}
	return false
}

func (s *scoring) tooLarge(limit int64) {
	s.hangUp(http.StatusRequestEntityTooLarge, fmt.Sprintf("The body is larger than %d bytes.", limit))
}

// refuse writes why the instance gave no answer.
func (h *inferHandler) refuse(ctx context.Context, s *scoring, err error) {
	s.set("X-Request-Id", s.id)
	var lost *inference.LostError
	switch {
	case ctx.Err() != nil:
		s.Abort() // nobody is there
	case errors.Is(err, inference.ErrDeadline):
		s.set(headerNotStarted, "deadline")
		s.failure(http.StatusRequestTimeout, "The request did not finish in time.")
	case errors.Is(err, inference.ErrBusy):
		s.set(headerNotStarted, "busy")
		s.failure(http.StatusServiceUnavailable, "The instance admits no more requests.")
	case errors.Is(err, inference.ErrClosed):
		s.set(headerNotStarted, "closed")
		s.failure(http.StatusServiceUnavailable, "The instance does not take requests now.")
	case errors.As(err, &lost):
		h.log.Warn("a request was lost", "request_id", s.id, "cause", lost.Cause)
		s.set(headerLost, lost.Cause)
		s.failure(http.StatusBadGateway, lost.Cause)
	default:
		h.log.Error("a request failed", "request_id", s.id, "error", err)
		s.failure(http.StatusInternalServerError, "An unexpected internal error occurred. Check the logs for more info.")
	}
}

// endToEnd is the header without what a Connection field names. What belongs to every connection is left out by the pool.
func endToEnd(header []http1.Field) []inference.Field {
	fields := header
	for _, f := range header {
		if !http1.EqualFold(f.Name, "connection") {
			continue
		}
		for name := range strings.SplitSeq(f.Value, ",") {
			name = strings.TrimSpace(name)
			fields = slices.DeleteFunc(slices.Clone(fields), func(f http1.Field) bool { return strings.EqualFold(f.Name, name) })
		}
	}
	return fields
}

// pass copies the body; a stream is flushed as it comes.
func (s *scoring) pass(answer *inference.Answer) error {
	for {
		n, err := answer.Body.Read(s.chunk)
		if n > 0 {
			if err := s.write(s.chunk[:n]); err != nil {
				return err
			}
			if s.stream {
				if err := s.Flush(); err != nil {
					return err
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// failure writes an error in the form of the protocol that the path belongs to.
func (s *scoring) failure(status int, message string) { s.fail(status, s.member(), message, false) }

// hangUp does so when what is left of the request cannot be read, and ends the connection.
func (s *scoring) hangUp(status int, message string) { s.fail(status, s.member(), message, true) }

func (s *scoring) message(status int, message string) { s.fail(status, "message", message, false) }

func (s *scoring) member() string {
	if strings.HasPrefix(s.path, protocolPrefix+"/") {
		return "error"
	}
	return "message"
}

func (s *scoring) fail(status int, member, message string, hangUp bool) {
	s.set("X-Ms-Run-Function-Failed", "False")
	s.document(status, "application/json", errorDocument(member, message), hangUp)
}

func errorDocument(member, message string) string {
	doc, err := json.Marshal(map[string]string{member: message})
	if err != nil {
		panic(err) // a string always has a JSON form
	}
	return string(doc)
}
