package sqlite

import (
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one step of the schema. A step that was ever released is never edited: a new one follows it.
type migration struct {
	version int // from 1, without gaps
	name    string
	script  string
}

// migrations gives the steps in order.
func migrations() ([]migration, error) {
	files, err := fs.Glob(migrationFiles, "migrations/*.sql") // sorted by name
	if err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	steps := make([]migration, 0, len(files))
	for i, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "migrations/"), ".sql")
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s is not number %d", name, i+1)
		}
		script, err := migrationFiles.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read migration %s: %w", name, err)
		}
		steps = append(steps, migration{version: version, name: name, script: string(script)})
	}
	return steps, nil
}

// migrate brings the schema to the newest version, each step in a transaction of its own.
func migrate(w *session, steps []migration, log *slog.Logger) error {
	have, err := schemaVersion(w)
	if err != nil {
		return err
	}
	if have > len(steps) {
		return fmt.Errorf("the store has schema %d and this program knows up to %d: "+
			"start the newer portico, or restore a backup", have, len(steps))
	}
	for _, step := range steps[have:] {
		if err := applyStep(w, step); err != nil {
			return fmt.Errorf("apply migration %s: %w", step.name, err)
		}
		if have > 0 {
			log.Info("store schema migrated", "schema", step.version, "migration", step.name)
		}
	}
	return nil
}

func applyStep(w *session, step migration) error {
	if err := w.begin(true); err != nil {
		return err
	}
	defer w.rollback()
	if err := w.script(step.script); err != nil {
		return err
	}
	if step.version == 1 {
		err := w.script("CREATE TABLE schema_version (version BIGINT NOT NULL); INSERT INTO schema_version VALUES (0)")
		if err != nil {
			return err
		}
	}
	if err := w.exec("UPDATE schema_version SET version = ?", step.version); err != nil {
		return err
	}
	return w.commit()
}

// schemaVersion reads the version of an existing store; 0 for an empty file. A database of something else is
// an error, so that a mistaken path never has tables added to it.
func schemaVersion(w *session) (int, error) {
	var tables, ours int
	err := w.row("SELECT count(*), coalesce(sum(name = 'schema_version'), 0) FROM sqlite_master WHERE type = 'table'",
		nil, &tables, &ours)
	if err != nil {
		return 0, fmt.Errorf("read schema: %w", err)
	}
	if tables == 0 {
		return 0, nil
	}
	if ours == 0 {
		return 0, errors.New("this is a database, but not a store of portico")
	}
	var version int
	if err := w.row("SELECT version FROM schema_version", nil, &version); err != nil {
		if errors.Is(err, sql.ErrNoRows) {
			return 0, errors.New("the store's schema_version is empty")
		}
		return 0, fmt.Errorf("read schema version: %w", err)
	}
	return version, nil
}
