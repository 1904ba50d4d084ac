package online

import (
	"testing"

	"pgregory.net/rapid"
)

// TestDistance checks the laws that make a suggestion trustworthy.
func TestDistance(t *testing.T) {
	word := rapid.StringMatching(`[a-z_]{0,12}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		d := distance(a, b)
		switch {
		case d != distance(b, a):
			t.Fatalf("not symmetric: %q %q", a, b)
		case (d == 0) != (a == b):
			t.Fatalf("distance(%q, %q) = %d", a, b, d)
		case d > max(len(a), len(b)) || d < max(len(a), len(b))-min(len(a), len(b)):
			t.Fatalf("distance(%q, %q) = %d is out of bounds", a, b, d)
		}
	})
	if distance("instnce", "instance") != 1 || distance("isntance", "instance") != 1 || distance("auht", "auth") != 1 {
		t.Error("known distances are wrong")
	}
}
