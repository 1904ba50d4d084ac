package http1_test

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"portico/internal/http1"
	"portico/internal/testkit"
)

const (
	part = "GET / HTTP/1.1\r\nHo" // of a head
	rest = "st: x\r\n\r\n"
)

// TestDrainMeets: what becomes of a connection that a drain finds in each of its states.
func TestDrainMeets(t *testing.T) {
	for name, f := range map[string]func(b *bubble){
		"nothing on a fresh connection": func(b *bubble) {
			c := b.dial()
			b.drain()
			c.gone(freshTimeout)
			b.end(freshTimeout)
		},
		"a first request on its way": func(b *bubble) {
			c := b.dial()
			b.drain()
			time.Sleep(freshTimeout - 1)
			c.send(good)
			c.answer(200, "", true)
			b.end(freshTimeout - 1)
		},
		"a first head that takes its time": func(b *bubble) {
			c := b.dial()
			b.drain()
			c.send(part)
			time.Sleep(paced.HeaderTimeout - 1)
			c.send(rest)
			c.answer(200, "", true)
			b.end(paced.HeaderTimeout - 1)
		},
		"a first head that takes too long": func(b *bubble) {
			c := b.dial()
			b.drain()
			c.send(part)
			c.gone(paced.HeaderTimeout)
			b.end(paced.HeaderTimeout)
		},
		"part of a first head": func(b *bubble) {
			c := b.dial()
			c.send(part)
			b.drain()
			time.Sleep(paced.HeaderTimeout - 1)
			c.send(rest)
			c.answer(200, "", true)
			b.end(paced.HeaderTimeout - 1)
		},
		"an idle connection": func(b *bubble) {
			c := b.dial()
			c.send(good)
			c.answer(200, "", false)
			b.drain()
			c.gone(0)
			b.end(0)
		},
		"part of a second head": func(b *bubble) {
			c := b.dial()
			c.write(good + part)
			c.answer(200, "", false)
			b.drain()
			time.Sleep(paced.HeaderTimeout - 1)
			c.send(rest)
			c.answer(200, "", true)
			b.end(paced.HeaderTimeout - 1)
		},
		"part of a body": func(b *bubble) {
			c := b.dial()
			c.send(post("abc")[:len(post("abc"))-2])
			b.drain()
			time.Sleep(paced.BodyTimeout - 1)
			c.send("bc")
			c.answer(200, "abc", true)
			b.end(paced.BodyTimeout - 1)
		},
		"a request that waits": func(b *bubble) {
			c := b.dial()
			c.send(get("/wait"))
			b.drain()
			time.Sleep(time.Hour)
			b.goOn <- struct{}{}
			c.answer(200, "", true)
			b.end(time.Hour)
		},
		"a request that waits, another behind it": func(b *bubble) {
			c := b.dial()
			c.send(get("/wait"))
			c.send(good)
			b.drain()
			b.goOn <- struct{}{}
			c.answer(200, "", true) // so the caller sends the other one elsewhere
			c.gone(0)
			b.end(lingerTimeout)
		},
		"an answer": func(b *bubble) {
			c := b.dial()
			c.send(get("/begin"))
			c.from.Peek(1)
			b.drain()
			b.goOn <- struct{}{}
			c.answer(200, "abcde", false)
			c.gone(0)
			b.end(0)
		},
		"an answer, another request behind it": func(b *bubble) {
			c := b.dial()
			c.send(get("/begin") + good)
			c.from.Peek(1)
			b.drain()
			b.goOn <- struct{}{}
			c.answer(200, "abcde", false) // so the other one counts
			c.answer(200, "", true)
			b.end(0)
		},
		"an answer, part of a request behind it": func(b *bubble) {
			c := b.dial()
			c.send(get("/begin") + part)
			c.from.Peek(1)
			b.drain()
			b.goOn <- struct{}{}
			c.answer(200, "abcde", false)
			time.Sleep(paced.HeaderTimeout - 1)
			c.send(rest)
			c.answer(200, "", true)
			b.end(paced.HeaderTimeout - 1)
		},
		"an answer that is not taken": func(b *bubble) {
			c := b.dial()
			c.send(good)
			b.drain()
			b.end(paced.WriteTimeout)
		},
		"a body that nobody wants": func(b *bubble) {
			c := b.dial()
			c.send("POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na")
			c.answer(401, "no", false)
			b.drain()
			c.send("bc")
			c.gone(0)
			b.end(0)
		},
		"a goodbye": func(b *bubble) {
			c := b.dial()
			c.send("POST /last HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na")
			c.answer(401, "no", true)
			b.drain()
			c.closed(lingerTimeout)
			b.end(lingerTimeout)
		},
	} {
		t.Run(name, func(t *testing.T) { inBubble(t, paced, f) })
	}
}

// TestDrainMeetsArrivals: a drain that begins at the moment at which something else happens.
func TestDrainMeetsArrivals(t *testing.T) {
	same := paced
	same.IdleTimeout = same.HeaderTimeout // so that a bound that was in force is wanted again
	// meet gives what begins a drain, and what waits until it has begun.
	meet := func(b *bubble) (drain, wait func()) {
		begun := make(chan struct{})
		return func() { b.drain(); close(begun) }, func() { <-begun; synctest.Wait() }
	}
	for name, f := range map[string]func(b *bubble){
		"a first request": func(b *bubble) {
			c := b.dial()
			c.side.arrived, _ = meet(b)
			c.write(good)
			c.answer(200, "", true)
			b.end(0)
		},
		"part of a first head": func(b *bubble) {
			c := b.dial()
			drain, wait := meet(b)
			c.side.arrived = drain
			c.write(part)
			wait()
			time.Sleep(same.HeaderTimeout - 1)
			c.send(rest)
			c.answer(200, "", true)
			b.end(same.HeaderTimeout - 1)
		},
		"a next request": func(b *bubble) {
			c := b.dial()
			c.send(good)
			c.answer(200, "", false)
			c.side.arrived, _ = meet(b)
			c.write(post("abc"))
			c.answer(200, "abc", true)
			b.end(0)
		},
		"part of a next head": func(b *bubble) {
			c := b.dial()
			c.send(good)
			c.answer(200, "", false)
			drain, wait := meet(b)
			c.side.arrived = drain
			c.write(part)
			wait()
			time.Sleep(same.HeaderTimeout - 1)
			c.send(rest)
			c.answer(200, "", true)
			b.end(same.HeaderTimeout - 1)
		},
		"part of a body": func(b *bubble) {
			c := b.dial()
			c.send(good)
			c.answer(200, "", false)
			drain, wait := meet(b)
			c.side.arrived = drain
			c.write(post("abc")[:len(post("abc"))-1])
			wait()
			c.send("c")
			c.answer(200, "abc", true)
			b.end(0)
		},
		"a request that is watched": func(b *bubble) {
			c := b.dial()
			c.send(good)
			c.answer(200, "", false)
			drain, wait := meet(b)
			c.side.arrived = drain
			c.write(get("/wait"))
			wait()
			b.goOn <- struct{}{}
			c.answer(200, "", true)
			b.end(0)
		},
		"the wait for a first request": func(b *bubble) {
			c := b.pipe()
			drain, wait := meet(b)
			c.side.bounding = drain
			b.l.conns <- c.side
			wait()
			c.gone(freshTimeout)
			b.end(freshTimeout)
		},
		"the wait for a next request": func(b *bubble) {
			c := b.dial()
			time.Sleep(same.IdleTimeout / 2) // so that another bound is wanted than for the first
			drain, wait := meet(b)
			c.side.bounding = drain
			c.write(good)
			if a := testkit.ReadAnswer(c.from, "GET"); a.Status != 200 || a.Close {
				b.t.Errorf("got %+v", a)
			}
			wait()
			c.gone(0)
			b.end(0)
		},
		"a connection that was accepted": func(b *bubble) {
			drain, wait := meet(b)
			b.l.passed = drain
			c := b.pipe()
			b.l.conns <- c.side
			wait()
			c.gone(0)
			b.end(0)
		},
	} {
		t.Run(name, func(t *testing.T) { inBubble(t, same, f) })
	}
}

// TestDrainCutsOff: with its context Drain's patience ends, whatever a connection is doing. It still waits for the requests.
func TestDrainCutsOff(t *testing.T) {
	for name, c := range map[string]struct {
		sent  string
		after time.Duration
	}{
		"a fresh connection": {"", 0}, "part of a head": {part, 0}, "part of a body": {post("abc")[:len(post("abc"))-1], 0},
		"a request that waits": {get("/wait"), 0}, "a request that is slow to end": {get("/slow"), time.Second},
		"an answer that is not taken": {good, 0}, "an answer that goes on": {get("/begin"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, paced, func(b *bubble) {
				far := b.dial()
				far.send(c.sent)
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				begun := time.Now()
				if err := b.server.Drain(ctx); !errors.Is(err, context.Canceled) || time.Since(begun) != c.after {
					t.Errorf("got %v after %v", err, time.Since(begun))
				}
				far.gone(0)
			})
		})
	}
}

// TestDrainEndsServe: at once, whatever Serve waits for.
func TestDrainEndsServe(t *testing.T) {
	cfg := paced
	cfg.MaxConnections = 1
	for name, begin := range map[string]func(b *bubble){
		"a connection": func(*bubble) {},
		"a place for one": func(b *bubble) {
			b.dial().send(get("/wait"))
		},
		"better times": func(b *bubble) {
			synctest.Wait()
			b.l.fails <- syscall.EMFILE
			c := b.dial() // for which Serve had tried to accept before
			c.to.Close()
			synctest.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, cfg, func(b *bubble) {
				begin(b)
				b.drain()
				select {
				case err := <-b.served:
					if err != nil {
						t.Error(err)
					}
				default:
					t.Error("it goes on")
				}
				close(b.goOn)
			})
		})
	}
}

// TestAcceptFails: what passes is waited for, longer each time, and what does not is told.
func TestAcceptFails(t *testing.T) {
	inBubble(t, paced, func(b *bubble) {
		synctest.Wait() // Serve has begun to accept
		for fails, want := range map[int]time.Duration{1: 5 * time.Millisecond, 3: 35 * time.Millisecond} {
			for _, err := range []error{syscall.EMFILE, syscall.ENOBUFS, syscall.ECONNABORTED}[:fails] {
				b.l.fails <- err
			}
			b.dial() // which was awaited before
			begun := time.Now()
			c := b.dial()
			if d := time.Since(begun); d != want {
				t.Errorf("after %d failures it had paused for %v", fails, d)
			}
			c.send(good)
			c.answer(200, "", false)
		}
		b.l.fails <- syscall.EINVAL
		b.dial()
		if err := <-b.served; !errors.Is(err, syscall.EINVAL) {
			t.Errorf("got %v", err)
		}
	})
}

// TestMaxConnections: one connection more than allowed waits, and is served when another closes.
func TestMaxConnections(t *testing.T) {
	inBubble(t, http1.Config{MaxConnections: 1}, func(b *bubble) {
		one, two := b.dial(), b.pipe()
		entered := make(chan struct{})
		go func() { b.l.conns <- two.side; close(entered) }()
		one.send(good)
		one.answer(200, "", false)
		select {
		case <-entered:
			t.Error("a second connection is taken")
		default:
		}
		one.to.Close()
		<-entered
		two.send(good)
		two.answer(200, "", false)
		b.drain()
		b.end(0)
	})
}

var _ net.Listener = (*door)(nil)
