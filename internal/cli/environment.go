package cli

import (
	"context"

	"github.com/spf13/cobra"

	"portico/internal/arm"
	"portico/internal/online"
)

var environmentColumns = []column{
	{"Name", "name"}, {"Version", "version"}, {"Image", "image"}, {"Archived", "is_archived"},
}

func (a *App) environmentCommand(g *globalFlags) *cobra.Command {
	noun := assetNoun{
		kind: online.KindEnvironment, word: "environment", columns: environmentColumns,
		shown: func(w *arm.Asset) any { return environmentFromWire(w) },
	}
	c := &cobra.Command{Use: "environment", Short: "Registered Python environments"}
	return group(c, append(a.assetCommands(g, noun), a.environmentCreate(g))...)
}

func (a *App) environmentCreate(g *globalFlags) *cobra.Command {
	var w writeFlags
	var version, conda, requirements, image, description string
	c := &cobra.Command{
		Use: "create", Short: "Register a version of an environment",
		Example: "  portico ml environment create -n sklearn --conda-file conda.yaml",
		Args:    cobra.ArbitraryArgs,
	}
	w.bind(c, "environment")
	f := c.Flags()
	f.StringVarP(&version, "version", "v", "", "version (default: the next one, or the latest if its content is the same)")
	f.StringVarP(&conda, "conda-file", "c", "", "conda specification")
	f.StringVarP(&requirements, "requirements", "r", "", "pip requirements file")
	f.StringVarP(&image, "image", "i", "", "image; run when it stands alone with an inference_config, else recorded only")
	f.StringVar(&description, "description", "", "description")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := spill(cmd, args, map[string]*[]string{"set": &w.sets}); err != nil {
			return err
		}
		var e environmentFile
		base, err := w.read(&e)
		if err != nil {
			return err
		}
		// Paths of the command line start where the command runs, not where the file lies.
		if conda != "" {
			text, err := readSpec(".", conda, "--conda-file")
			if err != nil {
				return err
			}
			e.CondaFile = &condaFile{Text: text}
		}
		if requirements != "" {
			if base != "." && e.CondaFile != nil && e.CondaFile.Path != "" {
				return usagef("give conda_file or requirements, not both")
			}
			e.Requirements, base = requirements, "."
		}
		e.Name, e.Version, e.Image = orDefault(w.name, e.Name), orDefault(version, e.Version), orDefault(image, e.Image)
		e.Description = orDefault(description, e.Description)
		return g.run(a, func(ctx context.Context, s *session, _ []string) error {
			id, err := s.registerEnvironment(ctx, &e, base, false)
			if err != nil {
				return err
			}
			var asset arm.Asset
			if _, err := s.client.get(ctx, id, nil, &asset); err != nil {
				return err
			}
			return s.printer.print(environmentFromWire(&asset), environmentColumns)
		})(cmd, nil)
	}
	return c
}
