package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func openAuthority(t *testing.T, dir string, v *Vault, now time.Time) *Authority {
	t.Helper()
	a, err := OpenAuthority(dir, v, now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newAuthority(t *testing.T, now time.Time) (*Authority, *Vault, string) {
	t.Helper()
	dir := t.TempDir()
	v := openVault(t, filepath.Join(dir, "master.key"))
	pki := filepath.Join(dir, "pki")
	return openAuthority(t, pki, v, now), v, pki
}

func serverCertificate(t *testing.T, a *Authority, names []string, now time.Time) tls.Certificate {
	t.Helper()
	c, err := a.ServerCertificate(names, now)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serveTLS answers HTTPS requests until the test ends.
func serveTLS(t *testing.T, cert tls.Certificate) (port int) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello") // a client that hung up is its own test's failure
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

func TestGoClient(t *testing.T) {
	now := time.Now()
	a, _, _ := newAuthority(t, now)
	port := serveTLS(t, serverCertificate(t, a, []string{"localhost", "127.0.0.1", "::1"}, now))
	text, err := os.ReadFile(a.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatal("the CA file holds no certificate")
	}
	for _, c := range []struct {
		host string
		pool *x509.CertPool
		ok   bool
	}{{"127.0.0.1", pool, true}, {"localhost", pool, true}, {"127.0.0.1", x509.NewCertPool(), false}} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.pool, MinVersion: tls.VersionTLS12,
			ServerName: c.host}, DisableKeepAlives: true}}
		resp, err := client.Get("https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			_ = resp.Body.Close()
		}
		if (err == nil) != c.ok {
			t.Errorf("client of %s: %v, want success %v", c.host, err, c.ok)
		}
	}
}

const strictClient = `
import socket, ssl, sys
cafile, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
context = ssl.create_default_context(cafile=cafile)
context.verify_flags |= ssl.VERIFY_X509_STRICT
with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
    with context.wrap_socket(plain, server_hostname=host) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
        sys.stdout.buffer.write(b"".join(iter(lambda: sock.recv(4096), b"")))
`

// The official SDKs are Python, whose newest versions verify strictly (RFC 5280) by default.
func TestPythonStrictClient(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here")
	}
	now := time.Now()
	a, v, _ := newAuthority(t, now)
	port := serveTLS(t, serverCertificate(t, a, []string{"localhost", "127.0.0.1", "scoring.example.com", "*.example.com"}, now))
	other := openAuthority(t, filepath.Join(t.TempDir(), "other"), v, now)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, c := range []struct {
		ca, host string
		ok       bool
	}{
		{a.CAFile(), "127.0.0.1", true}, {a.CAFile(), "localhost", true}, {a.CAFile(), "blue.example.com", true},
		{a.CAFile(), "example.org", false}, {other.CAFile(), "localhost", false},
	} {
		out, err := exec.CommandContext(ctx, python, "-c", strictClient, c.ca, c.host, strconv.Itoa(port)).CombinedOutput()
		if ok := err == nil && bytes.HasSuffix(out, []byte("hello")); ok != c.ok {
			t.Errorf("client of %s with %s: success %v, want %v\n%s", c.host, filepath.Base(filepath.Dir(c.ca)), ok, c.ok, out)
		}
		if !c.ok && !strings.Contains(string(out), "CERTIFICATE_VERIFY_FAILED") {
			t.Errorf("client of %s failed for another reason than verification:\n%s", c.host, out)
		}
	}
}

func TestAuthorityCertificate(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	a, v, dir := newAuthority(t, now)
	text, err := os.ReadFile(a.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil || len(bytes.TrimSpace(rest)) != 0 {
		t.Fatal("the CA file is one certificate")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !ca.IsCA || !ca.MaxPathLenZero || ca.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(ca.SubjectKeyId) == 0 ||
		!bytes.Equal(ca.SubjectKeyId, ca.AuthorityKeyId) || ca.NotAfter.Before(now.AddDate(10, 0, -1)) || !ca.NotBefore.Before(now.Add(-time.Hour)) {
		t.Errorf("the CA certificate is %+v", ca)
	}
	leaf := serverCertificate(t, a, []string{"localhost"}, now).Leaf
	if leaf.IsCA || !leaf.BasicConstraintsValid || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.SubjectKeyId) == 0 ||
		!bytes.Equal(leaf.AuthorityKeyId, ca.SubjectKeyId) || len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
		t.Errorf("the server certificate is %+v", leaf)
	}
	if again := openAuthority(t, dir, v, now); !again.cert.Equal(a.cert) || again.CAFile() != a.CAFile() {
		t.Error("the authority is another one after a restart")
	}
	for name, want := range map[string]os.FileMode{"": os.ModeDir | 0o755, caFile: 0o644, caKeyFile: 0o600, serverFile: 0o644, serverKeyFile: 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != want {
			t.Errorf("%q has mode %v, want %v (%v)", name, info.Mode(), want, err)
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := a.key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{caFile, caKeyFile, serverFile, serverKeyFile} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, der) || bytes.Contains(text, scalar) || bytes.Contains(text, []byte("PRIVATE KEY")) {
			t.Errorf("%s holds a private key in clear", name)
		}
	}
}

func TestServerCertificateIsKeptOrRenewed(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	a, v, dir := newAuthority(t, now)
	names := []string{"localhost", "127.0.0.1", "::1"}
	first := serverCertificate(t, a, names, now).Leaf
	for name, c := range map[string]struct {
		names []string
		at    time.Time
		kept  bool
	}{
		"same":               {names, now.Add(time.Hour), true},
		"another order":      {[]string{"::1", "LOCALHOST", "127.0.0.1", "localhost"}, now.Add(time.Hour), true},
		"a month of leeway":  {names, first.NotAfter.Add(-renewBefore - time.Minute), true},
		"less than a month":  {names, first.NotAfter.Add(-renewBefore + time.Minute), false},
		"expired":            {names, first.NotAfter.Add(time.Hour), false},
		"clock far behind":   {names, now.Add(-48 * time.Hour), false},
		"clock an hour back": {names, now.Add(-time.Hour), true},
		"one name more":      {append([]string{"host"}, names...), now, false},
		"one address less":   {names[:2], now, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir2 := filepath.Join(t.TempDir(), "pki")
			if err := os.CopyFS(dir2, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			b := openAuthority(t, dir2, v, now)
			got := serverCertificate(t, b, c.names, c.at)
			if kept := got.Leaf.SerialNumber.Cmp(first.SerialNumber) == 0; kept != c.kept {
				t.Errorf("kept: %v, want %v", kept, c.kept)
			}
			next := serverCertificate(t, openAuthority(t, dir2, v, now), c.names, c.at)
			if next.Leaf.SerialNumber.Cmp(got.Leaf.SerialNumber) != 0 {
				t.Error("what was issued is kept for the next start")
			}
			pool := x509.NewCertPool()
			pool.AddCert(a.cert)
			if c.at.Before(a.cert.NotBefore) {
				return // nor is the authority valid by that clock
			}
			if _, err := got.Leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: c.at, DNSName: "localhost"}); err != nil {
				t.Errorf("verify: %v", err)
			}
		})
	}
	if err := os.WriteFile(filepath.Join(dir, serverKeyFile), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serverCertificate(t, a, names, now).Leaf; got.SerialNumber.Cmp(first.SerialNumber) == 0 {
		t.Error("a certificate whose key does not open was kept")
	}
}

func TestServerNames(t *testing.T) {
	now := time.Now()
	a, _, _ := newAuthority(t, now)
	for _, names := range [][]string{nil, {""}, {"a b"}, {"-a"}, {"a..b"}, {"https://x"}, {"x:80"}, {strings.Repeat("a.", 130) + "a"}, make([]string, maxNames+1)} {
		if _, err := a.ServerCertificate(names, now); err == nil {
			t.Errorf("names %.40q were taken", fmt.Sprint(names))
		}
	}
}

func TestBrokenAuthority(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		harm func(dir string) error
		now  time.Time
		want string
	}{
		"no key":                     {func(d string) error { return os.Remove(filepath.Join(d, caKeyFile)) }, now, "key cannot be used"},
		"damaged key":                {func(d string) error { return os.WriteFile(filepath.Join(d, caKeyFile), []byte("x"), 0o600) }, now, "key cannot be used"},
		"no certificate in the file": {func(d string) error { return os.WriteFile(filepath.Join(d, caFile), []byte("x"), 0o600) }, now, "not a certificate"},
		"expired":                    {func(string) error { return nil }, now.AddDate(11, 0, 0), "expired"},
	} {
		_, v, dir := newAuthority(t, now)
		if err := c.harm(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenAuthority(dir, v, c.now); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error that says %q", name, err, c.want)
		}
	}
	// A first start that was cut short between key and certificate begins anew.
	_, v, dir := newAuthority(t, now)
	if err := os.Remove(filepath.Join(dir, caFile)); err != nil {
		t.Fatal(err)
	}
	serverCertificate(t, openAuthority(t, dir, v, now), []string{"localhost"}, now)
	if _, err := OpenAuthority(dir, openVault(t, filepath.Join(t.TempDir(), "other.key")), now); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("another master key: %v", err)
	}
}
