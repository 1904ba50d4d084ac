package host

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"portico/internal/durable"
)

// Bounds of the journal.
const (
	journalName         = "journal.jsonl"
	journalCompactBytes = 4 << 20  // it is rewritten when it has grown by this much since the last time
	journalReserveBytes = 1 << 20  // of disk held in reserve, so that exits can be recorded when the disk is full
	maxJournalBytes     = 1 << 30  // a longer file is not ours
	maxExitsKept        = 2000     // exited processes that nobody forgot; the oldest go first
	maxRecordBytes      = 64 << 10 // one entry
)

// record is a started process as the journal knows it: enough to find and end it when its supervisor is gone.
// The environment is not part of it.
type record struct {
	Process
	BootID  string   `json:"boot_id,omitempty"`
	Mark    string   `json:"mark"`              // random; in the environment of the process and of what it starts
	Cgroups []string `json:"cgroups,omitempty"` // directories, the one that finds processes first
}

// entry is one line of the journal; exactly one field is set.
type entry struct {
	Start  *record    `json:"start,omitempty"`
	Exit   *exitEntry `json:"exit,omitempty"`
	Forget string     `json:"forget,omitempty"`
}

type exitEntry struct {
	ID   string `json:"id"`
	Exit Exit   `json:"exit"`
}

// journal is the durable list of processes, an append-only file whose entries are on disk when append returns.
// The supervisor that holds the lock of the data directory is its only user.
type journal struct {
	path    string
	file    *os.File
	size    int64
	compact int64 // size at which to compact

	reserved int64 // disk is held up to this size
	records  map[string]*record
}

// openJournal reads the journal below a state directory, or makes one. What a crash tore off the end is dropped.
func openJournal(dir string) (*journal, error) {
	j := &journal{path: filepath.Join(dir, journalName), records: map[string]*record{}}
	f, err := os.OpenFile(j.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	good, err := j.replay(f)
	if err == nil {
		err = f.Truncate(good)
	}
	if err == nil {
		_, err = f.Seek(good, io.SeekStart)
	}
	if err == nil {
		err = durable.SyncDir(dir)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("read journal: %w", err)
	}
	j.file, j.size, j.compact = f, good, good+journalCompactBytes
	j.reserve()
	return j, nil
}

// replay applies the entries and says where the last whole one ends.
func (j *journal) replay(f *os.File) (int64, error) {
	r := bufio.NewReaderSize(io.LimitReader(f, maxJournalBytes), maxRecordBytes)
	var good int64
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return good, nil // without a newline: torn by a crash, and never acknowledged
		}
		if err != nil {
			return 0, fmt.Errorf("entry at byte %d: %w", good, err)
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return 0, fmt.Errorf("entry at byte %d: %w", good, err)
		}
		j.apply(e)
		good += int64(len(line))
	}
}

func (j *journal) apply(e entry) {
	switch {
	case e.Start != nil:
		j.records[e.Start.ID] = e.Start
	case e.Exit != nil:
		if r := j.records[e.Exit.ID]; r != nil {
			exit := e.Exit.Exit
			r.Exit = &exit
		}
	case e.Forget != "":
		delete(j.records, e.Forget)
	}
}

// append makes e durable and applies it. After an error nothing of e remains.
func (j *journal) append(e entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode journal entry: %w", err)
	}
	line = append(line, '\n')
	if len(line) > maxRecordBytes {
		return fmt.Errorf("%w: the record of the process has %d bytes, allowed are %d", ErrLimit, len(line), maxRecordBytes)
	}
	if _, err = j.file.WriteAt(line, j.size); err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		_ = j.file.Truncate(j.size) // the next entry overwrites what is left, if even that fails
		j.reserved = 0
		return fmt.Errorf("write journal: %w", err)
	}
	j.size += int64(len(line))
	j.apply(e)
	j.reserve()
	if j.size >= j.compact {
		if err := j.rewrite(); err != nil {
			j.compact = j.size + journalCompactBytes // what is there is complete: try again later
		}
	}
	return nil
}

// rewrite keeps what still matters: running processes and the newest exits that nobody forgot.
func (j *journal) rewrite() error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	for _, r := range j.oldestFirst() {
		if err := enc.Encode(entry{Start: r}); err != nil {
			return fmt.Errorf("encode journal entry: %w", err)
		}
	}
	f, err := durable.ReplaceOpen(j.path, buf.Bytes(), 0o600)
	if f != nil { // it is the journal now, even if err says that a power cut could bring the old one back
		_ = j.file.Close()
		j.file, j.size, j.reserved = f, int64(buf.Len()), 0
		j.compact = j.size + journalCompactBytes
		j.reserve()
	}
	if err != nil {
		return fmt.Errorf("rewrite journal: %w", err)
	}
	return nil
}

// reserve keeps disk in hand for the next entries. Where that fails, a full disk is told when it is met.
func (j *journal) reserve() {
	if j.reserved >= j.size+journalReserveBytes/2 {
		return
	}
	if preallocate(j.file, j.size+journalReserveBytes) == nil {
		j.reserved = j.size + journalReserveBytes
	}
}

// oldestFirst lists the records in order of their start.
func (j *journal) oldestFirst() []*record {
	all := make([]*record, 0, len(j.records))
	for _, r := range j.records {
		all = append(all, r)
	}
	sort.Slice(all, func(a, b int) bool {
		if !all[a].Started.Equal(all[b].Started) {
			return all[a].Started.Before(all[b].Started)
		}
		return all[a].ID < all[b].ID
	})
	return all
}

// surplus names the oldest exits beyond maxExitsKept.
func (j *journal) surplus() []string {
	var exited []*record
	for _, r := range j.records {
		if r.Exit != nil {
			exited = append(exited, r)
		}
	}
	if len(exited) <= maxExitsKept {
		return nil
	}
	sort.Slice(exited, func(a, b int) bool { return exited[a].Exit.At.Before(exited[b].Exit.At) })
	var ids []string
	for _, r := range exited[:len(exited)-maxExitsKept] {
		ids = append(ids, r.ID)
	}
	return ids
}

func (j *journal) close() error { return j.file.Close() }

// bootID names the current boot, or is empty where the platform does not say.
func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return string(bytes.TrimSpace(text)), nil
}
