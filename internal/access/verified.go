package access

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what is remembered of verified tokens.
const (
	verifiedShards   = 64
	verifiedPerShard = 256 // so at most 16,384 tokens; what does not fit is verified again
)

// verified remembers the claims of verified tokens by digest. Reading takes no lock: a shard is replaced whole,
// which is cheap since a token is written once and read for as long as it lives.
type verified struct {
	writing sync.Mutex
	shards  [verifiedShards]atomic.Pointer[map[[32]byte]*Claims]
}

// tokenDigest is what a token is remembered by. Nothing of it is allocated.
func tokenDigest(text string) [32]byte {
	var room [2 << 10]byte // the tokens made here are about 1,000 bytes
	return sha256.Sum256(append(room[:0], text...))
}

func (v *verified) get(digest *[32]byte) *Claims {
	shard := v.shards[digest[0]%verifiedShards].Load()
	if shard == nil {
		return nil
	}
	return (*shard)[*digest]
}

func (v *verified) put(digest *[32]byte, c *Claims, now time.Time) {
	v.writing.Lock()
	defer v.writing.Unlock()
	place := &v.shards[digest[0]%verifiedShards]
	next := make(map[[32]byte]*Claims)
	if old := place.Load(); old != nil {
		for d, known := range *old {
			if now.Unix() < known.Expires && len(next) < verifiedPerShard-1 {
				next[d] = known
			}
		}
	}
	next[*digest] = c
	place.Store(&next)
}
