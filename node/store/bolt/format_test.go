package bolt_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

var formatTime = time.Date(2026, 11, 1, 12, 0, 0, 123456000, time.UTC)

// fillFormat writes something of everything that a store holds.
func fillFormat(t *testing.T, s store.Store) {
	t.Helper()
	peers := []rid.RID{"orn:koi-net.node:a+1", "orn:koi-net.node:b+2"}
	for part := range 4 {
		update(t, s, func(w store.Writer) error {
			for n := part * 10; n < part*10+10; n++ {
				r := rid.RID(fmt.Sprintf("orn:example.note:%03d", n*37%100))
				if n%7 == 0 {
					r = rid.RID(fmt.Sprintf("https://example.org/%d", n))
				}
				contents := fmt.Appendf(nil, `{"n":%d,"text":%q}`, n, strings.Repeat("é", n*n))
				rec := store.Record{
					Bundle: protocol.Bundle{
						Manifest: protocol.Manifest{
							RID: r, Timestamp: protocol.NewTimestamp(formatTime.Add(time.Duration(n) * time.Second)),
							SHA256Hash: fmt.Sprintf("%x", sha256.Sum256(contents)),
						},
						Contents: contents,
					},
					Source: string(peers[n%2]), Stored: formatTime.Add(time.Duration(n) * time.Minute),
				}
				if err := w.PutBundle(rec); err != nil {
					return err
				}
				row := store.QueueRow{RID: r, Event: contents, Queued: formatTime}
				for _, q := range []store.Queue{store.Outbox, store.PollQueue} {
					if _, err := w.Enqueue(q, peers[:1+n%2], row, store.QueueLimits{Rows: 15}); err != nil {
						return err
					}
				}
				if _, err := w.AppendInbox(store.InboxRow{RID: r, Data: contents, Accepted: formatTime}); err != nil {
					return err
				}
				if _, err := w.Remember(sha256.Sum256(contents), formatTime, store.ReplayBounds{}); err != nil {
					return err
				}
				if err := w.PutValue(fmt.Sprintf("value/%d", n), contents[:5]); err != nil {
					return err
				}
			}
			if err := w.DeleteBundle("orn:example.note:037"); err != nil {
				return err
			}
			if err := w.DeleteInbox(uint64(part + 1)); err != nil {
				return err
			}
			return w.PutDecision(store.Decision{
				Source: peers[0], Target: rid.RID(fmt.Sprintf("orn:koi-net.node:c+%d", part)), Approved: part%2 == 0,
				EdgeType: protocol.Webhook, RIDTypes: []rid.Type{"orn:example.note"}, Decided: formatTime,
			})
		})
	}
}

// dump lists all that a store holds.
func dump(t *testing.T, s store.Store) []string {
	t.Helper()
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	fail := func(err error) {
		if err != nil {
			add("error: %v", err)
		}
	}
	err := s.View(t.Context(), func(r store.Reader) error {
		for rec, err := range r.Records(nil, "") {
			fail(err)
			add("bundle %+v %s %s %s", rec.Bundle.Manifest, rec.Bundle.Contents, rec.Source, rec.Stored)
		}
		for id, err := range r.RIDs(nil, "") {
			fail(err)
			m, err := r.Manifest(id)
			fail(err)
			add("manifest %+v", m)
		}
		types, err := r.Types()
		fail(err)
		for _, typ := range slices.Sorted(maps.Keys(types)) {
			add("type %s: %d", typ, types[typ])
		}
		for row, err := range r.Inbox(0) {
			fail(err)
			add("inbox %+v", row)
		}
		for _, q := range []store.Queue{store.Outbox, store.PollQueue} {
			queues, err := r.Queues(q)
			fail(err)
			for _, peer := range slices.Sorted(maps.Keys(queues)) {
				add("queue %s of %s: %+v", q, peer, queues[peer])
				for row, err := range r.QueueRows(q, peer, 0) {
					fail(err)
					add("row %+v", row)
				}
			}
		}
		decisions, err := r.Decisions()
		fail(err)
		add("decisions %+v", decisions)
		for v, err := range r.Values("") {
			fail(err)
			add("value %s %s", v.Key, v.Value)
		}
		n, err := r.ReplayLen()
		fail(err)
		add("replay memory %d", n)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// format1 is a store of format 1 with what fillFormat writes.
func format1(t *testing.T) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "format1.db.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A store that an earlier version wrote holds the same when this one has opened it.
func TestFormat1(t *testing.T) {
	dir := t.TempDir()
	fresh := open(t, filepath.Join(dir, "fresh.db"))
	fillFormat(t, fresh)
	want := dump(t, fresh)
	closeStore(t, fresh)

	path := filepath.Join(dir, "koi.db")
	if err := os.WriteFile(path, format1(t), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s := open(t, path)
		if info := s.Info(); info.Format != bolt.Format || info.ID != "d221f84e-0227-4d43-9cda-74c92957da8c" {
			t.Errorf("Info %+v", info)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("Check: %v", err)
		}
		got := dump(t, s)
		if !slices.Equal(got, want) {
			for i := range min(len(got), len(want)) {
				if got[i] != want[i] {
					t.Errorf("got  %s\nwant %s", got[i], want[i])
				}
			}
			t.Errorf("%d things, want %d", len(got), len(want))
		}
		closeStore(t, s)
	}
}

// A damaged bundle of format 1 is damaged afterwards, too; the others are there.
func TestFormat1WithDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koi.db")
	text := []byte(`{"n":3,"text":"`)
	if err := os.WriteFile(path, bytes.ReplaceAll(format1(t), text, []byte(`{"n":8,"text":"`)), 0o600); err != nil {
		t.Fatal(err)
	}
	const hurt = rid.RID("orn:example.note:011") // n = 3
	s := open(t, path)
	defer closeStore(t, s)
	err := s.View(t.Context(), func(r store.Reader) error {
		if _, err := r.Bundle(hurt); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("the damaged bundle: %v", err)
		}
		if m, err := r.Manifest(hurt); err != nil || m.RID != hurt {
			t.Errorf("its manifest: %+v, %v", m, err)
		}
		n := 0
		for id, err := range r.RIDs(nil, "") {
			if err != nil {
				t.Error(err)
			}
			if _, err := r.Bundle(id); err != nil && id != hurt {
				t.Error(err)
			}
			n++
		}
		if n != 39 {
			t.Errorf("%d bundles", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), string(hurt)) {
		t.Errorf("Check: %v", err)
	}
	update(t, s, func(w store.Writer) error {
		rec := record(1, `{"mended":true}`)
		rec.Bundle.Manifest.RID = hurt
		// Rows with the same text are damaged with it.
		return errors.Join(w.PutBundle(rec), w.DeleteInbox(4), w.DropQueue(store.Outbox, "orn:koi-net.node:a+1"),
			w.DropQueue(store.Outbox, "orn:koi-net.node:b+2"), w.DropQueue(store.PollQueue, "orn:koi-net.node:a+1"),
			w.DropQueue(store.PollQueue, "orn:koi-net.node:b+2"))
	})
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check after mending: %v", err)
	}
}
