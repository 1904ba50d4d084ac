package online

import "log/slog"

// Principal is who gives a command.
type Principal struct {
	ID   string // object id
	Name string // shown in activity and systemData
}

// System is the server acting by itself.
var System = Principal{ID: "system", Name: "portico"}

// Administrator is who the token in the data directory acts as.
var Administrator = Principal{ID: "00000000-0000-0000-0000-00000000ad01", Name: "administrator"}

// PrincipalSpec is a principal as it is kept: one that a person made (KindPrincipal), or a user-assigned identity
// (KindUserIdentity). A system-assigned identity has no record: it is its endpoint's UID.
type PrincipalSpec struct {
	ObjectID string `json:"objectId"` // UUID; the oid of its tokens
	ClientID string `json:"clientId"` // UUID; the appid of its tokens
	// SecretDigest is the SHA-256 of the client secret in hexadecimal; empty for an identity, which has none.
	SecretDigest string `json:"secretDigest,omitempty"`
}

// MaxPrincipals bounds the principals that people made.
const MaxPrincipals = 1000

const redacted = "[redacted]"

// Secret is a text that must never be seen by accident. Printing, logging and JSON show "[redacted]"; Reveal
// gives the text to the few places that need it.
type Secret string

// Reveal gives the clear text.
func (s Secret) Reveal() string { return string(s) }

// String hides the text.
func (Secret) String() string { return redacted }

// GoString hides the text.
func (Secret) GoString() string { return redacted }

// MarshalJSON hides the text.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText hides the text.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue hides the text.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
