package environment

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
)

const (
	maxMetadata = 256 << 10 // bytes read of one package's description
	maxPackages = 20000     // packages listed
)

var (
	versionText = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+!-]{0,127}$`)
	packageText = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
)

// installed reads which packages an environment has from their own records. No code of the environment runs for
// it, and what the build left is not trusted: links out of the tree are not followed, odd names are passed over.
func installed(venv string) (packages, conda []string, err error) {
	root, err := os.OpenRoot(venv)
	if err != nil {
		return nil, nil, fmt.Errorf("list the packages: %w", err)
	}
	defer func() { _ = root.Close() }() // it was only read through
	files := root.FS()
	for _, pattern := range []string{
		"lib/python3.*/site-packages/*.dist-info/METADATA", "lib/python3.*/site-packages/*.egg-info/PKG-INFO",
	} {
		found, err := fs.Glob(files, pattern)
		if err != nil {
			return nil, nil, fmt.Errorf("list the packages: %w", err)
		}
		for _, name := range found[:min(len(found), maxPackages)] {
			if line := packageLine(root, name); line != "" {
				packages = append(packages, line)
			}
		}
	}
	found, err := fs.Glob(files, "conda-meta/*.json")
	if err != nil {
		return nil, nil, fmt.Errorf("list the packages: %w", err)
	}
	for _, name := range found[:min(len(found), maxPackages)] {
		if line := condaLine(root, name); line != "" {
			conda = append(conda, line)
		}
	}
	slices.Sort(packages)
	slices.Sort(conda)
	return slices.Compact(packages), slices.Compact(conda), nil
}

// packageLine is one line of the lock file: name==version, or name @ address for what came from one.
func packageLine(root *os.Root, metadata string) string {
	f, err := root.Open(metadata)
	if err != nil {
		return ""
	}
	defer f.Close()
	var name, version string
	lines := bufio.NewScanner(io.LimitReader(f, maxMetadata))
	lines.Buffer(nil, maxMetadata)
	for lines.Scan() && lines.Text() != "" && (name == "" || version == "") {
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch key {
		case "Name":
			name = strings.TrimSpace(value)
		case "Version":
			version = strings.TrimSpace(value)
		}
	}
	if !packageText.MatchString(name) || !versionText.MatchString(version) {
		return ""
	}
	if url := directURL(root, strings.TrimSuffix(metadata, "METADATA")+"direct_url.json"); url != "" {
		return normalName(name) + " @ " + url
	}
	return normalName(name) + "==" + version
}

// directURL reads where a package came from when that was not an index (PEP 610).
func directURL(root *os.Root, name string) string {
	var origin struct {
		URL string `json:"url"`
		VCS struct {
			Name   string `json:"vcs"`
			Commit string `json:"commit_id"`
		} `json:"vcs_info"`
	}
	if !readJSON(root, name, &origin) || origin.URL == "" || strings.ContainsAny(origin.URL, " \n\r\t") {
		return ""
	}
	if versionText.MatchString(origin.VCS.Name) && versionText.MatchString(origin.VCS.Commit) {
		return origin.VCS.Name + "+" + redact(origin.URL) + "@" + origin.VCS.Commit
	}
	return redact(origin.URL)
}

func condaLine(root *os.Root, name string) string {
	var p struct{ Name, Version, Build string }
	if !readJSON(root, name, &p) || !packageText.MatchString(p.Name) || !versionText.MatchString(p.Version) ||
		!packageText.MatchString(p.Build) {
		return ""
	}
	return p.Name + "=" + p.Version + "=" + p.Build
}

func readJSON(root *os.Root, name string, into any) bool {
	f, err := root.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	// conda's records list every file of a package: only the beginning of the stream is bounded, by the decoder's need.
	return json.NewDecoder(io.LimitReader(f, 64<<20)).Decode(into) == nil
}

// lockText is the lock file: what a person can hand to pip to get the same packages again.
func lockText(r *record, packages, conda []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# environment %s, Python %s, %s, installed by %s\n", r.ID, r.PythonVersion, platform(), r.Tool)
	for _, line := range conda {
		fmt.Fprintf(&b, "# conda: %s\n", line)
	}
	for _, line := range packages {
		b.WriteString(line + "\n")
	}
	return b.String()
}
