package server

import "testing"

func TestTokenRequestsStayOnThisMachine(t *testing.T) {
	for address, ok := range map[string]bool{
		"127.0.0.1:0": true, "127.0.0.1:8080": true, "127.9.9.9:0": true, "[::1]:0": true, "localhost:0": true,
		"": false, ":0": false, "0.0.0.0:0": false, "[::]:0": false, "10.0.0.1:80": false, "host:80": false, "127.0.0.1": false,
		"localhost.example:80": false,
	} {
		if err := checkLoopback(address); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
		_, _, err := Load(Sources{Flags: map[string]string{"data_dir": t.TempDir(), "identity": address}})
		if (err == nil) != ok {
			t.Errorf("--identity %q: %v", address, err)
		}
	}
}
