package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"portico/internal/store"
)

// How much is kept of what would otherwise only grow. Revisions and intervals are kept for ever: rollback, cost
// and evidence need them.
const (
	historyRevisions = 50_000  // transactions that Watch can go back
	operationsKept   = 20_000  // newest operations; older ones go once they have ended
	activitiesKept   = 200_000 // newest entries of the audit log
	trimEvery        = 256     // transactions between two trims
)

// readSessions is how many snapshots can be read at once; further readers wait.
const readSessions = 8

// Store is a store.Store in one SQLite file. Make it with Open.
type Store struct {
	path   string
	sealer store.Sealer
	log    *slog.Logger
	limits limits

	writeDB, readDB *sql.DB
	writer          chan *session // one element: who holds it writes
	readers         chan *session

	committed *bell
	done      chan struct{} // closed by Close

	mu       sync.Mutex // guards closed, and watchers.Add against Wait
	closed   bool
	watchers sync.WaitGroup
}

// limits are the constants above, apart so that tests need not write 50,000 transactions.
type limits struct{ history, operations, activities, trimEvery int64 }

var _ store.Store = (*Store)(nil)

// Open opens the store in the file path, creates it (0600) when it does not exist, and brings an older schema
// up to date. Errors: store.ErrFull when there is no room, otherwise plain ones that say what is wrong with the
// file.
func Open(ctx context.Context, path string, sealer store.Sealer, log *slog.Logger) (*Store, error) {
	return open(ctx, path, sealer, log,
		limits{history: historyRevisions, operations: operationsKept, activities: activitiesKept, trimEvery: trimEvery})
}

func open(ctx context.Context, path string, sealer store.Sealer, log *slog.Logger, lim limits) (_ *Store, err error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{
		path: abs, sealer: sealer, log: log, limits: lim,
		writer:    make(chan *session, 1),
		readers:   make(chan *session, readSessions),
		committed: newBell(),
		done:      make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("open store %s: %w", abs, err)
			_ = s.closeFiles(len(s.readers), len(s.writer)) // the first error is the one to tell
		}
	}()
	if err := createPrivate(abs); err != nil {
		return nil, err
	}
	steps, err := migrations()
	if err != nil {
		return nil, err
	}
	if err := s.openWriter(ctx, steps); err != nil {
		return nil, err
	}
	return s, s.openReaders(ctx)
}

// createPrivate makes an empty file for SQLite to grow, because SQLite itself would make it readable by all.
// The WAL and its index take the mode of this file.
func createPrivate(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return markFull(err)
	}
	return f.Close()
}

func (s *Store) openWriter(ctx context.Context, steps []migration) error {
	db, err := sql.Open("sqlite", sourceName(s.path, "busy_timeout("+milliseconds()+")", "journal_mode(WAL)",
		"synchronous(FULL)", "temp_store(MEMORY)"))
	if err != nil {
		return err
	}
	s.writeDB = db
	w, err := newSession(ctx, db, filepath.Dir(s.path))
	if err != nil {
		return err
	}
	s.writer <- w
	return migrate(w, steps, s.log)
}

func (s *Store) openReaders(ctx context.Context) error {
	db, err := sql.Open("sqlite", sourceName(s.path, "busy_timeout("+milliseconds()+")", "query_only(1)",
		"temp_store(MEMORY)"))
	if err != nil {
		return err
	}
	s.readDB = db
	for range readSessions {
		r, err := newSession(ctx, db, filepath.Dir(s.path))
		if err != nil {
			return err
		}
		s.readers <- r
	}
	return nil
}

func milliseconds() string { return strconv.FormatInt(busyTimeout.Milliseconds(), 10) }

// closeFiles closes so many sessions of each pool, waiting for those in use, then the database.
func (s *Store) closeFiles(readers, writers int) error {
	var errs []error
	for range readers {
		errs = append(errs, (<-s.readers).close())
	}
	for range writers { // after the readers: the last connection empties the WAL into the file
		errs = append(errs, (<-s.writer).close())
	}
	for _, db := range []*sql.DB{s.readDB, s.writeDB} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Close waits for the views and updates that run, ends the watches and closes the file. Calls after it answer
// store.ErrClosed; a second Close does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.done)
	s.mu.Unlock()
	s.watchers.Wait()
	if err := s.closeFiles(cap(s.readers), cap(s.writer)); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// take waits for a session of a pool.
func (s *Store) take(ctx context.Context, pool chan *session) (*session, error) {
	select {
	case <-s.done: // select chooses at random, and what is closed takes precedence
		return nil, store.ErrClosed
	default:
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case sess := <-pool:
		return sess, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.done:
		return nil, store.ErrClosed
	}
}

// View runs fn on a snapshot.
func (s *Store) View(ctx context.Context, fn func(store.Reader) error) error {
	sess, err := s.take(ctx, s.readers)
	if err != nil {
		return fmt.Errorf("view: %w", err)
	}
	defer func() { s.readers <- sess }()
	if err := sess.begin(false); err != nil {
		return fmt.Errorf("view: %w", err)
	}
	defer sess.rollback()
	r := &reader{sess: sess, sealer: s.sealer}
	defer r.end()
	if err := r.readRevision(); err != nil { // this first read fixes the snapshot
		return fmt.Errorf("view: %w", err)
	}
	return fn(r)
}

// Update runs fn in a transaction; see store.Store.
func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) error {
	sess, err := s.take(ctx, s.writer)
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	defer func() { s.writer <- sess }()
	if err := sess.begin(true); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	open := true
	defer func() {
		if open {
			sess.rollback()
		}
	}()
	t := &tx{reader: reader{sess: sess, sealer: s.sealer}, limits: s.limits}
	defer t.end()
	if err := t.readRevision(); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := fn(t); err != nil {
		return err
	}
	if t.broken != nil {
		return t.broken
	}
	if !t.changed {
		return nil
	}
	if err := t.finish(); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := sess.commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	open = false
	s.committed.ring()
	return nil
}

// bell wakes everyone who waits at once.
type bell struct {
	mu sync.Mutex
	ch chan struct{}
}

func newBell() *bell { return &bell{ch: make(chan struct{})} }

// next gives a channel that closes at the next ring.
func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ch)
	b.ch = make(chan struct{})
}
