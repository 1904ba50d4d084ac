package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"portico/internal/host"
)

// background sends requests from several callers until it is stopped and keeps every answer that was not 200.
type background struct {
	stop func() (ok int64, bad []answer)
}

func (s *server) load(endpoint, key string, callers int, body func(n int64) string) *background {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var bad []answer
	var ok, n atomic.Int64
	for range callers {
		wg.Go(func() {
			for ctx.Err() == nil {
				req := s.scoringRequest(context.Background(), endpoint, key, body(n.Add(1)))
				resp, err := s.http.Do(req)
				if err != nil {
					mu.Lock()
					bad = append(bad, answer{body: []byte(err.Error())})
					mu.Unlock()
					time.Sleep(10 * time.Millisecond) // a server that is away must not be hammered
					continue
				}
				doc, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK && err == nil {
					ok.Add(1)
					continue
				}
				mu.Lock()
				bad = append(bad, answer{status: resp.StatusCode, header: resp.Header, body: doc})
				mu.Unlock()
			}
		})
	}
	return &background{stop: func() (int64, []answer) {
		cancel()
		wg.Wait()
		return ok.Load(), bad
	}}
}

// workers lists the scoring processes of a server by their ids on this machine.
func (s *server) workers() map[string]int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := host.Dial(ctx, s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	all, err := c.List(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]int{}
	for _, p := range all {
		if p.Running() && p.Labels["kind"] == "worker" {
			out[p.ID] = p.PID
		}
	}
	return out
}

const twoInstances = "request_settings:\n  max_concurrent_requests_per_instance: 4\n  request_timeout_ms: 30000\n"

// TestKillWorkerUnderLoad: only the request that was executing may fail, and its answer says why.
func TestKillWorkerUnderLoad(t *testing.T) {
	s := start(t)
	s.deploy("kill", "blue", echoScript, twoInstances)
	s.must("ml", "online-deployment", "update", "-e", "kill", "-n", "blue", "--set", "instance_count=2", "-o", "none")
	key := s.key("kill")
	l := s.load("kill", key, 4, func(n int64) string { return strconv.FormatInt(n, 10) })
	const kills = 3
	for range kills {
		before := s.workers()
		for id, pid := range before {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			s.eventually("the worker is replaced", func() bool {
				now := s.workers()
				return now[id] != pid && len(now) == len(before)
			})
			break
		}
	}
	ok, bad := l.stop()
	if len(bad) > kills || ok == 0 {
		t.Fatalf("%d requests failed for %d kills (%d succeeded): %v", len(bad), kills, ok, bad)
	}
	for _, a := range bad {
		if a.status != http.StatusFailedDependency || !json.Valid(a.body) || !strings.Contains(strings.ToLower(string(a.body)), "kill") {
			t.Errorf("a failed request must say its cause: %d %s", a.status, a.body)
		}
	}
	show := s.must("ml", "online-deployment", "show", "-e", "kill", "-n", "blue", "-o", "json")
	if !strings.Contains(show, `"provisioning_state": "Succeeded"`) {
		t.Errorf("show: %s", show)
	}
}

const countingScript = `import os

def init():
    pass

def run(raw_data):
    print("scored " + raw_data)
    return {"n": raw_data, "pid": os.getpid()}
`

// TestKillServerUnderLoad: nothing acknowledged is lost, the same workers answer again, and every line that they
// printed is there.
func TestKillServerUnderLoad(t *testing.T) {
	s := start(t)
	s.deploy("crash", "blue", countingScript, twoInstances)
	key := s.key("crash")
	before := s.workers()
	var acknowledged sync.Map
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var next atomic.Int64
	client := func() *http.Client { return s.http }
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				n := next.Add(1)
				resp, err := client().Do(s.scoringRequest(context.Background(), "crash", key, strconv.FormatInt(n, 10)))
				if err != nil {
					continue
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err == nil && resp.StatusCode == http.StatusOK {
					acknowledged.Store(n, true)
				}
			}
		})
	}
	s.must("ml", "online-endpoint", "update", "-n", "crash", "--set", "tags.acknowledged=yes", "-o", "none")
	time.Sleep(300 * time.Millisecond)
	s.kill()
	time.Sleep(200 * time.Millisecond)
	cancel()
	s.up()
	wg.Wait()
	if a := s.score("crash", key, "after"); a.status != http.StatusOK {
		t.Fatalf("after the restart: %d %s", a.status, a.body)
	}
	after := s.workers()
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("the workers were replaced: %v, then %v", before, after)
	}
	if show := s.must("ml", "online-endpoint", "show", "-n", "crash", "--query", "tags.acknowledged", "-o", "tsv"); strings.TrimSpace(show) != "yes" {
		t.Errorf("an acknowledged change is lost: %q", show)
	}
	logs := s.must("ml", "online-deployment", "get-logs", "-e", "crash", "-n", "blue", "--lines", "5000")
	count := 0
	acknowledged.Range(func(n, _ any) bool {
		count++
		if count <= 4000 && !strings.Contains(logs, fmt.Sprintf("scored %d\n", n)) && next.Load() < 4500 {
			t.Errorf("the line of request %d is missing", n)
			return false
		}
		return true
	})
	if count == 0 {
		t.Error("no request was acknowledged")
	}
}

// TestExitWhileServerIsAway: a worker that dies while no server lives is told and replaced at the next start.
func TestExitWhileServerIsAway(t *testing.T) {
	s := start(t)
	s.deploy("away", "blue", echoScript, "")
	key := s.key("away")
	before := s.workers()
	s.kill()
	for _, pid := range before {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	s.up()
	s.eventually("the deployment answers again", func() bool { return s.score("away", key, "1").status == http.StatusOK })
	var d struct {
		Instances []struct{ Restarts int }
	}
	show := s.must("ml", "online-deployment", "show", "-e", "away", "-n", "blue", "-o", "json")
	if err := json.Unmarshal([]byte(show), &d); err != nil || len(d.Instances) != 1 || d.Instances[0].Restarts != 1 {
		t.Errorf("the restart is not told: %v %s", err, show)
	}
}

// TestKillHost: the server ends what was recorded and starts everything anew; nothing is orphaned.
func TestKillHost(t *testing.T) {
	s := start(t)
	s.deploy("host", "blue", echoScript, "")
	key := s.key("host")
	before := s.workers()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := host.Dial(ctx, s.dir)
	if err != nil {
		t.Fatal(err)
	}
	pid := c.Info().PID
	_ = c.Close()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.eventually("the old workers are gone", func() bool {
		for _, p := range before {
			if syscall.Kill(p, 0) == nil && !zombie(p) {
				return false
			}
		}
		return true
	})
	s.eventually("the deployment answers again", func() bool { return s.score("host", key, "1").status == http.StatusOK })
	if code := s.stop(); code != 0 {
		t.Errorf("SIGTERM after the host was replaced: exit %d\n%s", code, s.log)
	}
}

// zombie says that a process has ended and only waits to be collected.
func zombie(pid int) bool {
	doc, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(doc), ") Z ")
}

// TestDetach: with --detach the workers stay for the next start; without it nothing stays.
func TestDetach(t *testing.T) {
	s := start(t, "--detach")
	s.deploy("stay", "blue", echoScript, "")
	key := s.key("stay")
	before := s.workers()
	if code := s.stop(); code != 0 {
		t.Fatalf("exit %d", code)
	}
	if got := s.workers(); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Fatalf("workers %v, then %v", before, got)
	}
	s.Flags = s.Flags[:len(s.Flags)-1]
	s.up()
	if a := s.score("stay", key, "1"); a.status != http.StatusOK || len(before) == 0 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	s.stop()
	for _, pid := range before {
		if syscall.Kill(pid, 0) == nil && !zombie(pid) {
			t.Errorf("worker %d outlives its server", pid)
		}
	}
}
