package bolt_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// How many states TestTornWrites makes of a store, and of how many stores where
// KOI_CHAOS is "long". Then the seed of the first comes from the clock, and
// KOI_CHAOS_SEED gives one that failed again.
const (
	tornStates = 1000
	longStores = 20
)

// sector is the least that a disk writes whole.
const sector = 512

var (
	tornPeers = []rid.RID{"orn:koi-net.node:a+1", "orn:koi-net.node:b+2", "orn:koi-net.node:c+3"}

	// tornCommits are commits of each kind; round tells one from the next.
	tornCommits = []struct {
		name string
		fn   func(w store.Writer, round int) error
	}{
		{"new bundles", func(w store.Writer, round int) error {
			return putTorn(w, 1000+40*round, 40, func(n int) int { return 37 * n })
		}},
		{"bundles replaced", func(w store.Writer, round int) error {
			return putTorn(w, 0, 60, func(n int) int { return (round*31 + n*53) % 2500 })
		}},
		{"bundles deleted", func(w store.Writer, round int) error {
			for n := range 50 {
				if err := w.DeleteBundle(note((round*50 + n*3) % 160)); err != nil {
					return err
				}
			}
			return nil
		}},
		{"inbox", func(w store.Writer, round int) error {
			for n := range 40 {
				if _, err := w.AppendInbox(store.InboxRow{RID: note(n), Data: []byte(strings.Repeat("in", n))}); err != nil {
					return err
				}
				if err := w.DeleteInbox(uint64(round*20 + n)); err != nil {
					return err
				}
			}
			return nil
		}},
		{"queues", func(w store.Writer, round int) error {
			for n := range 30 {
				q := []store.Queue{store.Outbox, store.PollQueue}[n%2]
				row := store.QueueRow{RID: note(n % 20), Event: []byte(strings.Repeat("event ", n))}
				if _, err := w.Enqueue(q, tornPeers[:1+n%3], row, store.QueueLimits{Rows: 40}); err != nil {
					return err
				}
			}
			return errors.Join(
				w.DeleteQueueRows(store.Outbox, tornPeers[0], uint64(round*7+1), uint64(round*7+2), uint64(round*7+3)),
				w.SetResyncNeeded(store.PollQueue, tornPeers[1], round%2 == 0))
		}},
		{"a queue dropped", func(w store.Writer, round int) error { return w.DropQueue(store.Outbox, tornPeers[round%3]) }},
		{"replay memory", func(w store.Writer, round int) error { return rememberAll(w, 200+round*60, 260+round*60) }},
		{"values and decisions", func(w store.Writer, round int) error {
			for n := range 20 {
				err := errors.Join(
					w.PutValue(fmt.Sprintf("name/%d", n), []byte(strings.Repeat("v", round+n))),
					w.PutDecision(store.Decision{Source: tornPeers[0], Target: rid.RID(fmt.Sprintf("orn:koi-net.node:t+%d", round+n)), Approved: n%2 == 0}),
					w.DeleteDecision(tornPeers[0], rid.RID(fmt.Sprintf("orn:koi-net.node:t+%d", n))),
					w.PutValue(fmt.Sprintf("name/%d", 10+n), nil))
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"a record over many pages", func(w store.Writer, round int) error {
			return w.PutBundle(record(500+round%2, strings.Repeat("large", 8_000+round)))
		}},
		{"a file that grows", func(w store.Writer, round int) error {
			return w.PutBundle(record(600+round, strings.Repeat("grow", 80_000)))
		}},
		{"room made", func(w store.Writer, round int) error {
			return errors.Join(w.DeleteBundle(note(600+round)), w.DeleteBundle(note(600+round-1)))
		}},
		{"an event's way", func(w store.Writer, round int) error { // what a node does in one commit
			_, err := w.Remember(replayKey(5000+round), time.Unix(1_700_000_000+int64(round), 0), store.ReplayBounds{Rows: 100})
			if err != nil {
				return err
			}
			if _, err := w.AppendInbox(store.InboxRow{RID: note(round), Data: []byte("final")}); err != nil {
				return err
			}
			_, err = w.Enqueue(store.Outbox, tornPeers, store.QueueRow{RID: note(round), Event: []byte("event")}, store.QueueLimits{Rows: 50})
			return errors.Join(err, w.PutBundle(record(round, `{"an":"event"}`)))
		}},
	}
)

func putTorn(w store.Writer, from, count int, size func(n int) int) error {
	for n := range count {
		if err := w.PutBundle(record(from+n, strings.Repeat("torn ", size(n)/5))); err != nil {
			return err
		}
	}
	return nil
}

// Power lost at any moment of a commit leaves the state before it or the one after
// it, whole. The states made are those a disk may be left in: pages written in any
// selection of sectors, with the old head, or all of them with a new head that is
// torn.
func TestTornWrites(t *testing.T) {
	stores, seed := 1, uint64(7)
	if os.Getenv("KOI_CHAOS") == "long" {
		stores, seed = longStores, uint64(time.Now().UnixNano())
	}
	if again, err := strconv.ParseUint(os.Getenv("KOI_CHAOS_SEED"), 10, 64); err == nil {
		seed = again
	}
	fmt.Printf("TestTornWrites: %d states of each of %d stores, KOI_CHAOS_SEED=%d\n", tornStates, stores, seed)
	for n := range stores {
		if tornStore(t, seed+uint64(n)); t.Failed() {
			return
		}
	}
}

func tornStore(t *testing.T, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 8))
	dir := memoryDir(t)
	s := open(t, filepath.Join(dir, "koi.db"))
	defer func() { closeStore(t, s) }()
	fillStore(t, s)
	const perCommit = 20
	grown := 0
	for made := 0; made < tornStates; made += perCommit {
		round := made / perCommit
		kind := tornCommits[round%len(tornCommits)]
		torn := tear(t, dir, s, func(w store.Writer) error {
			return errors.Join(kind.fn(w, round/len(tornCommits)), w.PutValue("commit", fmt.Append(nil, round)))
		})
		if len(torn.old) < len(torn.new) {
			grown++
		}
		olds, news := 0, 0
		for state := range perCommit {
			data, want := torn.state(rng, state)
			switch got := recoverTorn(t, filepath.Join(dir, "torn.db"), data, state == 0); {
			case got == torn.before && want != "after":
				olds++
			case got == torn.after && want != "before":
				news++
			default:
				t.Fatalf("commit %d, %s, state %d of seed %d: the store is at neither the state before nor the one after, or at the wrong one (want: %s)",
					round, kind.name, state, seed, want)
			}
		}
		if olds == 0 || news == 0 {
			t.Errorf("commit %d, %s: %d states before it, %d after it", round, kind.name, olds, news)
		}
		if t.Failed() {
			break
		}
	}
	if grown == 0 {
		t.Error("no commit made the file grow")
	}
}

// memoryDir is a directory whose files are not synced to a disk, where there is one.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "koi-store-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// tornCommit is one commit: the file and what it holds, before and after.
type tornCommit struct {
	old, new      []byte
	before, after string
	changed       []int // sectors of pages that differ
}

func tear(t *testing.T, dir string, s store.Store, fn func(store.Writer) error) (c tornCommit) {
	t.Helper()
	path := filepath.Join(dir, "koi.db")
	read := func() (data []byte, state string) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data, fingerprint(t, s)
	}
	c.old, c.before = read()
	update(t, s, fn)
	c.new, c.after = read()
	if c.before == c.after {
		t.Fatal("the commit changes nothing")
	}
	grown := append(bytes.Clone(c.old), make([]byte, len(c.new)-len(c.old))...)
	for at := 2 * pageSize; at < len(c.new); at += sector {
		if !bytes.Equal(grown[at:at+sector], c.new[at:at+sector]) {
			c.changed = append(c.changed, at)
		}
	}
	return c
}

// state makes one of the states, and says which commit has to come of it: "before",
// "after", or either.
func (c *tornCommit) state(rng *rand.Rand, n int) (data []byte, want string) {
	data = append(bytes.Clone(c.old), make([]byte, len(c.new)-len(c.old))...)
	const lastData = 13
	if n <= lastData { // the pages are on their way, the heads are as before
		share := []float64{0, 1, 0.02, 0.1, 0.5, 0.5, 0.5, 0.9, 0.98}[rng.IntN(9)]
		last := 0
		for _, at := range c.changed {
			if rng.Float64() < share {
				copy(data[at:at+sector], c.new[at:])
				last = at + sector
			}
		}
		if n == 1 {
			// One run of sectors, as a disk writes them in order.
			for _, at := range c.changed[:rng.IntN(len(c.changed)+1)] {
				copy(data[at:at+sector], c.new[at:])
				last = max(last, at+sector)
			}
		}
		if rng.IntN(2) == 0 { // the file's length is on its way, too
			data = data[:max(len(c.old), last)]
		}
		return data, "before"
	}
	// The pages are on the disk, the head is on its way.
	copy(data[2*pageSize:], c.new[2*pageSize:])
	switch n {
	case lastData + 1:
		return data, "before"
	case lastData + 2:
		copy(data, c.new[:2*pageSize])
		return data, "after"
	}
	unit := []int{1, 4, 8, 16}[rng.IntN(4)]
	for at := 0; at < 2*pageSize; at += unit {
		if rng.IntN(2) == 0 {
			copy(data[at:at+unit], c.new[at:])
		}
	}
	return data, "either"
}

// recoverTorn opens a torn file, wants it to be a sound store, and returns what it
// holds. It writes on, and in depth looks at what that comes to.
func recoverTorn(t *testing.T, path string, data []byte, depth bool) string {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := bolt.Open(bolt.Options{Path: path, NodeRID: self})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	state := fingerprint(t, s)
	update(t, s, func(w store.Writer) error { return w.PutBundle(record(1, `{"after":"the crash"}`)) })
	if depth {
		closeStore(t, s)
		s = open(t, path)
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("Check after writing on: %v", err)
		}
	}
	closeStore(t, s)
	return state
}

// fingerprint is a digest of all that a store holds.
func fingerprint(t testing.TB, s store.Store) string {
	t.Helper()
	h := sha256.New()
	err := s.View(t.Context(), func(r store.Reader) error { return writeAll(h, r) })
	if err != nil {
		t.Fatalf("reading everything: %v", err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func writeAll(h hash.Hash, r store.Reader) error {
	add := func(fields ...any) {
		for _, f := range fields {
			text, ok := f.(string)
			if !ok {
				text = fmt.Sprint(f)
			}
			h.Write(binary.AppendUvarint(nil, uint64(len(text))))
			h.Write([]byte(text))
		}
	}
	for rec, err := range r.Records(nil, "") {
		if err != nil {
			return err
		}
		m := rec.Bundle.Manifest
		add("bundle", m.RID, m.Timestamp.String(), m.SHA256Hash, string(rec.Bundle.Contents), rec.Source, rec.Stored.UnixNano())
	}
	types, err := r.Types()
	if err != nil {
		return err
	}
	add("types", types) // maps are printed in the order of their keys
	for row, err := range r.Inbox(0) {
		if err != nil {
			return err
		}
		add("inbox", row.Seq, row.RID, string(row.Data), row.Accepted.UnixNano())
	}
	for _, q := range []store.Queue{store.Outbox, store.PollQueue} {
		stats, err := r.Queues(q)
		if err != nil {
			return err
		}
		add(string(q), len(stats))
		for _, peer := range tornPeers {
			add(peer, stats[peer].Rows, stats[peer].Bytes, stats[peer].ResyncNeeded)
			for row, err := range r.QueueRows(q, peer, 0) {
				if err != nil {
					return err
				}
				add(row.Seq, row.RID, string(row.Event), row.Queued.UnixNano())
			}
		}
	}
	decisions, err := r.Decisions()
	if err != nil {
		return err
	}
	for _, d := range decisions {
		add("decision", d.Source, d.Target, d.Approved)
	}
	for v, err := range r.Values("") {
		if err != nil {
			return err
		}
		add("value", v.Key, string(v.Value))
	}
	n, err := r.ReplayLen()
	add("replay", n)
	return err
}
