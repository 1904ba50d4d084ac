package environment

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"Looking in indexes: https://user:pa%40ss@host/simple, http://t0ken@h2": "Looking in indexes: https://[redacted]@host/simple, http://[redacted]@h2",
		"git+ssh://git@host/x.git":         "git+ssh://[redacted]@host/x.git",
		"https://h/x?sig=abc&sv=1":         "https://h/x?sig=[redacted]&sv=1",
		"https://h/x?a=1&access_token=abc": "https://h/x?a=1&access_token=[redacted]",
		"https://host/path@2":              "https://host/path@2",
		"mail me@example.org":              "mail me@example.org",
	} {
		if got := redact(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func collect(chunks ...string) (lines []string, tail string) {
	log := newBuildLog(strings.NewReplacer("/data/x", "<build>"))
	out := &stepOutput{log: log, stage: "s"}
	for _, c := range chunks {
		if n, err := out.Write([]byte(c)); n != len(c) || err != nil {
			panic(fmt.Sprint(n, err))
		}
	}
	tail = out.end()
	all, _, _ := log.since(0)
	for _, l := range all {
		_, text, _ := strings.Cut(l, " s: ")
		lines = append(lines, strings.TrimSuffix(text, "\n"))
	}
	return lines, tail
}

func TestStepOutput(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"one\ntwo\n", "one|two"},
		{"one\r\ntwo", "one|two"},
		{"10%\r20%\rdone\n", "10%|20%|done"},
		{"\x1b[31mred\x1b[0m \x1b]0;title\x07x\n", "red x"},
		{"bad \xff\x00\x07utf8\n", "bad utf8"},
		{"\n\n  \n", ""},
		{"in /data/x/tmp\n", "in <build>/tmp"},
		{strings.Repeat("a", maxLine+100) + "\nb\n", strings.Repeat("a", maxLine) + " ...|b"},
	} {
		lines, tail := collect(c.in)
		if got := strings.Join(lines, "|"); got != c.want {
			t.Errorf("%.40q: %.80q, want %.80q", c.in, got, c.want)
		}
		if want := strings.ReplaceAll(c.want, "|", "\n"); tail != want {
			t.Errorf("%.40q: tail %.80q, want %.80q", c.in, tail, want)
		}
	}
}

// However the bytes are cut into writes, the lines are the same.
func TestStepOutputAnySplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.SampledFrom([]rune("ab\n\r \x1b[m1;\xc3é")), 0, 60, -1).Draw(t, "text")
		at := rapid.IntRange(0, len(text)).Draw(t, "cut")
		whole, _ := collect(text)
		parts, _ := collect(text[:at], text[at:])
		if strings.Join(whole, "|") != strings.Join(parts, "|") {
			t.Fatalf("%q cut at %d: %q, want %q", text, at, parts, whole)
		}
	})
}

func TestOutputIsBounded(t *testing.T) {
	log := newBuildLog(strings.NewReplacer())
	out := &stepOutput{log: log, stage: "s"}
	for i := range 3 * maxHistory {
		fmt.Fprintf(out, "%d %s\n", i, strings.Repeat("x", 1000))
	}
	tail := out.end()
	if len(tail) > maxTailBytes || !strings.Contains(tail, fmt.Sprintf("%d xxx", 3*maxHistory-1)) {
		t.Errorf("tail has %d bytes: %.40q", len(tail), tail)
	}
	lines, next, changed := log.since(0)
	if len(lines) > maxHistory || next != 3*maxHistory {
		t.Errorf("%d lines are kept, next %d", len(lines), next)
	}
	log.say("s", "more")
	<-changed
	if lines, _, _ = log.since(next); len(lines) != 1 {
		t.Errorf("%d lines are new", len(lines))
	}
}
