package local

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"portico/internal/compute"
	"portico/internal/online"
)

// maskSealer is enough of a sealer to see that what lies on disk went through it, under the right purpose.
type maskSealer struct{}

func (maskSealer) Seal(purpose string, clear []byte) ([]byte, error) {
	out := []byte(purpose + "\x00")
	for _, c := range clear {
		out = append(out, ^c)
	}
	return out, nil
}

func (maskSealer) Open(purpose string, sealed []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(sealed, []byte(purpose+"\x00"))
	if !ok {
		return nil, errors.New("sealed for another purpose")
	}
	out := make([]byte, len(rest))
	for i, c := range rest {
		out[i] = ^c
	}
	return out, nil
}

func TestSetRecordRoundTrip(t *testing.T) {
	dir := t.TempDir()
	f, err := newFiles(dir, maskSealer{})
	if err != nil {
		t.Fatal(err)
	}
	probe := online.DefaultProbe()
	want := setRecord{Count: 3, Template: compute.Template{
		Set: "blue-1", Generation: 7, Digest: "d", Endpoint: "shop", Deployment: "blue", UID: "u", Type: online.AzureTypes()[0],
		DeploymentID: online.WorkspaceID{Subscription: "s", ResourceGroup: "g", Name: "w"}.Deployment("shop", "blue"),
		Python:       "/venv/bin/python", EnvironmentID: "e", CodeDir: "/code", ScoringScript: "score.py", ModelDir: "/model",
		ModelDigest: "m", Variables: map[string]online.Secret{"PASSWORD": "hunter2-in-the-clear"}, Workers: 2, MaxConcurrent: 3,
		RequestTimeout: 5 * time.Second, Liveness: probe, Readiness: probe, Startup: &probe,
	}}
	if err := f.putSet(&want); err != nil {
		t.Fatal(err)
	}
	if want.Template.Variables["PASSWORD"] == "" {
		t.Error("writing a set emptied its variables")
	}
	got, err := f.sets()
	if err != nil || len(got) != 1 || !reflect.DeepEqual(*got[0], want) {
		t.Fatalf("read %+v, %v", got, err)
	}
	text, err := os.ReadFile(f.setPath("blue-1"))
	if err != nil || bytes.Contains(text, []byte("hunter2")) {
		t.Errorf("the variable lies in the clear (%v):\n%s", err, text)
	}
	if info, err := os.Stat(f.setPath("blue-1")); err != nil || info.Mode().Perm() != filePrivate {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := errors.Join(f.removeSet("blue-1"), f.removeSet("blue-1")); err != nil {
		t.Error(err)
	}
	if got, err := f.sets(); err != nil || len(got) != 0 {
		t.Errorf("after the removal: %v, %v", got, err)
	}
}

func TestInstanceRecords(t *testing.T) {
	f, err := newFiles(t.TempDir(), maskSealer{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	second := instanceRecord{
		ID: "s-b", Set: "s", UID: "u", Number: 10, Created: now, GPUs: []int{1}, Workers: []workerRecord{{Starts: 4, Resumed: 1}, {}},
		Exit: &compute.Exit{Code: 3, Reason: "why", At: now},
	}
	first := instanceRecord{ID: "s-a", Set: "s", UID: "u", Number: 9, Created: now, Workers: []workerRecord{{Starts: 1}}}
	for _, r := range []instanceRecord{second, first} {
		if err := f.putInstance(&r); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(f.instanceDir("left-by-a-crash"), 0o700); err != nil {
		t.Fatal(err)
	}
	got, err := f.instances()
	if err != nil || len(got) != 2 || !reflect.DeepEqual(*got[0], first) || !reflect.DeepEqual(*got[1], second) {
		t.Fatalf("read %+v, %v", got, err)
	}
	if _, err := os.Stat(f.instanceDir("left-by-a-crash")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory without a record is still there: %v", err)
	}
	if n := second.restarts(); n != 2 {
		t.Errorf("4 starts, 1 of them after a stop of the server, are %d restarts, want 2", n)
	}
	if names, err := filepath.Glob(filepath.Join(f.root, "*", "*.new-*")); err != nil || len(names) > 0 {
		t.Errorf("left over: %v, %v", names, err)
	}
}

func TestExpired(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
		keep, perUID := time.Duration(rapid.IntRange(1, 50).Draw(t, "keep"))*time.Hour, rapid.IntRange(1, 4).Draw(t, "per")
		var ended []*instanceRecord
		for n := range rapid.IntRange(0, 20).Draw(t, "n") {
			ended = append(ended, &instanceRecord{
				ID: string(rune('a' + n)), UID: rapid.SampledFrom([]string{"u", "v"}).Draw(t, "uid"),
				Ended: now.Add(-time.Duration(rapid.IntRange(0, 100).Draw(t, "age")) * time.Hour),
			})
		}
		gone := map[string]bool{}
		for _, id := range expired(ended, now, keep, perUID) {
			gone[id] = true
		}
		kept := map[string]int{}
		for _, r := range ended {
			if gone[r.ID] {
				continue
			}
			kept[r.UID]++
			if now.Sub(r.Ended) > keep {
				t.Fatalf("%+v is too old", r)
			}
			for _, o := range ended {
				if gone[o.ID] && o.UID == r.UID && o.Ended.After(r.Ended) {
					t.Fatalf("%+v was kept and the newer %+v was not", r, o)
				}
			}
		}
		for _, r := range ended {
			if gone[r.ID] && now.Sub(r.Ended) <= keep && kept[r.UID] < perUID {
				t.Fatalf("%+v went although only %d of its deployment are kept", r, kept[r.UID])
			}
		}
		if kept["u"] > perUID || kept["v"] > perUID {
			t.Fatalf("kept %v, at most %d each", kept, perUID)
		}
	})
}
