package cli

import (
	"context"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"portico/internal/arm"
	"portico/internal/online"
)

func (a *App) mlCommand() *cobra.Command {
	g := &globalFlags{}
	c := &cobra.Command{
		Use: "ml", Short: "Endpoints, deployments, models and environments, as with az ml",
	}
	g.bind(c)
	g.bindScope(c)
	return group(c,
		a.endpointCommand(g), a.deploymentCommand(g), a.modelCommand(g), a.environmentCommand(g),
		a.workspaceCommand(g), a.datastoreCommand(g),
	)
}

// completionTimeout bounds what a press of the Tab key waits for a server.
const completionTimeout = 2 * time.Second

type completer = func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective)

// completeNames completes with the names of a listing; no server, no names.
func (a *App) completeNames(g *globalFlags, path func(*session) string) completer {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		parent := cmd.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, completionTimeout)
		defer cancel()
		s, err := g.open(a)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, err := list[struct {
			Name string `json:"name"`
		}](ctx, s.client, path(s), nil)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := make([]cobra.Completion, len(found))
		for i, f := range found {
			names[i] = f.Name
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *App) completeEndpoints(g *globalFlags) completer {
	return a.completeNames(g, func(s *session) string { return arm.FormatWorkspace(s.scope) + "/onlineEndpoints" })
}

// completeDeployments completes with the deployments of the endpoint that the command line names already.
func (a *App) completeDeployments(g *globalFlags, endpoint *string) completer {
	return a.completeNames(g, func(s *session) string {
		return s.endpointPath(orDefault(*endpoint, s.user["endpoint"])) + "/deployments"
	})
}

// kindPath is the listing of an asset kind's names.
func (s *session) kindPath(kind online.Kind) string {
	return arm.FormatWorkspace(s.scope) + "/" + string(kind)
}

func (s *session) containerPath(kind online.Kind, name string) string {
	return arm.FormatID(online.ID{Workspace: s.scope, Kind: kind, Name: name})
}

// archived is the query that makes listings show archived assets too.
func archived(all bool) url.Values {
	if all {
		return url.Values{"listViewType": {"All"}}
	}
	return nil
}
