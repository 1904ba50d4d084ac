package inference

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PageSize is the size of a worker's status page in bytes.
const PageSize = 4096

// Layout of the status page; docs/architecture.md describes it for both sides.
const (
	pageMagic = 0x50525431

	offHead     = 0
	offRunning  = 8
	offNewest   = 16
	offCancel   = 32
	offFinished = 40
	offKind     = 56
	offBusy     = 64
	offSlots    = 72
	offLanes    = 128
	offText     = 256
	offWithdraw = 2048

	textMax       = 1700
	withdrawSlots = 256
	pageLanes     = 16      // words at offLanes, and at least depthMax
	laneRuns      = 1 << 63 // of such a word: the request with this number runs
)

// States that a worker writes.
const (
	pageStarting uint32 = iota
	pageInit
	pageReady
	pageFailed
)

// kindScript is the kind of failure that starting again cannot help.
const kindScript = 1

// page is a worker's status page, mapped. A worker that takes one request at a time says at offRunning which it runs; one
// that takes several has a word for each of its connections, and says how many it wants. All words are read and written with single atomic operations; it may
// be read after the worker's death. The mapping goes when nobody can reach the page any more.
type page struct{ mem []byte }

func openPage(path string) (*page, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open status page: %w", err)
	}
	defer f.Close() // the mapping does not need it
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open status page: %w", err)
	}
	if info.Size() < PageSize { // reading beyond the end of the file would be a fatal signal
		return nil, fmt.Errorf("open status page: %d bytes instead of %d", info.Size(), PageSize)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map status page: %w", err)
	}
	p := &page{mem: mem}
	runtime.AddCleanup(p, func(mem []byte) { _ = unix.Munmap(mem) }, mem)
	return p, nil
}

func (p *page) word(off int) *uint64 { return (*uint64)(unsafe.Pointer(&p.mem[off])) }

func (p *page) load(off int) uint64 {
	v := atomic.LoadUint64(p.word(off))
	runtime.KeepAlive(p)
	return v
}

func (p *page) store(off int, v uint64) {
	atomic.StoreUint64(p.word(off), v)
	runtime.KeepAlive(p)
}

// state is what the worker says of itself; pageStarting until it has mapped the page.
func (p *page) state() uint32 {
	head := p.load(offHead)
	if uint32(head) != pageMagic {
		return pageStarting
	}
	return uint32(head >> 32)
}

func (p *page) running() uint64     { return p.load(offRunning) }
func (p *page) newest() uint64      { return p.load(offNewest) }
func (p *page) lane(i int) uint64   { return p.load(offLanes + 8*i) }
func (p *page) finished() uint64    { return p.load(offFinished) }
func (p *page) busy() time.Duration { return time.Duration(p.load(offBusy)) }

// slots is how many requests the worker wants to execute at once.
func (p *page) slots() int { return int(min(max(p.load(offSlots), 1), depthMax)) }

// runs says whether the worker executes the request.
func (p *page) runs(number uint64) bool {
	if p.running() == number {
		return true
	}
	for i := range pageLanes {
		if p.lane(i) == number|laneRuns {
			return true
		}
	}
	return false
}

// executing are the numbers of the requests that the worker executes.
func (p *page) executing() []uint64 {
	var numbers []uint64
	if n := p.running(); n != 0 {
		numbers = append(numbers, n)
	}
	for i := range pageLanes {
		if n := p.lane(i); n > laneRuns {
			numbers = append(numbers, n&^laneRuns)
		}
	}
	return numbers
}

// started says whether the worker has begun the request, as far as it can be known: whether it runs, or was the newest
// of all or of its connection.
func (p *page) started(number uint64) bool {
	if p.newest() == number || p.runs(number) {
		return true
	}
	for i := range pageLanes {
		if p.lane(i) == number {
			return true
		}
	}
	return false
}

// cancel names the request to cancel; the signal follows.
func (p *page) cancel(number uint64) { p.store(offCancel, number) }

// withdraw forbids the worker to start the request. False: it had been started by then, and may still run or
// be finished. The worker announces a request and then looks for its withdrawal, the pool withdraws and then looks
// for the announcement; both with a full barrier between, so at least one sees the other.
func (p *page) withdraw(number uint64) bool {
	p.store(offWithdraw+8*int(number%withdrawSlots), number)
	return !p.runs(number)
}

// failure is why the worker cannot serve, and of which kind; empty unless its state is pageFailed.
func (p *page) failure() (kind uint64, reason string) {
	if p.state() != pageFailed {
		return 0, ""
	}
	n := min(int(binary.LittleEndian.Uint16(p.mem[offText:])), textMax)
	reason = string(p.mem[offText+2 : offText+2+n])
	kind = p.load(offKind)
	if !utf8.ValidString(reason) {
		reason = strings.ToValidUTF8(reason, "\uFFFD")
	}
	return kind, reason
}
