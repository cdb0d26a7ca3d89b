package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
	"github.com/koi-net/koi-operator/node/transfer"
)

// stopped is a data directory with the store and the identity of a node that does
// not run.
func stopped(t *testing.T) string { return importedData(t, "1.0.0") }

func storeOf(data string) string { return filepath.Join(data, node.StoreFile) }

// running is the data directory and the admin URL of a node that runs until the end
// of the test.
func running(t *testing.T) (data, url string) {
	t.Helper()
	cfg := node.DefaultConfig()
	cfg.Name, cfg.DataDir = "kept", filepath.Join(t.TempDir(), "data")
	cfg.Listen, cfg.AdminListen = "127.0.0.1:0", "127.0.0.1:0"
	n, err := node.New(node.WithConfig(cfg))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-n.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("the node is not ready")
	}
	return cfg.DataDir, "http://" + n.AdminAddr().String()
}

func must(t *testing.T, args ...string) outcome {
	t.Helper()
	out := call{args: args}.run(t)
	if out.code != 0 {
		t.Fatalf("%v: %+v", args, out)
	}
	return out
}

func TestBackupOfARunningNode(t *testing.T) {
	data, url := running(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "b")
	if out := (call{args: []string{"put", "--admin", url, string(note), "-"}, stdin: `{"text":"kept"}`}).run(t); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	if out := must(t, "backup", file, "--admin", url); !strings.Contains(out.stdout, "bytes") || files(t, dir) != 1 {
		t.Errorf("%+v, %d files", out, files(t, dir))
	}
	must(t, "verify", file)
	if out := must(t, "backup", "-", "--admin", url); !strings.Contains(out.stderr, "bytes written") {
		t.Errorf("to stdout: %q", out.stderr)
	} else if whole := write(t, "whole", out.stdout); must(t, "verify", whole).code != 0 {
		t.Error("what came by stdout is not sound")
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"backup beside it", []string{"backup", filepath.Join(dir, "c"), "--data-dir", data}, exitStoreLocked, "leave out --data-dir"},
		{"verify", []string{"verify", "--data-dir", data}, exitStoreLocked, "koi-node backup FILE"},
		{"compact", []string{"compact", "--data-dir", data}, exitStoreLocked, "stop the node"},
		{"restore", []string{"restore", file, "--data-dir", data, "--replace"}, exitStoreLocked, "stop it first"},
	} {
		if out := (call{args: tt.args}).run(t); out.code != tt.code || !strings.Contains(out.stderr, tt.says) {
			t.Errorf("%s: %+v, want exit %d that says %q", tt.name, out, tt.code, tt.says)
		}
	}
	elsewhere := filepath.Join(t.TempDir(), "new")
	must(t, "restore", file, "--data-dir", elsewhere)
	st, err := bolt.Open(bolt.Options{Path: storeOf(elsewhere), ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	if err := st.View(t.Context(), func(tx store.Reader) error {
		_, err := tx.Bundle(note)
		return err
	}); err != nil {
		t.Errorf("what was put is not in the backup: %v", err)
	}
}

func TestBackupRefuses(t *testing.T) {
	data, dir := stopped(t), t.TempDir()
	there := filepath.Join(dir, "there")
	put(t, there, "mine")
	for _, tt := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"a file that is there", []string{there, "--data-dir", data}, exitFailed, "--force"},
		{"a directory", []string{dir, "--data-dir", data}, exitFailed, "directory"},
		{"the store", []string{storeOf(data), "--data-dir", data, "--force"}, exitFailed, "name of a node's store"},
		{"no store", []string{filepath.Join(dir, "b"), "--data-dir", "nowhere"}, exitNotFound, "--data-dir"},
		{"two sources", []string{filepath.Join(dir, "b"), "--data-dir", data, "--admin", "http://127.0.0.1:1"}, exitFailed, "data-dir"},
		{"no node", []string{filepath.Join(dir, "b"), "--admin", "http://127.0.0.1:1"}, exitFailed, "is the node running"},
	} {
		out := call{args: append([]string{"backup"}, tt.args...)}.run(t)
		if out.code != tt.code || !strings.Contains(out.stderr, tt.says) || files(t, dir) != 1 {
			t.Errorf("%s: %+v, want exit %d that says %q", tt.name, out, tt.code, tt.says)
		}
	}
	must(t, "backup", there, "--data-dir", data, "--force")
	must(t, "verify", there)
	if files(t, dir) != 1 {
		t.Error("something else was left")
	}
}

func TestBackupThatBreaksOffLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	_, err := writeWhole(t.Context(), filepath.Join(dir, "b"), false, func(_ context.Context, w io.Writer) (int64, error) {
		_, _ = io.WriteString(w, "half")
		return 4, io.ErrUnexpectedEOF
	})
	if err == nil || files(t, dir) != 0 {
		t.Errorf("%v; %d files", err, files(t, dir))
	}
}

func TestRestore(t *testing.T) {
	data, other := stopped(t), importedData(t, "2.1.2")
	file := filepath.Join(t.TempDir(), "b")
	must(t, "backup", file, "--data-dir", data)
	was, err := os.ReadFile(storeOf(data))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"over a store", []string{file, "--data-dir", data}, exitFailed, "--replace"},
		{"another node's", []string{file, "--data-dir", other, "--replace"}, exitStoreDamaged, "not of"},
		{"no backup", []string{write(t, "x", "no store at all"), "--data-dir", t.TempDir()}, exitStoreDamaged, ""},
		{"cut short", []string{write(t, "y", string(was[:20_000])), "--data-dir", t.TempDir()}, exitStoreDamaged, ""},
		{"missing", []string{"nowhere", "--data-dir", t.TempDir()}, exitNotFound, "nowhere"},
	} {
		out := call{args: append([]string{"restore"}, tt.args...)}.run(t)
		if out.code != tt.code || !strings.Contains(out.stderr, tt.says) {
			t.Errorf("%s: %+v, want exit %d that says %q", tt.name, out, tt.code, tt.says)
		}
	}
	if is, err := os.ReadFile(storeOf(data)); err != nil || !bytes.Equal(is, was) {
		t.Errorf("a refusal changed the store: %v", err)
	}
	out := must(t, "restore", file, "--data-dir", data, "--replace", "-o", "json")
	var done bolt.Restored
	if err := json.Unmarshal([]byte(out.stdout), &done); err != nil {
		t.Fatal(err)
	}
	if kept, err := os.ReadFile(done.Replaced); err != nil || !bytes.Equal(kept, was) {
		t.Errorf("the old store is not kept at %q: %v", done.Replaced, err)
	}
	must(t, "verify", "--data-dir", data)
	if out := must(t, "restore", file, "--data-dir", t.TempDir(), "--identity-dir", filepath.Join(data, transfer.IdentityDir)); strings.Contains(out.stdout, "no identity") {
		t.Errorf("%+v", out)
	}
	if out := must(t, "restore", file, "--data-dir", t.TempDir()); !strings.Contains(out.stdout, "no identity") {
		t.Errorf("%+v", out)
	}
}

func TestVerify(t *testing.T) {
	data := stopped(t)
	text, err := os.ReadFile(storeOf(data))
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(text, []byte(`"text"`))
	if at < 0 {
		at = bytes.Index(text, []byte("orn:"))
	}
	bad := bytes.Clone(text)
	bad[at+1] ^= 1
	damaged := write(t, "damaged", string(bad))
	for _, tt := range []struct {
		name       string
		args       []string
		code       int
		out, errOf string
	}{
		{"sound", []string{"--data-dir", data}, 0, "is sound", ""},
		{"sound json", []string{storeOf(data), "-o", "json"}, 0, `"faults": []`, ""},
		{"damaged", []string{damaged}, exitFailed, "record", "restore"},
		{"damaged json", []string{damaged, "-o", "json"}, exitFailed, `"cause"`, "restore"},
		{"missing", []string{"nowhere"}, exitNotFound, "", "nowhere"},
		{"two", []string{damaged, "--data-dir", data}, exitFailed, "", "not both"},
	} {
		out := call{args: append([]string{"verify"}, tt.args...)}.run(t)
		if out.code != tt.code || !strings.Contains(out.stdout, tt.out) || !strings.Contains(out.stderr, tt.errOf) {
			t.Errorf("%s: %+v, want exit %d, %q and %q", tt.name, out, tt.code, tt.out, tt.errOf)
		}
	}
}

func TestCompact(t *testing.T) {
	data := stopped(t)
	before := files(t, data)
	out := must(t, "compact", "--data-dir", data, "-o", "json")
	var done compacted
	if err := json.Unmarshal([]byte(out.stdout), &done); err != nil {
		t.Fatal(err)
	}
	if done.After <= 0 || done.After > done.Before || !strings.HasPrefix(filepath.Base(done.Kept), node.StoreFile+".before-compact-") || files(t, data) != before+1 {
		t.Errorf("%+v; %d files", done, files(t, data))
	}
	must(t, "verify", done.Kept)
	must(t, "verify", "--data-dir", data)
	if out := must(t, "compact", "--data-dir", data, "--remove-old"); strings.Contains(out.stdout, "kept") || files(t, data) != before+1 {
		t.Errorf("%+v; %d files", out, files(t, data))
	}
	put(t, storeOf(data)+".new-compacted", "")
	if out := (call{args: []string{"compact", "--data-dir", data}}).run(t); out.code != exitFailed || !strings.Contains(out.stderr, "remove that file") {
		t.Errorf("beside another compaction: %+v", out)
	}
	if out := (call{args: []string{"compact", "--data-dir", "nowhere"}}).run(t); out.code != exitNotFound {
		t.Errorf("no store: %+v", out)
	}
	must(t, "verify", "--data-dir", data)
}

func TestCompactNeedsRoom(t *testing.T) {
	for _, tt := range []struct {
		left  int64
		known bool
		ok    bool
	}{{9, true, false}, {10, true, true}, {0, false, true}} {
		if err := hasRoom("koi.db", 10, tt.left, tt.known); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

// A directory holds the newest few backups, and what else is there; restore takes
// the newest.
func TestBackupsAreKept(t *testing.T) {
	data := stopped(t)
	dir := t.TempDir()
	put(t, filepath.Join(dir, ".koi-20190101T000000.000Z.backup.part-1"), "x")
	for _, name := range []string{"koi-20200101T000000.000Z.backup", "koi-20210101T000000.000Z.backup", "koi-mine.backup", "notes"} {
		put(t, filepath.Join(dir, name), "x")
	}
	for range 2 {
		must(t, "backup", dir, "--keep", "2", "--data-dir", data)
		time.Sleep(2 * time.Millisecond) // names have milliseconds
	}
	names, err := kept(dir)
	if err != nil || len(names) != 2 || files(t, dir) != 4 || names[0] < "koi-2026" {
		t.Errorf("%q, %d files, %v", names, files(t, dir), err)
	}
	other := t.TempDir()
	if out := must(t, "restore", dir, "--data-dir", other); !strings.Contains(out.stdout, "restored") {
		t.Errorf("%+v", out)
	}
	must(t, "verify", storeOf(other))
	for _, args := range [][]string{{"backup", dir, "--keep", "0", "--data-dir", data}, {"backup", dir, "--keep", "2", "--force", "--data-dir", data}, {"restore", t.TempDir(), "--data-dir", t.TempDir()}} {
		if out := (call{args: args}).run(t); out.code == 0 {
			t.Errorf("%v: %+v", args, out)
		}
	}
}
