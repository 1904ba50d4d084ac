package cli

import (
	"context"

	"github.com/spf13/cobra"

	"portico/internal/arm"
	"portico/internal/online"
)

var datastoreColumns = []column{
	{"Name", "name"}, {"Type", "type"}, {"Container", "container_name"}, {"Default", "is_default"},
}

// datastoreFile is a datastore as it is printed.
type datastoreFile struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Type      string `json:"type"`
	Account   string `json:"account_name"`
	Container string `json:"container_name"`
	Default   bool   `json:"is_default"`
}

func datastoreFromWire(w *arm.Datastore) datastoreFile {
	p := w.Properties
	return datastoreFile{ID: w.ID, Name: w.Name, Type: p.DatastoreType, Account: p.AccountName,
		Container: p.ContainerName, Default: p.IsDefault}
}

func (a *App) datastoreCommand(g *globalFlags) *cobra.Command {
	c := &cobra.Command{Use: "datastore", Short: "Places for uploads"}
	list := &cobra.Command{Use: "list", Short: "List the datastores of the workspace", Args: cobra.NoArgs}
	list.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error { return s.listDatastores(ctx) })
	var name string
	show := &cobra.Command{Use: "show", Short: "Show a datastore", Args: cobra.NoArgs}
	show.Flags().StringVarP(&name, "name", "n", "", "name of the datastore")
	show.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		if err := required("--name", name); err != nil {
			return err
		}
		var d arm.Datastore
		if _, err := s.client.get(ctx, s.containerPath(online.KindDatastore, name), nil, &d); err != nil {
			return err
		}
		return s.printer.print(datastoreFromWire(&d), datastoreColumns)
	})
	return group(c, list, show)
}

func (s *session) listDatastores(ctx context.Context) error {
	found, err := list[arm.Datastore](ctx, s.client, s.kindPath(online.KindDatastore), nil)
	if err != nil {
		return err
	}
	out := make([]datastoreFile, len(found))
	for i := range found {
		out[i] = datastoreFromWire(&found[i])
	}
	return s.printer.print(out, datastoreColumns)
}
