package environment

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// matchSpec is one entry of a conda file's dependencies: [CHANNEL::]NAME [VERSION [BUILD]].
type matchSpec struct {
	Channel string
	Name    string // lower case
	// Versions holds alternatives (conda's '|'), each a list of terms that must all hold. Empty: any version.
	Versions [][]term
	Build    string
	text     string // as conda reads it, blanks tidied
}

// term is one comparison. Op is one of == != < <= > >= ~= or "=" (the version and everything below it: =1.2 holds
// for 1.2.7), and "!=*" for its negation.
type term struct {
	Op      string
	Version string // without a trailing ".*"
}

const negatedPrefix = "!=*"

var (
	condaName    = regexp.MustCompile(`^[a-z0-9_][a-z0-9_.-]*$`)
	condaVersion = regexp.MustCompile(`^[0-9][0-9a-zA-Z_.+!-]*$`)
	// The public part of PEP 440, which pip and uv accept; conda allows more (2024a_1, 1.1.1w).
	pep440 = regexp.MustCompile(`^(\d+!)?\d+(\.\d+)*((a|b|c|rc|alpha|beta|pre|preview)\d*)?(\.?post\d+)?(\.?dev\d+)?(\+[a-z0-9]+([._-][a-z0-9]+)*)?$`)
	// Where the name of a match spec ends.
	nameEnd = regexp.MustCompile(`[\s=<>!~\[]`)
)

// parseMatchSpec reads one dependency. The error says what is wrong with it, without its place.
func parseMatchSpec(text string) (matchSpec, error) {
	s := strings.TrimSpace(text)
	if s == "" {
		return matchSpec{}, fmt.Errorf("an empty dependency")
	}
	if strings.ContainsAny(s, "\n\r\x00") {
		return matchSpec{}, fmt.Errorf("dependency %.60q spans lines", s)
	}
	if strings.Contains(s, "://") || strings.HasSuffix(s, ".conda") || strings.HasSuffix(s, ".tar.bz2") {
		return matchSpec{}, fmt.Errorf("dependency %.80q is a file or an address; name the package instead", redact(s))
	}
	var m matchSpec
	if channel, rest, ok := strings.Cut(s, "::"); ok {
		m.Channel, s = strings.TrimSpace(channel), strings.TrimSpace(rest)
	}
	name, rest := s, ""
	if at := nameEnd.FindStringIndex(s); at != nil {
		name, rest = s[:at[0]], strings.TrimSpace(s[at[0]:])
	}
	m.Name = strings.ToLower(name)
	if !condaName.MatchString(m.Name) {
		return matchSpec{}, fmt.Errorf("dependency %.60q does not begin with a package name", text)
	}
	if strings.HasPrefix(rest, "[") {
		if strings.Count(rest, "[") != 1 || !strings.HasSuffix(rest, "]") {
			return matchSpec{}, fmt.Errorf("dependency %.60q has an unclosed '['", text)
		}
		var err error
		if rest, err = bracket(rest); err != nil {
			return matchSpec{}, fmt.Errorf("dependency %.60q: %w", text, err)
		}
	} else if strings.Contains(rest, "[") {
		return matchSpec{}, fmt.Errorf("dependency %.60q mixes a version with '[...]'", text)
	}
	version, build, err := splitBuild(rest)
	if err != nil {
		return matchSpec{}, fmt.Errorf("dependency %.60q: %w", text, err)
	}
	m.Build = build
	if m.Versions, err = parseVersions(version); err != nil {
		return matchSpec{}, fmt.Errorf("dependency %.60q: %w", text, err)
	}
	m.text = strings.Join(strings.Fields(strings.TrimSpace(text)), " ")
	return m, nil
}

// bracket reads [version='>=1', build=x] into the positional form "VERSION BUILD".
func bracket(s string) (string, error) {
	inner := strings.TrimSpace(strings.Trim(s, "[]"))
	var version, build string
	for inner != "" {
		key, rest, ok := strings.Cut(inner, "=")
		if !ok {
			return "", fmt.Errorf("'[...]' must hold name=value pairs")
		}
		var value string
		rest = strings.TrimSpace(rest)
		if rest != "" && (rest[0] == '\'' || rest[0] == '"') {
			end := strings.IndexByte(rest[1:], rest[0])
			if end < 0 {
				return "", fmt.Errorf("a quote in '[...]' is not closed")
			}
			value, rest = rest[1:end+1], strings.TrimSpace(rest[end+2:])
		} else {
			end := strings.IndexByte(rest, ',')
			if end < 0 {
				end = len(rest)
			}
			value, rest = strings.TrimSpace(rest[:end]), rest[end:]
		}
		switch strings.TrimSpace(key) {
		case "version":
			version = value
		case "build":
			build = value
		default:
			return "", fmt.Errorf("%q in '[...]' is not supported; version and build are", strings.TrimSpace(key))
		}
		if rest != "" && rest[0] != ',' {
			return "", fmt.Errorf("'[...]' must hold name=value pairs with commas between them")
		}
		inner = strings.TrimSpace(strings.TrimPrefix(rest, ","))
	}
	if version == "" && build != "" {
		version = "*"
	}
	return strings.TrimSpace(version + " " + build), nil
}

// splitBuild separates the version from the build string: "=1.2=py_0", "1.2 py_0", ">=1.2,<2".
func splitBuild(s string) (version, build string, err error) {
	fields := strings.Fields(s)
	// Blanks are allowed around operators and commas: ">= 1.2, < 2" is a version alone.
	var parts []string
	for _, f := range fields {
		const joining = "=<>!~,|"
		if n := len(parts); n > 0 && (strings.ContainsAny(parts[n-1][len(parts[n-1])-1:], joining) || strings.ContainsAny(f[:1], joining)) {
			parts[n-1] += f
		} else {
			parts = append(parts, f)
		}
	}
	switch len(parts) {
	case 0:
		return "", "", nil
	case 1:
		version = parts[0]
	case 2:
		return parts[0], parts[1], nil
	default:
		return "", "", fmt.Errorf("more than a version and a build after the name")
	}
	// NAME=VERSION=BUILD: a second '=' that does not belong to an operator.
	if strings.HasPrefix(version, "=") && !strings.HasPrefix(version, "==") {
		if v, b, ok := strings.Cut(version[1:], "="); ok && b != "" && b[0] != '=' && !strings.ContainsAny(v, "<>!~,|") {
			return "=" + v, b, nil
		}
	}
	return version, "", nil
}

// parseVersions reads a version expression; empty and "*" mean any.
func parseVersions(s string) ([][]term, error) {
	if s == "" || s == "*" || s == "=*" || s == "==*" {
		return nil, nil
	}
	if strings.ContainsAny(s, "()^$") {
		return nil, fmt.Errorf("version %.40q uses grouping or a regular expression, which is not supported", s)
	}
	var all [][]term
	for _, alternative := range strings.Split(s, "|") {
		var terms []term
		for _, one := range strings.Split(alternative, ",") {
			t, err := parseTerm(strings.TrimSpace(one))
			if err != nil {
				return nil, err
			}
			if t.Op != "" {
				terms = append(terms, t)
			}
		}
		if len(terms) == 0 {
			return nil, nil // one alternative allows everything
		}
		all = append(all, terms)
	}
	return all, nil
}

func parseTerm(s string) (term, error) {
	op := "=="
	for _, o := range []string{"==", "!=", "<=", ">=", "~=", "<", ">", "="} {
		if strings.HasPrefix(s, o) {
			op, s = o, strings.TrimSpace(s[len(o):])
			break
		}
	}
	if s == "*" {
		return term{}, nil
	}
	v, prefix := s, false
	if strings.HasSuffix(v, "*") {
		v, prefix = strings.TrimSuffix(strings.TrimSuffix(v, "*"), "."), true
	}
	if !condaVersion.MatchString(v) || strings.HasSuffix(v, ".") || strings.Contains(v, "..") {
		return term{}, fmt.Errorf("%.40q is not a version", s)
	}
	if prefix {
		switch op {
		case "==":
			op = "="
		case "!=":
			op = negatedPrefix
		case "<", ">":
			return term{}, fmt.Errorf("version %q: '%s' takes no '*'", s, op)
		}
	}
	return term{Op: op, Version: v}, nil
}

// requirement writes the spec as a requirement of the Python index under the given name.
func (m matchSpec) requirement(name string) (string, error) {
	if len(m.Versions) == 0 {
		return name, nil
	}
	if len(m.Versions) > 1 {
		return "", fmt.Errorf("%q offers alternatives ('|'), which the Python index has no words for; choose one range", m.text)
	}
	parts := make([]string, len(m.Versions[0]))
	for i, t := range m.Versions[0] {
		if !pep440.MatchString(t.Version) {
			return "", fmt.Errorf("%q: version %q is not one that the Python index has", m.text, t.Version)
		}
		switch t.Op {
		case "=":
			parts[i] = "==" + t.Version + ".*"
		case negatedPrefix:
			parts[i] = "!=" + t.Version + ".*"
		case "~=":
			if !strings.Contains(t.Version, ".") {
				return "", fmt.Errorf("%q: '~=' needs a version with at least two parts", m.text)
			}
			parts[i] = t.Op + t.Version
		default:
			parts[i] = t.Op + t.Version
		}
	}
	return name + strings.Join(parts, ","), nil
}

// release is a version of Python: major, minor, patch.
type release [3]int

// String prints all three parts.
func (r release) String() string { return fmt.Sprintf("%d.%d.%d", r[0], r[1], r[2]) }

// minor prints the first two parts.
func (r release) minor() string { return fmt.Sprintf("%d.%d", r[0], r[1]) }

func (r release) less(o release) bool {
	for i := range r {
		if r[i] != o[i] {
			return r[i] < o[i]
		}
	}
	return false
}

// parseRelease reads "3", "3.11" or "3.11.7" and says how many parts there were.
func parseRelease(s string) (release, int, error) {
	parts := strings.Split(s, ".")
	var r release
	if len(parts) > len(r) {
		return r, 0, fmt.Errorf("%q is not a version of Python", s)
	}
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 || n > 9999 || p[0] == '+' || p[0] == '-' {
			return r, 0, fmt.Errorf("%q is not a version of Python", s)
		}
		r[i] = n
	}
	return r, len(parts), nil
}

// holds says whether a Python version satisfies the term. parts limits the comparison: 2 ignores the patch level.
func (t term) holds(r release, parts int) bool {
	want, n, err := parseRelease(t.Version)
	if err != nil {
		return false
	}
	if parts < len(r) {
		// The patch level is open: the term holds when some patch level of this minor version satisfies it.
		return t.holdsForSomePatch(r, want)
	}
	samePrefix := true
	for i := 0; i < n; i++ {
		samePrefix = samePrefix && r[i] == want[i]
	}
	switch t.Op {
	case "=":
		return samePrefix
	case negatedPrefix:
		return !samePrefix
	case "==":
		return r == want
	case "!=":
		return r != want
	case "<":
		return r.less(want)
	case "<=":
		return !want.less(r)
	case ">":
		return want.less(r)
	case ">=":
		return !r.less(want)
	case "~=":
		if n == 3 {
			return r[0] == want[0] && r[1] == want[1] && r[2] >= want[2]
		}
		return r[0] == want[0] && !r.less(want)
	}
	return false
}

// lastPatch is above every patch level that Python has had.
const lastPatch = 9999

func (t term) holdsForSomePatch(r, want release) bool {
	low, high := release{r[0], r[1], 0}, release{r[0], r[1], lastPatch}
	exact := release{r[0], r[1], want[2]}
	return t.holds(low, 3) || t.holds(high, 3) || t.holds(exact, 3)
}
