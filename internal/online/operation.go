package online

import "time"

// ProvisioningState is the word that Azure shows for a resource's progress.
type ProvisioningState string

// The provisioning states (armmachinelearning constants.go).
const (
	StateCreating  ProvisioningState = "Creating"
	StateUpdating  ProvisioningState = "Updating"
	StateScaling   ProvisioningState = "Scaling" // deployments only: nothing but the count changes
	StateDeleting  ProvisioningState = "Deleting"
	StateSucceeded ProvisioningState = "Succeeded"
	StateFailed    ProvisioningState = "Failed"
	StateCanceled  ProvisioningState = "Canceled"
)

// OperationState is how far a long-running operation is.
type OperationState string

// The states of an operation. All but OperationRunning are final.
const (
	OperationRunning   OperationState = "InProgress"
	OperationSucceeded OperationState = "Succeeded"
	OperationFailed    OperationState = "Failed"
	OperationCanceled  OperationState = "Canceled"
)

// Final says whether the operation has ended.
func (s OperationState) Final() bool { return s != OperationRunning }

// Operation is one accepted change that may take time. Control creates it; reconcile ends it.
type Operation struct {
	ID         string         `json:"id"` // UUID
	Target     ID             `json:"target"`
	TargetUID  string         `json:"targetUid"`
	Action     string         `json:"action"`     // write | delete | regenerateKeys
	Generation int64          `json:"generation"` // of the target's spec; the operation ends when this or a newer one does
	State      OperationState `json:"state"`
	Error      *Error         `json:"error,omitempty"`
	Principal  string         `json:"principal"`
	Start      time.Time      `json:"start"`
	End        time.Time      `json:"end,omitzero"`
}

// Stage is one step of bringing a change about, shown while it lasts and kept after it.
type Stage struct {
	Name   string    `json:"name"`
	State  string    `json:"state"` // Waiting | InProgress | Succeeded | Failed
	Start  time.Time `json:"start,omitzero"`
	End    time.Time `json:"end,omitzero"`
	Detail string    `json:"detail,omitempty"`
}

// The stages of a deployment, in order. The names are those that Azure's own logs use.
const (
	StageEnvironment = "EnvironmentBuild"
	StageModel       = "ModelDownload"
	StageStart       = "UserContainerStart"
	StageTraffic     = "Rollover"
)

// Activity is one entry of the audit log: who did what to which resource, and how it ended.
type Activity struct {
	Revision  int64     `json:"revision"` // of the transaction that it belongs to
	Time      time.Time `json:"time"`
	Principal string    `json:"principal"`
	Action    string    `json:"action"` // Microsoft.MachineLearningServices/workspaces/onlineEndpoints/write ...
	Target    ID        `json:"target"`
	RequestID string    `json:"requestId,omitempty"`
	ClientIP  string    `json:"clientIp,omitempty"`
	Outcome   string    `json:"outcome"` // Accepted | Succeeded | Failed | Denied
	Detail    string    `json:"detail,omitempty"`
}

// Interval is a stretch of time in which one instance existed. Cost and evidence are computed from these, so
// they are only ever appended and closed.
type Interval struct {
	Instance     string    `json:"instance"`
	Deployment   ID        `json:"deployment"`
	UID          string    `json:"uid"` // of the deployment
	Generation   int64     `json:"generation"`
	InstanceType string    `json:"instanceType"`
	Start        time.Time `json:"start"`
	End          time.Time `json:"end,omitzero"`
	Reason       string    `json:"reason,omitempty"` // why it ended
}
