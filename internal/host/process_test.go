package host

import (
	"io"
	"strings"
	"syscall"
	"testing"
)

func readLog(t *testing.T, dir string, tail int) string {
	t.Helper()
	r, err := ReadLog(dir, tail)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestExits(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct {
		name, script string
		code, signal int
	}{
		{"success", "echo fine", 0, 0},
		{"code", "echo sorry >&2; exit 7", 7, 0},
		{"signal", "kill -SEGV $$", -1, int(syscall.SIGSEGV)},
		{"killed", "kill -KILL $$", -1, int(syscall.SIGKILL)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := r.run(r.shell(tt.name, tt.script))
			if e.Code != tt.code || e.Signal != tt.signal || e.Lost || e.At.IsZero() {
				t.Fatalf("exit %+v, want code %d, signal %d", e, tt.code, tt.signal)
			}
		})
	}
	if got := r.output("success"); got != "fine\n" {
		t.Errorf("output %q", got)
	}
	if e := r.exit("code"); e.Tail != "sorry\n" {
		t.Errorf("tail %q", e.Tail)
	}
}

func TestUsersAreSeparate(t *testing.T) {
	r := newRig(t)
	s := r.shell("who", "id -u; cat /proc/self/status")
	s.User = UserSeparate
	e := r.run(s)
	if e.Code != 0 {
		t.Fatal(e)
	}
	t.Log(strings.SplitN(r.output("who"), "\n", 2)[0], r.Info())
}
