package local

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestLineTime(t *testing.T) {
	for line, want := range map[string]string{
		"2026-11-23 01:02:03,456 I [7] azmlinfsrv - hello": "2026-11-23T01:02:03.456Z",
		"2026-11-23 01:02:03,456":                          "2026-11-23T01:02:03.456Z",
		"Traceback (most recent call last):":               "", "": "", "2026-13-23 01:02:03,456 I": "",
	} {
		at, ok := lineTime([]byte(line))
		got := ""
		if ok {
			got = at.Format("2006-01-02T15:04:05.999Z07:00")
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// Merging keeps every line of every worker in its order, timed lines in order of time, and lines without a time
// right behind the line that they follow.
func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
		inputs := make([][]string, rapid.IntRange(1, 4).Draw(t, "workers"))
		m := &merger{}
		for w := range inputs {
			at := base
			for n := range rapid.IntRange(0, 12).Draw(t, "lines") {
				line := fmt.Sprintf("worker %d line %d", w, n)
				if n == 0 || rapid.Bool().Draw(t, "timed") {
					at = at.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
					line = at.Format(lineTimeLayout) + " " + line
				}
				inputs[w] = append(inputs[w], line+"\n")
			}
			m.add(io.NopCloser(strings.NewReader(strings.Join(inputs[w], ""))))
		}
		text, err := io.ReadAll(m)
		if err != nil {
			t.Fatal(err)
		}
		var outputs [4][]string
		last, owner := time.Time{}, -1
		for line := range strings.Lines(string(text)) {
			_, rest, _ := strings.Cut(line, "worker ")
			w := int(rest[0] - '0')
			outputs[w] = append(outputs[w], line)
			at, timed := lineTime([]byte(line))
			switch {
			case timed && at.Before(last):
				t.Fatalf("out of order:\n%s", text)
			case timed:
				last = at
			case w != owner:
				t.Fatalf("a line without a time was torn from its own:\n%s", text)
			}
			owner = w
		}
		for w, lines := range inputs {
			if !slices.Equal(lines, outputs[w]) {
				t.Fatalf("worker %d printed %q, and %q came out", w, lines, outputs[w])
			}
		}
	})
}

func TestLastLines(t *testing.T) {
	for n := 1; n <= 6; n++ {
		m := &merger{}
		m.add(io.NopCloser(strings.NewReader("1\n2\n3\n4\nunfinished")))
		r, err := m.lastLines(n)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		want := strings.Join([]string{"1\n", "2\n", "3\n", "4\n", "unfinished\n"}[max(5-n, 0):], "")
		if err != nil || string(text) != want {
			t.Errorf("last %d: %q, %v; want %q", n, text, err, want)
		}
	}
}
