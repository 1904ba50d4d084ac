package collect

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"portico/internal/artifact"
	"portico/internal/online"
	"portico/internal/telemetry"
)

// Path is where workers send events to: that of the package azureml-ai-monitoring.
const Path = "/modeldata/log"

// Bounds of what user code may add to an event.
const (
	maxAttributes     = 20
	maxAttributeBytes = 1 << 10
	unknownCollection = "(unknown)" // in counts: a worker must not make names in our metrics
	tableWait         = 5 * time.Second
)

// Credential is what the workers of an instance show: a user name that says who they are, and a password that proves it.
// It is derived, so it is the same after a restart of the server.
func (c *Collector) Credential(uid, instance string) (user string, password online.Secret) {
	user = uid + "." + instance
	h := hmac.New(sha256.New, c.cfg.Key)
	h.Write([]byte("portico/collect/1/" + user))
	return user, online.Secret(hex.EncodeToString(h.Sum(nil)))
}

// who finds out which instance sends.
func (c *Collector) who(r *http.Request) (uid, instance string, ok bool) {
	user, password, ok := r.BasicAuth()
	uid, instance, whole := strings.Cut(user, ".")
	_, want := c.Credential(uid, instance)
	ok = ok && whole && hmac.Equal([]byte(password), []byte(want.Reveal()))
	return uid, instance, ok
}

// refused is an answer other than 200.
type refused struct {
	status int
	reason string // one of telemetry's, for events of a known deployment
	text   string
}

func (e *refused) Error() string { return e.text }

// ServeHTTP takes one event: a POST whose header has its attributes, as the package azureml-ai-monitoring sends them.
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := c.receive(r)
	status, text := http.StatusOK, "kept"
	var e *refused
	switch {
	case err == nil:
	case errors.As(err, &e):
		status, text = e.status, e.text
	case errors.Is(err, artifact.ErrFull):
		status, text = http.StatusInsufficientStorage, "the server has no room for collected data"
	default:
		status, text = http.StatusInternalServerError, "the event could not be written; the server's log tells more"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // who does not wait for it has no use for it
}

func (c *Collector) receive(r *http.Request) error {
	if r.Method != http.MethodPost {
		return &refused{http.StatusMethodNotAllowed, "", "events are sent by POST"}
	}
	uid, instance, ok := c.who(r)
	if !ok {
		return &refused{http.StatusUnauthorized, "", "the credential of AZUREML_MDC_HOST is missing or wrong"}
	}
	ctx, cancel := context.WithTimeout(r.Context(), tableWait)
	defer cancel()
	if !c.awaitTargets(ctx) {
		return &refused{http.StatusServiceUnavailable, "", "the server is starting"}
	}
	t := c.find(uid)
	if t == nil {
		return &refused{http.StatusNotFound, "", "the deployment collects nothing"}
	}
	name := strings.TrimPrefix(r.Header.Get("ce-type"), typePrefix)
	one := t.collector.Find(name)
	if one == nil || online.Reserved(name) {
		c.count(t, instance, unknownCollection, telemetry.UncollectedUnknown)
		return &refused{http.StatusNotFound, "", fmt.Sprintf("the deployment has no enabled collection %.64q that code may fill", name)}
	}
	e, err := c.read(t, one, r)
	var bad *refused
	if errors.As(err, &bad) {
		c.count(t, instance, one.Name, bad.reason)
	}
	if err != nil || e == nil {
		return err
	}
	defer c.give(t, e.size)
	return c.keep(t, one, instance, e)
}

// read takes in an event; nil when it is not one of the sample. The caller gives back room for its size.
func (c *Collector) read(t *target, one *online.Collection, r *http.Request) (*event, error) {
	size := r.ContentLength
	switch {
	case size < 0:
		return nil, &refused{http.StatusLengthRequired, telemetry.UncollectedInvalid, "Content-Length is required"}
	case size > MaxEventBytes:
		return nil, &refused{http.StatusRequestEntityTooLarge, telemetry.UncollectedSize,
			fmt.Sprintf("the event has %d bytes; at most %d are taken", size, MaxEventBytes)}
	}
	e := &event{ID: r.Header.Get("trace-id"), DataContentType: r.Header.Get("Content-Type"), Time: stamp(c.cfg.Now()), size: size}
	if err := e.attributes(r.Header); err != nil {
		return nil, err
	}
	// The request's own id, where the sender knows it, keeps together what the gateway captures and what code collects.
	sampled := e.XRequestID
	if sampled == "" {
		sampled = e.CorrelationID
	}
	if !one.Samples(sampled) {
		return nil, nil
	}
	if e.XRequestID == "" {
		e.XRequestID = e.CorrelationID
	}
	if !c.take(t, size) {
		return nil, &refused{http.StatusServiceUnavailable, telemetry.UncollectedQueue, "too much waits to be written"}
	}
	e.content = make([]byte, size)
	if _, err := io.ReadFull(r.Body, e.content); err != nil {
		c.give(t, size)
		return nil, &refused{http.StatusBadRequest, telemetry.UncollectedInvalid, "the event broke off"}
	}
	return e, nil
}

var (
	eventIDRule   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	attributeRule = regexp.MustCompile(`^[a-z0-9]{1,40}$`)
)

// attributes reads the fields that begin with ce-: their names without hyphens are those of the event's attributes.
func (e *event) attributes(h http.Header) error {
	if !eventIDRule.MatchString(e.ID) { // it may become the name of a blob
		e.ID = uuid.NewString()
	}
	known := map[string]*string{"xrequestid": &e.CorrelationID, "modelversion": &e.ModelVersion,
		"collectdatatype": &e.CollectDataType, "agent": &e.Agent}
	e.more = map[string]string{}
	for field, values := range h {
		name, ok := strings.CutPrefix(strings.ToLower(field), "ce-")
		name = strings.ReplaceAll(name, "-", "")
		if !ok || name == "type" || len(values) == 0 {
			continue
		}
		if len(values[0]) > maxAttributeBytes || !attributeRule.MatchString(name) {
			return &refused{http.StatusBadRequest, telemetry.UncollectedInvalid,
				fmt.Sprintf("the attribute %.40q is not valid: letters and digits, and a value of at most %d bytes", name, maxAttributeBytes)}
		}
		switch into := known[name]; {
		case into != nil:
			*into = values[0]
		case name == "time":
			if seconds, err := strconv.ParseInt(values[0], 10, 64); err == nil && seconds > 0 && seconds < 1<<34 {
				e.Time = stamp(time.Unix(seconds, 0))
			}
		default:
			e.more[name] = values[0]
		}
	}
	if len(e.more) > maxAttributes {
		return &refused{http.StatusBadRequest, telemetry.UncollectedInvalid,
			fmt.Sprintf("the event has %d attributes of its own; at most %d are taken", len(e.more), maxAttributes)}
	}
	e.XRequestID = h.Get("x-request-id")
	if len(e.XRequestID) > maxAttributeBytes {
		e.XRequestID = ""
	}
	return nil
}
