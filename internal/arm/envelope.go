package arm

import (
	"maps"
	"strings"
	"time"

	"portico/internal/online"
)

// Meta is what every resource shows around its properties. The caller derives it from the stored record.
type Meta struct {
	ID        online.ID
	UID       string
	ETag      string // quoted
	State     online.ProvisioningState
	CreatedAt time.Time
	CreatedBy string
	UpdatedAt time.Time
	UpdatedBy string
}

// SystemData says who made and who last changed a resource.
type SystemData struct {
	CreatedAt          string `json:"createdAt"`
	CreatedBy          string `json:"createdBy"`
	CreatedByType      string `json:"createdByType"`
	LastModifiedAt     string `json:"lastModifiedAt"`
	LastModifiedBy     string `json:"lastModifiedBy"`
	LastModifiedByType string `json:"lastModifiedByType"`
}

func (m Meta) systemData() *SystemData {
	return &SystemData{
		CreatedAt: FormatTime(m.CreatedAt), CreatedBy: m.CreatedBy, CreatedByType: "User",
		LastModifiedAt: FormatTime(m.UpdatedAt), LastModifiedBy: m.UpdatedBy, LastModifiedByType: "User",
	}
}

// Identity is the managed identity of an endpoint.
type Identity struct {
	Type                   string              `json:"type"`
	PrincipalID            string              `json:"principalId,omitempty"`
	TenantID               string              `json:"tenantId,omitempty"`
	UserAssignedIdentities map[string]Assigned `json:"userAssignedIdentities,omitempty"`
}

// Assigned is what the service tells of one user-assigned identity; clients send it empty.
type Assigned struct {
	PrincipalID string `json:"principalId,omitempty"`
	ClientID    string `json:"clientId,omitempty"`
}

// SKU carries a deployment's instance count.
type SKU struct {
	Name     string `json:"name,omitempty"`
	Tier     string `json:"tier,omitempty"`
	Family   string `json:"family,omitempty"`
	Size     string `json:"size,omitempty"`
	Capacity *int   `json:"capacity,omitempty"`
}

// refusals are the fields of a SKU that cannot mean anything here: there is one SKU, and it has a capacity only.
func (s *SKU) refusals() []refusal {
	if s == nil {
		return nil
	}
	return []refusal{
		{Refused(s.Name != "" && !strings.EqualFold(s.Name, "Default")), "sku.name"},
		{Refused(s.Tier != "" && !strings.EqualFold(s.Tier, "Standard")), "sku.tier"},
		{Refused(s.Family != ""), "sku.family"}, {Refused(s.Size != ""), "sku.size"},
	}
}

// noIdentity refuses an identity on a resource that has none of its own.
func noIdentity(i *Identity) refusal {
	return refusal{Refused(i != nil && i.Type != "" && !strings.EqualFold(i.Type, "None")), "identity"}
}

// onlyKind refuses every kind of a resource but one.
func onlyKind(kind, known string) refusal {
	return refusal{Refused(kind != "" && !strings.EqualFold(kind, known)), "kind"}
}

// Page is a listing. NextLink is an absolute URL, or null at the end.
type Page[T any] struct {
	Value    []T     `json:"value"`
	NextLink *string `json:"nextLink"`
}

// NewPage makes a listing whose value is never null.
func NewPage[T any](items []T, nextLink string) Page[T] {
	p := Page[T]{Value: items}
	if p.Value == nil {
		p.Value = []T{}
	}
	if nextLink != "" {
		p.NextLink = &nextLink
	}
	return p
}

// orEmpty keeps JSON objects from becoming null, which SDKs cannot read.
func orEmpty[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

// Properties that the service adds to a person's own. Microsoft's examples poll PropertyOperation.
const (
	PropertyOperation    = "AzureAsyncOperationUri"
	PropertyEndpointID   = "azureml.onlineendpointid"
	PropertyDeploymentID = "azureml.onlinedeploymentid"
)

// ownProperties drops what the service, or an SDK from systemData, had added to an answer that a client now sends
// back.
func ownProperties(given map[string]string) map[string]string {
	out := maps.Clone(given)
	for _, name := range []string{PropertyOperation, PropertyEndpointID, PropertyDeploymentID, "createdBy", "createdAt",
		"lastModifiedAt"} {
		delete(out, name)
	}
	return out
}

// ErrorBody is the error document.
type ErrorBody struct {
	Error ErrorDetail `json:"error"`
}

// ErrorDetail is one error, with its parts.
type ErrorDetail struct {
	Code           string           `json:"code"`
	Message        string           `json:"message"`
	Target         *string          `json:"target"`
	Details        []ErrorDetail    `json:"details"`
	AdditionalInfo []AdditionalInfo `json:"additionalInfo"`
}

// AdditionalInfo carries facts beside the message, such as the request id.
type AdditionalInfo struct {
	Type string            `json:"type"`
	Info map[string]string `json:"info"`
}

// NewErrorBody renders an error; requestID is added when it is not empty.
func NewErrorBody(e *online.Error, requestID string) ErrorBody {
	body := ErrorBody{Error: errorDetail(e)}
	if requestID != "" {
		body.Error.AdditionalInfo = append(body.Error.AdditionalInfo,
			AdditionalInfo{Type: "RequestId", Info: map[string]string{"value": requestID}})
	}
	return body
}

func errorDetail(e *online.Error) ErrorDetail {
	d := ErrorDetail{Code: string(e.Code), Message: e.Message, Details: []ErrorDetail{},
		AdditionalInfo: []AdditionalInfo{}}
	if e.Target != "" {
		d.Target = &e.Target
	}
	for i := range e.Details {
		d.Details = append(d.Details, errorDetail(&e.Details[i]))
	}
	return d
}
