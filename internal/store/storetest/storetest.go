package storetest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"portico/internal/online"
	"portico/internal/store"
)

// patience is how long the suite waits for what must happen; far more than any of it takes.
const patience = 30 * time.Second

// Run runs the suite. open makes an empty store that closes with its test, with Sealer or another one.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *fixture)
	}{
		{"SpecLifecycle", testSpecLifecycle},
		{"StaleWrites", testStaleWrites},
		{"CaseOfNames", testCaseOfNames},
		{"Status", testStatus},
		{"Removal", testRemoval},
		{"Listing", testListing},
		{"Secrets", testSecrets},
		{"InvalidJSON", testInvalidJSON},
		{"RevisionCounter", testRevisionCounter},
		{"Rollback", testRollback},
		{"PanicKeepsNothing", testPanic},
		{"Snapshot", testSnapshot},
		{"EscapedTransaction", testEscaped},
		{"CanceledContext", testCanceled},
		{"Operations", testOperations},
		{"Activities", testActivities},
		{"Intervals", testIntervals},
		{"WatchTypes", testWatchTypes},
		{"WatchResume", testWatchResume},
		{"WatchForeignHistory", testWatchForeign},
		{"WatchSlowReader", testWatchSlow},
		{"WatchConcurrentWriters", testWatchConcurrent},
		{"ConcurrentIfMatch", testConcurrentIfMatch},
		{"Close", testClose},
		{"Model", testModel},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.test(t, &fixture{t: t, Store: open(t), ctx: t.Context()})
		})
	}
}

// fixture is a store under test with the calls that every test makes.
type fixture struct {
	store.Store
	t   *testing.T
	ctx context.Context
}

func (f *fixture) update(fn func(store.Tx) error) {
	f.t.Helper()
	if err := f.Update(f.ctx, fn); err != nil {
		f.t.Fatalf("update: %v", err)
	}
}

func (f *fixture) view(fn func(store.Reader) error) {
	f.t.Helper()
	if err := f.View(f.ctx, fn); err != nil {
		f.t.Fatalf("view: %v", err)
	}
}

// put accepts a spec and gives the record.
func (f *fixture) put(id online.ID, spec string) *store.Record {
	f.t.Helper()
	var rec *store.Record
	f.update(func(tx store.Tx) (err error) {
		rec, err = tx.PutSpec(store.Spec{ID: id, JSON: []byte(spec), By: "ada", Why: "update", At: noon})
		return err
	})
	return rec
}

func (f *fixture) get(id online.ID) *store.Record {
	f.t.Helper()
	var rec *store.Record
	f.view(func(r store.Reader) (err error) {
		rec, err = r.Get(id)
		return err
	})
	return rec
}

func (f *fixture) revision() int64 {
	f.t.Helper()
	var n int64
	f.view(func(r store.Reader) error { n = r.Revision(); return nil })
	return n
}

// watch starts a watch that ends with the test.
func (f *fixture) watch(since int64) <-chan store.Change {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	ch, err := f.Watch(ctx, since)
	if err != nil {
		cancel()
		f.t.Fatalf("watch: %v", err)
	}
	f.t.Cleanup(func() {
		cancel()
		for range ch { //nolint:revive // until it closes
		}
	})
	return ch
}

// next waits for one change.
func (f *fixture) next(ch <-chan store.Change) store.Change {
	f.t.Helper()
	select {
	case c, ok := <-ch:
		if !ok {
			f.t.Fatal("the watch ended")
		}
		return c
	case <-time.After(patience):
		f.t.Fatal("no change came")
	}
	panic("unreachable")
}

func (f *fixture) wantErr(err, target error) {
	f.t.Helper()
	if !errors.Is(err, target) {
		f.t.Fatalf("error %v, want %v", err, target)
	}
}

var (
	noon = time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.UTC)
	ws   = online.WorkspaceID{Subscription: "sub", ResourceGroup: "rg", Name: "ws"}
)

func endpoint(name string) online.ID { return ws.Endpoint(name) }

// Sealer is a store.Sealer with a fixed key, for tests of databases: what it seals opens in another process.
func Sealer() store.Sealer {
	block, err := aes.NewCipher([]byte("storetest storetest storetest 32"))
	if err != nil {
		panic(err) // the key above has a length that AES takes
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // the block above is AES
	}
	return fixedSealer{aead}
}

type fixedSealer struct{ aead cipher.AEAD }

func (s fixedSealer) Seal(purpose string, clear []byte) ([]byte, error) {
	return s.aead.Seal(nil, nil, clear, []byte(purpose)), nil
}

func (s fixedSealer) Open(purpose string, sealed []byte) ([]byte, error) {
	clear, err := s.aead.Open(nil, nil, sealed, []byte(purpose))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", purpose, err)
	}
	return clear, nil
}

// ClearText is a secret that a test can look for in files: long, and never the same twice.
func ClearText() online.Secret { return online.Secret("clear-" + rand.Text()) }
