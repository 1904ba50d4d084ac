package server

import (
	"errors"
	"net"
	"testing"

	"portico/internal/http1"
)

// TestBounded: as many connections as there are places are accepted; one more is when one has closed, however often it did.
func TestBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := bound(l)
	inner, ok := b.(*bounded)
	if want := min(maxConnections, http1.Descriptors()/4); !ok || cap(inner.places) != want {
		t.Fatalf("%d places, want %d", cap(inner.places), want)
	}
	inner.places = make(chan struct{}, 2)
	accepted := make(chan net.Conn)
	ended := make(chan error, 1)
	go func() {
		for {
			conn, err := b.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- conn
		}
	}()
	var callers, taken []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		callers = append(callers, conn)
	}
	for range 2 {
		taken = append(taken, <-accepted)
	}
	select {
	case <-accepted:
		t.Error("a third connection was accepted")
	default:
	}
	for range 2 {
		_ = taken[0].Close() // the second time there is nothing to close, and no place to give back
	}
	third := <-accepted
	if got, want := third.RemoteAddr().String(), callers[2].LocalAddr().String(); got != want {
		t.Errorf("the third is %s, want %s", got, want)
	}
	if len(inner.places) != 2 {
		t.Errorf("%d places are taken", len(inner.places))
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	_, _ = taken[1].Close(), third.Close()
}
