package vault

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"portico/internal/durable"
)

const (
	authorityYears = 10
	// serverValidity stays below the 398 days that Apple's and browsers' verifiers accept.
	serverValidity = 397 * 24 * time.Hour
	renewBefore    = 30 * 24 * time.Hour
	// backdate lets clients whose clock is behind accept a certificate that was made just now.
	backdate     = 24 * time.Hour
	maxNames     = 100
	serialBits   = 127
	subjectIDLen = 20 // bytes, as RFC 5280's own methods give
)

// Files of an authority, and the purposes of those that are sealed.
const (
	caFile            = "ca.pem"
	caKeyFile         = "ca.key.sealed"
	serverFile        = "server.pem"
	serverKeyFile     = "server.key.sealed"
	caKeyPurpose      = "pki/ca"
	serverKeyPurpose  = "pki/server"
	certificateBlock  = "CERTIFICATE"
	authorityName     = "Portico local CA"
	organization      = "Portico"
	serverCommonName  = "Portico server"
	publicFileMode    = 0o644
	privateFileMode   = 0o600
	publicFolderMode  = 0o755
	caSuffixByteCount = 4
)

// Authority is a certificate authority for this server alone. Its private keys lie sealed on disk. Safe for
// concurrent use.
type Authority struct {
	dir   string
	vault *Vault
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey

	mu sync.Mutex // one issue at a time
}

// OpenAuthority opens the authority in dir, or makes dir and a new authority (ECDSA P-256, ten years): ca.pem
// for everyone to read, its key sealed beside it.
func OpenAuthority(dir string, v *Vault, now time.Time) (*Authority, error) {
	a := &Authority{dir: dir, vault: v}
	if err := a.open(now); err != nil {
		return nil, fmt.Errorf("open certificate authority %s: %w", dir, err)
	}
	return a, nil
}

func (a *Authority) open(now time.Time) error {
	if err := os.MkdirAll(a.dir, publicFolderMode); err != nil {
		return err
	}
	key, keyErr := a.readKey(caKeyFile, caKeyPurpose)
	cert, certErr := a.readCertificate(caFile)
	switch {
	case errors.Is(certErr, fs.ErrNotExist):
		// The key is written first, so a first start that was cut short has a key and no certificate yet: it
		// begins anew.
		return a.create(now)
	case certErr != nil:
		return certErr
	case keyErr != nil:
		return fmt.Errorf("its key cannot be used (to begin anew, remove the folder; clients then need the new %s): %w",
			caFile, keyErr)
	case !key.PublicKey.Equal(cert.PublicKey):
		return fmt.Errorf("%s and %s do not belong together", caFile, caKeyFile)
	case now.After(cert.NotAfter):
		return fmt.Errorf("it expired on %s: remove the folder to begin anew; clients then need the new %s",
			cert.NotAfter.Format(time.DateOnly), caFile)
	}
	a.cert, a.key = cert, key
	return nil
}

func (a *Authority) create(now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	id, err := subjectID(&key.PublicKey)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		// Two authorities never have one name, so a client that knows an older one does not mix them up.
		Subject: pkix.Name{Organization: []string{organization},
			CommonName: fmt.Sprintf("%s %x", authorityName, id[:caSuffixByteCount])},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.AddDate(authorityYears, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // it signs servers, no further authorities
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SubjectKeyId:          id,
		AuthorityKeyId:        id,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	if err := a.writeKey(caKeyFile, caKeyPurpose, key); err != nil {
		return err
	}
	if err := a.writeCertificate(caFile, der); err != nil {
		return err
	}
	a.key = key
	a.cert, err = x509.ParseCertificate(der)
	return err
}

// CAFile is the path of the authority's certificate (PEM), which clients need to trust the server.
func (a *Authority) CAFile() string { return filepath.Join(a.dir, caFile) }

// ServerCertificate gives a certificate for exactly these DNS names and IP addresses: the one of the last call
// while it covers them and is valid for 30 days more, else a new one, which is kept for the next start.
func (a *Authority) ServerCertificate(names []string, now time.Time) (tls.Certificate, error) {
	dns, ips, err := splitNames(names)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("server certificate: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if kept, ok := a.keptCertificate(dns, ips, now); ok {
		return kept, nil
	}
	issued, err := a.issue(dns, ips, now)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("issue server certificate: %w", err)
	}
	return issued, nil
}

// keptCertificate gives the certificate on disk when it serves. One that cannot be read, or not be opened, is
// replaced: nothing but this server depends on it.
func (a *Authority) keptCertificate(dns []string, ips []net.IP, now time.Time) (tls.Certificate, bool) {
	cert, err := a.readCertificate(serverFile)
	if err != nil {
		return tls.Certificate{}, false
	}
	key, err := a.readKey(serverKeyFile, serverKeyPurpose)
	if err != nil {
		return tls.Certificate{}, false
	}
	sameIP := func(a, b net.IP) bool { return a.Equal(b) }
	serves := key.PublicKey.Equal(cert.PublicKey) && cert.CheckSignatureFrom(a.cert) == nil &&
		now.After(cert.NotBefore) && now.Add(renewBefore).Before(cert.NotAfter) &&
		slices.Equal(cert.DNSNames, dns) && slices.EqualFunc(cert.IPAddresses, ips, sameIP)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, serves
}

func (a *Authority) issue(dns []string, ips []net.IP, now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	id, err := subjectID(&key.PublicKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	end := now.Add(serverValidity)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{Organization: []string{organization}, CommonName: serverCommonName},
		NotBefore:             now.Add(-backdate),
		NotAfter:              end,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		SubjectKeyId:          id,
		DNSNames:              dns,
		IPAddresses:           ips,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	if err := a.writeKey(serverKeyFile, serverKeyPurpose, key); err != nil {
		return tls.Certificate{}, err
	}
	if err := a.writeCertificate(serverFile, der); err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

var dnsRule = regexp.MustCompile(`^(\*\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// splitNames sorts names into DNS names and addresses, each once and in order.
func splitNames(names []string) (dns []string, ips []net.IP, err error) {
	if len(names) == 0 || len(names) > maxNames {
		return nil, nil, fmt.Errorf("%d names are not between 1 and %d", len(names), maxNames)
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			if v4 := ip.To4(); v4 != nil {
				ip = v4
			}
			ips = append(ips, ip)
			continue
		}
		name = strings.ToLower(name)
		const maxDNSName = 253
		if len(name) > maxDNSName || !dnsRule.MatchString(name) {
			return nil, nil, fmt.Errorf("%.80q is neither a DNS name nor an IP address", name)
		}
		dns = append(dns, name)
	}
	slices.Sort(dns)
	slices.SortFunc(ips, func(a, b net.IP) int { return slices.Compare(a, b) })
	return slices.Compact(dns), slices.CompactFunc(ips, func(a, b net.IP) bool { return a.Equal(b) }), nil
}

func subjectID(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return sum[:subjectIDLen], nil
}

// serial is a random positive number that nobody can foresee.
func serial() *big.Int {
	buf := make([]byte, (serialBits+7)/8)
	_, _ = rand.Read(buf) // never fails (crypto/rand)
	n := new(big.Int).SetBytes(buf)
	n.Rsh(n, uint(len(buf)*8-serialBits))
	return n.SetBit(n, serialBits-1, 1)
}

func (a *Authority) readCertificate(name string) (*x509.Certificate, error) {
	text, err := os.ReadFile(filepath.Join(a.dir, name))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != certificateBlock {
		return nil, fmt.Errorf("%s is not a certificate", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	return cert, nil
}

func (a *Authority) writeCertificate(name string, der []byte) error {
	text := pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der})
	return durable.Replace(filepath.Join(a.dir, name), text, publicFileMode)
}

func (a *Authority) readKey(name, purpose string) (*ecdsa.PrivateKey, error) {
	sealed, err := os.ReadFile(filepath.Join(a.dir, name))
	if err != nil {
		return nil, err
	}
	der, err := a.vault.Open(purpose, sealed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is not an ECDSA key", name)
	}
	return key, nil
}

func (a *Authority) writeKey(name, purpose string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	sealed, err := a.vault.Seal(purpose, der)
	if err != nil {
		return err
	}
	return durable.Replace(filepath.Join(a.dir, name), sealed, privateFileMode)
}
