package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

// engine drives all connections from one goroutine with poll, without the runtime's own network poller: a generator that
// shares the machine's cores with the server must cost as little as it can.
type engine struct {
	addr    *net.TCPAddr
	request []byte
	want    []byte

	pace    pace
	clients []client
	polls   []unix.PollFd
	out     Result
}

// client is one connection, opened anew when the server has closed it.
type client struct {
	fd     int // -1: not open
	n      int // requests that were sent or have failed
	busy   bool
	over   bool      // no more requests are due
	due    time.Time // of the request that is under way or comes next
	sent   time.Time
	unsent []byte // of the request that is under way
	answer answer
}

// tick is how often a run looks whether its context has ended or a request takes too long.
const tick = 100 * time.Millisecond

func (e *engine) run(ctx context.Context, cfg Config) (*Result, error) {
	e.clients = make([]client, cfg.Connections)
	e.polls = make([]unix.PollFd, cfg.Connections)
	defer func() {
		for i := range e.clients {
			e.clients[i].hangUp()
		}
	}()
	start := time.Now()
	e.pace = newPace(cfg, start)
	for i := range e.clients {
		e.clients[i].fd = -1
		e.schedule(i, start)
	}
	for {
		now := time.Now()
		wait, open := e.start(now)
		if !open || ctx.Err() != nil {
			break
		}
		timeout := &unix.Timespec{}
		if wait > 0 {
			*timeout = unix.NsecToTimespec(int64(wait))
		}
		if _, err := poll(e.polls, timeout); err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("poll: %w", err)
		}
		e.take()
	}
	return e.out.finish(start), nil
}

// schedule finds out when the client's next request is due.
func (e *engine) schedule(i int, now time.Time) {
	c := &e.clients[i]
	due, ok := e.pace.due(now, i, c.n)
	c.due, c.over = due, !ok
}

// start sends what is due and prepares the poll. It gives how long to wait at most; open is false when nothing is under
// way and nothing will be.
func (e *engine) start(now time.Time) (wait time.Duration, open bool) {
	wait = tick
	for i := range e.clients {
		c := &e.clients[i]
		p := &e.polls[i]
		*p = unix.PollFd{Fd: -1}
		if c.busy && now.Sub(c.sent) > ioTimeout {
			e.failed(i, now, fmt.Errorf("no answer in %s", ioTimeout))
		}
		if !c.busy && !c.over {
			if left := c.due.Sub(now); left > 0 {
				wait, open = min(wait, left), true
				continue
			}
			if err := e.send(c, now); err != nil {
				e.failed(i, now, err)
				wait, open = 0, true
				continue
			}
		}
		if c.busy {
			open = true
			p.Fd, p.Events = int32(c.fd), unix.POLLIN
			if len(c.unsent) > 0 {
				p.Events |= unix.POLLOUT
			}
		}
	}
	return wait, open
}

// take reads what has come. In a closed loop the next request leaves at once.
func (e *engine) take() {
	for i := range e.polls {
		if e.polls[i].Fd < 0 || e.polls[i].Revents == 0 {
			continue
		}
		c := &e.clients[i]
		err := c.flush()
		whole := false
		if err == nil {
			whole, err = c.answer.read(c.fd)
		}
		now := time.Now()
		switch {
		case err != nil:
			e.failed(i, now, fmt.Errorf("receive: %w", err))
		case whole:
			e.answered(i, now)
		default:
			continue
		}
		if c := &e.clients[i]; !c.over && !c.due.After(now) {
			if err := e.send(c, now); err != nil {
				e.failed(i, now, err)
			}
		}
	}
}

func (e *engine) answered(i int, now time.Time) {
	c := &e.clients[i]
	if err := c.answer.check(e.want); err != nil {
		e.out.fail(err)
	} else {
		e.out.Requests++
		e.out.Latencies = append(e.out.Latencies, now.Sub(c.due))
	}
	if c.answer.last {
		c.hangUp()
	}
	c.busy = false
	c.n++
	e.schedule(i, now)
}

func (e *engine) failed(i int, now time.Time, err error) {
	c := &e.clients[i]
	e.out.fail(err)
	c.hangUp()
	c.busy = false
	c.n++
	e.schedule(i, now)
}

// send begins a request.
func (e *engine) send(c *client, now time.Time) error {
	if c.fd < 0 {
		fd, err := connect(e.addr)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		c.fd = fd
	}
	c.busy, c.sent, c.unsent = true, now, e.request
	c.answer.reset()
	if err := c.flush(); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// flush sends as much of the request as the socket takes.
func (c *client) flush() error {
	for len(c.unsent) > 0 {
		n, err := unix.Write(c.fd, c.unsent)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		if err != nil {
			return err
		}
		c.unsent = c.unsent[n:]
	}
	return nil
}

func (c *client) hangUp() {
	if c.fd >= 0 {
		_ = unix.Close(c.fd) // nothing that was sent is waited for
		c.fd = -1
	}
}

// connect gives a connected socket that does not block. The server is on this machine, so connecting does not take long.
func connect(addr *net.TCPAddr) (int, error) {
	family := unix.AF_INET6
	var to unix.Sockaddr
	if four := addr.IP.To4(); four != nil {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(four)}
	} else {
		to = &unix.SockaddrInet6{Port: addr.Port, Addr: [16]byte(addr.IP.To16())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	unix.CloseOnExec(fd)
	err = unix.Connect(fd, to)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		_ = unix.Close(fd) // of no use
		return -1, err
	}
	return fd, nil
}

// check compares a whole answer with what is wanted.
func (a *answer) check(want []byte) error {
	if a.status != http.StatusOK {
		return fmt.Errorf("status %d: %.200q", a.status, a.body())
	}
	if want != nil && string(a.body()) != string(want) {
		return fmt.Errorf("answer %.200q", a.body())
	}
	return nil
}
