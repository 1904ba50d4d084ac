package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
)

const (
	blockBytes = 4 << 20 // as the Python SDK's
	fileName   = "model.bin"
)

// model is bytes that nobody has to keep: each block is made from its number.
type model struct {
	size   int64
	digest string // that the server must find
}

func newModel(size int64) *model {
	m := &model{size: size}
	sum := sha256.New()
	for i := range m.blocks() {
		sum.Write(m.block(i))
	}
	// What the server's content store computes of a folder with one file.
	tree := sha256.Sum256(fmt.Appendf(nil, "portico-tree 1\nfile %d %x %q\n", size, sum.Sum(nil), fileName))
	m.digest = "sha256:" + hex.EncodeToString(tree[:])
	return m
}

func (m *model) blocks() int { return int((m.size + blockBytes - 1) / blockBytes) }

func (m *model) block(i int) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(i))
	out := make([]byte, min(blockBytes, m.size-int64(i)*blockBytes))
	_, _ = io.ReadFull(rand.NewChaCha8(seed), out) // never fails
	return out
}
