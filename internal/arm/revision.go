package arm

import (
	"time"

	"portico/internal/online"
)

// Revision is one accepted spec of a deployment. It is Portico's own resource; properties are a deployment's.
type Revision struct {
	Revision   int64                `json:"revision"`
	Generation int64                `json:"generation"`
	UID        string               `json:"uid"`
	CreatedAt  string               `json:"createdAt"`
	CreatedBy  string               `json:"createdBy"`
	Reason     string               `json:"reason"`
	InForce    bool                 `json:"inForce"`
	Tags       map[string]string    `json:"tags"`
	SKU        *SKU                 `json:"sku"`
	Properties DeploymentProperties `json:"properties"`
}

// RevisionMeta is what a revision shows around its spec.
type RevisionMeta struct {
	Number     int64
	Generation int64
	UID        string
	At         time.Time
	By         string
	Why        string
	InForce    bool
}

// Rollback is the body of a rollback. Without a revision it is the one before.
type Rollback struct {
	Revision *int64 `json:"revision,omitempty"`
}

// NewRevision renders a revision. The values of environment variables are not shown: an old secret helps nobody.
func NewRevision(m RevisionMeta, s online.DeploymentSpec) Revision {
	hidden := make(map[string]online.Secret, len(s.EnvironmentVariables))
	for name, value := range s.EnvironmentVariables {
		hidden[name] = online.Secret(value.String())
	}
	s.EnvironmentVariables = hidden
	return Revision{Revision: m.Number, Generation: m.Generation, UID: m.UID, CreatedAt: FormatTime(m.At),
		CreatedBy: m.By,
		Reason:    m.Why, InForce: m.InForce, Tags: orEmpty(s.Tags), SKU: deploymentSKU(s),
		Properties: deploymentProperties(s)}
}

// Activity is one entry of the activity log.
type Activity struct {
	Time       string `json:"time"`
	Caller     string `json:"caller"`
	Action     string `json:"action"`
	ResourceID string `json:"resourceId"`
	Outcome    string `json:"outcome"`
	Detail     string `json:"detail,omitempty"`
	RequestID  string `json:"requestId,omitempty"`
	ClientIP   string `json:"clientIp,omitempty"`
}

// NewActivity renders an entry.
func NewActivity(a online.Activity) Activity {
	return Activity{Time: FormatTime(a.Time), Caller: a.Principal, Action: a.Action, ResourceID: FormatID(a.Target),
		Outcome: a.Outcome, Detail: a.Detail, RequestID: a.RequestID, ClientIP: a.ClientIP}
}
