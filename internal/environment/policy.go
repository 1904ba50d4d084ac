package environment

import (
	"fmt"
	"slices"
	"strings"

	"portico/internal/online"
)

// choose picks the interpreter for a wish. wish holds alternatives of terms as conda has them; empty means any. The
// warning says in which way the choice differs from the wish.
//
//  1. The first interpreter (in order of preference) that meets the wish when it is the preferred one of the machine,
//     else the newest that meets it.
//  2. The newest whose minor version meets the wish: patch levels of one minor version are compatible by promise.
//  3. Under PolicyNearest, of the same major version, the nearest newer minor version, else the nearest older.
//
// An interpreter older than Minimum is never in found.
func choose(found []interpreter, wish [][]term, policy PythonPolicy) (interpreter, string, error) {
	if len(found) == 0 {
		return interpreter{}, "", online.Errorf(online.CodeImageBuildFailure, "",
			"no Python %s or newer is on the server; install one (for example python3 and python3-venv)", Minimum.minor())
	}
	if met := meeting(found, wish, 3); len(met) > 0 {
		if met[0].Path == found[0].Path {
			return found[0], "", nil
		}
		return newest(met), "", nil
	}
	if met := meeting(found, wish, 2); len(met) > 0 {
		in := newest(met)
		return in, fmt.Sprintf("Python %s was asked for; the server has %s and uses that patch level", wishText(wish), in.Version), nil
	}
	have := strings.Join(minors(found), ", ")
	if policy == PolicyStrict {
		return interpreter{}, "", online.Errorf(online.CodeImageBuildFailure, "",
			"Python %s was asked for and is not on the server, which has %s. Change the pin, install that version, or "+
				"set python_version_policy to nearest", wishText(wish), have)
	}
	in, ok := nearest(found, wish)
	if !ok {
		return interpreter{}, "", online.Errorf(online.CodeImageBuildFailure, "",
			"Python %s was asked for; the server has %s, none of the same major version. Change the pin", wishText(wish), have)
	}
	return in, fmt.Sprintf("Python %s was asked for and is not on the server; the nearest, %s, is used instead "+
		"(python_version_policy: nearest)", wishText(wish), in.Version), nil
}

func meeting(found []interpreter, wish [][]term, parts int) []interpreter {
	if len(wish) == 0 {
		return found
	}
	var met []interpreter
	for _, in := range found {
		if slices.ContainsFunc(wish, func(terms []term) bool {
			return !slices.ContainsFunc(terms, func(t term) bool { return !t.holds(in.Version, parts) })
		}) {
			met = append(met, in)
		}
	}
	return met
}

func newest(list []interpreter) interpreter {
	best := list[0]
	for _, in := range list[1:] {
		if best.Version.less(in.Version) {
			best = in
		}
	}
	return best
}

// nearest looks around the version that the wish names; of several, the first alternative's first one. For an upper
// bound (<3.9) the wanted version is the minor version below it.
func nearest(found []interpreter, wish [][]term) (interpreter, bool) {
	t := wish[0][0]
	want, n, err := parseRelease(t.Version)
	if err != nil || n < 1 {
		return interpreter{}, false
	}
	if t.Op == "<" && want[2] == 0 && want[1] > 0 {
		want[1]--
	}
	var newer, older []interpreter
	for _, in := range found {
		switch {
		case in.Version[0] != want[0]:
		case in.Version[1] >= want[1]:
			newer = append(newer, in)
		default:
			older = append(older, in)
		}
	}
	if len(newer) > 0 {
		low := slices.MinFunc(newer, func(a, b interpreter) int { return a.Version[1] - b.Version[1] }).Version[1]
		return newest(slices.DeleteFunc(newer, func(in interpreter) bool { return in.Version[1] != low })), true
	}
	if len(older) > 0 {
		return newest(older), true
	}
	return interpreter{}, false
}

func minors(found []interpreter) []string {
	versions := make([]release, len(found))
	for i, in := range found {
		versions[i] = in.Version
	}
	slices.SortFunc(versions, func(a, b release) int { return slices.Compare(a[:], b[:]) })
	var out []string
	for _, v := range versions {
		out = append(out, v.String())
	}
	return slices.Compact(out)
}

func wishText(wish [][]term) string {
	var alternatives []string
	for _, terms := range wish {
		var parts []string
		for _, t := range terms {
			switch t.Op {
			case "=":
				parts = append(parts, t.Version)
			case negatedPrefix:
				parts = append(parts, "!="+t.Version+".*")
			default:
				parts = append(parts, t.Op+t.Version)
			}
		}
		alternatives = append(alternatives, strings.Join(parts, ","))
	}
	return strings.Join(alternatives, "|")
}
