package cli

import (
	"context"

	"github.com/spf13/cobra"

	"portico/internal/arm"
	"portico/internal/online"
)

var modelColumns = []column{
	{"Name", "name"}, {"Version", "version"}, {"Type", "type"}, {"Digest", "digest"}, {"Archived", "is_archived"},
}

func (a *App) modelCommand(g *globalFlags) *cobra.Command {
	noun := assetNoun{
		kind: online.KindModel, word: "model", columns: modelColumns,
		shown: func(w *arm.Asset) any { return modelFromWire(w) },
	}
	c := &cobra.Command{Use: "model", Short: "Registered models"}
	return group(c, append(a.assetCommands(g, noun), a.modelCreate(g))...)
}

func (a *App) modelCreate(g *globalFlags) *cobra.Command {
	var w writeFlags
	var over modelFile
	c := &cobra.Command{
		Use: "create", Short: "Register a version of a model from a file or folder",
		Example: "  portico ml model create -n iris --path model/model.joblib\n  portico ml model create -f model.yml --version 3",
		Args:    cobra.ArbitraryArgs,
	}
	w.bind(c, "model")
	f := c.Flags()
	f.StringVarP(&over.Version, "version", "v", "",
		"version (default: the next one, or the latest if its content is the same)")
	f.StringVarP(&over.Path, "path", "p", "", "file or folder of the model")
	f.StringVarP(&over.Type, "type", "t", "", "custom_model, mlflow_model or triton_model")
	f.StringVar(&over.Description, "description", "", "description")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := spill(cmd, args, map[string]*[]string{"set": &w.sets}); err != nil {
			return err
		}
		var m modelFile
		base, err := w.read(&m)
		if err != nil {
			return err
		}
		if over.Type != "" {
			if err := applyOverrides([]string{"type=" + over.Type}, &m); err != nil {
				return err
			}
		}
		if over.Path != "" {
			// A path of the command line starts where the command runs, not where the file lies.
			m.Path, base = over.Path, "."
		}
		m.Name, m.Version = orDefault(w.name, m.Name), orDefault(over.Version, m.Version)
		m.Description = orDefault(over.Description, m.Description)
		return g.run(a, func(ctx context.Context, s *session, _ []string) error {
			id, err := s.registerModel(ctx, &m, base, false)
			if err != nil {
				return err
			}
			var asset arm.Asset
			if _, err := s.client.get(ctx, id, nil, &asset); err != nil {
				return err
			}
			return s.printer.print(modelFromWire(&asset), modelColumns)
		})(cmd, nil)
	}
	return c
}
