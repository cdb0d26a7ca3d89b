package pipeline

import (
	"container/heap"
	"time"

	"github.com/koi-net/koi-operator/node/rid"
)

// parking holds the lanes whose first row is to be tried again, by when and by
// the node that some of them await. There may be as many as rows in memory, so
// nothing here looks at all of them.
type parking struct {
	byTime retryHeap
	byNode map[rid.RID]map[*lane]bool
}

func (p *parking) add(l *lane, at time.Time, awaits rid.RID) {
	l.parked, l.retryAt, l.awaits = true, at, awaits
	heap.Push(&p.byTime, l)
	if awaits == "" {
		return
	}
	if p.byNode[awaits] == nil {
		p.byNode[awaits] = map[*lane]bool{}
	}
	p.byNode[awaits][l] = true
}

func (p *parking) remove(l *lane) {
	l.parked = false
	heap.Remove(&p.byTime, l.index)
	if lanes := p.byNode[l.awaits]; lanes != nil {
		delete(lanes, l)
		if len(lanes) == 0 {
			delete(p.byNode, l.awaits)
		}
	}
}

// due takes out the lanes whose time has come, in its order.
func (p *parking) due(now time.Time) (lanes []*lane) {
	for len(p.byTime) > 0 && !p.byTime[0].retryAt.After(now) {
		l := p.byTime[0]
		p.remove(l)
		lanes = append(lanes, l)
	}
	return lanes
}

// awaiting takes out the lanes that await a node, in no order.
func (p *parking) awaiting(node rid.RID) (lanes []*lane) {
	for l := range p.byNode[node] {
		lanes = append(lanes, l)
	}
	for _, l := range lanes {
		p.remove(l)
	}
	return lanes
}

// untilFirst is how long it takes until one is due; an hour where none is.
func (p *parking) untilFirst(now time.Time) time.Duration {
	if len(p.byTime) == 0 {
		return time.Hour
	}
	return max(0, p.byTime[0].retryAt.Sub(now))
}

// retryHeap orders lanes by when they are to be tried again.
type retryHeap []*lane

func (h retryHeap) Len() int           { return len(h) }
func (h retryHeap) Less(i, j int) bool { return h[i].retryAt.Before(h[j].retryAt) }
func (h retryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *retryHeap) Push(x any) {
	l := x.(*lane)
	l.index = len(*h)
	*h = append(*h, l)
}

func (h *retryHeap) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return l
}
