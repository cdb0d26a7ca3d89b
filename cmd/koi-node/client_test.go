package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/admin"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

const (
	sensor = rid.RID("orn:koi-net.node:sensor+aaa")
	reader = rid.RID("orn:koi-net.node:reader+bbb")
	rogue  = rid.RID("orn:koi-net.node:rogue\x1b[31m+ccc")
	note   = rid.RID("orn:example.note:1")
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// fakeNode answers the admin API with the same things every time.
type fakeNode struct {
	admin.Backend // calls no test makes panic
	policy        client.Policy
	proposal      client.Proposal
	introduction  client.Introduction
	forgotten     []rid.RID
}

func (*fakeNode) Status(context.Context) (client.Status, error) {
	return client.Status{
		Version: "v1.2.3", RID: sensor, NodeType: protocol.Full, BaseURL: "http://sensor:8000/koi-net", StoreID: "4711", Started: noon,
		Checks: []client.Check{{Name: "store", OK: true}, {Name: "listener", Message: "not bound: address in use"}},
		Edges:  client.EdgeCounts{Approved: 1, Proposed: 2}, EdgeApproval: "Manual", Coordinator: true, Bundles: 12, Inbox: 3, StoreBytes: 3 << 20,
		Damaged: 22, DamagedBundles: []client.DamagedBundle{
			{RID: note, Reason: "damaged", Found: noon, Own: true}, {RID: "orn:example.note:\x1b2", Reason: "hash-mismatch", Found: noon, Source: string(reader)},
		},
		FirstContact: &client.FirstContact{URL: "http://coordinator/koi-net", Message: "connection refused"},
		Queues:       []client.QueueStatus{{Peer: reader, Kind: "poll", Rows: 7, Bytes: 2048, ResyncNeeded: true}, {Peer: rogue, Kind: "outbox", Rows: 1, Bytes: 12, LastError: "EOF"}},
	}, nil
}

func (*fakeNode) Ready() []client.Check { return nil }

func (*fakeNode) Nodes(context.Context) ([]client.Node, error) {
	return []client.Node{
		{RID: sensor, Self: true, Verified: true, Profile: protocol.NodeProfile{NodeType: protocol.Full, BaseURL: "http://sensor:8000/koi-net"}, Timestamp: protocol.NewTimestamp(noon)},
		{RID: reader, Verified: true, Profile: protocol.NodeProfile{NodeType: protocol.Partial}, Timestamp: protocol.NewTimestamp(noon)},
		{RID: rogue, Profile: protocol.NodeProfile{NodeType: protocol.Full, BaseURL: "http://rogue"}, LastError: "EOF", Timestamp: protocol.NewTimestamp(noon)},
	}, nil
}

func (f *fakeNode) Introduce(_ context.Context, in client.Introduction) (client.Node, error) {
	f.introduction = in
	return client.Node{RID: reader, Verified: true, Profile: protocol.NodeProfile{NodeType: protocol.Full, BaseURL: in.URL}, Timestamp: protocol.NewTimestamp(noon)}, nil
}

func (*fakeNode) Edges(_ context.Context, own bool) (client.EdgeList, error) {
	list := client.EdgeList{Edges: []client.Edge{{
		RID: rid.NewEdge(sensor, reader), Source: sensor, Target: reader, EdgeType: protocol.Poll, Status: protocol.Proposed,
		RIDTypes: []rid.Type{"orn:git.commit", "orn:example.note"}, Timestamp: protocol.NewTimestamp(noon),
	}}}
	if !own {
		list.Refusals = []client.Policy{{Source: sensor, Target: rogue, Verdict: client.Reject, Decided: noon}}
	}
	return list, nil
}

func (f *fakeNode) Propose(_ context.Context, p client.Proposal) (client.Edge, error) {
	f.proposal = p
	return client.Edge{RID: rid.NewEdge(p.Source, sensor), Source: p.Source, Target: sensor, EdgeType: protocol.Webhook, Status: protocol.Proposed, RIDTypes: p.RIDTypes, Timestamp: protocol.NewTimestamp(noon)}, nil
}

func (f *fakeNode) SetPolicy(_ context.Context, p client.Policy) (client.Policy, error) {
	f.policy = p
	if p.Target == rogue {
		return p, admin.ErrConflict
	}
	p.Decided = noon
	return p, nil
}

func (f *fakeNode) DeletePolicy(_ context.Context, source, target rid.RID) error {
	f.policy = client.Policy{Source: source, Target: target}
	return nil
}

func (f *fakeNode) ForgetEdge(_ context.Context, source, target rid.RID) error {
	f.forgotten = append(f.forgotten, source, target)
	return nil
}

func (*fakeNode) RIDs(_ context.Context, types []rid.Type, after rid.RID, _ int) (client.RIDList, error) {
	switch {
	case len(types) > 0:
		return client.RIDList{}, nil
	case after == "":
		return client.RIDList{RIDs: []rid.RID{note, rogue}, Next: rogue}, nil
	}
	return client.RIDList{RIDs: []rid.RID{"https://example.com/?a=b&c=<d>"}}, nil
}

func (*fakeNode) Bundle(_ context.Context, r rid.RID) (protocol.Bundle, error) {
	if r != note {
		return protocol.Bundle{}, store.ErrNotFound
	}
	return protocol.NewBundle(note, protocol.NewTimestamp(noon), []byte(`{"text":"<hello>","big":12345678901234567890}`))
}

func (*fakeNode) Put(_ context.Context, items []client.PutItem) (client.PutResult, error) {
	var res client.PutResult
	for i, it := range items {
		switch it.RID {
		case note:
			res.Unchanged++
		case rogue:
			return res, &admin.ItemError{Index: i, Err: admin.ErrInvalid}
		default:
			res.Accepted++
		}
	}
	return res, nil
}

func (f *fakeNode) Forget(_ context.Context, r rid.RID) error {
	if r != note {
		return store.ErrNotFound
	}
	f.forgotten = append(f.forgotten, r)
	return nil
}

func (*fakeNode) Resync(context.Context) error { return nil }

func serveFake(t *testing.T, token string) (*fakeNode, *admin.Feed, string) {
	t.Helper()
	f, feed := &fakeNode{}, admin.NewFeed("4711", 16, func() time.Time { return noon })
	srv := httptest.NewServer(admin.New(admin.Config{Backend: f, Feed: feed, Token: token}))
	t.Cleanup(func() {
		feed.Close()
		srv.Close()
	})
	return f, feed, srv.URL
}

func TestCommands(t *testing.T) {
	_, _, url := serveFake(t, "")
	for _, tt := range []struct {
		name  string
		args  []string
		stdin string
		code  int
	}{
		{"status", []string{"status"}, "", 0},
		{"status-json", []string{"status", "-o", "json"}, "", 0},
		{"nodes", []string{"nodes"}, "", 0},
		{"nodes-json", []string{"nodes", "-o", "json"}, "", 0},
		{"nodes-add", []string{"nodes", "add", "http://other:8000/koi-net"}, "", 0},
		{"edges", []string{"edges"}, "", 0},
		{"edges-own-json", []string{"--own", "edges", "-o", "json"}, "", 0},
		{"edges-forget", []string{"edges", "forget", string(sensor), string(reader)}, "", 0},
		{"edges-undecide", []string{"edges", "undecide", string(rid.NewEdge(sensor, reader)), "-o", "json"}, "", 0},
		{"propose", []string{"propose", string(reader), "--rid-type", "orn:a.b,orn:c.d"}, "", 0},
		{"approve", []string{"approve", string(rid.NewEdge(sensor, reader)), "--rid-type", "orn:git.commit", "--edge-type", "poll"}, "", 0},
		{"approve-json", []string{"approve", string(sensor), string(reader), "-o", "json"}, "", 0},
		{"approve-conflict", []string{"approve", string(sensor), string(rogue)}, "", 1},
		{"approve-unknown", []string{"approve", string(rid.NewEdge(reader, sensor))}, "", 3},
		{"approve-no-edge", []string{"approve", string(note)}, "", 1},
		{"reject", []string{"reject", string(sensor), string(reader)}, "", 0},
		{"rids", []string{"rids"}, "", 0},
		{"rids-json", []string{"rids", "-o", "json"}, "", 0},
		{"rids-none-json", []string{"rids", "--type", "orn:a.b", "-o", "json"}, "", 0},
		{"get", []string{"get", string(note)}, "", 0},
		{"get-missing", []string{"get", "orn:example.note:2"}, "", 3},
		{"get-bad", []string{"get", "nonsense"}, "", 1},
		{"put", []string{"put", "orn:example.note:2", "-"}, " {\"n\": 1}\n", 0},
		{"put-unchanged-json", []string{"put", string(note), "-", "-o", "json"}, `{"n":1}`, 0},
		{"put-bad", []string{"put", "orn:example.note:2", "-"}, `[1]`, 1},
		{"put-missing-file", []string{"put", "orn:example.note:2", "/nonexistent"}, ``, 1},
		{"put-many", []string{"put", "-f", "-"}, "{\"rid\":\"a:1\",\"contents\":{}}\n{\"rid\":\"" + string(note) + "\",\"contents\":{}}\n", 0},
		{"put-many-bad", []string{"-f", "-", "put"}, "{\"rid\":\"a:1\",\"contents\":{}}\n\n{\"rid\":\"nonsense\",\"contents\":{}}\n", 1},
		{"put-args", []string{"put", string(note)}, "", 1},
		{"put-both", []string{"put", "-f", "-", string(note)}, "", 1},
		{"forget", []string{"forget", string(note)}, "", 0},
		{"forget-missing", []string{"forget", "orn:example.note:2"}, "", 3},
		{"resync", []string{"resync"}, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := call{args: append([]string{"--admin", url}, tt.args...), stdin: tt.stdin}.run(t)
			if out.code != tt.code {
				t.Errorf("exit %d, want %d", out.code, tt.code)
			}
			golden(t, tt.name, strings.ReplaceAll(out.stdout+out.stderr, url, "URL"))
			if strings.ContainsRune(out.stdout+out.stderr, '\x1b') {
				t.Error("an escape sequence of a peer reached the terminal")
			}
			if tt.code == 0 && strings.Contains(strings.Join(tt.args, " "), "json") && !json.Valid([]byte(out.stdout)) {
				t.Error("the output is no JSON")
			}
		})
	}
}

func TestWhatIsSent(t *testing.T) {
	f, _, url := serveFake(t, "")
	do := func(args ...string) {
		t.Helper()
		if out := (call{args: args, env: map[string]string{"KOI_ADMIN": url}}).run(t); out.code != 0 {
			t.Fatalf("%v: %+v", args, out)
		}
	}
	do("approve", string(sensor), string(reader), "--rid-type", "orn:a.b", "--edge-type", "Webhook")
	if p := f.policy; p.Verdict != client.Approve || p.EdgeType != protocol.Webhook || len(p.RIDTypes) != 1 {
		t.Errorf("approve sent %+v", p)
	}
	do("reject", string(rid.NewEdge(sensor, reader)))
	if p := f.policy; p.Verdict != client.Reject || p.Source != sensor || p.Target != reader || p.RIDTypes != nil {
		t.Errorf("reject sent %+v", p)
	}
	do("propose", string(reader), "--rid-type", "orn:a.b", "--source-url", "http://h/koi-net", "--source-public-key", "a2V5")
	if p := f.proposal; p.Source != reader || p.EdgeType != "" || p.SourceURL != "http://h/koi-net" || p.SourcePublicKey != "a2V5" {
		t.Errorf("propose sent %+v", p)
	}
	do("nodes", "add", "http://h/koi-net", "--rid", string(reader), "--public-key", "a2V5")
	if in := f.introduction; in.URL != "http://h/koi-net" || in.RID != reader || in.PublicKey != "a2V5" {
		t.Errorf("nodes add sent %+v", in)
	}
	do("edges", "forget", string(rid.NewEdge(sensor, reader)))
	if len(f.forgotten) != 2 || f.forgotten[0] != sensor || f.forgotten[1] != reader {
		t.Errorf("edges forget sent %v", f.forgotten)
	}
}

func TestReachingTheNode(t *testing.T) {
	_, _, url := serveFake(t, "s3cret")
	file := write(t, "token", "s3cret\n")
	if out := (call{args: []string{"status"}, env: map[string]string{"KOI_ADMIN": url, "KOI_ADMIN_TOKEN_FILE": file}}).run(t); out.code != 0 {
		t.Errorf("token from the variable: %+v", out)
	}
	other := write(t, "token", "wrong")
	if out := (call{args: []string{"status", "--admin-token-file", file}, env: map[string]string{"KOI_ADMIN": url, "KOI_ADMIN_TOKEN_FILE": other}}).run(t); out.code != 0 {
		t.Errorf("a flag wins over its variable: %+v", out)
	}
	if out := (call{args: []string{"status", "--admin", url}}).run(t); out.code != 1 || !strings.Contains(out.stderr, "--admin-token-file") {
		t.Errorf("no token: %+v", out)
	}
	if out := (call{args: []string{"--admin", url, "status", "--admin-ca-file", "/nonexistent"}}).run(t); out.code != 1 || !strings.Contains(out.stderr, "--admin-ca-file") {
		t.Errorf("no CA file: %+v", out)
	}
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	out := call{args: []string{"status", "--admin", closed.URL}}.run(t)
	if out.code != 1 || !strings.Contains(out.stderr, "is the node running?") || !strings.Contains(out.stderr, closed.URL) {
		t.Errorf("no node: %+v", out)
	}
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	if out := (call{args: []string{"get", "a:b", "--admin", web.URL}}).run(t); out.code != 1 || !strings.Contains(out.stderr, "admin listener") {
		t.Errorf("another server: %+v", out)
	}
}

func TestWatch(t *testing.T) {
	_, feed, url := serveFake(t, "")
	since := feed.Token()
	edge := client.Edge{Source: sensor, Target: reader, Status: protocol.Approved}
	feed.Publish(client.Change{Kind: client.ChangeBundle, Event: protocol.New, RID: note})
	feed.Publish(client.Change{Kind: client.ChangeBundle, Event: protocol.Forget, RID: rogue})
	feed.Publish(client.Change{Kind: client.ChangeEdge, Event: protocol.Update, RID: rid.NewEdge(sensor, reader), Edge: &edge})
	for _, tt := range []struct {
		name, since, format string
		lines               int
	}{
		{"watch", since, "text", 3},
		{"watch-reset", "an.old.token", "text", 1},
		{"watch-json", since, "json", 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var stderr bytes.Buffer
			stdout := &lineCounter{after: tt.lines, then: cancel}
			a := &app{stdin: strings.NewReader(""), stdout: stdout, stderr: &stderr, env: func(string) (string, bool) { return "", false }}
			code := a.main(ctx, []string{"watch", "--admin", url, "--since", tt.since, "-o", tt.format})
			if code != 0 || stderr.Len() > 0 {
				t.Errorf("exit %d, %s", code, &stderr)
			}
			golden(t, tt.name, strings.ReplaceAll(stdout.String(), strings.TrimSuffix(since, "0"), "TOKEN."))
		})
	}
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	if out := (call{args: []string{"watch", "--admin", closed.URL}}).run(t); out.code != 1 {
		t.Errorf("a watch of no node: %+v", out)
	}
}

// lineCounter calls then once it was given enough lines.
type lineCounter struct {
	bytes.Buffer
	after int
	then  func()
}

func (c *lineCounter) Write(p []byte) (int, error) {
	n, err := c.Buffer.Write(p)
	if strings.Count(c.String(), "\n") >= c.after {
		c.then()
	}
	return n, err
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 5 << 20: "5.0 MiB", 3 << 30: "3.0 GiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestPutFile(t *testing.T) {
	_, _, url := serveFake(t, "")
	path := write(t, "lines", strings.Repeat("{\"rid\":\"a:1\",\"contents\":{}}\n", 1200))
	if out := (call{args: []string{"put", "-f", path, "--admin", url}}).run(t); out.code != 0 || out.stdout != "1200 accepted, 0 unchanged\n" {
		t.Errorf("%+v", out)
	}
	one := write(t, "one", `{"a":1}`)
	if out := (call{args: []string{"put", "a:1", one, "--admin", url}}).run(t); out.code != 0 || out.stdout != "a:1 accepted\n" {
		t.Errorf("%+v", out)
	}
	if err := os.Truncate(one, maxPut+1); err != nil {
		t.Fatal(err)
	}
	if out := (call{args: []string{"put", "a:1", one, "--admin", url}}).run(t); out.code != 1 || !strings.Contains(out.stderr, "larger than") {
		t.Errorf("%+v", out)
	}
}

// fullDisk takes nothing in.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestOutputThatCannotBeWritten(t *testing.T) {
	_, _, url := serveFake(t, "")
	for _, args := range []string{
		"status", "status -o json", "nodes", "edges", "rids", "rids -o json", "get " + string(note), "resync", "watch --since x",
		"forget " + string(note), "reject " + string(sensor) + " " + string(reader), "version", "propose " + string(reader) + " --rid-type a",
	} {
		var stderr bytes.Buffer
		a := &app{stdin: strings.NewReader(""), stdout: fullDisk{}, stderr: &stderr, env: func(string) (string, bool) { return "", false }}
		if args != "version" {
			args += " --admin " + url
		}
		if code := a.main(t.Context(), strings.Fields(args)); code != 1 || !strings.Contains(stderr.String(), syscall.ENOSPC.Error()) {
			t.Errorf("%s: exit %d, %s", args, code, &stderr)
		}
	}
}
