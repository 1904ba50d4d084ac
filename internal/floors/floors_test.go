package floors

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// floor of every package below internal/ (and the embedding packages beside it). A package may import lower
// floors only.
var floor = map[string]int{
	"internal/online": 0, "internal/telemetry": 0, "workers": 0, "internal/onnxrt": 0, "internal/http1": 0, "internal/onnx/modelconfig": 0,
	"internal/testkit": 0, "internal/durable": 0,

	"internal/arm": 1, "internal/route": 1, "internal/admission": 1, "internal/store": 1, "internal/artifact": 1,
	"internal/vault": 1, "internal/access": 1, "internal/compute": 1, "internal/cost": 1, "internal/mlflow": 1,
	"internal/onnx": 1, "internal/onnxserve": 1,

	"internal/inference": 2, "internal/environment": 2, "internal/store/sqlite": 2, "internal/store/storetest": 2,
	"internal/compute/computetest": 2, "internal/onnx/onnxtest": 2, "internal/onnxworker": 2,

	"internal/host": 3, "internal/control/controltest": 3, "internal/compute/local": 3, "internal/gateway": 3, "internal/collect": 3,

	"internal/control": 4, "internal/reconcile": 4,

	"internal/api": 5, "internal/intercept": 5,

	"internal/server": 6,

	"internal/cli": 7,

	"cmd/portico": 8, "cmd/portico-onnx": 8,

	"internal/floors": 0,
}

// sideways lists the imports between rooms of one floor, each with its reason.
var sideways = map[string]string{
	"internal/compute/local -> internal/host": "the local engine is the host's client: one engine in two processes",
}

// forbidden lists imports that the floors alone would allow.
var forbidden = map[string]string{
	"internal/api -> internal/store":       "handlers read and write through control",
	"internal/api -> internal/compute":     "handlers read through control",
	"internal/api -> internal/reconcile":   "handlers never decide",
	"internal/cli -> internal/store":       "the CLI is a client of the wire",
	"internal/cli -> internal/compute":     "the CLI is a client of the wire",
	"internal/cli -> internal/reconcile":   "the CLI is a client of the wire",
	"internal/cli -> internal/control":     "the CLI is a client of the wire",
	"internal/cli -> internal/gateway":     "the CLI is a client of the wire",
	"internal/gateway -> internal/store":   "a scoring request reads no store",
	"internal/gateway -> internal/compute": "instances come through Upstreams",
	"internal/inference -> internal/store": "an instance knows no records",
}

// only lists packages of other people that exactly one room may import.
var only = map[string]string{
	"modernc.org/sqlite":           "internal/store/sqlite",
	"github.com/ebitengine/purego": "internal/onnxrt",
}

// testsOnly lists the packages that only tests may import, and each other.
var testsOnly = []string{"internal/testkit", "internal/control/controltest", "internal/store/storetest", "internal/compute/computetest", "internal/onnx/onnxtest"}

// noClock lists the packages whose functions take now as a value.
var noClock = []string{"internal/online", "internal/route", "internal/cost"}

type listed struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	GoFiles      []string
	Dir          string
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,GoFiles,Dir", "portico/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	dec := json.NewDecoder(bytes.NewReader(out))
	for dec.More() {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatalf("decode go list: %v", err)
		}
		all = append(all, p)
	}
	return all
}

func TestImportsLookDown(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, "portico/")
		if outside(name) {
			continue
		}
		at, ok := floor[name]
		if !ok {
			t.Errorf("%s has no floor: add it to docs/architecture.md and to this test", name)
			continue
		}
		for _, imp := range p.Imports {
			checkImport(t, name, at, imp)
		}
	}
}

// outside are the folders whose programs may use everything: they drive the product from outside.
func outside(name string) bool {
	return strings.HasPrefix(name, "test/") || strings.HasPrefix(name, "bench/") || strings.HasPrefix(name, "examples/") || strings.HasPrefix(name, "tools/")
}

func checkImport(t *testing.T, name string, at int, imp string) {
	t.Helper()
	for prefix, owner := range only {
		if strings.HasPrefix(imp, prefix) && name != owner {
			t.Errorf("%s imports %s, which only %s may", name, imp, owner)
		}
	}
	target, ours := strings.CutPrefix(imp, "portico/")
	if !ours {
		return
	}
	edge := name + " -> " + target
	if why, bad := forbidden[edge]; bad {
		t.Errorf("%s: %s", edge, why)
	}
	if slices.Contains(testsOnly, target) && !slices.Contains(testsOnly, name) {
		t.Errorf("%s: only tests may import %s", edge, target)
	}
	to, ok := floor[target]
	switch {
	case !ok:
		t.Errorf("%s: %s has no floor", edge, target)
	case to > at:
		t.Errorf("%s looks up (floor %d to %d)", edge, at, to)
	case to == at && sideways[edge] == "":
		t.Errorf("%s looks sideways on floor %d without a stated reason", edge, at)
	}
}

func TestEveryReasonIsUsed(t *testing.T) {
	edges := map[string]bool{}
	for _, p := range list(t) {
		for _, imp := range p.Imports {
			edges[strings.TrimPrefix(p.ImportPath, "portico/")+" -> "+strings.TrimPrefix(imp, "portico/")] = true
		}
	}
	for edge := range sideways {
		if !edges[edge] {
			t.Errorf("%s is allowed but not there: drop the reason", edge)
		}
	}
}

func TestDecidersHaveNoClock(t *testing.T) {
	for _, p := range list(t) {
		if !slices.Contains(noClock, strings.TrimPrefix(p.ImportPath, "portico/")) {
			continue
		}
		grep(t, p.Dir, "time.Now(")
	}
	grep(t, "../reconcile/plan.go", "time.Now(")
	grep(t, "../reconcile/stages.go", "time.Now(")
}

func grep(t *testing.T, path, text string) {
	t.Helper()
	out, _ := exec.Command("grep", "-rnF", "--include=*.go", "--exclude=*_test.go", text, path).Output()
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		t.Errorf("a decider reads the clock: %s", s.Text())
	}
}

// TestPorticoStaysStatic: what loads libraries at run time makes a program dynamically linked.
func TestPorticoStaysStatic(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "portico/cmd/portico").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for name := range strings.Lines(string(out)) {
		if name = strings.TrimSpace(name); name == "portico/internal/onnxrt" || strings.HasPrefix(name, "github.com/ebitengine/purego") {
			t.Errorf("cmd/portico is linked with %s", name)
		}
	}
}
