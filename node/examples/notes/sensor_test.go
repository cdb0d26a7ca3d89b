package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testVault(t *testing.T) *vault {
	t.Helper()
	v, err := openVault(t.TempDir(), "my notes", 1000, 100)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.close)
	return v
}

func (v *vault) write(t *testing.T, file, text string) {
	t.Helper()
	path := filepath.Join(v.dir, filepath.FromSlash(file))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOneRIDForEachNote(t *testing.T) {
	v := testVault(t)
	for file, want := range map[string]string{
		"a.md":           "my%20notes/a.md",
		"sub/ü & b.md":   "my%20notes/sub/%C3%BC%20&%20b.md",
		"100%.md":        "my%20notes/100%25.md",
		"a:b+c #1?.md":   "my%20notes/a:b+c%20%231%3F.md",
		"sub/deep/x.MD":  "my%20notes/sub/deep/x.MD",
		"new\nline.md":   "my%20notes/new%0Aline.md",
		"%2e%2e/%61.md":  "my%20notes/%252e%252e/%2561.md",
		"quote\"tick.md": "my%20notes/quote%22tick.md",
	} {
		r, err := v.rid(file)
		if err != nil || r.Reference() != want || r.Type() != noteType {
			t.Errorf("%q: %s, %v; want %s", file, r, err, want)
		}
		if back, ok := v.file(r); !ok || back != file {
			t.Errorf("%s leads back to %q, %t", r, back, ok)
		}
	}
	for _, r := range []rid.RID{
		"orn:example.markdown-note:my%20notes/%61.md",      // another spelling of a.md
		"orn:example.markdown-note:my%20notes/..%2fa.md",   // out of the vault
		"orn:example.markdown-note:my%20notes/../a.md",     //
		"orn:example.markdown-note:my%20notes/.git/a.md",   // never published
		"orn:example.markdown-note:other/a.md",             // another vault
		"orn:example.markdown-note:my%20notes/a.txt",       //
		"orn:example.note:my%20notes/a.md",                 //
		"orn:example.markdown-note:my%20notes/%zz/a.md",    //
		"orn:example.markdown-note:my%20notes/sub%2Fa.md",  //
		"orn:example.markdown-note:my%20notes//etc/pwd.md", //
	} {
		if file, ok := v.file(r); ok {
			t.Errorf("%s leads to %q", r, file)
		}
		if _, err := v.deref(t.Context(), r); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v, want not found", r, err)
		}
	}
	if r, err := v.rid(strings.Repeat("ü", 400) + ".md"); err == nil {
		t.Errorf("a RID of %d bytes", len(r))
	}
}

func FuzzRID(f *testing.F) {
	f.Add("sub/a b.md")
	f.Add("../x.md")
	v := &vault{name: "v"}
	f.Fuzz(func(t *testing.T, file string) {
		r, err := v.rid(file)
		if err != nil {
			return
		}
		if back, ok := v.file(r); ok != isNote(file) || ok && back != file {
			t.Errorf("%q became %s, which is %q, %t", file, r, back, ok)
		}
	})
}

func TestDeref(t *testing.T) {
	v := testVault(t)
	v.write(t, "sub/a.md", "# A\ntext")
	v.write(t, "draft.md", "---\ndraft: true\n---\n")
	v.write(t, "broken.md", "---\n{\n---\n")
	v.write(t, "large.md", strings.Repeat("x", int(v.maxBytes)+1))
	v.write(t, "fits.md", strings.Repeat("x", int(v.maxBytes)))
	outside := filepath.Join(t.TempDir(), "secret.md")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"out.md": outside, "in.md": "sub/a.md", "outdir": filepath.Dir(outside), "loop.md": "loop.md"} {
		if err := os.Symlink(target, filepath.Join(v.dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(v.dir, "pipe.md"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(v.dir, "dir.md"), 0o700); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"sub/a.md": "A", "in.md": "A", "fits.md": "fits",
		"draft.md": "not found", "gone.md": "not found", "pipe.md": "not found", "dir.md": "not found",
		"broken.md": "front matter", "large.md": "-max-bytes", "out.md": "escapes", "outdir/secret.md": "escapes", "loop.md": "too many",
	} {
		r, err := v.rid(file)
		if err != nil {
			t.Fatal(err)
		}
		switch got, err := v.deref(t.Context(), r); {
		case err != nil && !strings.Contains(err.Error(), want):
			t.Errorf("%s: %v, want %q", file, err, want)
		case err != nil && errors.Is(err, store.ErrNotFound) != (want == "not found"):
			t.Errorf("%s: %v", file, err)
		case err == nil && got.(note).Title != want:
			t.Errorf("%s: %+v, want the title %q", file, got, want)
		}
	}
	seen, err := v.scan(func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"broken.md", "draft.md", "fits.md", "in.md", "large.md", "sub/a.md"}
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, want) {
		t.Errorf("seen %q, want %q", got, want)
	}
}

// desk is a sensor of a vault, and the notes it would have published.
type desk struct {
	*sensor
	t   *testing.T
	now time.Time

	mu   sync.Mutex
	told []string
	held map[string]string
	fail error
}

func newDesk(t *testing.T, v *vault) *desk {
	d := &desk{t: t, now: noon, held: map[string]string{}}
	d.sensor = &sensor{vault: v, publish: d.take, settle: time.Second, rescan: time.Minute, log: slog.New(slog.DiscardHandler),
		files: map[string]*state{}}
	return d
}

func (d *desk) take(ctx context.Context, r rid.RID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	file, _ := d.vault.file(r)
	d.told = append(d.told, file)
	if d.fail != nil {
		return d.fail
	}
	n, err := d.vault.deref(ctx, r)
	if errors.Is(err, store.ErrNotFound) {
		delete(d.held, file)
		return nil
	}
	if err == nil {
		d.held[file] = n.(note).Text
	}
	return err
}

// look has time pass and the sensor look; it returns whom it told of what.
func (d *desk) look(after time.Duration) (told []string) {
	d.t.Helper()
	d.now = d.now.Add(after)
	d.told = nil
	if _, err := d.sensor.look(d.t.Context(), d.now, func(string) {}); err != nil {
		d.t.Fatal(err)
	}
	slices.Sort(d.told)
	return d.told
}

func (d *desk) expect(what string, got []string, want ...string) {
	d.t.Helper()
	if !slices.Equal(got, want) {
		d.t.Errorf("%s: told of %q, want %q", what, got, want)
	}
}

func TestSensorTellsOfWhatSettled(t *testing.T) {
	v := testVault(t)
	d := newDesk(t, v)
	v.write(t, "a.md", "one")
	v.write(t, "sub/b.md", "two")
	d.expect("at first sight", d.look(0))
	d.expect("before it settled", d.look(999*time.Millisecond))
	v.write(t, "a.md", "one, and")
	d.expect("half-written", d.look(time.Millisecond), "sub/b.md")
	v.write(t, "a.md", "one, and more")
	d.expect("still being written", d.look(time.Second))
	d.expect("written", d.look(time.Second), "a.md")
	if d.held["a.md"] != "one, and more" {
		t.Errorf("published %q", d.held["a.md"])
	}
	d.expect("unchanged", d.look(time.Hour))

	if err := os.Rename(filepath.Join(v.dir, "a.md"), filepath.Join(v.dir, "c.md")); err != nil {
		t.Fatal(err)
	}
	d.look(0)
	d.expect("renamed", d.look(time.Second), "a.md", "c.md")
	if _, there := d.held["a.md"]; there || d.held["c.md"] == "" {
		t.Errorf("after the renaming: %q", d.held)
	}

	// An editor that saves by removing and writing anew.
	if err := os.Remove(filepath.Join(v.dir, "c.md")); err != nil {
		t.Fatal(err)
	}
	d.look(0)
	v.write(t, "c.md", "saved")
	d.expect("saved by replacing", d.look(time.Second))
	d.expect("saved by replacing", d.look(time.Second), "c.md")
	if d.held["c.md"] != "saved" {
		t.Errorf("published %q", d.held["c.md"])
	}
	if err := os.RemoveAll(v.dir + "/sub"); err != nil {
		t.Fatal(err)
	}
	d.look(0)
	d.expect("removed", d.look(time.Second), "sub/b.md")
	d.look(0)
	if len(d.files) != 1 || len(d.held) != 1 {
		t.Errorf("remembered: %v, held: %v", d.files, d.held)
	}
}

func TestSensorMakesUpForItsAbsence(t *testing.T) {
	v := testVault(t)
	v.write(t, "there.md", "x")
	d := newDesk(t, v)
	d.files["there.md"], d.files["gone.md"] = &state{}, &state{} // as recall leaves it
	d.expect("gone meanwhile", d.look(0), "gone.md")
	d.expect("there", d.look(time.Second), "there.md")
	d.expect("later", d.look(time.Hour))
}

func TestSensorTriesAgainWhatFailed(t *testing.T) {
	v := testVault(t)
	v.write(t, "a.md", "x")
	d := newDesk(t, v)
	d.fail = errors.New("no room")
	d.look(0)
	d.expect("failing", d.look(time.Second), "a.md")
	d.expect("soon after", d.look(10*time.Second))
	d.fail = nil
	d.expect("at the next rescan", d.look(d.rescan), "a.md")
	d.expect("done", d.look(time.Hour))
}

// A directory of which not everything can be seen makes nothing be forgotten.
func TestSensorForgetsNothingInDoubt(t *testing.T) {
	v := testVault(t)
	v.write(t, "a.md", "x")
	d := newDesk(t, v)
	d.look(0)
	d.expect("at first", d.look(time.Second), "a.md")
	for i := range v.maxEntries {
		v.write(t, "many/"+strings.Repeat("x", i+1)+".md", "x")
	}
	if err := os.Remove(filepath.Join(v.dir, "a.md")); err != nil {
		t.Fatal(err)
	}
	_, err := d.sensor.look(t.Context(), d.now.Add(time.Hour), func(string) {})
	if err == nil || !strings.Contains(err.Error(), "-max-entries") {
		t.Errorf("%v, want it to say that there are too many", err)
	}
	if len(d.held) != 1 {
		t.Errorf("held: %q", d.held)
	}
}

func TestScanEntersDirectoriesBeforeItReadsThem(t *testing.T) {
	v := testVault(t)
	v.write(t, "sub/a.md", "x")
	v.write(t, ".git/b.md", "x")
	var entered []string
	seen, err := v.scan(func(dir string) {
		entered = append(entered, strings.TrimPrefix(dir, v.dir))
		if strings.HasSuffix(dir, "sub") {
			v.write(t, "sub/late.md", "x") // after this it would be told of
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"", "/sub"}; !slices.Equal(entered, want) {
		t.Errorf("entered %q, want %q", entered, want)
	}
	if _, ok := seen["sub/late.md"]; !ok {
		t.Errorf("seen: %v", seen)
	}
}

func TestLinkBundles(t *testing.T) {
	v := testVault(t)
	contents, err := json.Marshal(note{Text: "[b](b.md) [[sub/c]]"})
	if err != nil {
		t.Fatal(err)
	}
	got := v.links("a.md", contents)
	if len(got) != 2 {
		t.Fatalf("%d links: %s", len(got), got)
	}
	for r, text := range got {
		var link struct{ From, To rid.RID }
		if err := json.Unmarshal(text, &link); err != nil || r.Type() != linkType {
			t.Fatalf("%s %s: %v", r, text, err)
		}
		if from, ok := v.file(link.From); !ok || from != "a.md" {
			t.Errorf("a link from %s", link.From)
		}
		if to, ok := v.file(link.To); !ok || to != "b.md" && to != "sub/c.md" {
			t.Errorf("a link to %s", link.To)
		}
	}
	if got := v.links("a.md", []byte(`{"text":7}`)); len(got) != 0 {
		t.Errorf("links of contents that are none of ours: %s", got)
	}
}
