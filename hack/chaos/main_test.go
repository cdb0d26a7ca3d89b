package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/hack/chaos/history"
	"github.com/koi-net/koi-operator/hack/chaos/koinode"
	"github.com/koi-net/koi-operator/hack/chaos/witness"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFlags(t *testing.T) {
	o, err := parse([]string{"-rounds", "7", "-duration", "3s", "-seed", "5", "-run", "^deliv", "-koi-node", "x"}, io.Discard)
	if err != nil || o.rounds != 7 || o.duration != 3*time.Second || o.seed != 5 || !o.only.MatchString("delivery/signed") || o.only.MatchString("broadcast") || o.program != "x" {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err = parse(nil, io.Discard); err != nil || o.seed == 0 || !o.only.MatchString("anything") {
		t.Errorf("%+v, %v", o, err)
	}
	for _, args := range [][]string{{"-rounds", "-1"}, {"-duration", "0s"}, {"-run", "("}, {"everything"}, {"-x"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q were taken", args)
		}
	}
	var help bytes.Buffer
	if _, err := parse([]string{"-h"}, &help); !errors.Is(err, flag.ErrHelp) {
		t.Error(err)
	}
	for _, s := range scenarios() {
		if !strings.Contains(help.String(), s.name) || !strings.Contains(help.String(), s.about) {
			t.Errorf("the help does not tell of %s", s.name)
		}
	}
}

// silent is a program that says nothing of being up.
func silent(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "koi-node")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho no >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRunSaysWhatFailed(t *testing.T) {
	program, temp := silent(t), t.TempDir()
	t.Setenv("TMPDIR", temp)
	var out bytes.Buffer
	err := command(t.Context(), []string{"-seed", "9", "-rounds", "1", "-run", "broadcast/signed", "-koi-node", program}, &out, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "broadcast/signed failed") {
		t.Error(err)
	}
	for _, want := range []string{"seed 9\n", "FAIL broadcast/signed", "ended before it was up", "the end of the log of first"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it says %s, not %s", out.String(), want)
		}
	}
	if err := command(t.Context(), []string{"-run", "nothing", "-koi-node", "x"}, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "no scenario") {
		t.Error(err)
	}
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSeedDecides(t *testing.T) {
	draw := func(seed uint64, name string) (out []int) {
		rnd := (&run{options: options{seed: seed}}).random(name)
		for range 10 {
			out = append(out, rnd.IntN(1000))
		}
		return out
	}
	if !slices.Equal(draw(1, "a"), draw(1, "a")) || slices.Equal(draw(1, "a"), draw(2, "a")) || slices.Equal(draw(1, "a"), draw(1, "b")) {
		t.Error("the seed and the name do not decide")
	}
}

// Whatever a lane packs is one body that changes its marker, has steps in the order
// of its events, and changes nothing into what it is.
func TestLanesPackWhatTheySay(t *testing.T) {
	w, err := witness.New(witness.Config{Name: "source", Unsigned: true, Kind: protocol.Partial})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var m ledger
	l := newLane("x", w, &m, true, true)
	l.rnd = rand.New(rand.NewPCG(1, 2))
	bare, forgotten, repeatable := 0, 0, 0
	for range 500 {
		p, err := l.pack(witness.Node{}, laneSteps)
		if err != nil {
			t.Fatal(err)
		}
		events, err := protocol.DecodeBroadcast(p.body, protocol.DefaultLimits())
		if err != nil || len(events) != len(p.steps) {
			t.Fatalf("%d events, %d steps, %v", len(events), len(p.steps), err)
		}
		seen, marked := map[rid.RID]bool{}, false
		for i, e := range events {
			s := p.steps[i]
			if s.RID != e.RID || (s.Change == history.Forgotten) != (e.EventType == protocol.Forget) {
				t.Fatalf("event %+v, step %+v", e, s)
			}
			if p.repeatable && (seen[e.RID] || e.EventType != protocol.Forget && e.Contents == nil) {
				t.Fatalf("%v would have an effect the second time", p.steps)
			}
			seen[e.RID] = true
			marked = marked || e.RID == l.marker()
			if s.Change == history.Forgotten {
				forgotten++
				continue
			}
			if e.Contents == nil {
				bare++
				continue
			}
			held := map[rid.RID]history.Change{}
			if err := hold(held, protocol.Bundle{Manifest: *e.Manifest, Contents: e.Contents}); err != nil || held[e.RID] != s.Change {
				t.Fatalf("event %+v, step %+v, %v", e, s, err)
			}
		}
		if !marked {
			t.Fatal("the marker stays as it is")
		}
		if p.repeatable {
			repeatable++
		}
		if l.rnd.IntN(3) > 0 { // else it was not accepted
			if err := l.accepted(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	if bare < 50 || forgotten < 50 || repeatable < 50 {
		t.Errorf("%d without contents, %d forgotten, %d bodies that may be sent again", bare, forgotten, repeatable)
	}
	if len(l.notes) > laneNotes+1+2*laneBare {
		t.Errorf("%d RIDs, and ever more", len(l.notes))
	}
}

func TestContentsNobodySent(t *testing.T) {
	const r = noteType + ":1"
	for _, text := range []string{"", "{}", `{"v":0}`, `{"v":1}`, `{"of":"x","v":1,"pad":""}`, strings.Replace(string(note(rid.RID(r), 3)), `"v":3`, `"v":4`, 1)} {
		if err := hold(map[rid.RID]history.Change{}, protocol.Bundle{Manifest: protocol.Manifest{RID: rid.RID(r)}, Contents: []byte(text)}); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}

func TestGrowth(t *testing.T) {
	before := koinode.Usage{RSS: 40 << 20, Files: 20, Goroutines: 50, Store: 1 << 20}
	for name, c := range map[string]struct {
		after koinode.Usage
		want  string
	}{
		"same":       {before, ""},
		"less":       {koinode.Usage{Goroutines: -1}, ""},
		"memory":     {koinode.Usage{RSS: 70 << 20}, "memory"},
		"files":      {koinode.Usage{Files: 40}, "open files"},
		"goroutines": {koinode.Usage{Goroutines: 80}, "goroutines"},
		"store":      {koinode.Usage{Store: 6 << 20}, "store"},
	} {
		err := grew("x", before, c.after, 100)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
