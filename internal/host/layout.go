package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"portico/internal/durable"
)

// maxSocketDirBytes leaves room for names of 40 bytes below maxSocketBytes.
const maxSocketDirBytes = 62

const privateDir fs.FileMode = 0o700

// stateDir is where the supervisor of dataDir keeps what it must not forget.
func stateDir(dataDir string) string { return filepath.Join(dataDir, "host") }

// canonical gives the data directory one name, whatever way leads to it. It must exist.
func canonical(dataDir string) (string, error) {
	abs, err := filepath.Abs(dataDir)
	if err != nil {
		return "", fmt.Errorf("resolve data directory: %w", err)
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", fmt.Errorf("resolve data directory: %w", err)
	}
	return abs, nil
}

// SocketDir is the private directory (0700) for Unix sockets of a data directory, made when missing. It is
// DIR/run, or, where the path would be too long for a socket's address, a directory below the system's temporary
// one that is recorded in the data directory. Names of up to 40 bytes fit in it.
func SocketDir(dataDir string) (string, error) {
	root, err := canonical(dataDir)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "run")
	if len(dir) <= maxSocketDirBytes {
		if err := os.MkdirAll(dir, privateDir); err != nil {
			return "", fmt.Errorf("make socket directory: %w", err)
		}
		return dir, nil
	}
	return shortSocketDir(root)
}

func shortSocketDir(root string) (string, error) {
	if err := os.MkdirAll(stateDir(root), privateDir); err != nil {
		return "", fmt.Errorf("make state directory: %w", err)
	}
	// Two processes may come at once: the one that holds the lock makes the directory, the other finds it.
	unlock, err := lockFile(filepath.Join(stateDir(root), "socket-dir.lock"), true)
	if err != nil {
		return "", err
	}
	defer unlock()
	record := filepath.Join(stateDir(root), "socket-dir")
	if text, err := os.ReadFile(record); err == nil {
		// It keeps its name, which callers remember: what was cleaned away is made again, unless another has it.
		if dir := strings.TrimSpace(string(text)); os.Mkdir(dir, privateDir) == nil || ownPrivateDir(dir) {
			return dir, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read socket directory record: %w", err)
	}
	dir, err := makeShortDir()
	if err != nil {
		return "", err
	}
	if err := durable.Replace(record, []byte(dir+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("record socket directory: %w", err)
	}
	return dir, nil
}

func makeShortDir() (string, error) {
	for _, base := range []string{os.TempDir(), "/tmp"} {
		if len(base)+len("/portico-1234567890") > maxSocketDirBytes {
			continue
		}
		dir, err := os.MkdirTemp(base, "portico-")
		if err != nil {
			return "", fmt.Errorf("make socket directory: %w", err)
		}
		return dir, nil
	}
	return "", fmt.Errorf("make socket directory: %w", syscall.ENAMETOOLONG)
}

// ownPrivateDir says whether dir is still the directory that we made: anyone may write to the temporary directory.
func ownPrivateDir(dir string) bool {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() || info.Mode().Perm() != privateDir {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

const controlName = "host.sock"

// lockFile takes an exclusive lock that ends with the process at the latest. Without wait, a lock that another
// holds is ErrRunning.
func lockFile(path string, wait bool) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrRunning
		}
		return nil, fmt.Errorf("lock %s: %w", filepath.Base(path), err)
	}
	return func() { _ = f.Close() }, nil
}
