package cli

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"portico/internal/online"
)

// environmentOf is what clients of a server with every part get, in a shell with these variables.
func environmentOf(shellVars map[string]string, intercept bool) *clientEnvironment {
	return &clientEnvironment{
		place: place{ManagementURL: "https://127.0.0.1:8443", ScoringURL: "https://127.0.0.1:8444", Token: "it's secret",
			DataDir: "/data", IdentityURL: "http://127.0.0.1:8445", InterceptURL: "http://127.0.0.1:8442"},
		scope:     online.WorkspaceID{Subscription: "sub", ResourceGroup: "group", Name: "home"},
		intercept: intercept, bundle: "/data/clients/ca-bundle.pem",
		before: newShell(func(name string) string { return shellVars[name] }),
	}
}

func TestEnvGolden(t *testing.T) {
	for name, c := range map[string]struct {
		vars      map[string]string
		intercept bool
		format    string
		want      string
	}{
		"direct": {nil, false, "sh", `export ARM_CLOUD_METADATA_URL='https://127.0.0.1:8443/metadata/endpoints?api-version=2019-05-01'
export AZUREML_CURRENT_CLOUD='Portico'
export REGISTRY_DISCOVERY_ENDPOINT_URL='https://127.0.0.1:8443/'
export REQUESTS_CA_BUNDLE='/data/clients/ca-bundle.pem'
export CURL_CA_BUNDLE='/data/clients/ca-bundle.pem'
export SSL_CERT_FILE='/data/clients/ca-bundle.pem'
export IDENTITY_ENDPOINT='http://127.0.0.1:8445/msi/token'
export IDENTITY_HEADER='it'\''s secret'
export AZURE_SUBSCRIPTION_ID='sub'
export AZURE_RESOURCE_GROUP='group'
export AZUREML_WORKSPACE_NAME='home'
export PORTICO_DATA_DIR='/data'
export PORTICO_ENV='direct'
export PORTICO_ENV_PREVIOUS='NOTE'
`},
		"intercept, over a shell that was led elsewhere": {map[string]string{"AZUREML_CURRENT_CLOUD": "Mine",
			"AZURE_CLIENT_ID": "x"}, true, "dotenv",
			`# unset AZUREML_CURRENT_CLOUD
HTTPS_PROXY=http://127.0.0.1:8442
https_proxy=http://127.0.0.1:8442
NO_PROXY=localhost,127.0.0.1,::1
no_proxy=localhost,127.0.0.1,::1
REQUESTS_CA_BUNDLE=/data/clients/ca-bundle.pem
CURL_CA_BUNDLE=/data/clients/ca-bundle.pem
SSL_CERT_FILE=/data/clients/ca-bundle.pem
IDENTITY_ENDPOINT=http://127.0.0.1:8445/msi/token
IDENTITY_HEADER='it\'s secret'
# unset AZURE_CLIENT_ID
AZURE_SUBSCRIPTION_ID=sub
AZURE_RESOURCE_GROUP=group
AZUREML_WORKSPACE_NAME=home
PORTICO_DATA_DIR=/data
PORTICO_ENV=intercept
`},
		"json": {map[string]string{"AZURE_CLIENT_SECRET": "x"}, false, "json", `{
  "ARM_CLOUD_METADATA_URL": "https://127.0.0.1:8443/metadata/endpoints?api-version=2019-05-01",
  "AZUREML_CURRENT_CLOUD": "Portico",
  "REGISTRY_DISCOVERY_ENDPOINT_URL": "https://127.0.0.1:8443/",
  "REQUESTS_CA_BUNDLE": "/data/clients/ca-bundle.pem",
  "CURL_CA_BUNDLE": "/data/clients/ca-bundle.pem",
  "SSL_CERT_FILE": "/data/clients/ca-bundle.pem",
  "IDENTITY_ENDPOINT": "http://127.0.0.1:8445/msi/token",
  "IDENTITY_HEADER": "it's secret",
  "AZURE_CLIENT_SECRET": null,
  "AZURE_SUBSCRIPTION_ID": "sub",
  "AZURE_RESOURCE_GROUP": "group",
  "AZUREML_WORKSPACE_NAME": "home",
  "PORTICO_DATA_DIR": "/data",
  "PORTICO_ENV": "direct"
}
`},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			all := environmentOf(c.vars, c.intercept).variables()
			if last := &all[len(all)-1]; last.name == envPrevious { // what it holds is seen by taking it back
				last.value = "NOTE"
			}
			if err := writeVariables(&out, c.format, all); err != nil {
				t.Fatal(err)
			}
			if out.String() != c.want {
				t.Errorf("got\n%s", out.String())
			}
		})
	}
}

// become changes an environment as a shell does that evaluates the output.
func become(vars map[string]string, all []variable) map[string]string {
	out := map[string]string{}
	for k, v := range vars {
		out[k] = v
	}
	for _, v := range all {
		if delete(out, v.name); !v.unset {
			out[v.name] = v.value
		}
	}
	return out
}

// TestUnsetTakesEverythingBack: after any sequence of modes, --unset leaves what was there before the first, and each
// mode gives the same whatever came before it.
func TestUnsetTakesEverythingBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := append(slices.Clone(ownedVariables), "PATH", "HOME")
		start := rapid.MapOfN(rapid.SampledFrom(names), rapid.StringN(1, 20, -1), 0, 12).Draw(t, "shell")
		vars := start
		for _, intercept := range rapid.SliceOfN(rapid.Bool(), 1, 4).Draw(t, "modes") {
			direct := become(start, environmentOf(start, intercept).variables())
			vars = become(vars, environmentOf(vars, intercept).variables())
			if !reflect.DeepEqual(vars, direct) {
				t.Fatalf("what came before shows:\n%v\n%v", vars, direct)
			}
		}
		if back := become(vars, newShell(func(n string) string { return vars[n] }).restore()); !reflect.DeepEqual(back, start) {
			t.Fatalf("from %v to %v", start, back)
		}
		if again := newShell(func(n string) string { return start[n] }).restore(); len(again) > 0 {
			t.Fatalf("a shell that was not changed is changed: %v", again)
		}
		vars[envPrevious] = rapid.SampledFrom([]string{"", "%%%", "bnVsbA==", "W10="}).Draw(t, "damaged note")
		lost := become(vars, newShell(func(n string) string { return vars[n] }).restore())
		if lost["HTTPS_PROXY"]+lost["IDENTITY_HEADER"]+lost["ARM_CLOUD_METADATA_URL"]+lost[envMode] != "" {
			t.Fatalf("without the note something of ours stays: %v", lost)
		}
	})
}

// TestModesExclude: what one mode needs and would break the other is never left.
func TestModesExclude(t *testing.T) {
	both := map[string]string{"ARM_CLOUD_METADATA_URL": "https://x", "HTTPS_PROXY": "http://corporate:3128",
		"https_proxy": "http://corporate:3128",
		"no_proxy":    ".corp,.azure.com,*.windows.net,microsoftonline.com,pypi.org,*", "AZURE_CLIENT_ID": "a",
		"AZURE_CLIENT_SECRET": "b", "AZURE_TENANT_ID": "c"}
	in := become(both, environmentOf(both, true).variables())
	if in["ARM_CLOUD_METADATA_URL"] != "" || in["AZUREML_CURRENT_CLOUD"] != "" ||
		in["https_proxy"] != "http://127.0.0.1:8442" {
		t.Errorf("intercepted: %v", in)
	}
	if want := "localhost,127.0.0.1,::1,.corp,pypi.org"; in["NO_PROXY"] != want || in["no_proxy"] != want {
		t.Errorf("NO_PROXY %s", in["NO_PROXY"])
	}
	direct := become(both, environmentOf(both, false).variables())
	if direct["HTTPS_PROXY"] != "http://corporate:3128" || !strings.HasPrefix(direct["no_proxy"],
		"localhost,127.0.0.1,::1,.corp,") {
		t.Errorf("direct: %v", direct)
	}
	for _, vars := range []map[string]string{in, direct} {
		if vars["AZURE_CLIENT_ID"]+vars["AZURE_CLIENT_SECRET"] != "" || vars["AZURE_TENANT_ID"] != "c" ||
			vars["IDENTITY_HEADER"] == "" {
			t.Errorf("credentials: %v", vars)
		}
	}
	keep := environmentOf(both, true)
	keep.keepCredentials = true
	if kept := become(both, keep.variables()); kept["AZURE_CLIENT_SECRET"] != "b" || kept["IDENTITY_HEADER"] != "" {
		t.Errorf("kept: %v", kept)
	}
}

// TestShellReadsWhatWasMeant lets a real shell evaluate the output.
func TestShellReadsWhatWasMeant(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("sh is not on this machine")
	}
	values := []string{"plain", "it's", `back\slash`, "$HOME `id` $(id)", "a\nb", `"quoted"`, "täxt ☃", "-n", ""}
	var all []variable
	for i, v := range values {
		all = append(all, variable{name: fmt.Sprintf("V%d", i), value: v})
	}
	all = append(all, variable{name: "GONE", unset: true})
	var text strings.Builder
	if err := writeVariables(&text, "sh", all); err != nil {
		t.Fatal(err)
	}
	for i := range values {
		fmt.Fprintf(&text, "printf '%%s\\0' \"$V%d\"\n", i)
	}
	text.WriteString("printf '%s' \"${GONE-unset}\"\n")
	cmd := exec.Command(sh)
	cmd.Env = []string{"GONE=x"}
	cmd.Stdin = strings.NewReader(text.String())
	out, err := cmd.Output()
	if want := strings.Join(values, "\x00") + "\x00unset"; err != nil || string(out) != want {
		t.Errorf("%v\n%q\n%q", err, out, want)
	}
}

// metadata makes a fake server answer as one that lives.
func (f *fakeServer) metadata() *fakeServer {
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/metadata/endpoints" {
			return false
		}
		f.answer(w, http.StatusOK, []any{})
		return true
	}
	return f
}

// announce changes the ready file.
func (f *fakeServer) announce(change func(*readyFile)) {
	path := filepath.Join(f.dir, "server.json")
	text, err := os.ReadFile(path)
	if err != nil {
		f.t.Fatal(err)
	}
	var ready readyFile
	if err := json.Unmarshal(text, &ready); err != nil {
		f.t.Fatal(err)
	}
	change(&ready)
	if text, err = json.Marshal(ready); err != nil {
		f.t.Fatal(err)
	}
	write(f.t, path, string(text))
}

func TestEnvCommand(t *testing.T) {
	f := newFakeServer(t).metadata()
	f.announce(func(r *readyFile) { r.IdentityURL = "http://127.0.0.1:9/" })
	out := f.must("env").out
	for _, line := range []string{
		"export ARM_CLOUD_METADATA_URL='" + f.url + "/metadata/endpoints?api-version=2019-05-01'",
		"export IDENTITY_ENDPOINT='http://127.0.0.1:9/msi/token'", "export AZUREML_WORKSPACE_NAME='default'",
		"export SSL_CERT_FILE='" + f.dir + "/clients/ca-bundle.pem'",
	} {
		if !strings.Contains(out, line+"\n") {
			t.Errorf("%s is missing in\n%s", line, out)
		}
	}
	if out := f.must("env", "-w", "other", "--format", "json").out; !strings.Contains(out,
		`"AZUREML_WORKSPACE_NAME": "other"`) {
		t.Errorf("%s", out)
	}
	if out := f.must("env", "--unset").out; out != "" {
		t.Errorf("nothing was set, and this takes it back: %s", out)
	}
	f.announce(func(r *readyFile) {
		r.InterceptURL, r.InterceptCAFile = "http://127.0.0.1:10", filepath.Join(f.dir, "ca.pem")
	})
	if out := f.must("env", "--intercept").out; !strings.Contains(out, "export HTTPS_PROXY='http://127.0.0.1:10'\n") ||
		strings.Contains(out, "ARM_CLOUD") {
		t.Errorf("%s", out)
	}
}

// TestEnvRefusals: each mistake has its words, and nothing is printed that a shell would evaluate.
func TestEnvRefusals(t *testing.T) {
	f := newFakeServer(t).metadata()
	other := filepath.Join(f.dir, "other.json")
	write(t, other, `{"subscription_id":"real","resource_group":"real","workspace_name":"real"}`)
	for line, c := range map[string]struct {
		code int
		text string
	}{
		"env --intercept":                      {2, "portico serve --intercept 127.0.0.1:8442"},
		"env --passthrough":                    {2, "--passthrough belongs to --intercept"},
		"env --intercept --no-intercept":       {2, "exclude each other"},
		"env --unset --check":                  {2, "does nothing else"},
		"env --format bash":                    {2, `--format "bash" is not one of sh, dotenv, json`},
		"env -- ls":                            {2, "portico run -- COMMAND"},
		"env --config-file=" + other:           {2, "names another workspace"},
		"env --data-dir " + f.dir + "/nowhere": {4, "no server runs on"},
		"run --intercept -- true":              {2, "portico serve --intercept"},
		"run":                                  {2, "requires at least 1 arg"},
		"run -- no-such-command-anywhere":      {127, "there is no such command"},
		"run -- " + other:                      {126, "permission denied"},
	} {
		o := f.portico(strings.Fields(line)...)
		if o.code != c.code || !strings.Contains(o.err, c.text) || o.out != "" {
			t.Errorf("portico %s: exit %d, %q, %q", line, o.code, o.err, o.out)
		}
	}
	f.announce(func(r *readyFile) { r.InterceptURL, r.InterceptCAFile = "http://127.0.0.1:10", r.CAFile })
	if o := f.portico("env", "--intercept", "--passthrough"); o.code != 2 || !strings.Contains(o.err,
		"--intercept-passthrough") {
		t.Errorf("exit %d, %q", o.code, o.err)
	}
	f.hook = func(w http.ResponseWriter, _ *http.Request) bool {
		f.fail(w, online.Errorf(online.CodeUnauthorized, "", "who are you"))
		return true
	}
	if o := f.portico("env"); o.code == 0 || o.out != "" {
		t.Errorf("a server that refuses: exit %d, %q", o.code, o.out)
	}
}

// TestEnvByURL: a server on another machine has no data directory here; tokens come from its management listener.
func TestEnvByURL(t *testing.T) {
	f := newFakeServer(t).metadata()
	t.Setenv("XDG_CACHE_HOME", filepath.Join(f.dir, "cache"))
	vars := map[string]string{envDataDir: "", envURL: f.url, envToken: fakeToken, envCAFile: filepath.Join(f.dir, "ca.pem")}
	o := f.with("", vars, "env")
	if o.code != 0 || !strings.Contains(o.out, "export IDENTITY_ENDPOINT='"+f.url+"/msi/token'\n") ||
		strings.Contains(o.out, "export PORTICO_DATA_DIR") {
		t.Fatalf("exit %d\n%s%s", o.code, o.err, o.out)
	}
	_, rest, _ := strings.Cut(o.out, "SSL_CERT_FILE='")
	path, _, _ := strings.Cut(rest, "'")
	if _, err := os.Stat(path); err != nil || !strings.HasPrefix(path, filepath.Join(f.dir, "cache")) {
		t.Errorf("%s: %v", path, err)
	}
	if o := f.with("", vars, "env", "--intercept"); o.code != 2 || !strings.Contains(o.err, "own machine only") {
		t.Errorf("exit %d, %s", o.code, o.err)
	}
}

func TestConfigFile(t *testing.T) {
	f := newFakeServer(t).metadata()
	dir := t.TempDir()
	t.Chdir(dir)
	for _, args := range [][]string{{"env", "--config-file"}, {"env", "--config-file=" + dir}, {"env", "--config-file",
		filepath.Join(dir, "sub.json")}} {
		if o := f.must(args...); !strings.Contains(o.out, "export ") {
			t.Errorf("%v printed %s", args, o.out)
		}
	}
	for _, name := range []string{"config.json", "sub.json"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		var c map[string]string
		if err != nil || json.Unmarshal(text, &c) != nil || !reflect.DeepEqual(c, map[string]string{
			"subscription_id": "00000000-0000-0000-0000-000000000001", "resource_group": "portico", "workspace_name": "default"}) {
			t.Errorf("%s: %v: %s", name, err, text)
		}
	}
}

// TestBundle: what the shell trusted before is trusted still, once, and the server's authority is added.
func TestBundle(t *testing.T) {
	f := newFakeServer(t).metadata()
	corporate := filepath.Join(f.dir, "corporate.pem")
	other := newFakeServer(t) // httptest servers share one certificate, so another is needed
	ours, err := readCertificates(filepath.Join(other.dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	system, err := newShell(func(string) string { return "" }).roots()
	if err != nil {
		t.Fatal(err)
	}
	if len(system) == 0 {
		t.Skip("this machine has no certificate authorities")
	}
	block := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: system[0].Raw}))
	write(t, corporate, "# a comment\n"+block+block+"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	folder := filepath.Join(f.dir, "folder")
	write(t, filepath.Join(folder, "x.0"), block)
	write(t, filepath.Join(folder, "README"), "no certificate")
	for name, vars := range map[string]map[string]string{
		"a company's file":   {"SSL_CERT_FILE": corporate},
		"the same twice":     {"SSL_CERT_FILE": corporate, "REQUESTS_CA_BUNDLE": corporate},
		"a company's folder": {"REQUESTS_CA_BUNDLE": folder},
	} {
		if o := f.with("", vars, "env"); o.code != 0 {
			t.Fatalf("%s: %s", name, o.err)
		}
		got, err := readCertificates(filepath.Join(f.dir, "clients", "ca-bundle.pem"))
		if err != nil || len(got) != 2 || !got[0].Equal(system[0]) || !got[1].Equal(ours[0]) {
			t.Errorf("%s: %v, %d certificates", name, err, len(got))
		}
	}
	f.must("env")
	if got, err := readCertificates(filepath.Join(f.dir, "clients", "ca-bundle.pem")); err != nil || len(got) < len(system) {
		t.Errorf("%v: %d certificates of %d", err, len(got), len(system))
	}
	if o := f.with("", map[string]string{"SSL_CERT_FILE": "/nowhere/at/all"}, "env"); o.code != 2 ||
		!strings.Contains(o.err, "SSL_CERT_FILE names /nowhere/at/all") {
		t.Errorf("exit %d, %s", o.code, o.err)
	}
}

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		t           trial
		intercepted bool
		state       string
	}{
		"reached":             {trial{"curl", "8", "id", ""}, false, "reached"},
		"not here":            {trial{"curl", "", "", ""}, false, "missing"},
		"failed":              {trial{"curl", "8", "", "no route"}, false, "failed"},
		"somebody else":       {trial{"curl", "8", "other", ""}, false, "failed"},
		"nothing found":       {trial{"curl", "8", "", ""}, false, "failed"},
		"an old SDK":          {trial{"azure-ai-ml", "1.4.0", "id", ""}, false, "reached"},
		"an old SDK by proxy": {trial{"azure-ai-ml", "1.4.0", "id", ""}, true, "reached"},
	} {
		got := judge(c.t, "id", c.intercepted)
		if got.State != c.state || (got.Detail != "") != (c.state != "reached" || name == "an old SDK") {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for version, want := range map[string]bool{"1.28.0": true, "1.34.1": true, "2.0": true, "1.27.9": false,
		"1.4.0": false, "x": false} {
		if reads(version) != want {
			t.Errorf("%s: %v", version, !want)
		}
	}
}

func TestApply(t *testing.T) {
	got := apply([]string{"A=1", "B=2", "C=3", "EQ=a=b"}, []variable{{name: "B", value: "x=y"}, {name: "C", unset: true},
		{name: "D", value: ""}})
	if want := []string{"A=1", "EQ=a=b", "B=x=y", "D="}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
