package artifact

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func openLedger(t testing.TB, dir string, maxBytes int64) *Ledger {
	t.Helper()
	l, err := OpenLedger(dir, maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func readLedger(t testing.TB, l *Ledger, name string) string {
	t.Helper()
	_, r, err := l.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestLedgerKeepsLines: what was appended by many at once is there line by line, also for the next process, which ends
// a line that the machine's fall cut.
func TestLedgerKeepsLines(t *testing.T) {
	dir := t.TempDir()
	l := openLedger(t, dir, 1<<20)
	const writers, lines = 8, 100
	var work sync.WaitGroup
	for w := range writers {
		work.Go(func() {
			for i := range lines {
				name := fmt.Sprintf("box/in/%02d/i.jsonl", (w+i)%(ledgerOpenFiles+10)) // more than are kept open
				if err := l.Append(name, fmt.Appendf(nil, "%d %d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, b := range l.List("box/", "", 1000) {
		text := readLedger(t, l, b.Name)
		if int64(len(text)) != b.Size || !strings.HasSuffix(text, "\n") {
			t.Errorf("%s: %d bytes, %d listed", b.Name, len(text), b.Size)
		}
		total += strings.Count(text, "\n")
	}
	if total != writers*lines {
		t.Errorf("%d lines, want %d", total, writers*lines)
	}
	used := l.Used()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	cut := filepath.Join(dir, "box", "in", "00", "i.jsonl")
	before, err := os.ReadFile(cut)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cut, before[:len(before)-2], 0o600); err != nil {
		t.Fatal(err)
	}
	l = openLedger(t, dir, 1<<20)
	if l.Used() != used {
		t.Errorf("%d bytes used after opening again, %d before", l.Used(), used)
	}
	if err := l.Append("box/in/00/i.jsonl", []byte("next")); err != nil {
		t.Fatal(err)
	}
	if got := readLedger(t, l, "box/in/00/i.jsonl"); got != string(before[:len(before)-2])+"\nnext\n" {
		t.Errorf("after a cut line: %q", got)
	}
}

// TestLedgerSyncsWhatIsClosed: a blob whose file made room for others, and one that could not be brought to the disk, is
// brought there later.
func TestLedgerSyncsWhatIsClosed(t *testing.T) {
	dir := t.TempDir()
	l := openLedger(t, dir, 1<<20)
	for i := range ledgerOpenFiles + 3 {
		if err := l.Append(fmt.Sprintf("box/%03d", i), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.unsynced) != 3 {
		t.Errorf("%d closed blobs wait for the disk, want 3", len(l.unsynced))
	}
	if err := l.Delete("box/001"); err != nil {
		t.Fatal(err)
	}
	// Its file cannot be opened for a while.
	at, away := filepath.Join(dir, "box", "000"), filepath.Join(dir, "box", "away")
	if err := errors.Join(os.Rename(at, away), os.Symlink("000", at)); err != nil {
		t.Fatal(err)
	}
	if err := l.Sync(); err == nil || !strings.Contains(err.Error(), "sync box/000") {
		t.Errorf("sync of a blob that cannot be opened: %v", err)
	}
	if _, waits := l.unsynced["box/000"]; !waits || len(l.unsynced) != 1 {
		t.Errorf("after a failure these wait: %v", l.unsynced)
	}
	if err := os.Rename(away, at); err != nil {
		t.Fatal(err)
	}
	if err := l.Sync(); err != nil || len(l.unsynced) != 0 {
		t.Errorf("%v, and these wait: %v", err, l.unsynced)
	}
	// What no longer fits does not lose the mark of what fitted.
	if err := l.Append("box/002", []byte("y")); err != nil {
		t.Fatal(err)
	}
	if err := l.Append("box/002", make([]byte, 1<<20)); !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	if _, waits := l.unsynced["box/002"]; !waits {
		t.Error("a line that was written before is not brought to the disk")
	}
}

// TestLedgerIsBounded: beyond the limit nothing is written, and deleting makes room.
func TestLedgerIsBounded(t *testing.T) {
	l := openLedger(t, t.TempDir(), 3*ledgerBlock)
	line := []byte(strings.Repeat("x", ledgerBlock-1))
	for i := range 3 {
		if err := l.Append(fmt.Sprintf("box/%d", i), line); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"box/0", "box/new"} {
		if err := l.Append(name, []byte("y")); !errors.Is(err, ErrFull) {
			t.Errorf("%s beyond the limit: %v", name, err)
		}
	}
	if _, err := l.Stat("box/new"); !errors.Is(err, ErrNotFound) {
		t.Errorf("what did not fit left a blob: %v", err)
	}
	if err := l.Delete("box/1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Append("box/1", []byte("y")); err != nil || readLedger(t, l, "box/1") != "y\n" {
		t.Errorf("after deleting: %v", err)
	}
}

// TestLedgerRefusesNames: no name leads out of the folder, and a line is one line.
func TestLedgerRefusesNames(t *testing.T) {
	dir := t.TempDir()
	l := openLedger(t, filepath.Join(dir, "l"), 1<<20)
	for _, name := range []string{"box", "../a/b", "box/../../a", "/box/a", "box//a", "box/a\x00", "box/" + strings.Repeat("a", 256)} {
		if err := l.Append(name, []byte("x")); err == nil {
			t.Errorf("%q was written", name)
		}
	}
	if err := l.Append("box/a", []byte("x\ny")); err == nil {
		t.Error("two lines were written as one")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("beside the ledger: %v %v", left, err)
	}
}

// TestLedgerListsInOrder: pages of any size give the names in order, as a sorted list would.
func TestLedgerListsInOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		l := openLedger(t, dir, 1<<30)
		var names []string
		for _, n := range rapid.SliceOfNDistinct(rapid.StringMatching(`c/[ab0-]{1,2}(/[ab.-]?x){0,2}`), 0, 12, rapid.ID[string]).Draw(rt, "names") {
			if l.Append(n, []byte("x")) == nil { // a folder has that name already
				names = append(names, n)
			}
		}
		slices.Sort(names)
		prefix := rapid.StringMatching(`c/[ab0-]?/?`).Draw(rt, "prefix")
		var want, got []string
		for _, n := range names {
			if strings.HasPrefix(n, prefix) {
				want = append(want, n)
			}
		}
		page := rapid.IntRange(1, 4).Draw(rt, "page")
		for after := ""; ; after = got[len(got)-1] {
			blobs := l.List(prefix, after, page)
			for _, b := range blobs {
				got = append(got, b.Name)
			}
			if len(blobs) == 0 {
				break
			}
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("%q lists %v, want %v", prefix, got, want)
		}
	})
}

// TestLedgerBesideUploads: everybody reads the server's blobs except where he has his own; a stranger's upload of the
// name does not stand before the server's, and an import does not see it.
func TestLedgerBesideUploads(t *testing.T) {
	u := stage(t)
	l := openLedger(t, t.TempDir(), 1<<20)
	u.Show(l)
	const name = "box/in/2026/i.jsonl"
	if err := l.Append(name, []byte("server")); err != nil {
		t.Fatal(err)
	}
	if got := readAs(t, u, "ann", name); got != "server\n" {
		t.Errorf("ann reads %q", got)
	}
	putAs(t, u, "bob", name, "bob's", nil, false)
	putAs(t, u, "bob", "box/in/2025/z", "old", nil, false)
	if got := readAs(t, u, "ann", name); got != "server\n" {
		t.Errorf("after bob's upload ann reads %q", got)
	}
	if got := readAs(t, u, "bob", name); got != "bob's" {
		t.Errorf("bob reads %q", got)
	}
	if got := namesAs(u, "ann", "box/"); got != "box/in/2025/z box/in/2026/i.jsonl" {
		t.Errorf("ann lists %q", got)
	}
	if b := u.View("bob").List("box/in/2026", "", 10); len(b) != 1 || b[0].Size != int64(len("bob's")) {
		t.Errorf("bob lists %v", b)
	}
	if err := u.View("ann").Delete(name); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Stat(name); !errors.Is(err, ErrNotFound) {
		t.Errorf("after its deletion: %v", err)
	}
	if got := readAs(t, u, "bob", name); got != "bob's" {
		t.Errorf("ann's deletion took %q", got)
	}
	if err := l.Append("box/only/x", []byte("y")); err != nil {
		t.Fatal(err)
	}
	if _, err := u.View("ann").Source("box/only"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the ledger can be imported: %v", err)
	}
}
