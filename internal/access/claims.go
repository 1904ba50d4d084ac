package access

import (
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Audiences and issuers with a meaning of their own. A token for one of the reserved audiences is made by the method
// that is named for it and by no other, whatever resource a caller asks for.
const (
	// AudienceML is what callers of endpoints with authMode AADToken ask for.
	AudienceML = "https://ml.azure.com"
	// AudienceExchange is what an assertion that stands for a client secret must name (workload identity federation).
	AudienceExchange = "api://AzureADTokenExchange"
	// scoringName is issuer and audience of the tokens of endpoints with authMode AMLToken, as Azure's are.
	scoringName = "azureml"
)

// Lifetimes of tokens.
const (
	IdentityLife  = time.Hour
	ScoringLife   = 24 * time.Hour
	ScoringFresh  = 12 * time.Hour // after which a caller should ask for the next
	AssertionLife = 30 * 24 * time.Hour
	// Leeway is how far the clock may have been set since a token was made.
	Leeway = 30 * time.Second
	// MaxLife is the longest time for which a signing key that has been replaced must still verify.
	MaxLife = AssertionLife + Leeway
)

// Subject is who a token speaks for.
type Subject struct {
	ObjectID string // the principal
	AppID    string // its client id
	Name     string
	// Resource is the resource id that a managed identity belongs to; empty for a principal that a person made.
	Resource string
}

// Claims are what a token says. The names on the wire are Microsoft's, so that code which reads them finds them.
type Claims struct {
	Issuer    string `json:"iss"`
	Audience  string `json:"aud"`
	IssuedAt  int64  `json:"iat"` // seconds since 1970, as are the next two
	NotBefore int64  `json:"nbf"`
	Expires   int64  `json:"exp"`
	ID        string `json:"jti,omitempty"`
	Subject   string `json:"sub,omitempty"`
	ObjectID  string `json:"oid,omitempty"`
	AppID     string `json:"appid,omitempty"`
	TenantID  string `json:"tid,omitempty"`
	Kind      string `json:"idtyp,omitempty"` // app
	Name      string `json:"app_displayname,omitempty"`
	Resource  string `json:"xms_mirid,omitempty"` // of a managed identity
	Version   string `json:"ver,omitempty"`

	// Of a token for one endpoint.
	EndpointName string   `json:"endpointName,omitempty"`
	ServiceID    string   `json:"serviceId,omitempty"` // UID of the endpoint
	WorkspaceID  string   `json:"workspaceId,omitempty"`
	Actions      []string `json:"actions,omitempty"`
	CanRefresh   string   `json:"canRefresh,omitempty"` // "False": Azure's is a text

	// Credential is, in an assertion, which client secret it stands beside: a reset ends both.
	Credential string `json:"cred,omitempty"`
}

// Managed says whether the token speaks for a managed identity.
func (c *Claims) Managed() bool { return c.Resource != "" }

// Scoring says whether this is a token for the endpoint with this UID and name, made by IssueScoring.
func (c *Claims) Scoring(uid, name string) bool {
	return c.Issuer == scoringName && c.Audience == scoringName && uid != "" && c.ServiceID == uid &&
		equalFold(c.EndpointName, name)
}

func equalFold(a, b string) bool { return len(a) == len(b) && equalFoldASCII(a, b) }

// For says whether this is a principal's token, made by Issue, for one of these resources. A slash at the end makes
// no difference: clients disagree about it.
func (c *Claims) For(audiences ...string) bool {
	if c.Issuer == scoringName || c.Credential != "" || c.ObjectID == "" {
		return false
	}
	for _, a := range audiences {
		if trimSlash(a) == trimSlash(c.Audience) {
			return true
		}
	}
	return false
}

func trimSlash(s string) string {
	for len(s) > 0 && s[len(s)-1] == '/' {
		s = s[:len(s)-1]
	}
	return s
}

// The rest is what the token library asks of claims.

// GetExpirationTime implements jwt.Claims.
func (c *Claims) GetExpirationTime() (*jwt.NumericDate, error) { return date(c.Expires), nil }

// GetIssuedAt implements jwt.Claims.
func (c *Claims) GetIssuedAt() (*jwt.NumericDate, error) { return date(c.IssuedAt), nil }

// GetNotBefore implements jwt.Claims.
func (c *Claims) GetNotBefore() (*jwt.NumericDate, error) { return date(c.NotBefore), nil }

// GetIssuer implements jwt.Claims.
func (c *Claims) GetIssuer() (string, error) { return c.Issuer, nil }

// GetSubject implements jwt.Claims.
func (c *Claims) GetSubject() (string, error) { return c.Subject, nil }

// GetAudience implements jwt.Claims.
func (c *Claims) GetAudience() (jwt.ClaimStrings, error) { return jwt.ClaimStrings{c.Audience}, nil }

// date is nil for a claim that is absent, which the library then knows to be missing.
func date(seconds int64) *jwt.NumericDate {
	if seconds == 0 {
		return nil
	}
	return jwt.NewNumericDate(time.Unix(seconds, 0))
}
