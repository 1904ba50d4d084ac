package onnxworker

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"portico/internal/onnxrt"
	"portico/internal/onnxserve"
)

// Descriptors that the worker is started with.
const (
	listenerFD = 3
	pageFD     = 4
)

// exitModel is the status of a worker that cannot serve; the page says why.
const exitModel = 3

// acceptPause is how long accepting rests when the process has no descriptor left.
const acceptPause = 50 * time.Millisecond

// worker is the process.
type worker struct {
	page         *page
	log          *log.Logger
	versionField string
	origins      *origins // nil: browsers let no page of another origin read the answers
	lanes        []*lane
	free         chan *lane
	active       atomic.Int64 // requests that are being served
	stopping     atomic.Bool
	idle         chan struct{} // capacity 1: nothing is active any more
}

// Main serves until SIGTERM and gives the exit status. version is what the server says of itself.
func Main(version string) int {
	logger := log.New(os.Stderr, "", log.LstdFlags|log.Lmicroseconds|log.Lmsgprefix)
	logger.SetPrefix("portico-onnx: ")
	p, err := mapPage(pageFD)
	if err != nil {
		logger.Print(err)
		return 1
	}
	_ = syscall.Close(pageFD) // the mapping stays
	onnxserve.Version = version
	w := &worker{page: p, log: logger, versionField: "x-ms-server-version: portico/" + version + "\r\n", idle: make(chan struct{}, 1)}
	// A terminal's Ctrl-C is for the server, which drains first; nothing can be canceled before the model is loaded.
	signal.Ignore(syscall.SIGINT, syscall.SIGUSR1)
	if err := w.load(); err != nil {
		kind := uint64(kindScript)
		if errors.Is(err, errLibrary) {
			kind = kindInit
		}
		logger.Print(err)
		p.fail(kind, err.Error())
		return exitModel
	}
	return w.run()
}

// errLibrary: ONNX Runtime itself cannot be used, which another start may find mended.
var errLibrary = errors.New("ONNX Runtime cannot be used")

// load loads the library and the model, and makes the lanes.
func (w *worker) load() error {
	s, err := readSettings(os.Getenv)
	if err != nil {
		return err
	}
	began := time.Now()
	library, err := onnxrt.Open(s.library)
	if err != nil {
		return fmt.Errorf("%w: %w", errLibrary, err)
	}
	w.page.setState(stateLoading)
	session, err := loadSession(library, s)
	if err != nil {
		return fmt.Errorf("the model cannot be loaded: %w", err)
	}
	model, err := onnxserve.NewModel(s.name, s.version, session, s.declared)
	if err != nil {
		return fmt.Errorf("the model cannot be served: %w", err)
	}
	model.RunLimit, w.origins = s.runLimit, s.origins
	model.Notice = func(text string) { w.log.Print("batching: " + text) }
	if why := model.Unjoinable(); s.batching && why != "" {
		model.Notice("requests are scored one by one: " + why)
	}
	w.free = make(chan *lane, lanesMax)
	for i := range lanesMax {
		executor, err := model.NewExecutor(headRoom)
		if err != nil {
			return fmt.Errorf("the model cannot be served: %w", err)
		}
		l := &lane{index: i, w: w, executor: executor}
		w.lanes = append(w.lanes, l)
		w.free <- l
	}
	w.log.Printf("ONNX Runtime %s has loaded %s in %.0f ms; %d requests at once, %d threads each", library.Version, s.name,
		float64(time.Since(began))/float64(time.Millisecond), s.concurrency, s.options.Threads)
	w.page.ready(s.concurrency)
	return nil
}

// loadSession loads the model with all signals blocked, which the library's own threads inherit: signals are for Go's.
func loadSession(library *onnxrt.Library, s *settings) (*onnxrt.Session, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unblock := blockSignals()
	defer unblock()
	return library.Load(s.model, s.options)
}

func (w *worker) run() int {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGUSR1)
	listener, err := net.FileListener(os.NewFile(listenerFD, "socket"))
	if err != nil {
		w.log.Print(err)
		return 1
	}
	go w.accept(listener) // ends with the process
	for s := range signals {
		if s == syscall.SIGTERM {
			break
		}
		number := w.page.canceled()
		for _, l := range w.lanes {
			l.cancel(number)
		}
	}
	w.stopping.Store(true)
	if w.active.Load() > 0 {
		<-w.idle
	}
	return 0
}

// accept gives each connection a lane. Without a free one the others wait where they are.
func (w *worker) accept(listener net.Listener) {
	for l := range w.free {
		for {
			conn, err := listener.Accept()
			if err == nil {
				go l.serve(conn)
				break
			}
			w.log.Printf("cannot accept a connection: %v", err)
			time.Sleep(acceptPause)
		}
	}
}

// enter begins a request. False: the process is about to end.
func (w *worker) enter() bool {
	w.active.Add(1)
	if w.stopping.Load() {
		w.leave()
		return false
	}
	return true
}

func (w *worker) leave() {
	if w.active.Add(-1) == 0 && w.stopping.Load() {
		select {
		case w.idle <- struct{}{}:
		default:
		}
	}
}

// makeID makes a request id, a UUID of version 4.
func (w *worker) makeID() []byte {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	text := make([]byte, 0, 36)
	for i, part := range [...][]byte{u[:4], u[4:6], u[6:8], u[8:10], u[10:]} {
		if i > 0 {
			text = append(text, '-')
		}
		text = hex.AppendEncode(text, part)
	}
	return text
}
