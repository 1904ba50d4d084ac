// Package controltest is what tests of control, and of those who stand on it, have under them: a real database with its vault,
// real artifacts and uploads, a clock, and a hand that plays reconcile.
//
// It is imported by tests only, and does not know control.
package controltest

import (
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"portico/internal/access"
	"portico/internal/artifact"
	"portico/internal/online"
	"portico/internal/store"
	"portico/internal/store/sqlite"
	"portico/internal/telemetry"
	"portico/internal/vault"
)

// SigningKey is made once: making one takes long.
var SigningKey = sync.OnceValues(access.NewSigningKey)

// Ground is below a Service.
type Ground struct {
	Clock
	Records store.Store
	Trees   *artifact.Store
	Blobs   *artifact.Uploads
	// Measured keeps what a test records for a hundred years of the real clock.
	Measured *telemetry.Telemetry

	t testing.TB
}

// Open makes a ground in a directory, or finds it there, until the test ends.
func Open(t testing.TB, dir string, log *slog.Logger) *Ground {
	t.Helper()
	g := &Ground{t: t}
	g.Set(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC))
	v, err := vault.OpenOrCreate(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	if g.Records, err = sqlite.Open(t.Context(), filepath.Join(dir, "store.db"), v, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Records.Close() })
	if g.Trees, err = artifact.Open(filepath.Join(dir, "artifacts"), artifact.DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	if g.Blobs, err = artifact.OpenUploads(filepath.Join(dir, "uploads"), g.Tick); err != nil {
		t.Fatal(err)
	}
	if g.Measured, err = telemetry.New(telemetry.Config{Retention: 100 * 365 * 24 * time.Hour}, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Measured.Close() })
	return g
}

// Minutes is what a test recorded.
func (g *Ground) Minutes(endpoint string, since, until time.Time) []telemetry.Series {
	return g.Measured.Minutes(endpoint, since, until)
}

// Connections are two in every minute up to the clock.
func (g *Ground) Connections(since, until time.Time) []telemetry.ConnectionMinute {
	var out []telemetry.ConnectionMinute
	for at, now := since.Truncate(time.Minute), g.Now(); at.Before(until) && !at.After(now); at = at.Add(time.Minute) {
		out = append(out, telemetry.ConnectionMinute{Time: at, Active: 2, Most: 3, Least: 1, Opened: 30})
	}
	return out
}

// Settle does what reconcile would do when everything works: specs are in force, deletions are done, operations end.
func (g *Ground) Settle() {
	g.t.Helper()
	err := g.Records.Update(context.Background(), func(tx store.Tx) error {
		for _, prefix := range []string{"deployments/", "onlineendpoints/"} {
			recs, err := tx.List(prefix, store.Page{})
			if err != nil {
				return err
			}
			for _, rec := range recs {
				if err := settle(tx, rec, g.Tick()); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		g.t.Fatal(err)
	}
}

func settle(tx store.Tx, rec *store.Record, now time.Time) error {
	ops, err := tx.Operations(rec.UID, true)
	if err != nil {
		return err
	}
	for _, op := range ops {
		op.State, op.End = online.OperationSucceeded, now
		if err := tx.PutOperation(op); err != nil {
			return err
		}
	}
	if !rec.Deleting.IsZero() {
		return tx.Remove(rec.ID, "", now)
	}
	doc, err := json.Marshal(map[string]any{"observedGeneration": rec.Generation, "state": online.StateSucceeded})
	if err != nil {
		return err
	}
	return tx.PutStatus(rec.ID, rec.UID, doc)
}

// Clock is one on which no two moments are the same.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// Tick gives the next moment.
func (c *Clock) Tick() time.Time { return c.Pass(time.Second) }

// Now is where the clock stands.
func (c *Clock) Now() time.Time { return c.Pass(0) }

// Pass moves the clock and gives where it stands then.
func (c *Clock) Pass(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return c.now
}

// Set moves the clock to a moment.
func (c *Clock) Set(to time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = to
}
