package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"portico/internal/online"
)

// asAz runs a line of az against the fake server.
func (f *fakeServer) asAz(env map[string]string, args ...string) outcome {
	f.t.Helper()
	f.t.Setenv("XDG_CONFIG_HOME", filepath.Join(f.dir, "user"))
	var out, errs bytes.Buffer
	app := &App{In: strings.NewReader(""), Out: &out, Err: &errs, Version: "test", Getenv: func(k string) string {
		if v, ok := env[k]; ok {
			return v
		}
		if k == envDataDir {
			return f.dir
		}
		return ""
	}}
	return outcome{app.RunAz(context.Background(), args), out.String(), errs.String()}
}

func (f *fakeServer) mustAz(args ...string) outcome {
	f.t.Helper()
	o := f.asAz(nil, args...)
	if o.code != 0 {
		f.t.Fatalf("az %s: exit %d\n%s%s", strings.Join(args, " "), o.code, o.err, o.out)
	}
	return o
}

// TestAzIsPortico: a line of az has the effect of the line of portico that it stands for.
func TestAzIsPortico(t *testing.T) {
	for _, row := range []struct{ az, portico string }{
		{"ml online-endpoint create -n a --auth-mode key --set tags.x=1 tags.y=2",
			"ml online-endpoint create -n a --auth-mode key --set tags.x=1 --set tags.y=2"},
		{"ml online-endpoint update --name live --traffic blue=90 green=10 --mirror-traffic green=0",
			"ml online-endpoint update -n live --traffic blue=90 --traffic green=10 --mirror-traffic green=0"},
		{"ml online-endpoint update -n live --remove tags.team --add identity.user_assigned_identities X",
			"ml online-endpoint update -n live --remove tags.team --add identity.user_assigned_identities=X"},
		{"ml online-endpoint delete -n live -y --no-wait", "ml online-endpoint delete -n live --yes --no-wait"},
		{"ml online-endpoint regenerate-keys --name live --key-type Secondary",
			"ml online-endpoint regenerate-keys -n live --key-type secondary"},
		{"ml online-deployment update -n blue --endpoint live --set instance_count=2",
			"ml online-deployment update -n blue -e live --set instance_count=2"},
		{"ml online-deployment get-logs --na blue -e live -l 100 -c storage-initializer",
			"ml online-deployment get-logs -n blue -e live --lines 100 --container storage-initializer"},
		{"ml online-endpoint list -g other -w second --subscription 11111111-1111-1111-1111-111111111111",
			"ml online-endpoint list -g other -w second --subscription 11111111-1111-1111-1111-111111111111"},
		{"ml model archive -n m", "ml model archive -n m"},
	} {
		t.Run(row.az, func(t *testing.T) {
			type sent struct{ Request, Query, Body string }
			run := func(do func(*fakeServer) outcome) ([]sent, int) {
				f := newFakeServer(t)
				f.put("/onlineEndpoints/live", map[string]any{"authMode": "Key", "traffic": map[string]int{"blue": 100}})
				f.resources[strings.ToLower(wsPath+"/onlineEndpoints/live")]["tags"] = map[string]any{"team": "risk"}
				f.put("/onlineEndpoints/live/deployments/blue", map[string]any{"endpointComputeType": "Managed",
					"instanceType": "x"})
				f.put("/models/m", map[string]any{})
				o := do(f)
				var all []sent
				for _, r := range f.requests {
					all = append(all, sent{r.method + " " + r.path, r.query, r.body})
				}
				return all, o.code
			}
			az, code := run(func(f *fakeServer) outcome { return f.asAz(nil, strings.Fields(row.az)...) })
			own, ownCode := run(func(f *fakeServer) outcome { return f.portico(strings.Fields(row.portico)...) })
			if code != ownCode || len(az) == 0 || !reflect.DeepEqual(az, own) {
				t.Errorf("az: exit %d %v\nportico: exit %d %v", code, az, ownCode, own)
			}
		})
	}
}

func TestAzOutput(t *testing.T) {
	f := newFakeServer(t)
	f.put("/onlineEndpoints/iris", map[string]any{"authMode": "Key", "scoringUri": f.url + "/endpoints/iris/score",
		"traffic": map[string]int{"blue": 100}})
	request := filepath.Join(f.dir, "request.json")
	write(t, request, `{"a": "b"}`)
	show := []string{"ml", "online-endpoint", "show", "-n", "iris"}
	for _, row := range []struct {
		args []string
		want string
	}{
		{append(show, "--query", "name", "-o", "tsv"), "iris\n"},
		{append(show, "--query", "nothing"), ""},
		{append(show, "--query", "nothing", "-o", "tsv"), ""},
		{append(show, "--query", "[name, nothing, `true`]", "-o", "tsv"), "iris\nNone\ntrue\n"},
		{append(show, "--query", "[[name, nothing, `true`, traffic]]", "-o", "tsv"), "iris\tNone\tTrue\t\n"},
		{append(show, "--query", "{z: name, a: auth_mode}", "-o", "tsv"), "iris\tkey\n"},
		{append(show, "--query", "{z: name, a: auth_mode}"), "{\n  \"a\": \"key\",\n  \"z\": \"iris\"\n}\n"},
		{append(show, "--query", "[].{z: name}", "-o", "table"), ""},
		{append(show, "--query", "traffic", "-o", "yaml"), "blue: 100\n"},
		{append(show, "--query", "traffic", "-o", "YAMLC"), "blue: 100\n"},
		{append(show, "-o", "none"), ""},
		{[]string{"ml", "online-endpoint", "invoke", "-n", "iris", "-r", request}, "\"{\\\"A\\\": \\\"B\\\"}\"\n"},
		{[]string{"ml", "online-endpoint", "invoke", "-n", "iris", "-r", request, "-o", "tsv"}, "{\"A\": \"B\"}\n"},
		{[]string{"ml", "online-endpoint", "get-credentials", "-n", "iris", "-o", "tsv", "--query", "primaryKey"},
			"primary\n"},
		{[]string{"ml", "online-deployment", "get-logs", "-e", "iris", "-n", "blue"}, "line 1\nline 2\n"},
	} {
		if o := f.mustAz(row.args...); o.out != row.want {
			t.Errorf("az %s: %q, not %q", strings.Join(row.args, " "), o.out, row.want)
		}
	}
	sorted := f.mustAz(show...).out
	if strings.Index(sorted, `"auth_mode"`) > strings.Index(sorted, `"id"`) || !json.Valid([]byte(sorted)) {
		t.Errorf("keys are not in order: %s", sorted)
	}
	if o := f.asAz(map[string]string{"AZURE_CORE_OUTPUT": "tsv"}, append(show, "--query", "name")...); o.out != "iris\n" {
		t.Errorf("AZURE_CORE_OUTPUT: %q", o.out)
	}
	if o := f.asAz(map[string]string{"AZURE_DEFAULTS_WORKSPACE": "other"}, show...); o.code != 3 ||
		!strings.Contains(o.err, "workspaces/other") {
		t.Errorf("AZURE_DEFAULTS_WORKSPACE: exit %d %s", o.code, o.err)
	}
	write(t, request, "boom")
	if o := f.asAz(nil, "ml", "online-endpoint", "invoke", "-n", "iris", "-r", request); o.code != 1 ||
		!strings.HasPrefix(o.err, "ERROR: ") {
		t.Errorf("a failed invoke: exit %d %s", o.code, o.err)
	}
}

// TestAzRefusesByName: what az has and Portico has not is told, and nothing is sent.
func TestAzRefusesByName(t *testing.T) {
	f := newFakeServer(t)
	for line, want := range map[string]string{
		"ml online-endpoint create -n a --local":                    "portico infer",
		"ml online-deployment create -n b -e a --vscode-debug true": "--vscode-debug",
		"ml model create -n m -p x --registry-name r":               "registries",
		"ml compute create -n c":                                    "'ml compute create'",
		"ml online-endpoint shwo":                                   "did you mean show?",
		"storage account create -n x":                               "'storage account create'",
		"ml -o json":                                                "a command is missing",
		"login -u me -p secret":                                     "--service-principal",
		"configure":                                                 "nothing to ask",
		"config set x":                                              "SECTION.KEY",
		"account set":                                               "--subscription",
		"monitor metrics list --resource x":                         "not a resource id",
		"monitor metrics list --resource /subscriptions/x --offset soon": "not a duration",
	} {
		o := f.asAz(nil, strings.Fields(line)...)
		if o.code != ExitUsage || !strings.HasPrefix(o.err, "ERROR: ") || !strings.Contains(o.err, want) || o.out != "" {
			t.Errorf("az %s: exit %d %q %q", line, o.code, o.err, o.out)
		}
	}
	if sent := f.sent(http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete); len(sent) > 0 {
		t.Errorf("sent %v", sent)
	}
}

// TestAzHelp: every command and every group answers --help without a server.
func TestAzHelp(t *testing.T) {
	f := newFakeServer(t)
	nowhere := map[string]string{envDataDir: t.TempDir()}
	groups := map[string]bool{"": true}
	for _, c := range azCommands() {
		words := strings.Fields(c.words)
		for n := range words {
			groups[strings.Join(words[:n], " ")] = true
		}
		o := f.asAz(nowhere, append(words, "-h")...)
		if o.code != 0 || !strings.Contains(o.out, c.short) {
			t.Errorf("az %s -h: exit %d %s%s", c.words, o.code, o.err, o.out)
		}
	}
	for g := range groups {
		if o := f.asAz(nowhere, append(strings.Fields(g), "--help")...); o.code != 0 || !strings.Contains(o.out, "az "+g) {
			t.Errorf("az %s --help: exit %d %s%s", g, o.code, o.err, o.out)
		}
	}
}

// TestAzSignIn: tokens are asked for once, kept while they are good, and the secret goes to the token endpoint only.
func TestAzSignIn(t *testing.T) {
	f := newFakeServer(t)
	asked, good := 0, time.Now().Add(time.Hour).Unix()
	jwt := func(n int) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"tid":"t-1","oid":"o-1","app_displayname":"robot"}`)) + ".s" + string(rune('0'+n))
	}
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		last := f.requests[len(f.requests)-1]
		if r.URL.Path == "/t-1/oauth2/v2.0/token" {
			asked++
			if !strings.Contains(last.body, "client_secret=hush") || !strings.Contains(last.body,
				"core.windows.net%2F%2F.default") &&
				!strings.Contains(last.body, "core.windows.net%2F.default") {
				f.answer(w, 401, map[string]string{"error": "invalid_client", "error_description": "AADSTS7000215: no"})
				return true
			}
			f.answer(w, 200, map[string]any{"access_token": jwt(asked), "expires_on": good, "token_type": "Bearer"})
			return true
		}
		if strings.Contains(last.body+r.URL.String(), "hush") {
			t.Errorf("%s %s carries the secret", r.Method, r.URL)
		}
		if r.Header.Get("Authorization") != "Bearer "+jwt(asked) {
			f.fail(w, online.Errorf(online.CodeUnauthorized, "", "who are you"))
			return true
		}
		f.answer(w, 200, map[string]any{"value": []any{}})
		return true
	}
	login := []string{"login", "--service-principal", "-u", "c-1", "--tenant", "t-1"}
	if o := f.asAz(nil, append(login, "-p", "wrong")...); o.code != 1 || !strings.Contains(o.err, "AADSTS7000215") ||
		strings.Contains(o.err, "wrong") {
		t.Fatalf("a wrong secret: exit %d %s", o.code, o.err)
	}
	file := filepath.Join(f.dir, "user", "portico", "az.json")
	if _, err := os.Stat(file); err == nil {
		t.Fatal("a failed login is remembered")
	}
	asked = 0
	if o := f.mustAz(append(login, "-p", "hush", "--query", "[0].user.name", "-o", "tsv")...); o.out != "c-1\n" {
		t.Fatalf("login: %q", o.out)
	}
	f.mustAz("ml", "online-endpoint", "list")
	f.mustAz("ml", "online-endpoint", "list")
	if asked != 1 {
		t.Errorf("the token was asked for %d times", asked)
	}
	good = time.Now().Add(time.Minute).Unix() // too little is left to begin with it
	f.mustAz("logout")
	f.mustAz(append(login, "-p", "hush")...)
	f.mustAz("ml", "online-endpoint", "list")
	if asked < 3 {
		t.Errorf("a token that ends was used: asked %d times", asked)
	}
	f.mustAz("logout")
	if doc, err := os.ReadFile(file); err != nil || strings.Contains(string(doc), "hush") ||
		strings.Contains(string(doc), "e30.") {
		t.Errorf("after logout %s holds %s (%v)", file, doc, err)
	}
}

// TestAzRestKeepsTheToken: the token of the management API goes to the server's management API and nowhere else.
func TestAzRestKeepsTheToken(t *testing.T) {
	f := newFakeServer(t)
	f.put("/onlineEndpoints/iris", map[string]any{})
	path := wsPath + "/onlineEndpoints/iris?api-version=2024-04-01"
	for _, target := range []string{path, "https://management.azure.com" + path, f.url + path} {
		if o := f.asAz(nil, "rest", "--url", target, "--query", "name", "-o", "tsv"); o.code != 0 || o.out != "iris\n" {
			t.Errorf("%s: exit %d %s%s", target, o.code, o.err, o.out)
		}
	}
	for _, target := range []string{"https://example.com" + path, "https://management.azure.com.example.com/x",
		"http://127.0.0.1:1/x"} {
		before := len(f.requests)
		if o := f.asAz(nil, "rest", "--url", target); o.code != ExitUsage || len(f.requests) != before {
			t.Errorf("%s: exit %d %s", target, o.code, o.err)
		}
	}
	if o := f.asAz(nil, "rest", "--url", wsPath+"/onlineEndpoints/none"); o.code != 1 ||
		!strings.HasPrefix(o.err, "ERROR: Not Found({") {
		t.Errorf("exit %d %s", o.code, o.err)
	}
	if o := f.asAz(nil, "rest", "--url", path, "--skip-authorization-header"); o.code != 1 ||
		!strings.Contains(o.err, "Unauthorized") {
		t.Errorf("without the header: exit %d %s", o.code, o.err)
	}
	f.mustAz("rest", "-m", "put", "-u", path, "--body", `{"properties": {"b": 1}}`, "--headers", "X-Test=1", "-o", "none")
	if r := f.find("PUT /onlineEndpoints/iris"); r.header.Get("X-Test") != "1" || !strings.Contains(r.body, `"b": 1`) {
		t.Errorf("sent %v %s", r.header, r.body)
	}
}

func TestAzConfig(t *testing.T) {
	f := newFakeServer(t)
	f.mustAz("configure", "--defaults", "group=team", "workspace=two", "web=app")
	f.mustAz("config", "set", "core.output=tsv", "extension.use_dynamic_install=yes_without_prompt")
	for line, want := range map[string]string{
		"config get defaults.group --query value":         "team\n",
		"config get defaults.web --query value":           "app\n",
		"config get core.output --query value":            "tsv\n",
		"configure -l --query [].name":                    "group\nweb\nworkspace\n",
		"config get --query extension[].value":            "yes_without_prompt\n",
		"config get defaults.group --query value -o json": "\"team\"\n",
	} {
		if o := f.mustAz(strings.Fields(line)...); o.out != want {
			t.Errorf("az %s: %q, not %q", line, o.out, want)
		}
	}
	f.mustAz("configure", "-d", "group=")
	f.mustAz("config", "unset", "core.output", "defaults.web")
	if o := f.asAz(nil, "config", "get", "defaults.group"); o.code != 1 || !strings.Contains(o.err, "is not set") {
		t.Errorf("exit %d %s", o.code, o.err)
	}
	if o := f.portico("config", "show", "-o", "json", "--query", "defaults"); !strings.Contains(o.out,
		`"workspace": "two"`) {
		t.Errorf("portico does not share the defaults: %s%s", o.out, o.err)
	}
}

func TestAzWindow(t *testing.T) {
	now := time.Date(2026, 3, 29, 1, 30, 0, 0, time.UTC)
	at := func(h, m int) time.Time { return time.Date(2026, 3, 29, h, m, 0, 0, time.UTC) }
	for _, row := range []struct {
		values     azValues
		start, end time.Time
		bad        bool
	}{
		{values: azValues{}, start: at(0, 30), end: now},
		{values: azValues{"offset": {"30m"}}, start: at(1, 0), end: now},
		{values: azValues{"offset": {"1h15m"}}, start: at(0, 15), end: now},
		{values: azValues{"start-time": {"2026-03-29T00:00Z"}}, bad: true},
		{values: azValues{"start-time": {"2026-03-29T00:00:00Z"}}, start: at(0, 0), end: now},
		{values: azValues{"start-time": {"2026-03-29"}, "offset": {"10m"}}, start: at(0, 0), end: at(0, 10)},
		{values: azValues{"end-time": {"2026-03-29T01:00"}}, start: at(0, 0), end: at(1, 0)},
		{values: azValues{"start-time": {"2026-03-29 00:10"}, "end-time": {"2026-03-29T02:20:00+02:00"}}, start: at(0, 10),
			end: at(0, 20)},
		{values: azValues{"start-time": {"2026-03-30"}}, bad: true},
		{values: azValues{"offset": {"-5m"}}, bad: true},
		{values: azValues{"offset": {"99999999999999999999d"}}, bad: true},
		{values: azValues{"offset": {"9999999999d"}}, bad: true},
	} {
		start, end, err := (&azCall{values: row.values}).window(now, time.Hour)
		if row.bad != (err != nil) || !row.bad && (!start.Equal(row.start) || !end.Equal(row.end)) {
			t.Errorf("%v: %s to %s, %v", row.values, start, end, err)
		}
	}
}

func TestApplyEdits(t *testing.T) {
	list := func(ids ...string) *endpointFile {
		return &endpointFile{Tags: map[string]string{"a": "1", "b": "2"}, Identity: &identityFile{Type: "user_assigned",
			UserAssigned: ids}}
	}
	for _, row := range []struct {
		adds, removes []string
		want          *endpointFile
		bad           string
	}{
		{adds: []string{"identity.user_assigned_identities=z", "identity.user_assigned_identities=a=b"},
			want: list("x", "y", "z", "a=b")},
		{removes: []string{"identity.user_assigned_identities=0"}, want: list("y")},
		{removes: []string{"identity.user_assigned_identities=2"}, bad: "no element"},
		{removes: []string{"identity.user_assigned_identities=-1"}, bad: "no element"},
		{adds: []string{"tags=c"}, bad: "not a list"},
		{adds: []string{"identity"}, bad: "PATH=VALUE"},
		{removes: []string{"tegs.a"}, bad: "tegs"},
	} {
		got := list("x", "y")
		err := applyEdits(row.adds, row.removes, got)
		switch {
		case row.bad != "":
			if err == nil || !strings.Contains(err.Error(), row.bad) {
				t.Errorf("%v %v: %v, not %q", row.adds, row.removes, err, row.bad)
			}
		case err != nil || !reflect.DeepEqual(got, row.want):
			t.Errorf("%v %v: %v %+v", row.adds, row.removes, err, got.Identity)
		}
	}
	got := list()
	if err := applyEdits(nil, []string{"tags.a"}, got); err != nil || !reflect.DeepEqual(got.Tags,
		map[string]string{"b": "2"}) {
		t.Errorf("%v %v", err, got.Tags)
	}
}

func TestShim(t *testing.T) {
	f := newFakeServer(t)
	dir := filepath.Join(t.TempDir(), "new", "bin")
	link := filepath.Join(dir, AzName)
	for range 2 { // again does no harm
		if o := f.must("shim", "install", dir); o.out != link+"\n" {
			t.Fatalf("%q", o.out)
		}
	}
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if own, err = filepath.EvalSymlinks(own); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(link); err != nil || target != own {
		t.Fatalf("%s -> %s (%v)", link, target, err)
	}
	f.must("shim", "remove", dir)
	if o := f.portico("shim", "remove", dir); o.code != ExitUsage {
		t.Errorf("removing nothing: exit %d", o.code)
	}
	write(t, link, "somebody's own az")
	for _, verb := range []string{"install", "remove"} {
		if o := f.portico("shim", verb, dir); o.code != ExitUsage {
			t.Errorf("%s over somebody's az: exit %d", verb, o.code)
		}
	}
	if doc, err := os.ReadFile(link); err != nil || string(doc) != "somebody's own az" {
		t.Errorf("somebody's az was touched: %q %v", doc, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}
