package artifact

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // the wire's checksum against damage on the way, not a proof of identity
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"portico/internal/durable"
	"portico/internal/online"
)

// Bounds of the staging area.
const (
	MaxStagedBlobs   = 200_000
	MaxMetadataBytes = 8 << 10 // names and values together, as Azure's
)

// Blob is an uploaded blob as its readers see it.
type Blob struct {
	Name        string // container/path
	Size        int64
	ETag        string // with its quotes; another one after every change
	Modified    time.Time
	ContentType string
	MD5         []byte // of the bytes, when the client gave it
	Metadata    map[string]string
	Blocks      []Block // when it was committed from blocks
}

// PutOptions say how a blob is to be written.
type PutOptions struct {
	Size        int64  // bytes announced; -1 when unknown
	MaxBytes    int64  // more is refused
	MD5         []byte // of what is sent; checked when given
	ContentType string
	Metadata    map[string]string
	OnlyNew     bool // If-None-Match: * - ErrExists when there is such a blob
}

// Uploads is the staging area: blobs by name, each with its bytes in a file of its own that is never changed
// once the blob exists. Names are indexed in memory. Safe for concurrent use by one process.
type Uploads struct {
	dir    string
	now    func() time.Time
	ledger *Ledger // shown beside the uploads; nil: there is none

	mu     sync.RWMutex
	blobs  map[string]*record
	sorted []string // names in order
}

// record is a blob as stored in blobs/<sha256 of the name>.
type record struct {
	Blob
	File string // of its bytes, in data/
}

// Folders of the staging area.
const (
	blobsName  = "blobs"  // records
	dataName   = "data"   // bytes
	blocksName = "blocks" // blocks not yet committed, a folder a blob
)

// OpenUploads opens the staging area in dir, makes dir, and clears what a crash left unfinished. now stamps
// blobs and judges the age of blocks.
func OpenUploads(dir string, now func() time.Time) (*Uploads, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open uploads: %w", err)
	}
	u := &Uploads{dir: abs, now: now, blobs: map[string]*record{}}
	for _, name := range []string{blobsName, dataName, blocksName} {
		if err := os.MkdirAll(filepath.Join(abs, name), 0o700); err != nil {
			return nil, fmt.Errorf("open uploads: %w", diskError(err))
		}
	}
	if err := u.load(); err != nil {
		return nil, fmt.Errorf("open uploads: %w", err)
	}
	return u, nil
}

// Show lets every View read the blobs of a ledger too. It is called before the first View is used.
func (u *Uploads) Show(l *Ledger) { u.ledger = l }

// load reads the records and removes bytes that belong to none.
func (u *Uploads) load() error {
	if err := clearUnfinished(filepath.Join(u.dir, blobsName)); err != nil {
		return err
	}
	names, err := os.ReadDir(filepath.Join(u.dir, blobsName))
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, n := range names {
		text, err := os.ReadFile(filepath.Join(u.dir, blobsName, n.Name()))
		if err != nil {
			return err
		}
		rec := new(record)
		if err := json.Unmarshal(text, rec); err != nil {
			return fmt.Errorf("decode blob %s: %w", n.Name(), err)
		}
		if _, err := os.Stat(u.data(rec.File)); errors.Is(err, fs.ErrNotExist) {
			// A write or a deletion failed half-way and was told so: there is no such blob.
			if err := os.Remove(filepath.Join(u.dir, blobsName, n.Name())); err != nil {
				return err
			}
			continue
		}
		u.blobs[rec.Name] = rec
		used[rec.File] = true
	}
	u.sorted = slices.Sorted(maps.Keys(u.blobs))
	data, err := os.ReadDir(filepath.Join(u.dir, dataName))
	if err != nil {
		return err
	}
	for _, d := range data {
		if used[d.Name()] {
			continue
		}
		if err := os.Remove(filepath.Join(u.dir, dataName, d.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Put writes a blob from one stream. The blob is there, whole and on disk, when Put returns nil; until then
// readers see what was there before. Blocks of that name that were not committed go. Errors: online.Error (name,
// size, checksum), ErrExists, ErrFull.
func (u *Uploads) Put(ctx context.Context, name string, r io.Reader, o PutOptions) (Blob, error) {
	if err := u.check(name, o.Metadata, o.OnlyNew); err != nil {
		return Blob{}, fmt.Errorf("put blob: %w", err)
	}
	file := rand.Text()
	n, err := receive(ctx, u.data(file), r, o.Size, o.MaxBytes, o.MD5)
	if err != nil {
		return Blob{}, fmt.Errorf("put blob %s: %w", name, err)
	}
	rec := &record{File: file, Blob: Blob{Name: name, Size: n, ContentType: o.ContentType, MD5: o.MD5,
		Metadata: maps.Clone(o.Metadata)}}
	if err := u.replace(rec, o.OnlyNew); err != nil {
		return Blob{}, fmt.Errorf("put blob %s: %w", name, errors.Join(err, os.Remove(u.data(file))))
	}
	return rec.view(), nil
}

// check refuses what can be refused before the bytes are read.
func (u *Uploads) check(name string, metadata map[string]string, onlyNew bool) error {
	if err := checkBlobName(name); err != nil {
		return err
	}
	size := 0
	for k, v := range metadata {
		size += len(k) + len(v)
	}
	if size > MaxMetadataBytes {
		return online.Errorf(online.CodeBadArgument, "metadata", "metadata of %d bytes is larger than %d", size, MaxMetadataBytes)
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.admits(name, onlyNew)
}

// admits is called with mu held.
func (u *Uploads) admits(name string, onlyNew bool) error {
	_, exists := u.blobs[name]
	if exists && onlyNew {
		return ErrExists
	}
	if !exists && len(u.blobs) >= MaxStagedBlobs {
		return online.Errorf(online.CodeOutOfQuota, "blob", "%d blobs are staged already; delete some", MaxStagedBlobs)
	}
	return nil
}

// replace makes rec the blob of its name.
func (u *Uploads) replace(rec *record, onlyNew bool) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.admits(rec.Name, onlyNew); err != nil { // another one may have come meanwhile
		return err
	}
	old := u.blobs[rec.Name]
	if err := u.save(rec); err != nil {
		return err
	}
	// The blob is replaced; what cannot be removed now harms nobody: blocks expire, bytes go at the next start.
	_ = os.RemoveAll(u.blockDir(rec.Name))
	if old != nil {
		_ = os.Remove(u.data(old.File))
	}
	return nil
}

// save stamps and writes a record and enters it into the index. mu is held.
func (u *Uploads) save(rec *record) error {
	var tag [8]byte
	_, _ = rand.Read(tag[:]) // never fails (crypto/rand)
	rec.ETag = `"0x` + strings.ToUpper(hex.EncodeToString(tag[:])) + `"`
	rec.Modified = u.now().UTC().Truncate(time.Second) // what Last-Modified can say
	text, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := durable.Replace(filepath.Join(u.dir, blobsName, hashed(rec.Name)), text, 0o600); err != nil {
		return diskError(err)
	}
	u.blobs[rec.Name] = rec
	if i, found := slices.BinarySearch(u.sorted, rec.Name); !found {
		u.sorted = slices.Insert(u.sorted, i, rec.Name)
	}
	return nil
}

// Stat describes a blob; ErrNotFound.
func (u *Uploads) Stat(name string) (Blob, error) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	rec, ok := u.blobs[name]
	if !ok {
		return Blob{}, fmt.Errorf("blob %.80q: %w", name, ErrNotFound)
	}
	return rec.view(), nil
}

// Open gives a blob and its bytes, which stay readable when the blob is replaced or deleted. A range is read by
// seeking. The caller closes the reader. ErrNotFound.
func (u *Uploads) Open(name string) (Blob, io.ReadSeekCloser, error) {
	u.mu.RLock()
	defer u.mu.RUnlock() // so that the bytes are those of this blob
	rec, ok := u.blobs[name]
	if !ok {
		return Blob{}, nil, fmt.Errorf("blob %.80q: %w", name, ErrNotFound)
	}
	f, err := os.Open(u.data(rec.File))
	if err != nil {
		return Blob{}, nil, fmt.Errorf("open blob %s: %w", name, err)
	}
	return rec.view(), f, nil
}

// SetMetadata replaces a blob's metadata. Errors: ErrNotFound, ErrFull, online.Error.
func (u *Uploads) SetMetadata(name string, metadata map[string]string) (Blob, error) {
	if err := u.check(name, metadata, false); err != nil {
		return Blob{}, fmt.Errorf("set metadata: %w", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	old, ok := u.blobs[name]
	if !ok {
		return Blob{}, fmt.Errorf("set metadata of %s: %w", name, ErrNotFound)
	}
	rec := *old
	rec.Metadata = maps.Clone(metadata)
	if err := u.save(&rec); err != nil {
		return Blob{}, fmt.Errorf("set metadata of %s: %w", name, err)
	}
	return rec.view(), nil
}

// List gives at most limit blobs whose names begin with prefix and come after a name, in order.
func (u *Uploads) List(prefix, after string, limit int) []Blob {
	u.mu.RLock()
	defer u.mu.RUnlock()
	from := sort.SearchStrings(u.sorted, prefix)
	if after >= prefix {
		i, found := slices.BinarySearch(u.sorted, after)
		if found {
			i++
		}
		from = max(from, i)
	}
	var out []Blob
	for _, name := range u.sorted[from:] {
		if !strings.HasPrefix(name, prefix) || len(out) >= limit {
			break
		}
		out = append(out, u.blobs[name].view())
	}
	return out
}

// Delete removes a blob and blocks of its name that were not committed; ErrNotFound when there is no blob.
func (u *Uploads) Delete(name string) error {
	if err := checkBlobName(name); err != nil {
		return fmt.Errorf("delete blob: %w", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	rec, ok := u.blobs[name]
	if !ok {
		return fmt.Errorf("delete blob %s: %w", name, ErrNotFound)
	}
	records := filepath.Join(u.dir, blobsName)
	if err := os.Remove(filepath.Join(records, hashed(name))); err != nil {
		return fmt.Errorf("delete blob %s: %w", name, err)
	}
	delete(u.blobs, name)
	if i, found := slices.BinarySearch(u.sorted, name); found {
		u.sorted = slices.Delete(u.sorted, i, i+1)
	}
	if err := errors.Join(durable.SyncDir(records), os.Remove(u.data(rec.File)), os.RemoveAll(u.blockDir(name))); err != nil {
		return fmt.Errorf("delete blob %s: %w", name, err)
	}
	return nil
}

func (r *record) view() Blob {
	b := r.Blob
	b.Metadata = maps.Clone(b.Metadata)
	b.Blocks = slices.Clone(b.Blocks)
	b.MD5 = bytes.Clone(b.MD5)
	return b
}

func (u *Uploads) data(file string) string { return filepath.Join(u.dir, dataName, file) }

// hashed is a file name for a blob's name: blobs a and a/b can both exist, and names may be long.
func hashed(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// receive streams what a client sends into a new file and checks it. The file is on disk, or not there.
func receive(ctx context.Context, path string, r io.Reader, announced, most int64, wantMD5 []byte) (n int64, err error) {
	if announced > most {
		return 0, tooLarge(most)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, diskError(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	sum := newMD5()
	n, err = stream(ctx, io.MultiWriter(f, sum), io.LimitReader(r, most+1))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return n, diskError(err)
	}
	switch {
	case n > most:
		return n, tooLarge(most)
	case announced >= 0 && n != announced:
		return n, online.Errorf(online.CodeBadArgument, "Content-Length", "%d bytes were announced and %d came", announced, n)
	case len(wantMD5) > 0 && !bytes.Equal(sum.Sum(nil), wantMD5):
		return n, online.Errorf(online.CodeBadArgument, "Content-MD5", "the bytes that came have another MD5 than was announced")
	}
	return n, diskError(durable.SyncDir(filepath.Dir(path)))
}

func newMD5() hash.Hash { return md5.New() } //nolint:gosec // see the import

func tooLarge(most int64) error {
	return online.Errorf(online.CodeTooLarge, "Content-Length", "more than %d bytes are not taken at once", most)
}
