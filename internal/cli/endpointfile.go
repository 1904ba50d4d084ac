package cli

import (
	"maps"
	"strings"

	"portico/internal/arm"
)

// endpointFile is the managedOnlineEndpoint schema: what a person writes, and what the endpoint commands print.
type endpointFile struct {
	Schema              string            `json:"$schema,omitempty"`
	ID                  string            `json:"id,omitempty" show:"only"`
	Name                string            `json:"name"`
	Description         string            `json:"description,omitempty"`
	Tags                map[string]string `json:"tags"`
	Properties          map[string]string `json:"properties"`
	AuthMode            string            `json:"auth_mode,omitempty" one:"key|aml_token|aad_token"`
	Identity            *identityFile     `json:"identity,omitempty"`
	Traffic             map[string]int    `json:"traffic"`
	MirrorTraffic       map[string]int    `json:"mirror_traffic"`
	PublicNetworkAccess string            `json:"public_network_access,omitempty" one:"enabled|disabled"`
	Compute             string            `json:"compute,omitempty"`
	Location            string            `json:"location,omitempty"`
	Kind                string            `json:"kind,omitempty" show:"only"`
	ProvisioningState   string            `json:"provisioning_state,omitempty" show:"only"`
	ScoringURI          string            `json:"scoring_uri,omitempty" show:"only"`
	OpenAPIURI          string            `json:"openapi_uri,omitempty" show:"only"`
	Error               *arm.ErrorDetail  `json:"error,omitempty" show:"only"`
	CreationContext     *createdFile      `json:"creation_context,omitempty" show:"only"`
	ResourceGroup       string            `json:"resourceGroup,omitempty" show:"only"`
}

type identityFile struct {
	Type         string   `json:"type" one:"system_assigned|user_assigned|none|system_assigned,user_assigned"`
	UserAssigned []string `json:"user_assigned_identities,omitempty"`
	PrincipalID  string   `json:"principal_id,omitempty" show:"only"`
	TenantID     string   `json:"tenant_id,omitempty" show:"only"`
}

type createdFile struct {
	CreatedAt      string `json:"created_at,omitempty"`
	CreatedBy      string `json:"created_by,omitempty"`
	LastModifiedAt string `json:"last_modified_at,omitempty"`
	LastModifiedBy string `json:"last_modified_by,omitempty"`
}

// The words of files and of the wire. Both sides are listed whole, so that a new word of the service is shown as it
// came and never dropped.
var (
	authWords     = words{{"key", "Key"}, {"aml_token", "AMLToken"}, {"aad_token", "AADToken"}}
	accessWords   = words{{"enabled", "Enabled"}, {"disabled", "Disabled"}}
	identityWords = words{
		{"system_assigned", "SystemAssigned"}, {"user_assigned", "UserAssigned"}, {"none", "None"},
		{"system_assigned,user_assigned", "SystemAssigned,UserAssigned"},
	}
)

// words are pairs of a file's word and the wire's.
type words [][2]string

func (w words) wire(file string) string {
	for _, p := range w {
		if p[0] == file {
			return p[1]
		}
	}
	return file
}

func (w words) file(wire string) string {
	for _, p := range w {
		if strings.EqualFold(p[1], wire) {
			return p[0]
		}
	}
	return wire
}

// wire gives the body of a PUT.
func (f *endpointFile) wire() *arm.Endpoint {
	out := &arm.Endpoint{Location: f.Location, Tags: orEmpty(f.Tags)}
	if f.Identity != nil {
		out.Identity = &arm.Identity{Type: identityWords.wire(f.Identity.Type)}
		for _, id := range f.Identity.UserAssigned {
			if out.Identity.UserAssignedIdentities == nil {
				out.Identity.UserAssignedIdentities = map[string]arm.Assigned{}
			}
			out.Identity.UserAssignedIdentities[id] = arm.Assigned{}
		}
	}
	out.Properties = arm.EndpointProperties{
		Description: f.Description, Properties: orEmpty(f.Properties), AuthMode: authWords.wire(f.AuthMode),
		Compute: optional(f.Compute), PublicNetworkAccess: accessWords.wire(f.PublicNetworkAccess),
		Traffic: lowerKeys(f.Traffic), MirrorTraffic: lowerKeys(f.MirrorTraffic),
	}
	return out
}

// endpointFromWire gives an endpoint as it is printed. deployments lists those behind it, so that one without
// traffic is shown with 0; nil leaves traffic as it came.
func endpointFromWire(w *arm.Endpoint, deployments []string) *endpointFile {
	p := &w.Properties
	f := &endpointFile{
		ID: w.ID, Name: w.Name, Description: p.Description, Tags: orEmpty(w.Tags), Properties: orEmpty(p.Properties),
		AuthMode: authWords.file(p.AuthMode), Traffic: orEmpty(p.Traffic), MirrorTraffic: orEmpty(p.MirrorTraffic),
		PublicNetworkAccess: accessWords.file(p.PublicNetworkAccess), Compute: text(p.Compute), Location: w.Location,
		Kind: w.Kind, ProvisioningState: p.ProvisioningState, ScoringURI: text(p.ScoringURI),
		OpenAPIURI: text(p.SwaggerURI),
		Error:      p.ServiceError, CreationContext: createdFromWire(w.SystemData),
		ResourceGroup: segment(w.ID, "resourceGroups"),
	}
	if w.Identity != nil {
		f.Identity = &identityFile{
			Type: identityWords.file(w.Identity.Type), PrincipalID: w.Identity.PrincipalID, TenantID: w.Identity.TenantID,
			UserAssigned: sortedKeys(w.Identity.UserAssignedIdentities),
		}
	}
	for _, d := range deployments {
		if _, ok := f.Traffic[d]; !ok {
			f.Traffic[d] = 0
		}
	}
	return f
}

func createdFromWire(s *arm.SystemData) *createdFile {
	if s == nil {
		return nil
	}
	return &createdFile{CreatedAt: s.CreatedAt, CreatedBy: s.CreatedBy, LastModifiedAt: s.LastModifiedAt,
		LastModifiedBy: s.LastModifiedBy}
}

// optional and text translate between "absent" on the wire and in a file.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// orEmpty is a copy that is never nil, so that it prints as {} and can be added to.
func orEmpty[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return maps.Clone(m)
}

func lowerKeys(m map[string]int) map[string]int {
	out := make(map[string]int, len(m))
	for k, v := range m {
		out[strings.ToLower(k)] += v
	}
	return out
}

// segment is the part of a resource id that follows name, compared without regard to case.
func segment(id, name string) string {
	parts := strings.Split(id, "/")
	for i := 0; i+1 < len(parts); i++ {
		if strings.EqualFold(parts[i], name) {
			return parts[i+1]
		}
	}
	return ""
}
