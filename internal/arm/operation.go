package arm

import (
	"time"

	"portico/internal/online"
)

// OperationStatus is the body of an Azure-AsyncOperation poll.
type OperationStatus struct {
	ID              string               `json:"id"`
	Name            string               `json:"name"`
	Status          string               `json:"status"`
	StartTime       string               `json:"startTime"`
	EndTime         string               `json:"endTime"`
	PercentComplete float64              `json:"percentComplete"`
	Error           *ErrorDetail         `json:"error,omitempty"`
	Properties      *OperationProperties `json:"properties,omitempty"`
}

// OperationProperties says what the operation does and how far it is; Azure leaves them empty.
type OperationProperties struct {
	Action     string  `json:"action"`
	ResourceID string  `json:"resourceId"`
	Stages     []Stage `json:"stages,omitempty"`
}

// Stage is one step of a long-running operation.
type Stage struct {
	Name      string `json:"name"`
	State     string `json:"state"`
	StartTime string `json:"startTime,omitempty"`
	EndTime   string `json:"endTime,omitempty"`
	Detail    string `json:"detail,omitempty"`
}

// NewOperationStatus renders an operation; id is the path of its status resource, progress that of its target.
func NewOperationStatus(id string, op *online.Operation, progress []online.Stage) OperationStatus {
	s := OperationStatus{
		ID: id, Name: op.ID, Status: string(op.State), StartTime: FormatTime(op.Start), EndTime: FormatTime(op.End),
		PercentComplete: percent(op, progress),
		Properties: &OperationProperties{Action: op.Action, ResourceID: FormatID(op.Target),
			Stages: stages(progress)},
	}
	if op.Error != nil {
		d := errorDetail(op.Error)
		s.Error = &d
	}
	return s
}

// stages renders progress.
func stages(progress []online.Stage) []Stage {
	var out []Stage
	for _, s := range progress {
		out = append(out, Stage{Name: s.Name, State: s.State, Detail: s.Detail, StartTime: optionalTime(s.Start),
			EndTime: optionalTime(s.End)})
	}
	return out
}

func optionalTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return FormatTime(t)
}

// percent is the share of stages that are over; an ended operation is at 100.
func percent(op *online.Operation, stages []online.Stage) float64 {
	if op.State.Final() {
		return 100
	}
	done := 0
	for _, s := range stages {
		if s.State == "Succeeded" {
			done++
		}
	}
	if len(stages) == 0 {
		return 0
	}
	return float64(100 * done / len(stages))
}
