package intercept

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bounds of the proxy.
const (
	MaxTunnels     = 512              // open at one time; more are answered 503
	HeaderTimeout  = 10 * time.Second // a CONNECT and its header
	IdleTimeout    = 30 * time.Second // between a connection and its CONNECT
	MaxHeaderBytes = 8 << 10
	DialTimeout    = 15 * time.Second // to a name that is passed through, or to the proxy that leads there
	PassIdle       = 5 * time.Minute  // a passed tunnel ends when nothing moves for so long
	replyTimeout   = 10 * time.Second // to hand the answer to a CONNECT to the client
	passBuffer     = 32 << 10         // bytes of each direction of a passed tunnel
	httpsPort      = "443"
)

// Config of a Proxy.
type Config struct {
	Names Names
	// Certificate gives the certificate of one of the Names.
	Certificate func(host string) (*tls.Certificate, error)
	// Passthrough tunnels other names untouched instead of refusing them.
	Passthrough bool
	// Upstream names the proxy that leads to a URL, as http.ProxyFromEnvironment does; nil: always direct.
	Upstream func(*http.Request) (*url.URL, error)
	Logger   *slog.Logger
}

// Proxy answers CONNECT. Make one with New, and give each Door's Listener to a server.
type Proxy struct {
	cfg    Config
	doors  [doors]*door
	places chan struct{} // one for each tunnel
	server http.Server
	stop   context.CancelFunc // ends what handlers wait for
	dialer net.Dialer

	mu     sync.Mutex
	own    net.Addr              // of the listener
	passed map[*passage]struct{} // open tunnels to other names
	closed bool
	active sync.WaitGroup // handlers that have taken over their connection
}

// New makes a proxy.
func New(cfg Config) *Proxy {
	p := &Proxy{cfg: cfg, places: make(chan struct{}, MaxTunnels), passed: map[*passage]struct{}{},
		doors: [doors]*door{Management: newDoor("management"), Scoring: newDoor("scoring")}}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.server = http.Server{Handler: p, ReadHeaderTimeout: HeaderTimeout, IdleTimeout: IdleTimeout,
		MaxHeaderBytes: MaxHeaderBytes, BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug)}
	return p
}

// Listener gives the tunnels of a door, on which TLS has yet to begin with TLS.
func (p *Proxy) Listener(d Door) net.Listener { return p.doors[d] }

// TLS is the configuration for tunnels: each shows the certificate of its name.
func (p *Proxy) TLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: p.certificate}
}

// Serve takes connections from l, which must be on a loopback address, until Close; then it returns nil.
func (p *Proxy) Serve(l net.Listener) error {
	if err := CheckAddress(l.Addr().String()); err != nil {
		return errors.Join(err, l.Close())
	}
	p.mu.Lock()
	p.own = l.Addr()
	p.mu.Unlock()
	if err := p.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve intercepted names: %w", err)
	}
	return nil
}

// CheckAddress refuses an address that other machines could reach: whoever reaches the proxy can use it.
func CheckAddress(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if !loopback(host) {
		return fmt.Errorf("%q is not a loopback address: interception is for clients on this machine only", address)
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// Close stops taking connections and cuts what is passed through. Listeners, and tunnels to the server's own names,
// belong to the servers that took them.
func (p *Proxy) Close() error {
	p.stop()
	err := p.server.Close()
	p.mu.Lock()
	p.closed = true
	for passage := range p.passed {
		passage.cut()
	}
	p.mu.Unlock()
	p.active.Wait()
	return err
}

// enter counts a handler that takes over its connection; false once the proxy is closed.
func (p *Proxy) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.active.Add(1)
	return true
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "This is a proxy for HTTPS: it answers CONNECT and nothing else. Set HTTPS_PROXY to it, not HTTP_PROXY.",
			http.StatusMethodNotAllowed)
		return
	}
	if !p.enter() {
		panic(http.ErrAbortHandler)
	}
	defer p.active.Done()
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		p.cfg.Logger.Error("cannot take over a connection", "error", err)
		panic(http.ErrAbortHandler)
	}
	c := &client{Conn: conn, early: rw.Reader, log: p.cfg.Logger}
	select {
	case p.places <- struct{}{}:
		c.release = sync.OnceFunc(func() { <-p.places })
	default:
		c.release = func() {}
		c.refuse(http.StatusServiceUnavailable, fmt.Sprintf("more than %d tunnels are open", MaxTunnels))
		return
	}
	p.connect(r.Context(), c, r.RequestURI)
}

// client is the connection that a CONNECT came on.
type client struct {
	net.Conn
	early   *bufio.Reader
	release func()
	log     *slog.Logger
}

func (c *client) Close() error {
	c.release()
	return c.Conn.Close()
}

// reply writes an answer's head. The reason is all that most clients show of a refused CONNECT.
func (c *client) reply(status int, reason, rest string) error {
	if err := c.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.Conn, "HTTP/1.1 %d %s\r\n%s\r\n", status, reason, rest)
	return errors.Join(err, c.SetDeadline(time.Time{}))
}

// refuse answers with a reason and ends the connection.
func (c *client) refuse(status int, reason string) {
	text := reason + "\n"
	head := "Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n"
	err := c.reply(status, reason, fmt.Sprintf(head, len(text)))
	if err == nil {
		_, err = io.WriteString(c.Conn, text)
	}
	if err = errors.Join(err, c.Close()); err != nil {
		c.log.Debug("a refusal did not reach its client", "error", err)
	}
}

// connect carries out one CONNECT. It owns the connection.
func (p *Proxy) connect(ctx context.Context, c *client, authority string) {
	host, port, err := net.SplitHostPort(authority)
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if _, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || !validHost(host) {
		c.refuse(http.StatusBadRequest, "CONNECT needs HOST:PORT")
		return
	}
	door, ours := p.cfg.Names.Find(host)
	switch {
	case ours && port == httpsPort:
		p.serve(ctx, c, door, host)
	case ours:
		c.refuse(http.StatusForbidden, host+" is answered on port 443 only")
	case p.cfg.Passthrough:
		p.pass(ctx, c, net.JoinHostPort(host, port))
	default:
		c.refuse(http.StatusForbidden, "Portico does not answer for "+host+
			" and passes nothing through (serve --intercept-passthrough would)")
	}
}

func validHost(host string) bool {
	return len(host) <= maxHost && (hostRule.MatchString(host) || net.ParseIP(host) != nil)
}

// serve hands the connection to the server behind a door.
func (p *Proxy) serve(ctx context.Context, c *client, d Door, host string) {
	err := c.reply(http.StatusOK, "Connection established", "")
	if err == nil {
		err = p.doors[d].hand(ctx, &tunnel{Conn: c.Conn, early: c.early, host: host, release: c.release})
	}
	if err != nil {
		p.cfg.Logger.Debug("an intercepted connection was dropped", "host", host, "error", errors.Join(err, c.Close()))
	}
}
