package telemetry

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// flushPeriod is the longest time that a line waits in memory; a killed server loses at most these lines.
	flushPeriod = 50 * time.Millisecond
	// logShards is how many buffers share the lines, so that requests rarely meet at a lock. Lines of one flush
	// are therefore not in strict order of time.
	logShards = 8
	// lineBytes is room for a usual line.
	lineBytes = 1024
)

// accessLog writes one JSON line per request. A request only appends to memory; one goroutine writes.
type accessLog struct {
	path    string
	limit   int64 // bytes of a file
	files   int
	backlog int // bytes per shard
	dropped prometheus.Counter
	log     *slog.Logger

	shards [logShards]logShard
	wake   chan struct{}
	stop   chan struct{}
	done   sync.WaitGroup

	// Of the writing goroutine.
	file   *os.File
	size   int64
	spare  []byte
	failed bool // the last write failed, and was told
}

type logShard struct {
	mu    sync.Mutex
	buf   []byte
	lines int
	_     [64]byte // keeps neighbours off one cache line
}

func openAccessLog(cfg Config, dropped prometheus.Counter, log *slog.Logger) (*accessLog, error) {
	a := &accessLog{
		path: cfg.AccessLog, limit: cfg.AccessLogBytes, files: cfg.AccessLogFiles,
		backlog: max(int(cfg.AccessLogBacklog/logShards), lineBytes), dropped: dropped, log: log,
		wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	if err := a.open(); err != nil {
		return nil, err
	}
	a.done.Go(a.loop)
	return a, nil
}

func (a *accessLog) open() error {
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open access log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open access log: %w", err), f.Close())
	}
	a.file, a.size = f, info.Size()
	return nil
}

func (a *accessLog) record(r *Record) {
	var room [lineBytes]byte
	line := appendLine(room[:0], r)
	s := &a.shards[rand.Uint32N(logShards)]
	s.mu.Lock()
	full := len(s.buf)+len(line) > a.backlog
	if !full {
		s.buf = append(s.buf, line...)
		s.lines++
	}
	half := len(s.buf) > a.backlog/2
	s.mu.Unlock()
	if full {
		a.dropped.Inc()
	}
	if half {
		select {
		case a.wake <- struct{}{}:
		default: // it is awake already
		}
	}
}

func (a *accessLog) loop() {
	tick := time.NewTicker(flushPeriod)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-a.wake:
		case <-a.stop:
			a.flush()
			return
		}
		a.flush()
	}
}

func (a *accessLog) flush() {
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		if s.lines == 0 {
			s.mu.Unlock()
			continue
		}
		buf, lines := s.buf, s.lines
		s.buf, s.lines = a.spare[:0], 0
		s.mu.Unlock()
		a.tell(a.write(buf), lines)
		a.spare = buf
	}
}

// write appends a buffer of whole lines. After a failure the file is opened anew with the next buffer, so that
// logging resumes when there is space again.
func (a *accessLog) write(buf []byte) error {
	if a.file != nil && a.size > 0 && a.size+int64(len(buf)) > a.limit {
		if err := a.rotate(); err != nil {
			return err
		}
	}
	if a.file == nil {
		if err := a.open(); err != nil {
			return err
		}
	}
	n, err := a.file.Write(buf)
	a.size += int64(n)
	if err != nil {
		// A line that was cut in half must not swallow the next one: take it back.
		back := a.file.Truncate(a.size - int64(n))
		err = errors.Join(fmt.Errorf("write access log: %w", err), back, a.file.Close())
		a.file = nil
	}
	return err
}

func (a *accessLog) rotate() error {
	err := a.file.Close()
	a.file = nil
	for i := a.files - 1; i > 0; i-- {
		from := a.path
		if i > 1 {
			from = a.path + "." + strconv.Itoa(i-1)
		}
		if e := os.Rename(from, a.path+"."+strconv.Itoa(i)); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	if a.files == 1 {
		err = errors.Join(err, os.Truncate(a.path, 0))
	}
	if err != nil {
		return fmt.Errorf("rotate access log: %w", err)
	}
	return nil
}

// tell counts lost lines and logs when writing begins to fail and when it works again.
func (a *accessLog) tell(err error, lines int) {
	if err != nil {
		a.dropped.Add(float64(lines))
	}
	if failed := err != nil; failed != a.failed {
		a.failed = failed
		if failed {
			a.log.Error("access log cannot be written", "error", err)
		} else {
			a.log.Info("access log is written again")
		}
	}
}

func (a *accessLog) close() error {
	close(a.stop)
	a.done.Wait()
	if a.file == nil {
		return nil
	}
	if err := a.file.Close(); err != nil {
		return fmt.Errorf("close access log: %w", err)
	}
	return nil
}
