package intercept

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// tunnel is a connection that came out of a CONNECT for one of the server's names. TLS has not begun on it yet.
type tunnel struct {
	net.Conn
	early   *bufio.Reader // may hold what the client sent right after its CONNECT
	host    string
	release func()
}

func (t *tunnel) Read(p []byte) (int, error) { return t.early.Read(p) }

func (t *tunnel) Close() error {
	t.release()
	return t.Conn.Close()
}

// handTimeout is how long a server may take to accept a tunnel that was opened for it.
const handTimeout = 10 * time.Second

// errDoorClosed: the server behind the door stops, or does not accept.
var errDoorClosed = errors.New("the server behind the tunnel does not accept")

// door is the listener by which a server takes tunnels.
type door struct {
	name   string
	conns  chan *tunnel
	closed chan struct{}
	once   sync.Once
}

func newDoor(name string) *door {
	return &door{name: name, conns: make(chan *tunnel), closed: make(chan struct{})}
}

// hand waits until the server has taken the tunnel.
func (d *door) hand(ctx context.Context, t *tunnel) error {
	patience := time.NewTimer(handTimeout)
	defer patience.Stop()
	select {
	case d.conns <- t:
		return nil
	case <-d.closed:
	case <-ctx.Done():
	case <-patience.C:
	}
	return errDoorClosed
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	select {
	case t := <-d.conns:
		return t, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (d *door) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

// Addr implements net.Listener.
func (d *door) Addr() net.Addr { return doorAddr(d.name) }

type doorAddr string

func (doorAddr) Network() string  { return "tunnel" }
func (a doorAddr) String() string { return string(a) }

// certificate gives the certificate of the name that the tunnel was opened for. A client that then asks for another
// name is refused, so that one tunnel has one name.
func (p *Proxy) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	t, ok := hello.Conn.(*tunnel)
	if !ok {
		return nil, errors.New("the connection is not a tunnel")
	}
	if hello.ServerName != "" && !strings.EqualFold(hello.ServerName, t.host) {
		return nil, fmt.Errorf("the tunnel is for %s and TLS asks for %.80q", t.host, hello.ServerName)
	}
	return p.cfg.Certificate(t.host)
}

type hostKey struct{}

// ConnContext is for the http.Server behind a door: it lets Host find the tunnel's name.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	if t, ok := c.(*tunnel); ok {
		return context.WithValue(ctx, hostKey{}, t.host)
	}
	return ctx
}

// Host is the name that the tunnel of a request was opened for; empty outside a tunnel.
func Host(ctx context.Context) string {
	host, _ := ctx.Value(hostKey{}).(string)
	return host
}

// OneHost lets through only requests whose Host is their tunnel's name; others are answered 421. The servers behind
// build links from Host, so it must not be free.
func OneHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host := strings.ToLower(strings.TrimSuffix(r.Host, ":443")); host == "" || host != Host(r.Context()) {
			http.Error(w, "the Host of a request must be the name that its tunnel was opened for", http.StatusMisdirectedRequest)
			return
		}
		r.Host = strings.ToLower(strings.TrimSuffix(r.Host, ":443"))
		next.ServeHTTP(w, r)
	})
}
