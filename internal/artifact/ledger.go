package artifact

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"portico/internal/durable"
)

// Bounds of a ledger.
const (
	ledgerOpenFiles = 64      // kept open for the next line
	ledgerBlock     = 4 << 10 // a blob counts at least this much, so that the limit bounds the number of blobs too
)

// Ledger holds the blobs that the server itself writes: what was collected of scoring requests. A blob grows by whole
// lines and never changes otherwise, and its file in the ledger's folder has its name. Safe for concurrent use by one
// process.
//
// A line is in the system's memory when Append returns: it survives the end of this process however it comes. Sync
// brings it to the disk, so that it survives the machine's.
type Ledger struct {
	dir string
	max int64

	mu   sync.Mutex
	used int64 // in whole blocks
	open map[string]*ledgerFile
	turn int64 // of the last use of a file
	// Blobs without an open file that have bytes which Sync has not brought to the disk, and those for which it failed.
	unsynced map[string]struct{}
}

type ledgerFile struct {
	f     *os.File
	size  int64
	dirty bool // has bytes that Sync has not brought to the disk
	turn  int64
}

// OpenLedger opens the ledger in dir and makes dir. maxBytes bounds what it may hold.
func OpenLedger(dir string, maxBytes int64) (*Ledger, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, fmt.Errorf("open ledger: %w", diskError(err))
	}
	l := &Ledger{dir: abs, max: maxBytes, open: map[string]*ledgerFile{}, unsynced: map[string]struct{}{}}
	err = filepath.WalkDir(abs, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			l.used += blocks(info.Size())
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return l, nil
}

func blocks(size int64) int64 { return (size + ledgerBlock - 1) / ledgerBlock * ledgerBlock }

// Append adds a line, which holds no line end, to the blob of a name (CONTAINER/PATH) and makes the blob when there is
// none. Errors: ErrFull, online.Error (the name).
func (l *Ledger) Append(name string, line []byte) error {
	if bytes.IndexByte(line, '\n') >= 0 {
		return fmt.Errorf("append to %s: the line has a line end", name)
	}
	return l.write(name, append(line[:len(line):len(line)], '\n'))
}

// Create makes a blob of these bytes. A blob of that name must not exist. Errors as of Append.
func (l *Ledger) Create(name string, content []byte) error {
	if _, err := l.Stat(name); err == nil {
		return fmt.Errorf("create %s: %w", name, ErrExists)
	}
	return l.write(name, content)
}

func (l *Ledger) write(name string, content []byte) error {
	if err := checkBlobName(name); err != nil {
		return fmt.Errorf("append to a blob: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := l.file(name)
	if err != nil {
		return fmt.Errorf("append to %s: %w", name, diskError(err))
	}
	more := blocks(f.size+int64(len(content))) - blocks(f.size)
	if l.used+more > l.max {
		l.drop(name)
		if f.size == 0 {
			_ = os.Remove(l.path(name)) // it was made just now
			delete(l.unsynced, name)
		}
		return fmt.Errorf("append to %s: %w", name, ErrFull)
	}
	n, err := f.f.Write(content)
	if err != nil && n > 0 { // what a reader would take for a line is taken back
		err = errors.Join(err, f.f.Truncate(f.size))
	}
	if err != nil {
		l.drop(name)
		return fmt.Errorf("append to %s: %w", name, diskError(err))
	}
	f.size, f.dirty = f.size+int64(n), true
	l.used += more
	return nil
}

// file gives the open file of a blob; the caller holds mu.
func (l *Ledger) file(name string) (*ledgerFile, error) {
	l.turn++
	if f := l.open[name]; f != nil {
		f.turn = l.turn
		return f, nil
	}
	at := l.path(name)
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(at, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	size, err := endLine(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for len(l.open) >= ledgerOpenFiles {
		l.closeOldest()
	}
	out := &ledgerFile{f: f, size: size, dirty: true, turn: l.turn} // its name is new to the folder
	l.open[name] = out
	return out, nil
}

// endLine ends a line that a fall of the machine cut, so that the next one is not lost with it.
func endLine(f *os.File) (size int64, err error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return 0, err
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], info.Size()-1); err != nil || last[0] == '\n' {
		return info.Size(), err
	}
	n, err := f.WriteString("\n")
	return info.Size() + int64(n), err
}

func (l *Ledger) closeOldest() {
	oldest, turn := "", l.turn+1
	for name, f := range l.open {
		if f.turn < turn {
			oldest, turn = name, f.turn
		}
	}
	l.drop(oldest)
}

// drop closes a blob's file, which Sync still brings to the disk; the caller holds mu.
func (l *Ledger) drop(name string) {
	if f := l.open[name]; f != nil {
		if f.dirty {
			l.unsynced[name] = struct{}{}
		}
		_ = f.f.Close() // every write was checked
		delete(l.open, name)
	}
}

// Sync brings all lines to the disk, and closes files that were not written to since the call before. What it could not
// bring there is tried again by the next call.
func (l *Ledger) Sync() error {
	l.mu.Lock()
	names := l.unsynced
	l.unsynced = map[string]struct{}{}
	for name, f := range l.open {
		if !f.dirty {
			l.drop(name)
			continue
		}
		f.dirty = false
		names[name] = struct{}{}
	}
	l.mu.Unlock()
	var errs []error
	for name := range names {
		if err := l.syncBlob(name); err != nil {
			errs = append(errs, fmt.Errorf("sync %s: %w", name, diskError(err)))
			l.mu.Lock()
			l.unsynced[name] = struct{}{}
			l.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// syncBlob brings one blob to the disk through a file of its own, so that writers need not wait.
func (l *Ledger) syncBlob(name string) error {
	f, err := os.Open(l.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was deleted
	}
	if err != nil {
		return err
	}
	err = errors.Join(f.Sync(), f.Close())
	if dirErr := durable.SyncDir(filepath.Dir(l.path(name))); !errors.Is(dirErr, fs.ErrNotExist) {
		err = errors.Join(err, dirErr)
	}
	return err
}

// Close brings all lines to the disk and closes the files. Nothing may be appended any more.
func (l *Ledger) Close() error {
	err := l.Sync()
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.open {
		l.drop(name)
	}
	return err
}

// Used is how many bytes the blobs hold, in whole blocks.
func (l *Ledger) Used() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.used
}

func (l *Ledger) path(name string) string { return filepath.Join(l.dir, filepath.FromSlash(name)) }

// Stat describes a blob as it is now; ErrNotFound.
func (l *Ledger) Stat(name string) (Blob, error) {
	if err := checkBlobName(name); err != nil {
		return Blob{}, err
	}
	info, err := os.Lstat(l.path(name))
	if err != nil || !info.Mode().IsRegular() {
		return Blob{}, fmt.Errorf("blob %.80q: %w", name, ErrNotFound)
	}
	return ledgerBlob(name, info), nil
}

// Open gives a blob and its bytes, as Uploads.Open does. What is appended later is beyond Blob.Size.
func (l *Ledger) Open(name string) (Blob, io.ReadSeekCloser, error) {
	b, err := l.Stat(name)
	if err != nil {
		return Blob{}, nil, err
	}
	f, err := os.Open(l.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return Blob{}, nil, fmt.Errorf("blob %.80q: %w", name, ErrNotFound)
	}
	if err != nil {
		return Blob{}, nil, fmt.Errorf("open blob %s: %w", name, err)
	}
	return b, f, nil
}

// Delete removes a blob; ErrNotFound. A later line begins it anew.
func (l *Ledger) Delete(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, err := l.Stat(name)
	if err != nil {
		return fmt.Errorf("delete blob: %w", err)
	}
	l.drop(name)
	delete(l.unsynced, name)
	if err := os.Remove(l.path(name)); err != nil {
		return fmt.Errorf("delete blob %s: %w", name, err)
	}
	l.used -= blocks(b.Size)
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if os.Remove(l.path(dir)) != nil { // it has other blobs
			break
		}
	}
	return nil
}

// List gives at most limit blobs as Uploads.List does.
func (l *Ledger) List(prefix, after string, limit int) []Blob {
	var out []Blob
	dir := ""
	if cut := strings.LastIndexByte(prefix, '/'); cut > 0 {
		dir = prefix[:cut]
	}
	if dir != "" && checkPath(dir, "blob") != nil {
		return nil
	}
	l.list(dir, prefix, after, limit, &out)
	return out
}

// list walks a folder in the order of whole names, where a folder stands at its name with a slash.
func (l *Ledger) list(dir, prefix, after string, limit int, out *[]Blob) {
	entries, err := os.ReadDir(l.path(dir))
	if err != nil {
		return // it was deleted meanwhile, or never was
	}
	names := make([]string, 0, len(entries))
	found := map[string]fs.DirEntry{}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if e.IsDir() {
			name += "/"
		}
		names = append(names, name)
		found[name] = e
	}
	slices.SortFunc(names, cmp.Compare[string])
	for _, name := range names {
		if len(*out) >= limit {
			return
		}
		if strings.HasSuffix(name, "/") {
			asked := strings.HasPrefix(name, prefix) || strings.HasPrefix(prefix, name)
			if over := name <= after && !strings.HasPrefix(after, name); asked && !over {
				l.list(strings.TrimSuffix(name, "/"), prefix, after, limit, out)
			}
			continue
		}
		if !strings.HasPrefix(name, prefix) || name <= after {
			continue
		}
		if info, err := found[name].Info(); err == nil && info.Mode().IsRegular() {
			*out = append(*out, ledgerBlob(name, info))
		}
	}
}

func ledgerBlob(name string, info fs.FileInfo) Blob {
	h := fnv.New64a()
	_, _ = io.WriteString(h, strconv.FormatInt(info.Size(), 10)+"/"+strconv.FormatInt(info.ModTime().UnixNano(), 10))
	return Blob{Name: name, Size: info.Size(), Modified: info.ModTime().UTC().Truncate(time.Second),
		ETag: `"0x` + strings.ToUpper(hex.EncodeToString(h.Sum(nil))) + `"`}
}
