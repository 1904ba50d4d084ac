package host

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sort"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// The stage is this program between fork and user code. The supervisor starts it with stageName as its name, an
// empty environment and one end of a socket pair as descriptor stageFD; over that it gets a stagePlan, builds
// what the plan says, answers with one stageReport, waits for one byte and becomes the program. The supervisor
// records the process before it sends that byte, and the end of the pair (it is closed by exec) tells it that
// user code runs. Whatever fails before is a failed start and no exit.
const (
	stageName              = "portico-host-stage"
	stageFD                = 5
	firstTreeFD            = stageFD + 1
	maxStagePlanBytes      = maxMessageBytes + 1<<20
	exitStageFailed        = 125
	stageGo           byte = 'g'
)

// stagePlan is what the stage builds. It travels over the socket pair only: it holds the environment.
type stagePlan struct {
	Argv    []string          `json:"argv"`
	Env     map[string]string `json:"env"`
	Dir     string            `json:"dir"`
	UID     int               `json:"uid"`               // 0: stay who the supervisor is
	Sandbox string            `json:"sandbox,omitempty"` // an empty directory to build the new root on
	View    []binding         `json:"view,omitempty"`
	Probe   bool              `json:"probe,omitempty"` // build everything, then end
	Forks   bool              `json:"forks,omitempty"` // before that, make the namespaces of a fork
	Root    *rootPlan         `json:"root,omitempty"`  // a root of its own: Sandbox, View and UID are empty then
}

// rootPlan says where the mounts belong that the stage inherited, from descriptor firstTreeFD on; the first is the root.
type rootPlan struct {
	At       []string `json:"at"`
	Hostname string   `json:"hostname"`
}

// stageReport says that all is ready, or why not.
type stageReport struct {
	Error string `json:"error,omitempty"`
}

// Stage must be the first call of main in every program that supervises: when the process is a stage it never
// returns. Otherwise it does nothing and returns false. It ends by the system call: in a program that looks for races
// os.Exit waits a second, and the supervisor waits for these ends.
func Stage() bool {
	switch os.Args[0] {
	case initName:
		initMain()
		syscall.Exit(0)
	case stageName:
	default:
		return false
	}
	// Credentials, namespaces and the parent-death signal belong to a thread: all of it happens on one.
	runtime.LockOSThread()
	syscall.CloseOnExec(stageFD)
	control := os.NewFile(stageFD, "stage")
	if err := stage(control); err != nil {
		report, encodeErr := json.Marshal(stageReport{Error: err.Error()})
		if encodeErr == nil {
			_, _ = control.Write(append(report, '\n')) // the exit status tells too
		}
		syscall.Exit(exitStageFailed)
	}
	syscall.Exit(0)
	return true
}

func stage(control *os.File) error {
	var plan stagePlan
	r := bufio.NewReader(io.LimitReader(control, maxStagePlanBytes))
	line, err := r.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read plan: %w", err) // the supervisor died: nobody reads this
	}
	if err := json.Unmarshal(line, &plan); err != nil {
		return errors.New("read plan: it is not the JSON that was expected") // without the text: it has secrets
	}
	if err := onExec(stageFD, unix.CloseOnExec); err != nil { // whatever the supervisor once inherited itself
		return fmt.Errorf("inherited descriptors: %w", err)
	}
	// A core file would put the environment on disk.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	if err := isolate(&plan); err != nil {
		return err
	}
	if plan.Dir == "" {
		plan.Dir = "/"
	}
	if err := os.Chdir(plan.Dir); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	syscall.Umask(0o022) // what one user id builds (environments), others must be able to read
	if err := dieWithParent(); err != nil {
		return fmt.Errorf("parent-death signal: %w", err)
	}
	if _, err := control.WriteString("{}\n"); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	// A supervisor that died before dieWithParent never sends this; one that dies after it takes us along.
	if b, err := r.ReadByte(); err != nil || b != stageGo {
		return errors.New("the supervisor went away")
	}
	if plan.Probe && plan.Forks {
		return tryNamespaces()
	}
	if plan.Probe {
		return nil
	}
	env := make([]string, 0, len(plan.Env))
	for k, v := range plan.Env {
		env = append(env, k+"="+v)
	}
	sort.Strings(env)
	program, err := findProgram(plan)
	if err != nil {
		return err
	}
	if err := syscall.Exec(program, plan.Argv, env); err != nil {
		return fmt.Errorf("execute %s: %w%s", strconv.Quote(plan.Argv[0]), err, whyNotExecuted(program, err))
	}
	return nil
}

// onExec applies act to every descriptor from first on that exec would pass on.
func onExec(first int, act func(fd int)) error {
	d, err := os.Open("/dev/fd")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd < first {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			act(fd)
		}
	}
	return nil
}
