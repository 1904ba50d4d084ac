package http1_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"portico/internal/testkit"
)

// secureCaller is one that speaks TLS.
type secureCaller struct {
	*tls.Conn
	far *far
}

// far is the caller's end of a connection, whose writes can be held back.
type far struct {
	side
	holds bool
	held  bytes.Buffer
}

func (f *far) Write(p []byte) (int, error) {
	if f.holds {
		return f.held.Write(p)
	}
	return f.side.Write(p)
}

// dialTLS opens a connection to a listener of the same server that speaks TLS, which its own Serve has until the test ends.
func (b *bubble) dialTLS() *secureCaller {
	b.t.Helper()
	config, roots := b.certificate()
	l := &scripts{conns: make(chan net.Conn), closed: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- b.server.Serve(l, config) }()
	b.t.Cleanup(func() {
		if err := <-served; err != nil {
			b.t.Error(err)
		}
	})
	c := b.pipe()
	f := &far{side: side{Conn: c.out, out: c.to}}
	l.conns <- c.side
	conn := tls.Client(f, &tls.Config{RootCAs: roots, ServerName: "portico"})
	if err := conn.Handshake(); err != nil {
		b.t.Fatal(err)
	}
	return &secureCaller{conn, f}
}

func (b *bubble) certificate() (*tls.Config, *x509.CertPool) {
	b.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"portico"},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		b.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		b.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, SessionTicketsDisabled: true,
	}, roots
}

// TestTLSReadIsInterrupted: the end of a request stops the look for its caller's end in the middle of a record of the next one,
// of which nothing is lost.
func TestTLSReadIsInterrupted(t *testing.T) {
	inBubble(t, paced, func(b *bubble) {
		c := b.dialTLS()
		r := bufio.NewReader(c)
		io.WriteString(c, get("/wait"))
		synctest.Wait()
		c.far.holds = true
		io.WriteString(c, post("abc"))
		record := c.far.held.Bytes()
		c.far.holds = false
		c.far.side.Write(record[:len(record)/2])
		synctest.Wait()
		b.goOn <- struct{}{}
		if a := testkit.ReadAnswer(r, "GET"); a.Status != 200 || a.Body != "" || a.Close {
			t.Errorf("got %+v", a)
		}
		synctest.Wait()
		c.far.side.Write(record[len(record)/2:])
		if a := testkit.ReadAnswer(r, "POST"); a.Status != 200 || a.Body != "abc" || a.Close {
			t.Errorf("got %+v", a)
		}
		go c.Close()
		io.Copy(io.Discard, c.far.Conn)
	})
}

// TestTLSHangUp: a caller who closes a connection that speaks TLS is noticed.
func TestTLSHangUp(t *testing.T) {
	inBubble(t, paced, func(b *bubble) {
		c := b.dialTLS()
		io.WriteString(c, get("/wait"))
		time.Sleep(time.Hour)
		c.CloseWrite()
		if a := testkit.ReadAnswer(bufio.NewReader(c), "GET"); a.Status != 499 {
			t.Errorf("got %+v", a)
		}
		io.Copy(io.Discard, c.far.Conn)
	})
}

// TestTLSCutOff: who is cut off is not said goodbye to, which he might not take.
func TestTLSCutOff(t *testing.T) {
	inBubble(t, paced, func(b *bubble) {
		io.WriteString(b.dialTLS(), get("/wait"))
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		begun := time.Now()
		if err := b.server.Drain(ctx); !errors.Is(err, context.Canceled) || time.Since(begun) != 0 {
			t.Errorf("got %v after %v", err, time.Since(begun))
		}
	})
}
