package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"

	"portico/internal/arm"
	"portico/internal/intercept"
)

// clientCheck tries the Python clients.
//
//go:embed clientcheck.py
var clientCheck string

// Bounds of a check.
const (
	checkTimeout  = 2 * time.Minute // of one family; importing azure-ai-ml alone may take many seconds
	checkMaxBytes = 1 << 20         // of what a client prints
)

// trial is what one client did: what it found is the workspace's own id, which nobody but the server knows.
type trial struct {
	Client  string `json:"client"`
	Version string `json:"version"` // empty: the client is not here
	Found   string `json:"found"`
	Error   string `json:"error"`
}

// checked is the outcome for one client.
type checked struct {
	Client  string `json:"client"`
	Version string `json:"version"`
	State   string `json:"state"` // reached | failed | missing
	Detail  string `json:"detail"`
}

// check tries every family of clients in the environment that is printed, and fails if one of those that are here
// did not reach the server.
func (e *clientEnvironment) check(ctx context.Context, a *App, python string, asJSON bool) error {
	path := arm.FormatWorkspace(e.scope)
	var workspace struct {
		Properties struct {
			WorkspaceID string `json:"workspaceId"`
		} `json:"properties"`
	}
	if _, err := e.client.get(ctx, path, nil, &workspace); err != nil {
		return err
	}
	var trials []trial
	for _, family := range []func(context.Context, string) []trial{e.checkCurl, e.checkGo,
		func(ctx context.Context, path string) []trial { return e.checkPython(ctx, python, path) }} {
		limited, cancel := context.WithTimeout(ctx, checkTimeout)
		trials = append(trials, family(limited, path)...)
		cancel()
	}
	var all []checked
	failed := false
	for _, t := range trials {
		c := judge(t, workspace.Properties.WorkspaceID, e.intercept)
		all, failed = append(all, c), failed || c.State == "failed"
	}
	p := &printer{out: a.Out, format: "table"}
	if asJSON {
		p.format = "json"
	}
	err := p.print(all, []column{{"Client", "client"}, {"Version", "version"}, {"State", "state"}, {"Detail", "detail"}})
	if err == nil && failed {
		err = &shownError{ExitFailed}
	}
	return err
}

// judge says what a trial proves.
func judge(t trial, workspaceID string, intercepted bool) checked {
	c := checked{Client: t.Client, Version: t.Version, State: "reached"}
	switch {
	case t.Version == "":
		c.State, c.Detail = "missing", "not installed here"
	case t.Error != "":
		c.State, c.Detail = "failed", strings.Join(strings.Fields(t.Error), " ")
	case t.Found != workspaceID:
		c.State, c.Detail = "failed", "somebody else answered: the workspace has another id there"
	case t.Client == "azure-ai-ml" && !intercepted && !reads(t.Version):
		c.Detail = "older than 1.28: it may need --intercept"
	}
	return c
}

var sdkVersion = regexp.MustCompile(`^(\d+)\.(\d+)`)

// reads says whether a version of azure-ai-ml is one that was seen to find its cloud by the metadata document alone.
func reads(version string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(sdkVersion.FindString(version), "%d.%d", &major, &minor); err != nil {
		return false
	}
	const firstMajor, firstMinor = 1, 28
	return major > firstMajor || major == firstMajor && minor >= firstMinor
}

// armURL is the base of the management API as clients in this environment call it.
func (e *clientEnvironment) armURL() string {
	if e.intercept {
		return "https://" + intercept.ManagementHost
	}
	return e.place.ManagementURL
}

// command is a client with the environment, and nothing to read but what it is given.
func (e *clientEnvironment) command(ctx context.Context, stdin, path string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = apply(os.Environ(), e.variables())
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = time.Second
	var out, errs limitedBuffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("it did not end within %s", checkTimeout)
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, lastPrinted(errs.Bytes()))
	}
	return out.Bytes(), err
}

// limitedBuffer keeps the beginning of what is written to it.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	_, err := b.Buffer.Write(p[:min(len(p), max(0, checkMaxBytes-b.Len()))])
	return len(p), err
}

func lastPrinted(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// checkCurl asks with curl. The token goes through standard input, since others can read a command line.
func (e *clientEnvironment) checkCurl(ctx context.Context, path string) []trial {
	t := trial{Client: "curl"}
	tool, err := exec.LookPath("curl")
	if err != nil {
		return []trial{t}
	}
	if out, err := e.command(ctx, "", tool, "--version"); err == nil {
		t.Version, _, _ = strings.Cut(strings.TrimPrefix(string(out), "curl "), " ")
	}
	config := fmt.Sprintf("header = \"Authorization: Bearer %s\"\nurl = \"%s%s?api-version=%s\"\n",
		e.place.Token.Reveal(), e.armURL(), path, apiVersion)
	out, err := e.command(ctx, config, tool, "--disable", "--silent", "--show-error", "--fail", "--max-time", "30",
		"--config", "-")
	t.Found, t.Error = workspaceOf(out, err)
	return []trial{t}
}

// checkGo asks as a Go program does that was started in this environment.
func (e *clientEnvironment) checkGo(ctx context.Context, path string) []trial {
	t := trial{Client: "go", Version: strings.TrimPrefix(runtime.Version(), "go")}
	transport := &http.Transport{TLSHandshakeTimeout: connectTimeout}
	defer transport.CloseIdleConnections()
	if e.intercept {
		proxy, err := url.Parse(e.place.InterceptURL)
		if err != nil {
			t.Error = err.Error()
			return []trial{t}
		}
		transport.Proxy = http.ProxyURL(proxy)
	}
	if e.bundle != "" {
		text, err := os.ReadFile(e.bundle)
		if err != nil {
			t.Error = err.Error()
			return []trial{t}
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(text)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	out, err := fetch(ctx, transport, e.armURL()+path+"?api-version="+apiVersion, e.place.Token.Reveal())
	t.Found, t.Error = workspaceOf(out, err)
	return []trial{t}
}

func fetch(ctx context.Context, transport http.RoundTripper, target, token string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, checkMaxBytes))
}

func workspaceOf(doc []byte, err error) (found, failure string) {
	if err != nil {
		return "", err.Error()
	}
	var w struct {
		Properties struct {
			WorkspaceID string `json:"workspaceId"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(doc, &w); err != nil {
		return "", "the answer is not a workspace: " + err.Error()
	}
	return w.Properties.WorkspaceID, ""
}

// checkPython runs the trials that need an interpreter.
func (e *clientEnvironment) checkPython(ctx context.Context, python, path string) []trial {
	tool, err := findPython(python)
	if err != nil {
		return []trial{{Client: "python", Error: err.Error()}}
	}
	if e.keepCredentials && (e.before.get("IDENTITY_ENDPOINT") == "" || e.before.get("IDENTITY_HEADER") == "") {
		return []trial{{Client: "python", Version: "-",
			Error: "with --keep-credentials it needs IDENTITY_ENDPOINT and IDENTITY_HEADER"}}
	}
	// The files of the folder it runs in must not pass for packages; -W keeps warnings out of the way.
	script := "import sys; sys.path = [p for p in sys.path if p]\n" + clientCheck
	out, err := e.command(ctx, "", tool, "-W", "ignore", "-c", script, path, e.armURL())
	var all []trial
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var t trial
		if json.Unmarshal(lines.Bytes(), &t) == nil {
			all = append(all, t)
		}
	}
	if err != nil {
		all = append(all, trial{Client: "python", Version: "-", Error: err.Error()})
	}
	return all
}

// findPython is the interpreter that was named, else that of the PATH.
func findPython(named string) (string, error) {
	if named != "" {
		return exec.LookPath(named)
	}
	tool, err := exec.LookPath("python3")
	if err != nil {
		return exec.LookPath("python")
	}
	return tool, err
}
