package access

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"portico/internal/online"
)

// signingBits is the size of a signing key. 2048 is what every verifier of RS256 takes and what Azure signs with.
const signingBits = 2048

// algorithm is the only one that is signed with and the only one that is accepted.
var algorithm = jwt.SigningMethodRS256

// ErrToken is wrapped by every error of Verify. The text says which rule a token broke and never repeats it.
var ErrToken = errors.New("the token is not valid")

// NewSigningKey makes a key that an Issuer signs with, as PEM (PKCS #8).
func NewSigningKey() (online.Secret, error) {
	key, err := rsa.GenerateKey(rand.Reader, signingBits)
	if err != nil {
		return "", fmt.Errorf("make a signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("encode a signing key: %w", err)
	}
	return online.Secret(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// signingKey is one key with its public name.
type signingKey struct {
	id      string
	private *rsa.PrivateKey
}

func parseSigningKey(text online.Secret) (signingKey, error) {
	block, _ := pem.Decode([]byte(text.Reveal()))
	if block == nil {
		return signingKey{}, errors.New("a signing key is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return signingKey{}, errors.New("a signing key is damaged") // the parser's words may tell of the key
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok || key.N.BitLen() < signingBits {
		return signingKey{}, fmt.Errorf("a signing key is not RSA with at least %d bits", signingBits)
	}
	sum := sha256.Sum256(x509.MarshalPKCS1PublicKey(&key.PublicKey))
	return signingKey{id: base64.RawURLEncoding.EncodeToString(sum[:16]), private: key}, nil
}

// keyset is what an Issuer signs and verifies with, and what it has verified under these keys.
type keyset struct {
	signer signingKey
	all    []signingKey
	byID   map[string]*rsa.PublicKey
	cache  verified
}

// IssuerConfig is what an Issuer is made from.
type IssuerConfig struct {
	URL    string // the iss claim; its discovery document lies below it
	Tenant string // the tid claim
	// Keys are PEM texts of NewSigningKey. The first signs, every one verifies and is published.
	Keys []online.Secret
	Now  func() time.Time
}

// Issuer makes and verifies tokens. It is safe for concurrent use.
type Issuer struct {
	url    string
	tenant string
	now    func() time.Time
	parser *jwt.Parser
	keys   atomic.Pointer[keyset]
}

// NewIssuer makes an Issuer. It fails when there is no key or one is damaged.
func NewIssuer(cfg IssuerConfig) (*Issuer, error) {
	i := &Issuer{url: cfg.URL, tenant: cfg.Tenant, now: cfg.Now}
	i.parser = jwt.NewParser(jwt.WithValidMethods([]string{algorithm.Alg()}), jwt.WithExpirationRequired(),
		jwt.WithLeeway(Leeway), jwt.WithTimeFunc(cfg.Now), jwt.WithStrictDecoding())
	return i, i.SetKeys(cfg.Keys)
}

// SetKeys replaces the keys. Tokens that were signed with one that is gone are refused from now on.
func (i *Issuer) SetKeys(texts []online.Secret) error {
	if len(texts) == 0 {
		return errors.New("an issuer needs a signing key")
	}
	set := &keyset{byID: map[string]*rsa.PublicKey{}}
	for _, text := range texts {
		key, err := parseSigningKey(text)
		if err != nil {
			return err
		}
		set.all = append(set.all, key)
		set.byID[key.id] = &key.private.PublicKey
	}
	set.signer = set.all[0]
	i.keys.Store(set)
	return nil
}

// URL is the iss claim of principals' tokens.
func (i *Issuer) URL() string { return i.url }

// Tenant is the tid claim of every token.
func (i *Issuer) Tenant() string { return i.tenant }

// Token is a token that was made.
type Token struct {
	Text    online.Secret
	Issued  time.Time
	Expires time.Time
}

// Issue makes a token that speaks for s to a resource. The reserved audiences are refused with CodeBadArgument.
func (i *Issuer) Issue(s Subject, audience string) (Token, error) {
	if !validAudience(audience) {
		return Token{}, online.Errorf(online.CodeBadArgument, "resource",
			"the resource must be 1 to %d visible characters and name somebody who takes tokens", maxAudience)
	}
	return i.sign(IdentityLife, Claims{Issuer: i.url, Audience: audience, Subject: s.ObjectID, ObjectID: s.ObjectID,
		AppID: s.AppID, Kind: "app", Name: s.Name, Resource: s.Resource, Version: "1.0"})
}

// maxAudience bounds the resource that a token names, in bytes.
const maxAudience = 512

func validAudience(a string) bool {
	if a == "" || len(a) > maxAudience || a == scoringName || equalFold(trimSlash(a), AudienceExchange) {
		return false
	}
	for k := range len(a) {
		if a[k] <= ' ' || a[k] > '~' {
			return false
		}
	}
	return true
}

// ScoringGrant is what a token for one endpoint says.
type ScoringGrant struct {
	Subject   Subject // who asked for it
	Endpoint  string  // name
	UID       string  // of the endpoint: a token does not outlive it
	Workspace string  // UID of the workspace
	Action    string  // what it allows, as roles spell it
}

// IssueScoring makes a token that opens one endpoint (authMode AMLToken).
func (i *Issuer) IssueScoring(g ScoringGrant) (Token, error) {
	return i.sign(ScoringLife, Claims{Issuer: scoringName, Audience: scoringName, Subject: g.Subject.ObjectID,
		ObjectID: g.Subject.ObjectID, EndpointName: g.Endpoint, ServiceID: g.UID, WorkspaceID: g.Workspace,
		Actions: []string{g.Action}, CanRefresh: "False"})
}

// IssueAssertion makes a token that a client presents in place of its secret. credential names the secret.
func (i *Issuer) IssueAssertion(s Subject, credential string) (Token, error) {
	return i.sign(AssertionLife, Claims{Issuer: i.url, Audience: AudienceExchange, Subject: s.AppID,
		Credential: credential})
}

// VerifyAssertion checks a token of IssueAssertion and gives the client id and credential that it names.
func (i *Issuer) VerifyAssertion(text string) (client, credential string, err error) {
	c, err := i.Verify(text)
	if err != nil {
		return "", "", err
	}
	if c.Issuer != i.url || c.Audience != AudienceExchange || c.Credential == "" {
		return "", "", fmt.Errorf("%w: it is no client assertion", ErrToken)
	}
	return c.Subject, c.Credential, nil
}

func (i *Issuer) sign(life time.Duration, c Claims) (Token, error) {
	now := i.now().Truncate(time.Second)
	t := Token{Issued: now, Expires: now.Add(life)}
	c.IssuedAt, c.NotBefore, c.Expires = now.Unix(), now.Unix(), t.Expires.Unix()
	c.TenantID, c.ID = i.tenant, uuid.NewString()
	key := i.keys.Load().signer
	unsigned := jwt.NewWithClaims(algorithm, &c)
	unsigned.Header["kid"] = key.id
	text, err := unsigned.SignedString(key.private)
	if err != nil {
		return Token{}, fmt.Errorf("sign a token: %w", err)
	}
	t.Text = online.Secret(text)
	return t, nil
}

// Verify checks that this issuer made a token and that it is valid now. It says nothing about what the token is
// for: ask the claims (For, Scoring), which must only be read. A token is parsed once; then its digest is enough.
// The error wraps ErrToken.
func (i *Issuer) Verify(text string) (*Claims, error) {
	set := i.keys.Load()
	digest := tokenDigest(text)
	now := i.now()
	if c := set.cache.get(&digest); c != nil {
		if now.Before(time.Unix(c.Expires, 0).Add(Leeway)) {
			return c, nil
		}
		return nil, fmt.Errorf("%w: it has expired", ErrToken)
	}
	if len(text) > maxBearerLength {
		return nil, fmt.Errorf("%w: it is too long", ErrToken)
	}
	c := &Claims{}
	if _, err := i.parser.ParseWithClaims(text, c, set.find); err != nil {
		return nil, fmt.Errorf("%w: %s", ErrToken, broken(err))
	}
	if c.Issuer != i.url && c.Issuer != scoringName || c.TenantID != i.tenant {
		return nil, fmt.Errorf("%w: another issuer made it", ErrToken)
	}
	set.cache.put(&digest, c, now)
	return c, nil
}

// find gives the key that a token names. One that names none is refused: there is always a name in ours.
func (s *keyset) find(t *jwt.Token) (any, error) {
	id, _ := t.Header["kid"].(string)
	if key := s.byID[id]; key != nil {
		return key, nil
	}
	return nil, errUnknownKey
}

var errUnknownKey = errors.New("unknown key")

// broken says in our words which rule a token broke.
func broken(err error) string {
	for _, known := range []struct {
		err  error
		text string
	}{
		{jwt.ErrTokenExpired, "it has expired"}, {jwt.ErrTokenNotValidYet, "it is not valid yet"},
		{errUnknownKey, "its key is not known"},
		{jwt.ErrTokenSignatureInvalid, "its signature or algorithm is wrong"},
		{jwt.ErrTokenRequiredClaimMissing, "it lacks an expiry"},
	} {
		if errors.Is(err, known.err) {
			return known.text
		}
	}
	return "it is malformed"
}

// JWKS gives the public keys as a JSON Web Key Set (RFC 7517).
func (i *Issuer) JWKS() []byte {
	type key struct {
		Type      string `json:"kty"`
		Use       string `json:"use"`
		Algorithm string `json:"alg"`
		ID        string `json:"kid"`
		Modulus   string `json:"n"`
		Exponent  string `json:"e"`
	}
	var doc struct {
		Keys []key `json:"keys"`
	}
	for _, k := range i.keys.Load().all {
		doc.Keys = append(doc.Keys, key{Type: "RSA", Use: "sig", Algorithm: algorithm.Alg(), ID: k.id,
			Modulus:  base64.RawURLEncoding.EncodeToString(k.private.N.Bytes()),
			Exponent: base64.RawURLEncoding.EncodeToString(big.NewInt(int64(k.private.E)).Bytes())})
	}
	text, err := json.Marshal(doc)
	if err != nil {
		panic(err) // texts always marshal
	}
	return text
}
