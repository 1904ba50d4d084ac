package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func printed(t interface{ Fatal(...any) }, format, query string, v any, columns []column) string {
	var b bytes.Buffer
	p := &printer{out: &b, format: format, query: query, color: format == "jsonc"}
	if err := p.check(); err != nil {
		t.Fatal(err)
	}
	if err := p.print(v, columns); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

type row struct {
	Name  string            `json:"name"`
	Count *int              `json:"count"`
	On    bool              `json:"on"`
	Tags  map[string]string `json:"tags"`
	List  []string          `json:"list"`
	Text  string            `json:"text,omitempty"`
}

func TestFormats(t *testing.T) {
	two := 2
	rows := []row{
		{Name: "b<a>", Count: &two, On: true, Tags: map[string]string{"z": "1", "a": "2"}, List: []string{"x", "y"},
			Text: "two\nlines\tand a tab"},
		{Name: "second", Tags: map[string]string{}, List: []string{}},
	}
	for _, c := range []struct {
		name, format, query string
		v                   any
		columns             []column
		want                string
	}{
		{"json", "json", "", rows[1], nil, "{\n  \"name\": \"second\",\n  \"count\": null,\n  \"on\": false,\n  \"tags\": {},\n  \"list\": []\n}\n"},
		{"json keeps <", "json", "[0].name", rows, nil, "\"b<a>\"\n"},
		{"yaml", "yaml", "", rows[0], nil, "name: b<a>\ncount: 2\non: true\ntags:\n  a: '2'\n  z: '1'\nlist:\n- x\n- y\ntext: |-\n  two\n  lines\tand a tab\n"},
		{"tsv", "tsv", "", rows, nil, "b<a>\t2\ttrue\t\t2\ttwo lines and a tab\nsecond\t\tfalse\t\t0\n"},
		{"tsv of scalars", "tsv", "[].name", rows, nil, "b<a>\nsecond\n"},
		{"tsv of lists", "tsv", "[].[name, count]", rows, nil, "b<a>\t2\nsecond\t\n"},
		{"tsv of null", "tsv", "nothing", rows[0], nil, "\n"},
		{"none", "none", "", rows, nil, ""},
		{"table", "table", "", rows, []column{{"Name", "name"}, {"Tags", "tags"}, {"List", "list"}, {"Text", "text"}},
			"Name    Tags     List  Text\n------  -------  ----  -------------------\nb<a>    a=2 z=1  x,y   two lines and a tab\nsecond\n"},
		{"table after query", "table", "[].{Who: name, count: count}", rows, []column{{"Name", "name"}},
			"Who     Count\n------  -----\nb<a>    2\nsecond\n"},
		{"table of scalars", "table", "[].name", rows, nil, "Result\n------\nb<a>\nsecond\n"},
		{"empty table", "table", "", []row{}, []column{{"Name", "name"}}, ""},
		{"colour", "jsonc", "", map[string]any{"a": "x", "b": 1}, nil,
			"{\n  \x1b[34;1m\"a\"\x1b[0m: \x1b[32m\"x\"\x1b[0m,\n  \x1b[34;1m\"b\"\x1b[0m: \x1b[36m1\x1b[0m\n}\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := printed(t, c.format, c.query, c.v, c.columns)
			if got != c.want {
				t.Errorf("got\n%q\nwant\n%q", got, c.want)
			}
		})
	}
}

func TestShortIDs(t *testing.T) {
	const ws = "azureml:/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/"
	hash := strings.Repeat("0123456789abcdef", 4)
	for in, want := range map[string]string{
		ws + "models/iris/versions/3":            "iris:3",
		ws + "models/" + hash + "/versions/1":    "0123456789ab:1",
		ws + "environments/E/versions/" + hash:   "E:0123456789ab",
		"azureml:iris:3":                         "azureml:iris:3",
		ws + "onlineEndpoints/iris":              ws + "onlineEndpoints/iris",
		"https://127.0.0.1/endpoints/iris/score": "https://127.0.0.1/endpoints/iris/score",
	} {
		if got := shortID(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

// TestFormatsAgree prints any JSON as YAML and reads it back: the same value, whatever text it holds.
func TestFormatsAgree(t *testing.T) {
	scalar := rapid.OneOf(
		rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.Map(rapid.SampledFrom([]string{"true", "null", "1.10", "~", "yes", "0x1", "- a", "a: b", "# c", "", " ",
			"1e3", "2026-01-01", "\n", "|"}), func(s string) any { return s }),
		rapid.Map(rapid.IntRange(-1e9, 1e9), func(i int) any { return float64(i) }),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }), rapid.Just[any](nil),
	)
	rapid.Check(t, func(t *rapid.T) {
		v := map[string]any{
			"s": scalar.Draw(t, "s"), "l": rapid.SliceOfN(scalar, 0, 3).Draw(t, "l"),
			"m": rapid.MapOfN(rapid.String(), scalar, 0, 3).Draw(t, "m"),
		}
		tree, err := parseYAML(printed(t, "yaml", "", v, nil))
		if err != nil {
			t.Fatal(err)
		}
		back, err := yamlToJSON(tree)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if err := json.Unmarshal(back, &got); err != nil {
			t.Fatal(err)
		}
		text, err := marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		if !bytes.Equal(a, b) {
			t.Fatalf("printed %s, read back %s", b, a)
		}
	})
}
