package examples_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node/nodetest"
)

// programs is the directory of the built examples.
var programs string

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "koi-examples"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	out, err := exec.Command("go", "build", "-o", programs+"/", "./...").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		_ = os.RemoveAll(programs)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(programs) // in the temporary directory, should that fail
		os.Exit(code)
	}))
}

const loopback = "127.0.0.1:0"

// start runs an example on a data directory of its own.
func start(t *testing.T, name string, args ...string) *nodetest.Process {
	t.Helper()
	return nodetest.StartProcess(t, filepath.Join(programs, name), append(args, "-data-dir", t.TempDir())...)
}

// begin runs the coordinator and returns its base URL.
func begin(t *testing.T) (first string) {
	t.Helper()
	return start(t, "coordinator", "-listen", loopback).URL()
}

// subscribe runs a partial node that prints what it hears of the types.
func subscribe(t *testing.T, first, types string) *nodetest.Process {
	t.Helper()
	return start(t, "partial", "-first-contact", first, "-poll-interval", "50ms", "-types", types)
}

// Four of the examples make a net: a note reaches the partial node, and so does
// the count of its words, which the custom node made of it.
func TestExamplesMakeANet(t *testing.T) {
	first := begin(t)
	start(t, "full", "-listen", loopback, "-first-contact", first, "-every", "100ms")
	start(t, "custom", "-listen", loopback, "-first-contact", first)
	desk := subscribe(t, first, "orn:example.note,orn:example.word-count")
	desk.Expect("NEW orn:example.note:")
	count := desk.Expect("NEW orn:example.word-count:")
	if !strings.HasSuffix(count, `{"words":4}`) {
		t.Errorf("count of a note of four words: %s", count)
	}
}

// vault is a directory of notes that a running sensor watches.
type vault struct {
	t          *testing.T
	dir        string
	desk       *nodetest.Process // who hears of it
	sentinels  int
	args       []string
	sensor     *nodetest.Process
	sensorAddr string
}

func newVault(t *testing.T) *vault {
	t.Helper()
	first := begin(t)
	v := &vault{t: t, dir: t.TempDir(), sensorAddr: loopback}
	v.args = []string{"-dir", v.dir, "-vault", "v", "-settle", "100ms", "-data-dir", t.TempDir(), "-first-contact", first}
	v.desk = subscribe(t, first, "orn:example.markdown-note,orn:example.note-link")
	return v
}

// start starts the sensor, at the address it had before.
func (v *vault) start() {
	v.t.Helper()
	v.sensor = nodetest.StartProcess(v.t, filepath.Join(programs, "notes"), append(v.args, "-listen", v.sensorAddr)...)
	u, err := url.Parse(v.sensor.URL())
	if err != nil {
		v.t.Fatal(err)
	}
	v.sensorAddr = u.Host
}

func (v *vault) path(file string) string { return filepath.Join(v.dir, filepath.FromSlash(file)) }

func (v *vault) write(file, text string) {
	v.t.Helper()
	if err := os.MkdirAll(filepath.Dir(v.path(file)), 0o755); err != nil {
		v.t.Fatal(err)
	}
	if err := os.WriteFile(v.path(file), []byte(text), 0o644); err != nil {
		v.t.Fatal(err)
	}
}

func (v *vault) remove(file string) {
	v.t.Helper()
	if err := os.Remove(v.path(file)); err != nil {
		v.t.Fatal(err)
	}
}

// heard adds a last note and returns what was heard up to that of the others, as
// "EVENT type:reference", sorted: no order is promised between RIDs.
func (v *vault) heard(events int) []string {
	v.t.Helper()
	var out []string
	nodetest.Eventually(v.t, "the subscriber hears of it", func() (bool, string) {
		out = nil
		for _, line := range v.desk.Output() {
			event, rest, _ := strings.Cut(line, " ")
			r, _, _ := strings.Cut(rest, " ")
			out = append(out, event+" "+strings.TrimPrefix(r, "orn:example."))
		}
		return len(out) >= events, strings.Join(out, "\n")
	})
	v.sentinels++
	last := strings.Repeat("z", v.sentinels) + ".md"
	v.write(last, "no more")
	v.desk.Expect("NEW orn:example.markdown-note:v/" + last)
	slices.Sort(out)
	return out
}

// contents waits for an event and returns the note that came with it.
func (v *vault) contents(event string) (n struct {
	Title, Text string
	Tags        []string
}) {
	v.t.Helper()
	line := v.desk.Expect(event + " {")
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, event)), &n); err != nil {
		v.t.Fatalf("%s: %v", line, err)
	}
	return n
}

func TestNotesFollowTheDirectory(t *testing.T) {
	v := newVault(t)
	v.write("sub dir/first.md", "---\ntags: [a, b]\n---\n# The first\ntext\n")
	v.start()
	n := v.contents("NEW orn:example.markdown-note:v/sub%20dir/first.md")
	if n.Title != "The first" || n.Text != "# The first\ntext\n" || !slices.Equal(n.Tags, []string{"a", "b"}) {
		t.Errorf("published %+v", n)
	}
	v.write("new dir/deep/second.md", "two") // in directories that were not there
	if n := v.contents("NEW orn:example.markdown-note:v/new%20dir/deep/second.md"); n.Text != "two" {
		t.Errorf("published %+v", n)
	}
	v.write("new dir/deep/second.md", "two, changed")
	if n := v.contents("UPDATE orn:example.markdown-note:v/new%20dir/deep/second.md"); n.Text != "two, changed" {
		t.Errorf("published %+v", n)
	}
	if err := os.Rename(v.path("new dir"), v.path("old dir")); err != nil {
		t.Fatal(err)
	}
	v.want(v.heard(2), "FORGET markdown-note:v/new%20dir/deep/second.md", "NEW markdown-note:v/old%20dir/deep/second.md")
	v.remove("old dir/deep/second.md")
	v.desk.Expect("FORGET orn:example.markdown-note:v/old%20dir/deep/second.md")

	v.write("first draft.md", "---\ndraft: true\n---\nnot yet")
	v.write("sub dir/first.md", "---\ndraft: true\n---\nnot any more")
	v.write(".hidden.md", "x")
	v.write("sub dir/.#lock.md", "x")
	v.write("saved.md~", "x")
	v.write(".git/x.md", "x")
	secret := filepath.Join(t.TempDir(), "secret.md")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, v.path("secret.md")); err != nil {
		t.Fatal(err)
	}
	v.want(v.heard(1), "FORGET markdown-note:v/sub%20dir/first.md")
}

func (v *vault) want(got []string, want ...string) {
	v.t.Helper()
	if !slices.Equal(got, want) {
		v.t.Errorf("heard\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestNotesMakeUpForTheirAbsence(t *testing.T) {
	for _, end := range []struct {
		name string
		how  func(*nodetest.Process)
	}{{"stopped", (*nodetest.Process).Stop}, {"killed", (*nodetest.Process).Kill}} {
		t.Run(end.name, func(t *testing.T) {
			v := newVault(t)
			for _, file := range []string{"same.md", "edited.md", "removed.md", "renamed.md"} {
				v.write(file, "before")
			}
			v.start()
			v.want(v.heard(4), "NEW markdown-note:v/edited.md", "NEW markdown-note:v/removed.md", "NEW markdown-note:v/renamed.md",
				"NEW markdown-note:v/same.md")
			end.how(v.sensor)
			v.write("edited.md", "after")
			v.write("added.md", "after")
			v.remove("removed.md")
			if err := os.Rename(v.path("renamed.md"), v.path("other.md")); err != nil {
				t.Fatal(err)
			}
			v.start()
			v.want(v.heard(5), "FORGET markdown-note:v/removed.md", "FORGET markdown-note:v/renamed.md", "NEW markdown-note:v/added.md",
				"NEW markdown-note:v/other.md", "UPDATE markdown-note:v/edited.md")
		})
	}
}

func TestNotesIndexTheirLinks(t *testing.T) {
	v := newVault(t)
	v.write("a.md", "[b](sub/b.md)")
	v.start()
	// linked waits until as many link bundles came and went, and returns the last
	// that came.
	linked := func(came, went int) (from, to string) {
		t.Helper()
		var last string
		nodetest.Eventually(t, "the links are indexed", func() (bool, string) {
			lines := v.desk.Output()
			n := map[string]int{}
			for _, line := range lines {
				event, rest, _ := strings.Cut(line, " ")
				if !strings.HasPrefix(rest, "orn:example.note-link:") {
					continue
				}
				if n[event]++; event == "NEW" {
					last = rest
				}
			}
			return n["NEW"] == came && n["FORGET"] == went, strings.Join(lines, "\n")
		})
		_, contents, _ := strings.Cut(last, " ")
		var l struct{ From, To string }
		if err := json.Unmarshal([]byte(contents), &l); err != nil {
			t.Fatalf("%s: %v", last, err)
		}
		return l.From, l.To
	}
	if from, to := linked(1, 0); from != "orn:example.markdown-note:v/a.md" || to != "orn:example.markdown-note:v/sub/b.md" {
		t.Errorf("a link from %s to %s", from, to)
	}
	v.write("a.md", "[[c]] instead")
	if from, to := linked(2, 1); from != "orn:example.markdown-note:v/a.md" || to != "orn:example.markdown-note:v/c.md" {
		t.Errorf("a link from %s to %s", from, to)
	}
	v.remove("a.md") // with it goes its link
	linked(2, 2)
}
