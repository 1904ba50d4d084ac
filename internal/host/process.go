package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"portico/internal/online"
)

// What the verbs answer besides plain failures.
var (
	// ErrNotRunning: no supervisor answers for the data directory.
	ErrNotRunning = errors.New("no host is running")
	// ErrRunning: another supervisor already holds the data directory.
	ErrRunning = errors.New("a host is already running")
	// ErrNotFound: no process, or no listener, of that name.
	ErrNotFound = errors.New("not found")
	// ErrBadRequest: the request can never be right.
	ErrBadRequest = errors.New("bad request")
	// ErrAddress: the system does not let the address be listened on: it is in use, or not this machine's.
	ErrAddress = errors.New("cannot listen")
	// ErrLimit: a named limit of the supervisor is reached.
	ErrLimit = errors.New("limit reached")
	// ErrDraining: the supervisor is ending everything and starts nothing more.
	ErrDraining = errors.New("the host is draining")
	// ErrStart: the process could not be set up; no user code ran and no exit follows.
	ErrStart = errors.New("cannot start the process")
	// ErrFork: the process could not be forked; it may be started without ProcessSpec.From. Also why a fork server is
	// none. No user code ran.
	ErrFork = errors.New("cannot fork the process")
	// ErrForkServer is an ErrFork that any process would have met: its fork server is gone, or makes no forks as it should.
	ErrForkServer = fmt.Errorf("%w: its fork server failed", ErrFork)
	// ErrInternal: the supervisor failed; its log says more.
	ErrInternal = errors.New("the host failed")
)

// User says whose user id a process runs under.
type User string

// The users of a process.
const (
	// UserOwn runs the process as the supervisor's own user, seeing what that user sees. For Portico's own
	// programs only: nothing that a stranger wrote runs this way when the supervisor is root.
	UserOwn User = "own"
	// UserSeparate gives the process a user id of its own, no privileges and a file system that holds nothing
	// but View and the system's directories, as far as Capabilities says that the machine allows.
	UserSeparate User = "separate"
)

// ProcessSpec is what Start needs to know. Env travels over the socket and is kept nowhere.
type ProcessSpec struct {
	ID     string            // [A-Za-z0-9._-], 1 to 128 characters; unique among running processes
	Labels map[string]string // the caller's; given back by List and Watch
	Argv   []string          // Argv[0] is an absolute path
	Env    map[string]online.Secret
	Dir    string // working directory, absolute; "/" when empty
	User   User   // UserSeparate when empty
	Limits Limits
	View   []View
	// Socket is the path of a Unix socket that listens before the process starts; passed as fd 3. It must lie in
	// SocketDir. Empty: fd 3 is closed.
	Socket string
	// Page is the path of the status page: PageBytes zeroed bytes, passed as fd 4. Empty: fd 4 is closed.
	Page string
	Log  LogSpec
	// Forks makes the process a fork server. It has no socket and no page, and Start waits for its report.
	Forks *ForkSpec
	// From is the id of a running fork server from which the process is forked instead of executed: Argv[1:], Env, Dir
	// and all else are what it finds afterwards. ErrFork: that is not possible.
	From string
	// Root gives the process a root file system and a network of its own; Argv[0] may then be a name that is looked for in
	// Env's PATH inside, and every View needs At. Nil: it sees the machine's, as far as its User may.
	Root *Root
}

// PageBytes is the size of a status page.
const PageBytes = 4096

// Limits are ceilings; 0 is none. Those that the machine cannot enforce are named by Capabilities.
type Limits struct {
	MemoryBytes int64 `json:"memory_bytes,omitempty"`
	CPUMillis   int64 `json:"cpu_millis,omitempty"` // thousandths of a core
	Pids        int64 `json:"pids,omitempty"`       // processes and threads
}

// View is a path that a UserSeparate process may see.
type View struct {
	// Path of a file or directory outside. Missing paths are a start error.
	Path string `json:"path"`
	// At is where it appears inside; empty: at Path (and at what Path resolves to, if it is a symbolic link).
	At string `json:"at,omitempty"`
	// Writable makes it writable and gives it, with everything below, to the process's user id. A writable path
	// belongs to one process at a time.
	Writable bool `json:"writable,omitempty"`
}

// LogSpec says where standard output and standard error go. The directory then holds `current` and numbered
// files of older output; see ReadLog.
type LogSpec struct {
	Dir       string `json:"dir"`                  // absolute; empty: output is dropped
	FileBytes int64  `json:"file_bytes,omitempty"` // a file is rotated at this size; 0: DefaultLogFileBytes
	Files     int    `json:"files,omitempty"`      // files kept, with current; 0: DefaultLogFiles
}

// Process is one started process, running or ended.
type Process struct {
	ID     string            `json:"id"`
	Labels map[string]string `json:"labels,omitempty"`
	PID    int               `json:"pid"`
	// StartTime is the kernel's (clock ticks since boot, field 22 of /proc/PID/stat): with PID and the boot it
	// names a process for ever. 0 where the platform has none.
	StartTime uint64    `json:"start_time"`
	UID       int       `json:"uid"`
	Started   time.Time `json:"started"`
	Socket    string    `json:"socket,omitempty"`
	Page      string    `json:"page,omitempty"`
	LogDir    string    `json:"log_dir,omitempty"`
	From      string    `json:"from,omitempty"`  // the fork server that it was forked from
	Spare     bool      `json:"spare,omitempty"` // it was forked before it was asked for
	// Report is what a fork server said when it was ready; in the answer of Start only.
	Report json.RawMessage `json:"report,omitempty"`
	// Exit is nil while the process runs.
	Exit *Exit `json:"exit,omitempty"`
}

// Running says that the process has not ended.
func (p *Process) Running() bool { return p.Exit == nil }

// Exit is how a process ended.
type Exit struct {
	Code      int       `json:"code"`             // exit status; -1 when a signal ended it or it was lost
	Signal    int       `json:"signal,omitempty"` // number of the signal that ended it
	Core      bool      `json:"core,omitempty"`   // a core file was dumped
	OOMKilled bool      `json:"oom_killed,omitempty"`
	Lost      bool      `json:"lost,omitempty"` // the supervisor died first: how it ended is unknown
	At        time.Time `json:"at"`
	// What it used, with its waited-for children.
	UserTime   time.Duration `json:"user_time_ns"`
	SystemTime time.Duration `json:"system_time_ns"`
	MaxRSS     int64         `json:"max_rss_bytes"`
	Tail       string        `json:"tail,omitempty"` // the last lines of its output, at most ExitTailBytes
}

// Event is one observation of Watch: the processes that exist, one event with Synced, then each start and exit.
type Event struct {
	Synced  bool    `json:"synced,omitempty"`
	Process Process `json:"process,omitzero"`
}

// Capabilities says which isolation and which limits are in force on this machine.
type Capabilities struct {
	Users  bool `json:"users"`  // UserSeparate processes have a user id of their own
	Mounts bool `json:"mounts"` // ... and see a file system of their own
	Memory bool `json:"memory"` // Limits.MemoryBytes is enforced
	CPU    bool `json:"cpu"`    // Limits.CPUMillis is enforced
	Pids   bool `json:"pids"`   // Limits.Pids is enforced
	// Tracked: children that left their process group are found exactly (by cgroup), not by a mark in their
	// environment, which a process can remove.
	Tracked bool `json:"tracked"`
	// Contained: when the supervisor dies, the kernel ends everything that it started. Otherwise it ends the
	// processes themselves, and what they started in turn waits for the next supervisor.
	Contained bool `json:"contained"`
	Forks     bool `json:"forks"` // processes can be forked from fork servers, as isolated as others
	// Roots: processes can have a root of their own. NoRoots says why not, if the host knows of them at all.
	Roots   bool   `json:"roots"`
	NoRoots string `json:"no_roots,omitempty"`
	// NoEgress says why their networks have no way out; empty: they can.
	NoEgress string `json:"no_egress,omitempty"`
	// Reductions says in one sentence each what is missing and why.
	Reductions []string `json:"reductions,omitempty"`
}

// Isolated says that nothing of the isolation is missing.
func (c *Capabilities) Isolated() bool {
	return c.Users && c.Mounts && c.Memory && c.CPU && c.Pids && c.Tracked && c.Contained
}

// Info is what a supervisor says of itself.
type Info struct {
	PID          int          `json:"pid"`
	Protocol     int          `json:"protocol"`
	Capabilities Capabilities `json:"capabilities"`
}

// Bounds of one specification.
const (
	maxArguments   = 1024
	maxLabels      = 64
	maxViews       = 256
	maxSocketBytes = 104 // sun_path of the smaller platform, macOS
)

var idRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// check says whether the specification can be right at all.
func (s *ProcessSpec) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrBadRequest, fmt.Sprintf(format, args...))
	}
	switch {
	case !idRule.MatchString(s.ID):
		return bad("id %.40q: use 1 to 128 letters, digits, '.', '_' and '-'", s.ID)
	case len(s.Argv) == 0 || len(s.Argv) > maxArguments:
		return bad("argv has %d entries, allowed are 1 to %d", len(s.Argv), maxArguments)
	case len(s.Labels) > maxLabels || len(s.View) > maxViews:
		return bad("more than %d labels or %d views", maxLabels, maxViews)
	case s.User != UserOwn && s.User != UserSeparate:
		return bad("user %.40q: use %q or %q", s.User, UserOwn, UserSeparate)
	case s.Limits.MemoryBytes < 0 || s.Limits.CPUMillis < 0 || s.Limits.Pids < 0:
		return bad("a limit is negative")
	case s.Log.FileBytes < 0 || s.Log.Files < 0:
		return bad("a size of the log is negative")
	case s.Forks != nil && (s.Socket != "" || s.Page != "" || s.From != ""):
		return bad("a fork server has no socket and no page, and is not forked")
	case s.Forks != nil && (s.Forks.Spares < 0 || s.Forks.Spares > MaxSpares):
		return bad("%d spares: use 0 to %d", s.Forks.Spares, MaxSpares)
	case s.From != "" && !idRule.MatchString(s.From):
		return bad("from %.40q is not an id", s.From)
	case len(s.Socket) >= maxSocketBytes:
		return bad("the path of the socket has %d bytes, allowed are %d", len(s.Socket), maxSocketBytes-1)
	}
	for _, p := range []struct{ what, path string }{
		{"argv[0]", s.Argv[0]}, {"dir", s.Dir}, {"socket", s.Socket}, {"page", s.Page}, {"log.dir", s.Log.Dir},
	} {
		if s.Root != nil && p.what == "argv[0]" && p.path != "" && !strings.Contains(p.path, "/") {
			continue
		}
		if p.path != "" && !cleanAbs(p.path) || p.path == "" && p.what == "argv[0]" {
			return bad("%s must be an absolute, clean path", p.what)
		}
	}
	for _, v := range s.View {
		if !cleanAbs(v.Path) || v.Path == "/" || v.At != "" && (!cleanAbs(v.At) || v.At == "/") {
			return bad("view %.200q must be an absolute, clean path below the root", v.Path)
		}
	}
	if s.Root != nil {
		if err := s.Root.check(s); err != nil {
			return err
		}
	}
	for _, a := range s.Argv {
		if strings.ContainsRune(a, 0) {
			return bad("an argument contains NUL")
		}
	}
	for name, value := range s.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value.Reveal(), 0) {
			return bad("environment variable %.80q is not valid", name)
		}
	}
	return nil
}

func cleanAbs(p string) bool {
	return filepath.IsAbs(p) && filepath.Clean(p) == p && !strings.ContainsAny(p, "\x00\n")
}
