package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"portico/internal/host"
	"portico/internal/server"
)

func TestServerCommandsRefuseMistakes(t *testing.T) {
	f := newFakeServer(t)
	missing := filepath.Join(t.TempDir(), "none")
	for name, c := range map[string]struct {
		env  map[string]string
		args []string
		code int
		want string
	}{
		"serve word": {nil, []string{"serve", "now"}, ExitUsage, `unknown command "now"`},
		"serve setting": {nil, []string{"serve", "--data-dir", missing, "--drain-timeout", "soon"}, ExitUsage,
			"drain_timeout (flag --drain-timeout)"},
		"serve environment": {map[string]string{"PORTICO_OVERCOMMIT": "maybe"},
			[]string{"serve", "--data-dir", missing}, ExitUsage, "environment PORTICO_OVERCOMMIT"},
		"serve file":     {nil, []string{"serve", "--config", missing}, ExitUsage, "read configuration"},
		"host nowhere":   {nil, []string{"host"}, ExitUsage, "--data-dir is required"},
		"host user ids":  {nil, []string{"host", "--data-dir", missing, "--user-ids", "many"}, ExitUsage, "--user-ids"},
		"infer nothing":  {nil, []string{"infer"}, ExitUsage, "--entry-script is required"},
		"infer variable": {nil, []string{"infer", "--entry-script", "s.py", "--env", "A"}, ExitUsage, "NAME=VALUE"},
		"infer workers": {nil, []string{"infer", "--entry-script", "s.py", "--worker-count", "0"}, ExitUsage,
			"--worker-count must be at least 1"},
		"infer environment": {map[string]string{"WORKER_COUNT": "many"}, []string{"infer", "--entry-script", "s.py"},
			ExitUsage, "$WORKER_COUNT"},
		"backup nowhere": {nil, []string{"backup"}, ExitUsage, "--output is required"},
		"backup nothing": {nil, []string{"backup", "--data-dir", missing, "-o", missing + ".tgz"}, ExitFailed,
			"no server's data"},
		"restore nothing": {nil, []string{"restore", "--input", "x"}, ExitUsage, "--master-key is required"},
		"restore over": {nil, []string{"restore", "-i", "x", "--master-key", "y", "--data-dir", f.dir}, ExitFailed,
			"is not empty"},
	} {
		t.Run(name, func(t *testing.T) {
			o := f.with("", c.env, c.args...)
			if o.code != c.code || !strings.Contains(o.err, c.want) || o.out != "" {
				t.Errorf("exit %d, stderr %q; want %d and %q", o.code, o.err, c.code, c.want)
			}
		})
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("a refused command made its data directory")
	}
}

// TestHostTakesItsArguments proves that `portico host` understands what the host starts itself with.
func TestHostTakesItsArguments(t *testing.T) {
	root := (&App{Getenv: os.Getenv}).Command()
	args := host.Config{DataDir: "/d", OrphanTimeout: host.DefaultOrphanTimeout, Grace: host.DefaultGrace,
		UserFirst: 60000, UserLast: 60001}.Arguments()
	cmd, rest, err := root.Find(args)
	if err != nil || cmd.Name() != "host" {
		t.Fatalf("%v is %v, %v", args, cmd, err)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Error(err)
	}
}

// TestEverySettingIsAFlag keeps `serve` and `config show` complete.
func TestEverySettingIsAFlag(t *testing.T) {
	root := (&App{Getenv: os.Getenv}).Command()
	for _, path := range [][]string{{"serve"}, {"config", "show"}} {
		cmd, _, err := root.Find(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range server.Settings() {
			if cmd.Flags().Lookup(s.Flag()) == nil {
				t.Errorf("%v has no --%s", path, s.Flag())
			}
		}
	}
}

// TestEveryCommandIsDocumented finds every command in docs/cli.md, and a short text for its help.
func TestEveryCommandIsDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	words := strings.FieldsFunc(string(doc), func(r rune) bool { return strings.ContainsRune(" `|\n,()", r) })
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s has no help", c.CommandPath())
		}
		if !slices.Contains(words, c.Name()) {
			t.Errorf("%s is not in docs/cli.md", c.CommandPath())
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	for _, c := range (&App{Getenv: os.Getenv}).Command().Commands() {
		walk(c)
	}
}
