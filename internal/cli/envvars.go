package cli

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"portico/internal/api"
	"portico/internal/intercept"
	"portico/internal/online"
)

// variable is one variable of the environment of clients.
type variable struct {
	name  string
	value string
	unset bool // it is taken away
}

// The names by which a shell remembers what was done to it.
const (
	envMode     = "PORTICO_ENV"          // direct or intercept
	envPrevious = "PORTICO_ENV_PREVIOUS" // what the variables were before, as JSON in base64
)

// Modes.
const (
	modeDirect    = "direct"
	modeIntercept = "intercept"
)

// foreignCredentials go before a managed identity, or change which one is asked: with them a client would take its
// credential to Azure.
var foreignCredentials = []string{
	"AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_USERNAME", "AZURE_PASSWORD",
	"AZURE_FEDERATED_TOKEN_FILE", "AZURE_TOKEN_CREDENTIALS", "IDENTITY_SERVER_THUMBPRINT",
}

// ownedVariables are all that any mode sets or takes away.
var ownedVariables = append([]string{
	"ARM_CLOUD_METADATA_URL", "AZUREML_CURRENT_CLOUD", "REGISTRY_DISCOVERY_ENDPOINT_URL",
	"HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy",
	"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE",
	"IDENTITY_ENDPOINT", "IDENTITY_HEADER",
	"AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME", envDataDir,
}, foreignCredentials...)

// shell is an environment as it was before `portico env` changed it.
type shell struct {
	getenv   func(string) string
	changed  bool               // by an earlier `portico env`
	previous map[string]*string // what that one changed, with what it found; nil: nothing
}

func newShell(getenv func(string) string) *shell {
	s := &shell{getenv: getenv, changed: getenv(envMode) != ""}
	if !s.changed {
		return s
	}
	text, err := base64.StdEncoding.DecodeString(getenv(envPrevious))
	if err == nil {
		err = json.Unmarshal(text, &s.previous)
	}
	if err != nil || s.previous == nil { // the note is lost: then all that may be ours is
		s.previous = map[string]*string{}
		for _, name := range ownedVariables {
			s.previous[name] = nil
		}
	}
	return s
}

// get is the value from before; empty: there was none.
func (s *shell) get(name string) string {
	old, noted := s.previous[name]
	switch {
	case !noted:
		return s.getenv(name)
	case old == nil:
		return ""
	}
	return *old
}

// restore lists what takes everything back.
func (s *shell) restore() []variable {
	if !s.changed {
		return nil
	}
	var out []variable
	for _, name := range sortedKeys(s.previous) {
		if old := s.get(name); old != "" {
			out = append(out, variable{name: name, value: old})
		} else {
			out = append(out, variable{name: name, unset: true})
		}
	}
	return append(out, variable{name: envMode, unset: true}, variable{name: envPrevious, unset: true})
}

// clientEnvironment is how clients reach one server.
type clientEnvironment struct {
	place           place
	scope           online.WorkspaceID
	client          *client
	intercept       bool
	keepCredentials bool
	before          *shell
	bundle          string // file of certificate authorities; empty: the system's do
}

// variables lists what has to be set and taken away, in an order that people can read. What an earlier call did and
// this one does not is taken back.
func (e *clientEnvironment) variables() []variable {
	var out []variable
	set := func(name, value string) {
		if value != "" {
			out = append(out, variable{name: name, value: value})
		}
	}
	mode := modeDirect
	if e.intercept {
		mode = modeIntercept
		// MLClient's built-in cloud has the right names; another would lead it elsewhere.
		out = e.takeAway(out, "ARM_CLOUD_METADATA_URL", "AZUREML_CURRENT_CLOUD", "REGISTRY_DISCOVERY_ENDPOINT_URL")
		for _, name := range []string{"HTTPS_PROXY", "https_proxy"} {
			set(name, e.place.InterceptURL)
		}
	} else {
		set("ARM_CLOUD_METADATA_URL", e.place.ManagementURL+"/metadata/endpoints?api-version=2019-05-01")
		// Without the name, an SDK that cannot fetch the document goes on to public Azure with a warning.
		set("AZUREML_CURRENT_CLOUD", api.CloudName)
		set("REGISTRY_DISCOVERY_ENDPOINT_URL", e.place.ManagementURL+"/")
	}
	if e.intercept || e.before.get("HTTPS_PROXY")+e.before.get("https_proxy") != "" {
		for _, name := range []string{"NO_PROXY", "no_proxy"} {
			set(name, e.noProxy())
		}
	}
	for _, name := range []string{"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"} {
		set(name, e.bundle)
	}
	if !e.keepCredentials {
		set("IDENTITY_ENDPOINT", e.identityURL())
		set("IDENTITY_HEADER", e.place.Token.Reveal())
		out = e.takeAway(out, foreignCredentials...)
	}
	set("AZURE_SUBSCRIPTION_ID", e.scope.Subscription)
	set("AZURE_RESOURCE_GROUP", e.scope.ResourceGroup)
	set("AZUREML_WORKSPACE_NAME", e.scope.Name)
	set(envDataDir, e.place.DataDir)
	return e.remember(out, mode)
}

// takeAway adds those of the names that were set before.
func (e *clientEnvironment) takeAway(out []variable, names ...string) []variable {
	for _, name := range names {
		if e.before.get(name) != "" {
			out = append(out, variable{name: name, unset: true})
		}
	}
	return out
}

// remember adds what takes back what an earlier call did and this one does not, and the note of what was there before.
func (e *clientEnvironment) remember(out []variable, mode string) []variable {
	previous := map[string]*string{}
	for _, v := range out {
		previous[v.name] = nil
		if old := e.before.get(v.name); old != "" {
			previous[v.name] = &old
		}
	}
	for _, v := range e.before.restore() {
		if _, again := previous[v.name]; !again && v.name != envMode && v.name != envPrevious {
			out = append(out, v)
		}
	}
	note, _ := json.Marshal(previous) // a map of texts always marshals, with its keys in order
	return append(out, variable{name: envMode, value: mode},
		variable{name: envPrevious, value: base64.StdEncoding.EncodeToString(note)})
}

// identityURL is where a managed identity asks for tokens: without TLS on this machine, else at the management API.
func (e *clientEnvironment) identityURL() string {
	base := e.place.IdentityURL
	if base == "" {
		base = e.place.ManagementURL
	}
	return base + api.PathManagedIdentity
}

// noProxy lists the hosts that are reached without a proxy: the server's own, and those from before that do not
// keep clients from its proxy.
func (e *clientEnvironment) noProxy() string {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	for _, text := range []string{e.place.ManagementURL, e.place.ScoringURL} {
		if u, err := url.Parse(text); err == nil && u.Hostname() != "" {
			hosts = append(hosts, u.Hostname())
		}
	}
	old := e.before.get("no_proxy")
	if old == "" {
		old = e.before.get("NO_PROXY")
	}
	for _, entry := range strings.Split(old, ",") {
		if entry = strings.TrimSpace(entry); entry != "" && (!e.intercept || !exempts(entry)) {
			hosts = append(hosts, entry)
		}
	}
	return strings.Join(unique(hosts), ",")
}

// exempts says whether an entry of NO_PROXY covers a name that is intercepted.
func exempts(entry string) bool {
	domain := strings.ToLower(strings.TrimPrefix(strings.TrimPrefix(entry, "*"), "."))
	for _, host := range []string{intercept.ManagementHost, intercept.LoginHost, "account.blob." + intercept.StorageSuffix,
		"endpoint.location.inference.ml.azure.com"} {
		if domain == "" || host == domain || strings.HasSuffix(host, "."+domain) {
			return true
		}
	}
	return false
}

func unique(all []string) []string {
	var out []string
	for _, s := range all {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// envFormats are the values of --format.
var envFormats = []string{"sh", "dotenv", "json"}

func checkEnvFormat(format string) error {
	if !slices.Contains(envFormats, format) {
		return usagef("--format %q is not one of %s%s", format, strings.Join(envFormats, ", "), didYouMean(format, envFormats))
	}
	return nil
}

// writeVariables prints variables. sh is for eval; dotenv has no way to take one away, so it says so in a comment;
// in JSON null takes away. Only the shell that evaluates them gets the note of its own past, which may hold secrets.
func writeVariables(w io.Writer, format string, all []variable) error {
	var b strings.Builder
	if format != "sh" {
		all = slices.DeleteFunc(slices.Clone(all), func(v variable) bool { return v.name == envPrevious })
	}
	if format == "json" {
		b.WriteString("{")
		for i, v := range all {
			name, _ := json.Marshal(v.name) // texts always marshal
			value, _ := json.Marshal(v.value)
			if v.unset {
				value = []byte("null")
			}
			fmt.Fprintf(&b, "%s\n  %s: %s", strings.Repeat(",", min(i, 1)), name, value)
		}
		b.WriteString("\n}\n")
		_, err := io.WriteString(w, b.String())
		return err
	}
	for _, v := range all {
		switch {
		case format == "sh" && v.unset:
			fmt.Fprintf(&b, "unset %s\n", v.name)
		case format == "sh":
			fmt.Fprintf(&b, "export %s=%s\n", v.name, quoteShell(v.value))
		case v.unset:
			fmt.Fprintf(&b, "# unset %s\n", v.name)
		default:
			fmt.Fprintf(&b, "%s=%s\n", v.name, quoteDotenv(v.value))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// quoteShell makes one word of POSIX shell of any text.
func quoteShell(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// plainDotenv are texts that every reader of dotenv files, also those without quotes, takes as they are.
var plainDotenv = regexp.MustCompile(`^[-A-Za-z0-9_./:@%+=,?&~]*$`)

func quoteDotenv(s string) string {
	if plainDotenv.MatchString(s) {
		return s
	}
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
