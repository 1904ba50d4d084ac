package host

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// fileBytesOf is what the files of a log directory hold, oldest first, and how many there are.
func fileBytesOf(t rapid.TB, dir string) (string, int) {
	r, err := ReadLog(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return string(text), len(entries)
}

// Whatever is printed, in whatever pieces: nothing is lost but what the number of files drops, lines are cut only
// at the bound, files end at lines' ends, and no file is longer than its size and a line.
func TestLogWriterProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := filepath.Join(t.TempDir(), rapid.StringMatching(`[a-z]{12}`).Draw(rt, "dir"))
		spec := LogSpec{Dir: dir, FileBytes: rapid.Int64Range(minLogFileBytes, 3*minLogFileBytes).Draw(rt, "size"), Files: rapid.IntRange(1, 6).Draw(rt, "files")}
		w, err := newLogWriter(spec)
		if err != nil {
			rt.Fatal(err)
		}
		var all bytes.Buffer
		for range rapid.IntRange(1, 30).Draw(rt, "writes") {
			n := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 2*minLogFileBytes), rapid.Just(MaxLineBytes+10)).Draw(rt, "length")
			piece := bytes.Repeat([]byte{byte('a' + all.Len()%26)}, n)
			for range rapid.IntRange(0, 5).Draw(rt, "lines") {
				if n > 0 {
					piece[rapid.IntRange(0, n-1).Draw(rt, "end")] = '\n'
				}
			}
			all.Write(piece)
			w.write(piece)
		}
		tail := w.lastLines()
		w.close()
		want := cutLines(all.String())
		got, files := fileBytesOf(rt, dir)
		if !strings.HasSuffix(want, got) {
			rt.Fatalf("%d bytes are kept that were not printed like this", len(got))
		}
		if got == "" && want != "" {
			rt.Fatalf("nothing is kept of %d bytes", len(want))
		}
		if files > spec.Files {
			rt.Fatalf("%d files, allowed are %d", files, spec.Files)
		}
		if len(want) < int(spec.FileBytes) && got != want {
			rt.Fatalf("%d of %d bytes are kept although one file holds them", len(got), len(want))
		}
		if files < spec.Files && got != want {
			rt.Fatalf("bytes were dropped although only %d of %d files exist", files, spec.Files)
		}
		checkFiles(rt, dir, spec.FileBytes)
		if !strings.HasSuffix(strings.TrimRight(want, "\n"), strings.TrimRight(tail, "\n")) && len(all.String()) < MaxLineBytes {
			rt.Fatalf("the tail is not the end of the output: %q", tail)
		}
		if len(tail) > ExitTailBytes || strings.Count(strings.TrimRight(tail, "\n"), "\n") >= exitTailLines {
			rt.Fatalf("the tail has %d bytes", len(tail))
		}
	})
}

func checkFiles(t rapid.TB, dir string, size int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(text)) > size+MaxLineBytes+1 {
			t.Fatalf("%s has %d bytes", e.Name(), len(text))
		}
		if e.Name() != currentLog && !bytes.HasSuffix(text, []byte("\n")) {
			t.Fatalf("%s ends inside a line", e.Name())
		}
	}
}

// cutLines is the rule for long lines, written plainly.
func cutLines(s string) string {
	var b strings.Builder
	column := 0
	for i := range len(s) {
		if column == MaxLineBytes && s[i] != '\n' {
			b.WriteByte('\n')
			column = 0
		}
		b.WriteByte(s[i])
		if column++; s[i] == '\n' {
			column = 0
		}
	}
	return b.String()
}

func TestReadLogTail(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := filepath.Join(t.TempDir(), rapid.StringMatching(`[a-z]{12}`).Draw(rt, "dir"))
		w, err := newLogWriter(LogSpec{Dir: dir, FileBytes: minLogFileBytes, Files: 100})
		if err != nil {
			rt.Fatal(err)
		}
		var lines []string
		for i := range rapid.IntRange(1, 200).Draw(rt, "lines") {
			lines = append(lines, fmt.Sprintf("%d %s\n", i, strings.Repeat("x", rapid.IntRange(0, 400).Draw(rt, "length"))))
		}
		if rapid.Bool().Draw(rt, "unfinished") {
			lines[len(lines)-1] = "unfinished"
		}
		w.write([]byte(strings.Join(lines, "")))
		w.close()
		tail := rapid.IntRange(1, 250).Draw(rt, "tail")
		r, err := ReadLog(dir, tail)
		if err != nil {
			rt.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil {
			rt.Fatal(err)
		}
		_ = r.Close()
		if want := strings.Join(lines[max(len(lines)-tail, 0):], ""); string(got) != want {
			rt.Fatalf("last %d of %d lines: got %d bytes, want %d", tail, len(lines), len(got), len(want))
		}
	})
}

func TestReadLogOfNothing(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing")} {
		if _, err := ReadLog(dir, 0); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
}

// A follower sees every line once and in order while files rotate under it.
func TestFollowLogAcrossRotations(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w, err := newLogWriter(LogSpec{Dir: dir, FileBytes: minLogFileBytes, Files: maxLogFiles})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	line := func(i int) string { return fmt.Sprintf("line %06d %s\n", i, strings.Repeat("x", i%90)) }
	const before, after = 500, 3000
	for i := range before {
		w.write([]byte(line(i)))
	}
	ctx, cancel := context.WithCancel(testContext(t))
	f, err := FollowLog(ctx, dir, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	go func() {
		for i := before; i < before+after; i++ {
			w.write([]byte(line(i)))
			if i%100 == 0 {
				time.Sleep(time.Millisecond) // so that the follower is caught at ends as well as in the middle
			}
		}
	}()
	r := bufio.NewReader(f)
	for i := before - 10; i < before+after; i++ {
		got, err := r.ReadString('\n')
		if err != nil || got != line(i) {
			t.Fatalf("line %d: %q, %v", i, got, err)
		}
	}
	cancel()
	if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

func TestLogGoesOnAfterRestart(t *testing.T) {
	r := newRig(t)
	spec := r.shell("again", "echo first")
	r.run(spec)
	spec.Argv[2] = "echo second; printf unfinished"
	r.run(spec)
	if got := r.output("again"); got != "first\nsecond\nunfinished" {
		t.Errorf("output %q", got)
	}
}

func TestTwoProcessesDoNotShareALog(t *testing.T) {
	r := newRig(t)
	r.start(r.shell("one", "sleep 1000"))
	two := r.shell("two", "exit 0")
	two.Log.Dir = filepath.Join(r.cfg.DataDir, "log", "one")
	if _, err := r.Start(r.ctx, two); !errors.Is(err, ErrBadRequest) {
		t.Error(err)
	}
}

// What cannot be written is counted and told, and never stops the process or the supervisor.
func TestLogThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w, err := newLogWriter(LogSpec{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	w.write([]byte("before\n"))
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full on this platform")
	}
	kept := w.file
	w.file = full
	w.write([]byte("lost\n"))
	w.write([]byte("lost too\n"))
	w.file = kept
	_ = full.Close()
	w.write([]byte("after\n"))
	if got := readLog(t, dir, 0); got != "before\n[portico] 14 bytes of output were lost: no space left on device\nafter\n" {
		t.Errorf("log %q", got)
	}
	if got := w.lastLines(); got != "before\nlost\nlost too\nafter\n" {
		t.Errorf("tail %q", got)
	}
}
