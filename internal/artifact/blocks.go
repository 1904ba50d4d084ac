package artifact

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"portico/internal/durable"
	"portico/internal/online"
)

// Bounds of blobs that are sent in blocks, as Azure's.
const (
	MaxBlocks       = 50_000             // of one blob
	MaxBlockIDBytes = 64                 // decoded
	BlockLifetime   = 7 * 24 * time.Hour // of a block that is not committed
)

// Block is a part of a blob.
type Block struct {
	ID   string // base64, as the client gave it
	Size int64
}

// BlockOptions say what was announced of a block; see PutOptions.
type BlockOptions struct {
	Size     int64
	MaxBytes int64
	MD5      []byte
}

// BlockSource says where CommitBlocks looks for a block.
type BlockSource int

// The three words of a block list.
const (
	BlockLatest BlockSource = iota // the uncommitted one, else the committed one
	BlockUncommitted
	BlockCommitted
)

// BlockRef names one block of a list.
type BlockRef struct {
	ID   string
	From BlockSource
}

// CommitOptions say what the committed blob is; see PutOptions. MD5 is only kept: nobody sends the whole here.
type CommitOptions struct {
	ContentType string
	MD5         []byte
	Metadata    map[string]string
	OnlyNew     bool
}

// PutBlock writes one block of a blob to come. The same id again replaces it. Errors: online.Error, ErrFull.
func (u *Uploads) PutBlock(ctx context.Context, name, id string, r io.Reader, o BlockOptions) error {
	if err := checkBlobName(name); err != nil {
		return fmt.Errorf("put block: %w", err)
	}
	if raw, err := base64.StdEncoding.DecodeString(id); err != nil || len(raw) == 0 || len(raw) > MaxBlockIDBytes {
		return fmt.Errorf("put block of %s: %w", name,
			online.Errorf(online.CodeBadArgument, "blockid", "block id %.100q is not base64 of 1 to %d bytes", id, MaxBlockIDBytes))
	}
	part := u.data(rand.Text()) // beside the bytes of blobs: what is left over there goes at the next start
	if _, err := receive(ctx, part, r, o.Size, o.MaxBytes, o.MD5); err != nil {
		return fmt.Errorf("put block of %s: %w", name, err)
	}
	if err := u.placeBlock(part, name, id); err != nil {
		return fmt.Errorf("put block of %s: %w", name, errors.Join(diskError(err), os.Remove(part)))
	}
	return nil
}

func (u *Uploads) placeBlock(part, name, id string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	dir := u.blockDir(name)
	if err := os.Mkdir(dir, 0o700); err == nil {
		if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	held, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(held) >= MaxBlocks {
		return online.Errorf(online.CodeBadArgument, "blockid", "a blob has at most %d blocks", MaxBlocks)
	}
	if err := os.Rename(part, filepath.Join(dir, blockFile(id))); err != nil {
		return err
	}
	return durable.SyncDir(dir)
}

// Blocks lists a blob's blocks: those that it consists of, in order, and those that wait, by id. A name that
// has neither answers ErrNotFound.
func (u *Uploads) Blocks(name string) (committed, uncommitted []Block, err error) {
	if err := checkBlobName(name); err != nil {
		return nil, nil, fmt.Errorf("list blocks: %w", err)
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	rec, exists := u.blobs[name]
	if exists {
		committed = slices.Clone(rec.Blocks)
	}
	waiting, err := u.waiting(name)
	if err != nil {
		return nil, nil, fmt.Errorf("list blocks of %s: %w", name, err)
	}
	if !exists && len(waiting) == 0 {
		return nil, nil, fmt.Errorf("list blocks of %s: %w", name, ErrNotFound)
	}
	for _, id := range slices.Sorted(maps.Keys(waiting)) {
		uncommitted = append(uncommitted, Block{ID: id, Size: waiting[id]})
	}
	return committed, uncommitted, nil
}

// waiting gives the sizes of the uncommitted blocks of a name. mu is held.
func (u *Uploads) waiting(name string) (map[string]int64, error) {
	files, err := os.ReadDir(u.blockDir(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	out := make(map[string]int64, len(files))
	for _, f := range files {
		id, err := hex.DecodeString(f.Name())
		if err != nil {
			return nil, fmt.Errorf("block file %s: %w", f.Name(), err)
		}
		info, err := f.Info()
		if err != nil {
			return nil, err
		}
		out[string(id)] = info.Size()
	}
	return out, nil
}

// piece is where the bytes of one listed block lie.
type piece struct {
	file   string
	offset int64
	size   int64
}

// CommitBlocks makes a blob of the listed blocks, in this order; what waits and is not listed goes. Errors:
// online.Error (a block that is not there), ErrExists, ErrFull.
func (u *Uploads) CommitBlocks(ctx context.Context, name string, list []BlockRef, o CommitOptions) (Blob, error) {
	if err := u.check(name, o.Metadata, o.OnlyNew); err != nil {
		return Blob{}, fmt.Errorf("commit blocks: %w", err)
	}
	if len(list) > MaxBlocks {
		return Blob{}, fmt.Errorf("commit blocks of %s: %w", name,
			online.Errorf(online.CodeBadArgument, "blocklist", "%d blocks are more than %d", len(list), MaxBlocks))
	}
	pieces, blocks, err := u.resolve(name, list)
	if err != nil {
		return Blob{}, fmt.Errorf("commit blocks of %s: %w", name, err)
	}
	file := rand.Text()
	size, err := u.join(ctx, file, pieces)
	if err != nil {
		return Blob{}, fmt.Errorf("commit blocks of %s: %w", name, diskError(err))
	}
	rec := &record{File: file, Blob: Blob{Name: name, Size: size, ContentType: o.ContentType, MD5: o.MD5,
		Metadata: maps.Clone(o.Metadata), Blocks: blocks}}
	if err := u.replace(rec, o.OnlyNew); err != nil {
		return Blob{}, fmt.Errorf("commit blocks of %s: %w", name, errors.Join(err, os.Remove(u.data(file))))
	}
	return rec.view(), nil
}

func (u *Uploads) resolve(name string, list []BlockRef) ([]piece, []Block, error) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	waiting, err := u.waiting(name)
	if err != nil {
		return nil, nil, err
	}
	held := map[string]piece{}
	if rec, ok := u.blobs[name]; ok {
		var offset int64
		for _, b := range rec.Blocks {
			held[b.ID] = piece{file: u.data(rec.File), offset: offset, size: b.Size}
			offset += b.Size
		}
	}
	pieces, blocks := make([]piece, 0, len(list)), make([]Block, 0, len(list))
	for _, ref := range list {
		size, found := waiting[ref.ID]
		p := piece{file: filepath.Join(u.blockDir(name), blockFile(ref.ID)), size: size}
		if ref.From == BlockCommitted || ref.From == BlockLatest && !found {
			p, found = held[ref.ID]
		}
		if !found {
			return nil, nil, online.Errorf(online.CodeBadArgument, "blocklist", "block %.100q was not sent", ref.ID)
		}
		pieces, blocks = append(pieces, p), append(blocks, Block{ID: ref.ID, Size: p.size})
	}
	return pieces, blocks, nil
}

// join writes the pieces into one new file. A piece that changes meanwhile is an error of the client that sends
// and commits one blob at once; it is noticed by its size, or it is one of the two states that were sent.
func (u *Uploads) join(ctx context.Context, file string, pieces []piece) (size int64, err error) {
	f, err := os.OpenFile(u.data(file), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(u.data(file)))
		}
	}()
	for _, p := range pieces {
		if err := p.appendTo(ctx, f); err != nil {
			return 0, errors.Join(err, f.Close())
		}
		size += p.size
	}
	return size, errors.Join(f.Sync(), f.Close(), durable.SyncDir(filepath.Join(u.dir, dataName)))
}

func (p piece) appendTo(ctx context.Context, to io.Writer) error {
	from, err := os.Open(p.file)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }() // it was only read
	n, err := stream(ctx, to, io.NewSectionReader(from, p.offset, p.size))
	if err == nil && n != p.size {
		err = online.Errorf(online.CodeConflict, "blocklist", "a block was replaced while it was committed")
	}
	return err
}

// Expire removes the blocks of blobs that got none for BlockLifetime and gives how many blobs that were.
func (u *Uploads) Expire(ctx context.Context) (int, error) {
	dirs, err := os.ReadDir(filepath.Join(u.dir, blocksName))
	if err != nil {
		return 0, fmt.Errorf("expire blocks: %w", err)
	}
	expired := 0
	for _, d := range dirs {
		if err := ctx.Err(); err != nil {
			return expired, fmt.Errorf("expire blocks: %w", err)
		}
		gone, err := u.expire(d)
		if err != nil {
			return expired, fmt.Errorf("expire blocks: %w", err)
		}
		if gone {
			expired++
		}
	}
	return expired, nil
}

func (u *Uploads) expire(dir fs.DirEntry) (bool, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	info, err := dir.Info() // its time is that of the newest block
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || u.now().Sub(info.ModTime()) < BlockLifetime {
		return false, err
	}
	return true, os.RemoveAll(filepath.Join(u.dir, blocksName, dir.Name()))
}

func (u *Uploads) blockDir(name string) string { return filepath.Join(u.dir, blocksName, hashed(name)) }

func blockFile(id string) string { return hex.EncodeToString([]byte(id)) }
