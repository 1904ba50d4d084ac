package local

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"portico/internal/compute"
	"portico/internal/host"
)

// maxTail bounds LogQuery.Tail: so many lines are held in memory. What asks for more gets this many.
const maxTail = 100_000

// maxLineBytes bounds a line of output; the host splits longer ones before they are written.
const maxLineBytes = 1 << 20

// Logs implements compute.Backend. Lines of several workers are merged by the time that a line begins with; one
// that begins with none (a traceback, output of native code) stays behind the line before it.
func (b *Backend) Logs(_ context.Context, q compute.LogQuery) (io.ReadCloser, error) {
	dirs, err := b.logDirs(q)
	if err != nil {
		return nil, err
	}
	tail := min(max(q.Tail, 0), maxTail)
	m := &merger{}
	for _, dir := range dirs {
		r, err := host.ReadLog(dir, tail)
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing was printed yet
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("read output: %w", err), m.Close())
		}
		m.add(r)
	}
	if tail == 0 {
		return m, nil
	}
	return m.lastLines(tail)
}

// logDirs gives the directories of output that a query is about.
func (b *Backend) logDirs(q compute.LogQuery) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := false
	var records []*instanceRecord
	for _, i := range b.instances {
		records = append(records, &i.record)
	}
	for _, r := range b.past {
		records = append(records, r)
	}
	for _, s := range b.sets {
		known = known || q.Instance == "" && s.record.Template.UID == q.UID
	}
	slices.SortFunc(records, byCreation)
	var dirs []string
	for _, r := range records {
		if r.UID != q.UID || q.Instance != "" && r.ID != q.Instance {
			continue
		}
		known = true
		l := launcher{b: b, instance: r.ID}
		for w := range r.Workers {
			dirs = append(dirs, l.logDir(w))
		}
	}
	if !known {
		return nil, fmt.Errorf("logs of %s: %w", cmp.Or(q.Instance, q.UID), compute.ErrNotFound)
	}
	return dirs, nil
}

// merger merges streams of lines by their times. It is an io.ReadCloser that holds one line of each.
type merger struct {
	inputs []*logInput
	rest   []byte // of the line that is being read out
}

// logInput is one stream with its next line.
type logInput struct {
	file io.Closer
	in   *bufio.Reader
	line []byte
	at   time.Time // of line, or of the newest line before it that had one
}

func (m *merger) add(r io.ReadCloser) {
	m.inputs = append(m.inputs, &logInput{file: r, in: bufio.NewReader(r)})
}

// next gives the earliest line of all, with its end; io.EOF after the last.
func (m *merger) next() ([]byte, error) {
	var first *logInput
	for n := 0; n < len(m.inputs); {
		i := m.inputs[n]
		if i.line == nil {
			if err := i.advance(); errors.Is(err, io.EOF) {
				m.inputs = slices.Delete(m.inputs, n, n+1)
				i.file.Close()
				continue
			} else if err != nil {
				return nil, fmt.Errorf("read output: %w", err)
			}
		}
		if first == nil || i.at.Before(first.at) {
			first = i
		}
		n++
	}
	if first == nil {
		return nil, io.EOF
	}
	line := first.line
	first.line = nil
	return line, nil
}

func (i *logInput) advance() error {
	var line []byte
	for len(line) < maxLineBytes {
		part, err := i.in.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			break
		}
		if errors.Is(err, io.EOF) && len(line) > 0 {
			line = append(line, '\n')
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
	i.line = line
	if at, ok := lineTime(line); ok {
		i.at = at
	}
	return nil
}

// lineTimeLayout is how the worker begins a line: Azure's inference server's format, in UTC.
const lineTimeLayout = "2006-01-02 15:04:05,000"

// lineTime reads the time that a line begins with.
func lineTime(line []byte) (time.Time, bool) {
	if len(line) < len(lineTimeLayout) {
		return time.Time{}, false
	}
	at, err := time.Parse(lineTimeLayout, string(line[:len(lineTimeLayout)]))
	return at, err == nil
}

// Read implements io.Reader.
func (m *merger) Read(p []byte) (int, error) {
	if len(m.rest) == 0 {
		line, err := m.next()
		if err != nil {
			return 0, err
		}
		m.rest = line
	}
	n := copy(p, m.rest)
	m.rest = m.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (m *merger) Close() error {
	var errs []error
	for _, i := range m.inputs {
		errs = append(errs, i.file.Close())
	}
	m.inputs, m.rest = nil, nil
	return errors.Join(errs...)
}

// lastLines reads everything and gives the last n lines.
func (m *merger) lastLines(n int) (io.ReadCloser, error) {
	defer func() { _ = m.Close() }() // what was read is whole already
	var kept [][]byte                // a ring once it is full
	at := 0
	for {
		line, err := m.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if len(kept) < n {
			kept = append(kept, line)
			continue
		}
		kept[at] = line
		at = (at + 1) % n
	}
	text := bytes.Join(slices.Concat(kept[at:], kept[:at]), nil)
	return io.NopCloser(bytes.NewReader(text)), nil
}
