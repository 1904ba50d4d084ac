package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"portico/internal/online"
)

// clientFlags say how other programs are to reach the server.
type clientFlags struct {
	dataDir string
	scopeFlags
	intercept, direct bool
	passthrough       bool
	keepCredentials   bool
}

func (f *clientFlags) bind(c *cobra.Command) {
	p := c.Flags()
	p.StringVar(&f.dataDir, "data-dir", "", "data directory of a server on this machine (default $"+envDataDir+
		", $"+envURL+" or "+defaultDataDir+")")
	p.StringVarP(&f.workspace, "workspace-name", "w", "", "workspace")
	p.StringVarP(&f.group, "resource-group", "g", "", "resource group")
	p.StringVar(&f.subscription, "subscription", "", "subscription")
	p.BoolVar(&f.intercept, "intercept", false,
		"reach the server by Azure's own host names, through its proxy (serve --intercept)")
	p.BoolVar(&f.direct, "no-intercept", false, "reach the server by its own address (the default)")
	p.BoolVar(&f.passthrough, "passthrough", false,
		"with --intercept: insist that other hosts can be reached too (serve --intercept-passthrough)")
	p.BoolVar(&f.keepCredentials, "keep-credentials", false, "leave the credentials of this shell as they are")
	must(c.MarkFlagDirname("data-dir"))
}

// liveTimeout is how long a server may take to say that it is there.
const liveTimeout = 10 * time.Second

// open finds the server, sees that it answers, and works out the environment for its clients.
func (f *clientFlags) open(ctx context.Context, a *App) (*clientEnvironment, error) {
	switch {
	case f.intercept && f.direct:
		return nil, usagef("--intercept and --no-intercept exclude each other")
	case f.passthrough && !f.intercept:
		return nil, usagef("--passthrough belongs to --intercept")
	}
	where, err := locate(f.dataDir, a.Getenv)
	if err != nil {
		return nil, err
	}
	if err := f.checkIntercept(where); err != nil {
		return nil, err
	}
	user, err := loadDefaults()
	if err != nil {
		return nil, err
	}
	scope, err := f.scope(user, f.dataDir, a.Getenv)
	if err != nil {
		return nil, err
	}
	server, err := newClient(where, a.Version, (&progress{w: a.Err}).warning)
	if err != nil {
		return nil, err
	}
	live, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	if _, err := server.get(live, "/metadata/endpoints", nil, &[]json.RawMessage{}); err != nil {
		return nil, err
	}
	e := &clientEnvironment{place: where, scope: scope, client: server, intercept: f.intercept,
		keepCredentials: f.keepCredentials, before: newShell(a.Getenv)}
	return e, e.writeBundle(a)
}

// checkIntercept says what a server lacks for --intercept, and how to give it that.
func (f *clientFlags) checkIntercept(p place) error {
	switch {
	case !f.intercept:
		return nil
	case p.InterceptURL == "" && p.DataDir == "":
		return usagef("--intercept works on the server's own machine only: its proxy listens on loopback")
	case p.InterceptURL == "":
		return usagef("the server does not intercept; start it with `portico serve --intercept 127.0.0.1:8442` " +
			"(docs/clients.md tells the risks)")
	case f.passthrough && !p.Passthrough:
		return usagef("the server passes nothing through; start it with " +
			"`portico serve --intercept ADDRESS --intercept-passthrough`")
	}
	return nil
}

func (a *App) envCommand() *cobra.Command {
	var f clientFlags
	var format, configFile, python string
	var unset, check bool
	c := &cobra.Command{
		Use: "env", Short: "Print the environment in which Azure's own clients reach this server", Args: cobra.MaximumNArgs(1),
		Long: "Print the variables with which azure-ai-ml, Azure's SDKs for other languages, curl and scripts for Azure\n" +
			"reach this server with nothing else changed. They hold the administrator's token: do not share the output.",
		Example: "  eval \"$(portico env)\"            set this shell up\n" +
			"  eval \"$(portico env --unset)\"    take everything back\n" +
			"  portico env --check              try every client that is on this machine\n" +
			"  portico env --config-file        also write ./config.json for MLClient.from_config()",
	}
	f.bind(c)
	p := c.Flags()
	p.StringVar(&format, "format", "sh", "sh, dotenv or json")
	p.BoolVar(&unset, "unset", false, "print what takes the variables back, with the values from before")
	p.BoolVar(&check, "check", false,
		"prove with each client found here that it reaches the server, and say what is missing")
	p.StringVar(&python, "python", "", "Python to look for clients in, for --check (default: python3 of the PATH)")
	p.StringVar(&configFile, "config-file", "",
		"also write a config.json for MLClient.from_config() (default ./config.json)")
	p.Lookup("config-file").NoOptDefVal = "config.json"
	must(c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(envFormats, cobra.ShellCompDirectiveNoFileComp)))
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkEnvFormat(format); err != nil {
			return err
		}
		if len(args) > 0 { // --config-file PATH, which the flag parser takes for an argument
			if configFile != "config.json" {
				return usagef("unexpected argument %q; to run a command use `portico run -- COMMAND`", args[0])
			}
			configFile = args[0]
		}
		if unset && (check || configFile != "") {
			return usagef("--unset takes the variables back and does nothing else")
		}
		if unset {
			return writeVariables(a.Out, format, newShell(a.Getenv).restore())
		}
		e, err := f.open(cmd.Context(), a)
		if err != nil {
			return err
		}
		if configFile != "" {
			if err := writeConfigFile(configFile, e.scope); err != nil {
				return err
			}
		}
		if check {
			return e.check(cmd.Context(), a, python, format == "json")
		}
		return writeVariables(a.Out, format, e.variables())
	}
	return c
}

// workspaceConfig is what MLClient.from_config() reads.
type workspaceConfig struct {
	Subscription  string `json:"subscription_id"`
	ResourceGroup string `json:"resource_group"`
	Workspace     string `json:"workspace_name"`
}

// writeConfigFile writes the file, or leaves it when it says the same already. One that says something else may be
// somebody's way to their real workspace, so it is not replaced.
func writeConfigFile(path string, w online.WorkspaceID) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, "config.json")
	}
	doc, err := json.MarshalIndent(workspaceConfig{w.Subscription, w.ResourceGroup, w.Name}, "", "    ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	old, err := os.ReadFile(path)
	switch {
	case err == nil && sameConfig(old, doc):
		return nil
	case err == nil:
		return usagef("%s exists and names another workspace; move it away, or name another file with --config-file=PATH",
			path)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := os.WriteFile(path, append(doc, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the workspace's configuration: %w", err)
	}
	return nil
}

func sameConfig(old, doc []byte) bool {
	var a, b workspaceConfig
	return json.Unmarshal(old, &a) == nil && json.Unmarshal(doc, &b) == nil && a == b
}

// writeBundle makes the file of authorities that clients trust: those they trusted before, and the server's.
func (e *clientEnvironment) writeBundle(a *App) error {
	var ours []string
	if e.place.CAFile != "" {
		ours = append(ours, e.place.CAFile)
	}
	name := "ca-bundle.pem"
	if e.intercept {
		ours, name = append(ours, e.place.InterceptCAFile), "ca-bundle-intercept.pem"
	}
	if len(ours) == 0 {
		return nil // the server's certificate is one that everybody trusts
	}
	roots, err := e.before.roots()
	if err != nil {
		return err
	}
	if len(roots) == 0 {
		(&progress{w: a.Err}).warning("this machine's certificate authorities were not found; " +
			"programs in this environment can reach Portico only")
	}
	text, err := bundle(roots, ours)
	if err != nil {
		return err
	}
	dir := filepath.Join(e.place.DataDir, "clients")
	if e.place.DataDir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("find a place for the certificate authorities: %w", err)
		}
		host := strings.TrimPrefix(e.place.ManagementURL, "https://")
		dir = filepath.Join(cache, "portico", strings.NewReplacer("/", "_", ":", "_").Replace(host))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make a place for the certificate authorities: %w", err)
	}
	if e.bundle, err = filepath.Abs(filepath.Join(dir, name)); err != nil {
		return fmt.Errorf("find a place for the certificate authorities: %w", err)
	}
	if old, err := os.ReadFile(e.bundle); err == nil && bytes.Equal(old, text) {
		return nil
	}
	return replaceFile(e.bundle, text, 0o644)
}

// replaceFile replaces a file in one step, so that a client never sees half of it.
func replaceFile(path string, text []byte, mode os.FileMode) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".portico-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(text)
	if err = errors.Join(err, temp.Chmod(mode), temp.Close()); err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
