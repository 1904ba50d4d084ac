package arm

import (
	"maps"
	"slices"
	"strings"

	"portico/internal/online"
)

// Endpoint is an online endpoint on the wire, in both directions.
type Endpoint struct {
	ID         string             `json:"id,omitempty"`
	Name       string             `json:"name,omitempty"`
	Type       string             `json:"type,omitempty"`
	ETag       string             `json:"etag,omitempty"`
	Location   string             `json:"location,omitempty"`
	Tags       map[string]string  `json:"tags"`
	Kind       string             `json:"kind,omitempty"`
	Identity   *Identity          `json:"identity,omitempty"`
	SKU        *SKU               `json:"sku,omitempty"`
	SystemData *SystemData        `json:"systemData,omitempty"`
	Properties EndpointProperties `json:"properties"`
}

// EndpointProperties are the properties of an endpoint.
type EndpointProperties struct {
	Description         string            `json:"description"`
	Properties          map[string]string `json:"properties"`
	AuthMode            string            `json:"authMode,omitempty"`
	Keys                *Keys             `json:"keys"` // create-only, never answered
	ScoringURI          *string           `json:"scoringUri"`
	SwaggerURI          *string           `json:"swaggerUri"`
	ProvisioningState   string            `json:"provisioningState,omitempty"`
	Compute             *string           `json:"compute"`
	Traffic             map[string]int    `json:"traffic"`
	MirrorTraffic       map[string]int    `json:"mirrorTraffic"`
	PublicNetworkAccess string            `json:"publicNetworkAccess,omitempty"`
	Encryption          Refused           `json:"encryption,omitzero"`
	PrivateEndpoints    Refused           `json:"privateEndpointConnections,omitzero"`
	ServiceError        *ErrorDetail      `json:"error,omitempty"` // why provisioningState is Failed
}

// Keys are the two keys of an endpoint.
type Keys struct {
	PrimaryKey   string `json:"primaryKey"`
	SecondaryKey string `json:"secondaryKey"`
}

// EndpointPatch is the body of a PATCH: absent members stay as they are.
type EndpointPatch struct {
	Tags     *map[string]string `json:"tags,omitempty"`
	Identity *Identity          `json:"identity,omitempty"`
}

// RegenerateKeys is the body of regenerateKeys.
type RegenerateKeys struct {
	KeyType  string `json:"keyType"`
	KeyValue string `json:"keyValue,omitempty"`
}

// Words of enums that endpoints use.
var (
	authModes     = []string{"Key", "AMLToken", "AADToken"}
	identityTypes = []string{"SystemAssigned", "UserAssigned", "SystemAssigned,UserAssigned", "None"}
	access        = []string{"Enabled", "Disabled"}
	keyTypes      = []string{"Primary", "Secondary"}
)

// KeyKind gives the canonical keyType, or "" when it is neither Primary nor Secondary.
func (r RegenerateKeys) KeyKind() string {
	if k := word(r.KeyType, keyTypes...); slices.Contains(keyTypes, k) {
		return k
	}
	return ""
}

// secretStores is the property by which an endpoint's identity gets at the workspace's connections.
const secretStores = "enforce_access_to_default_secret_stores"

// Domain translates a request into the domain. It reports what the domain cannot express.
func (e *Endpoint) Domain() (online.EndpointSpec, []*online.Error) {
	p := &e.Properties
	spec := online.EndpointSpec{
		Location: e.Location, Description: p.Description, Tags: e.Tags, Properties: ownProperties(p.Properties),
		AuthMode: online.AuthMode(word(p.AuthMode, authModes...)),
		Traffic:  p.Traffic, MirrorTraffic: p.MirrorTraffic,
		PublicNetworkAccess: word(p.PublicNetworkAccess, access...),
	}
	if e.Identity != nil {
		spec.Identity = e.Identity.Domain()
	}
	if p.Compute != nil {
		spec.Compute = *p.Compute
	}
	faults := refuse(nil, refusal{p.Encryption, "properties.encryption"},
		refusal{p.PrivateEndpoints, "properties.privateEndpointConnections"}, onlyKind(e.Kind, "Managed"),
		refusal{Refused(strings.EqualFold(p.Properties[secretStores], "enabled")),
			"properties.properties." + secretStores})
	return spec, refuse(faults, e.SKU.refusals()...)
}

// Domain translates an identity.
func (i *Identity) Domain() online.Identity {
	return online.Identity{Type: word(i.Type, identityTypes...),
		UserAssigned: slices.Sorted(maps.Keys(i.UserAssignedIdentities))}
}

// NewEndpoint renders an endpoint. The URIs are empty while nobody can call them yet. extra are properties that
// the service adds; identity tells its principals; fault is why the state is Failed.
func NewEndpoint(m Meta, s online.EndpointSpec, identity Identity, scoringURI, swaggerURI string, extra map[string]string,
	fault *online.Error) Endpoint {
	e := Endpoint{
		ID: FormatID(m.ID), Name: m.ID.Name, Type: TypeOf(m.ID), ETag: m.ETag, Location: s.Location,
		Tags: orEmpty(s.Tags), Kind: "Managed", SystemData: m.systemData(),
		Identity: &identity,
		Properties: EndpointProperties{
			Description: s.Description, Properties: map[string]string{}, AuthMode: string(s.AuthMode),
			ProvisioningState: string(m.State), Traffic: orEmpty(s.Traffic), MirrorTraffic: orEmpty(s.MirrorTraffic),
			PublicNetworkAccess: s.PublicNetworkAccess,
		},
	}
	maps.Copy(e.Properties.Properties, s.Properties)
	maps.Copy(e.Properties.Properties, extra)
	if scoringURI != "" {
		e.Properties.ScoringURI, e.Properties.SwaggerURI = &scoringURI, &swaggerURI
	}
	if fault != nil {
		d := errorDetail(fault)
		e.Properties.ServiceError = &d
	}
	return e
}
