package inference

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"portico/internal/compute"
)

// scripted is a Launcher whose only worker is this process: it speaks the protocol and answers with whatever bytes
// a test wants.
type scripted struct {
	answer func(conn net.Conn, request *http.Request)
	wg     sync.WaitGroup
}

type scriptedProcess struct {
	once sync.Once
	done chan struct{}
	end  func()
}

func (s *scripted) Launch(_ context.Context, spec WorkerSpec) (Process, error) {
	if err := remove(spec.Socket); err != nil {
		return nil, err
	}
	if err := os.WriteFile(spec.Page, make([]byte, PageSize), 0o600); err != nil {
		return nil, err
	}
	ln, err := net.Listen("unix", spec.Socket)
	if err != nil {
		return nil, err
	}
	pg, err := openPage(spec.Page)
	if err != nil {
		return nil, err
	}
	p := &scriptedProcess{done: make(chan struct{})}
	p.end = func() { p.once.Do(func() { ln.Close(); close(p.done) }) }
	pg.store(offHead, pageMagic|uint64(pageReady)<<32)
	s.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { s.serve(conn, pg) })
		}
	})
	return p, nil
}

func (s *scripted) serve(conn net.Conn, pg *page) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, request.Body); err != nil {
			return
		}
		n, err := strconv.ParseUint(request.Header.Get("X-Portico-Number"), 10, 64)
		if err != nil {
			return
		}
		pg.store(offNewest, n)
		pg.store(offRunning, n)
		s.answer(conn, request)
		pg.store(offFinished, pg.finished()+1)
		pg.store(offRunning, 0)
	}
}

func (p *scriptedProcess) PID() int              { return os.Getpid() }
func (p *scriptedProcess) Started() time.Time    { return time.Time{} }
func (p *scriptedProcess) Done() <-chan struct{} { return p.done }
func (p *scriptedProcess) Exit() compute.Exit    { return compute.Exit{Code: 0, At: time.Now()} }
func (p *scriptedProcess) Signal(_ context.Context, sig syscall.Signal) error {
	if sig != syscall.SIGUSR1 {
		p.end()
	}
	return nil
}

func scriptedPool(t *testing.T, answer func(net.Conn, *http.Request)) *Pool {
	t.Helper()
	s := &scripted{answer: answer}
	t.Cleanup(s.wg.Wait) // after the pool's own cleanup
	p := newPool(t, s, PoolConfig{MaxConcurrent: 4})
	waitState(t, p, StateReady)
	return p
}

func TestPoolStreams(t *testing.T) {
	next := make(chan string)
	p := scriptedPool(t, func(conn net.Conn, _ *http.Request) {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-a: b\r\n\r\n")
		for part := range next {
			if part == "" {
				break
			}
			_, _ = io.WriteString(conn, strconv.FormatInt(int64(len(part)), 16)+";ext=1\r\n"+part+"\r\n")
		}
		_, _ = io.WriteString(conn, "0\r\ntrailer: x\r\n\r\n")
	})
	for range 2 { // the second over the same connection
		answer, err := p.Do(t.Context(), newCall("x", callTimeout))
		if err != nil {
			t.Fatal(err)
		}
		if answer.ContentLength != -1 || answer.Get("X-A") != "b" {
			t.Errorf("answer %+v", answer)
		}
		for _, part := range []string{"one", strings.Repeat("two", 100)} {
			next <- part
			got := make([]byte, len(part))
			if _, err := io.ReadFull(answer.Body, got); err != nil || string(got) != part {
				t.Fatalf("%q, %v; want %q before the answer ends", got, err, part)
			}
		}
		if s := p.Status(); s.Executing != 1 {
			t.Errorf("%d executing while the answer comes", s.Executing)
		}
		next <- ""
		if rest, err := io.ReadAll(answer.Body); err != nil || len(rest) != 0 {
			t.Errorf("after the end: %q, %v", rest, err)
		}
		_ = answer.Body.Close()
		waitStatus(t, p, "idle", func(s Status) bool { return s.Executing == 0 })
	}
	close(next)
}

func TestPoolStreamIsAbandoned(t *testing.T) {
	gone := make(chan struct{}, 4)
	p := scriptedPool(t, func(conn net.Conn, _ *http.Request) {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
		_, _ = io.Copy(io.Discard, conn) // until the reader hangs up
		gone <- struct{}{}
	})
	for name, leave := range map[string]func(*Answer, context.CancelFunc) error{
		"close": func(a *Answer, _ context.CancelFunc) error { return a.Body.Close() },
		"hang up": func(a *Answer, cancel context.CancelFunc) error {
			cancel()
			if _, err := io.ReadAll(a.Body); !errors.Is(err, context.Canceled) {
				return errors.Join(errors.New("read after the hang-up"), err)
			}
			return a.Body.Close()
		},
		"deadline": func(a *Answer, _ context.CancelFunc) error {
			if _, err := io.ReadAll(a.Body); !errors.Is(err, ErrDeadline) {
				return errors.Join(errors.New("read after the deadline"), err)
			}
			return a.Body.Close()
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		timeout := 30 * time.Second
		if name == "deadline" {
			timeout = 200 * time.Millisecond
		}
		answer, err := p.Do(ctx, newCall("x", timeout))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := leave(answer, cancel); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		<-gone // the worker noticed
		waitStatus(t, p, "idle", func(s Status) bool { return s.Executing == 0 })
	}
}

// TestPoolBrokenAnswers: what breaks the protocol fails that one request, and the next one is served.
func TestPoolBrokenAnswers(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\n"
	for _, answer := range []string{
		"", "HTTP/1.1 2", "garbage\r\n\r\n", ok + "\r\n", ok + "content-length: 9\r\n\r\nabc",
		ok + "content-length: 3000000\r\n\r\nabc", ok + "x: " + strings.Repeat("y", maxAnswerHead) + "\r\n\r\n",
		ok + "transfer-encoding: chunked\r\n\r\n5\r\nab", ok + "transfer-encoding: chunked\r\n\r\nxyz\r\n",
		ok + "transfer-encoding: chunked\r\n\r\n2\r\nabcd\r\n",
		ok + "transfer-encoding: chunked\r\n\r\n" + strings.Repeat("1", 500),
		ok + "transfer-encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("a: b\r\n", maxAnswerFields+1) + "\r\n",
		ok + "transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
	} {
		t.Run(fmt.Sprintf("%.40q", answer), func(t *testing.T) {
			t.Parallel()
			brokenAnswer(t, answer)
		})
	}
}

func brokenAnswer(t *testing.T, answer string) {
	stop := make(chan struct{})
	p := scriptedPool(t, func(conn net.Conn, r *http.Request) {
		if r.Header.Get("Good") != "" {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
			return
		}
		_, _ = io.WriteString(conn, answer)
		_ = conn.Close()
		<-stop // it goes on executing
	})
	if answer != "" {
		close(stop)
	}
	_, _, err := score(t.Context(), p, "x", callTimeout)
	var gone *LostError
	if !errors.As(err, &gone) {
		t.Errorf("%v, want a LostError", err)
	}
	if answer == "" {
		close(stop)
	}
	call := newCall("x", callTimeout)
	call.Header = append(call.Header, Field{Name: "good", Value: "1"})
	if got, err := p.Do(t.Context(), call); err != nil || got.Status != 200 {
		t.Errorf("the call after it: %v", err)
	}
}

// TestPoolStreamBreaksOff: a worker that ends a request in the middle of its stream is as good as before. Nobody waits for
// its death, or doubts it.
func TestPoolStreamBreaksOff(t *testing.T) {
	p := newPool(t, newProcesses(t, "def init(): pass\n"+`
from azureml_inference_server_http.api.aml_response import AMLResponse
def pieces():
    yield "a"
    raise ValueError
def run(raw_data): return AMLResponse(pieces(), 200)
`), PoolConfig{})
	waitState(t, p, StateReady)
	for range 3 {
		answer, err := p.Do(t.Context(), newCall("x", callTimeout))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		var lost *LostError
		if string(got) != "a" || !errors.As(err, &lost) || lost.Cause != "the scoring script broke its stream off" {
			t.Errorf("%q and %v", got, err)
		}
	}
}

// TestPoolPrefetch: under load of short requests a worker gets a second connection, and what waits behind a long
// request is taken back and served by another worker.
func TestPoolPrefetch(t *testing.T) {
	p := newPool(t, newProcesses(t, mixScript), PoolConfig{Workers: 2, MaxConcurrent: 8})
	waitState(t, p, StateReady)
	load := func(calls int) {
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				for range calls {
					if status, _, err := score(t.Context(), p, "x", callTimeout); err != nil || status != 200 {
						t.Errorf("a short call: %d %v", status, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	// A machine that is short of time runs a script for longer than is worth a second connection, but not always.
	waitStatus(t, p, "a worker with two connections in use", func(Status) bool {
		load(100)
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.workers[0].inc.lanes[1].link != nil || p.workers[1].inc.lanes[1].link != nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _, _, _ = score(ctx, p, "sleep 600", 700*time.Second) }) // canceled below
	// The time of a call is enough only if nobody waits for the sleeper.
	load(500)
	cancel()
	wg.Wait()
}

func TestHTTPUpstreamErrors(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	answer := ""
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				for r := bufio.NewReader(conn); ; {
					request, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, request.Body)
					mu.Lock()
					say := answer
					mu.Unlock()
					if _, _ = io.WriteString(conn, say); say == "" || strings.Contains(say, "broken") {
						return
					}
				}
			})
		}
	})
	u := NewHTTPUpstream("pod", ln.Addr().String(), 2)
	empty := "content-length: 0\r\n\r\n"
	for _, c := range []struct {
		name, say string
		want      error // nil: a LostError
	}{
		{"busy", "HTTP/1.1 503 X\r\nx-portico-not-started: busy\r\n" + empty, ErrBusy},
		{"closed", "HTTP/1.1 503 X\r\nX-Portico-Not-Started: closed\r\n" + empty, ErrClosed},
		{"deadline", "HTTP/1.1 408 X\r\nx-portico-not-started: deadline\r\n" + empty, ErrDeadline},
		{"lost", "HTTP/1.1 502 X\r\nx-portico-lost: the worker exited\r\n" + empty, nil},
		{"silent", "", nil},
		{"half", "HTTP/1.1 200 OK\r\nbroken", nil},
		{"garbage", "broken\r\n\r\n", nil},
	} {
		mu.Lock()
		answer = c.say
		mu.Unlock()
		for range 2 { // on a new connection and on a kept one
			_, _, err := score(t.Context(), u, "x", callTimeout)
			var gone *LostError
			if c.want != nil && !errors.Is(err, c.want) || c.want == nil && !errors.As(err, &gone) {
				t.Errorf("%s: %v", c.name, err)
			}
			if c.name == "lost" && gone != nil && gone.Cause != "the worker exited" {
				t.Errorf("cause %q", gone.Cause)
			}
		}
	}
	if _, _, err := score(t.Context(), u, "x", -time.Second); !errors.Is(err, ErrDeadline) {
		t.Errorf("a call that is late already: %v", err)
	}
	u.Close()
	_ = ln.Close()
	wg.Wait()
	if _, _, err := score(t.Context(), u, "x", time.Second); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	u = NewHTTPUpstream("pod", ln.Addr().String(), 2)
	if _, _, err := score(t.Context(), u, "x", callTimeout); !errors.Is(err, ErrClosed) {
		t.Errorf("nobody listens: %v, want ErrClosed", err)
	}
}
