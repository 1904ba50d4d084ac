package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxListeners bounds the sockets that a supervisor holds for its clients.
const MaxListeners = 64

// listening is a socket that is held for clients.
type listening struct {
	network, address string
	file             *os.File
}

// listeners are the sockets of the front door, by name.
type listeners struct {
	mu   sync.Mutex
	open map[string]*listening
}

// listen is the verb: it answers with the socket itself.
func (s *supervisor) listen(ctx context.Context, conn *net.UnixConn, req *request) error {
	s.listeners.mu.Lock()
	defer s.listeners.mu.Unlock() // held while the socket is sent: it must not be closed meanwhile
	l, err := s.listeners.get(ctx, req.Name, req.Network, req.Address)
	if err != nil {
		return err
	}
	// Not File.Fd: that would make the socket blocking, for the client that listens on it too.
	raw, err := l.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInternal, err)
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = writeMessage(conn, answer{}, unix.UnixRights(int(fd))) }); err != nil {
		return fmt.Errorf("%w: %w", ErrInternal, err)
	}
	return ignoreHangUp(sent)
}

func (ls *listeners) get(ctx context.Context, name, network, address string) (*listening, error) {
	if !idRule.MatchString(name) {
		return nil, fmt.Errorf("%w: name %.40q: use 1 to 128 letters, digits, '.', '_' and '-'", ErrBadRequest, name)
	}
	old := ls.open[name]
	if old != nil && old.network == network && old.address == address {
		return old, nil
	}
	if old == nil && len(ls.open) >= MaxListeners {
		return nil, fmt.Errorf("%w: %d listeners are open", ErrLimit, MaxListeners)
	}
	f, err := openListener(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if old != nil {
		old.close()
	}
	l := &listening{network: network, address: address, file: f}
	ls.open[name] = l
	return l, nil
}

func openListener(ctx context.Context, network, address string) (*os.File, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, network, address)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", addressFault(err), err)
		}
		defer func() { _ = l.Close() }() // the file is a duplicate
		return l.(*net.TCPListener).File()
	case "unix":
		if err := removeStaleSocket(ctx, address); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
		}
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", addressFault(err), err)
		}
		defer func() { _ = l.Close() }() // the file is a duplicate
		l.SetUnlinkOnClose(false)
		return l.File()
	}
	return nil, fmt.Errorf("%w: network %.40q: use tcp, tcp4, tcp6 or unix", ErrBadRequest, network)
}

// addressFault tells an address that the system refuses from one that nobody could listen on.
func addressFault(err error) error {
	var refused *os.SyscallError
	if errors.As(err, &refused) {
		return ErrAddress
	}
	return ErrBadRequest
}

// removeStaleSocket removes a socket on which nobody listens any more.
func removeStaleSocket(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is no socket", path)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("%s: %w", path, syscall.EADDRINUSE)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	return err
}

func (l *listening) close() {
	_ = l.file.Close()
	if l.network == "unix" {
		_ = os.Remove(l.address)
	}
}

// close closes the listener of a name, if there is one.
func (ls *listeners) close(name string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.open[name]; l != nil {
		l.close()
		delete(ls.open, name)
	}
}

func (ls *listeners) closeAll() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for name, l := range ls.open {
		l.close()
		delete(ls.open, name)
	}
}
