package intercept

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// passage is a tunnel to a name that is not ours: bytes go through as they are.
type passage struct {
	near, far net.Conn
	early     [2]io.Reader // of near and of far: what to read, with what was read ahead
	idle      time.Duration
	cutOnce   sync.Once
}

// pass opens a tunnel and carries it until both sides are done, nothing moves any more, or Close.
func (p *Proxy) pass(ctx context.Context, c *client, address string) {
	dialing, cancel := context.WithTimeout(ctx, DialTimeout)
	far, early, err := p.dial(dialing, address)
	cancel()
	if err != nil {
		p.cfg.Logger.Debug("cannot pass a tunnel through", "address", address, "error", err)
		c.refuse(http.StatusBadGateway, "cannot reach "+address)
		return
	}
	t := &passage{near: c, far: far, early: [2]io.Reader{c.early, early}, idle: PassIdle}
	if err := c.reply(http.StatusOK, "Connection established", ""); err != nil || !p.keep(t) {
		t.cut()
		return
	}
	t.carry()
	p.mu.Lock()
	delete(p.passed, t)
	p.mu.Unlock()
}

// keep notes an open passage, so that Close can cut it.
func (p *Proxy) keep(t *passage) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.passed[t] = struct{}{}
	}
	return !p.closed
}

// cut ends both sides at once.
func (t *passage) cut() {
	t.cutOnce.Do(func() { _, _ = t.near.Close(), t.far.Close() }) // whatever they say, they are closed
}

// carry copies both ways. The end of one direction is passed on and leaves the other open.
func (t *passage) carry() {
	var both sync.WaitGroup
	both.Go(func() { t.copy(t.far, t.early[0]) })
	both.Go(func() { t.copy(t.near, t.early[1]) })
	both.Wait()
	t.cut()
}

func (t *passage) copy(to net.Conn, from io.Reader) {
	buf := make([]byte, passBuffer)
	for {
		// Traffic in either direction keeps both open: during a download the client says nothing.
		until := time.Now().Add(t.idle)
		_, _ = t.near.SetDeadline(until), t.far.SetDeadline(until) // a closed connection fails at the next step
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				t.cut()
				return
			}
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF) && closeWrite(to) == nil:
		default:
			t.cut()
		}
		return
	}
}

func closeWrite(c net.Conn) error {
	if cl, ok := c.(*client); ok {
		c = cl.Conn
	}
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// dial connects to an address, by way of the server's own proxy where there is one. The reader gives what the
// connection gives, including what was read ahead.
func (p *Proxy) dial(ctx context.Context, address string) (net.Conn, io.Reader, error) {
	via, err := p.upstream(address)
	if err != nil {
		return nil, nil, err
	}
	if via == nil {
		conn, err := p.dialer.DialContext(ctx, "tcp", address)
		return conn, conn, err
	}
	conn, err := p.dialProxy(ctx, via)
	if err != nil {
		return nil, nil, fmt.Errorf("reach the proxy %s: %w", via.Host, err)
	}
	early, err := connectThrough(ctx, conn, via, address)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("CONNECT %s by the proxy %s: %w", address, via.Host, err), conn.Close())
	}
	return conn, early, nil
}

// upstream is the proxy that leads to an address; nil: none. This proxy itself is not one, or a server that was
// started in a shell that `portico env` had set up would ask itself without end.
func (p *Proxy) upstream(address string) (*url.URL, error) {
	if p.cfg.Upstream == nil {
		return nil, nil
	}
	via, err := p.cfg.Upstream(&http.Request{URL: &url.URL{Scheme: "https", Host: address}})
	if err != nil || via == nil {
		return nil, err
	}
	p.mu.Lock()
	own := p.own
	p.mu.Unlock()
	_, ownPort, _ := net.SplitHostPort(own.String()) // the address of a TCP listener always splits
	if loopback(via.Hostname()) && via.Port() == ownPort {
		return nil, nil
	}
	return via, nil
}

func (p *Proxy) dialProxy(ctx context.Context, via *url.URL) (net.Conn, error) {
	switch via.Scheme {
	case "http":
		return p.dialer.DialContext(ctx, "tcp", withPort(via, "80"))
	case "https":
		d := tls.Dialer{NetDialer: &p.dialer, Config: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: via.Hostname()}}
		return d.DialContext(ctx, "tcp", withPort(via, httpsPort))
	}
	return nil, fmt.Errorf("a proxy of the kind %q is not supported", via.Scheme)
}

func withPort(u *url.URL, port string) string {
	if p := u.Port(); p != "" {
		port = p
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// maxProxyAnswer bounds the head of a proxy's answer, in bytes.
const maxProxyAnswer = 64 << 10

// connectThrough asks a proxy for a tunnel.
func connectThrough(ctx context.Context, conn net.Conn, via *url.URL, address string) (io.Reader, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // wakes what waits below
	defer stop()
	ask := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if u := via.User; u != nil {
		password, _ := u.Password()
		ask.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	if err := ask.Write(conn); err != nil {
		return nil, err
	}
	bounded := &io.LimitedReader{R: conn, N: maxProxyAnswer}
	early := bufio.NewReader(bounded)
	answer, err := http.ReadResponse(early, ask) //nolint:bodyclose // what follows the head is the tunnel
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered %s", answer.Status)
	}
	bounded.N = math.MaxInt64
	return early, nil
}
