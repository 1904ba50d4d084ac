package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPrices(t *testing.T) {
	for name, c := range map[string]struct {
		file  string
		shown string // of the value; "" when the file is refused
		fault string
	}{
		"none":             {"overcommit: strict\n", "none: every cost is counted as 0 (docs/cost.md)", ""},
		"a list":           {"prices:\n  currency: EUR\n  per_hour:\n    standard_DS3_v2: 0.25\n    Standard_F2s_v2: 0\n", "EUR, for 2 of ", ""},
		"no currency":      {"prices: {per_hour: {Standard_DS3_v2: 1}}\n", "USD, for 1 of ", ""},
		"own type":         {"prices: {per_hour: {desk: 1}}\ninstance_types: [{name: desk, cpus: 1, memory_mib: 512}]\n", "USD, for 1 of ", ""},
		"unknown type":     {"prices: {per_hour: {Standard_DS3v2: 1}}\n", "", "Standard_DS3v2"},
		"negative":         {"prices: {per_hour: {Standard_DS3_v2: -1}}\n", "", "not a price"},
		"not a number":     {"prices: {per_hour: {Standard_DS3_v2: .nan}}\n", "", "not a price"},
		"twice":            {"prices: {per_hour: {Standard_DS3_v2: 1, standard_ds3_v2: 2}}\n", "", "two prices"},
		"currency":         {"prices: {currency: euro}\n", "", "three capital letters"},
		"misspelt field":   {"prices: {perhour: {Standard_DS3_v2: 1}}\n", "", "perhour"},
		"text for a price": {"prices: {per_hour: {Standard_DS3_v2: cheap}}\n", "", "prices"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, values, err := Load(Sources{File: path})
			if c.shown == "" {
				if err == nil || !strings.Contains(err.Error(), c.fault) {
					t.Fatalf("got %v, want a fault about %s", err, c.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			last := values[len(values)-1]
			if last.Key != pricesKey || !strings.HasPrefix(last.Value, c.shown) {
				t.Errorf("shown as %+v", last)
			}
			if name == "a list" {
				if p, ok := cfg.Prices.Of("STANDARD_DS3_V2"); p != 0.25 || !ok {
					t.Errorf("price %v, %v", p, ok)
				}
				if p, ok := cfg.Prices.Of("Standard_F2s_v2"); p != 0 || !ok {
					t.Errorf("a price of 0 is a price: %v, %v", p, ok)
				}
			}
		})
	}
}
