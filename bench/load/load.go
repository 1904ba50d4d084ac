package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// Config of a run.
type Config struct {
	URL         string // http only
	Header      http.Header
	Body        []byte
	Want        []byte // when set, the body of every answer
	Connections int
	Duration    time.Duration
	Rate        float64 // requests per second over all connections; 0: closed loop
}

// ioTimeout bounds one request; a server that needs longer has failed.
const ioTimeout = 30 * time.Second

// Result of a run. A failed request has no latency.
type Result struct {
	Requests  int // answered with status 200 and the wanted body
	Failures  int
	Failure   error         // the first
	Elapsed   time.Duration // from the first request to the last answer
	Latencies []time.Duration
}

// Rate is answered requests per second.
func (r *Result) Rate() float64 { return float64(r.Requests) / r.Elapsed.Seconds() }

// Percentile gives the latency that the share (0 to 1) of the requests did not exceed.
func (r *Result) Percentile(share float64) time.Duration {
	if len(r.Latencies) == 0 {
		return 0
	}
	return r.Latencies[min(int(share*float64(len(r.Latencies))), len(r.Latencies)-1)]
}

// Run sends requests until the duration has passed or ctx ends.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("parse URL: %w", err)
	}
	if u.Scheme != "http" || cfg.Connections < 1 {
		return nil, errors.New("an http URL and at least one connection are needed")
	}
	request, err := render(u, cfg)
	if err != nil {
		return nil, err
	}
	addr, err := net.ResolveTCPAddr("tcp", u.Host)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", u.Host, err)
	}
	e := engine{addr: addr, request: request, want: cfg.Want}
	return e.run(ctx, cfg)
}

// render makes the bytes of the request, with the help of the standard library, once.
func render(u *url.URL, cfg Config) ([]byte, error) {
	method := http.MethodGet
	if len(cfg.Body) > 0 {
		method = http.MethodPost
	}
	req, err := http.NewRequest(method, u.String(), bytes.NewReader(cfg.Body)) //nolint:noctx // it is only written to memory
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	for name, values := range cfg.Header {
		req.Header[name] = values
	}
	var b bytes.Buffer
	if err := req.Write(&b); err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	return b.Bytes(), nil
}

// pace says when a connection's requests are due: every of-th of a common sequence.
type pace struct {
	start, end time.Time
	step       time.Duration // 0: closed loop
	of         int
}

func newPace(cfg Config, start time.Time) pace {
	p := pace{start: start, end: start.Add(cfg.Duration), of: cfg.Connections}
	if cfg.Rate > 0 {
		p.step = time.Duration(float64(time.Second) / cfg.Rate)
	}
	return p
}

// due is the moment at which the n-th request of connection at is to be sent and from which its latency counts; in a
// closed loop that is now. False when the run is over for the connection.
func (p pace) due(now time.Time, at, n int) (time.Time, bool) {
	due := now
	if p.step > 0 {
		due = p.start.Add(time.Duration(n*p.of+at) * p.step)
	}
	return due, due.Before(p.end) && now.Before(p.end)
}

func (r *Result) finish(start time.Time) *Result {
	r.Elapsed = time.Since(start)
	slices.Sort(r.Latencies)
	return r
}

func (r *Result) fail(err error) {
	r.Failures++
	if r.Failure == nil {
		r.Failure = err
	}
}
