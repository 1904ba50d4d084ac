package environment

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A build sees these of the server's environment variables and no others: where packages come from, how to reach
// there, and whom to trust on the way. The names in upper case are also taken in lower case where marked.
var (
	passedVariables = []string{
		"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_TRUSTED_HOST", "PIP_CERT",
		"PIP_CLIENT_CERT", "PIP_DEFAULT_TIMEOUT", "PIP_TIMEOUT", "PIP_RETRIES", "PIP_PROXY", "PIP_PREFER_BINARY",
		"PIP_ONLY_BINARY", "PIP_NO_BINARY", "PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "PIP_CONFIG_FILE",
		"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS",
		"UV_INDEX_STRATEGY", "UV_INSECURE_HOST", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_HTTP_TIMEOUT", "UV_OFFLINE",
		"UV_CONSTRAINT", "UV_BUILD_CONSTRAINT", "UV_CONFIG_FILE", "UV_EXCLUDE_NEWER",
		"CONDARC", "MAMBARC", "CONDA_CHANNEL_ALIAS", "CONDA_SSL_VERIFY", "MAMBA_SSL_VERIFY", "CONDA_OFFLINE",
		"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
	}
	passedBothCases = []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}

	// Of those, the ones that name files and directories, which a sandbox must show.
	pathVariables = []string{
		"PIP_FIND_LINKS", "PIP_CERT", "PIP_CLIENT_CERT", "PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "PIP_CONFIG_FILE",
		"UV_FIND_LINKS", "UV_CONSTRAINT", "UV_BUILD_CONSTRAINT", "UV_CONFIG_FILE", "CONDARC", "MAMBARC", "SSL_CERT_FILE",
		"SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
	}

	// Where name resolution and the machine's trust store are configured. Those that exist are shown.
	networkFiles = []string{
		"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl", "/etc/pki", "/etc/ca-certificates",
		"/etc/pip.conf", "/etc/xdg/pip", "/etc/uv",
	}
)

// pipForUv says which setting of uv stands for one of pip, so that a server whose owner set PIP_* installs from the
// same place whichever tool does it. What uv itself was told wins.
var pipForUv = []struct {
	pip, uv string
	over    []string // uv settings that make this one superfluous
	join    string   // pip separates several values by blanks
}{
	{"PIP_INDEX_URL", "UV_DEFAULT_INDEX", []string{"UV_DEFAULT_INDEX", "UV_INDEX_URL"}, ""},
	{"PIP_EXTRA_INDEX_URL", "UV_INDEX", []string{"UV_INDEX", "UV_EXTRA_INDEX_URL"}, " "},
	{"PIP_FIND_LINKS", "UV_FIND_LINKS", []string{"UV_FIND_LINKS"}, ","},
	{"PIP_TRUSTED_HOST", "UV_INSECURE_HOST", []string{"UV_INSECURE_HOST"}, " "},
	{"PIP_CERT", "SSL_CERT_FILE", []string{"SSL_CERT_FILE"}, ""},
	{"PIP_CONSTRAINT", "UV_CONSTRAINT", []string{"UV_CONSTRAINT"}, " "},
}

// settings are the allowed variables that the server has, and the paths that they name.
type settings struct {
	vars  map[string]string
	paths []string
}

func readSettings(getenv func(string) (string, bool)) settings {
	s := settings{vars: map[string]string{}}
	names := slices.Clone(passedVariables)
	for _, n := range passedBothCases {
		names = append(names, n, strings.ToLower(n))
	}
	for _, n := range names {
		if v, ok := getenv(n); ok && v != "" && !strings.ContainsRune(v, 0) {
			s.vars[n] = v
		}
	}
	var paths []string
	for _, n := range pathVariables {
		paths = append(paths, pathList(s.vars[n])...)
		if n == "SSL_CERT_DIR" {
			paths = append(paths, filepath.SplitList(s.vars[n])...)
		}
	}
	for _, p := range append(paths, networkFiles...) {
		p = strings.TrimPrefix(p, "file://")
		if !filepath.IsAbs(p) {
			continue
		}
		if _, err := os.Stat(p); err == nil {
			s.paths = append(s.paths, filepath.Clean(p))
			if real, err := filepath.EvalSymlinks(p); err == nil {
				s.paths = append(s.paths, real)
			}
		}
	}
	slices.Sort(s.paths)
	s.paths = slices.Compact(s.paths)
	return s
}

// pathList splits the value of a setting that names paths: pip puts blanks between several, uv commas.
func pathList(value string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return r == ' ' || r == ',' || r == '\n' })
}

// uvOptions are pip's settings that uv knows as an option only.
func (s settings) uvOptions() []string {
	switch strings.ToLower(s.vars["PIP_NO_INDEX"]) {
	case "1", "true", "yes", "on", "y", "t":
		return []string{"--no-index"}
	}
	return nil
}

// environ is the environment of a step with the given additions. forUv adds what pip's settings mean to uv.
func (s settings) environ(forUv bool, more ...string) []string {
	vars := map[string]string{"LC_ALL": "C.UTF-8"}
	for n, v := range s.vars {
		vars[n] = v
	}
	if forUv {
		for _, m := range pipForUv {
			v, set := s.vars[m.pip]
			if !set || slices.ContainsFunc(m.over, func(n string) bool { return s.vars[n] != "" }) {
				continue
			}
			if m.join != "" {
				v = strings.Join(strings.Fields(v), m.join)
			}
			vars[m.uv] = v
		}
	}
	for _, kv := range more {
		n, v, _ := strings.Cut(kv, "=")
		vars[n] = v
	}
	out := make([]string, 0, len(vars))
	for n, v := range vars {
		out = append(out, n+"="+v)
	}
	slices.Sort(out)
	return out
}
