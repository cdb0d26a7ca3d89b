package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// Open opens the store that lives in dir, and makes it where dir is empty. The
// suite closes what it opens.
type Open func(t *testing.T, dir string) store.Store

// Run runs the suite.
func Run(t *testing.T, open Open, restore Restore) {
	for _, group := range []struct {
		name  string
		tests []namedTest
	}{
		{"Transactions", transactionTests},
		{"Bundles", bundleTests},
		{"Inbox", inboxTests},
		{"Replay", replayTests},
		{"Queues", queueTests},
		{"Decisions", decisionTests},
		{"Values", valueTests},
		{"Life", lifeTests},
		{"Backup", backupTests},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, test := range group.tests {
				t.Run(test.name, func(t *testing.T) {
					test.fn(&env{T: t, dir: t.TempDir(), open: open, restore: restore})
				})
			}
		})
	}
}

type namedTest struct {
	name string
	fn   func(*env)
}

// env is one test with one directory.
type env struct {
	*testing.T
	dir     string
	open    Open
	restore Restore
	s       store.Store
}

// store returns the open store, opening it where it is not.
func (e *env) store() store.Store {
	e.Helper()
	if e.s == nil {
		s := e.open(e.T, e.dir)
		e.s = s
		e.Cleanup(func() {
			if err := s.Close(); err != nil {
				e.Errorf("Close: %v", err)
			}
		})
	}
	return e.s
}

// reopen closes the store, as after a restart of the node.
func (e *env) reopen() store.Store {
	e.Helper()
	if err := e.store().Close(); err != nil {
		e.Fatalf("Close: %v", err)
	}
	e.s = nil
	return e.store()
}

// update runs fn and fails the test on an error.
func (e *env) update(fn func(store.Writer) error) {
	e.Helper()
	if err := e.store().Update(e.Context(), fn); err != nil {
		e.Fatalf("Update: %v", err)
	}
}

func (e *env) view(fn func(store.Reader) error) {
	e.Helper()
	if err := e.store().View(e.Context(), fn); err != nil {
		e.Fatalf("View: %v", err)
	}
}

// check runs the store's own check.
func (e *env) check() {
	e.Helper()
	if err := e.store().Check(e.Context()); err != nil {
		e.Fatalf("Check: %v", err)
	}
}

// until polls cond for at most ten seconds.
func (e *env) until(what string, cond func() bool) {
	e.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			e.Fatalf("it did not come to pass: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

var errTest = errors.New("as the test wants it")

const (
	noteType rid.Type = "orn:example.note"
	taskType rid.Type = "orn:example.task"
	webType  rid.Type = "https"
)

var (
	peerA = rid.RID("orn:koi-net.node:a+1111")
	peerB = rid.RID("orn:koi-net.node:b+2222")
	peerC = rid.RID("orn:koi-net.node:c+3333")
)

// when is a fixed time, n seconds on.
func when(n int) time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, 678_901_234, time.UTC).Add(time.Duration(n) * time.Second)
}

func note(n int) rid.RID { return rid.RID(fmt.Sprintf("%s:%05d", noteType, n)) }

func record(t testing.TB, r rid.RID, contents string) store.Record {
	t.Helper()
	stamp, err := protocol.ParseTimestamp("2026-01-02T03:04:05.000006Z")
	if err != nil {
		t.Fatal(err)
	}
	return store.Record{
		Bundle: protocol.Bundle{
			Manifest: protocol.Manifest{RID: r, Timestamp: stamp, SHA256Hash: strings.Repeat("0123456789abcdef", 4)},
			Contents: []byte(contents),
		},
		Source: string(peerA),
		Stored: when(0),
	}
}

func sameManifest(a, b protocol.Manifest) bool {
	return a.RID == b.RID && a.Timestamp.String() == b.Timestamp.String() && a.SHA256Hash == b.SHA256Hash
}

func sameRecord(a, b store.Record) bool {
	return sameManifest(a.Bundle.Manifest, b.Bundle.Manifest) && string(a.Bundle.Contents) == string(b.Bundle.Contents) &&
		a.Source == b.Source && a.Stored.Equal(b.Stored)
}

// putNotes writes notes numbered from to to-1.
func (e *env) putNotes(from, to int) {
	e.Helper()
	e.update(func(w store.Writer) error {
		for n := from; n < to; n++ {
			if err := w.PutBundle(record(e, note(n), fmt.Sprintf(`{"n":%d}`, n))); err != nil {
				return err
			}
		}
		return nil
	})
}

// rids lists what RIDs yields.
func rids(e *env, r store.Reader, types []rid.Type, after rid.RID) []rid.RID {
	e.Helper()
	var all []rid.RID
	for got, err := range r.RIDs(types, after) {
		if err != nil {
			e.Fatalf("RIDs: %v", err)
		}
		all = append(all, got)
	}
	return all
}

// rowSeqs lists the Seq numbers of a queue, and checks what each row says.
func rowSeqs(e *env, r store.Reader, q store.Queue, peer rid.RID) []uint64 {
	e.Helper()
	var seqs []uint64
	for row, err := range r.QueueRows(q, peer, 0) {
		if err != nil {
			e.Fatalf("QueueRows: %v", err)
		}
		if row.Peer != peer {
			e.Errorf("a row of %s says it is of %s", peer, row.Peer)
		}
		seqs = append(seqs, row.Seq)
	}
	return seqs
}

// events lists the events of a queue as text.
func events(e *env, q store.Queue, peer rid.RID) []string {
	e.Helper()
	var all []string
	e.view(func(r store.Reader) error {
		all = nil
		for row, err := range r.QueueRows(q, peer, 0) {
			if err != nil {
				return err
			}
			all = append(all, string(row.Event))
		}
		return nil
	})
	return all
}

func (e *env) stats(q store.Queue, peer rid.RID) store.QueueStats {
	e.Helper()
	var s store.QueueStats
	e.view(func(r store.Reader) (err error) {
		s, err = r.QueueStats(q, peer)
		return err
	})
	return s
}

// types reads the counts, and holds them against the index.
func (e *env) types() map[rid.Type]int {
	e.Helper()
	var types map[rid.Type]int
	e.view(func(r store.Reader) (err error) {
		if types, err = r.Types(); err != nil {
			return err
		}
		counted := make(map[rid.Type]int)
		for _, got := range rids(e, r, nil, "") {
			counted[got.Type()]++
		}
		if fmt.Sprint(counted) != fmt.Sprint(types) {
			e.Errorf("Types says %v, the index holds %v", types, counted)
		}
		return nil
	})
	return types
}

func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
