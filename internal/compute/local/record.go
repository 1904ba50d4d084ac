package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"portico/internal/compute"
	"portico/internal/durable"
	"portico/internal/online"
)

// Where the engine's files are, below the data directory.
const (
	setsDir      = "sets"      // <set>.json
	instancesDir = "instances" // <instance>/instance.json, and the output of its workers
	recordName   = "instance.json"
)

const (
	filePrivate fs.FileMode = 0o600
	dirPrivate  fs.FileMode = 0o700
	dirReadable fs.FileMode = 0o755
)

// setRecord is a set on disk.
type setRecord struct {
	Template compute.Template `json:"template"` // Variables left out
	// Sealed are the template's variables: a JSON object, sealed under purpose.
	Sealed   []byte `json:"sealed,omitempty"`
	Count    int    `json:"count"`
	Deleting bool   `json:"deleting,omitempty"`
}

func purpose(set string) string { return "compute/local/set/" + set }

// instanceRecord is an instance on disk. It stays after the instance's end for as long as its output is kept.
type instanceRecord struct {
	ID       string              `json:"id"`
	Set      string              `json:"set"`
	UID      string              `json:"uid"` // of the deployment
	Type     online.InstanceType `json:"type"`
	Number   int64               `json:"number"` // order of creation within its set
	Created  time.Time           `json:"created"`
	Started  time.Time           `json:"started,omitzero"` // first start of a process
	Ready    time.Time           `json:"ready,omitzero"`
	Ended    time.Time           `json:"ended,omitzero"`
	Draining bool                `json:"draining,omitempty"`
	GPUs     []int               `json:"gpus,omitempty"`
	Ports    map[int]int         `json:"ports,omitempty"` // that stand in for those which a custom server declares
	Exit     *compute.Exit       `json:"exit,omitempty"`
	Workers  []workerRecord      `json:"workers"`
}

// workerRecord counts the processes of one worker.
type workerRecord struct {
	Starts  int  `json:"starts"`            // processes that were started, ever
	Told    int  `json:"told,omitempty"`    // the newest start whose exit was taken note of
	Stopped bool `json:"stopped,omitempty"` // its process was ended together with the server: the next is no restart
	Resumed int  `json:"resumed,omitempty"` // starts after such an end
}

// restarts is how many processes were started again.
func (r *instanceRecord) restarts() int {
	n := 0
	for _, w := range r.Workers {
		n += max(w.Starts-w.Resumed-1, 0)
	}
	return n
}

// files reads and writes the engine's records.
type files struct {
	root   string
	sealer Sealer
}

func newFiles(dataDir string, sealer Sealer) (*files, error) {
	f := &files{root: dataDir, sealer: sealer}
	for _, dir := range []string{setsDir, instancesDir} {
		if err := os.MkdirAll(filepath.Join(dataDir, dir), dirPrivate); err != nil {
			return nil, fmt.Errorf("make directory of the engine: %w", err)
		}
	}
	return f, nil
}

func (f *files) setPath(set string) string { return filepath.Join(f.root, setsDir, set+".json") }

func (f *files) instanceDir(instance string) string {
	return filepath.Join(f.root, instancesDir, instance)
}

func (f *files) putSet(s *setRecord) error {
	r := *s
	if len(r.Template.Variables) > 0 {
		clear := map[string]string{}
		for name, value := range r.Template.Variables {
			clear[name] = value.Reveal()
		}
		text, err := json.Marshal(clear)
		if err != nil {
			return fmt.Errorf("encode variables: %w", err)
		}
		if r.Sealed, err = f.sealer.Seal(purpose(r.Template.Set), text); err != nil {
			return fmt.Errorf("seal variables of set %s: %w", r.Template.Set, err)
		}
	}
	r.Template.Variables = nil
	if err := putJSON(f.setPath(r.Template.Set), &r); err != nil {
		return fmt.Errorf("write set %s: %w", r.Template.Set, err)
	}
	return nil
}

func (f *files) removeSet(set string) error {
	if err := os.Remove(f.setPath(set)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove set %s: %w", set, err)
	}
	return durable.SyncDir(filepath.Join(f.root, setsDir))
}

// sets reads all sets.
func (f *files) sets() ([]*setRecord, error) {
	entries, err := os.ReadDir(filepath.Join(f.root, setsDir))
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	var all []*setRecord
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		s := &setRecord{}
		if err := getJSON(f.setPath(id), s); err != nil {
			return nil, fmt.Errorf("read set %s: %w", id, err)
		}
		if err := f.unseal(s); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (f *files) unseal(s *setRecord) error {
	s.Template.Variables = map[string]online.Secret{}
	if len(s.Sealed) == 0 {
		return nil
	}
	text, err := f.sealer.Open(purpose(s.Template.Set), s.Sealed)
	if err != nil {
		return fmt.Errorf("unseal variables of set %s: %w", s.Template.Set, err)
	}
	clear := map[string]string{}
	if err := json.Unmarshal(text, &clear); err != nil {
		return fmt.Errorf("decode variables of set %s: %w", s.Template.Set, err)
	}
	for name, value := range clear {
		s.Template.Variables[name] = online.Secret(value)
	}
	s.Sealed = nil
	return nil
}

func (f *files) putInstance(r *instanceRecord) error {
	dir := f.instanceDir(r.ID)
	if err := os.MkdirAll(dir, dirPrivate); err != nil {
		return fmt.Errorf("make directory of instance %s: %w", r.ID, err)
	}
	if err := putJSON(filepath.Join(dir, recordName), r); err != nil {
		return fmt.Errorf("write instance %s: %w", r.ID, err)
	}
	return nil
}

// instances reads all instances, those that ended included, oldest first. A directory without a record is what
// a crash left of one that never ran; it is removed.
func (f *files) instances() ([]*instanceRecord, error) {
	entries, err := os.ReadDir(filepath.Join(f.root, instancesDir))
	if err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	var all []*instanceRecord
	for _, e := range entries {
		r := &instanceRecord{}
		err := getJSON(filepath.Join(f.instanceDir(e.Name()), recordName), r)
		if errors.Is(err, fs.ErrNotExist) {
			err = f.removeInstance(e.Name())
			r = nil
		}
		if err != nil {
			return nil, fmt.Errorf("read instance %s: %w", e.Name(), err)
		}
		if r != nil {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, byCreation)
	return all, nil
}

func byCreation(a, b *instanceRecord) int {
	if c := strings.Compare(a.Set, b.Set); c != 0 {
		return c
	}
	return int(a.Number - b.Number)
}

// removeInstance removes an instance with all its output.
func (f *files) removeInstance(instance string) error {
	if err := os.RemoveAll(f.instanceDir(instance)); err != nil {
		return fmt.Errorf("remove instance %s: %w", instance, err)
	}
	return nil
}

// expired picks the ended instances whose output is no longer kept: those older than keep, and of each deployment
// all but the newest perUID.
func expired(ended []*instanceRecord, now time.Time, keep time.Duration, perUID int) []string {
	newest := slices.SortedFunc(slices.Values(ended), func(a, b *instanceRecord) int { return b.Ended.Compare(a.Ended) })
	seen := map[string]int{}
	gone := map[string]bool{}
	for _, r := range newest {
		seen[r.UID]++
		if seen[r.UID] > perUID || now.Sub(r.Ended) > keep {
			gone[r.ID] = true
		}
	}
	return slices.Sorted(maps.Keys(gone))
}

func getJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// putJSON replaces a file so that after a crash either the old or the new content is there.
func putJSON(path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return durable.Replace(path, append(text, '\n'), filePrivate)
}
