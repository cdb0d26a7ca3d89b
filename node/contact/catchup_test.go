package contact

import (
	"slices"
	"testing"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// The FORGET of what is being fetched may come before it is taken in, when there is
// nothing to forget yet: who provided it is asked once more, and what is gone there
// is forgotten here too.
func TestForgottenWhileItWasFetched(t *testing.T) {
	w := newWorld(t, nil)
	w.keep(w.alice(protocol.Full), "unsigned")
	for _, r := range []rid.RID{"orn:test.note:1", "orn:test.note:2"} {
		w.held[r] = w.bundle(r, []byte(`{"a":1}`), 0)
	}
	w.gone = map[rid.RID]bool{"orn:test.note:1": true}
	w.m.Poke(alice)
	got := w.turn(0)
	i := slices.Index(got, "forget orn:test.note:1 from unsigned")
	if i < 0 || i < slices.Index(got, "take orn:test.note:1 from unsigned") {
		t.Errorf("not forgotten after it was taken in: %q", got)
	}
	if n := len(slices.DeleteFunc(got, func(s string) bool { return len(s) < 6 || s[:6] != "forget" })); n != 1 {
		t.Errorf("%d forgotten, want that one, once: %q", n, got)
	}
}

// Where nothing was missing, nothing is asked a second time.
func TestNothingMissingNothingChecked(t *testing.T) {
	w := newWorld(t, nil)
	w.keep(w.alice(protocol.Full), "unsigned")
	b := w.bundle("orn:test.note:1", []byte(`{"a":1}`), 0)
	w.held[b.Manifest.RID] = b
	w.keep(b, "unsigned")
	w.m.Poke(alice)
	if got := w.turn(0); slices.Contains(got, "check [orn:test.note:1]") || !slices.Contains(got, "fetch manifests of [orn:test.note]") {
		t.Errorf("said %q", got)
	}
}
