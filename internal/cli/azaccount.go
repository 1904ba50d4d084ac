package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"portico/internal/online"
)

// azSubscriptionName is the name of the one subscription that is shown.
const azSubscriptionName = "Portico"

// Kinds of azLogin.
const (
	azIdentity         = "identity"
	azServicePrincipal = "service_principal"
)

// azManagement is the resource that tokens are for when nobody says otherwise, as with az.
const azManagement = "https://management.core.windows.net/"

// azTokenSpare is how long a remembered token must still be good to be used.
const azTokenSpare = 5 * time.Minute

// maxTokenAnswer bounds the answer of a token endpoint.
const maxTokenAnswer = 1 << 20

// azLogin is who signed in, with the means to get new tokens.
type azLogin struct {
	Kind      string `json:"kind"`
	ClientID  string `json:"client_id,omitempty"`
	ObjectID  string `json:"object_id,omitempty"`   // of an identity, instead of its client id
	Resource  string `json:"resource_id,omitempty"` // the same
	Tenant    string `json:"tenant,omitempty"`
	Secret    string `json:"secret,omitempty"`
	Assertion string `json:"federated_token,omitempty"`

	Server  string `json:"server,omitempty"` // the server that Token is for
	Token   string `json:"token,omitempty"`
	Expires int64  `json:"expires,omitempty"` // seconds since 1970
}

func azAccount() []azCommand {
	subscription := azOne("--name", "-n", "-s") // --subscription is everywhere
	return []azCommand{
		{words: "login", short: "Sign in as an identity or a service principal", run: azSignIn, args: []azArg{
			azSwitch("--identity", "-i"), azSwitch("--service-principal"), azOne("--username", "-u"), azOne("--password", "-p"),
			azOne("--tenant", "-t"), azOne("--client-id"), azOne("--object-id"), azOne("--resource-id"), azOne("--federated-token"),
			azSwitch("--allow-no-subscriptions").silent(), azSwitch("--use-device-code").silent(), azOne("--scope").silent(),
			azOne("--certificate").refuse("principals of Portico have secrets and federated tokens, no certificates"),
		}},
		{words: "logout", short: "Forget who signed in", run: azSignOut, args: []azArg{azOne("--username").silent()}},
		{words: "account show", short: "Show the subscription and who is signed in", run: azAccountShow,
			args: []azArg{subscription}},
		{words: "account list", short: "List subscriptions", run: azAccountList, args: []azArg{
			azSwitch("--all").silent(), azSwitch("--refresh").silent()}},
		{words: "account set", short: "Choose the subscription of the commands that follow", run: azAccountSet,
			args: []azArg{subscription}},
		{words: "account get-access-token", short: "Get a token", run: azAccessToken, args: []azArg{
			azOne("--resource"), azMany("--scope"), azOne("--resource-type").from("arm"),
			azOne("--tenant", "-t"), subscription}},
		{words: "account clear", short: "Forget who signed in", run: azSignOut},
	}
}

// bearer gives the token of who signed in, from memory while it is good.
func (c *azCall) bearer(ctx context.Context) func(place) (online.Secret, error) {
	return func(p place) (online.Secret, error) {
		l := c.user.Login
		c.found = p
		if l.Token != "" && l.Server == p.ManagementURL && time.Until(time.Unix(l.Expires, 0)) > azTokenSpare {
			return online.Secret(l.Token), nil
		}
		t, err := c.fetchToken(ctx, l, p, azManagement)
		if err != nil {
			return "", fmt.Errorf("get a token for who signed in (`az login` again, or `az logout`): %w", err)
		}
		l.Server, l.Token, l.Expires = p.ManagementURL, t.text.Reveal(), t.expires.Unix()
		return t.text, c.user.save()
	}
}

// azToken is a token with its end.
type azToken struct {
	text    online.Secret
	expires time.Time
}

// fetchToken gets a token for a resource.
func (c *azCall) fetchToken(ctx context.Context, l *azLogin, p place, resource string) (azToken, error) {
	server, err := newClient(p, c.Version, func(string) {})
	if err != nil {
		return azToken{}, err
	}
	if l.Kind == azIdentity {
		return c.identityToken(ctx, server, l, resource)
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {l.ClientID},
		"scope": {strings.TrimSuffix(resource, "/.default") + "/.default"}}
	if l.Assertion != "" {
		form.Set("client_assertion", l.Assertion)
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	} else {
		form.Set("client_secret", l.Secret)
	}
	target := p.ManagementURL + "/" + url.PathEscape(orDefault(l.Tenant, "common")) + "/oauth2/v2.0/token"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		return azToken{}, fmt.Errorf("make the token request: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return server.askToken(ctx, req)
}

// identityToken asks the managed identity service: the one that the environment names (inside an instance, or in a
// shell that `portico env` set up), else the server's own with the token that the server was found with.
func (c *azCall) identityToken(ctx context.Context, server *client, l *azLogin, resource string) (azToken, error) {
	endpoint, field, secret := c.Getenv("IDENTITY_ENDPOINT"), "X-Identity-Header", c.Getenv("IDENTITY_HEADER")
	if endpoint == "" {
		endpoint, field, secret = c.Getenv("MSI_ENDPOINT"), "Secret", c.Getenv("MSI_SECRET")
	}
	if endpoint == "" || secret == "" {
		endpoint, field, secret = server.place.ManagementURL+"/msi/token", "X-Identity-Header", server.place.Token.Reveal()
	}
	query := url.Values{"resource": {strings.TrimSuffix(resource, "/.default")}, "api-version": {"2019-08-01"}}
	for name, value := range map[string]string{"client_id": l.ClientID, "object_id": l.ObjectID, "mi_res_id": l.Resource} {
		if value != "" {
			query.Set(name, value)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"?"+query.Encode(), nil)
	if err != nil {
		return azToken{}, fmt.Errorf("make the token request: %w", err)
	}
	req.Header.Set(field, secret)
	return server.askToken(ctx, req)
}

// askToken sends a token request and reads the answer.
func (c *client) askToken(ctx context.Context, req *http.Request) (azToken, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, fmt.Errorf("no answer within %s", requestTimeout))
	defer cancel()
	resp, err := c.http.Do(req.WithContext(ctx))
	if err != nil {
		return azToken{}, c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	if err != nil {
		return azToken{}, c.unreachable(ctx, err)
	}
	var said struct {
		Token       string `json:"access_token"`
		Expires     any    `json:"expires_on"` // a number, or a number as text
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	err = json.Unmarshal(text, &said)
	switch {
	case err == nil && said.Error != "":
		return azToken{}, fmt.Errorf("%s", orDefault(said.Description, said.Error))
	case err != nil || resp.StatusCode != http.StatusOK || said.Token == "":
		return azToken{}, fmt.Errorf("the token endpoint answered %s", resp.Status)
	}
	seconds, err := strconv.ParseFloat(fmt.Sprint(said.Expires), 64)
	if err != nil {
		return azToken{}, errors.New("the token endpoint did not say when the token ends")
	}
	return azToken{online.Secret(said.Token), time.Unix(int64(seconds), 0)}, nil
}

// token gets a token for a resource as whoever this command line acts for.
func (c *azCall) token(ctx context.Context, s *session, resource string) (azToken, *azClaims, error) {
	login, at := c.user.Login, c.found
	have, err := readClaims(s.client.place.Token.Reveal())
	switch {
	case err == nil && isManagement(resource):
		return azToken{s.client.place.Token, time.Unix(have.Expires, 0)}, have, nil
	case err == nil && login == nil:
		return azToken{}, nil, fmt.Errorf("%s is a token itself and cannot be exchanged for one for %s; sign in with `az login`",
			envToken, resource)
	case login == nil:
		login, at = &azLogin{Kind: azIdentity}, s.client.place
	}
	t, err := c.fetchToken(ctx, login, at, resource)
	if err != nil {
		return azToken{}, nil, err
	}
	claims, err := readClaims(t.text.Reveal())
	return t, claims, err
}

// azClaims are what a token of the server says of its holder.
type azClaims struct {
	Tenant   string `json:"tid"`
	ObjectID string `json:"oid"`
	AppID    string `json:"appid"`
	Name     string `json:"app_displayname"`
	Expires  int64  `json:"exp"`
}

// isManagement says whether a resource is the management API, which takes tokens for each of its names.
func isManagement(resource string) bool {
	name := strings.TrimRight(strings.TrimPrefix(resource, "https://"), "/")
	return slices.Contains(azManagementHosts, strings.ToLower(name))
}

// readClaims reads a token without verifying it: the server that gave it, and those it is shown to, do.
func readClaims(token string) (*azClaims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("the token is not a JWT")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, fmt.Errorf("decode the token: %w", err)
	}
	claims := &azClaims{}
	if err := json.Unmarshal(text, claims); err != nil {
		return nil, fmt.Errorf("decode the token: %w", err)
	}
	return claims, nil
}

func azSignIn(ctx context.Context, c *azCall) error {
	l, err := c.newLogin()
	if err != nil {
		return err
	}
	// Opening the server gets the first token, and only that makes the sign-in last.
	c.user.Login, c.signIn = l, c.bearer(ctx)
	return azAccountList(ctx, c)
}

// newLogin reads who wants to sign in.
func (c *azCall) newLogin() (*azLogin, error) {
	switch {
	case c.values.on("service-principal"):
		l := &azLogin{Kind: azServicePrincipal, ClientID: c.one("username"), Tenant: c.one("tenant"),
			Secret:    c.one("password"),
			Assertion: c.one("federated-token")}
		if l.ClientID == "" || l.Tenant == "" || (l.Secret == "") == (l.Assertion == "") {
			return nil, usagef("a service principal signs in with --username, --tenant and --password (or --federated-token)")
		}
		return l, nil
	case c.values.on("identity"):
		return &azLogin{Kind: azIdentity, ClientID: orDefault(c.one("client-id"), c.one("username")),
			ObjectID: c.one("object-id"),
			Resource: c.one("resource-id")}, nil
	case c.one("username") != "" || c.one("password") != "":
		return nil, usagef("people have no passwords here; sign in with --identity, or with --service-principal")
	}
	// Without options az opens a browser. The server's own token says who runs this.
	return &azLogin{Kind: azIdentity}, nil
}

func azSignOut(_ context.Context, c *azCall) error {
	if c.user.Login == nil {
		return nil
	}
	c.user.Login = nil
	return c.user.save()
}

// azSubscription is a subscription with who is signed in, as az shows it.
type azSubscription struct {
	Environment string   `json:"environmentName"`
	HomeTenant  string   `json:"homeTenantId"`
	ID          string   `json:"id"`
	Default     bool     `json:"isDefault"`
	ManagedBy   []string `json:"managedByTenants"`
	Name        string   `json:"name"`
	State       string   `json:"state"`
	Tenant      string   `json:"tenantId"`
	User        azWho    `json:"user"`
}

type azWho struct {
	Name string `json:"name"`
	Type string `json:"type"` // user | servicePrincipal
}

// subscription is the one that commands work on.
func (c *azCall) subscription(ctx context.Context) (*azSubscription, error) {
	s, err := c.session()
	if err != nil {
		return nil, err
	}
	_, claims, err := c.token(ctx, s, azManagement)
	if err != nil {
		return nil, err
	}
	who := azWho{Name: orDefault(claims.Name, claims.ObjectID), Type: "user"}
	if l := c.user.Login; l != nil && l.Kind == azServicePrincipal {
		who = azWho{Name: l.ClientID, Type: "servicePrincipal"}
	}
	return &azSubscription{
		Environment: "AzureCloud", HomeTenant: claims.Tenant, ID: s.scope.Subscription, Default: true, ManagedBy: []string{},
		Name: azSubscriptionName, State: "Enabled", Tenant: claims.Tenant, User: who,
	}, nil
}

func azAccountShow(ctx context.Context, c *azCall) error {
	if named := c.one("name"); named != "" && !strings.EqualFold(named, azSubscriptionName) {
		c.global.subscription = named
	}
	a, err := c.subscription(ctx)
	if err != nil {
		return err
	}
	return c.print(a)
}

func azAccountList(ctx context.Context, c *azCall) error {
	a, err := c.subscription(ctx)
	if err != nil {
		return err
	}
	return c.print([]*azSubscription{a})
}

// azAccountSet chooses a subscription. Those of this server come into being with their first workspace, so any id is
// taken; of names there is one.
func azAccountSet(_ context.Context, c *azCall) error {
	named := orDefault(c.one("name"), c.one("subscription"))
	if named == "" {
		return usagef("the following arguments are required: --subscription/--name/-n/-s")
	}
	return changeDefaults([]string{named}, func(d userDefaults, named string) error {
		if strings.EqualFold(named, azSubscriptionName) {
			delete(d, "subscription")
			return nil
		}
		if _, err := uuid.Parse(named); err != nil {
			return fmt.Errorf("the subscription of '%s' doesn't exist in cloud 'AzureCloud'; give the id, or the name %s", named,
				azSubscriptionName)
		}
		d["subscription"] = named
		return nil
	})
}

// azShownToken is the output of get-access-token.
type azShownToken struct {
	Token        string `json:"accessToken"`
	Expires      string `json:"expiresOn"` // local time
	ExpiresUnix  int64  `json:"expires_on"`
	Subscription string `json:"subscription"`
	Tenant       string `json:"tenant"`
	Type         string `json:"tokenType"`
}

func azAccessToken(ctx context.Context, c *azCall) error {
	scopes := c.values["scope"]
	if c.one("resource") != "" && len(scopes) > 0 {
		return usagef("give --resource or --scope, not both")
	}
	if len(scopes) > 1 {
		return usagef("--scope: a token is for one resource")
	}
	resource := orDefault(c.one("resource"), azManagement)
	if len(scopes) == 1 {
		resource = strings.TrimSuffix(scopes[0], "/.default")
	}
	s, err := c.session()
	if err != nil {
		return err
	}
	t, claims, err := c.token(ctx, s, resource)
	if err != nil {
		return err
	}
	if wanted := c.one("tenant"); wanted != "" && !strings.EqualFold(wanted, claims.Tenant) {
		return fmt.Errorf("this server does not have the tenant '%s'; its own is %s", wanted, claims.Tenant)
	}
	return c.print(azShownToken{
		Token: t.text.Reveal(), Expires: t.expires.Local().Format("2006-01-02 15:04:05.000000"), ExpiresUnix: t.expires.Unix(),
		Subscription: s.scope.Subscription, Tenant: claims.Tenant, Type: "Bearer",
	})
}
