package vault

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

var interceptNames = []string{"management.azure.com", "portico.blob.core.windows.net", ".local.inference.ml.azure.com"}

func newInterceptor(t *testing.T, now time.Time) (*Interceptor, *Vault) {
	t.Helper()
	dir := t.TempDir()
	v := openVault(t, filepath.Join(dir, "master.key"))
	return openInterceptor(t, filepath.Join(dir, "pki"), v, interceptNames, now), v
}

func openInterceptor(t *testing.T, dir string, v *Vault, names []string, now time.Time) *Interceptor {
	t.Helper()
	i, err := OpenInterceptor(dir, v, names, now)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// published reads the certificates that clients are told to trust.
func published(t *testing.T, i *Interceptor) (pool *x509.CertPool, certs []*x509.Certificate) {
	t.Helper()
	text, err := os.ReadFile(i.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		pool.AddCert(cert)
		certs = append(certs, cert)
	}
	return pool, certs
}

func leafFor(t *testing.T, i *Interceptor, name string, now time.Time) *tls.Certificate {
	t.Helper()
	c, err := i.Certificate(name, now)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestInterceptorNames(t *testing.T) {
	now := time.Now()
	i, _ := newInterceptor(t, now)
	pool, _ := published(t, i)
	for name, good := range map[string]bool{
		"management.azure.com": true, "Management.Azure.COM": true, "portico.blob.core.windows.net": true,
		"iris.local.inference.ml.azure.com": true, "local.inference.ml.azure.com": false,
		"a.b.local.inference.ml.azure.com": false, "x.management.azure.com": false, "azure.com": false,
		"other.blob.core.windows.net": false, "iris.eastus.inference.ml.azure.com": false, "example.com": false,
		"": false, "*.local.inference.ml.azure.com": false, ".local.inference.ml.azure.com": false, "127.0.0.1": false,
		"management.azure.com.": false, "evil\x00.local.inference.ml.azure.com": false,
	} {
		c, err := i.Certificate(name, now)
		if good != (err == nil) || err != nil && !errors.Is(err, ErrNameNotPermitted) {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if good {
			if _, err := c.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool, CurrentTime: now}); err != nil {
				t.Errorf("%q does not verify: %v", name, err)
			}
		}
	}
}

// stolen signs with the authority's key what the authority itself would never sign.
func stolen(t *testing.T, i *Interceptor, now time.Time, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: serial(), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, i.line[0].cert, &i.leafKey.PublicKey, i.line[0].key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: i.leafKey, Leaf: leaf}
}

// TestStolenKeyIsGoodForNothingElse: whoever has the authority's key cannot pass for other names, with Go's verifier
// or with OpenSSL's.
func TestStolenKeyIsGoodForNothingElse(t *testing.T) {
	now := time.Now()
	i, _ := newInterceptor(t, now)
	pool, _ := published(t, i)
	for name, c := range map[string]struct {
		change func(*x509.Certificate)
		host   string
		good   bool
	}{
		"a name of the list": {func(c *x509.Certificate) { c.DNSNames = []string{"management.azure.com"} },
			"management.azure.com", true},
		"another name": {func(c *x509.Certificate) { c.DNSNames = []string{"pypi.org"} }, "pypi.org", false},
		"a sibling": {func(c *x509.Certificate) { c.DNSNames = []string{"graph.azure.com"} }, "graph.azure.com",
			false},
		"one good, one bad": {func(c *x509.Certificate) { c.DNSNames = []string{"management.azure.com", "pypi.org"} },
			"pypi.org", false},
		"a name that ends so": {func(c *x509.Certificate) { c.DNSNames = []string{"evilmanagement.azure.com"} },
			"evilmanagement.azure.com", false},
		"a wildcard above": {func(c *x509.Certificate) { c.DNSNames = []string{"*.azure.com"} }, "management.azure.com",
			false},
		"an IPv4 address": {func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }, "127.0.0.1",
			false},
		"an IPv6 address": {func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv6loopback} }, "::1", false},
		"a client certificate": {func(c *x509.Certificate) {
			c.DNSNames, c.ExtKeyUsage = []string{"management.azure.com"}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}, "management.azure.com", false},
	} {
		t.Run(name, func(t *testing.T) {
			leaf := stolen(t, i, now, c.change)
			_, err := leaf.Leaf.Verify(x509.VerifyOptions{DNSName: c.host, Roots: pool, CurrentTime: now})
			if (err == nil) != c.good {
				t.Errorf("Go: %v", err)
			}
			if err := opensslVerify(t, i.CAFile(), leaf.Leaf, c.host); (err == nil) != c.good {
				t.Errorf("OpenSSL: %v", err)
			}
		})
	}
}

// TestStolenKeyMakesNoAuthority: a certificate that claims to be a further authority, unconstrained, is of no use.
func TestStolenKeyMakesNoAuthority(t *testing.T) {
	now := time.Now()
	i, _ := newInterceptor(t, now)
	pool, _ := published(t, i)
	middle := stolen(t, i, now, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.SubjectKeyId, c.Subject.CommonName = true, x509.KeyUsageCertSign, []byte{1}, "middle"
	})
	end := &x509.Certificate{SerialNumber: serial(), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		DNSNames: []string{"pypi.org"}}
	der, err := x509.CreateCertificate(rand.Reader, end, middle.Leaf, &i.leafKey.PublicKey, i.leafKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	between := x509.NewCertPool()
	between.AddCert(middle.Leaf)
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: "pypi.org", Roots: pool, Intermediates: between,
		CurrentTime: now}); err == nil {
		t.Fatal("a further authority is believed")
	}
}

func opensslVerify(t *testing.T, ca string, leaf *x509.Certificate, host string) error {
	t.Helper()
	tool, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not on this machine")
	}
	file := filepath.Join(t.TempDir(), "leaf.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: leaf.Raw}),
		0o600); err != nil {
		t.Fatal(err)
	}
	check := "-verify_hostname"
	if net.ParseIP(host) != nil {
		check = "-verify_ip"
	}
	out, err := exec.Command(tool, "verify", "-x509_strict", "-purpose", "sslserver", check, host, "-CAfile", ca,
		file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// TestInterceptorCertificate looks at what strict verifiers and readers of certificates look at.
func TestInterceptorCertificate(t *testing.T) {
	now := time.Now()
	i, _ := newInterceptor(t, now)
	_, certs := published(t, i)
	if len(certs) != 1 {
		t.Fatalf("%d authorities at first", len(certs))
	}
	ca := certs[0]
	if !ca.PermittedDNSDomainsCritical || !slices.Equal(ca.PermittedDNSDomains,
		[]string{"management.azure.com", "portico.blob.core.windows.net", "local.inference.ml.azure.com"}) {
		t.Errorf("constraints %v, critical %v", ca.PermittedDNSDomains, ca.PermittedDNSDomainsCritical)
	}
	if valid := ca.NotAfter.Sub(ca.NotBefore); valid > InterceptorValidity {
		t.Errorf("valid for %s", valid)
	}
	if !ca.IsCA || !ca.MaxPathLenZero || len(ca.SubjectKeyId) == 0 {
		t.Error("not the certificate of an authority for servers alone")
	}
	if err := opensslVerify(t, i.CAFile(), leafFor(t, i, "management.azure.com", now).Leaf,
		"management.azure.com"); err != nil {
		t.Error(err)
	}
}

func TestInterceptorFiles(t *testing.T) {
	now := time.Now()
	i, v := newInterceptor(t, now)
	for name, mode := range map[string]os.FileMode{interceptFile: 0o644, interceptStateFile: 0o600} {
		info, err := os.Stat(filepath.Join(i.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(i.line[0].key)
	if err != nil {
		t.Fatal(err)
	}
	secret := der[len(der)/2 : len(der)/2+16]
	files, err := os.ReadDir(i.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(i.dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, secret) || bytes.Contains(text, []byte("PRIVATE KEY")) {
			t.Errorf("%s holds the key in clear", f.Name())
		}
	}
	again := openInterceptor(t, i.dir, v, interceptNames, now.Add(time.Hour))
	if !again.line[0].cert.Equal(i.line[0].cert) {
		t.Error("another authority after a restart")
	}
	other := openVault(t, filepath.Join(t.TempDir(), "other.key"))
	if _, err := OpenInterceptor(i.dir, other, interceptNames, now); err == nil {
		t.Error("opened with another master key")
	}
	moved := openInterceptor(t, i.dir, v, []string{".eastus.inference.ml.azure.com"}, now)
	if moved.line[0].cert.Equal(i.line[0].cert) || len(moved.line) != 1 {
		t.Error("an authority for other names was kept")
	}
	if err := os.Remove(moved.CAFile()); err != nil {
		t.Fatal(err)
	}
	if _, certs := published(t, openInterceptor(t, i.dir, v, []string{".eastus.inference.ml.azure.com"},
		now)); !certs[0].Equal(moved.line[0].cert) {
		t.Error("the public file was not written again")
	}
}

// TestInterceptorLine walks through three months: whoever read the file verifies what is signed ten days later, no
// authority is used beyond its end, and no key signs for longer than 30 days.
func TestInterceptorLine(t *testing.T) {
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	i, v := newInterceptor(t, start)
	type reading struct {
		at   time.Time
		pool *x509.CertPool
	}
	var readings []reading
	signers := map[string]time.Time{}
	const step = 12 * time.Hour
	for now := start; now.Before(start.AddDate(0, 3, 0)); now = now.Add(step) {
		if now.Hour() == 0 { // a restart changes nothing
			i = openInterceptor(t, i.dir, v, interceptNames, now)
		}
		if _, err := i.Renew(now); err != nil {
			t.Fatal(err)
		}
		leaf := leafFor(t, i, "management.azure.com", now).Leaf
		pool, certs := published(t, i)
		if len(certs) > 2 {
			t.Fatalf("%d authorities on %s", len(certs), now)
		}
		readings = append(readings, reading{now, pool})
		for _, r := range readings {
			if now.Sub(r.at) > announceBefore-switchBefore {
				continue
			}
			if _, err := leaf.Verify(x509.VerifyOptions{DNSName: "management.azure.com", Roots: r.pool,
				CurrentTime: now}); err != nil {
				t.Fatalf("read on %s, used on %s: %v", r.at, now, err)
			}
		}
		id := string(leaf.AuthorityKeyId)
		if signers[id].IsZero() {
			signers[id] = now
		}
		if now.Sub(signers[id]) > InterceptorValidity {
			t.Fatalf("one key signs since %s on %s", signers[id], now)
		}
	}
	if len(signers) < 4 {
		t.Errorf("%d keys in three months", len(signers))
	}
}

// TestInterceptorAfterLongStop: an authority that ended while nothing ran is replaced, and so is one from the future.
func TestInterceptorAfterLongStop(t *testing.T) {
	now := time.Now()
	i, v := newInterceptor(t, now)
	for _, later := range []time.Duration{60 * 24 * time.Hour, 3 * time.Hour} {
		at := now.Add(later)
		again := openInterceptor(t, i.dir, v, interceptNames, at)
		pool, _ := published(t, again)
		if _, err := leafFor(t, again, "management.azure.com", at).Leaf.Verify(x509.VerifyOptions{Roots: pool,
			CurrentTime: at}); err != nil {
			t.Errorf("after %s: %v", later, err)
		}
	}
}

func TestInterceptorLeavesAreBounded(t *testing.T) {
	now := time.Now()
	i, _ := newInterceptor(t, now)
	first := leafFor(t, i, "management.azure.com", now)
	if leafFor(t, i, "management.azure.com", now.Add(time.Hour)) != first {
		t.Error("a certificate that is good was made again")
	}
	for n := range 2 * maxLeaves {
		leafFor(t, i, fmt.Sprintf("e%d.local.inference.ml.azure.com", n), now)
		if len(i.leaves) > maxLeaves {
			t.Fatalf("%d certificates are kept", len(i.leaves))
		}
	}
	old := leafFor(t, i, "management.azure.com", now)
	if fresh := leafFor(t, i, "management.azure.com", now.Add(leafValidity)); fresh == old ||
		!fresh.Leaf.NotAfter.After(old.Leaf.NotAfter) {
		t.Error("an old certificate was not renewed")
	}
}

// TestInterceptorServesPython: the ssl module of Python's standard library, in its strict mode, accepts a permitted
// name and refuses another.
func TestInterceptorServesPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not on this machine")
	}
	now := time.Now()
	i, _ := newInterceptor(t, now)
	for host, c := range map[string]struct {
		cert tls.Certificate
		good bool
	}{
		"management.azure.com": {*leafFor(t, i, "management.azure.com", now), true},
		"pypi.org":             {stolen(t, i, now, func(c *x509.Certificate) { c.DNSNames = []string{"pypi.org"} }), false},
	} {
		port := serveTLS(t, c.cert)
		script := `import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
context.verify_flags |= ssl.VERIFY_X509_STRICT
with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as raw, context.wrap_socket(raw, server_hostname=sys.argv[3]) as s:
    s.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert b"hello" in b"".join(iter(lambda: s.recv(4096), b""))
`
		out, err := exec.Command(python, "-c", script, i.CAFile(), fmt.Sprint(port), host).CombinedOutput()
		if (err == nil) != c.good {
			t.Errorf("%s: %v: %s", host, err, out)
		}
		if err != nil && !bytes.Contains(out, []byte("permitted subtree violation")) {
			t.Errorf("%s was refused for another reason: %s", host, out)
		}
	}
}

// TestInterceptorServesGo is a whole handshake and request.
func TestInterceptorServesGo(t *testing.T) {
	now := time.Now()
	i, _ := newInterceptor(t, now)
	pool, _ := published(t, i)
	port := serveTLS(t, *leafFor(t, i, "iris.local.inference.ml.azure.com", now))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool,
		ServerName: "iris.local.inference.ml.azure.com"}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/", port))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "hello" {
		t.Errorf("%q, %v", text, err)
	}
}
