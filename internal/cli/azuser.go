package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// azUser is what az remembers of a user beside the defaults of `portico config`: who signed in, settings of
// `az config`, and the resource groups that were created. The file is the user's own (mode 0600): like az's on Linux it
// holds the secret of a service principal that signed in, until `az logout`.
type azUser struct {
	Login  *azLogin           `json:"login,omitempty"`
	Config map[string]string  `json:"config,omitempty"` // by section.key
	Groups map[string]azGroup `json:"groups,omitempty"` // by subscription/name, in lower case

	path   string
	getenv func(string) string
}

// loadAzUser reads the file; without one, or without a home, nothing is remembered.
func loadAzUser() (*azUser, error) {
	u := &azUser{}
	defaults, noHome := defaultsPath()
	if noHome != nil {
		return u, nil //nolint:nilerr // a service account remembers nothing
	}
	u.path = filepath.Join(filepath.Dir(defaults), "az.json")
	text, err := os.ReadFile(u.path)
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what az remembers: %w", err)
	}
	if err := json.Unmarshal(text, u); err != nil {
		return nil, fmt.Errorf("%s is not valid: %w; mend or remove it", u.path, err)
	}
	return u, nil
}

func (u *azUser) save() error {
	if u.path == "" {
		return errors.New("there is no home directory in which az could remember this")
	}
	if err := replaceUserFile(u.path, u); err != nil {
		return fmt.Errorf("write what az remembers: %w", err)
	}
	return nil
}

// environment gives section.key as the environment sets it: AZURE_SECTION_KEY.
func (u *azUser) environment(key string) string {
	return u.getenv("AZURE_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_")))
}

// setting gives section.key: the environment's, else that of `az config`.
func (u *azUser) setting(key string) string { return orDefault(u.environment(key), u.Config[key]) }
