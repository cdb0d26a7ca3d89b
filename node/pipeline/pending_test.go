package pipeline

import "testing"

// Nothing goes straight before it is known whose rows a former run left.
func TestPendingRowsOfAFormerRun(t *testing.T) {
	p := newPending()
	p.found(2)
	if p.claim("orn:a:1") || !p.busy("orn:a:1") {
		t.Error("claimed though rows are unread")
	}
	p.add("orn:a:3") // a new row: it is not one of those
	p.read("orn:a:2")
	if p.claim("orn:a:1") {
		t.Error("claimed though a row is unread")
	}
	p.read("orn:a:2")
	p.read("orn:a:3")
	if !p.claim("orn:a:1") || p.busy("orn:a:1") {
		t.Error("all rows are read, and there is none of it")
	}
	if p.claim("orn:a:2") || p.claim("orn:a:3") {
		t.Error("claimed though there are rows")
	}
	p.done("orn:a:2")
	if p.claim("orn:a:2") {
		t.Error("claimed though there is another row")
	}
	p.done("orn:a:2")
	if !p.claim("orn:a:2") {
		t.Error("its rows are gone")
	}
}

// A claim is exclusive, and what is noted is taken back whole.
func TestPendingClaims(t *testing.T) {
	p := newPending()
	if !p.claim("orn:a:1") || p.claim("orn:a:1") {
		t.Fatal("a claim is one object's")
	}
	rows := p.rows()
	rows.add("orn:a:1")
	rows.add("orn:a:2")
	p.release("orn:a:1")
	if p.claim("orn:a:1") || p.claim("orn:a:2") {
		t.Error("claimed though there are rows")
	}
	rows.undo()
	rows.undo()
	if !p.claim("orn:a:1") || !p.claim("orn:a:2") {
		t.Error("the rows were not written after all")
	}
	p.release("orn:a:1")
	p.release("orn:a:2")
	if len(p.entries) != 0 {
		t.Errorf("%d entries are left", len(p.entries))
	}
}
