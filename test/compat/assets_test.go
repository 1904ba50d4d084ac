package compat

import (
	"path/filepath"
	"testing"

	"portico/test/harness"
)

func TestAssets(t *testing.T) {
	t.Parallel()
	onlyAll(t)
	for _, clients := range []string{"newest", "older"} {
		for _, m := range []mode{intercepted, redirected} {
			t.Run(clients+"/"+string(m), func(t *testing.T) {
				s := start(t, "--location", "eastus")
				dir := t.TempDir()
				o := s.run(client{name: "the SDK", dir: dir,
					env:  s.environment(m, "--config-file="+filepath.Join(dir, "config.json")),
					argv: []string{harness.Python(t, clients), filepath.Join(root, "test/compat/python/assets.py")}})
				if o.code != 0 {
					t.Fatalf("exit %d\n%s\n%s", o.code, o.out, o.err)
				}
				quiet(t, o)
			})
		}
	}
}
