package server

import (
	"net"
	"sync"

	"portico/internal/http1"
)

// maxConnections is how many connections to the management API, or to the identity service, are open at one time.
const maxConnections = 1000

// bounded is a listener with a bound of connections that are open at one time; more wait in the listening socket.
type bounded struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	close  func()
}

// bound gives a listener its bound: maxConnections, or a quarter of the descriptors that the process may have. Callers who
// hold connections open leave enough to the scoring listeners, and for what requests need.
func bound(l net.Listener) net.Listener {
	b := &bounded{Listener: l, closed: make(chan struct{}),
		places: make(chan struct{}, max(1, min(maxConnections, http1.Descriptors()/4)))}
	b.close = sync.OnceFunc(func() { close(b.closed) })
	return b
}

// Accept waits for a place and for a connection.
func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.places <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	conn, err := b.Listener.Accept()
	if err != nil {
		<-b.places
		return nil, err
	}
	return &boundedConn{Conn: conn, leave: sync.OnceFunc(func() { <-b.places })}, nil
}

// Close ends Accept, whatever it waits for.
func (b *bounded) Close() error {
	b.close()
	return b.Listener.Close()
}

type boundedConn struct {
	net.Conn
	leave func()
}

// Close gives the place back.
func (c *boundedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
