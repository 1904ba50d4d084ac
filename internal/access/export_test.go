package access

import (
	"encoding/binary"
	"time"
)

// What tests see of the bounds.
const (
	VerifiedPerShard = verifiedPerShard
	MaxSources       = maxSources
)

// Remembered counts the tokens that an issuer remembers.
func Remembered(i *Issuer) int {
	n := 0
	cache := &i.keys.Load().cache
	for s := range cache.shards {
		if m := cache.shards[s].Load(); m != nil {
			n += len(*m)
		}
	}
	return n
}

// RememberedMost is the size of the largest shard.
func RememberedMost(i *Issuer) int {
	n := 0
	cache := &i.keys.Load().cache
	for s := range cache.shards {
		if m := cache.shards[s].Load(); m != nil {
			n = max(n, len(*m))
		}
	}
	return n
}

// Flood makes one shard remember n tokens that have not expired.
func Flood(i *Issuer, n int, now time.Time) {
	for k := range n {
		var digest [32]byte
		binary.BigEndian.PutUint64(digest[8:], uint64(k))
		i.keys.Load().cache.put(&digest, &Claims{Expires: now.Unix() + 60}, now)
	}
}

// Sources is how many sources a limiter tells apart.
func Sources(l *Limiter) int { return len(l.sources) }
