package node_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/scrub"
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

// What nobody else can have is reported until it is put again, or forgotten. Others
// that give out the type are not asked: what came from them would be theirs.
func TestDamagedOwnKnowledgeIsReported(t *testing.T) {
	f := nodetest.NewFleet(t)
	dir := t.TempDir()
	n := f.Start("source", node.WithDataDir(dir), node.WithProvides(noteType), scrubbing)
	reader := f.Start("reader", node.WithInterests(noteType), node.WithProvides(noteType), node.WithFirstContact(n.URL()))
	for i := 1; i <= 2; i++ {
		n.Put(note(i), fmt.Sprintf(`{"text":"contents number %d"}`, i))
		reader.WaitBundle(note(i), fmt.Sprintf(`{"text":"contents number %d"}`, i))
	}
	n.Stop()
	flipped(t, dir, `"contents number 1"`)
	flipped(t, dir, `"contents number 2"`)
	for range 2 { // it is remembered
		n = n.Restart()
		nodetest.Eventually(t, "the damage is reported", func() (bool, string) {
			st, err := n.Admin.Status(t.Context())
			ok := err == nil && st.Damaged == 2 && len(st.DamagedBundles) == 2
			for _, d := range st.DamagedBundles {
				ok = ok && d.Own && d.Reason == scrub.Damaged && d.Message != "" && !d.Found.IsZero()
			}
			return ok, fmt.Sprintf("%+v, %v", st.DamagedBundles, err)
		})
		if _, err := n.Bundle(t.Context(), note(1)); err == nil {
			t.Error("what is damaged is served")
		}
		n.Stop()
	}
	n = n.Restart()
	n.Put(note(1), `{"text":"put again"}`)
	nodetest.Eventually(t, "what was put again is damaged no more", func() (bool, string) {
		count, seen := damagedCount(t, n)
		return count == 1, seen
	})
	n.WaitBundle(note(1), `{"text":"put again"}`)
	reader.WaitBundle(note(1), `{"text":"put again"}`)
	if err := n.Admin.Forget(t.Context(), note(2)); err != nil {
		t.Errorf("forget what is damaged: %v", err)
	}
	if count, seen := damagedCount(t, n); count != 0 {
		t.Error(seen)
	}
	if err := n.Admin.Forget(t.Context(), note(2)); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("forget it again: %v", err)
	}
	reader.WaitForgotten(note(2))
	n.Stop()
	altered(t, dir, func(tx store.Writer) error {
		if rec, err := tx.Bundle(note(1)); err != nil || rec.Source != string(n.RID()) {
			t.Errorf("what was put again is %s's: %v", rec.Source, err)
		}
		for v, err := range tx.Values("damaged/") {
			t.Errorf("a note is left: %s, %v", v.Value, err)
		}
		return nil
	})
}

// The library takes damage for what it is, too.
func TestForgetAndDropWhatIsDamaged(t *testing.T) {
	f := nodetest.NewFleet(t)
	dir := t.TempDir()
	n := f.Start("source", node.WithDataDir(dir), node.WithProvides(noteType), scrubbing)
	for i := 1; i <= 2; i++ {
		n.Put(note(i), fmt.Sprintf(`{"text":"contents number %d"}`, i))
	}
	n.Stop()
	flipped(t, dir, `"contents number 1"`)
	flipped(t, dir, `"contents number 2"`)
	n = n.Restart()
	nodetest.Eventually(t, "the damage is reported", func() (bool, string) {
		count, seen := damagedCount(t, n)
		return count == 2, seen
	})
	if err := n.Node.Forget(t.Context(), note(1)); err != nil {
		t.Error(err)
	}
	if err := n.Node.Forget(t.Context(), note(3)); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("forget what never was: %v", err)
	}
	if err := n.Drop(t.Context(), note(2), note(3)); err != nil {
		t.Error(err)
	}
	if count, seen := damagedCount(t, n); count != 0 {
		t.Error(seen)
	}
}

// What a program gave its node is taken as it is, and so left alone.
func TestOwnBundlesOfAnotherHashAreLeftAlone(t *testing.T) {
	f := nodetest.NewFleet(t)
	n := f.Start("source", node.WithProvides(noteType), scrubbing)
	b, err := protocol.NewBundle(note(1), protocol.NewTimestamp(time.Now()), []byte(`{"text":"one"}`))
	if err != nil {
		t.Fatal(err)
	}
	b.Contents = []byte(`{"text":"another"}`)
	out, err := n.Handle(t.Context(), pipeline.FromBundle(pipeline.Internal, b))
	if err != nil || out[0].Err != nil || out[0].Stopped != "" {
		t.Fatalf("%+v, %v", out, err)
	}
	n.Put(note(2), `{"text":"two"}`)
	round := func() float64 {
		_, text := call(t, http.MethodGet, "http://"+n.AdminAddr().String()+"/metrics", nil)
		for line := range strings.Lines(text) {
			if value, ok := strings.CutPrefix(line, "koi_scrub_bundles_total "); ok {
				seen, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				if err != nil {
					t.Fatal(err)
				}
				return seen
			}
		}
		return 0
	}
	before := round()
	nodetest.Eventually(t, "all bundles are read again", func() (bool, string) {
		now := round()
		return now >= before+6, fmt.Sprint(before, now)
	})
	if count, seen := damagedCount(t, n); count != 0 {
		t.Error(seen)
	}
	n.WaitBundle(note(1), `{"text":"another"}`)
}

// flippedInPlace is flipped for a node that runs.
func flippedInPlace(t *testing.T, dir, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, node.StoreFile), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	for at, found := 0, 0; ; at++ {
		next := bytes.Index(data[at:], []byte(text))
		if next < 0 {
			if found == 0 {
				t.Fatal("the text is not in the file as it is")
			}
			return
		}
		at, found = at+next, found+1
		if _, err := f.WriteAt([]byte{data[at] ^ 1}, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever comes upon damage has it mended, without a scrub: what others provided is
// fetched again, and the node's own profile said anew.
func TestDamageThatIsReadIsMended(t *testing.T) {
	f := nodetest.NewFleet(t)
	source := f.Start("source", node.WithProvides(noteType))
	dir := t.TempDir()
	reader := f.Start("reader", node.WithDataDir(dir), node.WithInterests(noteType), node.WithFirstContact(source.URL()),
		func(c *node.Config) { c.ScrubInterval = 0 })
	source.Put(note(1), `{"text":"contents number 1"}`)
	reader.WaitBundle(note(1), `{"text":"contents number 1"}`)
	if err := reader.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	flippedInPlace(t, dir, reader.URL())
	ask := func(r rid.RID) string {
		body, err := json.Marshal(map[string]any{"rids": []rid.RID{r}})
		if err != nil {
			t.Fatal(err)
		}
		_, text := call(t, http.MethodPost, reader.URL()+"/bundles/fetch", body)
		return text
	}
	nodetest.Eventually(t, "what is damaged is not answered", func() (bool, string) {
		// A commit may just have written it elsewhere.
		flippedInPlace(t, dir, `"contents number 1"`)
		text := ask(note(1))
		return strings.Contains(text, `"not_found":["`+string(note(1))), text
	})
	for _, r := range []rid.RID{note(1), reader.RID()} {
		nodetest.Eventually(t, string(r)+" is there again", func() (bool, string) {
			text := ask(r)
			return strings.Contains(text, `"not_found":[]`), text
		})
	}
	nodetest.Eventually(t, "nothing is damaged any more", func() (bool, string) {
		count, seen := damagedCount(t, reader)
		return count == 0, seen
	})
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
