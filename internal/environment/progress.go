package environment

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Limits of what a build may say.
const (
	maxLine      = 2 << 10 // bytes of one line; the rest is cut
	maxHistory   = 4000    // lines that somebody who joins a build late is shown
	tailLines    = 20      // last lines of a failed step in its error
	maxTailBytes = 4 << 10 // bytes of those lines
)

var (
	escapes     = regexp.MustCompile(`\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-_])`)
	urlUserinfo = regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@'"<>]+@`)
	urlSecret   = regexp.MustCompile(`(?i)([?&](?:sig|signature|token|access_token|password|secret|key|code)=)[^&\s'"<>]+`)
)

// redact removes what identifies a caller from addresses in text: user, password, tokens in a query. Lines without the
// mark of an address, almost all of a build, are spared the expressions.
func redact(s string) string {
	if strings.Contains(s, "://") {
		s = urlUserinfo.ReplaceAllString(s, "${1}[redacted]@")
	}
	if strings.Contains(s, "=") {
		s = urlSecret.ReplaceAllString(s, "${1}[redacted]")
	}
	return s
}

// buildLog holds the lines of one build for all who wait for it. Its memory is bounded.
type buildLog struct {
	start time.Time
	hide  *strings.Replacer // paths of the server, which the reader has no use for

	mu      sync.Mutex
	lines   []string
	dropped int // lines that were removed from the front
	changed chan struct{}
}

func newBuildLog(hide *strings.Replacer) *buildLog {
	return &buildLog{start: time.Now(), hide: hide, changed: make(chan struct{})}
}

// say adds one line: wall clock, seconds since the build began, stage, text.
func (l *buildLog) say(stage, text string) { l.add(stage, l.clean(text)) }

// add is say for a text that is clean.
func (l *buildLog) add(stage, text string) {
	now := time.Now()
	line := fmt.Sprintf("%s +%.1fs %s: %s\n", now.UTC().Format(time.RFC3339), now.Sub(l.start).Seconds(), stage, text)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) >= maxHistory {
		cut := maxHistory / 10
		l.lines = append(l.lines[:0], l.lines[cut:]...)
		l.dropped += cut
	}
	l.lines = append(l.lines, line)
	close(l.changed)
	l.changed = make(chan struct{})
}

// since gives the lines from number next on, the number to ask for then, and a channel that closes with the next line.
func (l *buildLog) since(next int) ([]string, int, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := max(next-l.dropped, 0)
	return append([]string(nil), l.lines[from:]...), l.dropped + len(l.lines), l.changed
}

// clean makes a line of a tool fit for a log: no escapes, no control characters, no secrets, no server paths.
func (l *buildLog) clean(s string) string {
	if strings.Contains(s, "\x1b") {
		s = escapes.ReplaceAllString(s, "")
	}
	s = strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	return strings.TrimRight(l.hide.Replace(redact(s)), " ")
}

// stepOutput turns the bytes of a step into lines of the log and keeps the last of them.
type stepOutput struct {
	log   *buildLog
	stage string

	mu      sync.Mutex
	partial []byte
	cut     bool // the rest of this line is dropped
	tail    []string
}

// Write takes any split of the stream; carriage returns of progress bars end a line that is then overwritten.
func (o *stepOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	rest := p
	for len(rest) > 0 {
		end := bytes.IndexAny(rest, "\n\r")
		piece := rest
		if end >= 0 {
			piece = rest[:end]
		}
		if room := maxLine - len(o.partial); len(piece) > room {
			piece, o.cut = piece[:max(room, 0)], true
		}
		o.partial = append(o.partial, piece...)
		if end < 0 {
			break
		}
		if rest[end] == '\n' || len(bytes.TrimSpace(o.partial)) > 0 {
			o.flush()
		}
		rest = rest[end+1:]
	}
	return len(p), nil
}

func (o *stepOutput) flush() {
	line := o.log.clean(string(o.partial))
	if o.cut {
		line += " ..."
	}
	o.partial, o.cut = o.partial[:0], false
	if line == "" {
		return
	}
	o.log.add(o.stage, line)
	if len(o.tail) == tailLines {
		o.tail = append(o.tail[:0], o.tail[1:]...)
	}
	o.tail = append(o.tail, line)
}

// end flushes an unfinished line and gives the last lines, bounded.
func (o *stepOutput) end() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.partial) > 0 {
		o.flush()
	}
	text := strings.Join(o.tail, "\n")
	if len(text) > maxTailBytes {
		text = text[len(text)-maxTailBytes:]
		if i := strings.IndexByte(text, '\n'); i >= 0 {
			text = text[i+1:]
		}
	}
	return strings.ToValidUTF8(text, "")
}

var _ io.Writer = (*stepOutput)(nil)
