// Package sqlite keeps a store.Store in one SQLite file: the default database of a server on one machine.
//
// It owns the file, its schema and migrations. One connection writes, a few others read snapshots (WAL), and a
// commit is flushed to disk before Update returns (synchronous=FULL). Watchers read the table of changes, so
// the live stream and catching up after a pause are one path. Secrets pass through the store.Sealer on their
// way to and from the file.
//
// It never decides what may be written. One process owns a file at a time; while a Store is open, the same
// process must not open and close that file by other means (closing it would drop SQLite's locks).
package sqlite
