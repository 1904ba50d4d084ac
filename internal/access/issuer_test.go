package access_test

import (
	"crypto"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"portico/internal/access"
	"portico/internal/online"
)

const (
	issuerURL = "https://host:8443/tenant/v2.0"
	tenant    = "11111111-1111-1111-1111-111111111111"
)

// Keys are made once: making one takes long.
var (
	key1 = sync.OnceValue(func() online.Secret { return must(access.NewSigningKey()) })
	key2 = sync.OnceValue(func() online.Secret { return must(access.NewSigningKey()) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// clock is a settable time.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newClock() *clock { return &clock{time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)} }

func newIssuer(t testing.TB, c *clock, keys ...online.Secret) *access.Issuer {
	t.Helper()
	i, err := access.NewIssuer(access.IssuerConfig{URL: issuerURL, Tenant: tenant, Keys: keys, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

var (
	service = access.Subject{ObjectID: "o-1", AppID: "a-1", Name: "ci"}
	managed = access.Subject{ObjectID: "o-2", AppID: "o-2", Name: "fraud",
		Resource: "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/onlineEndpoints/fraud"}
	grant = access.ScoringGrant{Subject: service, Endpoint: "fraud", UID: "u-1", Workspace: "w-1",
		Action: "score/action"}
)

// parts decodes header and claims of a token as anybody would.
func parts(t testing.TB, token string) (header, claims map[string]any, signature []byte) {
	t.Helper()
	p := strings.Split(token, ".")
	if len(p) != 3 {
		t.Fatalf("%d parts", len(p))
	}
	for n, into := range []*map[string]any{&header, &claims} {
		doc, err := base64.RawURLEncoding.DecodeString(p[n])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(doc, into); err != nil {
			t.Fatal(err)
		}
	}
	return header, claims, must(base64.RawURLEncoding.DecodeString(p[2]))
}

func segment(v any) string { return base64.RawURLEncoding.EncodeToString(must(json.Marshal(v))) }

// resign makes a token of any header and claims, signed with a key that the issuer has: only Verify's rules stand
// between it and its goal.
func resign(header, claims map[string]any, key online.Secret) string {
	text := segment(header) + "." + segment(claims)
	block, _ := pem.Decode([]byte(key.Reveal()))
	private := must(x509.ParsePKCS8PrivateKey(block.Bytes)).(*rsa.PrivateKey)
	sum := sha256.Sum256([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(must(rsa.SignPKCS1v15(nil, private, crypto.SHA256,
		sum[:])))
}

func TestClaims(t *testing.T) {
	c := newClock()
	i := newIssuer(t, c, key1())
	now := float64(c.t.Unix())
	for _, one := range []struct {
		what  string
		token access.Token
		want  map[string]any
	}{
		{"principal", must(i.Issue(service, "https://management.azure.com")), map[string]any{"iss": issuerURL,
			"aud": "https://management.azure.com", "iat": now, "nbf": now, "exp": now +
				3600, "sub": "o-1", "oid": "o-1", "appid": "a-1",
			"tid": tenant, "idtyp": "app", "app_displayname": "ci", "ver": "1.0"}},
		{"managed", must(i.Issue(managed, "api://mine")), map[string]any{"iss": issuerURL, "aud": "api://mine",
			"iat": now, "nbf": now,
			"exp": now + 3600, "sub": "o-2", "oid": "o-2", "appid": "o-2", "tid": tenant, "idtyp": "app",
			"app_displayname": "fraud",
			"ver":             "1.0", "xms_mirid": managed.Resource}},
		// The claims of Azure's own (azure-wire 3.7).
		{"scoring", must(i.IssueScoring(grant)), map[string]any{"iss": "azureml", "aud": "azureml", "iat": now,
			"nbf": now,
			"exp": now + 86400, "sub": "o-1", "oid": "o-1", "tid": tenant, "endpointName": "fraud",
			"serviceId":   "u-1",
			"workspaceId": "w-1", "actions": []any{"score/action"}, "canRefresh": "False"}},
		{"assertion", must(i.IssueAssertion(service, "c-1")),
			map[string]any{"iss": issuerURL, "aud": access.AudienceExchange,
				"iat": now, "nbf": now, "exp": now + 30*86400, "sub": "a-1", "tid": tenant, "cred": "c-1"}},
	} {
		header, claims, signature := parts(t, one.token.Text.Reveal())
		if id, _ := claims["jti"].(string); id == "" {
			t.Errorf("%s: no jti", one.what)
		}
		delete(claims, "jti")
		if got, want := fmt.Sprint(claims), fmt.Sprint(one.want); got != want {
			t.Errorf("%s:\n got %s\nwant %s", one.what, got, want)
		}
		if header["alg"] != "RS256" || header["typ"] != "JWT" || len(signature) != 256 {
			t.Errorf("%s: header %v, signature of %d bytes", one.what, header, len(signature))
		}
		if one.token.Expires.Unix() != int64(one.want["exp"].(float64)) || !one.token.Issued.Equal(c.t) {
			t.Errorf("%s: issued %v, expires %v", one.what, one.token.Issued, one.token.Expires)
		}
		if strings.Contains(fmt.Sprintf("%v %+v", one.token, one.token), one.token.Text.Reveal()) {
			t.Errorf("%s: a token is printed", one.what)
		}
	}
}

// TestPublishedKeys verifies a token with nothing but what the key set says.
func TestPublishedKeys(t *testing.T) {
	i := newIssuer(t, newClock(), key1(), key2())
	token := must(i.Issue(service, "api://x")).Text.Reveal()
	header, _, signature := parts(t, token)
	var set struct {
		Keys []struct{ Kty, Use, Alg, Kid, N, E string }
	}
	if err := json.Unmarshal(i.JWKS(), &set); err != nil || len(set.Keys) != 2 {
		t.Fatalf("%v: %s", err, i.JWKS())
	}
	k := set.Keys[0]
	if k.Kid != header["kid"] || k.Kty != "RSA" || k.Use != "sig" || k.Alg != "RS256" {
		t.Fatalf("key %+v for header %v", k, header)
	}
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(must(base64.RawURLEncoding.DecodeString(k.N))),
		E: int(new(big.Int).SetBytes(must(base64.RawURLEncoding.DecodeString(k.E))).Int64())}
	sum := sha256.Sum256([]byte(token[:strings.LastIndexByte(token, '.')]))
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], signature); err != nil {
		t.Error(err)
	}
	if strings.Contains(string(i.JWKS()), `"d"`) {
		t.Error("a private key is published")
	}
}

func TestForgedTokens(t *testing.T) {
	c := newClock()
	i := newIssuer(t, c, key1())
	good := must(i.Issue(service, "https://management.azure.com")).Text.Reveal()
	header, claims, _ := parts(t, good)
	with := func(m map[string]any, change map[string]any) map[string]any {
		out := map[string]any{}
		for k, v := range m {
			out[k] = v
		}
		for k, v := range change {
			if out[k] = v; v == nil {
				delete(out, k)
			}
		}
		return out
	}
	if got, err := i.Verify(resign(header, claims, key1())); err != nil || got.ObjectID != "o-1" {
		t.Fatalf("the tool of this test makes bad tokens: %v", err)
	}
	body := segment(claims)
	mac := func(key []byte) string {
		h := with(header, map[string]any{"alg": "HS256"})
		m := hmac.New(sha256.New, key)
		m.Write([]byte(segment(h) + "." + body))
		return segment(h) + "." + body + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
	}
	block, _ := pem.Decode([]byte(key1().Reveal()))
	public := &must(x509.ParsePKCS8PrivateKey(block.Bytes)).(*rsa.PrivateKey).PublicKey
	der := must(x509.MarshalPKIXPublicKey(public))
	at := c.t.Unix()
	p := strings.Split(good, ".")
	other := must(access.NewIssuer(access.IssuerConfig{URL: "https://other/v2.0", Tenant: tenant,
		Keys: []online.Secret{key1()}, Now: c.now}))
	foreign := must(access.NewIssuer(access.IssuerConfig{URL: issuerURL,
		Tenant: "22222222-2222-2222-2222-222222222222",
		Keys:   []online.Secret{key1()}, Now: c.now}))
	for what, token := range map[string]string{
		"empty": "", "dots": "..", "text": "a.b.c", "two parts": p[0] + "." + p[1], "four parts": good + ".x",
		"no signature": p[0] + "." + p[1] + ".",
		"alg none":     segment(with(header, map[string]any{"alg": "none"})) + "." + body + ".",
		"alg None": segment(with(header, map[string]any{"alg": "None"})) + "." + body + "." +
			p[2],
		"HS256 with the public key": mac(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"HS256 with its bytes":      mac(der),
		"HS256 with nothing":        mac(nil),
		"another algorithm":         resign(with(header, map[string]any{"alg": "PS256"}), claims, key1()),
		"another of the family":     resign(with(header, map[string]any{"alg": "RS512"}), claims, key1()),
		"no algorithm":              resign(with(header, map[string]any{"alg": nil}), claims, key1()),
		"unknown kid":               resign(with(header, map[string]any{"kid": "x"}), claims, key1()),
		"kid of another type":       resign(with(header, map[string]any{"kid": 1}), claims, key1()),
		"no kid":                    resign(with(header, map[string]any{"kid": nil}), claims, key1()),
		"another key under our kid": resign(header, claims, key2()),
		"a key of its own (jwk)": resign(with(header,
			map[string]any{"kid": nil, "jwk": map[string]string{"kty": "RSA"}}), claims, key2()),
		"claims changed": p[0] + "." + segment(with(claims, map[string]any{"oid": "o-9"})) + "." +
			p[2],
		"expired":          resign(header, with(claims, map[string]any{"exp": at - 31}), key1()),
		"no expiry":        resign(header, with(claims, map[string]any{"exp": nil}), key1()),
		"expiry is zero":   resign(header, with(claims, map[string]any{"exp": 0}), key1()),
		"expiry is a text": resign(header, with(claims, map[string]any{"exp": "9999999999"}), key1()),
		"not valid yet":    resign(header, with(claims, map[string]any{"nbf": at + 31}), key1()),
		"no issuer":        resign(header, with(claims, map[string]any{"iss": nil}), key1()),
		"another issuer":   must(other.Issue(service, "https://management.azure.com")).Text.Reveal(),
		"another tenant":   must(foreign.Issue(service, "https://management.azure.com")).Text.Reveal(),
		"audiences in a list": resign(header, with(claims, map[string]any{"aud": []string{"a", "b"}}),
			key1()),
		"padding":                        p[0] + "=." + p[1] + "." + p[2],
		"bits beyond the last character": good[:len(good)-1] + string(rune(good[len(good)-1])+1),
		"too long":                       good + strings.Repeat("A", 17<<10),
		"claims are a list":              resignText(segment(header)+"."+segment([]int{1}), key1()),
	} {
		got, err := i.Verify(token)
		if err == nil || !errors.Is(err, access.ErrToken) {
			t.Errorf("%s: %+v, %v", what, got, err)
			continue
		}
		if len(token) > 20 && strings.Contains(err.Error(), token) || strings.Contains(err.Error(), "o-1") {
			t.Errorf("%s: the error repeats the token: %v", what, err)
		}
	}
}

func resignText(text string, key online.Secret) string {
	block, _ := pem.Decode([]byte(key.Reveal()))
	private := must(x509.ParsePKCS8PrivateKey(block.Bytes)).(*rsa.PrivateKey)
	sum := sha256.Sum256([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(must(rsa.SignPKCS1v15(nil, private, crypto.SHA256,
		sum[:])))
}

// TestTamperedProperty: no token with one character changed is accepted, unless it is the same token.
func TestTamperedProperty(t *testing.T) {
	i := newIssuer(t, newClock(), key1())
	good := must(i.Issue(service, "api://x")).Text.Reveal()
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.IntRange(0, len(good)-1).Draw(t, "at")
		c := alphabet[rapid.IntRange(0, len(alphabet)-1).Draw(t, "character")]
		bad := good[:at] + string(c) + good[at+1:]
		if _, err := i.Verify(bad); (err == nil) != (bad == good) {
			t.Fatalf("%q at %d: %v", c, at, err)
		}
	})
}

func TestWhatATokenIsFor(t *testing.T) {
	i := newIssuer(t, newClock(), key1())
	claims := func(token access.Token, err error) *access.Claims {
		return must(i.Verify(must(token, err).Text.Reveal()))
	}
	arm := claims(i.Issue(service, "https://management.core.windows.net/"))
	ml := claims(i.Issue(managed, access.AudienceML))
	scoring := claims(i.IssueScoring(grant))
	assertion := claims(i.IssueAssertion(service, "c-1"))
	for _, c := range []struct {
		what      string
		got, want bool
	}{
		{"slash in the token", arm.For("https://management.core.windows.net"), true},
		{"slash in the list", ml.For("x", access.AudienceML+"/"), true},
		{"another", arm.For("https://management.azure.com"), false},
		{"prefix", arm.For("https://management.core"), false},
		{"case", arm.For("https://MANAGEMENT.core.windows.net"), false},
		{"nothing", arm.For(), false}, {"empty", arm.For(""), false},
		{"managed", ml.Managed(), true}, {"not managed", arm.Managed(), false},
		{"scoring", scoring.Scoring("u-1", "fraud"), true},
		{"scoring in another case", scoring.Scoring("u-1", "Fraud"), true},
		{"scoring of another", scoring.Scoring("u-1", "frauds"), false},
		{"scoring of a namesake", scoring.Scoring("u-2", "fraud"), false},
		{"scoring of nobody", scoring.Scoring("", "fraud"), false},
		{"scoring as a principal's", scoring.For("azureml"), false},
		{"assertion as a principal's", assertion.For(access.AudienceExchange), false},
		{"principal's as scoring", ml.Scoring("u-1", "fraud"), false},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v", c.what, c.got)
		}
	}
	client, credential, err := i.VerifyAssertion(must(i.IssueAssertion(service, "c-1")).Text.Reveal())
	if client != "a-1" || credential != "c-1" || err != nil {
		t.Errorf("assertion: %q, %q, %v", client, credential, err)
	}
	for _, token := range []access.Token{must(i.Issue(service, "api://x")), must(i.IssueScoring(grant))} {
		if _, _, err := i.VerifyAssertion(token.Text.Reveal()); !errors.Is(err, access.ErrToken) {
			t.Errorf("a token that is no assertion is taken for one: %v", err)
		}
	}
}

// TestReservedAudiences: nobody gets, by asking for a resource, a token that another method would make.
func TestReservedAudiences(t *testing.T) {
	i := newIssuer(t, newClock(), key1())
	for _, bad := range []string{"", "azureml", access.AudienceExchange, access.AudienceExchange +
		"/", "API://AzureADTokenExchange",
		"with space", "line\nbreak", "ünicode", strings.Repeat("x", 513)} {
		if _, err := i.Issue(service, bad); !online.IsCode(err, online.CodeBadArgument) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
	for _, good := range []string{"https://vault.azure.net", "api://mine", "00000003-0000-0000-c000-000000000000",
		strings.Repeat("x", 512)} {
		if _, err := i.Issue(service, good); err != nil {
			t.Errorf("%.40q: %v", good, err)
		}
	}
}

func TestVerifiedOnce(t *testing.T) {
	c := newClock()
	i := newIssuer(t, c, key1())
	token := must(i.Issue(service, "api://x"))
	text := token.Text.Reveal()
	first := must(i.Verify(text))
	if second := must(i.Verify(text)); second != first {
		t.Error("a token is parsed twice")
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = i.Verify(text) }); n != 0 {
		t.Errorf("a token that is known allocates %v times", n)
	}
	c.t = token.Expires.Add(access.Leeway - time.Nanosecond)
	if _, err := i.Verify(text); err != nil {
		t.Errorf("within the leeway: %v", err)
	}
	c.t = token.Expires.Add(access.Leeway)
	if _, err := i.Verify(text); !errors.Is(err, access.ErrToken) {
		t.Errorf("remembered beyond its expiry: %v", err)
	}
	if _, err := newIssuer(t, c, key1()).Verify(text); !errors.Is(err, access.ErrToken) {
		t.Errorf("expired: %v", err)
	}
}

// TestRotation: a token outlives the first change of keys, and ends with its key although it was remembered.
func TestRotation(t *testing.T) {
	i := newIssuer(t, newClock(), key1())
	old := must(i.Issue(service, "api://x")).Text.Reveal()
	must(i.Verify(old))
	if err := i.SetKeys([]online.Secret{key2(), key1()}); err != nil {
		t.Fatal(err)
	}
	fresh := must(i.Issue(service, "api://x")).Text.Reveal()
	for _, token := range []string{old, fresh} {
		if _, err := i.Verify(token); err != nil {
			t.Error(err)
		}
	}
	h1, _, _ := parts(t, old)
	if h2, _, _ := parts(t, fresh); h1["kid"] == h2["kid"] {
		t.Error("the old key signs")
	}
	if err := i.SetKeys([]online.Secret{key2()}); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Verify(old); !errors.Is(err, access.ErrToken) {
		t.Errorf("a token of a key that is gone: %v", err)
	}
	for what, bad := range map[string][]online.Secret{"none": nil, "no key": {"x"},
		"damaged": {key2(), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}} {
		if err := i.SetKeys(bad); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	if _, err := i.Verify(fresh); err != nil {
		t.Errorf("keys that were refused are in force: %v", err)
	}
}

// TestRememberedTokensAreBounded verifies more tokens than are remembered of one kind: all stay valid.
func TestRememberedTokensAreBounded(t *testing.T) {
	c := newClock()
	i := newIssuer(t, c, key1())
	tokens := make([]string, 600)
	for n := range tokens {
		tokens[n] = must(i.Issue(service, "api://x")).Text.Reveal()
	}
	for range 2 {
		for _, token := range tokens {
			must(i.Verify(token))
		}
	}
	if n := access.Remembered(i); n != len(tokens) {
		t.Errorf("%d tokens of %d are remembered", n, len(tokens))
	}
	c.t = c.t.Add(2 * time.Hour)
	must(i.Verify(must(i.Issue(service, "api://y")).Text.Reveal()))
	if n := access.RememberedMost(i); n > access.VerifiedPerShard {
		t.Errorf("%d tokens in one place", n)
	}
	access.Flood(i, 3*access.VerifiedPerShard, c.t)
	if n := access.RememberedMost(i); n != access.VerifiedPerShard {
		t.Errorf("%d tokens in one place after a flood, want %d", n, access.VerifiedPerShard)
	}
}

// people is who exists.
type people map[string]online.Principal

func (p people) Principal(id string) (online.Principal, bool) {
	who, ok := p[id]
	return who, ok
}

func TestVerifierTakesTokens(t *testing.T) {
	i := newIssuer(t, newClock(), key1())
	all := people{"o-1": {ID: "o-1", Name: "ci"}}
	v := &access.Verifier{Issuer: i, Principals: all, Audiences: []string{"https://host:8443",
		"https://management.azure.com",
		"https://management.core.windows.net"}}
	for _, c := range []struct {
		what  string
		token access.Token
		code  online.Code // empty: accepted
	}{
		{"own", must(i.Issue(service, "https://host:8443")), ""},
		{"own with a slash", must(i.Issue(service, "https://host:8443/")), ""},
		{"public", must(i.Issue(service, "https://management.azure.com")), ""},
		{"classic", must(i.Issue(service, "https://management.core.windows.net/")), ""},
		{"another audience", must(i.Issue(service, "https://vault.azure.net")), online.CodeUnauthorized},
		{"managed identity", must(i.Issue(managed, "https://host:8443")), online.CodeForbidden},
		{"principal that is gone", must(i.Issue(access.Subject{ObjectID: "o-9"}, "https://host:8443")),
			online.CodeUnauthorized},
		{"endpoint's", must(i.IssueScoring(grant)), online.CodeUnauthorized},
		{"assertion", must(i.IssueAssertion(service, "c")), online.CodeUnauthorized},
	} {
		who, err := v.Verify("Bearer " + c.token.Text.Reveal())
		switch {
		case c.code == "" && (err != nil || who != all["o-1"]):
			t.Errorf("%s: %v, %v", c.what, who, err)
		case c.code != "" && !online.IsCode(err, c.code):
			t.Errorf("%s: %v, want %s", c.what, err, c.code)
		case err != nil && strings.Contains(fmt.Sprintf("%+v", err), c.token.Text.Reveal()):
			t.Errorf("%s: the error repeats the token", c.what)
		}
	}
}

// TestLimiter: in any stretch, a source gets at most a burst and the rate, and never less than the rate.
func TestLimiter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l access.Limiter
		start := newClock().t
		now, allowed := start, 0
		for range rapid.IntRange(1, 400).Draw(t, "attempts") {
			now = now.Add(time.Duration(rapid.IntRange(0, 80).Draw(t, "pause")) * time.Millisecond)
			if wait, ok := l.Allow("a", now); ok {
				allowed++
			} else if _, ok := l.Allow("a", now.Add(wait+time.Microsecond)); wait <= 0 || !ok {
				t.Fatalf("told to wait %v, and refused after it", wait)
			} else {
				allowed++
				now = now.Add(wait + time.Microsecond)
			}
			if most := access.AttemptBurst + now.Sub(start).Seconds()*access.AttemptRate +
				1; float64(allowed) > most {
				t.Fatalf("%d attempts in %v", allowed, now.Sub(start))
			}
			if _, ok := l.Allow("b"+fmt.Sprint(allowed), now); !ok {
				t.Fatal("another source is refused")
			}
		}
	})
	var l access.Limiter
	now := newClock().t
	for n := range 3 * access.MaxSources {
		if _, ok := l.Allow(fmt.Sprint(n), now); !ok {
			t.Fatal("a new source is refused")
		}
	}
	if n := access.Sources(&l); n > access.MaxSources {
		t.Errorf("%d sources are told apart", n)
	}
}

func BenchmarkVerifyKnown(b *testing.B) {
	i := newIssuer(b, newClock(), key1())
	token := must(i.IssueScoring(grant)).Text.Reveal()
	b.ReportAllocs()
	for b.Loop() {
		c, err := i.Verify(token)
		if err != nil || !c.Scoring("u-1", "fraud") {
			b.Fatal(err)
		}
	}
}
