package graph

import (
	"slices"

	"github.com/koi-net/koi-operator/node/rid"
)

// chunkSize bounds what one change of an ordered set moves.
const chunkSize = 256

// ordered is a set of RIDs in their order: runs of at most chunkSize, none of them
// empty. A change costs a search and the move of part of one run, and of a list of
// runs, which is short; reading in order costs nothing besides. Its zero value is
// empty.
type ordered struct {
	chunks [][]rid.RID
	size   int
}

// chunk is where r is, or belongs.
func (o *ordered) chunk(r rid.RID) int {
	i, found := slices.BinarySearchFunc(o.chunks, r, func(c []rid.RID, r rid.RID) int {
		switch first := c[0]; {
		case first < r:
			return -1
		case first > r:
			return 1
		}
		return 0
	})
	if found {
		return i
	}
	return max(0, i-1) // the last that begins before it
}

func (o *ordered) add(r rid.RID) {
	if len(o.chunks) == 0 {
		o.chunks, o.size = [][]rid.RID{{r}}, 1
		return
	}
	i := o.chunk(r)
	at, found := slices.BinarySearch(o.chunks[i], r)
	if found {
		return
	}
	o.size++
	if len(o.chunks[i]) == chunkSize {
		half := slices.Clone(o.chunks[i][chunkSize/2:])
		clear(o.chunks[i][chunkSize/2:])
		o.chunks[i] = o.chunks[i][:chunkSize/2]
		o.chunks = slices.Insert(o.chunks, i+1, half)
		if at > chunkSize/2 {
			i, at = i+1, at-chunkSize/2
		}
	}
	o.chunks[i] = slices.Insert(o.chunks[i], at, r)
}

func (o *ordered) remove(r rid.RID) {
	if len(o.chunks) == 0 {
		return
	}
	i := o.chunk(r)
	at, found := slices.BinarySearch(o.chunks[i], r)
	if !found {
		return
	}
	o.size--
	o.chunks[i] = slices.Delete(o.chunks[i], at, at+1)
	switch left := len(o.chunks[i]); {
	case left == 0:
		o.chunks = slices.Delete(o.chunks, i, i+1)
	case i > 0 && left+len(o.chunks[i-1]) <= chunkSize/2:
		o.join(i - 1)
	case i+1 < len(o.chunks) && left+len(o.chunks[i+1]) <= chunkSize/2:
		o.join(i)
	}
}

// join makes one of a run and the next, so that sets that shrink have few.
func (o *ordered) join(i int) {
	o.chunks[i] = append(o.chunks[i], o.chunks[i+1]...)
	o.chunks = slices.Delete(o.chunks, i+1, i+2)
}

// list returns the members in order, nil where there are none.
func (o *ordered) list() []rid.RID {
	if o == nil || o.size == 0 {
		return nil
	}
	return slices.Concat(o.chunks...)
}

// all yields the members in order, until yield returns false.
func (o *ordered) all(yield func(rid.RID) bool) {
	if o == nil {
		return
	}
	for _, c := range o.chunks {
		for _, r := range c {
			if !yield(r) {
				return
			}
		}
	}
}
