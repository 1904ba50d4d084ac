package http1_test

import (
	"portico/internal/testkit"
	"testing"
	"testing/synctest"
	"time"
)

// TestNobodyIsSlowForLong: what is waited for is bounded.
func TestNobodyIsSlowForLong(t *testing.T) {
	chunked := "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na"
	for name, f := range map[string]func(c *caller){
		"nothing": func(c *caller) { c.gone(paced.HeaderTimeout) },
		"part of a line": func(c *caller) {
			time.Sleep(time.Second)
			c.send("GET")
			c.gone(paced.HeaderTimeout - time.Second)
		},
		"part of a head": func(c *caller) { c.send(part); c.gone(paced.HeaderTimeout) },
		"a head that trickles": func(c *caller) {
			c.write(part + "st: x\r\n")
			for range paced.HeaderTimeout/time.Second - 1 {
				time.Sleep(time.Second)
				c.write("X: 1\r\n")
			}
			c.gone(time.Second)
		},
		"no second request": func(c *caller) {
			c.send(good)
			c.answer(200, "", false)
			c.gone(paced.IdleTimeout)
		},
		"part of a second head": func(c *caller) {
			c.send(good)
			c.answer(200, "", false)
			time.Sleep(paced.IdleTimeout - 1)
			c.send(part)
			c.gone(paced.HeaderTimeout)
		},
		"part of a second head at once": func(c *caller) {
			c.write(good + part)
			c.answer(200, "", false)
			c.gone(paced.HeaderTimeout)
		},
		"a second head that trickles": func(c *caller) {
			c.send(good)
			c.answer(200, "", false)
			c.write(part + "st: x\r\n")
			for range paced.HeaderTimeout/time.Second - 1 {
				time.Sleep(time.Second)
				c.write("X: 1\r\n")
			}
			c.gone(time.Second)
		},
		"part of a body": func(c *caller) {
			c.send(post("abc")[:len(post("abc"))-1])
			c.quiet(paced.BodyTimeout)
			c.answer(400, "", true)
			c.gone(0)
			c.closed(lingerTimeout)
		},
		"part of a chunk": func(c *caller) {
			c.send(chunked)
			c.quiet(paced.BodyTimeout)
			c.answer(400, "", true)
			c.gone(0)
			c.closed(lingerTimeout)
		},
		"part of a chunk's line": func(c *caller) {
			c.send(chunked + "bc\r\n1")
			c.quiet(paced.BodyTimeout)
			c.answer(400, "", true)
		},
		"a body that trickles": func(c *caller) {
			c.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
			for range paced.BodyTimeout/time.Second - 1 {
				time.Sleep(time.Second)
				c.write("a")
			}
			c.quiet(time.Second)
			c.answer(400, "", true)
		},
		"a body with a bound of its own": func(c *caller) {
			c.send("POST /bounded HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
			c.quiet(time.Second)
			c.answer(400, "", true)
		},
		"an answer with a bound of its own": func(c *caller) { c.send(get("/bounded")); c.closed(2 * time.Second) },
		"an answer that is not taken":       func(c *caller) { c.send(good); c.closed(paced.WriteTimeout) },
		"a long answer that is not taken":   func(c *caller) { c.send(get("/long")); c.closed(paced.WriteTimeout) },
		"a refusal that is not taken":       func(c *caller) { c.send("\r\n"); c.closed(paced.WriteTimeout) },
		"a body that nobody wants": func(c *caller) {
			c.send("POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na")
			c.answer(401, "no", false)
			c.gone(unreadTimeout)
			c.closed(lingerTimeout)
		},
		"a goodbye": func(c *caller) {
			c.send("POST /last HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na")
			c.answer(401, "no", true)
			c.gone(0)
			time.Sleep(lingerTimeout / 2)
			c.write("bc and more") // which is thrown away
			c.closed(lingerTimeout / 2)
		},
		"a refusal's goodbye": func(c *caller) {
			c.send("\r\n")
			c.refused(400)
			c.gone(0)
			c.closed(lingerTimeout)
		},
	} {
		t.Run(name, func(t *testing.T) { inBubble(t, paced, func(b *bubble) { f(b.dial()) }) })
	}
}

// TestBoundsEnd: what bounds one wait of a connection does not bound the next one.
func TestBoundsEnd(t *testing.T) {
	for name, f := range map[string]func(b *bubble, c *caller){
		"a first head, then a body": func(_ *bubble, c *caller) {
			time.Sleep(paced.HeaderTimeout - 1)
			c.send(post("abc")[:len(post("abc"))-1])
			time.Sleep(paced.BodyTimeout - 1)
			c.send("c")
			c.answer(200, "abc", false)
		},
		"requests, one after the other": func(_ *bubble, c *caller) {
			for range 10 {
				time.Sleep(paced.HeaderTimeout - 1)
				c.send(good)
				c.answer(200, "", false)
				time.Sleep(paced.IdleTimeout * 7 / 8)
				c.send(part)
				time.Sleep(paced.HeaderTimeout - 1)
				c.send(rest)
				c.answer(200, "", false)
			}
		},
		"the body of a request, then another's": func(_ *bubble, c *caller) {
			for range 3 {
				c.send("POST /bounded HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
				c.send("abc")
				c.answer(200, "abc", false)
				c.send(post("abc")[:len(post("abc"))-1])
				time.Sleep(paced.BodyTimeout - 1)
				c.send("c")
				c.answer(200, "abc", false)
			}
		},
		"an answer, then the next one": func(_ *bubble, c *caller) {
			for range 3 {
				c.send(get("/bounded"))
				c.answer(200, "", false)
				c.send(good)
				time.Sleep(paced.WriteTimeout*7/8 - 1)
				c.answer(200, "", false)
			}
		},
		"what was asked for a request, then an idle connection": func(_ *bubble, c *caller) {
			c.send("POST /patient HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
			c.send("abc")
			c.answer(200, "abc", false)
			c.gone(paced.IdleTimeout)
		},
		"what was asked for a request, then an answer": func(_ *bubble, c *caller) {
			c.send(get("/patient"))
			c.answer(200, "", false)
			c.send(good)
			c.closed(paced.WriteTimeout)
		},
		"an answer, then a refusal": func(_ *bubble, c *caller) {
			c.send(get("/bounded"))
			c.answer(200, "", false)
			time.Sleep(time.Minute)
			c.send("GET\r\n")
			c.refused(400)
		},
		"a body that nobody wanted, then the next one": func(_ *bubble, c *caller) {
			c.send("POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
			c.answer(401, "no", false)
			time.Sleep(unreadTimeout - 1)
			c.send("abc")
			c.send(post("abc")[:len(post("abc"))-1])
			time.Sleep(paced.BodyTimeout - 1)
			c.send("c")
			c.answer(200, "abc", false)
		},
		"requests that wait long": func(b *bubble, c *caller) {
			for range 3 {
				c.send("POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nab")
				c.send("c")
				time.Sleep(time.Hour) // longer than anything that is bounded
				b.goOn <- struct{}{}
				c.answer(200, "abc", false)
			}
			c.gone(paced.IdleTimeout)
		},
		"requests that are watched": func(b *bubble, c *caller) {
			for range 3 { // all within what the first one's bounds would allow
				c.send(get("/wait"))
				b.goOn <- struct{}{}
				c.answer(200, "", false)
			}
			c.send(get("/wait") + part)
			b.goOn <- struct{}{}
			c.answer(200, "", false)
			c.send(rest)
			c.answer(200, "", false)
		},
		"a request that was watched, then a body": func(b *bubble, c *caller) {
			c.send(get("/wait"))
			b.goOn <- struct{}{}
			c.answer(200, "", false)
			c.send(post("abc")[:len(post("abc"))-1])
			c.send("c")
			c.answer(200, "abc", false)
		},
		"a request that comes as the one before ends": func(b *bubble, c *caller) {
			c.send(get("/wait"))
			c.side.arrived = func() {
				b.goOn <- struct{}{}
				synctest.Wait()
			}
			c.write(post("abc"))
			if a := testkit.ReadAnswer(c.from, "GET"); a.Status != 200 || a.Body != "" {
				b.t.Errorf("got %+v", a)
			}
			c.answer(200, "abc", false)
		},
		"a caller who has sent the next request and no more": func(b *bubble, c *caller) {
			c.send(get("/wait") + good)
			c.to.Close()
			synctest.Wait()
			b.goOn <- struct{}{}
			c.answer(200, "", false)
			c.answer(200, "", false)
			c.gone(0)
		},
		"a caller who has sent a body and hangs up": func(_ *bubble, c *caller) {
			c.send("POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nab")
			c.send("c")
			c.quiet(time.Hour)
			c.to.Close()
			c.answer(499, "", false)
			c.gone(0)
		},
		"a caller who hangs up": func(_ *bubble, c *caller) {
			c.send(get("/wait"))
			c.quiet(time.Hour)
			c.to.Close()
			c.answer(499, "", false)
			c.gone(0)
		},
	} {
		t.Run(name, func(t *testing.T) { inBubble(t, paced, func(b *bubble) { f(b, b.dial()) }) })
	}
}

// TestCoarseBounds: a bound that is a little too early stays in force, and is never too early by more than an eighth.
func TestCoarseBounds(t *testing.T) {
	eighth := paced.IdleTimeout / 8
	for pause, want := range map[time.Duration]time.Duration{
		1: paced.IdleTimeout - 1, eighth: paced.IdleTimeout - eighth, eighth + 1: paced.IdleTimeout,
	} {
		inBubble(t, paced, func(b *bubble) {
			c := b.dial()
			c.send(good)
			c.answer(200, "", false)
			time.Sleep(pause)
			c.send(good)
			c.answer(200, "", false)
			c.gone(want)
		})
	}
	eighth = paced.WriteTimeout / 8
	for pause, want := range map[time.Duration]time.Duration{
		1: paced.WriteTimeout - 1, eighth: paced.WriteTimeout - eighth, eighth + 1: paced.WriteTimeout,
	} {
		inBubble(t, paced, func(b *bubble) {
			c := b.dial()
			c.send(good)
			c.answer(200, "", false)
			time.Sleep(pause)
			c.send(good)
			c.closed(want)
		})
	}
}
