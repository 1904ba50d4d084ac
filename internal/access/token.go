package access

import (
	"sync"

	"portico/internal/online"
)

// Verifier knows the management tokens. It is safe for concurrent use; the zero value knows none.
type Verifier struct {
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

// Verify reads the value of an Authorization field and says who it is. The error is an *online.Error with
// CodeUnauthorized that says what is missing and never repeats what was presented.
func (v *Verifier) Verify(authorization string) (online.Principal, error) {
	token, err := Bearer(authorization)
	if err != nil {
		return online.Principal{}, online.Errorf(online.CodeUnauthorized, "",
			"%w; send the header \"Authorization: Bearer TOKEN\" with the administrator's token", err)
	}
	v.mu.RLock()
	// A lookup by digest tells by its timing at most something about the digest, which helps nobody find a token.
	p, ok := v.tokens[Digest(token)]
	v.mu.RUnlock()
	if !ok {
		return online.Principal{}, online.Errorf(online.CodeUnauthorized, "", "the token is not known to this server")
	}
	return p, nil
}
