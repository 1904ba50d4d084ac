package api

import (
	"net/http"

	"portico/internal/arm"
	"portico/internal/control"
	"portico/internal/online"
)

const (
	principalsPath = "/portico/v1/identities"
	principalPath  = principalsPath + "/{name}"
)

func (a *API) routePrincipals() {
	a.route(principalsPath, methods{"GET": listPrincipals})
	a.route(principalPath, methods{"PUT": createPrincipal, "DELETE": deletePrincipal})
	a.route(principalPath+"/resetCredential", methods{"POST": resetCredential})
	a.route(principalPath+"/federatedToken", methods{"POST": federatedToken})
	a.route("/portico/v1/rotateSigningKey", methods{"POST": rotateSigningKey})
}

func wirePrincipal(p control.Principal) arm.Principal {
	out := arm.Principal{ID: p.ID, Name: p.Name, Kind: p.Kind, ObjectID: p.ObjectID, ClientID: p.ClientID,
		TenantID:  p.Tenant,
		CreatedBy: p.CreatedBy}
	if !p.CreatedAt.IsZero() {
		out.CreatedAt = arm.FormatTime(p.CreatedAt)
	}
	return out
}

func listPrincipals(c *call) error {
	all, err := c.api.Control.ListPrincipals(c.r.Context(), c.caller)
	if err != nil {
		return err
	}
	var out []arm.Principal
	for _, p := range all {
		out = append(out, wirePrincipal(p))
	}
	return c.json(http.StatusOK, arm.NewPage(out, ""))
}

func createPrincipal(c *call) error {
	made, err := c.api.Control.CreatePrincipal(c.r.Context(), c.caller, c.r.PathValue("name"))
	return c.credential(made, err, http.StatusCreated)
}

func resetCredential(c *call) error {
	made, err := c.api.Control.ResetCredential(c.r.Context(), c.caller, c.r.PathValue("name"))
	return c.credential(made, err, http.StatusOK)
}

// credential shows a secret: this once.
func (c *call) credential(made control.Credential, err error, status int) error {
	if err != nil {
		return err
	}
	c.w.Header().Set("Cache-Control", "no-store")
	out := wirePrincipal(made.Principal)
	out.ClientSecret = made.Secret.Reveal()
	return c.json(status, out)
}

func deletePrincipal(c *call) error {
	if err := c.api.Control.DeletePrincipal(c.r.Context(), c.caller, c.r.PathValue("name")); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}

func federatedToken(c *call) error {
	t, err := c.api.Control.FederatedToken(c.r.Context(), c.caller, c.r.PathValue("name"))
	if err != nil {
		return err
	}
	c.w.Header().Set("Cache-Control", "no-store")
	return c.json(http.StatusOK, arm.FederatedToken{Token: t.Text.Reveal(), ExpiresOn: arm.FormatTime(t.Expires)})
}

func rotateSigningKey(c *call) error {
	if err := c.api.Control.RotateSigningKey(c.r.Context(), c.caller); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}

// token issues a token for an endpoint with authMode AMLToken.
func token(c *call) error {
	t, err := c.api.Control.Token(c.r.Context(), c.caller, c.workspace(), c.r.PathValue("endpoint"))
	if err != nil {
		return err
	}
	c.w.Header().Set("Cache-Control", "no-store")
	return c.json(http.StatusOK, arm.EndpointToken{AccessToken: t.Text.Reveal(), ExpiryTimeUTC: t.Expires.Unix(),
		RefreshAfterTimeUTC: t.Refresh.Unix(), TokenType: "Bearer"})
}

// challenge is the WWW-Authenticate value of a request without a good token (RFC 6750 section 3, with the member by
// which Microsoft's libraries find the token endpoint).
func (c *call) challenge(err error) string {
	text := "the token is not accepted"
	if e, ok := online.AsError(err); ok {
		text = e.Message
	}
	out := `Bearer realm="portico"`
	if c.api.Identity != nil {
		out = `Bearer authorization_uri="` + c.base() + "/" + c.api.Identity.identities.Issuer().Tenant() + `"`
	}
	return out + `, error="invalid_token", error_description="` + quotable(text) + `"`
}

// quotable makes a text one that a quoted string can hold without escapes.
func quotable(text string) string {
	out := []byte(text)
	for i, b := range out {
		switch {
		case b < ' ' || b > '~':
			out[i] = '?'
		case b == '"' || b == '\\':
			out[i] = '\''
		}
	}
	return string(out)
}
