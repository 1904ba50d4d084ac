package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"portico/internal/arm"
	"portico/internal/online"
)

// apiVersion is sent with every management request. The server accepts any.
const apiVersion = "2024-04-01"

// Bounds of a management request.
const (
	requestTimeout  = 60 * time.Second // one request and its answer
	connectTimeout  = 10 * time.Second // to the server's answer to the TLS handshake
	maxAnswerBytes  = 64 << 20         // of one management answer
	readAttempts    = 4                // of a GET; changes are sent once
	firstRetryDelay = 200 * time.Millisecond
)

// client speaks the management API of one server.
type client struct {
	place place
	http  *http.Client
	agent string
	warn  func(string) // told what the server says in warning headers
}

// warningHeader tells what the server accepted but does not act on.
const warningHeader = "X-Portico-Warning"

func newClient(p place, version string, warn func(string)) (*client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSHandshakeTimeout = connectTimeout
	t.MaxIdleConnsPerHost = uploadParallel
	if p.CAFile != "" {
		pem, err := os.ReadFile(p.CAFile)
		if err != nil {
			return nil, &unreachableError{msg: fmt.Sprintf("cannot read the server's certificate authority: %v", err),
				cause: err}
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, &unreachableError{msg: p.CAFile + " holds no certificate"}
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &client{place: p, http: &http.Client{Transport: t}, agent: "portico/" + version, warn: warn}, nil
}

// answer is a management answer that was read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a *answer) decode(out any) error {
	if err := json.Unmarshal(a.body, out); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}

// get reads a resource into out.
func (c *client) get(ctx context.Context, path string, query url.Values, out any) (*answer, error) {
	a, err := c.send(ctx, http.MethodGet, path, query, nil, nil)
	if err != nil {
		return nil, err
	}
	return a, a.decode(out)
}

// post sends a command and reads its answer into out.
func (c *client) post(ctx context.Context, path string, body, out any) error {
	a, err := c.send(ctx, http.MethodPost, path, nil, body, nil)
	if err != nil {
		return err
	}
	return a.decode(out)
}

// put writes a resource. etag, when not empty, makes the server refuse if somebody changed it in between.
func (c *client) put(ctx context.Context, path string, body any, etag string) (*answer, error) {
	h := http.Header{}
	if etag != "" {
		h.Set("If-Match", etag)
	}
	return c.send(ctx, http.MethodPut, path, nil, body, h)
}

// list reads every page of a listing.
func list[T any](ctx context.Context, c *client, path string, query url.Values) ([]T, error) {
	all := []T{}
	seen := map[string]bool{}
	for {
		var page arm.Page[T]
		if _, err := c.get(ctx, path, query, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Value...)
		if page.NextLink == nil || *page.NextLink == "" {
			return all, nil
		}
		if seen[*page.NextLink] {
			return nil, fmt.Errorf("the server's listing repeats itself at %s", *page.NextLink)
		}
		seen[*page.NextLink] = true
		path, query = *page.NextLink, nil
	}
}

// send carries out one management request and gives the answer if the server agreed, else its error. path is an ARM
// path or an absolute URL of the same server. A GET is repeated a few times when the server cannot be reached or is
// restarting; a change never is.
func (c *client) send(ctx context.Context, method, path string, query url.Values, body any,
	header http.Header) (*answer, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
	}
	target, err := c.resolve(path, query)
	if err != nil {
		return nil, err
	}
	attempts := 1
	if method == http.MethodGet {
		attempts = readAttempts
	}
	delay := firstRetryDelay
	for attempt := 1; ; attempt++ {
		a, err := c.once(ctx, method, target, text, header)
		if err == nil && a.status < 400 {
			return a, nil
		}
		if err == nil {
			err = serviceError(a)
		}
		if attempt == attempts || ctx.Err() != nil || a != nil && !restarting(a.status) || mistrusted(err) {
			return nil, err
		}
		if err := sleep(ctx, delay); err != nil {
			return nil, err
		}
		delay *= 2
	}
}

// mistrusted says that the server's certificate was refused, which asking again does not change.
func mistrusted(err error) bool {
	var wrong *tls.CertificateVerificationError
	return errors.As(err, &wrong)
}

func restarting(status int) bool {
	return slices.Contains([]int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}, status)
}

// resolve makes the URL of a request. An absolute URL that the server gave keeps its path and query only, so that a
// token never goes to another host.
func (c *client) resolve(path string, query url.Values) (string, error) {
	u, err := url.Parse(path)
	if err != nil {
		return "", fmt.Errorf("read the address %q: %w", path, err)
	}
	base, err := url.Parse(c.place.ManagementURL)
	if err != nil || base.Host == "" {
		return "", usagef("%q is not the URL of a server; it looks like https://HOST:8443", c.place.ManagementURL)
	}
	q := u.Query()
	for k, v := range query {
		q[k] = v
	}
	if q.Get("api-version") == "" {
		q.Set("api-version", apiVersion)
	}
	base.Path, base.RawPath, base.RawQuery = strings.TrimRight(base.Path, "/")+u.Path, "", q.Encode()
	return base.String(), nil
}

func (c *client) once(ctx context.Context, method, target string, body []byte, header http.Header) (*answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, fmt.Errorf("no answer within %s", requestTimeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	usual := map[string]string{"Accept": "application/json", "X-Ms-Client-Request-Id": uuid.NewString()}
	if c.place.Token != "" {
		usual["Authorization"] = "Bearer " + c.place.Token.Reveal()
	}
	if body != nil {
		usual["Content-Type"] = "application/json"
	}
	for k, v := range usual {
		if req.Header.Get(k) == "" {
			req.Header.Set(k, v)
		}
	}
	req.Header.Set("User-Agent", c.agent)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if len(text) > maxAnswerBytes {
		return nil, fmt.Errorf("the server's answer is longer than %d bytes", maxAnswerBytes)
	}
	for _, w := range resp.Header.Values(warningHeader) {
		c.warn(w)
	}
	return &answer{resp.StatusCode, resp.Header, text}, nil
}

// unreachable words the failure to reach the server, with what to do.
func (c *client) unreachable(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return context.Canceled
	}
	var wrong *url.Error
	if errors.As(err, &wrong) {
		err = wrong.Err
	}
	var authority x509.UnknownAuthorityError
	hint := "is it running? `portico serve` starts one"
	if errors.As(err, &authority) {
		hint = "set " + envCAFile + " to the server's pki/ca.pem"
	}
	return &unreachableError{
		msg: fmt.Sprintf("cannot reach the server at %s (from %s): %v; %s", c.place.ManagementURL, c.place.found, err,
			hint),
		cause: err,
	}
}

// serviceError reads an ARM error body.
func serviceError(a *answer) error {
	var body arm.ErrorBody
	if json.Unmarshal(a.body, &body) == nil && body.Error.Code != "" {
		e := domainError(body.Error)
		if id := a.header.Get("X-Ms-Request-Id"); id != "" && a.status >= 500 {
			e.Message += " (request id " + id + ")"
		}
		return e
	}
	code := online.CodeInternalServerError
	switch a.status {
	case http.StatusNotFound:
		code = online.CodeNotFound
	case http.StatusUnauthorized:
		code = online.CodeUnauthorized
	case http.StatusServiceUnavailable:
		code = online.CodeServiceUnavailable
	}
	const most = 300
	text := strings.TrimSpace(string(a.body))
	if len(text) > most {
		text = text[:most] + "..."
	}
	return online.Errorf(code, "", "the server answered %d %s: %s", a.status, http.StatusText(a.status), text)
}

// domainError is the error of the wire as the domain's.
func domainError(d arm.ErrorDetail) *online.Error {
	e := &online.Error{Code: online.Code(d.Code), Message: d.Message, Target: text(d.Target)}
	for _, part := range d.Details {
		e.Details = append(e.Details, *domainError(part))
	}
	return e
}

// notFound says whether the server answered that a resource does not exist.
func notFound(err error) bool { return ExitCode(err) == ExitNotFound }

// retryAfter is the wait that the server asks for, or fallback.
func retryAfter(h http.Header, fallback time.Duration) time.Duration {
	s, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || s < 0 {
		return fallback
	}
	return min(time.Duration(s)*time.Second, maxPollDelay)
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
