package koinode

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script makes a program that is given the arguments of koi-node.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "koi-node")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

const up = `echo '{"msg":"node up","rid":"orn:koi-net.node:x+1","admin":{"IP":"127.0.0.1","Port":7},"baseURL":"http://127.0.0.1:1/koi-net"}' >&2
`

func TestLives(t *testing.T) {
	n, err := New(script(t, up+"exec sleep 100"), t.TempDir(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if n.Alive() || n.Admin() != nil || n.URL() != "" || n.Stop() == nil {
		t.Error("it is there before it was started")
	}
	n.Kill()
	for life := range 3 {
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := n.Begin(); err == nil {
			t.Error("it was started twice")
		}
		if !n.Alive() || n.RID() != "orn:koi-net.node:x+1" || n.URL() != "http://127.0.0.1:1/koi-net" || n.Admin() == nil || n.Starts() != life+1 {
			t.Errorf("life %d: %s at %s, %d starts", life, n.RID(), n.URL(), n.Starts())
		}
		n.Kill()
		n.Kill()
		if n.Alive() || !strings.Contains(n.Log(), "node up") {
			t.Error("it outlives SIGKILL")
		}
	}
	if left, err := n.CheckStore(t.Context()); err != nil || left != (Remains{}) {
		t.Errorf("a node without a store: %+v, %v", left, err)
	}
}

func TestEndings(t *testing.T) {
	for name, c := range map[string]struct{ text, start, stop string }{
		"good":          {"trap 'exit 0' TERM\n" + up + "while :; do sleep 0.01; done", "", ""},
		"bad":           {"trap 'exit 7' TERM\n" + up + "while :; do sleep 0.01; done", "", "exit status 7"},
		"before it was": {"exit 3", "exit status 3", ""},
	} {
		n, err := New(script(t, c.text), t.TempDir(), "x", "--partial")
		if err != nil {
			t.Fatal(err)
		}
		defer n.Kill()
		for what, got := range map[string]struct {
			err  error
			want string
		}{"start": {n.Start(t.Context()), c.start}, "stop": {stopped(n, c.start), c.stop}} {
			if (got.err == nil) != (got.want == "") || got.err != nil && !strings.Contains(got.err.Error(), got.want) {
				t.Errorf("%s, %s: %v", name, what, got.err)
			}
		}
	}
}

// stopped stops a node that came up.
func stopped(n *Node, failed string) error {
	if failed != "" {
		return nil
	}
	return n.Stop()
}

func TestCheckStoreSeesDamage(t *testing.T) {
	n, err := New("x", t.TempDir(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(n.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.Data, "koi.db"), []byte("no store"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.CheckStore(t.Context()); err == nil || !strings.Contains(err.Error(), "what x left") {
		t.Error(err)
	}
}

func TestUsageIsRead(t *testing.T) {
	if n, err := rss("Name:\tx\nVmRSS:\t  300 kB\nRssAnon:\t     120 kB\n"); err != nil || n != 120<<10 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := rss("Name:\tx\n"); err == nil {
		t.Error("memory out of nothing")
	}
	m := parseMetrics(strings.NewReader("# HELP x y\ngo_goroutines 12\na{b=\"c d\"} 1.5\nrubbish\n"))
	if len(m) != 2 || m["go_goroutines"] != 12 || m[`a{b="c d"}`] != 1.5 {
		t.Errorf("%v", m)
	}
}
