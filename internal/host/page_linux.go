package host

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// page is a status page: memory of a size that nobody can change, so that user code which truncates what it
// inherited cannot crash a reader that mapped it. While the process runs, the path is a link to the supervisor's
// descriptor; after its end it is a plain file with what the page last held.
type page struct {
	path string
	mem  *os.File
}

func newPage(path string) (*page, error) {
	fd, err := unix.MemfdCreate("portico-page", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make: %w", err)
	}
	p := &page{path: path, mem: os.NewFile(uintptr(fd), "status page")}
	err = unix.Ftruncate(fd, PageBytes)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err == nil {
		err = p.link()
	}
	if err != nil {
		_ = p.mem.Close()
		return nil, fmt.Errorf("make: %w", err)
	}
	return p, nil
}

// link puts the link in place of whatever an earlier process left there.
func (p *page) link() error {
	next := p.path + ".new"
	_ = os.Remove(next) // of a supervisor that died here
	if err := os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.mem.Fd()), next); err != nil {
		return err
	}
	return os.Rename(next, p.path)
}

// inherit gives a descriptor to pass on.
func (p *page) inherit() (*os.File, error) {
	fd, err := unix.FcntlInt(p.mem.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "status page"), nil
}

// keep turns the page into a plain file.
func (p *page) keep() error {
	defer p.mem.Close()
	content := make([]byte, PageBytes)
	if _, err := p.mem.ReadAt(content, 0); err != nil {
		return err
	}
	next := p.path + ".new"
	if err := os.WriteFile(next, content, 0o600); err != nil {
		return err
	}
	return os.Rename(next, p.path)
}

// remove takes a page back that no process got.
func (p *page) remove() {
	_ = os.Remove(p.path)
	_ = p.mem.Close()
}
