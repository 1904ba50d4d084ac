package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"portico/internal/online"
	"portico/internal/server"
)

func (a *App) configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "What a server is configured with, and your own defaults"}
	return group(c, a.configShow(), a.configSet(), a.configUnset())
}

// shownConfig is the output of config show.
type shownConfig struct {
	Settings      []server.Value        `json:"settings"`
	Defaults      userDefaults          `json:"defaults"`
	InstanceTypes []online.InstanceType `json:"instance_types"`
}

func (a *App) configShow() *cobra.Command {
	p := &printer{out: a.Out}
	var f settingFlags
	c := &cobra.Command{
		Use: "show", Short: "Print what is in force and where it comes from", Args: cobra.NoArgs,
		Long: "Print every setting of the server with its value and its source (flag, environment, file or default),\n" +
			"and the instance types; -o json also shows your own defaults. A running server is asked what it was started with.",
	}
	f.bind(c)
	c.Flags().StringVarP(&p.format, "output", "o", "table", "output format: "+strings.Join(formats, ", "))
	c.Flags().StringVar(&p.query, "query", "", "JMESPath expression that selects from the result")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := p.check(); err != nil {
			return err
		}
		cfg, values, err := f.load(cmd, a.Getenv)
		if err != nil {
			return err
		}
		user, err := loadDefaults()
		if err != nil {
			return err
		}
		all := shownConfig{Settings: values, Defaults: user, InstanceTypes: cfg.InstanceTypes}
		if inForce := a.settingsInForce(cmd, cfg.DataDir); inForce != nil {
			all.Settings = inForce
		}
		if p.format != "table" || p.query != "" {
			return p.print(all, nil)
		}
		if err := p.print(all.Settings, []column{{"Key", "key"}, {"Value", "value"}, {"Source", "source"}}); err != nil {
			return err
		}
		fmt.Fprintln(a.Out)
		return p.print(all.InstanceTypes, []column{
			{"InstanceType", "name"}, {"CPUs", "cpus"}, {"MemoryMiB", "memoryMiB"}, {"GPUs", "gpus"}, {"GPU", "gpu"},
		})
	}
	return c
}

// settingsInForce asks the server that runs on the data directory, which also knows what isolation its machine
// allows. Flags ask what they would change, and then no server is asked. nil means that the files decide.
func (a *App) settingsInForce(cmd *cobra.Command, dataDir string) []server.Value {
	for _, s := range server.Settings()[1:] { // the first is the data directory itself
		if cmd.Flags().Changed(s.Flag()) {
			return nil
		}
	}
	where, err := fromDataDir(dataDir, "")
	if err != nil {
		fmt.Fprintf(a.Err, "No server runs on %s; this is what the next `portico serve` would use.\n", dataDir)
		return nil
	}
	progress := &progress{w: a.Err}
	client, err := newClient(where, a.Version, progress.warning)
	var values []server.Value
	if err == nil {
		_, err = client.get(cmd.Context(), "/portico/v1/config", nil, &values)
	}
	if err != nil {
		progress.warning(err.Error() + "; this is what the next start would use")
		return nil
	}
	return values
}

func (a *App) configSet() *cobra.Command {
	return &cobra.Command{
		Use: "set KEY=VALUE...", Short: "Set your own defaults: " + strings.Join(defaultKeys, ", "),
		Example: "  portico config set workspace=team-a endpoint=iris",
		Args:    cobra.MinimumNArgs(1), ValidArgs: defaultKeys,
		RunE: func(_ *cobra.Command, args []string) error {
			return changeDefaults(args, func(d userDefaults, arg string) error {
				key, value, ok := strings.Cut(arg, "=")
				if !ok || value == "" {
					return usagef("%q is not KEY=VALUE", arg)
				}
				return d.with(key, func() { d[key] = value })
			})
		},
	}
}

func (a *App) configUnset() *cobra.Command {
	return &cobra.Command{
		Use: "unset KEY...", Short: "Remove your own defaults", Args: cobra.MinimumNArgs(1), ValidArgs: defaultKeys,
		RunE: func(_ *cobra.Command, args []string) error {
			return changeDefaults(args, func(d userDefaults, key string) error {
				return d.with(key, func() { delete(d, key) })
			})
		},
	}
}

// with carries out a change if the key is known.
func (d userDefaults) with(key string, change func()) error {
	if !slices.Contains(defaultKeys, key) {
		return usagef("unknown default %q%s; known are %s (the server's own settings are keys of its config.yaml)",
			key, didYouMean(key, defaultKeys), strings.Join(defaultKeys, ", "))
	}
	change()
	return nil
}

func changeDefaults(args []string, change func(userDefaults, string) error) error {
	d, err := loadDefaults()
	if err != nil {
		return err
	}
	for _, arg := range args {
		if err := change(d, arg); err != nil {
			return err
		}
	}
	return d.save()
}
