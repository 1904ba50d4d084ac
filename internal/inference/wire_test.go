package inference

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseHead(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\n"
	for _, c := range []struct {
		in, method string
		status     int // 0: refused
		length     int64
	}{
		{ok + "content-length: 5\r\n", "POST", 200, 5},
		{ok + "Content-Length:\t5 \r\nx: y\r\n", "POST", 200, 5},
		{ok + "transfer-encoding: Chunked\r\n", "POST", 200, -1},
		{"HTTP/1.1 204 No Content\r\n", "POST", 204, 0},
		{"HTTP/1.1 304 \r\n", "POST", 304, 0},
		{ok + "content-length: 5\r\n", "HEAD", 200, 0},
		{"HTTP/1.1 599\r\ncontent-length: 0\r\n", "POST", 599, 0},
		{ok, "POST", 0, 0},
		{"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n", "POST", 0, 0},
		{"HTTP/1.1 100 Continue\r\n", "POST", 0, 0},
		{"HTTP/1.1 700 X\r\ncontent-length: 0\r\n", "POST", 0, 0},
		{"HTTP/1.1 2x0 OK\r\ncontent-length: 0\r\n", "POST", 0, 0},
		{"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n", "POST", 0, 0},
		{"HTTP/1.1 200 OK\ncontent-length: 0\r\n", "POST", 0, 0},
		{ok + "content-length: 5\r\ncontent-length: 5\r\n", "POST", 0, 0},
		{ok + "content-length: 5\r\ntransfer-encoding: chunked\r\n", "POST", 0, 0},
		{ok + "transfer-encoding: gzip, chunked\r\n", "POST", 0, 0},
		{ok + "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "POST", 0, 0},
		{ok + "content-length: +5\r\n", "POST", 0, 0},
		{ok + "content-length: -5\r\n", "POST", 0, 0},
		{ok + "content-length: 0x5\r\n", "POST", 0, 0},
		{ok + "content-length:\r\n", "POST", 0, 0},
		{ok + "content-length: 9999999999999999999\r\n", "POST", 0, 0},
		{ok + "content-length : 5\r\n", "POST", 0, 0},
		{ok + " folded: x\r\ncontent-length: 5\r\n", "POST", 0, 0},
		{ok + "a: x\r\n b\r\ncontent-length: 5\r\n", "POST", 0, 0},
		{ok + "a: x\ncontent-length: 5\r\n", "POST", 0, 0},
		{ok + "a: x\ry\r\ncontent-length: 5\r\n", "POST", 0, 0},
		{ok + "a: \x00\r\ncontent-length: 5\r\n", "POST", 0, 0},
		{ok + "nothing\r\ncontent-length: 5\r\n", "POST", 0, 0},
		{ok + ": x\r\ncontent-length: 5\r\n", "POST", 0, 0},
		{ok + strings.Repeat("a: b\r\n", maxAnswerFields+1) + "content-length: 5\r\n", "POST", 0, 0},
	} {
		h, err := parseHead([]byte(c.in), c.method, false)
		if (err == nil) != (c.status != 0) || err == nil && (h.status != c.status || h.length != c.length) {
			t.Errorf("%.80q for %s: status %d, length %d, %v; want %d, %d",
				c.in, c.method, h.status, h.length, err, c.status, c.length)
		}
	}
}

// TestAnswerKeepsFields: whatever head a worker may write, its end-to-end fields arrive in order and the others do not.
func TestAnswerKeepsFields(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(rapid.OneOf(
			rapid.StringMatching(`[A-Za-z0-9!#$%&'*+.^_|~-]{1,20}`),
			rapid.SampledFrom([]string{"Connection", "KEEP-ALIVE", "X-Portico-Not-Started", "te", "Trailer", "upgrade"}),
		), 0, 20).Draw(t, "names")
		head, want := "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n", []Field(nil)
		for i, name := range names {
			if l := strings.ToLower(name); l == "content-length" || l == "transfer-encoding" {
				continue
			}
			value := rapid.StringMatching(`([!-~\x80-\xff][ -~\x80-\xff]{0,20}[!-~])?`).Draw(t, fmt.Sprint("value", i))
			head += name + ":" + rapid.StringMatching(`[ \t]{0,3}`).Draw(t, "space") + value + "\r\n"
			if !isHop(name) {
				want = append(want, Field{Name: name, Value: value})
			}
		}
		h, err := parseHead([]byte(head), "POST", false)
		if err != nil {
			t.Fatalf("%q: %v", head, err)
		}
		answer, body := newAnswer(h, []byte("abc"))
		if body != "abc" || fmt.Sprint(answer.Header) != fmt.Sprint(want) || answer.Status != 200 {
			t.Fatalf("%q gave %q and %q, want %q", head, answer.Header, body, want)
		}
	})
}

func TestParseHeadSurvivesAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOf(rapid.OneOf(
			rapid.SampledFrom([]string{
				"HTTP/1.1 200 OK", "\r\n", "\n", ":", "content-length", " ", "5", "chunked", "transfer-encoding",
			}),
			rapid.StringN(0, 5, -1),
		)).Draw(t, "parts")
		h, err := parseHead([]byte(strings.Join(parts, "")+"\r\n"), "POST", false)
		if err == nil && (h.status < 200 || h.length < -1) {
			t.Fatalf("%q: status %d, length %d", parts, h.status, h.length)
		}
	})
}

func TestBeginRefusesWhatWouldSplit(t *testing.T) {
	base := func() *Call { return &Call{ID: "i", Method: "POST", Path: "/score"} }
	for name, change := range map[string]func(*Call){
		"method":       func(c *Call) { c.Method = "POST /x" },
		"no method":    func(c *Call) { c.Method = "" },
		"path":         func(c *Call) { c.Path = "/a b" },
		"no path":      func(c *Call) { c.Path = "" },
		"query":        func(c *Call) { c.Query = "a\r\nb" },
		"id":           func(c *Call) { c.ID = "a\nb" },
		"client id":    func(c *Call) { c.ClientID = "a\x00b" },
		"header name":  func(c *Call) { c.Header = []Field{{Name: "a b", Value: "c"}} },
		"header value": func(c *Call) { c.Header = []Field{{Name: "a", Value: "b\r\nc: d"}} },
	} {
		call := base()
		change(call)
		if err := (&link{}).begin(call, "", 1, 1); err == nil {
			t.Errorf("%s: it was written", name)
		}
	}
	call := base()
	call.Header = []Field{
		{Name: "Content-Length", Value: "9"}, {Name: "X-Request-Id", Value: "forged"}, {Name: "x-portico-number", Value: "9"}, {Name: "TE", Value: "x"}, {Name: "Own", Value: "kept"},
	}
	l := &link{}
	if err := l.begin(call, "h", 3, 1); err != nil {
		t.Fatal(err)
	}
	want := "POST /score HTTP/1.1\r\nhost: h\r\nx-portico-number: 3\r\nx-portico-deadline-ms: 1\r\n" +
		"x-request-id: i\r\nOwn: kept\r\ncontent-length: 0\r\n\r\n"
	if string(l.out) != want {
		t.Errorf("wrote %q, want %q", l.out, want)
	}
}
