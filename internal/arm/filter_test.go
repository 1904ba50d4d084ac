package arm

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"portico/internal/online"
)

// text writes a filter with all its parentheses.
func (f *Filter) text() string {
	switch {
	case f == nil:
		return ""
	case f.Comparison != nil:
		return f.Comparison.Name + " " + f.Comparison.Op + " '" + strings.ReplaceAll(f.Comparison.Value, "'", "''") + "'"
	}
	word := " and "
	if f.Or {
		word = " or "
	}
	var parts []string
	for _, p := range f.Parts {
		parts = append(parts, p.text())
	}
	return "(" + strings.Join(parts, word) + ")"
}

func TestParseFilter(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "",
		"  ":                                  "",
		"deployment eq '*'":                   "deployment eq '*'",
		"deployment eq blue":                  "deployment eq 'blue'",
		"a eq 'it''s'":                        "a eq 'it''s'",
		"a EQ '1' AND b ne '2'":               "(a eq '1' and b ne '2')",
		"a eq '1' and b eq '2' or c eq '3'":   "((a eq '1' and b eq '2') or c eq '3')",
		"a eq '1' or b eq '2' and c eq '3'":   "(a eq '1' or (b eq '2' and c eq '3'))",
		"(a eq '1' or b eq '2') and c eq '3'": "((a eq '1' or b eq '2') and c eq '3')",
		"((a eq '1'))":                        "a eq '1'",
		"eventTimestamp ge '2026-11-23T00:00:00Z' and resourceUri eq '/subscriptions/s'": "(eventTimestamp ge '2026-11-23T00:00:00Z' and resourceUri eq '/subscriptions/s')",
	} {
		f, err := ParseFilter(text)
		if err != nil || f.text() != want {
			t.Errorf("%q: %q, %v; want %q", text, f.text(), err, want)
		}
	}
	for _, text := range []string{
		"a", "a eq", "a eq '1", "a is '1'", "a eq '1' b eq '2'", "(a eq '1'", "a eq '1')", "and", "a eq '1' and", "'a' eq '1'",
		"a eq (", ") eq '1'", strings.Repeat("(", 100) + "a eq '1'" + strings.Repeat(")", 100), "a eq '" + strings.Repeat("x", MaxFilterLength) + "'",
	} {
		if f, err := ParseFilter(text); !online.IsCode(err, online.CodeBadArgument) {
			t.Errorf("%.60q is read as %q, %v", text, f.text(), err)
		}
	}
}

func TestComparison(t *testing.T) {
	for _, c := range []struct {
		op, value, of string
		want          bool
	}{
		{"eq", "Blue", "blue", true}, {"eq", "*", "", true}, {"eq", "blue", "green", false}, {"ne", "blue", "green", true},
		{"ne", "*", "green", false}, {"sw", "gr", "GREEN", true}, {"sw", "gr", "blue", false}, {"ge", "b", "b", true},
		{"gt", "b", "b", false}, {"le", "b", "b", true}, {"lt", "b", "b", false}, {"lt", "b", "a", true}, {"gt", "b", "c", true},
	} {
		if got := (&Comparison{Name: "x", Op: c.op, Value: c.value}).Of(c.of); got != c.want {
			t.Errorf("%q %s %q is %v", c.of, c.op, c.value, got)
		}
	}
}

func TestDemands(t *testing.T) {
	f, err := ParseFilter("a eq '1' and (b eq '2' or c eq '3') and (d eq '4' and e eq '5')")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range f.Comparisons() {
		if want := c.Name == "a" || c.Name == "d" || c.Name == "e"; f.Demands(c) != want {
			t.Errorf("%s is demanded: %v", c.Name, !want)
		}
	}
}

// TestFilterMeansWhatItSays: what is written is read back, and holds as its tree says.
func TestFilterMeansWhatItSays(t *testing.T) {
	var tree func(t *rapid.T, depth int) *Filter
	tree = func(t *rapid.T, depth int) *Filter {
		if depth == 0 || rapid.IntRange(0, 2).Draw(t, "leaf") == 0 {
			return &Filter{Comparison: &Comparison{Name: rapid.StringMatching(`[a-z]{1,5}[a-z/]{0,3}`).Draw(t, "name") + "x",
				Op: rapid.SampledFrom([]string{"eq", "ne", "sw", "ge", "gt", "le", "lt"}).Draw(t, "op"), Value: rapid.StringN(0, 8, -1).Draw(t, "value")}}
		}
		f := &Filter{Or: rapid.Bool().Draw(t, "or")}
		for range rapid.IntRange(2, 3).Draw(t, "parts") {
			f.Parts = append(f.Parts, tree(t, depth-1))
		}
		return f
	}
	rapid.Check(t, func(t *rapid.T) {
		want := tree(t, 4)
		got, err := ParseFilter(want.text())
		if err != nil || got.text() != want.text() {
			t.Fatalf("%q is read as %q: %v", want.text(), got.text(), err)
		}
		holds := map[string]bool{}
		of := func(c *Comparison) bool {
			key := fmt.Sprint(*c)
			if _, ok := holds[key]; !ok {
				holds[key] = len(holds)%2 == 0
			}
			return holds[key]
		}
		if want.Holds(of) != got.Holds(of) || len(want.Comparisons()) != len(got.Comparisons()) {
			t.Fatal("the filter that was read means something else")
		}
	})
}

func FuzzParseFilter(f *testing.F) {
	for _, seed := range []string{"a eq '1' and (b ne 'x' or c sw '')", "((((", "'''", "a eq 'b' or"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := ParseFilter(text); err == nil && got != nil {
			again, err := ParseFilter(got.text())
			if err != nil || again.text() != got.text() {
				t.Fatalf("%q is read as %q and that as %q: %v", text, got.text(), again.text(), err)
			}
		}
	})
}
