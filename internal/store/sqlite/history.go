package sqlite

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"portico/internal/online"
	"portico/internal/store"
)

// Operation reads one operation.
func (r *reader) Operation(id string) (*online.Operation, error) {
	var body string
	if err := r.one("SELECT body FROM operations WHERE op_id = ?", []any{id}, &body); err != nil {
		return nil, fmt.Errorf("operation %s: %w", id, err)
	}
	return decodeOperation(body)
}

func decodeOperation(body string) (*online.Operation, error) {
	op := new(online.Operation)
	if err := json.Unmarshal([]byte(body), op); err != nil {
		return nil, fmt.Errorf("decode operation: %w", err)
	}
	return op, nil
}

// The listings of operations: each has the index of the third migration that answers it.
const (
	allOperations     = "SELECT body FROM operations WHERE ? = '' ORDER BY seq DESC"
	runningOperations = "SELECT body FROM operations WHERE ended = 0 AND ? = '' ORDER BY seq DESC"
	targetOperations  = "SELECT body FROM operations WHERE target_uid = ? ORDER BY seq DESC"
	targetRunningOnes = "SELECT body FROM operations WHERE target_uid = ? AND ended = 0 ORDER BY seq DESC"
	activitiesQuery   = "SELECT body FROM activities WHERE target_rkey >= ? AND target_rkey < ? " +
		"AND at >= ? AND at < ? ORDER BY at DESC, seq DESC LIMIT ?"
	intervalColumnsList = "instance, deployment, uid, generation, instance_type, start_at, end_at, reason"
	intervalsQuery      = "SELECT " + intervalColumnsList + " FROM intervals " +
		"WHERE deployment_rkey >= ? AND deployment_rkey < ? AND start_at < ? " +
		"AND (end_at = 0 OR end_at > ?) ORDER BY start_at, instance"
)

// Operations lists operations, newest first.
func (r *reader) Operations(uid string, running bool) ([]*online.Operation, error) {
	query := allOperations
	switch {
	case uid != "" && running:
		query = targetRunningOnes
	case uid != "":
		query = targetOperations
	case running:
		query = runningOperations
	}
	var out []*online.Operation
	err := r.each(query, []any{uid}, func(scan func(...any) error) error {
		var body string
		if err := scan(&body); err != nil {
			return err
		}
		op, err := decodeOperation(body)
		out = append(out, op)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("operations: %w", err)
	}
	return out, nil
}

// Activities lists the audit log, newest first.
func (r *reader) Activities(prefix string, since, until time.Time, limit int) ([]online.Activity, error) {
	from, to := span(prefix)
	var out []online.Activity
	err := r.each(activitiesQuery, []any{from, to, sinceNanos(since), untilNanos(until), bound(limit)},
		func(scan func(...any) error) error {
			var body string
			if err := scan(&body); err != nil {
				return err
			}
			var a online.Activity
			if err := json.Unmarshal([]byte(body), &a); err != nil {
				return fmt.Errorf("decode activity: %w", err)
			}
			out = append(out, a)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("activities of %s: %w", prefix, err)
	}
	return out, nil
}

// Intervals lists the intervals that overlap a time.
func (r *reader) Intervals(prefix string, since, until time.Time) ([]online.Interval, error) {
	from, to := span(prefix)
	var out []online.Interval
	err := r.each(intervalsQuery, []any{from, to, untilNanos(until), sinceNanos(since)},
		func(scan func(...any) error) error {
			var i online.Interval
			var id string
			var start, end int64
			if err := scan(&i.Instance, &id, &i.UID, &i.Generation, &i.InstanceType, &start, &end, &i.Reason); err != nil {
				return err
			}
			if err := json.Unmarshal([]byte(id), &i.Deployment); err != nil {
				return fmt.Errorf("decode deployment: %w", err)
			}
			i.Start, i.End = fromNanos(start), fromNanos(end)
			out = append(out, i)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("intervals of %s: %w", prefix, err)
	}
	return out, nil
}

func sinceNanos(t time.Time) int64 {
	if t.IsZero() {
		return math.MinInt64
	}
	return t.UnixNano()
}

func untilNanos(t time.Time) int64 {
	if t.IsZero() {
		return math.MaxInt64
	}
	return t.UnixNano()
}

// PutOperation creates or replaces an operation.
func (t *tx) PutOperation(op *online.Operation) error {
	if op.ID == "" {
		return errors.New("put operation: it has no id")
	}
	body, err := json.Marshal(op)
	if err != nil {
		return fmt.Errorf("encode operation %s: %w", op.ID, err)
	}
	var old string
	err = t.one("SELECT body FROM operations WHERE op_id = ?", []any{op.ID}, &old)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("put operation %s: %w", op.ID, err)
	}
	if old == string(body) {
		return nil
	}
	ended := 0
	if op.State.Final() {
		ended = 1
	}
	err = t.write("INSERT INTO operations (op_id, target_uid, ended, body) VALUES (?, ?, ?, ?) "+
		"ON CONFLICT (op_id) DO UPDATE SET target_uid = excluded.target_uid, ended = excluded.ended, body = excluded.body",
		op.ID, op.TargetUID, ended, string(body))
	if err != nil {
		return fmt.Errorf("put operation %s: %w", op.ID, err)
	}
	return nil
}

// AddActivity appends to the audit log.
func (t *tx) AddActivity(a online.Activity) error {
	if err := t.advance(); err != nil {
		return fmt.Errorf("add activity: %w", err)
	}
	a.Revision = t.revision
	body, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode activity: %w", err)
	}
	err = t.write("INSERT INTO activities (revision, at, target_rkey, body) VALUES (?, ?, ?, ?)",
		t.revision, a.Time.UnixNano(), a.Target.Key(), string(body))
	if err != nil {
		return fmt.Errorf("add activity: %w", err)
	}
	return nil
}

// OpenInterval begins an instance's interval.
func (t *tx) OpenInterval(i online.Interval) error {
	var known int64
	if err := t.one("SELECT count(*) FROM intervals WHERE instance = ?", []any{i.Instance}, &known); err != nil {
		return fmt.Errorf("open interval of %s: %w", i.Instance, err)
	}
	if known > 0 {
		return nil
	}
	id, err := json.Marshal(i.Deployment)
	if err != nil {
		return fmt.Errorf("encode id: %w", err)
	}
	err = t.write("INSERT INTO intervals (deployment_rkey, "+intervalColumnsList+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
		i.Deployment.Key(), i.Instance, string(id), i.UID, i.Generation, i.InstanceType,
		toNanos(i.Start), toNanos(i.End), i.Reason)
	if err != nil {
		return fmt.Errorf("open interval of %s: %w", i.Instance, err)
	}
	return nil
}

// CloseInterval ends an instance's interval.
func (t *tx) CloseInterval(instance string, end time.Time, reason string) error {
	var ended int64
	if err := t.one("SELECT end_at FROM intervals WHERE instance = ?", []any{instance}, &ended); err != nil {
		return fmt.Errorf("close interval of %s: %w", instance, err)
	}
	if ended != 0 {
		return nil
	}
	err := t.write("UPDATE intervals SET end_at = ?, reason = ? WHERE instance = ?", toNanos(end), reason, instance)
	if err != nil {
		return fmt.Errorf("close interval of %s: %w", instance, err)
	}
	return nil
}
