package host

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Bounds of the pages that a fork takes for itself ahead of time.
const (
	maxTouchedPages  = 8192    // of a fork: 32 MiB
	maxTouchedRanges = 4096    // they travel to each fork in one message
	maxPagemapBytes  = 4 << 20 // that are read of a worker: 2 GiB of addresses
	pagemapChunk     = 64 << 10
)

// Bits of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst of Linux).
const (
	pagePresent   = 1 << 63
	pageOfFile    = 1 << 61 // or of shared memory
	pageExclusive = 1 << 56 // nobody else has it
)

// writtenPages finds the pages that a fork has for itself where its server has private memory. The kernel copied them
// when the fork wrote to them for the first time; the next fork will write to much the same ones, since all have the
// same addresses.
func writtenPages(server, fork int) ([]pageRange, error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", server))
	if err != nil {
		return nil, fmt.Errorf("look at the fork server's memory: %w", withoutPath(err))
	}
	defer maps.Close()
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", fork))
	if err != nil {
		return nil, fmt.Errorf("look at the fork's memory: %w", withoutPath(err))
	}
	defer pagemap.Close()
	w := pageWalk{pagemap: pagemap, size: uint64(os.Getpagesize()), left: maxPagemapBytes}
	for sc := bufio.NewScanner(maps); sc.Scan(); {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(sc.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			return nil, fmt.Errorf("read the fork server's memory map: %w", err)
		}
		if !strings.HasPrefix(mode, "rw") || !strings.HasSuffix(mode, "p") {
			continue
		}
		if err := w.look(from, to); err != nil {
			return nil, fmt.Errorf("look at the fork's memory: %w", withoutPath(err))
		}
	}
	return w.found, nil
}

// pageRange is pages in a row: the address of the first, and how many.
type pageRange [2]uint64

// vector is pages as an array of the kernel's struct iovec: addresses and lengths in bytes.
func vector(pages []pageRange) []byte {
	v := make([]byte, 0, len(pages)*16)
	for _, r := range pages {
		v = binary.NativeEndian.AppendUint64(v, r[0])
		v = binary.NativeEndian.AppendUint64(v, r[1]*uint64(os.Getpagesize()))
	}
	return v
}

// pageWalk collects what is found until a bound is met.
type pageWalk struct {
	pagemap *os.File
	size    uint64 // of a page
	left    uint64 // bytes that may still be read
	pages   int
	found   []pageRange
}

// look takes up the pages from an address to another.
func (w *pageWalk) look(from, to uint64) error {
	entries := make([]byte, pagemapChunk)
	for from < to {
		n := min((to-from)/w.size*8, pagemapChunk)
		if n == 0 || n > w.left {
			return nil
		}
		w.left -= n
		if _, err := w.pagemap.ReadAt(entries[:n], int64(from/w.size*8)); err != nil {
			if errors.Is(err, io.EOF) {
				return nil // beyond the fork's memory
			}
			return err
		}
		for at := uint64(0); at < n; at += 8 {
			e := binary.NativeEndian.Uint64(entries[at:])
			if e&pagePresent != 0 && e&pageOfFile == 0 && e&pageExclusive != 0 {
				w.take(from + at/8*w.size)
			}
		}
		from += n / 8 * w.size
	}
	return nil
}

// take notes one page.
func (w *pageWalk) take(address uint64) {
	if w.pages == maxTouchedPages {
		return
	}
	if last := len(w.found) - 1; last >= 0 && w.found[last][0]+w.found[last][1]*w.size == address {
		w.found[last][1]++
	} else if len(w.found) < maxTouchedRanges {
		w.found = append(w.found, pageRange{address, 1})
	} else {
		return
	}
	w.pages++
}
