package contact

import (
	"container/heap"
	"time"
)

// agenda holds the peers that are not being looked at, the first that is due on top.
type agenda []*state

// plan has a peer looked at from the given time on. It is not to be running.
func (a *agenda) plan(st *state, due time.Time) {
	st.due = due
	if st.planned {
		heap.Fix(a, st.index)
		return
	}
	st.planned = true
	heap.Push(a, st)
}

// take removes the peer that is due, or says how long to wait for one, if there is one.
func (a *agenda) take(now time.Time) (*state, time.Duration) {
	if len(*a) == 0 {
		return nil, time.Hour
	}
	if left := (*a)[0].due.Sub(now); left > 0 {
		return nil, min(left, time.Hour)
	}
	st := heap.Pop(a).(*state)
	st.planned = false
	return st, 0
}

// Len and the others implement heap.Interface.
func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].due.Before(a[j].due) }
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}

// Push appends a *state.
func (a *agenda) Push(x any) {
	st := x.(*state)
	st.index = len(*a)
	*a = append(*a, st)
}

// Pop takes the last.
func (a *agenda) Pop() any {
	old := *a
	st := old[len(old)-1]
	old[len(old)-1] = nil
	*a = old[:len(old)-1]
	return st
}
