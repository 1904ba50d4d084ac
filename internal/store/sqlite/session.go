package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"portico/internal/store"
)

// busyTimeout is how long a statement waits for another process that holds the file (a backup tool).
const busyTimeout = 5 * time.Second

// session is one connection with its prepared statements. It is used by one goroutine at a time.
//
// Its statements run without the caller's context on purpose: database/sql would watch the context with a
// goroutine per statement and could interrupt a commit half-way, after which nobody knows its outcome.
// Statements are short; callers look at their context before and between them.
type session struct {
	conn       *sql.Conn
	statements map[string]*sql.Stmt
	dir        string // of the file, to tell a full disk from a broken one
}

func newSession(ctx context.Context, db *sql.DB, dir string) (*session, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, failure("open", dir, err)
	}
	return &session{conn: conn, statements: map[string]*sql.Stmt{}, dir: dir}, nil
}

func (s *session) close() error {
	var errs []error
	for _, st := range s.statements {
		errs = append(errs, st.Close())
	}
	return errors.Join(append(errs, s.conn.Close())...)
}

// prepared gives the statement of a query; queries are constants, so the map is bounded.
func (s *session) prepared(query string) (*sql.Stmt, error) {
	if st, ok := s.statements[query]; ok {
		return st, nil
	}
	st, err := s.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, failure("prepare", s.dir, err)
	}
	s.statements[query] = st
	return st, nil
}

// exec runs a statement.
func (s *session) exec(query string, args ...any) error {
	st, err := s.prepared(query)
	if err != nil {
		return err
	}
	if _, err := st.ExecContext(context.Background(), args...); err != nil {
		return failure("write", s.dir, err)
	}
	return nil
}

// row reads one row; sql.ErrNoRows when there is none.
func (s *session) row(query string, args []any, dest ...any) error {
	st, err := s.prepared(query)
	if err != nil {
		return err
	}
	err = st.QueryRowContext(context.Background(), args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return err
	}
	return failure("read", s.dir, err)
}

// each reads every row of a query.
func (s *session) each(query string, args []any, take func(scan func(...any) error) error) error {
	st, err := s.prepared(query)
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(context.Background(), args...)
	if err != nil {
		return failure("read", s.dir, err)
	}
	defer func() { _ = rows.Close() }() // rows.Err below tells what there is to tell
	for rows.Next() {
		if err := take(rows.Scan); err != nil {
			return err
		}
	}
	return failure("read", s.dir, rows.Err())
}

// script runs several statements that give no rows.
func (s *session) script(text string) error {
	_, err := s.conn.ExecContext(context.Background(), text)
	return failure("write", s.dir, err)
}

func (s *session) begin(write bool) error {
	query := "BEGIN"
	if write {
		query = "BEGIN IMMEDIATE"
	}
	err := s.exec(query)
	return err
}

func (s *session) commit() error {
	err := s.exec("COMMIT")
	return err
}

// rollback ends whatever transaction is open. It fails only when none is (SQLite has ended it itself, as on a
// full disk, or it was committed), or when the connection is of no more use, which the next begin reports.
func (s *session) rollback() { _ = s.exec("ROLLBACK") }

// failure wraps an error of the driver with what was tried, and marks a full disk with store.ErrFull.
func failure(verb, dir string, err error) error {
	if err == nil {
		return nil
	}
	var se *sqlite.Error
	if errors.As(err, &se) && isFull(se.Code(), dir) {
		return fmt.Errorf("%s: %w (%w)", verb, store.ErrFull, err)
	}
	return fmt.Errorf("%s: %w", verb, err)
}

// isFull tells whether an SQLite code means that there is no space. SQLite says so itself for its own files'
// writes; where it reports a plain input/output error instead (the shared index of the WAL cannot grow, a
// quota), the file system is asked.
func isFull(code int, dir string) bool {
	switch code & 0xff {
	case sqlite3.SQLITE_FULL:
		return true
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
		const tooLittle = 64 << 10 // bytes; SQLite extends its files by at most this much at once
		free, err := freeSpace(dir)
		return err == nil && free < tooLittle
	}
	return false
}

// sourceName is the driver's name for a file with the settings of a connection. path is absolute.
func sourceName(path string, pragmas ...string) string {
	u := url.URL{Path: path}
	escaped := strings.ReplaceAll(u.EscapedPath(), "?", "%3f")
	q := url.Values{"_pragma": pragmas}
	return "file:" + escaped + "?" + q.Encode()
}
