package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a client.
const (
	maxClientCalls   = 16 // calls of one client at the same time; further ones wait their turn
	watchBufferSize  = 64 // events between the socket and the reader of Watch
	maxPassedSockets = 1
)

// Client speaks to the supervisor of one data directory. It is safe for concurrent use.
type Client struct {
	path  string // of the control socket
	info  Info
	alive *net.UnixConn // the attach connection
	calls chan struct{} // one token per call under way

	done      chan struct{} // closed when the supervisor is gone, or Close was called
	closeOnce sync.Once
}

// Dial connects to the supervisor of dataDir. ErrNotRunning says that none answers.
func Dial(ctx context.Context, dataDir string) (*Client, error) {
	path, err := controlSocket(dataDir)
	if err != nil {
		return nil, err
	}
	c := &Client{path: path, calls: make(chan struct{}, maxClientCalls), done: make(chan struct{})}
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	var a answer
	if err := c.ask(ctx, conn, bufio.NewReader(conn), &request{Verb: verbAttach}, &a); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("attach to the host: %w", err)
	}
	if a.Info == nil || a.Info.Protocol != protocolVersion {
		_ = conn.Close()
		return nil, fmt.Errorf("attach to the host: %w: it speaks another version of the protocol; stop it first",
			ErrBadRequest)
	}
	c.info, c.alive = *a.Info, conn
	go c.listenForEnd()
	return c, nil
}

// listenForEnd waits for the end of the attach connection. It ends with it: at Close at the latest.
func (c *Client) listenForEnd() {
	defer close(c.done)
	_ = c.alive.SetDeadline(time.Time{})
	var b [1]byte
	_, _ = c.alive.Read(b[:]) // nothing more is ever sent: whatever happens is the end
	c.closeOnce.Do(func() { _ = c.alive.Close() })
}

// Close detaches. The supervisor and its processes go on (until its orphan timeout).
func (c *Client) Close() error {
	c.closeOnce.Do(func() { _ = c.alive.Close() })
	<-c.done
	return nil
}

// Done is closed when the supervisor is gone or Close was called.
func (c *Client) Done() <-chan struct{} { return c.done }

// Info is what the supervisor said of itself when Dial attached.
func (c *Client) Info() Info { return c.info }

// Start starts a process, or answers the one that already runs under the id. ErrStart says that it could not be
// set up. An exited process of the same id is forgotten.
func (c *Client) Start(ctx context.Context, spec ProcessSpec) (Process, error) {
	var a answer
	if err := c.call(ctx, &request{Verb: verbStart, Spec: toWire(spec)}, &a); err != nil {
		return Process{}, fmt.Errorf("start %s: %w", spec.ID, err)
	}
	if a.Process == nil {
		return Process{}, fmt.Errorf("start %s: %w: the answer holds no process", spec.ID, ErrInternal)
	}
	return *a.Process, nil
}

// Signal sends sig to a running process or, with group, to its process group. A process that ends takes
// everything that it started with it, so SIGKILL ends all. ErrNotFound: nothing runs under the id.
func (c *Client) Signal(ctx context.Context, id string, sig syscall.Signal, group bool) error {
	if err := c.call(ctx, &request{Verb: verbSignal, ID: id, Signal: sig, Group: group}, &answer{}); err != nil {
		return fmt.Errorf("signal %s: %w", id, err)
	}
	return nil
}

// Forget drops an exited process from the list. Forgetting what is not there succeeds; ErrBadRequest: it runs.
func (c *Client) Forget(ctx context.Context, id string) error {
	if err := c.call(ctx, &request{Verb: verbForget, ID: id}, &answer{}); err != nil {
		return fmt.Errorf("forget %s: %w", id, err)
	}
	return nil
}

// Unlisten closes the supervisor's duplicate of a listener. Closing what is not there succeeds.
func (c *Client) Unlisten(ctx context.Context, name string) error {
	if err := c.call(ctx, &request{Verb: verbUnlisten, Name: name}, &answer{}); err != nil {
		return fmt.Errorf("unlisten %s: %w", name, err)
	}
	return nil
}

// List gives every process, running or exited and not forgotten.
func (c *Client) List(ctx context.Context) ([]Process, error) {
	conn, r, err := c.open(ctx, &request{Verb: verbList})
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var all []Process
	for {
		ev, err := readEvent(r)
		if err != nil {
			return nil, fmt.Errorf("list processes: %w", orContext(ctx, err))
		}
		if ev.Synced {
			return all, nil
		}
		all = append(all, ev.Process)
	}
}

// Watch sends every process that is known, one event with Synced, then each start and each exit in order. The
// channel is closed when ctx ends, when the supervisor is gone (see Done), or when the reader is so slow that the
// supervisor dropped it: watch again then. Nothing but the channel needs to be read to its end.
func (c *Client) Watch(ctx context.Context) (<-chan Event, error) {
	conn, r, err := c.open(ctx, &request{Verb: verbWatch})
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	events := make(chan Event, watchBufferSize)
	go func() {
		defer close(events)
		defer func() { _ = conn.Close() }()
		stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
		defer stop()
		for {
			ev, err := readEvent(r)
			if err != nil {
				return
			}
			select {
			case events <- ev:
			case <-ctx.Done():
				return
			}
		}
	}()
	return events, nil
}

// Listen gives a listening socket that the supervisor keeps open too, so that connections wait while no server
// lives. The same name, network and address give the same socket again; another address replaces it. Port 0
// takes a free port once and keeps it for the name. network is "tcp", "tcp4", "tcp6" or "unix".
func (c *Client) Listen(ctx context.Context, name, network, address string) (net.Listener, error) {
	l, err := c.listen(ctx, &request{Verb: verbListen, Name: name, Network: network, Address: address})
	if err != nil {
		return nil, fmt.Errorf("listen %s on %s: %w", name, address, err)
	}
	return l, nil
}

func (c *Client) listen(ctx context.Context, req *request) (net.Listener, error) {
	file, err := c.passed(ctx, req)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("use the passed socket: %w", err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // the path belongs to the supervisor
	}
	return l, nil
}

// DialIn connects to a TCP port on the loopback of a running process that has a Root. An error with ECONNREFUSED says
// that nothing listens there, ErrNotFound that there is no such process.
func (c *Client) DialIn(ctx context.Context, id string, port int) (net.Conn, error) {
	file, err := c.passed(ctx, &request{Verb: verbSocket, ID: id})
	if err != nil {
		return nil, fmt.Errorf("connect to port %d of %s: %w", port, id, err)
	}
	defer file.Close()
	conn, err := connectLoopback(ctx, file, port)
	if err != nil {
		return nil, fmt.Errorf("connect to port %d of %s: %w", port, id, orContext(ctx, err))
	}
	return conn, nil
}

// connectLoopback connects a socket that does not block, wherever its loopback is.
func connectLoopback(ctx context.Context, file *os.File, port int) (net.Conn, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	begun := false
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		if !begun {
			begun = true
			failed = unix.Connect(int(fd), &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
			return !errors.Is(failed, unix.EINPROGRESS)
		}
		var status int
		if status, failed = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); failed == nil && status != 0 {
			failed = syscall.Errno(status)
		}
		return true
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}

// passed asks a question that is answered with a descriptor.
func (c *Client) passed(ctx context.Context, req *request) (*os.File, error) {
	release, err := c.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := writeMessage(conn, req, nil); err != nil {
		return nil, orContext(ctx, err)
	}
	rr := &rightsReader{conn: conn}
	var a answer
	err = readMessage(bufio.NewReader(rr), &a)
	if err == nil && a.Error != nil {
		err = a.Error.err()
	}
	if err == nil && rr.file == nil {
		err = fmt.Errorf("%w: the answer holds no socket", ErrInternal)
	}
	if err != nil {
		if rr.file != nil {
			_ = rr.file.Close()
		}
		return nil, orContext(ctx, err)
	}
	return rr.file, nil
}

// Shutdown ends every process (SIGTERM, after grace SIGKILL), then the supervisor, and waits for that.
func (c *Client) Shutdown(ctx context.Context, grace time.Duration) error {
	if err := c.call(ctx, &request{Verb: verbShutdown, Grace: grace}, &answer{}); err != nil {
		return fmt.Errorf("shut the host down: %w", err)
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("shut the host down: %w", ctx.Err())
	}
}

// connect opens a connection; ErrNotRunning when nothing listens there.
func (c *Client) connect(ctx context.Context) (*net.UnixConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, ErrNotRunning
	case err != nil:
		return nil, fmt.Errorf("connect to the host: %w", err)
	}
	return conn.(*net.UnixConn), nil
}

func (c *Client) turn(ctx context.Context) (func(), error) {
	select {
	case c.calls <- struct{}{}:
		return func() { <-c.calls }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.done:
		return nil, ErrNotRunning
	}
}

// call asks one question that has one answer.
func (c *Client) call(ctx context.Context, req *request, a *answer) error {
	release, err := c.turn(ctx)
	if err != nil {
		return err
	}
	defer release()
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return c.ask(ctx, conn, bufio.NewReader(conn), req, a)
}

// open asks a question that has many answers.
func (c *Client) open(ctx context.Context, req *request) (*net.UnixConn, *bufio.Reader, error) {
	release, err := c.turn(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := writeMessage(conn, req, nil); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, bufio.NewReader(conn), nil
}

func (c *Client) ask(ctx context.Context, conn *net.UnixConn, r *bufio.Reader, req *request, a *answer) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := writeMessage(conn, req, nil); err != nil {
		return orContext(ctx, err)
	}
	if err := readMessage(r, a); err != nil {
		return orContext(ctx, err)
	}
	if a.Error != nil {
		return a.Error.err()
	}
	return nil
}

func readEvent(r *bufio.Reader) (Event, error) {
	var a answer
	if err := readMessage(r, &a); err != nil {
		return Event{}, err
	}
	if a.Error != nil {
		return Event{}, a.Error.err()
	}
	if a.Event == nil {
		return Event{}, fmt.Errorf("%w: the answer holds no event", ErrInternal)
	}
	return *a.Event, nil
}

// orContext prefers the reason that the caller knows: an I/O error after ctx ended is ctx's doing. A connection
// that ends in the middle means that the supervisor did.
func orContext(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%w: the connection ended: %w", ErrNotRunning, err)
	}
	return err
}

// rightsReader reads a connection and keeps the file that comes with the bytes.
type rightsReader struct {
	conn *net.UnixConn
	file *os.File
}

// Read implements io.Reader.
func (r *rightsReader) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxPassedSockets))
	n, oobn, _, _, err := r.conn.ReadMsgUnix(p, oob)
	if oobn > 0 {
		if e := r.take(oob[:oobn]); e != nil {
			return 0, e
		}
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (r *rightsReader) take(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("parse control message: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fmt.Errorf("parse passed descriptors: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			if r.file != nil {
				_ = unix.Close(fd)
				continue
			}
			r.file = os.NewFile(uintptr(fd), "passed socket")
		}
	}
	return nil
}

// controlSocket is the path on which the supervisor of dataDir listens.
func controlSocket(dataDir string) (string, error) {
	dir, err := SocketDir(dataDir)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, controlName), nil
}
