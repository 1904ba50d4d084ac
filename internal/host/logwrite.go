package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Bounds of a process's output.
const (
	DefaultLogFileBytes = 8 << 20  // size at which a file is rotated
	DefaultLogFiles     = 4        // files kept, with the one being written
	MaxLineBytes        = 64 << 10 // longer lines are split
	ExitTailBytes       = 8 << 10  // of the output, kept with an exit
	exitTailLines       = 50
	minLogFileBytes     = 4 << 10
)

const (
	currentLog            = "current"
	logFileMode           = fs.FileMode(0o640)
	logDirMode            = fs.FileMode(0o750)
	logNumberDigits       = 8
	noteLost              = "[portico] %d bytes of output were lost: %v\n"
	noteEnded             = "[portico] the process %s\n"
	maxLogFiles           = 1000
	maxLogFileBytes int64 = 1 << 40
)

// logWriter writes what a process prints into `current`, and renames it to the next number at a line's end when
// it is full. It never fails: output that cannot be written is counted, and a note says so once writing works
// again. One goroutine uses it at a time. The zero directory drops everything but the tail.
type logWriter struct {
	dir       string
	fileBytes int64
	files     int

	file   *os.File
	size   int64
	number int   // of the next rotated file
	column int   // bytes since the last line's end
	lost   int64 // bytes since the last successful write
	why    error // of lost
	tail   []byte
}

func newLogWriter(spec LogSpec) (*logWriter, error) {
	w := &logWriter{dir: spec.Dir, fileBytes: spec.FileBytes, files: spec.Files, number: 1}
	if w.fileBytes == 0 {
		w.fileBytes = DefaultLogFileBytes
	}
	w.fileBytes = min(max(w.fileBytes, minLogFileBytes), maxLogFileBytes)
	if w.files == 0 {
		w.files = DefaultLogFiles
	}
	w.files = min(max(w.files, 1), maxLogFiles)
	if w.dir == "" {
		return w, nil
	}
	if err := os.MkdirAll(w.dir, logDirMode); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	numbers, err := logNumbers(w.dir)
	if err != nil {
		return nil, err
	}
	if n := len(numbers); n > 0 {
		w.number = numbers[n-1] + 1
	}
	if err := w.open(); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return w, nil
}

func (w *logWriter) open() error {
	f, err := os.OpenFile(filepath.Join(w.dir, currentLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, logFileMode)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	w.file, w.size = f, info.Size()
	return nil
}

// write takes the next bytes that the process printed.
func (w *logWriter) write(p []byte) {
	w.keepTail(p)
	if w.dir == "" {
		return
	}
	for len(p) > 0 {
		n, cut := nextCut(p, w.column)
		part := p[:n]
		p = p[n:]
		w.append(part)
		if cut {
			w.append([]byte{'\n'})
		}
	}
}

// nextCut says how many bytes of p can be written before a line that began column bytes ago gets too long, and
// whether the line must be cut there.
func nextCut(p []byte, column int) (n int, cut bool) {
	for n < len(p) {
		i := bytes.IndexByte(p[n:], '\n')
		line := i
		if i < 0 {
			line = len(p) - n
		}
		if column+line > MaxLineBytes {
			return n + MaxLineBytes - column, true
		}
		if i < 0 {
			break
		}
		n += i + 1
		column = 0
	}
	return len(p), false
}

// append writes whole bytes and rotates at the last line's end that still fits.
func (w *logWriter) append(p []byte) {
	for len(p) > 0 {
		part := p
		if w.size+int64(len(p)) > w.fileBytes {
			room := max(w.fileBytes-w.size, 0)
			if i := bytes.LastIndexByte(p[:min(room, int64(len(p)))], '\n'); i >= 0 {
				part = p[:i+1] // up to the last end that fits
			} else if w.size > 0 && w.column == 0 {
				part = nil // the line begins in the next file
			} else if i := bytes.IndexByte(p, '\n'); i >= 0 {
				part = p[:i+1] // the line that runs is finished first: it is at most MaxLineBytes long
			}
		}
		w.put(part)
		p = p[len(part):]
		if len(p) > 0 && !w.rotate() { // not before there is more to write: the newest output stays readable
			w.put(p)
			return
		}
	}
}

func (w *logWriter) put(p []byte) {
	if len(p) == 0 {
		return
	}
	if i := bytes.LastIndexByte(p, '\n'); i >= 0 {
		w.column = len(p) - i - 1
	} else {
		w.column += len(p)
	}
	if w.lost > 0 {
		note := fmt.Appendf(nil, noteLost, w.lost, errors.Unwrap(w.why))
		if n, err := w.writeFile(note); err != nil {
			w.size += int64(n)
			w.lost += int64(len(p))
			return
		}
		w.size += int64(len(note))
		w.lost, w.why = 0, nil
	}
	n, err := w.writeFile(p)
	w.size += int64(n)
	if err != nil {
		w.lost += int64(len(p) - n)
		w.why = err
	}
}

func (w *logWriter) writeFile(p []byte) (int, error) {
	if w.file == nil {
		if err := w.open(); err != nil {
			return 0, err
		}
	}
	return w.file.Write(p)
}

// rotate gives current the next number and deletes what is beyond the number of files. When that fails the file
// goes on growing: losing output would be worse, and the next line tries again.
func (w *logWriter) rotate() bool {
	if w.file == nil {
		return false
	}
	name := fmt.Sprintf("%0*d", logNumberDigits, w.number)
	if os.Rename(filepath.Join(w.dir, currentLog), filepath.Join(w.dir, name)) != nil {
		return false
	}
	w.number++
	_ = w.file.Close()
	w.file, w.size = nil, 0
	numbers, err := logNumbers(w.dir)
	if err != nil {
		return true
	}
	for len(numbers) > w.files-1 {
		_ = os.Remove(filepath.Join(w.dir, fmt.Sprintf("%0*d", logNumberDigits, numbers[0])))
		numbers = numbers[1:]
	}
	return true
}

func (w *logWriter) keepTail(p []byte) {
	if len(p) >= ExitTailBytes {
		w.tail = append(w.tail[:0], p[len(p)-ExitTailBytes:]...)
		return
	}
	if over := len(w.tail) + len(p) - ExitTailBytes; over > 0 {
		w.tail = w.tail[:copy(w.tail, w.tail[over:])]
	}
	w.tail = append(w.tail, p...)
}

// ended notes below the last line how the process ended, for who reads its output. What ended in order needs no note.
func (w *logWriter) ended(e Exit) {
	if w.dir == "" || e.Code == 0 {
		return
	}
	how := fmt.Sprintf("exited with status %d", e.Code)
	switch {
	case e.OOMKilled:
		how = "was killed because it used more memory than its limit"
	case e.Signal != 0:
		how = fmt.Sprintf("was ended by signal %d (%s)", e.Signal, syscall.Signal(e.Signal))
	}
	if w.column > 0 {
		w.append([]byte{'\n'})
	}
	w.append(fmt.Appendf(nil, noteEnded, how))
	w.close()
}

// lastLines is the end of the output: whole lines where the bound allows it, in valid UTF-8.
func (w *logWriter) lastLines() string {
	t := w.tail
	if len(t) == ExitTailBytes {
		if i := bytes.IndexByte(t, '\n'); i >= 0 && i < len(t)-1 {
			t = t[i+1:]
		}
	}
	end := len(bytes.TrimRight(t, "\n"))
	for i, lines := end-1, 0; i >= 0; i-- {
		if t[i] == '\n' {
			if lines++; lines == exitTailLines {
				t = t[i+1:]
				break
			}
		}
	}
	return string(bytes.ToValidUTF8(t, []byte("?")))
}

func (w *logWriter) close() {
	if w.file != nil {
		_ = w.file.Close()
		w.file = nil
	}
}

// logNumbers lists the rotated files of dir, oldest first.
func logNumbers(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir) // sorted by name, and so by number
	if err != nil {
		return nil, fmt.Errorf("list log directory: %w", err)
	}
	var numbers []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n > 0 && len(e.Name()) == logNumberDigits {
			numbers = append(numbers, n)
		}
	}
	return numbers, nil
}
