package sqlite

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico/internal/store"
	"portico/internal/store/storetest"
)

const crashPath = "PORTICO_TEST_CRASH_STORE" // makes the test binary the process that is killed

func TestMain(m *testing.M) {
	if path := os.Getenv(crashPath); path != "" {
		if err := writeForEver(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeForEver commits and prints each revision once it is acknowledged.
func writeForEver(path string) error {
	ctx := context.Background()
	s, err := Open(ctx, path, storetest.Sealer(), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		var rec *store.Record
		err := s.Update(ctx, func(tx store.Tx) (err error) {
			rec, err = tx.PutSpec(store.Spec{ID: ws.Endpoint(fmt.Sprintf("e%d", i%7)), JSON: fmt.Appendf(nil, `{"i":%d}`, i), At: noon})
			if err != nil {
				return err
			}
			return tx.PutStatus(rec.ID, rec.UID, rec.Spec) // spec and status of a record are always equal
		})
		if err != nil {
			return err
		}
		fmt.Println(rec.SpecRevision, rec.ID.Name, string(rec.Spec))
	}
}

func command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, name, args...)
}

// kill -9 at any moment: what was acknowledged is there, and no transaction is there in part.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	var before int64
	for round := range 4 {
		cmd := command(t, os.Args[0])
		cmd.Env = append(os.Environ(), crashPath+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acknowledged := map[string]string{}
		var last int64
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			fields := strings.Fields(lines.Text())
			if len(fields) != 3 { // cut by the kill
				break
			}
			if _, err := fmt.Sscan(fields[0], &last); err != nil {
				t.Fatal(err)
			}
			acknowledged[fields[1]] = fields[2]
			if n == 50+13*round { // and whatever it had already printed is read and counts
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
			t.Fatalf("the writer ended by itself: %v", err)
		}
		if last <= before {
			t.Fatalf("revision %d after %d", last, before)
		}
		s := openAt(t, path)
		err = s.View(t.Context(), func(r store.Reader) error {
			// At most the one commit that was not acknowledged yet is there too.
			if r.Revision() < last || r.Revision() > last+1 {
				t.Errorf("the store is at %d, and %d was acknowledged", r.Revision(), last)
			}
			for name, spec := range acknowledged {
				rec, err := r.Get(ws.Endpoint(name))
				if err != nil {
					return err
				}
				if string(rec.Status) != string(rec.Spec) {
					t.Errorf("%s is torn: spec %s, status %s", name, rec.Spec, rec.Status)
				}
				if string(rec.Spec) != spec && rec.SpecRevision <= last {
					t.Errorf("%s is %s, and %s was acknowledged", name, rec.Spec, spec)
				}
			}
			before = r.Revision()
			return nil
		})
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
