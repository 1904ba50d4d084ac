package compat

import (
	"path/filepath"
	"testing"
)

func TestCurl(t *testing.T) {
	t.Parallel()
	onlyAll(t)
	for _, m := range []mode{redirected, intercepted} {
		t.Run(string(m), func(t *testing.T) {
			s := start(t, "--location", "eastus")
			management := "https://management.azure.com"
			if m == redirected {
				management = s.ready.ManagementURL
			}
			o := s.run(client{name: "curl", dir: t.TempDir(), env: s.environment(m),
				argv: []string{"bash", filepath.Join(root, "test/compat/curl.sh"), management}})
			if o.code != 0 {
				t.Errorf("exit %d\n%s\n%s", o.code, o.out, o.err)
			}
			quiet(t, o)
		})
	}
}
