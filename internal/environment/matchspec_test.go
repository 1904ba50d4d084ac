package environment

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMatchSpecRequirement(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"numpy", "numpy"},
		{"NumPy", "numpy"},
		{"numpy=1.26", "numpy==1.26.*"},
		{"numpy=1.26.*", "numpy==1.26.*"},
		{"numpy==1.26.4", "numpy==1.26.4"},
		{"numpy 1.26.4", "numpy==1.26.4"},
		{"numpy 1.26.*", "numpy==1.26.*"},
		{"numpy >=1.26", "numpy>=1.26"},
		{"numpy>=1.26,<2", "numpy>=1.26,<2"},
		{"numpy >= 1.26, < 2.0a0", "numpy>=1.26,<2.0a0"},
		{"numpy>=1.26.*", "numpy>=1.26"},
		{"numpy!=1.26.1", "numpy!=1.26.1"},
		{"numpy!=1.26.*", "numpy!=1.26.*"},
		{"numpy~=1.26", "numpy~=1.26"},
		{"numpy=*", "numpy"},
		{"numpy *", "numpy"},
		{"numpy>=1.2,*", "numpy>=1.2"},
		{"numpy=1.26.4=py311h64a7726_0", "numpy==1.26.4.*"},
		{"numpy==1.26.4=py311_0", ""},
		{"numpy 1.26.4 py311h64a7726_0", "numpy==1.26.4"},
		{"conda-forge::numpy=1.26", "numpy==1.26.*"},
		{"conda-forge/linux-64::numpy", "numpy"},
		{"numpy[version='>=1.26,<2']", "numpy>=1.26,<2"},
		{"numpy[version=1.26.4, build=py_0]", "numpy==1.26.4"},
		{`numpy[build="py_0"]`, "numpy"},
		{"numpy=1.25|1.26", ""},
		{"openssl=1.1.1w", ""},
		{"numpy=latest", ""},
		{"numpy==", ""},
		{"numpy>=", ""},
		{"numpy>=1..2", ""},
		{"numpy>*", "numpy"},
		{"numpy>1.*", ""},
		{"numpy~=1", ""},
		{"numpy (>=1)", ""},
		{"numpy^1.2", ""},
		{"numpy 1 2 3", ""},
		{"numpy[version='1", ""},
		{"numpy[subdir=linux-64]", ""},
		{"numpy>=1[version='2']", ""},
		{"=1.2", ""},
		{"", ""},
		{"   ", ""},
		{"a\nb", ""},
		{"https://example.org/x.conda", ""},
		{"numpy-1.26-py311.tar.bz2", ""},
		{"../numpy", ""},
		{"-c defaults", ""},
		{"nümpy", ""},
	} {
		m, err := parseMatchSpec(c.in)
		got := ""
		if err == nil {
			got, err = m.requirement(m.Name)
		}
		if c.want == "" && err == nil {
			t.Errorf("%q: accepted as %q, want an error", c.in, got)
		}
		if c.want != "" && (err != nil || got != c.want) {
			t.Errorf("%q: got %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

// Whatever the text, reading it ends without a panic, and what was accepted reads the same again.
func TestMatchSpecProperties(t *testing.T) {
	alphabet := []rune("abnp19.*=<>!~,|[]'\" :_-+")
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom(alphabet), 0, 24, -1).Draw(t, "text")
		m, err := parseMatchSpec(text)
		if err != nil {
			return
		}
		again, err := parseMatchSpec(m.text)
		if err != nil {
			t.Fatalf("%q was accepted, its own form %q is not: %v", text, m.text, err)
		}
		a, errA := m.requirement("x")
		b, errB := again.requirement("x")
		if a != b || (errA == nil) != (errB == nil) {
			t.Fatalf("%q: %q (%v) and then %q (%v)", text, a, errA, b, errB)
		}
		if errA == nil && strings.ContainsAny(a, " |[]'\"\n") {
			t.Fatalf("%q became %q", text, a)
		}
	})
}

func TestTermHolds(t *testing.T) {
	for _, c := range []struct {
		spec, version string
		full, minor   bool
	}{
		{"python=3.11", "3.11.7", true, true},
		{"python=3.11", "3.12.0", false, false},
		{"python=3.11.7", "3.11.7", true, true},
		{"python=3.11.7", "3.11.2", false, true},
		{"python==3.11.7", "3.11.2", false, true},
		{"python==3.11", "3.11.2", false, true},
		{"python=3", "3.13.1", true, true},
		{"python>=3.10", "3.10.0", true, true},
		{"python>=3.11.5", "3.11.2", false, true},
		{"python>3.11.5", "3.10.9", false, false},
		{"python<3.12", "3.12.0", false, false},
		{"python<3.12", "3.11.9", true, true},
		{"python<=3.11", "3.11.4", false, true},
		{"python!=3.11.*", "3.11.4", false, false},
		{"python!=3.11.4", "3.11.4", false, true},
		{"python~=3.10", "3.12.1", true, true},
		{"python~=3.10.2", "3.10.9", true, true},
		{"python~=3.10.2", "3.11.0", false, false},
	} {
		m, err := parseMatchSpec(c.spec)
		if err != nil {
			t.Fatal(err)
		}
		v, _, err := parseRelease(c.version)
		if err != nil {
			t.Fatal(err)
		}
		term := m.Versions[0][0]
		if got := term.holds(v, 3); got != c.full {
			t.Errorf("%s holds for %s: %v, want %v", c.spec, c.version, got, c.full)
		}
		if got := term.holds(v, 2); got != c.minor {
			t.Errorf("%s holds for some patch level of %s: %v, want %v", c.spec, c.version, got, c.minor)
		}
	}
}
