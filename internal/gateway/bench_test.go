package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico/internal/access"
	"portico/internal/gateway"
	"portico/internal/inference"
	"portico/internal/online"
	"portico/internal/route"
	"portico/internal/telemetry"
	"portico/internal/testkit"
)

// canned answers at once without allocating, so that a benchmark shows what the gateway itself costs.
type canned struct {
	answer inference.Answer
	body   bytes.Reader
	text   []byte
}

func newCanned(text string) *canned {
	c := &canned{text: []byte(text)}
	c.answer = inference.Answer{
		Status: 200, ContentLength: int64(len(text)), Body: c,
		Header: []inference.Field{
			{Name: "content-type", Value: "application/json"}, {Name: "x-ms-run-function-failed", Value: "False"},
			{Name: "x-ms-run-fn-exec-ms", Value: "0.125"}, {Name: "x-ms-request-id", Value: "00000000"},
		},
	}
	return c
}

func (c *canned) Read(p []byte) (int, error) { return c.body.Read(p) }
func (c *canned) Close() error               { return nil }
func (c *canned) Do(context.Context, *inference.Call) (*inference.Answer, error) {
	c.body.Reset(c.text)
	return &c.answer, nil
}

func benchGateway(b *testing.B, text string, edit ...func(*route.Deployment)) *gateway.Gateway {
	b.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	tel, err := telemetry.New(telemetry.Config{AccessLog: filepath.Join(b.TempDir(), "access.log"), AccessLogFiles: 1}, log)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := tel.Close(); err != nil {
			b.Error(err)
		}
	})
	ups := &upstreams{}
	e := route.Endpoint{
		Name: "my-endpoint", UID: "e", AuthMode: online.AuthKey, Traffic: online.Traffic{"blue": 90, "green": 10},
		Keys: [][32]byte{access.Digest(primaryKey), access.Digest(secondaryKey)},
	}
	for _, name := range []string{"blue", "green"} {
		d := blue()
		d.Name, d.UID, d.Request.MaxConcurrent = name, name, 100
		for i := range 4 {
			id := fmt.Sprint(name, i)
			ups.m.Store(id, newCanned(text))
			d.Instances = append(d.Instances, route.Instance{ID: id, Generation: 1, ModelDigest: "sha256:abc"})
		}
		for _, f := range edit {
			f(&d)
		}
		e.Deployments = append(e.Deployments, d)
	}
	g := gateway.New(gateway.Config{}, ups, tel, log)
	g.SetTable(route.Build(1, []route.Endpoint{e}))
	return g
}

// memory is a transport that is always ready.
type memory struct {
	body   bytes.Reader
	status int
}

func (m *memory) ReadBody(p []byte) (int, error)                    { return m.body.Read(p) }
func (m *memory) SetReadDeadline(time.Time) error                   { return nil }
func (m *memory) SetWriteDeadline(time.Time) error                  { return nil }
func (m *memory) Begin(s int, _ []inference.Field, _ int64, _ bool) { m.status = s }
func (m *memory) Write(p []byte) (int, error)                       { return len(p), nil }
func (m *memory) Flush() error                                      { return nil }
func (m *memory) Abort()                                            {}

var benchHeader = []inference.Field{
	{Name: "Authorization", Value: "Bearer " + primaryKey}, {Name: "Content-Type", Value: "application/json"},
	{Name: "User-Agent", Value: "benchmark/1"}, {Name: "Accept", Value: "*/*"}, {Name: "Accept-Encoding", Value: "gzip"},
}

// BenchmarkGatewayCore is the whole way of a request but for the transport and the instance.
func BenchmarkGatewayCore(b *testing.B) {
	body := []byte(`{"data":[[1,2,3,4]]}`)
	g := benchGateway(b, strings.Repeat("r", 256))
	m := &memory{}
	x := &gateway.Exchange{}
	b.ReportAllocs()
	for b.Loop() {
		m.body.Reset(body)
		x.Method, x.Path, x.Protocol, x.Length = "POST", score, "HTTP/1.1", int64(len(body))
		x.Arrival, x.Transport = time.Now(), m
		x.Header = append(x.Header[:0], benchHeader...)
		g.Serve(context.Background(), x)
		x.Reset()
		if m.status != 200 {
			b.Fatal(m.status)
		}
	}
}

// BenchmarkGatewayHTTP is the same over a loopback connection, client included.
func BenchmarkGatewayHTTP(b *testing.B) {
	g := benchGateway(b, strings.Repeat("r", 256))
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	server := gateway.NewServer(g, gateway.ServerConfig{}, log)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l, nil) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	request := []byte("POST " + score + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + primaryKey +
		"\r\nContent-Type: application/json\r\nUser-Agent: benchmark/1\r\nContent-Length: 20\r\n\r\n" + `{"data":[[1,2,3,4]]}`)
	r := bufio.NewReader(conn)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				b.Fatal(err)
			}
			if len(line) == 2 {
				break
			}
		}
		if _, err := r.Discard(256); err != nil {
			b.Fatal(err)
		}
	}
	conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Limit)
	defer cancel()
	if err := server.Drain(ctx); err != nil {
		b.Error(err)
	}
	if err := <-served; err != nil {
		b.Error(err)
	}
}

// TestCoreAllocations holds the core to what it needs: the request id as text.
func TestCoreAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	result := testing.Benchmark(BenchmarkGatewayCore)
	if result.N == 0 {
		t.Fatal("the benchmark itself failed")
	}
	if n := result.AllocsPerOp(); n > 1 {
		t.Errorf("%d allocations per request", n)
	}
}

// TestHTTPAllocations: a connection adds the text of the head and the request's context.
func TestHTTPAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	result := testing.Benchmark(BenchmarkGatewayHTTP)
	if result.N == 0 {
		t.Fatal("the benchmark itself failed")
	}
	if n := result.AllocsPerOp(); n > 3 {
		t.Errorf("%d allocations per request", n)
	}
}

// BenchmarkResponseCache is the core of a deployment with a response cache: a request that was answered before beside one that
// an instance must answer. The instance itself costs nothing here.
func BenchmarkResponseCache(b *testing.B) {
	for _, row := range []struct {
		name string
		hit  bool
	}{{"hit", true}, {"miss", false}} {
		b.Run(row.name, func(b *testing.B) {
			g := benchGateway(b, strings.Repeat("r", 256), func(d *route.Deployment) {
				d.Cache = &online.ResponseCache{TTL: time.Hour, MaxBytes: 1 << 20}
			})
			m := &memory{}
			x := &gateway.Exchange{}
			body := fmt.Appendf(nil, `{"data":[[%020d]]}`, 0)
			number := body[10:30]
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				if !row.hit {
					copy(number, fmt.Appendf(nil, "%020d", n))
				}
				m.body.Reset(body)
				x.Method, x.Path, x.Protocol, x.Length = "POST", score, "HTTP/1.1", int64(len(body))
				x.Arrival, x.Transport = time.Now(), m
				x.Header = append(x.Header[:0], benchHeader...)
				g.Serve(context.Background(), x)
				x.Reset()
				if m.status != 200 {
					b.Fatal(m.status)
				}
			}
		})
	}
}
