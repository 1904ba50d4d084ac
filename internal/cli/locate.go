package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"portico/internal/online"
)

// Environment variables that say where the server is. PORTICO_DATA_DIR goes before PORTICO_URL.
const (
	envDataDir = "PORTICO_DATA_DIR"
	envURL     = "PORTICO_URL"
	envToken   = "PORTICO_TOKEN"
	envCAFile  = "PORTICO_CA_FILE"
)

// defaultDataDir is where `portico serve` keeps its data when nobody says otherwise.
const defaultDataDir = "~/.portico"

// place is a server that commands talk to.
type place struct {
	ManagementURL string
	ScoringURL    string // empty when the server was named by its URL
	CAFile        string // empty: the system's certificate authorities
	Token         online.Secret
	found         string // how it was found, for messages

	// Of a server on this machine, for other programs; empty when it was named by its URL, or does not have them.
	DataDir         string // absolute
	IdentityURL     string // where managed identities ask for tokens, without TLS
	InterceptURL    string // the proxy that answers for Azure's host names
	InterceptCAFile string
	Passthrough     bool // that proxy reaches other hosts too
}

// readyFile is what a running server writes into its data directory once it serves requests.
type readyFile struct {
	PID            int    `json:"pid"`
	ManagementURL  string `json:"management_url"`
	ScoringURL     string `json:"scoring_url"`
	ScoringHTTPURL string `json:"scoring_http_url"`
	CAFile         string `json:"ca_file"`
	IdentityURL    string `json:"identity_url"`

	InterceptURL         string `json:"intercept_url"`
	InterceptCAFile      string `json:"intercept_ca_file"`
	InterceptPassthrough bool   `json:"intercept_passthrough"`
}

// locate finds the server: the data directory of --data-dir or PORTICO_DATA_DIR, else PORTICO_URL, else the default
// data directory.
func locate(flagDir string, getenv func(string) string) (place, error) {
	dir, from := flagDir, "--data-dir"
	if dir == "" {
		dir, from = getenv(envDataDir), envDataDir
	}
	if dir == "" && getenv(envURL) != "" {
		return fromEnvironment(getenv)
	}
	if dir == "" {
		dir, from = defaultDataDir, "the default data directory"
	}
	dir, err := expandHome(dir)
	if err != nil {
		return place{}, err
	}
	return fromDataDir(dir, from)
}

func fromEnvironment(getenv func(string) string) (place, error) {
	p := place{
		ManagementURL: strings.TrimRight(getenv(envURL), "/"), CAFile: getenv(envCAFile),
		Token: online.Secret(getenv(envToken)), found: envURL,
	}
	if p.Token == "" {
		return place{}, usagef("%s is set but %s is not; set it to a token of that server "+
			"(the administrator's is the file admin.token in its data directory)",
			envURL, envToken)
	}
	return p, nil
}

func fromDataDir(dir, from string) (place, error) {
	text, err := os.ReadFile(filepath.Join(dir, "server.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return place{}, &unreachableError{msg: fmt.Sprintf(
			"no server runs on %s (%s); start one with `portico serve`, name its data directory with --data-dir, "+
				"or set %s, %s and %s",
			dir, from, envURL, envToken, envCAFile)}
	}
	if err != nil {
		return place{}, &unreachableError{msg: fmt.Sprintf("cannot read the server's ready file: %v", err), cause: err}
	}
	var ready readyFile
	if err := json.Unmarshal(text, &ready); err != nil || ready.ManagementURL == "" {
		return place{}, &unreachableError{msg: fmt.Sprintf("%s does not name a server; start one with `portico serve`",
			filepath.Join(dir, "server.json")), cause: err}
	}
	token, err := os.ReadFile(filepath.Join(dir, "admin.token"))
	if err != nil {
		return place{}, &unreachableError{msg: fmt.Sprintf("cannot read the administrator's token: %v; run this as the owner of the server", err), cause: err}
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return place{}, fmt.Errorf("find %s: %w", dir, err)
	}
	return place{
		ManagementURL: strings.TrimRight(ready.ManagementURL, "/"), ScoringURL: strings.TrimRight(ready.ScoringURL, "/"),
		CAFile: ready.CAFile, Token: online.Secret(strings.TrimSpace(string(token))), found: dir,
		DataDir: absolute, IdentityURL: strings.TrimRight(ready.IdentityURL, "/"), InterceptURL: ready.InterceptURL,
		InterceptCAFile: ready.InterceptCAFile, Passthrough: ready.InterceptPassthrough,
	}, nil
}

// expandHome replaces a leading ~ by the home directory.
func expandHome(path string) (string, error) {
	rest, ok := strings.CutPrefix(path, "~")
	if !ok || rest != "" && rest[0] != '/' {
		return path, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the home directory: %w", err)
	}
	return filepath.Join(home, rest), nil
}
