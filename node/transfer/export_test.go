package transfer

import (
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func of(list ...protocol.Bundle) iter.Seq2[protocol.Bundle, error] {
	return func(yield func(protocol.Bundle, error) bool) {
		for _, b := range list {
			if !yield(b, nil) {
				return
			}
		}
	}
}

func TestExport(t *testing.T) {
	a, b := newBundle(t, "orn:a.b:1", `{"v":1}`), newBundle(t, "orn:a.c:1", `{"é":[],"o":{},"l":[1,{"x":"<>"}]}`)
	newer := newBundle(t, "orn:a.b:1", `{"v":2}`)
	long := newBundle(t, rid.RID("orn:a.b:"+strings.Repeat("x", 200)), `{}`)
	dir := filepath.Join(t.TempDir(), "a", "cache")
	ex, err := Export(t.Context(), dir, of(a, b, long), false)
	if err != nil {
		t.Fatal(err)
	}
	if want := []TypeCount{{Type: "orn:a.b", Bundles: 1}, {Type: "orn:a.c", Bundles: 1}}; ex.Bundles != 2 || ex.Cache != dir || !reflect.DeepEqual(ex.Types, want) {
		t.Errorf("%+v", ex)
	}
	if ex.SkippedTotal != 1 || ex.Skipped[0].RID != long.Manifest.RID || !strings.Contains(ex.Skipped[0].Reason, "too long") {
		t.Errorf("skipped %+v", ex.Skipped)
	}
	got := tree(t, dir)
	want := "{\n  \"manifest\": {\n    \"rid\": \"orn:a.c:1\",\n    \"timestamp\": \"2026-01-02T03:04:05Z\",\n    \"sha256_hash\": \"" + b.Manifest.SHA256Hash +
		"\"\n  },\n  \"contents\": {\n    \"é\": [],\n    \"o\": {},\n    \"l\": [\n      1,\n      {\n        \"x\": \"<>\"\n      }\n    ]\n  }\n}"
	if text := got[filepath.Join(dir, "b3JuOmEuYzox.json")]; text != want || len(got) != 3 {
		t.Errorf("wrote %s\nof %v", text, got)
	}
	if _, err := Export(t.Context(), dir, of(newer), false); !errors.Is(err, ErrExists) || !reflect.DeepEqual(tree(t, dir), got) {
		t.Errorf("into what is there: %v", err)
	}
	if _, err := Export(t.Context(), dir, of(newer), true); err != nil {
		t.Error(err)
	}
	after := tree(t, dir)
	if text := after[filepath.Join(dir, "b3JuOmEuYjox.json")]; !strings.Contains(text, `"v": 2`) || len(after) != 3 {
		t.Errorf("replaced by %v", after)
	}
}

func TestExportLeavesNothingAfterAnError(t *testing.T) {
	a := newBundle(t, "orn:a.b:1", `{}`)
	fault := errors.New("fault")
	failing := func(yield func(protocol.Bundle, error) bool) {
		_ = yield(a, nil) && yield(protocol.Bundle{}, fault)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	for _, name := range []string{"new", "empty"} {
		if _, err := Export(t.Context(), filepath.Join(dir, name), failing, false); !errors.Is(err, fault) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Export(canceled, filepath.Join(dir, name), of(a), false); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, canceled: %v", name, err)
		}
	}
	if after := tree(t, dir); !reflect.DeepEqual(before, after) {
		t.Errorf("left %v", after)
	}
	write(t, filepath.Join(dir, "file"), "x")
	if _, err := Export(t.Context(), filepath.Join(dir, "file"), of(a), true); err == nil {
		t.Error("a file is no directory")
	}
}

func TestRecordsStopWhenTold(t *testing.T) {
	st := opened(t, imported(t, found(t, golden("2.1.2")), Options{}).DataDir)
	n := 0
	for b, err := range Records(t.Context(), st, []rid.Type{note}) {
		if err != nil || b.Manifest.RID.Type() != note {
			t.Errorf("%s, %v", b.Manifest.RID, err)
		}
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("%d bundles", n)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range Records(canceled, st, nil) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
	}
}

func TestIdentityExport(t *testing.T) {
	p := found(t, golden("2.1.2"))
	id := loadKey(t, p)
	sealed, err := os.ReadFile(p.Key)
	if err != nil {
		t.Fatal(err)
	}
	own := newBundle(t, p.RID, string(p.Profile.Contents()))
	dir := t.TempDir()
	if _, err := NewIdentityExport(dir, id, []byte("plain"), nil, own, "cache"); !errors.Is(err, ErrPassword) {
		t.Errorf("a plain key without a password: %v", err)
	}
	x, err := NewIdentityExport(dir, id, sealed, nil, own, filepath.Join(dir, "..", "cache"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := x.Write()
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	got := tree(t, dir)
	if got[filepath.Join(dir, defaultKey)] != string(sealed) || !strings.Contains(got[files[0]], "cache_directory_path: "+filepath.Join(filepath.Dir(dir), "cache")+"\n") {
		t.Errorf("wrote %v", got)
	}
	if _, err := NewIdentityExport(dir, id, sealed, nil, own, "cache"); !errors.Is(err, ErrExists) {
		t.Errorf("over what is there: %v", err)
	}
	if _, err := x.Write(); !errors.Is(err, ErrExists) || !reflect.DeepEqual(tree(t, dir), got) {
		t.Errorf("over what is there: %v", err)
	}
	// One file that is there keeps the other from being written.
	dir = t.TempDir()
	if x, err = NewIdentityExport(dir, id, sealed, nil, own, "cache"); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, defaultKey), "mine")
	if _, err := x.Write(); !errors.Is(err, ErrExists) || len(tree(t, dir)) != 2 {
		t.Errorf("%v, left %v", err, tree(t, dir))
	}
	unsignedID := identity.Identity{RID: selfUnsigned}
	own = newBundle(t, selfUnsigned, `{"node_type":"FULL","base_url":"https://example.com/x"}`)
	dir = t.TempDir()
	if x, err = NewIdentityExport(dir, unsignedID, nil, nil, own, filepath.Join(dir, "c")); err != nil {
		t.Fatal(err)
	}
	if files, err := x.Write(); err != nil || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
	if p := found(t, dir); p.RID != selfUnsigned || p.Layout != LayoutUnsigned || p.Profile.BaseURL != "https://example.com/x" || p.Cache != filepath.Join(dir, "c") {
		t.Errorf("found %+v", p)
	}
}
