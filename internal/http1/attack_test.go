package http1_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"portico/internal/http1"
	"portico/internal/testkit"
)

// good follows most attacks: whoever is fooled about where a message ends answers it, or takes it for a body.
const good = "GET /good HTTP/1.1\r\nHost: x\r\n\r\n"

// attacks are raw bytes and the statuses of the answers before the connection closes.
func attacks() map[string]struct {
	bytes string
	want  []int
} {
	type c = struct {
		bytes string
		want  []int
	}
	line := func(line string) c { return c{line + "\r\nHost: x\r\n\r\n" + good, []int{400}} }
	field := func(field string) c {
		return c{"GET / HTTP/1.1\r\nHost: x\r\n" + field + "\r\n\r\n" + good, []int{400}}
	}
	length := func(fields string) c {
		return c{"POST / HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n\r\nabc" + good, []int{400}}
	}
	coding := func(fields string) c { // whose body is fine for who believes in chunks
		return c{"POST / HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + good, []int{400}}
	}
	chunks := func(body string) c {
		return c{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body, []int{400}}
	}
	fine := func(bytes string, n int) c { return c{bytes, slices.Repeat([]int{200}, n)} }
	return map[string]c{
		// What is fine, so that the rest means something.
		"two requests":           fine(good+good, 2),
		"length":                 fine(post("abc")+good, 2),
		"length of nothing":      fine(post("")+good, 2),
		"leading zeros":          fine("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 003\r\n\r\nabc"+good, 2),
		"chunked":                fine("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"+good, 2),
		"chunked, other case":    fine("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: CHUNKED\r\n\r\nA\r\n0123456789\r\n00\r\n\r\n"+good, 2),
		"extensions, trailers":   fine("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b;c=\"d\"\r\nabc\r\n0;e\r\nX-T: 1\r\nX-U:\r\n\r\n"+good, 2),
		"no space after colon":   fine("GET / HTTP/1.1\r\nHost:x\r\n\r\n"+good, 2),
		"space around a value":   fine("GET / HTTP/1.1\r\nHost:  x\t \r\nX:\t a b \r\n\r\n"+good, 2),
		"empty value":            fine("GET / HTTP/1.1\r\nHost: x\r\nX:\r\n\r\n"+good, 2),
		"latin-1 in a value":     fine("GET / HTTP/1.1\r\nHost: x\r\nX: \xe9\xff\r\n\r\n"+good, 2),
		"odd characters":         fine("GET /a|b{c}\"%zz?<>^` HTTP/1.1\r\nHost: x\r\nX!#$%&'*+-.^_`|~: 1\r\n\r\n"+good, 2),
		"absolute form":          fine("GET http://other/a?b HTTP/1.1\r\nHost: x\r\n\r\n"+good, 2),
		"absolute without path":  fine("GET HTTPS://other:8443 HTTP/1.1\r\nHost: x\r\n\r\n"+good, 2),
		"asterisk form":          fine("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"+good, 2),
		"empty host":             fine("GET / HTTP/1.1\r\nHost:\r\n\r\n"+good, 2),
		"host of version 6":      fine("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"+good, 2),
		"close, then more":       fine(get("/", "Connection: close")+good, 1),
		"close in a list":        fine(get("/", "Connection: x, Close ,y")+good, 1),
		"version 1.0":            fine("GET / HTTP/1.0\r\n\r\n"+good, 1),
		"version 1.0, kept":      fine("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"+good, 2),
		"expectation, in 1.0":    fine("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", 1),
		"unknown method":         fine("BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n"+good, 2),
		"body of a GET":          fine("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"+good, 2),
		"request inside a body":  fine(post(good)+good, 2),
		"first good, then bad":   {good + "GET / HTTP/1.1\r\nHost: x\r\nX : 1\r\n\r\n" + good, []int{200, 400}},
		"first good, then no CR": {good + "GET / HTTP/1.1\nHost: x\r\n\r\n" + good, []int{200, 400}},

		// The request line.
		"no target":               line("GET HTTP/1.1"),
		"empty target":            line("GET  HTTP/1.1"),
		"two spaces":              line("GET  / HTTP/1.1"),
		"space at the end":        line("GET / HTTP/1.1 "),
		"space at the start":      line(" GET / HTTP/1.1"),
		"tab at the end":          line("GET / HTTP/1.1\t"),
		"tab for a space":         line("GET /\tHTTP/1.1"),
		"form feed for a space":   line("GET\x0c/ HTTP/1.1"),
		"no version":              line("GET /"),
		"HTTP/1.2":                line("GET / HTTP/1.2"),
		"HTTP/01.1":               line("GET / HTTP/01.1"),
		"HTTP/1.1.1":              line("GET / HTTP/1.1.1"),
		"HTTP/1":                  line("GET / HTTP/1"),
		"HTTP/2.0":                line("GET / HTTP/2.0"),
		"HTTP/-1.1":               line("GET / HTTP/-1.1"),
		"HTTPS/1.1":               line("GET / HTTPS/1.1"),
		"Http/1.1":                line("GET / Http/1.1"),
		"ICE/1.0":                 line("GET / ICE/1.0"),
		"no method":               line("/ HTTP/1.1"),
		"colon in the method":     line("GE:T / HTTP/1.1"),
		"NUL in the method":       line("GE\x00T / HTTP/1.1"),
		"long method":             line(strings.Repeat("M", 33) + " / HTTP/1.1"),
		"NUL in the target":       line("GET /\x00 HTTP/1.1"),
		"control in the target":   line("GET /\x01 HTTP/1.1"),
		"DEL in the target":       line("GET /\x7f HTTP/1.1"),
		"UTF-8 in the target":     line("GET /é HTTP/1.1"),
		"fragment":                line("GET /#f HTTP/1.1"),
		"lone CR in the line":     line("GET /\rHTTP/1.1"),
		"relative path":           line("GET path HTTP/1.1"),
		"asterisk of a GET":       line("GET * HTTP/1.1"),
		"authority form":          line("CONNECT other:443 HTTP/1.1"),
		"absolute, other scheme":  line("GET ftp://other/ HTTP/1.1"),
		"absolute without host":   line("GET http:///path HTTP/1.1"),
		"absolute with user":      line("GET http://user@other/ HTTP/1.1"),
		"absolute, host with '\\": line("GET http://a\\b/ HTTP/1.1"),
		"HTTP/2 preface":          {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{400}},
		"TLS hello":               {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", []int{400}},
		"empty line first":        {"\r\n" + good, []int{400}},
		"LF first":                {"\n" + good, []int{400}},
		"HTTP/0.9":                {"GET /\r\n", []int{400}},

		// Lines and fields.
		"LF for CRLF":            {strings.ReplaceAll(good, "\r\n", "\n"), []int{400}},
		"LF ends the head":       {"GET / HTTP/1.1\r\nHost: x\r\n\n" + good, []int{400}},
		"CR CR LF":               {"GET / HTTP/1.1\r\nHost: x\r\r\n\r\n" + good, []int{400}},
		"CR CR LF as the end":    {"GET / HTTP/1.1\r\nHost: x\r\n\r\r\n" + good, []int{400}},
		"LF in a value":          field("X: a\nY: b"),
		"CR in a value":          field("X: a\rY: b"),
		"NUL in a value":         field("X: a\x00b"),
		"control in a value":     field("X: a\x01b"),
		"DEL in a value":         field("X: a\x7fb"),
		"vertical tab in a name": field("X\x0b: 1"),
		"NUL in a name":          field("X\x00: 1"),
		"space in a name":        field("X Y: 1"),
		"space before the colon": field("X : 1"),
		"tab before the colon":   field("X\t: 1"),
		"UTF-8 in a name":        field("Xé: 1"),
		"quotes in a name":       field("\"X\": 1"),
		"no name":                field(": 1"),
		"no colon":               field("X"),
		"only spaces":            field("  "),
		"folded by a space":      field("X: 1\r\n 2"),
		"folded by a tab":        field("X: 1\r\n\t2"),
		"first field folded":     {"GET / HTTP/1.1\r\n Host: x\r\n\r\n" + good, []int{400}},
		"hidden by folding":      length("X: 1\r\n Content-Length: 3"),
		"no host":                {"GET / HTTP/1.1\r\nX: 1\r\n\r\n" + good, []int{400}},
		"two hosts":              field("Host: y"),
		"same host twice":        field("Host: x"),
		"host with a path":       {"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n" + good, []int{400}},
		"host with a user":       {"GET / HTTP/1.1\r\nHost: u@x\r\n\r\n" + good, []int{400}},
		"host with a space":      {"GET / HTTP/1.1\r\nHost: x y\r\n\r\n" + good, []int{400}},
		"host list":              {"GET / HTTP/1.1\r\nHost: x, y/\r\n\r\n" + good, []int{400}},
		"absolute, no host":      {"GET http://other/ HTTP/1.1\r\n\r\n" + good, []int{400}},
		"many fields":            {get("/", slices.Repeat([]string{"X: 1"}, 300)...) + good, []int{431}},
		"large field":            {get("/", "X: "+strings.Repeat("x", 20<<10)) + good, []int{431}},
		"large target":           {get("/"+strings.Repeat("x", 20<<10)) + good, []int{431}},
		"endless line":           {"GET /" + strings.Repeat("x", 1<<20), []int{431}},
		"endless head":           {"GET / HTTP/1.1\r\n" + strings.Repeat("X: 1\r\n", 100000), []int{431}},
		"unknown expectation":    {post("abc", "Expect: 200-ok"), []int{417}},
		"two expectations":       {post("abc", "Expect: 100-continue", "Expect: other"), []int{417}},
		"head that ends early":   {"GET / HTTP/1.1\r\nHost: x\r\n", nil},
		"nothing":                {"", nil},

		// Lengths.
		"plus":                   length("Content-Length: +3"),
		"minus":                  length("Content-Length: -3"),
		"minus zero":             length("Content-Length: -0"),
		"hexadecimal":            length("Content-Length: 0x3"),
		"hexadecimal digits":     length("Content-Length: a"),
		"octal":                  length("Content-Length: 0o3"),
		"underscore":             length("Content-Length: 1_0"),
		"fraction":               length("Content-Length: 3.0"),
		"exponent":               length("Content-Length: 3e0"),
		"quoted":                 length("Content-Length: \"3\""),
		"empty":                  length("Content-Length:"),
		"space inside":           length("Content-Length: 3 3"),
		"list":                   length("Content-Length: 3,3"),
		"list with empty part":   length("Content-Length: 3,"),
		"other digits":           length("Content-Length: ٣"),
		"over 63 bits":           length("Content-Length: 9223372036854775808"),
		"over 64 bits":           length("Content-Length: 18446744073709551619"),
		"enormous":               length("Content-Length: " + strings.Repeat("9", 1000)),
		"two lengths":            length("Content-Length: 3\r\nContent-Length: 4"),
		"same length twice":      length("Content-Length: 3\r\nContent-Length: 3"),
		"two lengths, far apart": length("Content-Length: 0\r\nX: 1\r\ncontent-length: 3"),
		"length in another case": length("CONTENT-LENGTH: 3\r\nContent-length: 3"),
		"body that ends early":   {post("abc")[:len(post("abc"))-1], []int{400}},

		// Transfer codings.
		"length, chunked":           coding("Content-Length: 3\r\nTransfer-Encoding: chunked"),
		"chunked, length":           coding("Transfer-Encoding: chunked\r\nContent-Length: 3"),
		"chunked, length zero":      coding("Transfer-Encoding: chunked\r\nContent-Length: 0"),
		"chunked twice":             coding("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
		"chunked list":              coding("Transfer-Encoding: chunked, chunked"),
		"chunked after gzip":        coding("Transfer-Encoding: gzip, chunked"),
		"identity":                  coding("Transfer-Encoding: identity"),
		"identity, then chunked":    coding("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
		"gzip":                      coding("Transfer-Encoding: gzip"),
		"chunked, misspelt":         coding("Transfer-Encoding: chunke"),
		"chunked, longer":           coding("Transfer-Encoding: chunkedd"),
		"chunked with parameter":    coding("Transfer-Encoding: chunked;q=1"),
		"chunked with comma":        coding("Transfer-Encoding: chunked,"),
		"comma, chunked":            coding("Transfer-Encoding: ,chunked"),
		"quoted chunked":            coding("Transfer-Encoding: \"chunked\""),
		"vertical tab, chunked":     coding("Transfer-Encoding: \x0bchunked"),
		"no-break space, chunked":   coding("Transfer-Encoding: \xa0chunked"),
		"chunked NUL":               coding("Transfer-Encoding: chunked\x00"),
		"empty coding":              coding("Transfer-Encoding:"),
		"coding, space before ':'":  coding("Transfer-Encoding : chunked"),
		"coding, folded":            coding("Transfer-Encoding:\r\n chunked"),
		"chunked in HTTP/1.0":       {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + good, []int{400}},
		"coding with an underscore": fine("POST / HTTP/1.1\r\nHost: x\r\nTransfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc"+good, 2),

		// Chunks.
		"no size":                   chunks("\r\nabc\r\n0\r\n\r\n" + good),
		"negative size":             chunks("-3\r\nabc\r\n0\r\n\r\n" + good),
		"size with a plus":          chunks("+3\r\nabc\r\n0\r\n\r\n" + good),
		"size with 0x":              chunks("0x3\r\nabc\r\n0\r\n\r\n" + good),
		"size with a space":         chunks("3 \r\nabc\r\n0\r\n\r\n" + good),
		"space, size":               chunks(" 3\r\nabc\r\n0\r\n\r\n" + good),
		"space before ';'":          chunks("3 ;a\r\nabc\r\n0\r\n\r\n" + good),
		"size with underscore":      chunks("0_3\r\nabc\r\n0\r\n\r\n" + good),
		"size that is no number":    chunks("g\r\nabc\r\n0\r\n\r\n" + good),
		"size over 64 bits":         chunks("10000000000000003\r\nabc\r\n0\r\n\r\n" + good),
		"size of 2^63":              chunks("8000000000000000\r\nabc\r\n0\r\n\r\n" + good),
		"size of 2^60":              chunks("1000000000000000\r\nabc"),
		"many zeros":                chunks("0000000000000003\r\nabc\r\n0\r\n\r\n" + good),
		"size ended by LF":          chunks("3\nabc\r\n0\r\n\r\n" + good),
		"size ended by CR":          chunks("3\rabc\r\n0\r\n\r\n" + good),
		"data ended by LF":          chunks("3\r\nabc\n0\r\n\r\n" + good),
		"data not ended":            chunks("3\r\nabc0\r\n\r\n" + good),
		"data too long":             chunks("3\r\nabcd\r\n0\r\n\r\n" + good),
		"data too short":            chunks("4\r\nabc\r\n0\r\n\r\n" + good),
		"last size ended by LF":     chunks("3\r\nabc\r\n0\n\r\n" + good),
		"end ended by LF":           chunks("3\r\nabc\r\n0\r\n\n" + good),
		"extension with LF":         chunks("3;a\nb\r\nabc\r\n0\r\n\r\n" + good),
		"extension with CR":         chunks("3;a\rb\r\nabc\r\n0\r\n\r\n" + good),
		"extension with NUL":        chunks("3;\x00\r\nabc\r\n0\r\n\r\n" + good),
		"endless extension":         chunks("3;" + strings.Repeat("x", 1<<20)),
		"long extensions":           chunks(strings.Repeat("1;"+strings.Repeat("x", 1000)+"\r\na\r\n", 1000) + "0\r\n\r\n" + good),
		"trailer without colon":     chunks("0\r\nGET / HTTP/1.1\r\n\r\n" + good),
		"folded trailer":            chunks("0\r\nX: 1\r\n 2\r\n\r\n" + good),
		"trailer with a space":      chunks("0\r\nX : 1\r\n\r\n" + good),
		"trailer with NUL":          chunks("0\r\nX: \x00\r\n\r\n" + good),
		"trailer ended by LF":       chunks("0\r\nX: 1\n\r\n" + good),
		"endless trailer":           chunks("0\r\n" + strings.Repeat("X: 1\r\n", 100000)),
		"long line in the trailer":  chunks("0\r\nX: " + strings.Repeat("x", 1<<20)),
		"chunks that end early":     chunks("3\r\nab"),
		"chunks without last chunk": chunks("3\r\nabc\r\n"),
		"chunks without an end":     chunks("3\r\nabc\r\n0\r\n"),
	}
}

// TestAttacks sends raw bytes, in one piece and in small ones.
func TestAttacks(t *testing.T) {
	var inside atomic.Int64
	s := newSite(t, func(ctx context.Context, r *http1.Request) {
		if inside.Add(1); strings.Contains(r.Path, "/good") && r.Length != 0 {
			t.Error("a request has another one's body")
		}
		echo(ctx, r)
	}, http1.Config{MaxHeaderBytes: 16 << 10})
	all := attacks()
	if len(all) < 140 {
		t.Fatalf("%d cases", len(all))
	}
	for name, c := range all {
		for _, piece := range []int{1 << 30, 7, 1} {
			if len(c.bytes) > 10000 && piece < 1000 {
				continue
			}
			var got []int
			for _, a := range testkit.Talk(t, s.addr, c.bytes, piece) {
				got = append(got, a.Status)
				if a.Status >= 400 && !a.Close {
					t.Errorf("%s in pieces of %d: %d does not close the connection", name, piece, a.Status)
				}
			}
			if !slices.Equal(got, c.want) && (piece > 1000 || !lost(got, c.want)) {
				t.Errorf("%s in pieces of %d: answers %v, want %v", name, piece, got, c.want)
			}
		}
	}
	if a := testkit.Talk(t, s.addr, good, 100); len(a) != 1 || a[0].Status != 200 {
		t.Errorf("after the attacks: %v", a)
	}
}

// lost says that only the last error is missing: bytes that came after it was sent have reset the connection.
func lost(got, want []int) bool {
	n := len(want) - 1
	return n >= 0 && want[n] >= 400 && slices.Equal(got, want[:n])
}

// TestWhatArrives: what the handler gets is what was sent, however it was cut.
func TestWhatArrives(t *testing.T) {
	s := newSite(t, func(_ context.Context, r *http1.Request) {
		body, err := everything(r)
		var b strings.Builder
		fmt.Fprintf(&b, "%s|%s|%s|%s|%s|%d|%q|%v", r.Method, r.Host, r.Path, r.Query, r.Protocol, r.Length, body, err)
		for _, f := range r.Header {
			fmt.Fprintf(&b, "|%s=%s", f.Name, f.Value)
		}
		reply(r, 200, b.String())
	}, http1.Config{})
	for bytes, want := range map[string]string{
		"PUT /a%2Fb?c=d?e HTTP/1.1\r\nhOsT: H\r\nX-y:  z \r\nX-y: w\r\ncontent-length: 2\r\n\r\nhi":               `PUT|H|/a%2Fb|c=d?e|HTTP/1.1|2|"hi"|<nil>|hOsT=H|X-y=z|X-y=w|content-length=2`,
		"GET http://o:1/p?q HTTP/1.1\r\nHost: h\r\n\r\n":                                                          `GET|o:1|/p|q|HTTP/1.1|0|""|<nil>|Host=h`,
		"GET http://o?q HTTP/1.1\r\nHost: h\r\n\r\n":                                                              `GET|o|/|q|HTTP/1.1|0|""|<nil>|Host=h`,
		"GET / HTTP/1.0\r\n\r\n":                                                                                  `GET||/||HTTP/1.0|0|""|<nil>`,
		"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n":                                                                   `OPTIONS|h|*||HTTP/1.1|0|""|<nil>|Host=h`,
		"GET // HTTP/1.1\r\nHost: h\r\n\r\n":                                                                      `GET|h|//||HTTP/1.1|0|""|<nil>|Host=h`,
		"P / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3;x\r\n yo\r\n0\r\nA: b\r\n\r\n": `P|h|/||HTTP/1.1|-1|"hi yo"|<nil>|Host=h|Transfer-Encoding=chunked`,
	} {
		for _, piece := range []int{1 << 30, 3, 1} {
			if got := testkit.Talk(t, s.addr, bytes, piece); len(got) != 1 || got[0].Body != want {
				t.Errorf("in pieces of %d: got %v\nwant %s", piece, got, want)
			}
		}
	}
}
