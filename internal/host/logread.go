package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// followPoll is how often a follower looks for more output.
const followPoll = 100 * time.Millisecond

// ReadLog reads the output that is kept in a log directory, from its oldest byte to what is there now. With tail
// above 0 it begins that many lines before the end. The reader must be closed. A directory in which nothing was
// logged gives an error that is fs.ErrNotExist.
func ReadLog(dir string, tail int) (io.ReadCloser, error) {
	files, err := openLogs(dir)
	if err != nil {
		return nil, err
	}
	r, err := newLogReader(files, tail)
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return r, nil
}

// FollowLog reads like ReadLog and then goes on with what is printed later, across rotations, until ctx ends,
// which is the end of the reader (io.EOF).
func FollowLog(ctx context.Context, dir string, tail int) (io.ReadCloser, error) {
	files, err := openLogs(dir)
	if err != nil {
		return nil, err
	}
	r, err := newLogReader(files, tail)
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return &logFollower{ctx: ctx, dir: dir, past: r}, nil
}

// openLogs opens every file of dir, oldest first. A file that is renamed meanwhile is there exactly once.
func openLogs(dir string) ([]*os.File, error) {
	var files []*os.File
	current, err := os.Open(filepath.Join(dir, currentLog))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open log: %w", err)
	}
	numbers, err := logNumbers(dir)
	if err != nil {
		if current != nil {
			_ = current.Close()
		}
		return nil, err
	}
	for _, n := range numbers {
		f, err := os.Open(filepath.Join(dir, fmt.Sprintf("%0*d", logNumberDigits, n)))
		if err != nil {
			continue // deleted by the rotation since it was listed
		}
		if current != nil && sameFile(f, current) {
			_ = current.Close()
			current = nil
		}
		files = append(files, f)
	}
	if current != nil {
		files = append(files, current)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("open log: %s holds none: %w", filepath.Base(dir), fs.ErrNotExist)
	}
	return files, nil
}

func sameFile(a, b *os.File) bool {
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// logReader reads files one after the other, each up to the size that it had at first.
type logReader struct {
	files []*os.File
	ends  []int64
	at    int64 // offset in files[0]
}

func newLogReader(files []*os.File, tail int) (*logReader, error) {
	r := &logReader{files: files}
	for _, f := range files {
		info, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("read log: %w", err)
		}
		r.ends = append(r.ends, info.Size())
	}
	if tail > 0 {
		if err := r.seekTail(tail); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// seekTail moves to the beginning of the tail-th line from the end.
func (r *logReader) seekTail(tail int) error {
	block := make([]byte, 32<<10)
	last := true // the very last byte ends the last line and does not begin another
	for i := len(r.files) - 1; i >= 0; i-- {
		for end := r.ends[i]; end > 0; {
			begin := max(end-int64(len(block)), 0)
			b := block[:end-begin]
			if _, err := r.files[i].ReadAt(b, begin); err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("read log: %w", err)
			}
			if last {
				last = false
				if b[len(b)-1] == '\n' {
					b = b[:len(b)-1]
				}
			}
			for k := bytes.LastIndexByte(b, '\n'); k >= 0; k = bytes.LastIndexByte(b[:k], '\n') {
				if tail--; tail == 0 {
					closeAll(r.files[:i])
					r.files, r.ends, r.at = r.files[i:], r.ends[i:], begin+int64(k)+1
					return nil
				}
			}
			end = begin
		}
	}
	return nil
}

// Read implements io.Reader.
func (r *logReader) Read(p []byte) (int, error) {
	for len(r.files) > 0 {
		if left := r.ends[0] - r.at; left > 0 {
			n, err := r.files[0].ReadAt(p[:min(int64(len(p)), left)], r.at)
			r.at += int64(n)
			if n > 0 {
				return n, nil
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return 0, err
			}
		}
		_ = r.files[0].Close()
		r.files, r.ends, r.at = r.files[1:], r.ends[1:], 0
	}
	return 0, io.EOF
}

// Close implements io.Closer.
func (r *logReader) Close() error {
	closeAll(r.files)
	r.files = nil
	return nil
}

// logFollower reads a snapshot and then its newest file and all that follow.
type logFollower struct {
	ctx  context.Context // the reader's life: io.Reader has no place for it
	dir  string
	past *logReader
	file *os.File
	at   int64
}

// Read implements io.Reader.
func (f *logFollower) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if f.ctx.Err() != nil {
			return 0, io.EOF
		}
		if n, err := f.readPast(p); n > 0 || err != nil {
			return n, err
		}
		rotated, err := f.rotated()
		if err != nil {
			return 0, err
		}
		n, err := f.file.ReadAt(p, f.at)
		f.at += int64(n)
		if n > 0 {
			return n, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if rotated { // nothing is written to it any more, and it was read to its end after that
			if err := f.next(); err != nil {
				return 0, err
			}
			continue
		}
		select {
		case <-time.After(followPoll):
		case <-f.ctx.Done():
		}
	}
}

// readPast reads the snapshot except its newest file, which it then takes over.
func (f *logFollower) readPast(p []byte) (int, error) {
	if f.past == nil {
		return 0, nil
	}
	if len(f.past.files) > 1 {
		if n := int(min(int64(len(p)), f.past.ends[0]-f.past.at)); n > 0 {
			return f.past.Read(p[:n])
		}
		_ = f.past.files[0].Close()
		f.past.files, f.past.ends, f.past.at = f.past.files[1:], f.past.ends[1:], 0
		return f.readPast(p)
	}
	f.file, f.at, f.past = f.past.files[0], f.past.at, nil
	return 0, nil
}

// rotated says whether the file that is read is no longer `current`.
func (f *logFollower) rotated() (bool, error) {
	mine, err := f.file.Stat()
	if err != nil {
		return false, fmt.Errorf("follow log: %w", err)
	}
	now, err := os.Stat(filepath.Join(f.dir, currentLog))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // between two files, or deleted: nothing to go on with yet
	}
	if err != nil {
		return false, fmt.Errorf("follow log: %w", err)
	}
	return !os.SameFile(mine, now), nil
}

// next goes on with the file after the one that was read; when that was deleted, with the oldest that is left.
func (f *logFollower) next() error {
	files, err := openLogs(f.dir)
	if err != nil {
		return err
	}
	pick := 0
	for i, g := range files {
		if sameFile(g, f.file) {
			pick = i + 1
		}
	}
	if pick == len(files) { // deleted from outside while it was looked for: nothing to go on with yet
		closeAll(files)
		return nil
	}
	_ = f.file.Close()
	f.file, f.at = files[pick], 0
	closeAll(files[:pick])
	closeAll(files[pick+1:])
	return nil
}

// Close implements io.Closer.
func (f *logFollower) Close() error {
	if f.past != nil {
		return f.past.Close()
	}
	return f.file.Close()
}
