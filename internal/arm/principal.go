package arm

// Principal is somebody whom tokens can speak for, on the server's own paths.
type Principal struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Kind      string `json:"kind"` // Administrator | ServicePrincipal | UserAssignedIdentity
	ObjectID  string `json:"objectId"`
	ClientID  string `json:"clientId"`
	TenantID  string `json:"tenantId"`
	CreatedAt string `json:"createdAt,omitempty"`
	CreatedBy string `json:"createdBy,omitempty"`
	// ClientSecret is answered once, when it is made.
	ClientSecret string `json:"clientSecret,omitempty"`
}

// FederatedToken stands for a client secret until it expires.
type FederatedToken struct {
	Token     string `json:"token"`
	ExpiresOn string `json:"expiresOn"`
}

// EndpointToken is the answer of an endpoint's token action (REST: EndpointAuthToken).
type EndpointToken struct {
	AccessToken         string `json:"accessToken"`
	ExpiryTimeUTC       int64  `json:"expiryTimeUtc"` // seconds since 1970, as is the next
	RefreshAfterTimeUTC int64  `json:"refreshAfterTimeUtc"`
	TokenType           string `json:"tokenType"`
}
