package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"portico/internal/arm"
	"portico/internal/online"
	"portico/internal/store"
	"portico/internal/telemetry"
)

// Bounds of what is read.
const (
	MaxLogTail     = 5000 // lines (Azure's)
	DefaultLogTail = 500
	MaxLogBytes    = 4 << 20 // of one answer; the newest lines win
	MaxActivities  = 1000
	DefaultSpan    = time.Hour      // of a metrics query without a beginning
	MaxSpan        = 24 * time.Hour // how far back metrics are kept
)

// Containers of a deployment that have logs, as the API names them.
const (
	InferenceServer    = "InferenceServer"    // what the instances print
	StorageInitializer = "StorageInitializer" // how the environment was built
)

// LogQuery asks for the newest lines of a deployment.
type LogQuery struct {
	UID       string // of the deployment
	Container string // InferenceServer or StorageInitializer
	Instance  string // one instance; empty: all of them
	Tail      int    // lines
}

// GetLogs reads the newest lines of a deployment's instances or of its environment's build. A deployment that has
// printed nothing yet has empty logs.
func (s *Service) GetLogs(ctx context.Context, c Caller, w online.WorkspaceID, endpoint, name string,
	q LogQuery) (string, error) {
	switch q.Container {
	case InferenceServer, StorageInitializer:
	case "ModelDataCollector":
		return "", online.Errorf(online.CodeNotImplemented, "containerType",
			"containerType ModelDataCollector is not implemented yet")
	default:
		return "", online.Errorf(online.CodeBadArgument, "containerType",
			"containerType %.40q is not one of InferenceServer, StorageInitializer", q.Container)
	}
	if q.Tail < 1 || q.Tail > MaxLogTail {
		return "", online.Errorf(online.CodeBadArgument, "tail", "tail %d is not between 1 and %d lines", q.Tail,
			MaxLogTail)
	}
	d, err := s.GetDeployment(ctx, c, w, endpoint, name)
	if err != nil {
		return "", err
	}
	q.UID = d.Meta.UID
	r, err := s.Logs.Logs(ctx, q)
	if errors.Is(err, fs.ErrNotExist) {
		if q.Instance != "" {
			return "", online.Errorf(online.CodeNotFound, "instanceId",
				"the deployment has no instance %.80q with logs", q.Instance)
		}
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read logs of %s: %w", d.Meta.ID.Key(), err)
	}
	defer r.Close()
	return lastBytes(r, MaxLogBytes)
}

// lastBytes reads to the end and keeps at most n bytes from the end, beginning at a line, in bounded memory.
func lastBytes(r io.Reader, n int) (string, error) {
	var kept []byte
	cut := false
	chunk := make([]byte, 64<<10)
	for {
		m, err := r.Read(chunk)
		kept = append(kept, chunk[:m]...)
		if len(kept) > 2*n {
			kept, cut = append(kept[:0], kept[len(kept)-n:]...), true
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", fmt.Errorf("read logs: %w", err)
		}
	}
	if len(kept) > n {
		kept, cut = kept[len(kept)-n:], true
	}
	text := strings.ToValidUTF8(string(kept), "\uFFFD")
	if cut {
		_, text, _ = strings.Cut(text, "\n")
	}
	return text, nil
}

// ListActivities reads what was done to an endpoint and what stands behind it, newest first.
func (s *Service) ListActivities(ctx context.Context, c Caller, w online.WorkspaceID, endpoint string, since,
	until time.Time, limit int) (out []online.Activity, err error) {
	if limit < 1 || limit > MaxActivities {
		return nil, online.Errorf(online.CodeBadArgument, "$top", "a page must have 1 to %d entries", MaxActivities)
	}
	err = s.view(ctx, c, func(r store.Reader) error {
		own, err := r.Activities(w.Endpoint(endpoint).Key(), since, until, limit)
		if err != nil {
			return fmt.Errorf("read activities: %w", err)
		}
		own = exactly(own, w.Endpoint(endpoint))
		behind, err := r.Activities(w.Deployment(endpoint, "").Prefix(), since, until, limit)
		if err != nil {
			return fmt.Errorf("read activities: %w", err)
		}
		if len(own)+len(behind) == 0 {
			if _, err := must(r, w.Endpoint(endpoint)); err != nil {
				return err
			}
		}
		out = newestFirst(own, behind, limit)
		return nil
	})
	return out, err
}

// exactly keeps the entries of one resource: a key is also the beginning of longer names.
func exactly(all []online.Activity, id online.ID) []online.Activity {
	var out []online.Activity
	for _, a := range all {
		if a.Target.Same(id) {
			out = append(out, a)
		}
	}
	return out
}

// newestFirst merges two lists that are each newest first.
func newestFirst(a, b []online.Activity, limit int) []online.Activity {
	out := make([]online.Activity, 0, min(len(a)+len(b), limit))
	for len(out) < limit && len(a)+len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && a[0].Revision >= b[0].Revision {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return out
}

// MetricsQuery asks what was measured of an endpoint's requests.
type MetricsQuery struct {
	Deployment string // empty: all of them
	Since      time.Time
	Until      time.Time
}

// GetMetrics answers what was measured. Zero times mean the last hour.
func (s *Service) GetMetrics(ctx context.Context, c Caller, w online.WorkspaceID, endpoint string,
	q MetricsQuery) (telemetry.Summary, error) {
	e, err := s.GetEndpoint(ctx, c, w, endpoint)
	if err != nil {
		return telemetry.Summary{}, err
	}
	if q.Until.IsZero() {
		q.Until = s.now()
	}
	if q.Since.IsZero() {
		q.Since = q.Until.Add(-DefaultSpan)
	}
	if !q.Since.Before(q.Until) || q.Until.Sub(q.Since) > MaxSpan {
		return telemetry.Summary{}, online.Errorf(online.CodeBadArgument, "since",
			"the span must be more than nothing and at most %s", arm.FormatDuration(MaxSpan))
	}
	out := s.Metrics.Query(e.Meta.ID.Name, q.Since, q.Until)
	if q.Deployment == "" {
		return out, nil
	}
	of := strings.ToLower(q.Deployment)
	out.Total = telemetry.Row{Endpoint: e.Meta.ID.Name, Deployment: of, Classes: map[string]int64{},
		Statuses: []telemetry.StatusRow{}}
	out.Deployments = slices.DeleteFunc(out.Deployments, func(r telemetry.Row) bool { return r.Deployment != of })
	if len(out.Deployments) > 0 {
		out.Total = out.Deployments[0]
	}
	return out, nil
}
