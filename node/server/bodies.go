package server

import (
	"math/bits"
	"sync"
)

// freeBytes of a body are not counted in the budget: what fits in them is
// bounded by the number of concurrent requests already, so small calls get
// through while large ones take all the room.
const freeBytes = 64 << 10

// leastRoom is what a body is given at first where its size is not known.
const leastRoom = 1 << bitsOfLeast

const (
	bitsOfLeast   = 12
	bitsOfLargest = 20 // of keepBytes
)

// blocks are memory for bodies, in sizes that double from leastRoom to keepBytes,
// to be used again. What is larger is left to the garbage collector.
type blocks [bitsOfLargest - bitsOfLeast + 1]sync.Pool

// sizeOf returns the size of the block for n bytes.
func (b *blocks) sizeOf(n int64) int64 {
	switch {
	case n > keepBytes:
		return n
	case n <= leastRoom:
		return leastRoom
	}
	return 1 << bits.Len64(uint64(n-1))
}

// get returns an empty block of a size that sizeOf gave.
func (b *blocks) get(size int64) *[]byte {
	if size <= keepBytes {
		if block, ok := b[bits.Len64(uint64(size))-1-bitsOfLeast].Get().(*[]byte); ok {
			return block
		}
	}
	block := make([]byte, 0, size)
	return &block
}

func (b *blocks) put(block *[]byte) {
	if size := cap(*block); size <= keepBytes {
		*block = (*block)[:0]
		b[bits.Len(uint(size))-1-bitsOfLeast].Put(block)
	}
}

// room is the memory one body takes while it is served.
type room struct {
	budget *budget
	blocks *blocks
	block  *[]byte
	held   int64 // of the budget
}

// grow makes room for n bytes in all, and reports whether it may be had. What was
// read stays.
func (m *room) grow(n int64) bool {
	size := m.blocks.sizeOf(n)
	if need := size - freeBytes - m.held; need > 0 {
		if !m.budget.take(need) {
			return false
		}
		m.held += need
	}
	larger := m.blocks.get(size)
	if m.block != nil {
		*larger = append(*larger, *m.block...)
		m.blocks.put(m.block)
	}
	m.block = larger
	return true
}

// release gives all of it back. It may be called again.
func (m *room) release() {
	m.budget.give(m.held)
	m.held = 0
	if m.block != nil {
		m.blocks.put(m.block)
		m.block = nil
	}
}
