package compat

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"portico/test/harness"
)

// pageBlocks are the blocks of the page in its order; those marked need Azure's own host names.
var pageBlocks = []struct {
	name        string
	intercepted bool
}{
	{"endpoint", false}, {"deployment", false}, {"traffic", false}, {"invoke", false}, {"rest", false},
	{"curl", false}, {"mirror", false}, {"rollout", false}, {"autoscale", true}, {"logs", false}, {"metrics", true},
	{"identity", false}, {"private", false}, {"keys", false}, {"encryption", true}, {"cost", true},
	{"cleanup", false},
}

func TestPageIntercepted(t *testing.T) {
	t.Parallel()
	page(t, "newest", intercepted)
}

func TestPageRedirected(t *testing.T) {
	t.Parallel()
	onlyAll(t)
	page(t, "newest", redirected)
}

func TestPageIntercepted_OlderClients(t *testing.T) {
	t.Parallel()
	onlyAll(t)
	page(t, "older", intercepted)
}

func TestPageRedirected_OlderClients(t *testing.T) {
	t.Parallel()
	onlyAll(t)
	page(t, "older", redirected)
}

// allVariable asks for every client in both modes.
const allVariable = "PORTICO_TEST_COMPAT"

// onlyAll keeps a test for `make compat`; `make test` runs the quick ones.
func onlyAll(t *testing.T) {
	t.Helper()
	if os.Getenv(allVariable) != "all" {
		t.Skip("make compat runs this one")
	}
}

// page runs every block of docs/compatibility.md with these clients.
func page(t *testing.T, clients string, m mode) {
	s := start(t, "--location", "eastus")
	result := filepath.Join(t.TempDir(), "result.json")
	o := s.run(client{
		name: "the page", dir: t.TempDir(), env: s.environment(m),
		argv: []string{harness.Python(t, clients), filepath.Join(root, "test/compat/python/page.py"),
			filepath.Join(root, "docs/compatibility.md"), result, string(m)},
	})
	if o.code != 0 {
		t.Fatalf("exit %d\n%s\n%s", o.code, o.out, o.err)
	}
	quiet(t, o)
	doc, err := os.ReadFile(result)
	if err != nil {
		t.Fatal(err)
	}
	var r struct{ Blocks []string }
	if err := json.Unmarshal(doc, &r); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, b := range pageBlocks {
		if m == intercepted || !b.intercepted {
			want = append(want, b.name)
		}
	}
	if !slices.Equal(r.Blocks, want) {
		t.Errorf("these blocks ran: %v, not %v", r.Blocks, want)
	}
}

// progress is what the SDK itself writes to standard error while it works: which step it is at, and the bars of uploads.
var (
	progress = regexp.MustCompile(`^(Check: endpoint \S+ exists|Uploading \S+ .*(it/s|B/s)\]|` +
		`Downloading the model \S+ at \S+|Found the config file in: \S+)$`)
	// ofOld is said by azure-ai-ml 1.30 to whatever it talks to, Azure itself included: when an MLClient is made, and when
	// an endpoint that was read, with the ids of its identity, is sent again.
	ofOld = regexp.MustCompile(`^(Class DeploymentTemplateOperations: This is an experimental class, and may change.*|` +
		`Readonly attribute (principal_id|tenant_id) will be ignored in class .*ManagedServiceIdentity'>)$`)
	colours = regexp.MustCompile("\x1b\\[[0-9;]*m")
)

// quiet refuses anything that a client says on standard error beyond its own progress.
func quiet(t *testing.T, o outcome) {
	t.Helper()
	text := strings.ReplaceAll(colours.ReplaceAllString(o.err, ""), "\r", "\n")
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !progress.MatchString(line) &&
			!ofOld.MatchString(line) {
			t.Errorf("the client says: %s", line)
		}
	}
}
