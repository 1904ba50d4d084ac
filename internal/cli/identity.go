package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"portico/internal/access"
	"portico/internal/api"
	"portico/internal/arm"
)

var principalColumns = []column{{"Name", "name"}, {"Kind", "kind"}, {"ClientId", "clientId"},
	{"CreatedAt", "createdAt"}}

func (a *App) identityCommand() *cobra.Command {
	g := &globalFlags{}
	c := &cobra.Command{Use: "identity", Short: "Principals that programs act as, and their credentials",
		Long: "A principal has a client id and a secret, with which programs that use Azure's identity libraries get tokens\n" +
			"(docs/identity.md). Every principal may do on this server what the administrator may."}
	g.bind(c)
	return group(c, a.identityCreate(g), a.identityList(g), a.identityDelete(g), a.identityReset(g),
		a.identityFederate(g),
		a.identityRotate(g))
}

func principalURL(name string) string { return "/portico/v1/identities/" + url.PathEscape(name) }

func (a *App) identityCreate(g *globalFlags) *cobra.Command {
	c := &cobra.Command{Use: "create NAME", Short: "Create a principal and print its secret, this once",
		Args: cobra.ExactArgs(1)}
	c.RunE = g.run(a, func(ctx context.Context, s *session, args []string) error {
		return s.showCredential(ctx, http.MethodPut, principalURL(args[0]))
	})
	return c
}

func (a *App) identityReset(g *globalFlags) *cobra.Command {
	c := &cobra.Command{Use: "reset-credential NAME",
		Short: "Give a principal a new secret; the old one stops working",
		Args:  cobra.ExactArgs(1)}
	c.RunE = g.run(a, func(ctx context.Context, s *session, args []string) error {
		return s.showCredential(ctx, http.MethodPost, principalURL(args[0])+"/resetCredential")
	})
	return c
}

// showCredential prints a principal with its secret, under the wire's names: they are those of Azure's variables.
func (s *session) showCredential(ctx context.Context, method, path string) error {
	got, err := s.client.send(ctx, method, path, nil, nil, nil)
	if err != nil {
		return err
	}
	var p arm.Principal
	if err := got.decode(&p); err != nil {
		return err
	}
	return s.printer.print(p, append(principalColumns[:3:3], column{"ClientSecret", "clientSecret"}))
}

func (a *App) identityList(g *globalFlags) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List principals and user-assigned identities", Args: cobra.NoArgs}
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		all, err := list[arm.Principal](ctx, s.client, "/portico/v1/identities", nil)
		if err != nil {
			return err
		}
		return s.printer.print(all, principalColumns)
	})
	return c
}

func (a *App) identityDelete(g *globalFlags) *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "delete NAME", Short: "Delete a principal; its secret and tokens stop working",
		Args: cobra.ExactArgs(1)}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.RunE = g.run(a, func(ctx context.Context, s *session, args []string) error {
		if err := s.confirm(yes, fmt.Sprintf("Delete principal %s?", args[0])); err != nil {
			return err
		}
		_, err := s.client.send(ctx, http.MethodDelete, principalURL(args[0]), nil, nil, nil)
		return err
	})
	return c
}

func (a *App) identityFederate(g *globalFlags) *cobra.Command {
	var file string
	c := &cobra.Command{Use: "federated-token NAME",
		Short: "Make a token that stands for a principal's secret (workload identity)",
		Long:  "The token is what AZURE_FEDERATED_TOKEN_FILE holds. It is good for 30 days, or until the secret is reset.",
		Args:  cobra.ExactArgs(1)}
	c.Flags().StringVar(&file, "file", "", "write the token there (0600) instead of printing it")
	c.RunE = g.run(a, func(ctx context.Context, s *session, args []string) error {
		var t arm.FederatedToken
		if err := s.client.post(ctx, principalURL(args[0])+"/federatedToken", nil, &t); err != nil {
			return err
		}
		if file == "" {
			return s.printer.print(t, []column{{"ExpiresOn", "expiresOn"}, {"Token", "token"}})
		}
		if err := replaceFile(file, []byte(t.Token), 0o600); err != nil {
			return err
		}
		return s.printer.print(map[string]string{"file": file, "expiresOn": t.ExpiresOn},
			[]column{{"File", "file"}, {"ExpiresOn", "expiresOn"}})
	})
	return c
}

func (a *App) identityRotate(g *globalFlags) *cobra.Command {
	c := &cobra.Command{Use: "rotate-signing-key", Short: "Sign tokens with a new key; those made before stay valid",
		Args: cobra.NoArgs}
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		_, err := s.client.send(ctx, http.MethodPost, "/portico/v1/rotateSigningKey", nil, nil, nil)
		return err
	})
	return c
}

// managedToken is a token for a resource, as a managed identity's endpoint answers it.
type managedToken struct {
	AccessToken string `json:"access_token"`
	ExpiresOn   string `json:"expires_on"`
	TokenType   string `json:"token_type"`
}

// callerToken asks for a token by which endpoints with authMode AADToken know the caller. The credential that the
// command works with is one of the identity service too, unless it is a token from there itself.
func (s *session) callerToken(ctx context.Context) (managedToken, error) {
	var t managedToken
	got, err := s.client.send(ctx, http.MethodGet, api.PathManagedIdentity,
		url.Values{"resource": {access.AudienceML}}, nil,
		http.Header{"X-Identity-Header": {s.client.place.Token.Reveal()}})
	if err == nil {
		err = got.decode(&t)
	}
	if err != nil {
		return t, fmt.Errorf("get a token for %s: %w", access.AudienceML, err)
	}
	return t, nil
}

// tokenCredentials is an endpoint's token as az prints it.
type tokenCredentials struct {
	AccessToken         string `json:"accessToken"`
	ExpiryTimeUTC       int64  `json:"expiryTimeUtc"`
	RefreshAfterTimeUTC int64  `json:"refreshAfterTimeUtc"` // 0: when it expires
	TokenType           string `json:"tokenType"`
}

var tokenColumns = []column{{"TokenType", "tokenType"}, {"ExpiryTimeUtc", "expiryTimeUtc"},
	{"AccessToken", "accessToken"}}

// scoringCredential gets what an endpoint's callers present: shown is what get-credentials prints.
func (s *session) scoringCredential(ctx context.Context, name, authMode string) (bearer string, shown any,
	columns []column, err error) {
	switch authMode {
	case "AMLToken":
		var t arm.EndpointToken
		if err := s.client.post(ctx, s.endpointPath(name)+"/token", nil, &t); err != nil {
			return "", nil, nil, err
		}
		return t.AccessToken, tokenCredentials(t), tokenColumns, nil
	case "AADToken":
		t, err := s.callerToken(ctx)
		if err != nil {
			return "", nil, nil, err
		}
		expires, err := strconv.ParseInt(t.ExpiresOn, 10, 64)
		if err != nil {
			return "", nil, nil, fmt.Errorf("the server's token has no expiry: %w", err)
		}
		return t.AccessToken, tokenCredentials{AccessToken: t.AccessToken, TokenType: t.TokenType,
				ExpiryTimeUTC: expires},
			tokenColumns, nil
	}
	var keys arm.Keys
	if err := s.client.post(ctx, s.endpointPath(name)+"/listKeys", nil, &keys); err != nil {
		return "", nil, nil, err
	}
	return keys.PrimaryKey, credentials(keys), []column{{"PrimaryKey", "primaryKey"},
		{"SecondaryKey", "secondaryKey"}}, nil
}
