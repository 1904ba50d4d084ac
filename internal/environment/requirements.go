package environment

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// requirements is the text of a pip requirements file, read as far as deciding needs: what is an option, what is a
// package, and what a build cannot honour. The resolver remains the judge of the rest.
type requirements struct {
	Options  []string // index and format options, in order: the order of indexes matters
	Packages []string // one requirement each
}

const requirementsTarget = "requirements"

// Options of a requirements file that a build passes on. true: the option takes a value.
var passedOptions = map[string]bool{
	"--index-url": true, "--extra-index-url": true, "--find-links": true, "--trusted-host": true,
	"--only-binary": true, "--no-binary": true,
	"--no-index": false, "--pre": false, "--prefer-binary": false, "--require-hashes": false,
}

var shortOptions = map[string]string{"-i": "--index-url", "-f": "--find-links"}

var (
	requirementName = regexp.MustCompile(`^([A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9])(\s*\[[^\]]*\])?\s*($|[=<>!~;@(,]|--)`)
	variableUse     = regexp.MustCompile(`\$\{?[A-Za-z_]`)
	comment         = regexp.MustCompile(`(^|\s)#.*$`)
)

// parseRequirements reads requirements text; target is the field to blame.
func parseRequirements(text, target string) (*requirements, error) {
	if len(text) > MaxSpecBytes {
		return nil, badSpec(target, "the requirements have %d bytes; at most %d are allowed", len(text), MaxSpecBytes)
	}
	r := &requirements{}
	logical, number := "", 0
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, line := range lines {
		if logical == "" {
			number = i + 1
		}
		line = comment.ReplaceAllString(line, "")
		if strings.HasSuffix(line, `\`) && i+1 < len(lines) {
			logical += strings.TrimSuffix(line, `\`) + " "
			continue
		}
		logical = strings.Join(strings.Fields(logical+line), " ")
		if logical != "" {
			if err := r.add(logical); err != nil {
				return nil, badSpec(target, "line %d of the pip requirements: %v", number, err)
			}
		}
		logical = ""
	}
	if len(r.Packages) > MaxDependencies {
		return nil, badSpec(target, "%d requirements; at most %d are allowed", len(r.Packages), MaxDependencies)
	}
	return r, nil
}

func (r *requirements) add(line string) error {
	shown := redact(line)
	for _, c := range line {
		if c < ' ' || c == 0x7f {
			return fmt.Errorf("%.60q holds a control character", shown)
		}
	}
	if variableUse.MatchString(line) {
		return fmt.Errorf("%.80q uses an environment variable, and a build sees none of the deployment's", shown)
	}
	if line[0] == '-' {
		return r.addOption(line, shown)
	}
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "/") || strings.HasPrefix(line, "file:") ||
		strings.Contains(line, "@ file:") || strings.Contains(line, "@ .") || strings.Contains(line, "@ /") {
		return fmt.Errorf("%.80q is a path of another machine; name a package, or an address that the server reaches", shown)
	}
	if strings.Contains(line, "://") {
		r.Packages = append(r.Packages, line)
		return nil
	}
	if !requirementName.MatchString(line) {
		return fmt.Errorf("%.80q is not a requirement: write NAME, NAME==VERSION or NAME>=VERSION", shown)
	}
	r.Packages = append(r.Packages, line)
	return nil
}

func (r *requirements) addOption(line, shown string) error {
	name, value, _ := strings.Cut(strings.Replace(line, " ", "=", 1), "=")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if long, ok := shortOptions[name]; ok {
		name = long
	}
	switch name {
	case "-r", "--requirement", "-c", "--constraint":
		return fmt.Errorf("%.80q refers to a file that is not part of the environment; write its lines here instead", shown)
	case "-e", "--editable":
		return fmt.Errorf("%.80q installs a working copy; name a released package, or put the code beside the scoring script", shown)
	}
	takes, known := passedOptions[name]
	switch {
	case !known:
		return fmt.Errorf("option %.40q is not supported; supported are %s", name, optionNames())
	case takes && value == "":
		return fmt.Errorf("option %s needs a value", name)
	case !takes && value != "":
		return fmt.Errorf("option %s takes no value", name)
	case name == "--find-links" && !strings.Contains(value, "://"), strings.HasPrefix(value, "file:"):
		return fmt.Errorf("%.80q is a path of another machine; give an address that the server reaches", shown)
	case takes:
		r.Options = append(r.Options, name+" "+value)
	default:
		r.Options = append(r.Options, name)
	}
	return nil
}

func optionNames() string {
	names := make([]string, 0, len(passedOptions))
	for n := range passedOptions {
		names = append(names, n)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// text is the requirements file that a tool is given.
func (r *requirements) text() string {
	return strings.Join(append(slices.Clone(r.Options), r.Packages...), "\n") + "\n"
}

// names are the normalised names of the packages (PEP 503), without those given by address alone.
func (r *requirements) names() []string {
	var out []string
	for _, p := range r.Packages {
		end := strings.IndexFunc(p, func(c rune) bool {
			return c != '.' && c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
		})
		if end < 0 {
			end = len(p)
		}
		if !strings.HasPrefix(p[end:], "://") && !strings.HasPrefix(p[end:], "+") {
			out = append(out, normalName(p[:end]))
		}
	}
	return out
}

var nameRuns = regexp.MustCompile(`[-_.]+`)

// normalName is the name by which the index knows a package (PEP 503).
func normalName(name string) string { return nameRuns.ReplaceAllString(strings.ToLower(name), "-") }
