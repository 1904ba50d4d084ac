package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"portico/internal/arm"
	"portico/internal/online"
)

// workspaceFile is a workspace as it is printed.
type workspaceFile struct {
	ID                string            `json:"id"`
	Name              string            `json:"name"`
	DisplayName       string            `json:"display_name,omitempty"`
	Description       string            `json:"description,omitempty"`
	Tags              map[string]string `json:"tags"`
	Location          string            `json:"location"`
	ResourceGroup     string            `json:"resource_group"`
	Subscription      string            `json:"subscription"`
	ProvisioningState string            `json:"provisioning_state,omitempty"`
}

var workspaceColumns = []column{{"Name", "name"}, {"ResourceGroup", "resource_group"}, {"Subscription", "subscription"},
	{"Location", "location"}}

func workspaceFromWire(w *arm.Workspace) workspaceFile {
	return workspaceFile{
		ID: w.ID, Name: w.Name, DisplayName: w.Properties.FriendlyName, Description: w.Properties.Description,
		Tags:     orEmpty(w.Tags),
		Location: w.Location, ResourceGroup: segment(w.ID, "resourceGroups"), Subscription: segment(w.ID, "subscriptions"),
		ProvisioningState: w.Properties.ProvisioningState,
	}
}

func (a *App) workspaceCommand(g *globalFlags) *cobra.Command {
	c := &cobra.Command{Use: "workspace", Short: "Places for endpoints and assets"}
	return group(c, a.workspaceCreate(g), a.workspaceShow(g), a.workspaceList(g), a.workspaceDelete(g))
}

// bindWorkspaceName takes the workspace's own name with -n, as az does; -w stays possible.
func bindWorkspaceName(c *cobra.Command, name *string) {
	c.Flags().StringVarP(name, "name", "n", "", "name of the workspace (default: that of -w)")
}

func (s *session) named(name string) online.WorkspaceID {
	w := s.scope
	w.Name = orDefault(name, w.Name)
	return w
}

func (a *App) workspaceCreate(g *globalFlags) *cobra.Command {
	var name, location, description string
	c := &cobra.Command{Use: "create", Short: "Create a workspace", Args: cobra.NoArgs}
	bindWorkspaceName(c, &name)
	c.Flags().StringVarP(&location, "location", "l", "", "location that its resources show (default: the server's)")
	c.Flags().StringVar(&description, "description", "", "description")
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		path := arm.FormatWorkspace(s.named(name))
		started, err := s.client.put(ctx, path, map[string]any{
			"location": orDefault(location, s.user["location"]), "properties": map[string]any{"description": description},
		}, "")
		if err != nil {
			return err
		}
		if err := s.client.follow(ctx, s.progress, started, "Workspace "+s.named(name).Name,
			"portico ml workspace show -n "+s.named(name).Name); err != nil {
			return err
		}
		return s.showWorkspace(ctx, path)
	})
	return c
}

func (s *session) showWorkspace(ctx context.Context, path string) error {
	var w arm.Workspace
	if _, err := s.client.get(ctx, path, nil, &w); err != nil {
		return err
	}
	return s.printer.print(workspaceFromWire(&w), workspaceColumns)
}

func (a *App) workspaceShow(g *globalFlags) *cobra.Command {
	var name string
	c := &cobra.Command{Use: "show", Short: "Show a workspace", Args: cobra.NoArgs}
	bindWorkspaceName(c, &name)
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		return s.showWorkspace(ctx, arm.FormatWorkspace(s.named(name)))
	})
	return c
}

func (a *App) workspaceList(g *globalFlags) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the workspaces of the subscription, or of the group of -g",
		Args: cobra.NoArgs}
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		path := "/subscriptions/" + url.PathEscape(s.scope.Subscription)
		if g.group != "" {
			path += "/resourceGroups/" + url.PathEscape(s.scope.ResourceGroup)
		}
		found, err := list[arm.Workspace](ctx, s.client, path+"/providers/"+arm.Namespace+"/workspaces", nil)
		if err != nil {
			return err
		}
		out := make([]workspaceFile, len(found))
		for i := range found {
			out[i] = workspaceFromWire(&found[i])
		}
		return s.printer.print(out, workspaceColumns)
	})
	return c
}

func (a *App) workspaceDelete(g *globalFlags) *cobra.Command {
	var name string
	var yes bool
	c := &cobra.Command{Use: "delete", Short: "Delete a workspace that holds no endpoint", Args: cobra.NoArgs}
	bindWorkspaceName(c, &name)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		if err := required("--name", name); err != nil {
			return err
		}
		if err := s.confirm(yes, fmt.Sprintf("Delete workspace %s?", name)); err != nil {
			return err
		}
		started, err := s.client.send(ctx, http.MethodDelete, arm.FormatWorkspace(s.named(name)), nil, nil, nil)
		if err != nil {
			return err
		}
		return s.client.follow(ctx, s.progress, started, "Deletion of workspace "+name, "portico ml workspace list")
	})
	return c
}
