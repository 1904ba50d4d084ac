package server

import (
	"context"
	"io"
	"strconv"
	"sync"
	"time"
)

// Bounds of the access log.
const (
	accessPause = 100 * time.Millisecond // how long a line may wait to be written
	accessBytes = 32 << 10               // of lines that wait; then they are written at once
)

// accessLog writes the reference server's access lines: method, path, status, time and length of the answer. Lines of
// several requests are written together, because a system call for each would cost more than serving it.
type accessLog struct {
	out io.Writer
	pid int // of this process

	mu     sync.Mutex
	lines  []byte
	broken error
}

// run writes what waits, until ctx ends and everything is written.
func (l *accessLog) run(ctx context.Context) {
	ticker := time.NewTicker(accessPause)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			l.mu.Lock()
			l.flush()
			l.mu.Unlock()
		case <-ctx.Done():
			l.mu.Lock()
			defer l.mu.Unlock()
			l.flush()
			return
		}
	}
}

// flush is called with mu held.
func (l *accessLog) flush() {
	if len(l.lines) == 0 {
		return
	}
	if l.broken == nil {
		_, l.broken = l.out.Write(l.lines) // nobody reads any more; requests must not fail for it
	}
	l.lines = l.lines[:0]
}

// accessEntry is one answered request.
type accessEntry struct {
	id, method, target string
	status             int
	took               time.Duration
	length             int64 // of the answer; -1 for a stream
}

// add appends the line of a request. target holds no line ends: it comes from a request line.
func (l *accessLog) add(now time.Time, e accessEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := now.UTC().AppendFormat(l.lines, "2006-01-02 15:04:05,000")
	b = append(b, " I ["...)
	b = strconv.AppendInt(b, int64(l.pid), 10)
	b = append(b, ' ')
	b = append(b, e.id...)
	b = append(b, "] azmlinfsrv - "...)
	b = append(b, e.method...)
	b = append(b, ' ')
	b = append(b, e.target...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(e.status), 10)
	b = append(b, ' ')
	b = strconv.AppendFloat(b, float64(e.took)/float64(time.Millisecond), 'f', 3, 64)
	b = append(b, "ms "...)
	if e.length < 0 {
		b = append(b, "N/A"...)
	} else {
		b = strconv.AppendInt(b, e.length, 10)
	}
	l.lines = append(b, '\n')
	if len(l.lines) >= accessBytes {
		l.flush()
	}
}
