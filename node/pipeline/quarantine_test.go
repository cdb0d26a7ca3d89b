package pipeline

import (
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/rid"
)

// A version that was set aside while an older one of its RID left stays known.
func TestQuarantineReleasesTheOneThatLeft(t *testing.T) {
	var q quarantine
	now := time.Now()
	idle := func(rid.RID) bool { return false }
	if _, ok := q.admit("orn:test.doc:1", now, 10); !ok {
		t.Fatal("no room")
	}
	due, _ := q.due(now, idle)
	if len(due) != 1 {
		t.Fatalf("%d are due, want 1", len(due))
	}
	if _, ok := q.admit("orn:test.doc:1", now.Add(time.Hour), 20); !ok {
		t.Fatal("no room")
	}
	q.released(due[0])
	if q.len() != 1 || q.bytes != 20 {
		t.Errorf("%d held of %d bytes, want the newer one", q.len(), q.bytes)
	}
	q.released(dueObject{"orn:test.doc:1", q.held["orn:test.doc:1"]})
	if q.len() != 0 || q.bytes != 0 {
		t.Errorf("%d held of %d bytes, want none", q.len(), q.bytes)
	}
}

// What could not be written leaves what was held before.
func TestQuarantineUndone(t *testing.T) {
	var q quarantine
	now := time.Now()
	q.admit("orn:test.doc:1", now, 10)
	undo, _ := q.admit("orn:test.doc:1", now.Add(time.Hour), 20)
	undo()
	if q.len() != 1 || q.bytes != 10 || !q.next.Equal(now) {
		t.Errorf("%d held of %d bytes, due %s", q.len(), q.bytes, q.next)
	}
	undo, _ = q.admit("orn:test.doc:2", now, 5)
	undo()
	if q.len() != 1 || q.bytes != 10 {
		t.Errorf("%d held of %d bytes", q.len(), q.bytes)
	}
}

// An object does not pass others of its RID that wait in the inbox.
func TestQuarantineWaitsForRows(t *testing.T) {
	var q quarantine
	now := time.Now()
	q.admit("orn:test.doc:1", now, 10)
	if due, wait := q.due(now, func(rid.RID) bool { return true }); len(due) != 0 || wait <= 0 {
		t.Errorf("%d are due, the next in %s", len(due), wait)
	}
	if due, _ := q.due(now.Add(releaseBusy), func(rid.RID) bool { return false }); len(due) != 1 {
		t.Errorf("%d are due, want 1", len(due))
	}
}
