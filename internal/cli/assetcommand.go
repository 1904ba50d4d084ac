package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"portico/internal/arm"
	"portico/internal/online"
)

// assetNoun is what the commands of models and environments differ in.
type assetNoun struct {
	kind    online.Kind
	word    string
	columns []column
	shown   func(*arm.Asset) any
}

// assetCommands are the commands that every kind of versioned asset has.
func (a *App) assetCommands(g *globalFlags, noun assetNoun) []*cobra.Command {
	return []*cobra.Command{
		a.assetList(g, noun), a.assetShow(g, noun), a.assetDelete(g, noun), a.assetArchive(g, noun, true),
		a.assetArchive(g, noun, false),
	}
}

// shownContainer is an asset's container as it is printed.
type shownContainer struct {
	ID            string            `json:"id"`
	Name          string            `json:"name"`
	Description   string            `json:"description,omitempty"`
	Tags          map[string]string `json:"tags"`
	LatestVersion string            `json:"latest_version"`
	Archived      bool              `json:"is_archived"`
}

func (a *App) assetList(g *globalFlags, noun assetNoun) *cobra.Command {
	var name string
	var all bool
	c := &cobra.Command{
		Use: "list", Short: fmt.Sprintf("List %ss, or the versions of one", noun.word), Args: cobra.NoArgs,
	}
	c.Flags().StringVarP(&name, "name", "n", "", "list the versions of this "+noun.word)
	c.Flags().BoolVar(&all, "include-archived", false, "also those that are archived")
	must(c.RegisterFlagCompletionFunc("name", a.completeNames(g, func(s *session) string { return s.kindPath(noun.kind) })))
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		if name == "" {
			found, err := list[arm.AssetContainer](ctx, s.client, s.kindPath(noun.kind), archived(all))
			if err != nil {
				return err
			}
			out := make([]shownContainer, len(found))
			for i, f := range found {
				p := f.Properties
				out[i] = shownContainer{
					ID: f.ID, Name: f.Name, Description: p.Description, Tags: orEmpty(p.Tags),
					LatestVersion: text(p.LatestVersion), Archived: p.IsArchived,
				}
			}
			return s.printer.print(out, []column{{"Name", "name"}, {"LatestVersion", "latest_version"},
				{"Archived", "is_archived"}})
		}
		found, err := list[arm.Asset](ctx, s.client, s.containerPath(noun.kind, name)+"/versions", archived(all))
		if err != nil {
			return err
		}
		out := make([]any, len(found))
		for i := range found {
			out[i] = noun.shown(&found[i])
		}
		return s.printer.print(out, noun.columns)
	})
	return c
}

// assetVersion is -n and -v (or --label latest) of the commands that work on one version.
type assetVersion struct{ name, version, label string }

func (v *assetVersion) bind(a *App, c *cobra.Command, g *globalFlags, noun assetNoun) {
	f := c.Flags()
	f.StringVarP(&v.name, "name", "n", "", "name of the "+noun.word)
	f.StringVarP(&v.version, "version", "v", "", "version")
	must(c.RegisterFlagCompletionFunc("name", a.completeNames(g, func(s *session) string { return s.kindPath(noun.kind) })))
	must(c.RegisterFlagCompletionFunc("version", a.completeNames(g, func(s *session) string {
		return s.containerPath(noun.kind, v.name) + "/versions"
	})))
}

// path is the version's resource id; the label is looked up.
func (v *assetVersion) path(ctx context.Context, s *session, noun assetNoun) (string, error) {
	if err := required("--name", v.name); err != nil {
		return "", err
	}
	if v.version != "" && v.label != "" {
		return "", usagef("give --version or --label, not both")
	}
	if v.version == "" {
		if v.label != "latest" {
			return "", usagef("give --version VERSION or --label latest")
		}
		var c arm.AssetContainer
		if _, err := s.client.get(ctx, s.containerPath(noun.kind, v.name), nil, &c); err != nil {
			return "", err
		}
		if v.version = text(c.Properties.LatestVersion); v.version == "" {
			return "", online.Errorf(online.CodeNotFound, v.name, "%s %s has no version", noun.word, v.name)
		}
	}
	return arm.FormatID(s.scope.Asset(noun.kind, v.name, v.version)), nil
}

func (a *App) assetShow(g *globalFlags, noun assetNoun) *cobra.Command {
	var v assetVersion
	c := &cobra.Command{Use: "show", Short: "Show one version of a " + noun.word, Args: cobra.NoArgs}
	v.bind(a, c, g, noun)
	c.Flags().StringVarP(&v.label, "label", "l", "", "latest")
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		path, err := v.path(ctx, s, noun)
		if err != nil {
			return err
		}
		var w arm.Asset
		if _, err := s.client.get(ctx, path, nil, &w); err != nil {
			return err
		}
		return s.printer.print(noun.shown(&w), noun.columns)
	})
	return c
}

func (a *App) assetDelete(g *globalFlags, noun assetNoun) *cobra.Command {
	var v assetVersion
	var yes bool
	c := &cobra.Command{Use: "delete", Short: fmt.Sprintf("Delete a version of a %s that no deployment uses",
		noun.word), Args: cobra.NoArgs}
	v.bind(a, c, g, noun)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		path, err := v.path(ctx, s, noun)
		if err != nil {
			return err
		}
		if err := s.confirm(yes, fmt.Sprintf("Delete %s %s:%s?", noun.word, v.name, v.version)); err != nil {
			return err
		}
		return s.delete(ctx, path, fmt.Sprintf("Deletion of %s %s:%s", noun.word, v.name, v.version),
			fmt.Sprintf("portico ml %s list -n %s", noun.word, v.name), false)
	})
	return c
}

// assetArchive hides a version (or, without one, the whole asset) from listings and @latest, or shows it again.
func (a *App) assetArchive(g *globalFlags, noun assetNoun, archive bool) *cobra.Command {
	var v assetVersion
	c := &cobra.Command{Use: "archive", Short: fmt.Sprintf("Hide a %s, or one version, from listings and @latest",
		noun.word), Args: cobra.NoArgs}
	if !archive {
		c.Use, c.Short = "restore", fmt.Sprintf("Show an archived %s, or one version, again", noun.word)
	}
	v.bind(a, c, g, noun)
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		if err := required("--name", v.name); err != nil {
			return err
		}
		if v.version == "" {
			return setArchived(ctx, s.client, s.containerPath(noun.kind, v.name), archive,
				func(c *arm.AssetContainer) (*bool, string) {
					return &c.Properties.IsArchived, c.ETag
				})
		}
		return setArchived(ctx, s.client, arm.FormatID(s.scope.Asset(noun.kind, v.name, v.version)), archive,
			func(w *arm.Asset) (*bool, string) {
				return &w.Properties.IsArchived, w.ETag
			})
	})
	return c
}

// setArchived reads a resource, changes its mark and writes it back under the ETag that it was read with.
func setArchived[T any](ctx context.Context, c *client, path string, archive bool, mark func(*T) (*bool, string)) error {
	var w T
	if _, err := c.get(ctx, path, nil, &w); err != nil {
		return err
	}
	flag, etag := mark(&w)
	if *flag == archive {
		return nil
	}
	*flag = archive
	_, err := c.put(ctx, path, &w, etag)
	return err
}
