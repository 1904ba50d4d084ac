package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"portico/internal/durable"
	"portico/internal/online"
	"portico/internal/server"
)

// defaultKeys are what `portico config set` can hold for a user.
var defaultKeys = []string{"subscription", "group", "workspace", "endpoint", "location"}

// userDefaults are a user's own defaults for -w, -g, --subscription, the endpoint's name and -l of new workspaces.
type userDefaults map[string]string

// defaultsPath is the file of the user's defaults, in the user's configuration directory.
func defaultsPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the user's configuration directory: %w", err)
	}
	return filepath.Join(dir, "portico", "defaults.json"), nil
}

func loadDefaults() (userDefaults, error) {
	path, noHome := defaultsPath()
	if noHome != nil {
		return userDefaults{}, nil //nolint:nilerr // a service account has no defaults of its own
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return userDefaults{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the user's defaults: %w", err)
	}
	out := userDefaults{}
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, usagef("%s is not valid: %v; mend or remove it", path, err)
	}
	return out, nil
}

func (d userDefaults) save() error {
	path, err := defaultsPath()
	if err != nil {
		return err
	}
	if err := replaceUserFile(path, d); err != nil {
		return fmt.Errorf("write the user's defaults: %w", err)
	}
	return nil
}

// replaceUserFile writes v as JSON for its owner's eyes only, and at once, so that a reader never sees half of it.
func replaceUserFile(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.Replace(path, append(bytes.TrimSpace(text), '\n'), 0o600)
}

// scopeFlags are -w, -g and --subscription.
type scopeFlags struct{ subscription, group, workspace string }

// scope decides which workspace commands work on. Each part is the flag's, else the environment's, else the user's
// default, else what the server on this machine is configured with.
func (f scopeFlags) scope(user userDefaults, dataDir string, getenv func(string) string) (online.WorkspaceID, error) {
	src := server.Sources{Getenv: getenv}
	if dataDir != "" {
		src.Flags = map[string]string{"data_dir": dataDir}
	}
	cfg, values, err := server.Load(src)
	if err != nil {
		return online.WorkspaceID{}, usagef("the server's configuration is not valid: %v", err)
	}
	fromEnvironment := map[string]bool{}
	for _, v := range values {
		fromEnvironment[v.Key] = strings.HasPrefix(v.Source, "environment")
	}
	choose := func(flag, key, userKey, configured string) string {
		switch {
		case flag != "":
			return flag
		case !fromEnvironment[key] && user[userKey] != "":
			return user[userKey]
		}
		return configured
	}
	w := online.WorkspaceID{
		Subscription:  choose(f.subscription, "subscription", "subscription", cfg.Subscription),
		ResourceGroup: choose(f.group, "resource_group", "group", cfg.ResourceGroup),
		Name:          choose(f.workspace, "workspace", "workspace", cfg.Workspace),
	}
	if e := online.CheckScope(w); e != nil {
		return w, usagef("%s", e.Message)
	}
	return w, nil
}
