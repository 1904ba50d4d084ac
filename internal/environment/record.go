package environment

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"portico/internal/durable"
	"portico/internal/online"
)

// Names inside the environments directory.
const (
	recordFile = "record.json" // its presence says that the environment is complete; its time is that of the last use
	lockFile   = "lock.txt"
	treeDir    = "env"             // belongs to the user of the build until it is sealed
	venvDir    = treeDir + "/venv" // made by the tool itself: some refuse a directory that exists
	locksDir   = ".locks"
	workDir    = ".work"
	cacheDir   = ".cache"
	trashDir   = ".trash"
	imagesDir  = ".images" // what each environment version's image was when it was built first
)

// touchEvery is how exact the time of the last use is.
const touchEvery = time.Minute

var idRule = regexp.MustCompile(`^(py3[0-9]{1,3}|conda|image)-[0-9a-f]{24}$`)

// record is what is kept about a complete environment. It holds no secret.
type record struct {
	ID            string    `json:"id"`
	Builder       int       `json:"builder"`
	Created       time.Time `json:"created"`
	Seconds       float64   `json:"seconds"` // how long the build took
	Source        string    `json:"source"`
	Engine        string    `json:"engine"`
	Tool          string    `json:"tool"`
	PythonVersion string    `json:"pythonVersion"`
	Base          string    `json:"base,omitempty"`     // interpreter that the environment stands on
	Prefixes      []string  `json:"prefixes,omitempty"` // of Base
	Packages      int       `json:"packages"`
	Bytes         int64     `json:"bytes"`
	Image         *Image    `json:"image,omitempty"` // of an image: what is known of it, without its place
}

// Description is what is known about one environment on this machine.
type Description struct {
	ID            string
	Created       time.Time
	LastUsed      time.Time // to the minute
	BuildTime     time.Duration
	Source        string // what kind of spec it was built from
	Tool          string // what installed it
	PythonVersion string
	Packages      []string // lines of the lock file, without its comments
	Bytes         int64
}

// Describe tells about one environment; a CodeNotFound error when there is none with this id.
func (b *Builder) Describe(id string) (Description, error) {
	r, used, err := b.readRecord(id)
	if err != nil {
		return Description{}, err
	}
	d := describe(r, used)
	text, err := os.ReadFile(filepath.Join(b.cfg.Dir, id, lockFile))
	if err != nil {
		return Description{}, fmt.Errorf("read the lock file of environment %s: %w", id, err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			d.Packages = append(d.Packages, line)
		}
	}
	return d, nil
}

// List gives every complete environment, the longest unused first, without its packages.
func (b *Builder) List() ([]Description, error) {
	entries, err := os.ReadDir(b.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("list environments: %w", err)
	}
	var out []Description
	for _, e := range entries {
		if !e.IsDir() || !idRule.MatchString(e.Name()) {
			continue
		}
		r, used, err := b.readRecord(e.Name())
		if online.IsCode(err, online.CodeNotFound) {
			continue // being built
		}
		if err != nil {
			return nil, err
		}
		out = append(out, describe(r, used))
	}
	slices.SortStableFunc(out, func(a, b Description) int { return a.LastUsed.Compare(b.LastUsed) })
	return out, nil
}

// Remove deletes an environment. Who may still use it is for the caller to know. CodeNotFound when there is none,
// CodeConflict while it is being built.
func (b *Builder) Remove(id string) error {
	if _, _, err := b.readRecord(id); err != nil {
		return err
	}
	l, err := tryLock(b.lockPath(id))
	if err != nil {
		return fmt.Errorf("remove environment %s: %w", id, err)
	}
	if l == nil {
		return online.Errorf(online.CodeConflict, "", "environment %s is being built", id)
	}
	defer l.release()
	b.forget(id)
	return b.discard(id)
}

// discard moves an environment out of the way in one step and then deletes it: a crash leaves no half of it.
func (b *Builder) discard(id string) error {
	grave, err := os.MkdirTemp(filepath.Join(b.cfg.Dir, trashDir), id+"-")
	if err != nil {
		return fmt.Errorf("remove environment %s: %w", id, err)
	}
	if err := os.Rename(filepath.Join(b.cfg.Dir, id), filepath.Join(grave, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove environment %s: %w", id, err)
	}
	return removeTree(grave)
}

func describe(r *record, used time.Time) Description {
	return Description{
		ID: r.ID, Created: r.Created, LastUsed: used, BuildTime: time.Duration(r.Seconds * float64(time.Second)),
		Source: r.Source, Tool: r.Tool, PythonVersion: r.PythonVersion, Bytes: r.Bytes,
	}
}

func (b *Builder) readRecord(id string) (*record, time.Time, error) {
	if !idRule.MatchString(id) {
		return nil, time.Time{}, online.Errorf(online.CodeNotFound, "", "there is no environment %.64q", id)
	}
	path := filepath.Join(b.cfg.Dir, id, recordFile)
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, online.Errorf(online.CodeNotFound, "", "there is no environment %s", id)
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("look at environment %s: %w", id, err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read the record of environment %s: %w", id, err)
	}
	r := &record{}
	if err := json.Unmarshal(data, r); err != nil || r.ID != id {
		return nil, time.Time{}, fmt.Errorf("the record of environment %s is damaged; remove its directory", id)
	}
	return r, st.ModTime(), nil
}

// fileMode lets everyone read what is written here.
const fileMode fs.FileMode = 0o644

// writeRecord is the moment in which an environment becomes complete: all of it is on disk before.
func (b *Builder) writeRecord(r *record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write the environment's record: %w", err)
	}
	dir := filepath.Join(b.cfg.Dir, r.ID)
	if err := syncTree(dir); err != nil {
		return fmt.Errorf("write the environment to disk: %w", err)
	}
	if err := durable.Replace(filepath.Join(dir, recordFile), append(data, '\n'), fileMode); err != nil {
		return fmt.Errorf("write the environment's record: %w", err)
	}
	return nil
}

// fileLock keeps other processes, and other builders in this one, away from one id or one cache.
type fileLock struct{ f *os.File }

// tryLock gives nil without an error when somebody else has it. Lock files stay: removing one would let two hold it.
func tryLock(path string) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open a lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	return &fileLock{f}, nil
}

func (l *fileLock) release() { l.f.Close() }
