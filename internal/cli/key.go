package cli

import (
	"context"
	"net/http"

	"github.com/spf13/cobra"

	"portico/internal/arm"
)

// credentials are an endpoint's keys as az prints them.
type credentials struct {
	PrimaryKey   string `json:"primaryKey"`
	SecondaryKey string `json:"secondaryKey"`
}

func (a *App) endpointCredentials(g *globalFlags) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "get-credentials", Short: "Print the keys of an endpoint, or a token for it", Args: cobra.NoArgs,
		Example: "  KEY=$(portico ml online-endpoint get-credentials -n iris --query primaryKey -o tsv)",
	}
	a.bindEndpointName(c, g, &name)
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		name, err := s.endpointName(name)
		if err != nil {
			return err
		}
		var e arm.Endpoint
		if _, err := s.client.get(ctx, s.endpointPath(name), nil, &e); err != nil {
			return err
		}
		_, shown, columns, err := s.scoringCredential(ctx, name, e.Properties.AuthMode)
		if err != nil {
			return err
		}
		return s.printer.print(shown, columns)
	})
	return c
}

func (a *App) endpointRegenerate(g *globalFlags) *cobra.Command {
	var name, kind string
	var noWait bool
	c := &cobra.Command{
		Use: "regenerate-keys", Short: "Replace a key of an endpoint; the old one stops working", Args: cobra.NoArgs,
	}
	a.bindEndpointName(c, g, &name)
	c.Flags().StringVar(&kind, "key-type", "primary", "primary or secondary")
	c.Flags().BoolVar(&noWait, "no-wait", false, "return when the server has accepted the change")
	must(c.RegisterFlagCompletionFunc("key-type", cobra.FixedCompletions([]string{"primary", "secondary"},
		cobra.ShellCompDirectiveNoFileComp)))
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		if err := required("--name", name); err != nil {
			return err
		}
		word, ok := matchWord("Primary|Secondary", kind)
		if !ok {
			return usagef("--key-type %q is neither primary nor secondary", kind)
		}
		started, err := s.client.send(ctx, http.MethodPost, s.endpointPath(name)+"/regenerateKeys", nil,
			arm.RegenerateKeys{KeyType: word}, nil)
		if err != nil || noWait {
			return err
		}
		return s.client.follow(ctx, s.progress, started, word+" key of "+name,
			"portico ml online-endpoint get-credentials -n "+name)
	})
	return c
}
