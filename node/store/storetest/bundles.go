package storetest

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

var bundleTests = []namedTest{
	{"what is put comes back exactly", testBundleRoundTrip},
	{"putting again replaces", testBundleReplace},
	{"missing ones are ErrNotFound", testBundleMissing},
	{"an invalid RID is refused", testBundleInvalid},
	{"deleting is idempotent", testBundleDelete},
	{"RIDs come by type, then RID", testRIDOrder},
	{"RIDs page", testRIDPages},
	{"odd RIDs stay apart", testOddRIDs},
	{"Records agree with RIDs", testRecords},
	{"what is kept is what goes on the wire", testRaw},
	{"RawManifests agree with RIDs", testRawManifests},
	{"raw reads end with the transaction", testRawOver},
	{"an iterator stops when told", testIteratorBreak},
	{"an iterator bears changes under it", testIteratorChanges},
	{"Types counts", testTypes},
}

func testBundleRoundTrip(e *env) {
	stamp := func(s string) protocol.Timestamp {
		ts, err := protocol.ParseTimestamp(s)
		if err != nil {
			e.Fatal(err)
		}
		return ts
	}
	records := []store.Record{
		record(e, note(1), `{"b":1,"a":[1e2,0.10,"é \u0000 <>&"]}`),
		record(e, "https://example.org/a?b#c:d", `{}`),
		record(e, "urn:isbn:0:1:2", strings.Repeat("large ", 50_000)),
		record(e, rid.RID("orn:example.note:"+strings.Repeat("x", rid.MaxLength-len("orn:example.note:"))), `{}`),
	}
	records[1].Source = "unsigned"
	records[1].Stored = time.Date(1969, 12, 31, 23, 59, 59, 999_999_999, time.FixedZone("", 3600))
	records[1].Bundle.Manifest.Timestamp = stamp("2026-01-01T02:00:00+02:00")
	records[2].Source = ""
	records[2].Bundle.Manifest.SHA256Hash = "not a hash at all"
	records[3].Bundle.Manifest.SHA256Hash = strings.Repeat("AB", 32) // upper case stays
	e.update(func(w store.Writer) error {
		for _, rec := range records {
			if err := w.PutBundle(rec); err != nil {
				return err
			}
		}
		return nil
	})
	look := func() {
		e.Helper()
		e.view(func(r store.Reader) error {
			for _, want := range records {
				id := want.Bundle.Manifest.RID
				got, err := r.Bundle(id)
				if err != nil || !sameRecord(got, want) {
					e.Errorf("Bundle(%.40s) = %.200v, %v\nwant %.200v", id, got, err, want)
				}
				m, err := r.Manifest(id)
				if err != nil || !sameManifest(m, want.Bundle.Manifest) {
					e.Errorf("Manifest(%.40s) = %v, %v", id, m, err)
				}
				e.sameRaw(r, want.Bundle)
			}
			return nil
		})
	}
	look()
	e.check()
	e.reopen()
	look()
	e.check()
}

func testBundleReplace(e *env) {
	first, second := record(e, note(1), `{"v":1}`), record(e, note(1), `{"v":2,"more":"text"}`)
	second.Source, second.Stored = "unsigned", when(9)
	second.Bundle.Manifest.SHA256Hash = strings.Repeat("f", 64)
	for _, rec := range []store.Record{first, second, second} {
		e.update(func(w store.Writer) error { return w.PutBundle(rec) })
	}
	e.view(func(r store.Reader) error {
		if got, err := r.Bundle(note(1)); err != nil || !sameRecord(got, second) {
			e.Errorf("Bundle: %v, %v", got, err)
		}
		return nil
	})
	if types := e.types(); types[noteType] != 1 {
		e.Errorf("Types: %v", types)
	}
	e.check()
}

func testBundleMissing(e *env) {
	e.putNotes(1, 2)
	e.view(func(r store.Reader) error {
		for _, id := range []rid.RID{note(0), note(2), "orn:example.note:0000", "https:00001"} {
			if _, err := r.Bundle(id); !errors.Is(err, store.ErrNotFound) {
				e.Errorf("Bundle(%s): %v", id, err)
			}
			if _, err := r.Manifest(id); !errors.Is(err, store.ErrNotFound) {
				e.Errorf("Manifest(%s): %v", id, err)
			}
			if _, err := r.RawBundle(id); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), string(id)) {
				e.Errorf("RawBundle(%s): %v", id, err)
			}
			if _, err := r.RawManifest(id); !errors.Is(err, store.ErrNotFound) {
				e.Errorf("RawManifest(%s): %v", id, err)
			}
		}
		for _, id := range []rid.RID{"", "note", "orn:ns:"} {
			if _, err := r.RawBundle(id); !errors.Is(err, rid.ErrInvalid) {
				e.Errorf("RawBundle(%q): %v", id, err)
			}
			if _, err := r.RawManifest(id); !errors.Is(err, rid.ErrInvalid) {
				e.Errorf("RawManifest(%q): %v", id, err)
			}
		}
		return nil
	})
}

func testBundleInvalid(e *env) {
	for _, id := range []rid.RID{"", "note", ":x", "orn:", "orn:ns", "orn:ns:", "https:", rid.RID(strings.Repeat("x", rid.MaxLength) + ":y")} {
		err := e.store().Update(e.Context(), func(w store.Writer) error { return w.PutBundle(record(e, id, `{}`)) })
		if !errors.Is(err, rid.ErrInvalid) {
			e.Errorf("PutBundle(%.40q): %v", id, err)
		}
	}
	if types := e.types(); len(types) != 0 {
		e.Errorf("Types: %v", types)
	}
}

func testBundleDelete(e *env) {
	e.putNotes(0, 3)
	for range 2 {
		e.update(func(w store.Writer) error { return errors.Join(w.DeleteBundle(note(1)), w.DeleteBundle(note(7))) })
	}
	e.view(func(r store.Reader) error {
		if got := rids(e, r, nil, ""); !slices.Equal(got, []rid.RID{note(0), note(2)}) {
			e.Errorf("RIDs: %v", got)
		}
		return nil
	})
	e.update(func(w store.Writer) error { return errors.Join(w.DeleteBundle(note(0)), w.DeleteBundle(note(2))) })
	if types := e.types(); len(types) != 0 {
		e.Errorf("Types of an empty store: %v", types)
	}
	e.check()
}

// mixed puts notes, tasks and web pages in no order and returns them in order.
func (e *env) mixed() []rid.RID {
	want := []rid.RID{
		"https:%20", "https://a", "https://b",
		"orn:example.note:1", "orn:example.note:10", "orn:example.note:2",
		"orn:example.notes:0",
		"orn:example.task:1", "orn:example.task:a:b:c",
	}
	shuffled := []int{4, 7, 0, 8, 2, 6, 1, 5, 3}
	e.update(func(w store.Writer) error {
		for _, n := range shuffled {
			if err := w.PutBundle(record(e, want[n], `{}`)); err != nil {
				return err
			}
		}
		return nil
	})
	return want
}

func testRIDOrder(e *env) {
	all := e.mixed()
	tests := []struct {
		types []rid.Type
		want  []rid.RID
	}{
		{nil, all},
		{[]rid.Type{}, all},
		{[]rid.Type{noteType}, all[3:6]},
		{[]rid.Type{taskType, webType}, append(slices.Clone(all[:3]), all[7:]...)},
		{[]rid.Type{webType, taskType, webType, noteType, "orn:example.notes"}, all},
		{[]rid.Type{"orn:example"}, nil},
		{[]rid.Type{"orn:example.not"}, nil},
	}
	e.view(func(r store.Reader) error {
		for _, test := range tests {
			if got := rids(e, r, test.types, ""); !slices.Equal(got, test.want) {
				e.Errorf("RIDs(%v) = %v, want %v", test.types, got, test.want)
			}
		}
		return nil
	})
}

func testRIDPages(e *env) {
	all := e.mixed()
	e.view(func(r store.Reader) error {
		for n, after := range all {
			if got := rids(e, r, nil, after); !slices.Equal(got, all[n+1:]) {
				e.Errorf("RIDs after %s = %v", after, got)
			}
			want := slices.DeleteFunc(slices.Clone(all[n+1:]), func(r rid.RID) bool { return r.Type() == noteType })
			if got := rids(e, r, []rid.Type{"orn:example.notes", taskType, webType}, after); !slices.Equal(got, want) {
				e.Errorf("RIDs of some types after %s = %v, want %v", after, got, want)
			}
		}
		// One that is not there is a place between those that are.
		if got := rids(e, r, nil, "orn:example.note:11"); !slices.Equal(got, all[5:]) {
			e.Errorf("RIDs after a missing one = %v", got)
		}
		for _, err := range r.RIDs(nil, "nonsense") {
			if !errors.Is(err, rid.ErrInvalid) {
				e.Errorf("RIDs after nonsense: %v", err)
			}
		}
		return nil
	})
}

func testOddRIDs(e *env) {
	// A zero byte is a character like another in a RID.
	all := []rid.RID{
		"a:x", "a:\x00", "a\x00:x", "a\x00b:x", "a\x00\x00:x", "a\x00\x00b:\x00:x", "a\x00\xc3\xbf:x", "b:x",
		"orn:n\x00s:ref", "orn:ns:r\x00ef", "orn:n:\xc3\xbf",
	}
	e.update(func(w store.Writer) error {
		for n, id := range all {
			if err := w.PutBundle(record(e, id, fmt.Sprint(n))); err != nil {
				return err
			}
		}
		return nil
	})
	want := slices.Clone(all)
	slices.SortFunc(want, func(a, b rid.RID) int {
		if c := strings.Compare(string(a.Type()), string(b.Type())); c != 0 {
			return c
		}
		return strings.Compare(string(a), string(b))
	})
	e.view(func(r store.Reader) error {
		if got := rids(e, r, nil, ""); !slices.Equal(got, want) {
			e.Errorf("RIDs = %q\nwant %q", got, want)
		}
		for n, id := range all {
			rec, err := r.Bundle(id)
			if err != nil || string(rec.Bundle.Contents) != fmt.Sprint(n) || rec.Bundle.Manifest.RID != id {
				e.Errorf("Bundle(%q): %v, %v", id, rec, err)
			}
			e.sameRaw(r, rec.Bundle)
			for _, got := range rids(e, r, []rid.Type{id.Type()}, "") {
				if got.Type() != id.Type() {
					e.Errorf("RIDs of type %q gave %q", id.Type(), got)
				}
			}
		}
		return nil
	})
	e.types()
	e.check()
}

func testRecords(e *env) {
	e.mixed()
	e.view(func(r store.Reader) error {
		for _, types := range [][]rid.Type{nil, {noteType}, {taskType, webType}} {
			for _, after := range []rid.RID{"", "https://a", "orn:example.note:10"} {
				var got []rid.RID
				for rec, err := range r.Records(types, after) {
					if err != nil {
						return err
					}
					if want := record(e, rec.Bundle.Manifest.RID, `{}`); !sameRecord(rec, want) {
						e.Errorf("Records gave %v", rec)
					}
					got = append(got, rec.Bundle.Manifest.RID)
				}
				if want := rids(e, r, types, after); !slices.Equal(got, want) {
					e.Errorf("Records(%v, %s) = %v, RIDs says %v", types, after, got, want)
				}
			}
		}
		return nil
	})
}

// sameRaw holds what is kept of a bundle, put on the wire, against the bundle.
func (e *env) sameRaw(r store.Reader, want protocol.Bundle) {
	e.Helper()
	id := want.Manifest.RID
	b, err := r.RawBundle(id)
	if err != nil || b.Manifest.RID() != id || string(protocol.AppendRawBundle(nil, &b)) != string(protocol.AppendBundle(nil, want)) {
		e.Errorf("RawBundle(%.40s) = %.200q, %v", id, protocol.AppendRawBundle(nil, &b), err)
	}
	m, err := r.RawManifest(id)
	if err != nil || m.RID() != id || m.Type != id.Type() || string(protocol.AppendRawManifest(nil, &m)) != string(protocol.AppendManifest(nil, want.Manifest)) {
		e.Errorf("RawManifest(%.40s) = %.200q, %v", id, protocol.AppendRawManifest(nil, &m), err)
	}
}

func testRaw(e *env) {
	// Larger than a page, and in transactions of their own.
	all := []store.Record{
		record(e, note(1), `{"a":"`+strings.Repeat("x", 20_000)+`"}`),
		record(e, "a\x00\x01b:\x00\x01", `{}`),
		record(e, "orn:example.\"quote\":\\\n\u00fc\u2028", `{"u":"\u00fc"}`),
		record(e, "https://example.org/?#", ``),
	}
	all[3].Bundle.Manifest.SHA256Hash = "not \"a hash\""
	for n, rec := range all {
		e.update(func(w store.Writer) error {
			if err := w.PutBundle(rec); err != nil {
				return err
			}
			for _, want := range all[:n+1] { // one's own changes included
				e.sameRaw(w, want.Bundle)
			}
			return nil
		})
	}
	e.reopen()
	e.view(func(r store.Reader) error {
		for _, want := range all {
			e.sameRaw(r, want.Bundle)
		}
		return nil
	})
	e.update(func(w store.Writer) error {
		if err := w.DeleteBundle(note(1)); err != nil {
			return err
		}
		if _, err := w.RawBundle(note(1)); !errors.Is(err, store.ErrNotFound) {
			e.Errorf("RawBundle of a deleted one: %v", err)
		}
		return nil
	})
}

func testRawManifests(e *env) {
	e.mixed()
	e.putNotes(0, 500) // more than is read at a time
	e.view(func(r store.Reader) error {
		for _, types := range [][]rid.Type{nil, {noteType}, {taskType, webType, taskType}, {"orn:example"}} {
			for _, after := range []rid.RID{"", "https://a", "orn:example.note:00250", "orn:example.note:1", "orn:zzz.z:1"} {
				var got []rid.RID
				for m, err := range r.RawManifests(types, after) {
					if err != nil {
						return err
					}
					id := m.RID()
					if want := record(e, id, "").Bundle.Manifest; string(protocol.AppendRawManifest(nil, m)) != string(protocol.AppendManifest(nil, want)) {
						e.Errorf("RawManifests gave %q", protocol.AppendRawManifest(nil, m))
					}
					got = append(got, id)
				}
				if want := rids(e, r, types, after); !slices.Equal(got, want) {
					e.Errorf("RawManifests(%v, %s) = %v, RIDs says %v", types, after, got, want)
				}
			}
		}
		n := 0
		for m, err := range r.RawManifests(nil, "nonsense") {
			if n++; m != nil || !errors.Is(err, rid.ErrInvalid) {
				e.Errorf("RawManifests after nonsense: %v, %v", m, err)
			}
		}
		if n != 1 {
			e.Errorf("%d elements after nonsense, want one error", n)
		}
		for range r.RawManifests(nil, "") {
			break
		}
		return nil
	})
}

func testRawOver(e *env) {
	e.putNotes(0, 200)
	var r store.Reader
	e.view(func(in store.Reader) error { r = in; return nil })
	if _, err := r.RawBundle(note(0)); err == nil {
		e.Error("RawBundle still answers after its transaction")
	}
	if _, err := r.RawManifest(note(0)); err == nil {
		e.Error("RawManifest still answers after its transaction")
	}
	for m, err := range r.RawManifests(nil, "") {
		if m != nil || err == nil {
			e.Error("RawManifests still yields after its transaction")
		}
	}
}

func testIteratorBreak(e *env) {
	e.mixed()
	e.view(func(r store.Reader) error {
		for range 2 { // a sequence runs again from its beginning
			n := 0
			for _, err := range r.RIDs([]rid.Type{webType, noteType}, "") {
				if err != nil {
					return err
				}
				if n++; n == 3 {
					break
				}
			}
		}
		for range r.Records(nil, "") {
			break
		}
		return nil
	})
}

func testIteratorChanges(e *env) {
	for _, list := range []func(store.Reader) iter.Seq2[rid.RID, error]{
		func(r store.Reader) iter.Seq2[rid.RID, error] { return r.RIDs(nil, "") },
		func(r store.Reader) iter.Seq2[rid.RID, error] {
			return func(yield func(rid.RID, error) bool) {
				for m, err := range r.RawManifests([]rid.Type{noteType}, "") {
					if err != nil {
						yield("", err)
						return
					}
					if !yield(m.RID(), nil) {
						return
					}
				}
			}
		},
		func(r store.Reader) iter.Seq2[rid.RID, error] {
			return func(yield func(rid.RID, error) bool) {
				for rec, err := range r.Records(nil, "") {
					if !yield(rec.Bundle.Manifest.RID, err) {
						return
					}
				}
			}
		},
	} {
		e.putNotes(0, 300)
		e.changeWhileListing(list)
	}
}

func (e *env) changeWhileListing(list func(store.Reader) iter.Seq2[rid.RID, error]) {
	e.Helper()
	e.update(func(w store.Writer) error {
		seen := make(map[rid.RID]bool)
		n := 0
		for id, err := range list(w) {
			if err != nil {
				return err
			}
			if seen[id] {
				e.Errorf("%s was yielded twice", id)
			}
			seen[id] = true
			// Delete this one and the one after the next, replace the next.
			if err := errors.Join(w.DeleteBundle(id), w.PutBundle(record(e, note(n+1), strings.Repeat("y", 3000))), w.DeleteBundle(note(n+2))); err != nil {
				return err
			}
			n += 3
			if n >= 300 {
				break
			}
			if err := w.DeleteBundle(note(n - 2)); err != nil {
				return err
			}
		}
		if len(seen) != 100 {
			e.Errorf("%d RIDs were yielded, want 100", len(seen))
		}
		return nil
	})
	e.types()
	e.check()
}

func testTypes(e *env) {
	e.mixed()
	want := map[rid.Type]int{webType: 3, noteType: 3, "orn:example.notes": 1, taskType: 2}
	if got := e.types(); fmt.Sprint(got) != fmt.Sprint(want) {
		e.Errorf("Types: %v, want %v", got, want)
	}
	e.update(func(w store.Writer) error {
		return errors.Join(w.DeleteBundle("orn:example.notes:0"), w.PutBundle(record(e, "https://c", `{}`)), w.PutBundle(record(e, "https://a", `{"again":1}`)))
	})
	delete(want, "orn:example.notes")
	want[webType] = 4
	if got := e.types(); fmt.Sprint(got) != fmt.Sprint(want) {
		e.Errorf("Types: %v, want %v", got, want)
	}
	e.reopen()
	if got := e.types(); fmt.Sprint(got) != fmt.Sprint(want) {
		e.Errorf("Types after reopening: %v, want %v", got, want)
	}
}
