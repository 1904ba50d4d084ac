package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"portico/internal/durable"
)

// Lifetimes of what an Interceptor makes. A client that read the file at any moment can verify for at least
// announceBefore less switchBefore: the authority that comes next is in the file that long before it signs.
const (
	// InterceptorValidity is how long one of its authorities is valid, from its NotBefore.
	InterceptorValidity = 30 * 24 * time.Hour
	announceBefore      = 15 * 24 * time.Hour // the next authority is made and published this long before the end
	switchBefore        = 5 * 24 * time.Hour  // and signs from here on
	leafValidity        = 7 * 24 * time.Hour
	leafRenewBefore     = 24 * time.Hour
	// maxLeaves bounds the certificates in memory. A full table is emptied: making one again takes microseconds.
	maxLeaves = 256
)

const (
	interceptFile         = "intercept-ca.pem"
	interceptStateFile    = "intercept-ca.sealed"
	interceptStatePurpose = "pki/intercept"
	interceptName         = "Portico interception CA"
	interceptLeafName     = "Portico interception"
	maxInterceptState     = 64 << 10 // bytes
)

// ErrNameNotPermitted is what an Interceptor answers when it is asked for a certificate of another name than its own.
var ErrNameNotPermitted = errors.New("the name is not one that is intercepted")

// Interceptor is a certificate authority that answers for names which belong to somebody else, on this machine. What
// it can sign is bound twice: it refuses other names, and its certificate permits only these (critical name
// constraints, no IP addresses, servers only, no further authorities), so that a stolen key is good for nothing
// more. It lives for 30 days and is followed by another with another key. Safe for concurrent use.
type Interceptor struct {
	dir   string
	vault *Vault
	names []string

	mu      sync.Mutex
	line    []generation // the one that signs, then perhaps the one that will
	leafKey *ecdsa.PrivateKey
	leaves  map[string]*tls.Certificate
}

// generation is one authority.
type generation struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// OpenInterceptor opens the authority in dir, or makes one (ECDSA P-256). Each of names is a DNS name, or, with a
// leading dot, stands for every name that is one label longer. When names, time or file do not fit what is kept
// there, a new authority takes its place: clients then need the new file.
func OpenInterceptor(dir string, v *Vault, names []string, now time.Time) (*Interceptor, error) {
	i := &Interceptor{dir: dir, vault: v, names: slices.Clone(names), leaves: map[string]*tls.Certificate{}}
	if err := i.open(now); err != nil {
		return nil, fmt.Errorf("open interception authority %s: %w", dir, err)
	}
	return i, nil
}

func (i *Interceptor) open(now time.Time) error {
	if _, ips, err := splitNames(i.domains()); err != nil || len(ips) > 0 {
		return errors.Join(err, fmt.Errorf("%d of the names are addresses", len(ips)))
	}
	if err := os.MkdirAll(i.dir, publicFolderMode); err != nil {
		return err
	}
	var err error
	if i.leafKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	if i.line, err = i.read(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s cannot be used (remove it to begin anew): %w", interceptStateFile, err)
	}
	_, err = i.renew(now)
	return err
}

// CAFile is the path of what clients must trust: the certificate in force, and its successor once there is one.
func (i *Interceptor) CAFile() string { return filepath.Join(i.dir, interceptFile) }

// domains are the names without what marks a wildcard: in a certificate a constraint covers what is below it.
func (i *Interceptor) domains() []string {
	out := make([]string, len(i.names))
	for n, name := range i.names {
		out[n] = strings.TrimPrefix(name, ".")
	}
	return out
}

// permits says whether a name, valid and in lower case, is one of the interceptor's.
func (i *Interceptor) permits(name string) bool {
	first, parent, _ := strings.Cut(name, ".")
	return slices.Contains(i.names, name) || first != "*" && slices.Contains(i.names, "."+parent)
}

// Renew makes the next authority when the end of the one in force comes near, and puts it in force nearer to it.
// changed tells that the file is another.
func (i *Interceptor) Renew(now time.Time) (changed bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if changed, err = i.renew(now); err != nil {
		return changed, fmt.Errorf("renew interception authority: %w", err)
	}
	return changed, nil
}

func (i *Interceptor) renew(now time.Time) (bool, error) {
	line := slices.DeleteFunc(slices.Clone(i.line), func(g generation) bool {
		return now.Before(g.cert.NotBefore) || !now.Before(g.cert.NotAfter) ||
			!slices.Equal(g.cert.PermittedDNSDomains, i.domains())
	})
	if len(line) > 1 && !now.Add(switchBefore).Before(line[0].cert.NotAfter) {
		line = line[1:]
	}
	if len(line) == 0 || len(line) == 1 && !now.Add(announceBefore).Before(line[0].cert.NotAfter) {
		next, err := i.create(now)
		if err != nil {
			return false, err
		}
		line = append(line, next)
	}
	same := slices.EqualFunc(line, i.line, func(a, b generation) bool { return a.cert.Equal(b.cert) })
	if _, err := os.Stat(i.CAFile()); same && err == nil {
		return false, nil
	}
	if err := i.write(line); err != nil {
		return false, err
	}
	if len(i.line) == 0 || !i.line[0].cert.Equal(line[0].cert) {
		clear(i.leaves)
	}
	i.line = line
	return true, nil
}

func (i *Interceptor) create(now time.Time) (generation, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return generation{}, err
	}
	id, err := subjectID(&key.PublicKey)
	if err != nil {
		return generation{}, err
	}
	everything := func(bytes int) *net.IPNet { return &net.IPNet{IP: make(net.IP, bytes), Mask: make(net.IPMask, bytes)} }
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject: pkix.Name{Organization: []string{organization},
			CommonName: fmt.Sprintf("%s %x", interceptName, id[:caSuffixByteCount])},
		NotBefore:                   now.Add(-backdate),
		NotAfter:                    now.Add(InterceptorValidity - backdate),
		IsCA:                        true,
		BasicConstraintsValid:       true,
		MaxPathLenZero:              true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		PermittedDNSDomainsCritical: true, // makes the whole extension critical
		PermittedDNSDomains:         i.domains(),
		ExcludedIPRanges:            []*net.IPNet{everything(net.IPv4len), everything(net.IPv6len)},
		SubjectKeyId:                id,
		AuthorityKeyId:              id,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return generation{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return generation{cert: cert, key: key}, err
}

// Certificate gives the certificate of one name, made when it is first asked for. Errors: ErrNameNotPermitted.
func (i *Interceptor) Certificate(name string, now time.Time) (*tls.Certificate, error) {
	name = strings.ToLower(name)
	if _, _, err := splitNames([]string{name}); err != nil || !i.permits(name) {
		return nil, fmt.Errorf("certificate of %.80q: %w", name, ErrNameNotPermitted)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, err := i.renew(now); err != nil {
		return nil, fmt.Errorf("renew interception authority: %w", err)
	}
	if kept := i.leaves[name]; kept != nil && now.After(kept.Leaf.NotBefore) &&
		now.Add(leafRenewBefore).Before(kept.Leaf.NotAfter) {
		return kept, nil
	}
	made, err := i.issue(name, now)
	if err != nil {
		return nil, fmt.Errorf("issue certificate of %.80q: %w", name, err)
	}
	if len(i.leaves) >= maxLeaves {
		clear(i.leaves)
	}
	i.leaves[name] = made
	return made, nil
}

func (i *Interceptor) issue(name string, now time.Time) (*tls.Certificate, error) {
	signer := i.line[0]
	id, err := subjectID(&i.leafKey.PublicKey)
	if err != nil {
		return nil, err
	}
	begin, end := now.Add(-backdate), now.Add(leafValidity)
	if begin.Before(signer.cert.NotBefore) {
		begin = signer.cert.NotBefore
	}
	if end.After(signer.cert.NotAfter) {
		end = signer.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{Organization: []string{organization}, CommonName: interceptLeafName},
		NotBefore:             begin,
		NotAfter:              end,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		SubjectKeyId:          id,
		DNSNames:              []string{name},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, &i.leafKey.PublicKey, signer.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: i.leafKey, Leaf: leaf}, nil
}

// keptGeneration is a generation as it lies, sealed, on disk. One file holds certificate and key, so that a crash
// cannot leave one without the other.
type keptGeneration struct {
	Certificate []byte `json:"certificate"` // DER
	Key         []byte `json:"key"`         // PKCS #8
}

func (i *Interceptor) read() ([]generation, error) {
	sealed, err := os.ReadFile(filepath.Join(i.dir, interceptStateFile))
	if err != nil {
		return nil, err
	}
	if len(sealed) > maxInterceptState {
		return nil, fmt.Errorf("it is larger than %d bytes", maxInterceptState)
	}
	clear, err := i.vault.Open(interceptStatePurpose, sealed)
	if err != nil {
		return nil, err
	}
	var kept []keptGeneration
	if err := json.Unmarshal(clear, &kept); err != nil {
		return nil, err
	}
	line := make([]generation, 0, len(kept))
	for _, k := range kept {
		cert, err := x509.ParseCertificate(k.Certificate)
		if err != nil {
			return nil, err
		}
		key, err := x509.ParsePKCS8PrivateKey(k.Key)
		if err != nil {
			return nil, err
		}
		ec, ok := key.(*ecdsa.PrivateKey)
		if !ok || !ec.PublicKey.Equal(cert.PublicKey) {
			return nil, errors.New("a key does not belong to its certificate")
		}
		line = append(line, generation{cert: cert, key: ec})
	}
	return line, nil
}

// write keeps the secret part first: a certificate that clients trust but nobody can sign with is harmless.
func (i *Interceptor) write(line []generation) error {
	var kept []keptGeneration
	var public []byte
	for _, g := range line {
		key, err := x509.MarshalPKCS8PrivateKey(g.key)
		if err != nil {
			return err
		}
		kept = append(kept, keptGeneration{Certificate: g.cert.Raw, Key: key})
		public = append(public, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: g.cert.Raw})...)
	}
	clear, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	sealed, err := i.vault.Seal(interceptStatePurpose, clear)
	if err != nil {
		return err
	}
	if err := durable.Replace(filepath.Join(i.dir, interceptStateFile), sealed, privateFileMode); err != nil {
		return err
	}
	return durable.Replace(i.CAFile(), public, publicFileMode)
}
