package peers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// childVariable makes the test's own program act like a node.
const childVariable = "KOI_TEST_PEER"

func TestMain(m *testing.M) {
	if how := os.Getenv(childVariable); how != "" {
		child(how, os.Args[len(os.Args)-1])
		return
	}
	goleak.VerifyTestMain(m)
}

// child speaks the control channel as the Python programs do.
func child(how, settings string) {
	fmt.Fprintln(os.Stderr, "settings", settings)
	if how == "broken" {
		fmt.Fprintln(os.Stderr, "cannot start")
		os.Exit(2)
	}
	if how == "mute" {
		time.Sleep(time.Minute)
	}
	fmt.Println(`{"id":0,"result":{"rid":"orn:koi-net.node:x+1","url":"http://127.0.0.1:1/koi-net"}}`)
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		var r struct {
			ID  int
			Op  string
			RID string
		}
		_ = json.Unmarshal(s.Bytes(), &r)
		switch {
		case r.Op == "stop" && how == "stubborn":
		case r.Op == "stop":
			os.Exit(0)
		case r.Op == "put":
			fmt.Printf("{\"id\":%d,\"result\":{\"rid\":%q,\"timestamp\":\"t\",\"sha256_hash\":\"h\"}}\n", r.ID, r.RID)
		case r.Op == "get" && strings.HasSuffix(r.RID, "none"):
			fmt.Printf("{\"id\":%d,\"result\":null}\n", r.ID)
		case r.Op == "get":
			fmt.Printf("{\"id\":%d,\"result\":{\"manifest\":{\"rid\":%q,\"sha256_hash\":\"h\"},\"contents\":{\"a\":1}}}\n", r.ID, r.RID)
		case r.Op == "rids":
			// An answer that comes too late belongs to nobody.
			fmt.Printf("{\"id\":%d,\"result\":[\"late:1\"]}\n{\"id\":%d,\"result\":[\"a:1\"]}\n", r.ID-1, r.ID)
		case r.Op == "nodes":
			fmt.Println("this is no answer")
		case r.Op == "edges":
			fmt.Printf("{\"id\":%d,\"result\":[{\"source\":\"s:1\",\"target\":\"t:1\",\"status\":\"APPROVED\"}]}\n", r.ID)
		case r.Op == "forget":
			fmt.Printf("{\"id\":%d,\"error\":\"KeyError: no\"}\n", r.ID)
		case r.Op == "receive":
			os.Exit(7)
		}
	}
	os.Exit(3)
}

func start(t *testing.T, how string) (*Process, string, error) {
	t.Helper()
	t.Setenv(childVariable, how)
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if how == "mute" {
		ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
	}
	p, err := Start(ctx, func(ctx context.Context, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, os.Args[0], args...)
	}, "v2.py", dir, Config{Name: "x", Full: true, Port: 1})
	return p, dir, err
}

func TestCalls(t *testing.T) {
	p, dir, err := start(t, "well")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	if p.RID != "orn:koi-net.node:x+1" || p.URL != "http://127.0.0.1:1/koi-net" {
		t.Errorf("it is %s at %s", p.RID, p.URL)
	}
	for _, name := range []string{"control.py", "v1_0.py", "v1_1.py", "v1_2.py", "v2.py"} {
		if _, err := os.Stat(filepath.Join(dir, "program", name)); err != nil {
			t.Error(err)
		}
	}
	ctx := t.Context()
	if m, err := p.Put(ctx, "a:1", json.RawMessage(`{}`)); err != nil || m.RID != "a:1" || m.Hash != "h" {
		t.Errorf("put: %+v, %v", m, err)
	}
	if b, found, err := p.Get(ctx, "a:1"); err != nil || !found || string(b.Contents) != `{"a":1}` {
		t.Errorf("get: %+v, %v, %v", b, found, err)
	}
	if _, found, err := p.Get(ctx, "a:none"); err != nil || found {
		t.Errorf("get of nothing: %v, %v", found, err)
	}
	if rids, err := p.RIDs(ctx); err != nil || len(rids) != 1 || rids[0] != "a:1" {
		t.Errorf("rids: %v, %v", rids, err)
	}
	if _, err := p.Nodes(ctx); err == nil || !strings.Contains(err.Error(), "not an answer") {
		t.Errorf("no answer: %v", err)
	}
	if edges, err := p.Edges(ctx); err != nil || len(edges) != 1 || edges[0].Status != "APPROVED" {
		t.Errorf("edges: %v, %v", edges, err)
	}
	if err := p.Forget(ctx, "a:1"); err == nil || !strings.Contains(err.Error(), "KeyError: no") {
		t.Errorf("an error: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := p.Propose(short, "a:1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer at all: %v", err)
	}
	if log := p.Log(1); !strings.Contains(log, `"name":"x","full":true,"port":1`) {
		t.Errorf("log %q", log)
	}
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
	if err := p.Forget(ctx, "a:1"); !errors.Is(err, ErrExited) {
		t.Errorf("a call after the end: %v", err)
	}
	if err := p.Stop(ctx); err == nil {
		t.Error("it was stopped twice")
	}
}

func TestItEndsByItself(t *testing.T) {
	p, _, err := start(t, "well")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	if err := p.Receive(t.Context(), "a:1", json.RawMessage(`{}`)); !errors.Is(err, ErrExited) || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("error %v", err)
	}
	<-p.Exited()
}

func TestStartFails(t *testing.T) {
	if _, dir, err := start(t, "broken"); !errors.Is(err, ErrExited) {
		t.Errorf("error %v", err)
	} else if text, _ := os.ReadFile(filepath.Join(dir, "peer.log")); !strings.Contains(string(text), "cannot start") {
		t.Errorf("log %q", text)
	}
	if _, _, err := start(t, "mute"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestStubborn(t *testing.T) {
	p, _, err := start(t, "stubborn")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	select {
	case <-p.Exited():
	default:
		t.Error("it still runs")
	}
}
