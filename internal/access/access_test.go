package access_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"portico/internal/access"
	"portico/internal/online"
)

func TestNewKey(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		k := access.NewKey()
		raw, err := base64.StdEncoding.DecodeString(k.Reveal())
		if err != nil || len(raw) != 32 || len(k.Reveal()) != 44 {
			t.Fatalf("a key of %d characters: %v", len(k.Reveal()), err)
		}
		if seen[k.Reveal()] {
			t.Fatal("a key came twice")
		}
		seen[k.Reveal()] = true
		if token, err := access.Bearer("Bearer " + k.Reveal()); err != nil || token != k.Reveal() {
			t.Fatalf("a key that cannot be sent: %v", err)
		}
	}
}

func TestMatchKey(t *testing.T) {
	both := [][32]byte{access.Digest("one"), access.Digest("two")}
	for presented, want := range map[string]int{
		"one": access.Primary, "two": access.Secondary, "": -1, "One": -1, "one ": -1, "onetwo": -1,
	} {
		if got := access.MatchKey(presented, both); got != want {
			t.Errorf("MatchKey(%q) = %d, want %d", presented, got, want)
		}
	}
	if access.MatchKey("one", nil) != -1 {
		t.Error("an endpoint without keys lets callers in")
	}
	key := access.NewKey().Reveal()
	if n := testing.AllocsPerRun(100, func() { access.MatchKey(key, both) }); n != 0 {
		t.Errorf("MatchKey allocates %v times", n)
	}
	for i, want := range map[int]string{0: "primary", 1: "secondary", -1: "", 2: ""} {
		if got := access.KeyName(i); got != want {
			t.Errorf("KeyName(%d) = %q", i, got)
		}
	}
}

func TestBearer(t *testing.T) {
	for value, want := range map[string]string{
		"Bearer abc": "abc", "bearer abc": "abc", "BEARER   abc": "abc", "Bearer a.b-c_d~e+f/g==": "a.b-c_d~e+f/g==",
		"Bearer " + strings.Repeat("x", 16<<10): strings.Repeat("x", 16<<10),
	} {
		if got, err := access.Bearer(value); err != nil || got != want {
			t.Errorf("Bearer(%.40q) = %.40q, %v", value, got, err)
		}
	}
	if _, err := access.Bearer(""); !errors.Is(err, access.ErrNoCredential) {
		t.Errorf("empty: %v", err)
	}
	for _, value := range []string{
		"Bearer", "Bearer ", "Bearer  ", "Bearerabc", "Basic abc", " Bearer abc", "Bearer abc ", "Bearer a b", "Bearer a,b",
		"Bearer =", "Bearer a=b", "Bearer\tabc", "Bearer \tabc", "Bearer a\x00b", "Bearer ä", "abc", "Bearer abc, Bearer def",
		"Bearer " + strings.Repeat("x", 16<<10+1), "\x42earer\x00abc", "Bearez abc",
	} {
		if got, err := access.Bearer(value); !errors.Is(err, access.ErrMalformed) {
			t.Errorf("Bearer(%.40q) = %q, %v", value, got, err)
		}
	}
}

// TestBearerProperty: whatever is accepted is the end of the value, and holds no space, comma or control character.
func TestBearerProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.OneOf(rapid.String(), rapid.StringMatching(`[Bb]earer {1,3}[ -~]{0,20}`)).Draw(t, "value")
		got, err := access.Bearer(value)
		if err != nil {
			return
		}
		if got == "" || !strings.HasSuffix(value, " "+got) || strings.ContainsAny(got, " ,;\"\t\r\n\x00") {
			t.Fatalf("Bearer(%q) = %q", value, got)
		}
	})
}

func TestVerifier(t *testing.T) {
	var v access.Verifier
	token := access.NewKey()
	admin := online.Principal{ID: "1", Name: "admin"}
	if _, err := v.Verify("Bearer " + token.Reveal()); !online.IsCode(err, online.CodeUnauthorized) {
		t.Fatalf("a verifier without tokens: %v", err)
	}
	v.Add(token, admin)
	if p, err := v.Verify("Bearer " + token.Reveal()); err != nil || p != admin {
		t.Fatalf("%v, %v", p, err)
	}
	for _, value := range []string{"", "Bearer", "Basic abc", "Bearer " + access.NewKey().Reveal(), token.Reveal()} {
		_, err := v.Verify(value)
		if !online.IsCode(err, online.CodeUnauthorized) {
			t.Errorf("Verify(%q): %v", value, err)
		}
		if value != "" && len(value) > 10 && strings.Contains(fmt.Sprint(err), value) {
			t.Errorf("the error repeats what was presented: %v", err)
		}
	}
	if _, err := v.Verify(""); !errors.Is(err, access.ErrNoCredential) {
		t.Errorf("the cause is lost: %v", err)
	}
}

func BenchmarkMatchKey(b *testing.B) {
	key := access.NewKey().Reveal()
	digests := [][32]byte{access.Digest(key), access.Digest("other")}
	b.ReportAllocs()
	for b.Loop() {
		if access.MatchKey(key, digests) != access.Primary {
			b.Fatal("no match")
		}
	}
}
