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
	"time"

	"github.com/google/uuid"

	"portico/internal/inference"
)

// inferHandler has the routes of the reference inference server. Errors are {"message": ...}, as there.
type inferHandler struct {
	instance *generations
	mlflow   bool       // MLflow's own routes are served too
	protocol bool       // the Open Inference Protocol is served below /v2
	access   *accessLog // nil: none
	timeout  time.Duration
	maxBytes int64
	log      *slog.Logger
}

// Fields by which inference.HTTPUpstream learns what a status cannot say.
const (
	headerDeadline   = "x-portico-deadline-ms"
	headerNotStarted = "x-portico-not-started"
	headerLost       = "x-portico-lost"
)

func (h *inferHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/":
		h.health(w, r)
	case "/score":
		h.serve(w, r, http.MethodGet, http.MethodPost, http.MethodOptions, http.MethodHead)
	case "/swagger.json":
		h.serve(w, r, http.MethodGet, http.MethodHead)
	default:
		if h.mlflow && h.serveMLflow(w, r) || h.protocol && h.serveProtocol(w, r) {
			return
		}
		writeMessage(w, http.StatusNotFound, "The requested URL was not found on the server. "+
			"If you entered the URL manually please check your spelling and try again.")
	}
}

// serve hands a request to a worker and, where that is asked for, writes its access line.
func (h *inferHandler) serve(w http.ResponseWriter, r *http.Request, methods ...string) {
	if !slices.Contains(methods, r.Method) {
		writeFailure(w, r, http.StatusMethodNotAllowed, notAllowed)
		return
	}
	id := r.Header.Get("X-Request-Id")
	if id == "" {
		id = uuid.NewString()
	}
	if h.access == nil {
		h.score(w, r, id)
		return
	}
	began := time.Now()
	seen := &seenWriter{ResponseWriter: w}
	defer func() {
		now := time.Now()
		entry := accessEntry{id: id, method: r.Method, target: r.RequestURI, status: seen.status, took: now.Sub(began)}
		if entry.length = seen.length; seen.streamed {
			entry.length = -1
		}
		h.access.add(now, entry)
	}()
	h.score(seen, r, id)
}

// seenWriter remembers what was answered.
type seenWriter struct {
	http.ResponseWriter
	status   int
	length   int64
	streamed bool
}

// WriteHeader implements http.ResponseWriter.
func (s *seenWriter) WriteHeader(status int) {
	s.status, s.streamed = status, s.Header().Get("Content-Length") == ""
	s.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (s *seenWriter) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p)
	s.length += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (s *seenWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// notAllowed is the reference server's text.
const notAllowed = "The method is not allowed for the requested URL."

func (h *inferHandler) health(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		writeMessage(w, http.StatusMethodNotAllowed, notAllowed)
		return
	}
	if !identify(w.Header(), r.Header) {
		writeMessage(w, http.StatusRequestHeaderFieldsTooLarge, "A request id must not exceed 100 characters")
		return
	}
	if state := h.instance.current.Load().Status().State; state != inference.StateReady {
		writeMessage(w, http.StatusServiceUnavailable, "The instance is "+state.String()+".")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = io.WriteString(w, "Healthy") // a prober that hung up learns nothing
}

// maxID is the longest request id, in characters, that the reference server takes.
const maxID = 100

// identify writes the ids of a request into the answer's header, as a worker does for the routes that it serves. False:
// one is too long.
func identify(answer, request http.Header) bool {
	id := request.Get("X-Request-Id")
	if id == "" {
		id = uuid.NewString()
	}
	legacy, client := request.Get("X-Ms-Request-Id"), request.Get("X-Ms-Client-Request-Id")
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
	answer.Set("X-Request-Id", id)
	answer.Set("X-Ms-Request-Id", legacy)
	for name, value := range map[string]string{
		"X-Ms-Client-Request-Id": client, "TraceId": request.Get("TraceId"),
	} {
		if value != "" {
			answer.Set(name, value)
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

func (h *inferHandler) score(w http.ResponseWriter, r *http.Request, id string) {
	deadline := time.Now().Add(h.limit(r))
	body, ok := h.readBody(w, r, deadline)
	if !ok {
		return
	}
	call := inference.Call{
		ID: id, ClientID: r.Header.Get("X-Ms-Client-Request-Id"), Method: r.Method,
		Path: r.URL.EscapedPath(), Query: r.URL.RawQuery, Header: endToEnd(r.Header), Body: body, Deadline: deadline,
	}
	answer, err := h.do(r.Context(), &call)
	if err != nil {
		h.refuse(w, r, err, call.ID)
		return
	}
	defer answer.Body.Close()
	passHeader(w.Header(), answer.Header)
	if answer.ContentLength >= 0 && r.Method != http.MethodHead {
		w.Header().Set("Content-Length", strconv.FormatInt(answer.ContentLength, 10))
	}
	w.WriteHeader(answer.Status)
	if err := pass(w, answer); err != nil {
		h.log.Debug("an answer was broken off", "request_id", call.ID, "error", err)
		panic(http.ErrAbortHandler) // the only way to tell the caller: the connection ends before the body does
	}
}

// passHeader copies an answer's fields. Their names stay as they are: making them uniform would cost more than sending them.
func passHeader(to http.Header, fields []inference.Field) {
	values := make([]string, len(fields)) // one allocation for all
	for i, f := range fields {
		name := f.Name
		// net/http adds these two when they are missing in exactly this form.
		if strings.EqualFold(name, "content-type") {
			name = "Content-Type"
		} else if strings.EqualFold(name, "date") {
			name = "Date"
		}
		if old, ok := to[name]; ok {
			to[name] = append(old, f.Value)
			continue
		}
		values[i] = f.Value
		to[name] = values[i : i+1 : i+1]
	}
}

// limit is how long the request may take: what its sender says, within what is configured.
func (h *inferHandler) limit(r *http.Request) time.Duration {
	ms, err := strconv.ParseInt(r.Header.Get(headerDeadline), 10, 64)
	if err != nil || ms < 0 || ms > h.timeout.Milliseconds() {
		return h.timeout
	}
	return time.Duration(ms) * time.Millisecond
}

func (h *inferHandler) readBody(w http.ResponseWriter, r *http.Request, deadline time.Time) ([]byte, bool) {
	_ = http.NewResponseController(w).SetReadDeadline(deadline) // not every ResponseWriter can; then the body is trusted
	reader := http.MaxBytesReader(w, r.Body, h.maxBytes)
	body, err := io.ReadAll(reader)
	var large *http.MaxBytesError
	switch {
	case err == nil:
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // likewise
		return body, true
	case errors.As(err, &large):
		writeFailure(w, r, http.StatusRequestEntityTooLarge, fmt.Sprintf("The body is larger than %d bytes.", h.maxBytes))
	default:
		writeFailure(w, r, http.StatusBadRequest, "The body could not be read.")
	}
	return nil, false
}

// refuse writes why the instance gave no answer.
func (h *inferHandler) refuse(w http.ResponseWriter, r *http.Request, err error, id string) {
	w.Header().Set("X-Request-Id", id)
	var lost *inference.LostError
	switch {
	case errors.Is(err, context.Canceled):
		panic(http.ErrAbortHandler) // nobody is there
	case errors.Is(err, inference.ErrDeadline):
		w.Header().Set(headerNotStarted, "deadline")
		writeFailure(w, r, http.StatusRequestTimeout, "The request did not finish in time.")
	case errors.Is(err, inference.ErrBusy):
		w.Header().Set(headerNotStarted, "busy")
		writeFailure(w, r, http.StatusServiceUnavailable, "The instance admits no more requests.")
	case errors.Is(err, inference.ErrClosed):
		w.Header().Set(headerNotStarted, "closed")
		writeFailure(w, r, http.StatusServiceUnavailable, "The instance does not take requests now.")
	case errors.As(err, &lost):
		h.log.Warn("a request was lost", "request_id", id, "cause", lost.Cause)
		w.Header().Set(headerLost, strings.Map(oneLine, lost.Cause))
		writeFailure(w, r, http.StatusBadGateway, lost.Cause)
	default:
		h.log.Error("a request failed", "request_id", id, "error", err)
		const text = "An unexpected internal error occurred. Check the logs for more info."
		writeFailure(w, r, http.StatusInternalServerError, text)
	}
}

// oneLine keeps a header field in one line.
func oneLine(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}

// endToEnd is the header without what belongs to the connection.
func endToEnd(header http.Header) []inference.Field {
	named := make(map[string]bool)
	for _, value := range header.Values("Connection") {
		for name := range strings.SplitSeq(value, ",") {
			named[http.CanonicalHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	fields := make([]inference.Field, 0, len(header))
	for name, values := range header {
		if named[name] {
			continue
		}
		for _, value := range values {
			fields = append(fields, inference.Field{Name: name, Value: value})
		}
	}
	return fields
}

// pass copies the body; a stream is flushed as it comes.
func pass(w http.ResponseWriter, answer *inference.Answer) error {
	if answer.ContentLength >= 0 {
		_, err := io.Copy(w, answer.Body)
		return err
	}
	controller := http.NewResponseController(w)
	buffer := make([]byte, 32<<10)
	for {
		n, err := answer.Body.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
			if err := controller.Flush(); err != nil {
				return err
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

// writeFailure writes an error in the form of the protocol that the path belongs to.
func writeFailure(w http.ResponseWriter, r *http.Request, status int, message string) {
	member := "message"
	if strings.HasPrefix(r.URL.Path, protocolPrefix+"/") {
		member = "error"
	}
	writeError(w, status, member, message)
}

func writeMessage(w http.ResponseWriter, status int, message string) {
	writeError(w, status, "message", message)
}

func writeError(w http.ResponseWriter, status int, member, message string) {
	doc, err := json.Marshal(map[string]string{member: message})
	if err != nil { // a string always has a JSON form
		status, doc = http.StatusInternalServerError, []byte("{}")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Ms-Run-Function-Failed", "False")
	w.Header().Set("Content-Length", strconv.Itoa(len(doc)))
	w.WriteHeader(status)
	_, _ = w.Write(doc) // a caller that hung up learns nothing
}
