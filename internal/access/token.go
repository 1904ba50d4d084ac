package access

import (
	"strings"
	"sync"

	"portico/internal/online"
)

// Principals knows who exists.
type Principals interface {
	// Principal finds a principal by its object id.
	Principal(objectID string) (online.Principal, bool)
}

// Verifier knows who may use the management API: the holders of the tokens that were added, and of tokens that Issuer
// made for a principal that exists. It is safe for concurrent use; the zero value knows nobody.
type Verifier struct {
	// Issuer, Principals and Audiences must be set before the first use, or left empty together. Audiences are the
	// resources that this API goes by.
	Issuer     *Issuer
	Principals Principals
	Audiences  []string

	mu     sync.RWMutex
	tokens map[[32]byte]online.Principal
}

// Add lets the holder of token act as p.
func (v *Verifier) Add(token online.Secret, p online.Principal) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.tokens == nil {
		v.tokens = make(map[[32]byte]online.Principal)
	}
	v.tokens[Digest(token.Reveal())] = p
}

// Verify reads the value of an Authorization field and says who it is. The error is an *online.Error that says what
// is missing and never repeats what was presented: CodeUnauthorized, or CodeForbidden for a managed identity, which
// is known but has no rights here.
func (v *Verifier) Verify(authorization string) (online.Principal, error) {
	token, err := Bearer(authorization)
	if err != nil {
		return online.Principal{}, online.Errorf(online.CodeUnauthorized, "",
			"%w; send the header \"Authorization: Bearer TOKEN\" with the administrator's token or one from the "+
				"server's token endpoint", err)
	}
	v.mu.RLock()
	// A lookup by digest tells by its timing at most something about the digest, which helps nobody find a token.
	p, ok := v.tokens[Digest(token)]
	v.mu.RUnlock()
	if ok {
		return p, nil
	}
	if v.Issuer == nil || strings.Count(token, ".") != 2 {
		return online.Principal{}, online.Errorf(online.CodeUnauthorized, "", "the token is not known to this server")
	}
	claims, err := v.Issuer.Verify(token)
	if err != nil {
		return online.Principal{}, online.Errorf(online.CodeUnauthorized, "", "%w", err)
	}
	if !claims.For(v.Audiences...) {
		return online.Principal{}, online.Errorf(online.CodeUnauthorized, "",
			"the token is for another audience (%.100q); ask for one for %s", claims.Audience, v.Audiences[0])
	}
	if claims.Managed() {
		return online.Principal{}, online.Errorf(online.CodeForbidden, "",
			"the managed identity %s has no rights on this server's management API", claims.ObjectID)
	}
	if p, ok = v.Principals.Principal(claims.ObjectID); !ok {
		return online.Principal{}, online.Errorf(online.CodeUnauthorized, "",
			"the principal of the token does not exist any more")
	}
	return p, nil
}
