package host

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
)

// An id that a fork had is given to forks of the same server alone, until the server and all of them have ended.
func TestIDsStayWithTheirForkServer(t *testing.T) {
	requireRoot(t)
	u := newUsers(t, 1<<30-2, 1<<30-1)
	f := newForkIDs(u)
	take := func(from interface{ take() (*userLease, error) }) *userLease {
		t.Helper()
		l, err := from.take()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first, stranger := take(f), take(u)
	first.release()
	if l, err := u.take(); !errors.Is(err, ErrLimit) {
		t.Fatalf("a stranger got %v, %v while the server may still run something under the id", l, err)
	}
	again := take(f)
	if again.uid != first.uid {
		t.Errorf("the next fork got %d, want %d, which the last one had", again.uid, first.uid)
	}
	f.leave() // the server; its fork lives
	stranger.release()
	if other := take(u); other.uid == again.uid {
		t.Error("a stranger got the id of a fork that lives")
	}
	again.release()
	if l := take(u); l.uid != first.uid {
		t.Errorf("a stranger got %d, want %d, which nobody has any more", l.uid, first.uid)
	}
}

// What a package starts beside a fork before anybody looks at that ends with the fork server.
func TestStowawaysEndWithTheirServer(t *testing.T) {
	requireRoot(t)
	r := newForkRig(t)
	packages := filepath.Join(r.cfg.DataDir, "packages")
	writeModule(t, packages, "stowaway", `
import os, time
import portico_worker.forkserver as f
drop = f._drop
def leave(libc, uid):
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
    drop(libc, uid)
f._drop = leave
born = os.setsid
def early():
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
    born()
os.setsid = early
`)
	server, err := r.serverWith("server", packages, "stowaway")
	if err != nil {
		t.Fatal(err)
	}
	r.start(r.worker("w", "server", probeScript))
	r.mustAsk("w", `"1"`)
	if n := countCommands(t, r.runtime); n < 4 {
		t.Fatalf("%d processes, want the server, the worker and two that nobody knows", n)
	}
	if err := r.Signal(r.ctx, "w", syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	r.exit("w")
	if n := countCommands(t, r.runtime); n != 2 {
		t.Errorf("%d processes after the worker's end, want the server and the one that stayed in its cgroup", n)
	}
	if err := syscall.Kill(server.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.exit("server")
	if n := countCommands(t, r.runtime); n != 0 {
		t.Errorf("%d processes after the server's end", n)
	}
}
