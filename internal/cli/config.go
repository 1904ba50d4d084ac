package cli

import (
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
			"your own defaults, and the instance types. Tables show the settings; -o json shows all.",
	}
	f.bind(c)
	c.Flags().StringVarP(&p.format, "output", "o", "table", "output format: "+strings.Join(formats, ", "))
	c.Flags().StringVar(&p.query, "query", "", "JMESPath expression that selects from the result")
	c.RunE = func(*cobra.Command, []string) error {
		if err := p.check(); err != nil {
			return err
		}
		cfg, values, err := f.load(c, a.Getenv)
		if err != nil {
			return err
		}
		user, err := loadDefaults()
		if err != nil {
			return err
		}
		all := shownConfig{Settings: values, Defaults: user, InstanceTypes: cfg.InstanceTypes}
		if p.format == "table" && p.query == "" {
			return p.print(all.Settings, []column{{"Key", "key"}, {"Value", "value"}, {"Source", "source"}})
		}
		return p.print(all, nil)
	}
	return c
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
