package nodetest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/nodetest/hostile"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A test of a node of one's own: start it in a net of real nodes, and wait for
// what it should do.
func ExampleFleet() {
	_ = func(t *testing.T) {
		f := nodetest.NewFleet(t)
		first := f.Start("first", node.AsCoordinator())
		sensor := f.Start("sensor", node.WithFirstContact(first.URL()), node.WithProvides("orn:example.note"))
		reader := f.Start("reader", node.WithFirstContact(first.URL()), node.WithInterests("orn:example.note"), node.AsPartial())

		sensor.Put("orn:example.note:1", `{"text":"hello"}`)
		reader.WaitBundle("orn:example.note:1", `{"text":"hello"}`)

		sensor = sensor.Restart() // on its data, at its address
		sensor.Forget("orn:example.note:1")
		reader.WaitForgotten("orn:example.note:1")
	}
}

// A test of a handler alone: hand the node what another one would have sent.
func ExampleMember() {
	handler := pipeline.Handler{Name: "only-with-text", Phase: pipeline.PhaseBundle, RIDTypes: []rid.Type{"orn:example.note"},
		Func: func(_ context.Context, _ *pipeline.Context, o *pipeline.Object) error {
			var note struct{ Text string }
			if err := json.Unmarshal(o.Contents, &note); err != nil || note.Text == "" {
				return pipeline.Stop("NoText")
			}
			return nil
		},
	}
	_ = func(t *testing.T) {
		n := nodetest.NewFleet(t).Start("n", node.WithHandlers(handler))
		e, err := hostile.Honest("orn:example.note:1", n.Now(), `{"text":""}`)
		if err != nil {
			t.Fatal(err)
		}
		out, err := n.Handle(t.Context(), pipeline.FromEvent(pipeline.Unsigned, e))
		if err != nil || out[0].Stopped != "NoText" {
			t.Errorf("a note without text: %+v, %v", out, err)
		}
	}
}

// A test of a program: run it, kill it, and see what it makes of what is left.
func ExampleProcess() {
	_ = func(t *testing.T) {
		program, data := nodetest.Build(t, "../cmd/my-sensor"), t.TempDir()
		p := nodetest.StartProcess(t, program, "-data-dir", data, "-listen", "127.0.0.1:0")
		p.Expect("published")
		p.Kill()
		nodetest.StartProcess(t, program, "-data-dir", data, "-listen", "127.0.0.1:0")
	}
}

// A test of what depends on time.
func ExampleClock() {
	clock := nodetest.NewClock(time.Now())
	clock.Stop()
	clock.Set(time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC))
	fmt.Println(clock.Advance(90 * time.Minute).Format(time.RFC3339))
	_ = func(t *testing.T) {
		n := nodetest.NewFleet(t).Start("n", clock.Option())
		n.Put("orn:example.note:1", `{}`) // stamped 2026-01-01T13:30:00Z
	}
	// Output: 2026-01-01T13:30:00Z
}

const (
	noteType rid.Type = "orn:test.note"
	note     rid.RID  = "orn:test.note:1"
)

func TestFleetKeepsData(t *testing.T) {
	f := nodetest.NewFleet(t)
	a, b := f.Start("a"), f.Start("b")
	if a.RID() == b.RID() || a.URL() == b.URL() {
		t.Fatalf("one node twice: %s at %s", a.RID(), a.URL())
	}
	a.Put(note, `{"n":1}`)
	if has, err := b.Has(t.Context(), note); has || err != nil {
		t.Errorf("what a was given b holds: %t, %v", has, err)
	}
	again := a.Restart()
	again.WaitBundle(note, `{"n":1}`)
	if again.RID() != a.RID() || again.URL() != a.URL() {
		t.Errorf("%s at %s, was %s at %s", again.RID(), again.URL(), a.RID(), a.URL())
	}
	again.Stop()
	again.Stop()
	third := f.Start("a", node.WithProvides(noteType))
	third.WaitBundle(note, `{"n":1}`)
	if third.RID() != a.RID() || len(third.Profile().Provides.Event) != 1 {
		t.Errorf("%s provides %v", third.RID(), third.Profile().Provides)
	}
	third.Forget(note)
	third.WaitForgotten(note)
}

func TestFleetWithoutAdmin(t *testing.T) {
	n := nodetest.NewFleet(t).Start("n", node.WithAdmin(""))
	if n.Admin != nil {
		t.Error("a client of an admin API that is not there")
	}
	n.Put(note, `{}`)
	n.WaitBundle(note, `{}`)
}

func TestClock(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	c := nodetest.NewClock(at)
	nodetest.Eventually(t, "the clock runs", func() (bool, string) { return c.Now().After(at), c.Now().String() })
	before := c.Now()
	c.Stop()
	stopped := c.Now()
	if again := c.Now(); !again.Equal(stopped) || stopped.Before(before) {
		t.Errorf("it stands still at %s and %s, after %s", stopped, again, before)
	}
	if got := c.Advance(time.Hour); !got.Equal(stopped.Add(time.Hour)) || !c.Now().Equal(got) {
		t.Errorf("advanced to %s, shows %s", got, c.Now())
	}
	if got := c.Advance(-2 * time.Hour); !got.Equal(stopped.Add(-time.Hour)) {
		t.Errorf("set back to %s", got)
	}
	c.Set(at)
	if got := c.Now(); !got.Equal(at) {
		t.Errorf("set to %s, shows %s", at, got)
	}
	c.Stop()
	c.Run()
	nodetest.Eventually(t, "the clock runs again", func() (bool, string) { return c.Now().After(at), c.Now().String() })
	c.Run()
	if got := c.Now(); got.Before(at) || got.After(at.Add(time.Minute)) {
		t.Errorf("it shows %s", got)
	}
}

func TestClockIsShared(t *testing.T) {
	c := nodetest.NewClock(time.Now())
	c.Stop()
	start := c.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				c.Advance(time.Second)
				c.Now()
			}
		})
	}
	wg.Wait()
	if got, want := c.Now(), start.Add(8000*time.Second); !got.Equal(want) {
		t.Errorf("%s, want %s", got, want)
	}
}

// What the Clock's documentation promises of a node.
func TestNodeFollowsTheClock(t *testing.T) {
	c := nodetest.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	n := nodetest.NewFleet(t).Start("n", c.Option(), node.WithProvides(noteType))
	c.Stop()
	n.Put(note, `{}`)
	b, err := n.Bundle(t.Context(), note)
	if err != nil || !b.Manifest.Timestamp.Time().Equal(c.Now().Truncate(time.Microsecond)) {
		t.Errorf("stamped %s (%v), the clock shows %s", b.Manifest.Timestamp, err, c.Now())
	}
	st, err := n.Admin.Status(t.Context())
	if err != nil || st.Started.Year() != 2030 {
		t.Errorf("started %s, %v", st.Started, err)
	}

	// How far ahead others may stamp what they say.
	p := hostile.NewPeer(t)
	say := func(r rid.RID, ahead time.Duration) {
		t.Helper()
		if _, err := p.Say(t.Context(), n.URL(), hostile.Future(r, c.Now().Add(ahead))); err != nil {
			t.Fatal(err)
		}
		if err := n.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	say(note+"1", 5*time.Minute)
	say(note+"2", 5*time.Minute+time.Second)
	if has, err := n.Has(t.Context(), note+"1"); !has || err != nil {
		t.Errorf("within the window: %t, %v", has, err)
	}
	if has, err := n.Has(t.Context(), note+"2"); has || err != nil {
		t.Errorf("beyond the window: %t, %v", has, err)
	}
}

func TestProcess(t *testing.T) {
	program, data := nodetest.Build(t, "../examples/coordinator"), t.TempDir()
	begin := func() *nodetest.Process {
		t.Helper()
		return nodetest.StartProcess(t, program, "-data-dir", data, "-listen", "127.0.0.1:0")
	}
	self := func(p *nodetest.Process) rid.RID {
		t.Helper()
		res, err := http.Get(p.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer http.DefaultClient.CloseIdleConnections()
		defer res.Body.Close()
		var b protocol.Bundle
		if err := json.NewDecoder(res.Body).Decode(&b); err != nil {
			t.Fatal(err)
		}
		return b.Manifest.RID
	}
	first := begin()
	who := self(first)
	first.Kill()
	first.Kill()
	first.Stop() // nothing is left to stop
	if _, err := http.Get(first.URL()); err == nil {
		t.Error("it answers after the kill")
	}
	second := begin()
	if got := self(second); got != who || got == "" {
		t.Errorf("after the kill it is %q, was %q", got, who)
	}
	second.Stop()
	second.Stop()
}

// shell runs a script as a Process.
func shell(t *testing.T, script string) *nodetest.Process {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return nodetest.StartProcess(t, path)
}

func TestProcessOutput(t *testing.T) {
	for name, up := range map[string]string{
		"text":    `time=now level=INFO msg="node up" rid=orn:x listen=1 baseURL=http://127.0.0.1:1/koi-net`,
		"default": `2026/01/01 00:00:00 INFO node up rid=orn:x baseURL=http://127.0.0.1:1/koi-net admin=1`,
		"json":    `{"level":"INFO","msg":"node up","rid":"orn:x","baseURL":"http://127.0.0.1:1/koi-net","x":1}`,
	} {
		t.Run(name, func(t *testing.T) {
			p := shell(t, `
trap 'exit 0' TERM
echo one
echo two words
printf '%s\n' '`+up+`' >&2
echo three
while :; do sleep 0.01; done
`)
			if p.URL() != "http://127.0.0.1:1/koi-net" {
				t.Errorf("URL %q", p.URL())
			}
			if got := p.Expect("two"); got != "two words" {
				t.Errorf("%q", got)
			}
			p.Expect("three")
			if left := p.Output(); len(left) != 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

func TestPartialProcessHasNoURL(t *testing.T) {
	p := shell(t, `
trap 'exit 0' TERM
echo 'INFO node up rid=orn:x baseURL=""' >&2
while :; do sleep 0.01; done
`)
	if p.URL() != "" {
		t.Errorf("URL %q", p.URL())
	}
}

// lamp is a testing.TB that notes what would fail the test.
type lamp struct {
	testing.TB
	mu   sync.Mutex
	said []string
}

func (l *lamp) Helper() {}

func (l *lamp) Errorf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, fmt.Sprintf(format, args...))
}

func TestProcessThatEndsBadlyIsTold(t *testing.T) {
	l := &lamp{TB: t}
	path := filepath.Join(t.TempDir(), "program")
	script := "#!/bin/sh\ntrap 'exit 7' TERM\necho 'node up baseURL=x' >&2\nwhile :; do sleep 0.01; done\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	nodetest.StartProcess(l, path).Stop()
	if len(l.said) != 1 || !strings.Contains(l.said[0], "status 7") {
		t.Errorf("said %q", l.said)
	}
}

func TestWaitsSeeWhatIsThere(t *testing.T) {
	f := nodetest.NewFleet(t)
	first := f.Start("first", node.AsCoordinator())
	n := f.Start("n", node.WithFirstContact(first.URL()), node.WithProvides(noteType))
	first.WaitEdge(n.RID(), first.RID(), protocol.Approved)
	if e, ok := n.Edge(n.RID(), first.RID()); !ok || e.Source != n.RID() {
		t.Errorf("edge %+v, %t", e, ok)
	}
	if _, ok := n.Edge(first.RID(), "orn:koi-net.node:x+1"); ok {
		t.Error("an edge that nobody has")
	}
	if _, err := n.Bundle(t.Context(), note); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}
