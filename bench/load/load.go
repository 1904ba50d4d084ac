package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
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
	parts := make([]Result, cfg.Connections)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range parts {
		wg.Go(func() {
			c := client{addr: u.Host, request: request, want: cfg.Want, result: &parts[i]}
			defer c.hangUp()
			c.run(ctx, pace{start: start, end: start.Add(cfg.Duration), step: step(cfg), at: i, of: cfg.Connections})
		})
	}
	wg.Wait()
	return merge(parts, time.Since(start)), nil
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

func step(cfg Config) time.Duration {
	if cfg.Rate <= 0 {
		return 0
	}
	return time.Duration(float64(time.Second) / cfg.Rate)
}

func merge(parts []Result, elapsed time.Duration) *Result {
	out := &Result{Elapsed: elapsed}
	for i := range parts {
		p := &parts[i]
		out.Requests += p.Requests
		out.Failures += p.Failures
		if out.Failure == nil {
			out.Failure = p.Failure
		}
		out.Latencies = append(out.Latencies, p.Latencies...)
	}
	slices.Sort(out.Latencies)
	return out
}

// pace says when a connection's requests are due: every of-th of a common sequence.
type pace struct {
	start, end time.Time
	step       time.Duration // 0: closed loop
	at, of     int
}

// next waits until the n-th request is due and gives the moment from which its latency counts; false when the run
// is over.
func (p pace) next(ctx context.Context, n int) (time.Time, bool) {
	if p.step == 0 {
		now := time.Now()
		return now, now.Before(p.end) && ctx.Err() == nil
	}
	due := p.start.Add(time.Duration(n*p.of+p.at) * p.step)
	if !due.Before(p.end) {
		return due, false
	}
	if wait := time.Until(due); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return due, false
		}
	}
	return due, time.Now().Before(p.end) && ctx.Err() == nil
}

// client is one connection, opened anew when the server has closed it.
type client struct {
	addr    string
	request []byte
	want    []byte
	result  *Result
	conn    net.Conn
	r       *bufio.Reader
	body    []byte
}

func (c *client) run(ctx context.Context, p pace) {
	for n := 0; ; n++ {
		from, ok := p.next(ctx, n)
		if !ok {
			return
		}
		if err := c.once(ctx); err != nil {
			if ctx.Err() != nil {
				return // the run was called off
			}
			c.result.Failures++
			if c.result.Failure == nil {
				c.result.Failure = err
			}
			c.hangUp()
			continue
		}
		c.result.Requests++
		c.result.Latencies = append(c.result.Latencies, time.Since(from))
	}
}

func (c *client) hangUp() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

func (c *client) once(ctx context.Context) error {
	if c.conn == nil {
		conn, err := (&net.Dialer{Timeout: ioTimeout}).DialContext(ctx, "tcp", c.addr)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		c.conn, c.r = conn, bufio.NewReader(conn)
	}
	if err := c.conn.SetDeadline(time.Now().Add(ioTimeout)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	status, last, err := c.read()
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if last {
		c.hangUp()
	}
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %.200q", status, c.body)
	}
	if c.want != nil && !bytes.Equal(c.body, c.want) {
		return fmt.Errorf("answer %.200q", c.body)
	}
	return nil
}

// read reads one answer into c.body. It understands what the servers under test send: a Content-Length, or the
// end of the connection.
func (c *client) read() (status int, last bool, err error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, false, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return 0, false, fmt.Errorf("status line %.100q", line)
	}
	status = int(line[9]-'0')*100 + int(line[10]-'0')*10 + int(line[11]-'0')
	length := -1
	for {
		line, err = c.r.ReadSlice('\n')
		if err != nil {
			return 0, false, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			length = 0
			for _, d := range value {
				length = length*10 + int(d-'0')
			}
		case bytes.EqualFold(name, []byte("connection")):
			last = bytes.EqualFold(value, []byte("close"))
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			return 0, false, errors.New("the answer is chunked, which is not measured here")
		}
	}
	if length < 0 {
		c.body, err = io.ReadAll(c.r)
		return status, true, err
	}
	if cap(c.body) < length {
		c.body = make([]byte, length)
	}
	c.body = c.body[:length]
	_, err = io.ReadFull(c.r, c.body)
	return status, last, err
}
