package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// The releases of az whose command line this one follows. Scripts compare them.
const (
	azCompatVersion   = "2.67.0"
	azMLCompatVersion = "2.34.0"
)

// azDefaultsSection is the section whose keys are the user's defaults.
const azDefaultsSection = "defaults"

func azConfig() []azCommand {
	extension := azOne("--name", "-n")
	return []azCommand{
		{words: "configure", short: "Set defaults: group, workspace, location", run: azConfigure, args: []azArg{
			azMany("--defaults", "-d"), azSwitch("--list-defaults", "-l"),
			azOne("--scope").from("global").silent()}},
		{words: "config set", short: "Set settings: SECTION.KEY=VALUE", run: azConfigSet, args: []azArg{
			{names: []string{"key_value"}, takes: takesMany, required: true, help: "SECTION.KEY=VALUE"},
			azSwitch("--local").refuse("settings are the user's, not a folder's")}},
		{words: "config get", short: "Show settings", run: azConfigGet, args: []azArg{
			{names: []string{"key"}, help: "SECTION or SECTION.KEY"}, azSwitch("--local").refuse("settings are the user's, not a folder's")}},
		{words: "config unset", short: "Remove settings", run: azConfigUnset, args: []azArg{
			{names: []string{"key"}, takes: takesMany, required: true, help: "SECTION.KEY"},
			azSwitch("--local").refuse("settings are the user's, not a folder's")}},
		{words: "version", short: "Show versions", run: azVersion},
		{words: "extension add", short: "Add an extension; ml is always there", run: azExtensionAdd, args: []azArg{
			extension, azSwitch("--yes", "-y"), azSwitch("--upgrade", "-U").silent(), azOne("--version").silent(),
			azMaybe("--allow-preview").silent(), azOne("--source", "-s").refuse("this az has no extensions besides ml")}},
		{words: "extension update", short: "Update an extension", run: azExtensionKnown, args: []azArg{
			extension.must(), azMaybe("--allow-preview").silent()}},
		{words: "extension remove", short: "Remove an extension; ml stays", run: azExtensionRemove,
			args: []azArg{extension.must()}},
		{words: "extension list", short: "List extensions", run: func(_ context.Context, c *azCall) error {
			return c.print([]azExtension{azMLExtension()})
		}},
		{words: "extension show", short: "Show an extension", run: azExtensionShow, args: []azArg{extension.must()}},
	}
}

// setAz sets one setting, or removes it when value is empty. Defaults that portico has are kept as portico's.
func (c *azCall) setAz(key, value string) error {
	section, name, ok := strings.Cut(key, ".")
	if !ok || section == "" || name == "" {
		return usagef("'%s' is not SECTION.KEY", key)
	}
	if section == azDefaultsSection && slices.Contains(defaultKeys, name) {
		return changeDefaults([]string{name}, func(d userDefaults, name string) error {
			return d.with(name, func() {
				if d[name] = value; value == "" {
					delete(d, name)
				}
			})
		})
	}
	if c.user.Config == nil {
		c.user.Config = map[string]string{}
	}
	if c.user.Config[key] = value; value == "" {
		delete(c.user.Config, key)
	}
	return c.user.save()
}

func azConfigure(_ context.Context, c *azCall) error {
	pairs := c.values["defaults"]
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return usagef("usage: az configure --defaults NAME=VALUE; an empty VALUE removes the default")
		}
		if err := c.setAz(azDefaultsSection+"."+name, value); err != nil {
			return err
		}
	}
	if c.values.on("list-defaults") {
		items, err := c.section(azDefaultsSection)
		if err != nil {
			return err
		}
		return c.print(items)
	}
	if len(pairs) == 0 {
		return usagef("there is nothing to ask; give --defaults NAME=VALUE or --list-defaults")
	}
	return nil
}

// azSetting is a setting as az shows it.
type azSetting struct {
	Name   string `json:"name"`
	Source string `json:"source"`
	Value  string `json:"value"`
}

// section lists the settings of a section, in order of their names.
func (c *azCall) section(section string) ([]azSetting, error) {
	found := map[string]azSetting{}
	for key, value := range c.user.Config {
		if name, ok := strings.CutPrefix(key, section+"."); ok {
			found[name] = azSetting{name, c.user.path, value}
		}
	}
	if section == azDefaultsSection {
		defaults, err := loadDefaults()
		if err != nil {
			return nil, err
		}
		path, err := defaultsPath()
		if err != nil && len(defaults) > 0 {
			return nil, err
		}
		for name, value := range defaults {
			found[name] = azSetting{name, path, value}
		}
	}
	items := []azSetting{}
	for _, name := range sortedKeys(found) {
		item := found[name]
		if value := c.user.environment(section + "." + name); value != "" {
			item.Source, item.Value = "environment variable", value
		}
		items = append(items, item)
	}
	return items, nil
}

func azConfigSet(_ context.Context, c *azCall) error {
	for _, pair := range c.values["key_value"] {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || value == "" {
			return usagef("'%s' is not SECTION.KEY=VALUE", pair)
		}
		if err := c.setAz(key, value); err != nil {
			return err
		}
	}
	return nil
}

func azConfigUnset(_ context.Context, c *azCall) error {
	for _, key := range c.values["key"] {
		if err := c.setAz(key, ""); err != nil {
			return err
		}
	}
	return nil
}

func azConfigGet(_ context.Context, c *azCall) error {
	section, name, one := strings.Cut(c.one("key"), ".")
	if section == "" {
		all := map[string][]azSetting{}
		sections := []string{azDefaultsSection}
		for key := range c.user.Config {
			name, _, _ := strings.Cut(key, ".")
			sections = append(sections, name)
		}
		for _, s := range sections {
			items, err := c.section(s)
			if err != nil {
				return err
			}
			all[s] = items
		}
		return c.print(all)
	}
	items, err := c.section(section)
	if err != nil {
		return err
	}
	if !one {
		return c.print(items)
	}
	for _, item := range items {
		if item.Name == name {
			return c.print(item)
		}
	}
	if value := c.user.environment(section + "." + name); value != "" {
		return c.print(azSetting{name, "environment variable", value})
	}
	return fmt.Errorf("configuration '%s' is not set", c.one("key"))
}

func azVersion(_ context.Context, c *azCall) error {
	return c.print(map[string]any{
		"azure-cli": azCompatVersion, "azure-cli-core": azCompatVersion, "portico": c.Version,
		"extensions": map[string]string{"ml": azMLCompatVersion},
	})
}

// azVersionText is the output of az --version.
func azVersionText(w io.Writer) error {
	_, err := fmt.Fprintf(w, "azure-cli %s (the command line that Portico's az follows)\n\nExtensions:\nml %s\n",
		azCompatVersion,
		azMLCompatVersion)
	return err
}

// azExtension is an extension as az shows it.
type azExtension struct {
	Experimental bool   `json:"experimental"`
	Type         string `json:"extensionType"`
	Name         string `json:"name"`
	Path         string `json:"path"`
	Preview      bool   `json:"preview"`
	Version      string `json:"version"`
}

func azMLExtension() azExtension {
	return azExtension{Type: "whl", Name: "ml", Path: "built in", Version: azMLCompatVersion}
}

func azExtensionAdd(ctx context.Context, c *azCall) error {
	if c.one("name") == "" {
		return usagef("the following arguments are required: --name/-n")
	}
	if c.one("name") != "ml" {
		return fmt.Errorf("no extension found with name '%s': Portico's az has ml and no others", c.one("name"))
	}
	c.warn("extension 'ml' %s is always there", azMLCompatVersion)
	return nil
}

// azExtensionKnown refuses every extension but the one that there is.
func azExtensionKnown(_ context.Context, c *azCall) error {
	if c.one("name") != "ml" {
		return fmt.Errorf("the extension %s is not installed; Portico's az has ml and no others", c.one("name"))
	}
	return nil
}

func azExtensionRemove(ctx context.Context, c *azCall) error {
	if err := azExtensionKnown(ctx, c); err != nil {
		return err
	}
	c.warn("extension 'ml' is a part of Portico's az and stays")
	return nil
}

func azExtensionShow(ctx context.Context, c *azCall) error {
	if err := azExtensionKnown(ctx, c); err != nil {
		return err
	}
	return c.print(azMLExtension())
}
