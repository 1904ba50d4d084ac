package access

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"

	"portico/internal/online"
)

// secretBytes is the entropy of a key or token: as much as the digest that it is compared by.
const secretBytes = 32

// NewKey makes a key of 256 random bits as 44 characters of base64, as Azure's are.
func NewKey() online.Secret {
	var b [secretBytes]byte
	rand.Read(b[:]) // never fails: the runtime ends the process when the system has no randomness
	return online.Secret(base64.StdEncoding.EncodeToString(b[:]))
}

// NewSecret makes a client secret of 256 random bits in characters that need no escape anywhere.
func NewSecret() online.Secret {
	var b [secretBytes]byte
	rand.Read(b[:]) // never fails
	return online.Secret(base64.RawURLEncoding.EncodeToString(b[:]))
}

// Digest is what a key or token is compared by.
func Digest(clear string) [32]byte { return sha256.Sum256([]byte(clear)) }

// Names of an endpoint's keys, as index into the digests that MatchKey is given.
const (
	Primary   = 0
	Secondary = 1
)

// KeyName names the index that MatchKey gave, for records.
func KeyName(i int) string {
	switch i {
	case Primary:
		return "primary"
	case Secondary:
		return "secondary"
	}
	return ""
}

// MatchKey gives the index of the key that was presented, or -1. Its time depends only on the number of digests
// and the length of what was presented.
func MatchKey(presented string, digests [][32]byte) int {
	var room [4 * secretBytes]byte // a key fits, so that nothing is allocated
	d := sha256.Sum256(append(room[:0], presented...))
	found := -1
	for i := range digests {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(d[:], digests[i][:]), i, found)
	}
	return found
}
