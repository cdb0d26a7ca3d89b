package peer

import (
	"container/list"

	"github.com/koi-net/koi-operator/node/rid"
)

// maxPeers bounds what is remembered of peers: beyond it, those unused for
// longest are forgotten.
const maxPeers = 10_000

// lru keeps a value for each of at most maxPeers nodes. Whoever owns it guards it.
type lru[V any] struct {
	most  int
	order *list.List // of *lruEntry[V], the one used last in front
	items map[rid.RID]*list.Element
}

type lruEntry[V any] struct {
	rid   rid.RID
	value V
}

func newLRU[V any]() *lru[V] {
	return &lru[V]{most: maxPeers, order: list.New(), items: map[rid.RID]*list.Element{}}
}

// get returns the value of r, which counts as a use; nil if there is none.
func (l *lru[V]) get(r rid.RID) *V {
	e, ok := l.items[r]
	if !ok {
		return nil
	}
	l.order.MoveToFront(e)
	return &e.Value.(*lruEntry[V]).value
}

// put is get, which makes a value where there is none. What it returned before
// for other nodes may be out of the memory then.
func (l *lru[V]) put(r rid.RID) *V {
	if v := l.get(r); v != nil {
		return v
	}
	entry := &lruEntry[V]{rid: r}
	l.items[r] = l.order.PushFront(entry)
	for l.order.Len() > l.most {
		oldest := l.order.Remove(l.order.Back()).(*lruEntry[V])
		delete(l.items, oldest.rid)
	}
	return &entry.value
}

func (l *lru[V]) delete(r rid.RID) {
	if e, ok := l.items[r]; ok {
		l.order.Remove(e)
		delete(l.items, r)
	}
}

// all yields nodes and values, the one used last first, until yield returns
// false. It counts as no use.
func (l *lru[V]) all(yield func(rid.RID, *V) bool) {
	for e := l.order.Front(); e != nil; e = e.Next() {
		if entry := e.Value.(*lruEntry[V]); !yield(entry.rid, &entry.value) {
			return
		}
	}
}
