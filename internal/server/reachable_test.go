package server

import (
	"net"
	"strings"
	"testing"
)

func TestReachable(t *testing.T) {
	for _, c := range []struct {
		name, listen, hosts, want string
	}{
		{"every address, no hosts", "0.0.0.0:0", "", "localhost"},
		{"every address, hosts", "0.0.0.0:0", "models.example.com, 192.0.2.7", "models.example.com"},
		{"every address, an address", "0.0.0.0:0", " 192.0.2.7", "192.0.2.7"},
		{"one address, hosts", "127.0.0.1:0", "models.example.com", "127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := net.Listen("tcp", c.listen)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var cfg Config
			err = setting(t, "hosts").set(&cfg, c.hosts)
			if err != nil {
				t.Fatal(err)
			}
			host, _, err := net.SplitHostPort(reachable(l, cfg.Hosts...))
			if err != nil || host != c.want {
				t.Errorf("the host is %q (%v), not %q", host, err, c.want)
			}
			for _, h := range cfg.Hosts {
				if strings.TrimSpace(h) != h {
					t.Errorf("%q has blanks around it", h)
				}
			}
		})
	}
}

func setting(t *testing.T, key string) Setting {
	t.Helper()
	for _, s := range Settings() {
		if s.Key == key {
			return s
		}
	}
	t.Fatalf("there is no setting %q", key)
	return Setting{}
}
