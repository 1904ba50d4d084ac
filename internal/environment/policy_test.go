package environment

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func machine(versions ...string) []interpreter {
	var out []interpreter
	for _, v := range versions {
		r, _, err := parseRelease(v)
		if err != nil {
			panic(err)
		}
		out = append(out, interpreter{Path: "/p/" + v, Version: r})
	}
	return out
}

func TestChoose(t *testing.T) {
	all := machine("3.11.7", "3.10.13", "3.12.1", "3.13.0", "3.11.2")
	for _, c := range []struct {
		pin           string
		found         []interpreter
		policy        PythonPolicy
		want, warning string
		fault         bool
	}{
		{"", all, PolicyStrict, "3.11.7", "", false},
		{"python", all, PolicyStrict, "3.11.7", "", false},
		{"python=3", all, PolicyStrict, "3.11.7", "", false},
		{"python>=3.9", all, PolicyStrict, "3.11.7", "", false},
		{"python=3.12", all, PolicyStrict, "3.12.1", "", false},
		{"python=3.11", all, PolicyStrict, "3.11.7", "", false},
		{"python=3.11.2", all, PolicyStrict, "3.11.2", "", false},
		{"python=3.10.4", all, PolicyStrict, "3.10.13", "patch level", false},
		{"python>=3.12,<3.14", all, PolicyStrict, "3.13.0", "", false},
		{"python=3.9|=3.10", all, PolicyStrict, "3.10.13", "", false},
		{"python=3.9|3.10", all, PolicyStrict, "3.10.13", "patch level", false},
		{"python=3.9", all, PolicyStrict, "", "", true},
		{"python=3.9", all, PolicyNearest, "3.10.13", "nearest", false},
		{"python=3.14", all, PolicyNearest, "3.13.0", "nearest", false},
		{"python=3.11", machine("3.9.1", "3.13.0", "3.12.5", "3.12.4"), PolicyNearest, "3.12.5", "nearest", false},
		{"python<3.9", all, PolicyNearest, "3.10.13", "nearest", false},
		{"python>=3.20", all, PolicyNearest, "3.13.0", "nearest", false},
		{"python=2.7", all, PolicyNearest, "", "", true},
		{"python=3.11", nil, PolicyNearest, "", "", true},
	} {
		var wish [][]term
		if c.pin != "" {
			m, err := parseMatchSpec(c.pin)
			if err != nil {
				t.Fatal(err)
			}
			wish = m.Versions
		}
		in, warning, err := choose(c.found, wish, c.policy)
		if (err != nil) != c.fault {
			t.Errorf("%s (%s): error %v", c.pin, c.policy, err)
			continue
		}
		if c.fault {
			continue
		}
		if in.Version.String() != c.want || (warning == "") != (c.warning == "") || !strings.Contains(warning, c.warning) {
			t.Errorf("%s (%s): %s, %q; want %s, %q", c.pin, c.policy, in.Version, warning, c.want, c.warning)
		}
	}
}

// What meets the wish is taken without a word; what does not is never taken without one.
func TestChooseProperties(t *testing.T) {
	version := rapid.Custom(func(t *rapid.T) release {
		return release{3, rapid.IntRange(9, 14).Draw(t, "minor"), rapid.IntRange(0, 4).Draw(t, "patch")}
	})
	rapid.Check(t, func(t *rapid.T) {
		var found []interpreter
		for _, v := range rapid.SliceOfNDistinct(version, 1, 6, rapid.ID).Draw(t, "found") {
			found = append(found, interpreter{Path: "/p/" + v.String(), Version: v})
		}
		want := version.Draw(t, "wanted")
		op := rapid.SampledFrom([]string{"=", "==", ">=", "<=", "<", ">", "!=", "~="}).Draw(t, "op")
		text := want.minor()
		if rapid.Bool().Draw(t, "with patch") {
			text = want.String()
		}
		wish := [][]term{{{Op: op, Version: text}}}
		possible := len(meeting(found, wish, 3)) > 0
		strict, strictWarning, strictErr := choose(found, wish, PolicyStrict)
		in, warning, err := choose(found, wish, PolicyNearest)
		if err != nil {
			t.Fatalf("nearest refuses among %v for %s%s: %v", found, op, text, err)
		}
		if possible != (warning == "") || possible != (len(meeting([]interpreter{in}, wish, 3)) == 1) {
			t.Fatalf("%s%s among %v: %s with warning %q", op, text, found, in.Version, warning)
		}
		if strictErr == nil && (strict.Path != in.Path || strictWarning != warning) {
			t.Fatalf("strict takes %s and nearest %s", strict.Version, in.Version)
		}
		if strictErr == nil && len(meeting([]interpreter{strict}, wish, 2)) == 0 {
			t.Fatalf("strict takes %s for %s%s", strict.Version, op, text)
		}
	})
}
