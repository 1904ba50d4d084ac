package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func reopen(t rapid.TB, j *journal, dir string) *journal {
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	again, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// Whatever was appended is there after reopening, also when the end of the file is torn and when it was compacted.
func TestJournalProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "journal")
		if err != nil {
			rt.Fatal(err)
		}
		j, err := openJournal(dir)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = j.close() }()
		model := map[string]*record{}
		at := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
		rt.Repeat(map[string]func(*rapid.T){
			"start": func(rt *rapid.T) {
				id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "id")
				r := &record{Process: Process{ID: id, PID: rapid.IntRange(1, 9).Draw(rt, "pid"), Started: at}, Mark: "m"}
				copied := *r
				model[id] = &copied
				if err := j.append(entry{Start: r}); err != nil {
					rt.Fatal(err)
				}
			},
			"exit": func(rt *rapid.T) {
				id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "id")
				e := Exit{Code: rapid.IntRange(0, 9).Draw(rt, "code"), At: at}
				if r := model[id]; r != nil {
					r.Exit = &e
				}
				if err := j.append(entry{Exit: &exitEntry{ID: id, Exit: e}}); err != nil {
					rt.Fatal(err)
				}
			},
			"forget": func(rt *rapid.T) {
				id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "id")
				delete(model, id)
				if err := j.append(entry{Forget: id}); err != nil {
					rt.Fatal(err)
				}
			},
			"compact": func(rt *rapid.T) {
				if err := j.rewrite(); err != nil {
					rt.Fatal(err)
				}
			},
			"tear": func(rt *rapid.T) {
				f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_WRONLY|os.O_APPEND, 0)
				if err != nil {
					rt.Fatal(err)
				}
				if _, err := f.WriteString(`{"start":{"id":"torn","pi`); err != nil {
					rt.Fatal(err)
				}
				_ = f.Close()
				j = reopen(rt, j, dir)
			},
			"reopen": func(rt *rapid.T) { j = reopen(rt, j, dir) },
			"": func(rt *rapid.T) {
				if !reflect.DeepEqual(j.records, model) {
					rt.Fatalf("journal %v, model %v", j.records, model)
				}
			},
		})
	})
}

func TestJournalRefusesWhatItDidNotWrite(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, journalName), []byte("no JSON\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(dir); err == nil || !strings.Contains(err.Error(), "entry at byte 0") {
		t.Errorf("error %v", err)
	}
}

func TestJournalStaysBounded(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.close() }()
	j.compact = 200 << 10
	big := strings.Repeat("x", 8<<10)
	for i := range 200 {
		id := fmt.Sprintf("p%d", i%5)
		for _, e := range []entry{{Start: &record{Process: Process{ID: id}}}, {Exit: &exitEntry{ID: id, Exit: Exit{Tail: big}}}} {
			if err := j.append(e); err != nil {
				t.Fatal(err)
			}
		}
		if j.size >= j.compact {
			t.Fatalf("after %d entries the journal has %d bytes", i, j.size)
		}
		j.compact = min(j.compact, j.size+200<<10)
	}
	info, err := os.Stat(j.path)
	if err != nil || info.Size() > 400<<10 || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if len(j.records) != 5 {
		t.Errorf("%d records", len(j.records))
	}
	huge := &record{Process: Process{ID: "huge", Labels: map[string]string{"x": strings.Repeat("x", maxRecordBytes)}}}
	if err := j.append(entry{Start: huge}); !errors.Is(err, ErrLimit) || j.records["huge"] != nil {
		t.Errorf("a record that is too long: %v", err)
	}
}

func TestOldExitsAreDropped(t *testing.T) {
	j := &journal{records: map[string]*record{}}
	at := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	for i := range maxExitsKept + 3 {
		id := fmt.Sprintf("p%d", i)
		j.records[id] = &record{Process: Process{ID: id, Exit: &Exit{At: at.Add(time.Duration(i))}}}
	}
	j.records["runs"] = &record{Process: Process{ID: "runs"}}
	if got := j.surplus(); !reflect.DeepEqual(got, []string{"p0", "p1", "p2"}) {
		t.Errorf("surplus %v", got)
	}
}
