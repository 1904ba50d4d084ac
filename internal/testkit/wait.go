package testkit

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

// Limit is for anything that must happen. Only a failure reaches it.
const Limit = 90 * time.Second

const pollPause = 2 * time.Millisecond

// Until polls for a condition that nothing announces.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(Limit); !ok(); time.Sleep(pollPause) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

// Buffer keeps what is written to it. It may be read meanwhile.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
