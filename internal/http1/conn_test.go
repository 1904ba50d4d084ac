package http1_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"portico/internal/http1"
	"portico/internal/testkit"
)

func TestAnswers(t *testing.T) {
	date := http1.Field{Name: "date", Value: "then"}
	s := newSite(t, func(_ context.Context, r *http1.Request) {
		switch r.Path {
		case "/stream":
			r.Begin(200, nil, -1, false)
			r.Write([]byte("one"))
			r.Write(nil)
			r.Write([]byte(strings.Repeat("2", 100<<10)))
		case "/long":
			r.Begin(200, nil, 200<<10, false)
			r.Write([]byte(strings.Repeat("l", 100<<10)))
			r.Write([]byte(strings.Repeat("l", 100<<10)))
		case "/empty":
			r.Begin(204, nil, 0, false)
		case "/fields":
			reply(r, 424, "x", date, http1.Field{Name: "A", Value: "b\r\nC: d\x00"}, http1.Field{Name: "bad name", Value: "1"},
				http1.Field{Name: "connection", Value: "close"}, http1.Field{Name: "Content-Length", Value: "7"},
				http1.Field{Name: "transfer-encoding", Value: "gzip"}, http1.Field{Name: "B", Value: "1"}, http1.Field{Name: "B", Value: "2"})
		case "/hangup":
			r.Begin(200, nil, 1, true)
			r.Write([]byte("x"))
		default:
			reply(r, 200, "text")
		}
	}, http1.Config{})
	conn := testkit.Dial(t, s.addr)
	r := bufio.NewReader(conn)
	ask := func(method, path string, fields ...string) testkit.Answer {
		io.WriteString(conn, method+strings.TrimPrefix(get(path, fields...), "GET"))
		return testkit.ReadAnswer(r, method)
	}
	if a := ask("GET", "/stream"); a.Body != "one"+strings.Repeat("2", 100<<10) || a.Header.Get("Content-Length") != "" {
		t.Errorf("stream: %d bytes %v", len(a.Body), a.Header)
	}
	if a := ask("GET", "/long"); a.Body != strings.Repeat("l", 200<<10) || a.Header.Get("Content-Length") != "204800" {
		t.Errorf("long: %d bytes %v", len(a.Body), a.Header)
	}
	for _, path := range []string{"/", "/stream", "/long"} {
		if a := ask("HEAD", path); a.Status != 200 || a.Body != "" || (a.Header.Get("Content-Length") == "") != (path == "/stream") {
			t.Errorf("HEAD of %s: %+v", path, a)
		}
	}
	if a := ask("GET", "/empty"); a.Status != 204 || a.Header.Get("Content-Length") != "" {
		t.Errorf("204: %+v", a)
	}
	a := ask("GET", "/fields")
	if a.Status != 424 || a.Header.Get("A") != "b  C: d" || a.Header.Get("Date") != "then" || len(a.Header.Values("B")) != 2 ||
		a.Header.Get("Bad name") != "" || a.Header.Get("Connection") != "" || a.Header.Get("Content-Length") != "1" || a.Header.Get("C") != "" {
		t.Errorf("fields: %+v", a)
	}
	a = ask("GET", "/")
	if d, err := time.Parse("Mon, 02 Jan 2006 15:04:05 GMT", a.Header.Get("Date")); err != nil || time.Since(d).Abs() > time.Minute {
		t.Errorf("date: %v, %v", a.Header, err)
	}
	if a := ask("GET", "/hangup"); a.Body != "x" || !a.Close {
		t.Errorf("the last one: %+v", a)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("the connection is open: %v", err)
	}
	for request, want := range map[string]string{
		"GET /stream HTTP/1.0\r\n\r\n":                     "HTTP/1.1 200 OK\r\n*Connection: close\r\n\r\none" + strings.Repeat("2", 100<<10),
		"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n": "HTTP/1.1 200 OK\r\n*Content-Length: 4\r\nConnection: keep-alive\r\n\r\ntext",
	} {
		conn := testkit.Dial(t, s.addr)
		io.WriteString(conn, request)
		conn.CloseWrite()
		all, err := io.ReadAll(conn)
		begin, end, _ := strings.Cut(want, "*")
		if err != nil || !strings.HasPrefix(string(all), begin) || !strings.HasSuffix(string(all), end) {
			t.Errorf("%q: %.300q %v", request, all, err)
		}
	}
}

// TestBrokenAnswers: an answer that is not whole must not look whole, and nothing follows it.
func TestBrokenAnswers(t *testing.T) {
	for name, h := range map[string]handler{
		"nothing":   func(context.Context, *http1.Request) {},
		"too short": func(_ context.Context, r *http1.Request) { r.Begin(200, nil, 5, false); r.Write([]byte("abc")) },
		"too long":  func(_ context.Context, r *http1.Request) { r.Begin(200, nil, 2, false); r.Write([]byte("abc")) },
		"aborted": func(_ context.Context, r *http1.Request) {
			r.Begin(200, nil, -1, false)
			r.Write([]byte("abc"))
			r.Abort()
		},
		"gives up": func(_ context.Context, r *http1.Request) { r.Abort() },
		"panics":   func(context.Context, *http1.Request) { panic("on purpose") },
		"panics later": func(_ context.Context, r *http1.Request) {
			r.Begin(200, nil, -1, false)
			r.Write([]byte("abc"))
			r.Flush()
			panic("likewise")
		},
	} {
		s := newSite(t, h, http1.Config{})
		for _, a := range testkit.Talk(t, s.addr, good+good, 1000) {
			if a.Status > 0 {
				t.Errorf("%s: %+v", name, a)
			}
		}
	}
}

func TestExpectation(t *testing.T) {
	s := newSite(t, func(ctx context.Context, r *http1.Request) {
		if r.Path == "/refused" {
			reply(r, 401, "no")
			return
		}
		echo(ctx, r)
	}, http1.Config{})
	head := "POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n"
	conn := testkit.Dial(t, s.addr)
	r := bufio.NewReader(conn)
	for range 2 {
		fmt.Fprintf(conn, head, "/")
		if line, err := r.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("got %q, %v", line, err)
		}
		r.ReadString('\n')
		io.WriteString(conn, "abc")
		if a := testkit.ReadAnswer(r, "POST"); a.Body != "abc" {
			t.Errorf("%+v", a)
		}
	}
	fmt.Fprintf(conn, head+"abc", "/") // who does not wait is not told
	if a := testkit.ReadAnswer(r, "POST"); a.Status != 200 || a.Body != "abc" {
		t.Errorf("%+v", a)
	}
	// Whether the body of a refused request comes is not known, so nothing can follow it.
	fmt.Fprintf(conn, head, "/refused")
	if a := testkit.ReadAnswer(r, "POST"); a.Status != 401 || !a.Close {
		t.Errorf("%+v", a)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("the connection is open: %v", err)
	}
}

// TestHangUp: whoever waits on the context learns that the caller is gone, from whatever goroutine.
func TestHangUp(t *testing.T) {
	t.Parallel()
	started, ended := make(chan struct{}), make(chan error, 1)
	s := newSite(t, func(ctx context.Context, r *http1.Request) {
		if _, err := everything(r); err != nil {
			t.Error(err)
		}
		var wg sync.WaitGroup
		var derived atomic.Bool
		child, cancel := context.WithCancel(ctx)
		defer cancel()
		stop := context.AfterFunc(child, func() { derived.Store(true) })
		wg.Go(func() { <-ctx.Done() })
		close(started)
		select {
		case <-ctx.Done():
		case <-time.After(testkit.Limit):
		}
		wg.Wait()
		<-child.Done()
		if stop() {
			t.Error("a function of a derived context was not called")
		}
		ended <- ctx.Err()
	}, http1.Config{})
	conn := testkit.Dial(t, s.addr)
	io.WriteString(conn, post("abc"))
	<-started
	conn.Close()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestAhead: a caller who sends the next request while one runs is there, and is answered in order.
func TestAhead(t *testing.T) {
	started := make(chan struct{}, 10)
	goOn := make(chan struct{})
	s := newSite(t, func(ctx context.Context, r *http1.Request) {
		if r.Path != "/wait" {
			echo(ctx, r)
			return
		}
		done := ctx.Done()
		started <- struct{}{}
		select {
		case <-goOn:
			reply(r, 200, "waited")
		case <-done:
			t.Error("the caller is there")
		}
		select {
		case <-done:
			t.Error("the request goes on")
		default:
		}
	}, http1.Config{})
	for _, split := range []int{0, 1, 5} { // how much of what follows comes together with the first request
		conn := testkit.Dial(t, s.addr)
		r := bufio.NewReader(conn)
		for range 3 {
			follows := post("next") + post("over next")
			io.WriteString(conn, get("/wait")+follows[:split])
			<-started
			io.WriteString(conn, follows[split:])
			time.Sleep(time.Millisecond) // for the bytes to be seen, which is not needed
			goOn <- struct{}{}
			for _, want := range []string{"waited", "next", "over next"} {
				if a := testkit.ReadAnswer(r, "POST"); a.Body != want {
					t.Fatalf("got %+v, want %s", a, want)
				}
			}
		}
	}
}

// TestUnread: the body of a request that was answered without it is passed over, if it is short and comes soon.
func TestUnread(t *testing.T) {
	s := newSite(t, func(_ context.Context, r *http1.Request) { reply(r, 401, "no") }, http1.Config{})
	chunked := "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, c := range map[string]struct {
		bytes string
		n     int
	}{
		"short":             {post("abc") + post("abc"), 2},
		"longer":            {post(strings.Repeat("a", 200<<10)) + post("abc"), 2},
		"too long":          {post(strings.Repeat("a", 300<<10)) + post("abc"), 1},
		"chunked":           {chunked + "3\r\nabc\r\n0\r\n\r\n" + post("abc"), 2},
		"chunked, too long": {chunked + strings.Repeat("5\r\nabcde\r\n", 100<<10) + "0\r\n\r\n" + post("abc"), 1},
		"chunked, bad":      {chunked + "3\r\nabcd\r\n0\r\n\r\n" + post("abc"), 1},
	} {
		if got := testkit.Talk(t, s.addr, c.bytes, 1<<30); len(got) != c.n || got[0].Status != 401 {
			t.Errorf("%s: %v, want %d", name, got, c.n)
		}
	}
}

// TestTimeouts: deadlines are those of real connections too. What each of them bounds is proved in deadline_test.go.
func TestTimeouts(t *testing.T) {
	const short = 50 * time.Millisecond
	huge := []byte(strings.Repeat("x", 64<<20))
	failed := make(chan error, 1)
	s := newSite(t, func(ctx context.Context, r *http1.Request) {
		switch r.Path {
		case "/huge":
			r.Begin(200, nil, int64(len(huge)), false)
			_, err := r.Write(huge)
			failed <- err
		case "/deadline":
			r.SetReadDeadline(time.Now().Add(short))
			if _, err := everything(r); !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
				t.Errorf("got %v, %v", err, ctx.Err())
			}
			r.Begin(408, nil, 0, true)
		default:
			echo(ctx, r)
		}
	}, http1.Config{IdleTimeout: short, WriteTimeout: short})
	for sent, want := range map[string]int{good: 200, "POST /deadline HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n": 408} {
		conn := testkit.Dial(t, s.addr)
		io.WriteString(conn, sent)
		r := bufio.NewReader(conn)
		if a := testkit.ReadAnswer(r, "GET"); a.Status != want {
			t.Errorf("%+v, want %d", a, want)
		}
		if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("after %d: %v", want, err)
		}
	}
	io.WriteString(testkit.Dial(t, s.addr), get("/huge"))
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an answer that is not taken: %v", err)
	}
}

func TestDrain(t *testing.T) {
	started, goOn := make(chan struct{}), make(chan struct{})
	var open atomic.Int64
	s := newSite(t, func(ctx context.Context, r *http1.Request) {
		if r.Path == "/wait" {
			close(started)
			<-goOn
		}
		echo(ctx, r)
	}, http1.Config{Connection: func(n int) { open.Add(int64(n)) }})
	idle, running := testkit.Dial(t, s.addr), testkit.Dial(t, s.addr)
	io.WriteString(idle, good)
	if a := testkit.ReadAnswer(bufio.NewReader(idle), "GET"); a.Status != 200 || a.Close {
		t.Fatalf("%+v", a)
	}
	io.WriteString(running, get("/wait"))
	<-started
	testkit.Until(t, "two connections", func() bool { return open.Load() == 2 })
	drained := make(chan error, 1)
	go func() { drained <- s.server.Drain(context.Background()) }()
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection: %v", err)
	}
	select {
	case err := <-drained:
		t.Fatalf("drained with a request under way: %v", err)
	default:
	}
	close(goOn)
	if a := testkit.ReadAnswer(bufio.NewReader(running), "GET"); a.Status != 200 || !a.Close {
		t.Errorf("a request under way: %+v", a)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if n := open.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
	if conn, err := net.Dial("tcp", s.addr); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}
