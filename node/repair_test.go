package node_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// altered changes the store of a node that does not run.
func altered(t *testing.T, dir string, fn func(store.Writer) error) {
	t.Helper()
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(dir, node.StoreFile)})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// flipped changes a byte of the store of a node that does not run, where it holds text.
func flipped(t *testing.T, dir, text string) {
	t.Helper()
	path := filepath.Join(dir, node.StoreFile)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, damage(t, data, []byte(text)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// scrubbing reads all bundles every second.
func scrubbing(c *node.Config) { c.ScrubInterval = time.Second }

func damagedCount(t *testing.T, n *nodetest.Member) (int, string) {
	t.Helper()
	st, err := n.Admin.Status(t.Context())
	return st.Damaged, fmt.Sprintf("%d damaged, %v", st.Damaged, err)
}

// A bundle that turns out bad is fetched again from who provided it, whether its
// record is damaged or its contents are not those of its manifest.
func TestDamagedBundlesAreFetchedAgain(t *testing.T) {
	f := nodetest.NewFleet(t)
	source := f.Start("source", node.WithProvides(noteType))
	dir := t.TempDir()
	reader := f.Start("reader", node.WithDataDir(dir), node.WithInterests(noteType), node.WithFirstContact(source.URL()), scrubbing)
	for n := 1; n <= 3; n++ {
		source.Put(note(n), fmt.Sprintf(`{"text":"contents number %d"}`, n))
		reader.WaitBundle(note(n), fmt.Sprintf(`{"text":"contents number %d"}`, n))
	}
	reader.Stop()
	flipped(t, dir, `"contents number 1"`)
	altered(t, dir, func(tx store.Writer) error {
		rec, err := tx.Bundle(note(2))
		if err != nil {
			return err
		}
		rec.Bundle.Contents = []byte(`{"text":"forged"}`)
		return tx.PutBundle(rec)
	})
	reader = reader.Restart()
	for n := 1; n <= 3; n++ {
		reader.WaitBundle(note(n), fmt.Sprintf(`{"text":"contents number %d"}`, n))
	}
	nodetest.Eventually(t, "nothing is damaged any more", func() (bool, string) {
		n, seen := damagedCount(t, reader)
		return n == 0, seen
	})
	reader.Stop()
	altered(t, dir, func(tx store.Writer) error {
		for v, err := range tx.Values("damaged/") {
			t.Errorf("a note is left: %s, %v", v.Value, err)
		}
		return nil
	})
}

// What nobody else can have is reported until it is put again.
func TestDamagedOwnKnowledgeIsReported(t *testing.T) {
	f := nodetest.NewFleet(t)
	dir := t.TempDir()
	n := f.Start("source", node.WithDataDir(dir), node.WithProvides(noteType), scrubbing)
	n.Put(note(1), `{"text":"contents number 1"}`)
	n.Stop()
	altered(t, dir, func(tx store.Writer) error {
		rec, err := tx.Bundle(note(1))
		if err != nil {
			return err
		}
		rec.Bundle.Contents = []byte(`{"text":"forged"}`)
		return tx.PutBundle(rec)
	})
	for range 2 { // it is remembered
		n = n.Restart()
		nodetest.Eventually(t, "the damage is reported", func() (bool, string) {
			count, seen := damagedCount(t, n)
			return count == 1, seen
		})
		if _, err := n.Bundle(t.Context(), note(1)); err == nil {
			t.Error("what is damaged is served")
		}
		n.Stop()
	}
	n = n.Restart()
	n.Put(note(1), `{"text":"put again"}`)
	nodetest.Eventually(t, "nothing is damaged any more", func() (bool, string) {
		count, seen := damagedCount(t, n)
		return count == 0, seen
	})
	n.WaitBundle(note(1), `{"text":"put again"}`)
}

// A damaged profile keeps no node from starting, and is had again.
func TestDamagedProfileIsFetchedAgain(t *testing.T) {
	f := nodetest.NewFleet(t)
	source := f.Start("source", node.WithProvides(noteType))
	dir := t.TempDir()
	reader := f.Start("reader", node.WithDataDir(dir), node.WithInterests(noteType), node.WithFirstContact(source.URL()))
	source.Put(note(1), `{"text":"one"}`)
	reader.WaitBundle(note(1), `{"text":"one"}`)
	reader.Stop()
	profile := source.URL()
	flipped(t, dir, profile)
	reader = reader.Restart()
	nodetest.Eventually(t, "the profile is held again", func() (bool, string) {
		b, err := reader.Bundle(t.Context(), source.RID())
		return err == nil, fmt.Sprint(b.Manifest, err)
	})
	source.Put(note(2), `{"text":"two"}`)
	reader.WaitBundle(note(2), `{"text":"two"}`)
}
