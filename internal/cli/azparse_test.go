package cli

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var parseTable = []azArg{
	azOne("--name", "-n").must(), azOne("--endpoint-name", "-e"), azOne("--resource-group",
		"-g"), azOne("--request-file", "-r"),
	azSwitch("--yes", "-y"), azSwitch("--no-wait"), azMaybe("--local"), azMany("--set"), azMany("--traffic"),
	azOne("--key-type").from("primary", "secondary"), azOne("--web").refuse("there is none"),
	{names: []string{"--remove"}, takes: takesMany, each: listEdits},
}

func TestParseAz(t *testing.T) {
	for _, row := range []struct {
		line string // words are parted by '|'
		want azValues
		err  string
	}{
		{line: "--name|a", want: azValues{"name": {"a"}}},
		{line: "-n|a|--endpoint|e", want: azValues{"name": {"a"}, "endpoint-name": {"e"}}},
		{line: "--na=a|--end=e", want: azValues{"name": {"a"}, "endpoint-name": {"e"}}},
		{line: "-na", want: azValues{"name": {"a"}}},
		{line: "-n=a", want: azValues{"name": {"a"}}},
		{line: "--name=", want: azValues{"name": {""}}},
		{line: "-n|a|-n|b", want: azValues{"name": {"b"}}},
		{line: "-yn|a", want: azValues{"name": {"a"}, "yes": {"true"}}},
		{line: "-n|a|--set|x=1|y=2|--yes|--set|z=3", want: azValues{"name": {"a"}, "set": {"x=1", "y=2", "z=3"},
			"yes": {"true"}}},
		{line: "-n|a|--set=x=1|y=2", err: "unrecognized arguments: y=2"},
		{line: "-n|a|--traffic|blue=90 green=10", want: azValues{"name": {"a"}, "traffic": {"blue=90 green=10"}}},
		{line: "-n|a|--local", want: azValues{"name": {"a"}, "local": {"true"}}},
		{line: "-n|a|--local|false|-y", want: azValues{"name": {"a"}, "local": {"false"}, "yes": {"true"}}},
		{line: "-n|a|--local|maybe", err: "invalid choice: 'maybe'"},
		{line: "-n|-5", want: azValues{"name": {"-5"}}},
		{line: "-n|- a b", want: azValues{"name": {"- a b"}}},
		{line: "-n|a|--key-type|PRIMARY", want: azValues{"name": {"a"}, "key-type": {"primary"}}},
		{line: "-n|a|--key-type|first", err: "'first' is not a valid value for '--key-type'"},
		{line: "-n|a|--remove|tags.x|--remove|list|0", want: azValues{"name": {"a"}, "remove": {"tags.x", "list=0"}}},
		{line: "-n|a|--re|x", err: "ambiguous option: --re could match --resource-group, --request-file, --remove"},
		{line: "-n|a|--no|x", err: "unrecognized arguments: x"},
		{line: "-n|a|--yes=1", err: "ignored explicit argument '1'"},
		{line: "-n|a|--web|x", err: "--web: there is none"},
		{line: "-n", err: "argument --name/-n: expected one argument"},
		{line: "-n|--yes", err: "argument --name/-n: expected one argument"},
		{line: "-n|a|--set", err: "argument --set: expected at least one argument"},
		{line: "--yes", err: "the following arguments are required: --name/-n"},
		{line: "-n|a|--nam3", err: "unrecognized arguments: --nam3; did you mean --name?"},
		{line: "-n|a|--|-y", err: "unrecognized arguments: -y"},
		{line: "-n|a|word", err: "unrecognized arguments: word"},
	} {
		t.Run(row.line, func(t *testing.T) {
			got, err := parseAz(parseTable, strings.Split(row.line, "|"))
			if row.err != "" {
				var usage *usageError
				if !errors.As(err, &usage) || !strings.Contains(err.Error(), row.err) {
					t.Fatalf("error is %v, not %q", err, row.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, row.want) {
				t.Fatalf("%v %v, not %v", got, err, row.want)
			}
		})
	}
}

// TestParseAzAnyLine: whatever is typed, the parser answers, and what it answers was typed.
func TestParseAzAnyLine(t *testing.T) {
	word := rapid.OneOf(rapid.SampledFrom([]string{"--name", "-n", "--na=x", "-y", "--set", "a=b", "--", "-", "",
		"--local", "false",
		"-nx", "--r", "--yes", "-yn", "--=", "--remove", "0"}), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.SliceOfN(word, 0, 8).Draw(t, "line")
		before := slices.Clone(line)
		got, err := parseAz(parseTable, line)
		if !slices.Equal(before, line) {
			t.Fatalf("the line was changed to %q", line)
		}
		var usage *usageError
		if err != nil && !errors.As(err, &usage) {
			t.Fatalf("%T: %v", err, err)
		}
		all := strings.Join(line, "\x00")
		for key, values := range got {
			for _, v := range values {
				for part := range strings.SplitSeq(v, "=") {
					if v != "true" && !strings.Contains(strings.ToLower(all), strings.ToLower(part)) {
						t.Fatalf("%s is %q, which nobody typed in %q", key, v, line)
					}
				}
			}
		}
	})
}

// TestParseAzBeginnings: every beginning of a name that is no other's means the whole name, with either way to write
// the value.
func TestParseAzBeginnings(t *testing.T) {
	for _, command := range azCommands() {
		args := slices.Concat(command.args, azEverywhere)
		for _, arg := range args {
			if arg.positional() || arg.takes != takesOne || arg.refused != "" || len(arg.choices) > 0 {
				continue
			}
			for n := 3; n <= len(arg.names[0]); n++ {
				beginning := arg.names[0][:n]
				others, whole := 0, false
				for _, other := range args {
					whole = whole || slices.Contains(other.names, beginning)
					if slices.ContainsFunc(other.names, func(s string) bool { return strings.HasPrefix(s, beginning) }) {
						others++
					}
				}
				for _, line := range [][]string{{beginning, "v"}, {beginning + "=v"}} {
					p := &azParser{args: args, values: azValues{}}
					_, err := p.word(line, 0)
					switch {
					case whole && n < len(arg.names[0]): // another option's name
					case others > 1 && !whole:
						if err == nil {
							t.Errorf("az %s %s is not ambiguous", command.words, beginning)
						}
					case err != nil || p.values.one(arg.key()) != "v":
						t.Errorf("az %s %q: %v %v", command.words, line, p.values, err)
					}
				}
			}
		}
	}
}

// TestAzCommandTable: no command is there twice, no two options share a name, and every option of an ml command is one
// of the portico command.
func TestAzCommandTable(t *testing.T) {
	seen := map[string]bool{}
	app := &App{Getenv: func(string) string { return "" }}
	for _, c := range azCommands() {
		if seen[c.words] || c.run == nil || c.short == "" {
			t.Errorf("%s is there twice, or does nothing", c.words)
		}
		seen[c.words] = true
		names := map[string]bool{}
		for _, arg := range slices.Concat(c.args, azEverywhere) {
			for _, n := range arg.names {
				if names[n] {
					t.Errorf("az %s: %s is there twice", c.words, n)
				}
				names[n] = true
			}
		}
		if !strings.HasPrefix(c.words, "ml ") {
			continue
		}
		command, rest, err := app.Command().Find(strings.Fields(c.words))
		if err != nil || len(rest) > 0 {
			t.Errorf("portico %s: %v %v", c.words, rest, err)
			continue
		}
		for _, arg := range c.args {
			to, _, _ := strings.Cut(orDefault(arg.to, arg.key()), "=")
			if arg.refused == "" && to != "-" && command.Flag(to) == nil && command.InheritedFlags().Lookup(to) == nil {
				t.Errorf("portico %s has no --%s, for az's %s", c.words, to, arg.names[0])
			}
		}
	}
}
