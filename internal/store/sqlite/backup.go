package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"portico/internal/store"
)

// Backup writes a consistent copy of the store to the new file path (0600). The copy appears under its name
// only when it is complete and on disk. It holds secrets sealed: without the master key they stay closed.
// Errors: fs.ErrExist when there is a file already, store.ErrFull when there is no room.
func (s *Store) Backup(ctx context.Context, path string) error {
	sess, err := s.take(ctx, s.readers) // the place of a reader: Close waits for it
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer func() { s.readers <- sess }()
	err = publish(path, func(partial string) error {
		db, err := sql.Open("sqlite", sourceName(s.path, "busy_timeout("+milliseconds()+")", "temp_store(MEMORY)"))
		if err != nil {
			return err
		}
		// Not of the reader's session, which may only read; and this one may be interrupted.
		_, err = db.ExecContext(ctx, "VACUUM INTO ?", partial)
		return errors.Join(failure("copy", filepath.Dir(partial), err), db.Close())
	})
	if err != nil {
		return fmt.Errorf("backup to %s: %w", path, err)
	}
	return nil
}

// Restore puts a backup in place as the store file path, which must not exist. The backup is checked first: it
// must be whole, a store, and of a schema that this program knows. No server may use path meanwhile.
func Restore(ctx context.Context, backup, path string) error {
	for _, rest := range []string{path + "-wal", path + "-shm"} { // would be applied to what is restored
		if _, err := os.Lstat(rest); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("restore %s: %s is in the way: %w", path, rest, fs.ErrExist)
		}
	}
	if err := check(ctx, backup); err != nil {
		return fmt.Errorf("restore from %s: %w", backup, err)
	}
	err := publish(path, func(partial string) error {
		src, err := os.Open(backup)
		if err != nil {
			return err
		}
		defer func() { _ = src.Close() }() // it was only read
		dst, err := os.OpenFile(partial, os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(dst, src)
		return errors.Join(err, dst.Close())
	})
	if err != nil {
		return fmt.Errorf("restore %s: %w", path, err)
	}
	return nil
}

// check proves that a file is a whole store.
func check(ctx context.Context, path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if info, err := os.Stat(abs); err != nil {
		return err
	} else if !info.Mode().IsRegular() || info.Size() == 0 {
		return errors.New("it is not a backup")
	}
	db, err := sql.Open("sqlite", sourceName(abs, "query_only(1)")+"&mode=ro&immutable=1")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // it was only read
	sess, err := newSession(ctx, db, filepath.Dir(abs))
	if err != nil {
		return err
	}
	defer func() { _ = sess.close() }()
	var verdict string
	if err := sess.row("PRAGMA integrity_check(1)", nil, &verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("it is damaged: %s", verdict)
	}
	have, err := schemaVersion(sess)
	if err != nil {
		return err
	}
	known, err := migrations()
	if err != nil {
		return err
	}
	if have == 0 || have > len(known) {
		return fmt.Errorf("its schema is %d and this program knows 1 to %d", have, len(known))
	}
	return nil
}

// publish lets write fill an empty private file beside path, flushes it and gives it its name, which must be
// free. A hard link does that without a moment in which another file could be replaced.
func publish(path string, write func(partial string) error) (err error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(abs); err == nil {
		return fs.ErrExist
	}
	f, err := os.CreateTemp(filepath.Dir(abs), "."+filepath.Base(abs)+".*.partial") // 0600
	if err != nil {
		return failure("create", filepath.Dir(abs), err)
	}
	partial := f.Name()
	defer func() { err = errors.Join(err, os.Remove(partial)) }()
	if err := f.Close(); err != nil {
		return err
	}
	if err := write(partial); err != nil {
		return markFull(err)
	}
	if err := flush(partial); err != nil {
		return markFull(err)
	}
	if err := os.Link(partial, abs); err != nil {
		return markFull(err)
	}
	return flush(filepath.Dir(abs))
}

// flush writes a file, or a directory's names, to disk.
func flush(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// markFull adds store.ErrFull to what the operating system reports for a full disk or quota.
func markFull(err error) error {
	if isNoSpace(err) && !errors.Is(err, store.ErrFull) {
		return fmt.Errorf("%w (%w)", store.ErrFull, err)
	}
	return err
}
