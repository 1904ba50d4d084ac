package onnxworker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Layout of the status page, as docs/architecture.md describes it.
const (
	pageSize  = 4096
	pageMagic = 0x50525431

	offHead      = 0
	offNewest    = 16
	offStarted   = 24
	offCancel    = 32
	offFinished  = 40
	offReadyNS   = 48
	offKind      = 56
	offBusy      = 64
	offSlots     = 72
	offLanes     = 128
	offText      = 256
	offWithdrawn = 2048

	textMax        = 1700
	withdrawnSlots = 256
	// lanesMax is how many requests the page has words for.
	lanesMax = 16
	// runs marks, in a lane's word, that the request with this number runs.
	runs = 1 << 63
)

// States of a worker.
const (
	stateStarting uint32 = iota
	stateLoading
	stateReady
	stateFailed
)

// Kinds of failure: kindScript cannot be mended by starting again.
const (
	kindScript = 1
	kindInit   = 3
)

// page is the status page, mapped. Every word is written with one atomic operation.
type page struct{ mem []byte }

func mapPage(fd int) (*page, error) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, errors.New("map the status page: a little-endian machine is needed")
	}
	mem, err := syscall.Mmap(fd, 0, pageSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the status page: %w", err)
	}
	p := &page{mem}
	p.setState(stateStarting)
	return p, nil
}

func (p *page) word(off int) *uint64 { return (*uint64)(unsafe.Pointer(&p.mem[off])) }

func (p *page) setState(state uint32) {
	atomic.StoreUint64(p.word(offHead), uint64(state)<<32|pageMagic)
}

// ready tells that requests are served, slots of them at once.
func (p *page) ready(slots int) {
	atomic.StoreUint64(p.word(offSlots), uint64(slots))
	atomic.StoreUint64(p.word(offReadyNS), uint64(monotonic()))
	p.setState(stateReady)
}

// fail tells why the worker cannot serve, in one sentence.
func (p *page) fail(kind uint64, reason string) {
	text := []byte(strings.Join(strings.Fields(reason), " "))
	text = text[:min(len(text), textMax)]
	copy(p.mem[offText+2:], text)
	binary.LittleEndian.PutUint16(p.mem[offText:], uint16(len(text)))
	atomic.StoreUint64(p.word(offKind), kind)
	p.setState(stateFailed)
}

// start claims a request for a lane. False: the pool has withdrawn it, and it must not run. The pool writes the
// withdrawal and then reads the lanes; here the lane is written and then the withdrawal is read. Both are in one order,
// so at least one side sees the other.
func (p *page) start(lane int, number uint64) bool {
	atomic.StoreUint64(p.word(offStarted), uint64(monotonic()))
	newest := p.word(offNewest)
	for {
		n := atomic.LoadUint64(newest)
		if n >= number || atomic.CompareAndSwapUint64(newest, n, number) {
			break
		}
	}
	word := p.word(offLanes + 8*lane)
	atomic.StoreUint64(word, number|runs)
	if atomic.LoadUint64(p.word(offWithdrawn+8*int(number%withdrawnSlots))) == number {
		atomic.StoreUint64(word, 0)
		return false
	}
	return true
}

// finish notes that the lane's request has ended; its answer is written already. number is 0 for one without.
func (p *page) finish(lane int, number uint64, busy time.Duration) {
	atomic.AddUint64(p.word(offBusy), uint64(busy))
	atomic.AddUint64(p.word(offFinished), 1)
	if number != 0 {
		atomic.StoreUint64(p.word(offLanes+8*lane), number)
	}
}

// canceled is the number of the request that the pool wants ended.
func (p *page) canceled() uint64 { return atomic.LoadUint64(p.word(offCancel)) }

var began = time.Now()

// monotonic is a time in nanoseconds that only grows.
func monotonic() time.Duration { return time.Since(began) + 1 }
