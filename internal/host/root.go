package host

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Root gives a process a root file system and a network of its own, in place of the machine's: that of an OCI image. The
// process sees Tree with View over it, may write everywhere in it, and believes to be the user UID, to whom all of it
// belongs; outside it is its separate user and nobody else. Its network has a loopback, and a way out
// where it is asked for; Client.DialIn connects into it. ErrStart without Capabilities.Roots.
type Root struct {
	// Tree is a directory whose content belongs to root. It is never changed.
	Tree string `json:"tree"`
	// Scratch is an empty directory, on a disk, that takes what the process changes. The caller removes it.
	Scratch string `json:"scratch"`
	// UID and GID are who the process believes to be.
	UID int `json:"uid"`
	GID int `json:"gid"`
	// Egress asks for a way out of the network, where Capabilities.NoEgress is empty; its end is the process's.
	Egress bool `json:"egress"`
	// Hostname is what the process is told to be called.
	Hostname string `json:"hostname"`
}

// maxRootID bounds the ids that a process may believe to have: the kernel's largest but the one that means none.
const maxRootID = 1<<32 - 2

func (r *Root) check(s *ProcessSpec) error {
	switch {
	case !cleanAbs(r.Tree) || r.Tree == "/" || !cleanAbs(r.Scratch) || r.Scratch == "/":
		return fmt.Errorf("%w: the tree and the scratch of a root must be absolute, clean paths", ErrBadRequest)
	case r.UID < 0 || r.GID < 0 || r.UID > maxRootID || r.GID > maxRootID:
		return fmt.Errorf("%w: user %d:%d of a root: use 0 to %d", ErrBadRequest, r.UID, r.GID, maxRootID)
	case !idRule.MatchString(r.Hostname):
		return fmt.Errorf("%w: hostname %.40q: use 1 to 128 letters, digits, '.', '_' and '-'", ErrBadRequest, r.Hostname)
	case s.User != UserSeparate || s.Socket != "" || s.Page != "" || s.Forks != nil || s.From != "":
		return fmt.Errorf("%w: a process with a root has a separate user, no socket, no page and no forks", ErrBadRequest)
	}
	return nil
}

// socket is the verb: it answers with a new TCP socket in the network of a process.
func (s *supervisor) socket(conn *net.UnixConn, req *request) error {
	s.mu.Lock()
	p := s.procs[req.ID]
	var network *os.File
	var err error
	if p == nil || !p.running || p.root == nil {
		err = fmt.Errorf("%w: no process %.128q with a network of its own runs", ErrNotFound, req.ID)
	} else {
		network, err = p.root.again()
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	defer network.Close()
	socket, err := newSocket(network)
	if err != nil {
		return fmt.Errorf("%w: make a socket: %w", ErrInternal, err)
	}
	defer func() { _ = unix.Close(socket) }()
	return ignoreHangUp(writeMessage(conn, answer{}, unix.UnixRights(socket)))
}
