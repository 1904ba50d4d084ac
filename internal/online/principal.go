package online

import "log/slog"

// Principal is who gives a command.
type Principal struct {
	ID   string // object id
	Name string // shown in activity and systemData
}

// System is the server acting by itself.
var System = Principal{ID: "system", Name: "portico"}

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
