package peer

import "container/list"

// maxPeers bounds what is remembered of peers: beyond it, those unused for
// longest are forgotten.
const maxPeers = 10_000

// lru keeps a value for each of at most maxPeers peers, known by a K. Whoever owns
// it guards it.
type lru[K comparable, V any] struct {
	most  int
	order *list.List // of *lruEntry[K, V], the one used last in front
	items map[K]*list.Element
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any]() *lru[K, V] {
	return &lru[K, V]{most: maxPeers, order: list.New(), items: map[K]*list.Element{}}
}

// get returns the value of k, which counts as a use; nil if there is none.
func (l *lru[K, V]) get(k K) *V {
	e, ok := l.items[k]
	if !ok {
		return nil
	}
	l.order.MoveToFront(e)
	return &e.Value.(*lruEntry[K, V]).value
}

// put is get, which makes a value where there is none. What it returned before
// for other peers may be out of the memory then.
func (l *lru[K, V]) put(k K) *V {
	if v := l.get(k); v != nil {
		return v
	}
	entry := &lruEntry[K, V]{key: k}
	l.items[k] = l.order.PushFront(entry)
	for l.order.Len() > l.most {
		oldest := l.order.Remove(l.order.Back()).(*lruEntry[K, V])
		delete(l.items, oldest.key)
	}
	return &entry.value
}

func (l *lru[K, V]) delete(k K) {
	if e, ok := l.items[k]; ok {
		l.order.Remove(e)
		delete(l.items, k)
	}
}

// oldest returns the peer that was not used for longest, and its value; nil if
// there is none. It counts as no use.
func (l *lru[K, V]) oldest() (k K, v *V) {
	e := l.order.Back()
	if e == nil {
		return k, nil
	}
	entry := e.Value.(*lruEntry[K, V])
	return entry.key, &entry.value
}

// all yields peers and values, the one used last first, until yield returns
// false. It counts as no use.
func (l *lru[K, V]) all(yield func(K, *V) bool) {
	for e := l.order.Front(); e != nil; e = e.Next() {
		if entry := e.Value.(*lruEntry[K, V]); !yield(entry.key, &entry.value) {
			return
		}
	}
}
