package transfer

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// password is that of the keys in testdata.
const password = "reflab-password"

// goldens are directories that the library made, in the release they are named
// after; see testdata/golden.py.
var goldens = []struct {
	name    string
	layout  Layout
	cache   string
	signed  bool
	partial bool
	waiting int
	// interests of a release that says them.
	interests []rid.Type
}{
	{"1.0.0b5", LayoutIdentity, "notes_cache", false, false, 2, nil},
	{"1.0.0", LayoutUnsigned, ".notes_rid_cache", false, false, 2, nil},
	{"1.1.0", LayoutQueues, ".rid_cache", true, false, 2, nil},
	{"1.2.5", LayoutInterests, ".rid_cache", true, false, 0, []rid.Type{rid.NodeType, report}},
	{"1.3.2", LayoutRooted, ".rid_cache", true, false, 0, []rid.Type{rid.NodeType, report}},
	{"2.0.7", LayoutRooted, ".rid_cache", true, false, 0, []rid.Type{rid.NodeType, report}},
	{"2.1.2", LayoutContext, ".rid_cache", true, false, 0, []rid.Type{rid.NodeType, report}},
	{"2.1.2-partial", LayoutContext, ".rid_cache", true, true, 0, []rid.Type{rid.NodeType, report}},
}

const (
	note   rid.Type = "orn:example.note"
	report rid.Type = "orn:example.report"
)

func golden(name string) string { return filepath.Join("testdata", name) }

// copied is a golden directory that a test may change.
func copied(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "python")
	if err := os.CopyFS(dir, os.DirFS(golden(name))); err != nil {
		t.Fatal(err)
	}
	return dir
}

func found(t *testing.T, dir string) Plan {
	t.Helper()
	p, err := Find(dir, Places{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// imported takes a plan over to a new place.
func imported(t *testing.T, p Plan, o Options) Report {
	t.Helper()
	if o.Target.DataDir == "" {
		o.Target.DataDir = filepath.Join(t.TempDir(), "data")
	}
	if o.Password == nil {
		o.Password = []byte(password)
	}
	r, err := Import(t.Context(), p, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func opened(t *testing.T, dataDir string) store.Store {
	t.Helper()
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(dataDir, StoreFile)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

// records returns all records of a store.
func records(t *testing.T, st store.Store) map[rid.RID]store.Record {
	t.Helper()
	out := map[rid.RID]store.Record{}
	err := st.View(t.Context(), func(tx store.Reader) error {
		for rec, err := range tx.Records(nil, "") {
			if err != nil {
				return err
			}
			out[rec.Bundle.Manifest.RID] = rec
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tree lists a directory with what is in its files.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			out[path] = "a directory"
			return err
		}
		text, err := os.ReadFile(path)
		out[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func bundleText(t *testing.T, b protocol.Bundle) string {
	t.Helper()
	text, err := appendFile(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func newBundle(t *testing.T, r rid.RID, contents string) protocol.Bundle {
	t.Helper()
	b, err := protocol.NewBundle(r, protocol.NewTimestamp(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), []byte(contents))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func fileName(t *testing.T, r rid.RID) string {
	t.Helper()
	name, err := FileName(r)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// peers returns the RIDs of the nodes a golden node knows.
func peers(recs map[rid.RID]store.Record) (coordinator, desk rid.RID) {
	for r := range recs {
		switch name, _, err := rid.SplitNode(r); {
		case err != nil:
		case name == "coordinator":
			coordinator = r
		case name == "desk":
			desk = r
		}
	}
	return coordinator, desk
}

func TestEveryReleaseIsTakenOver(t *testing.T) {
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			before := tree(t, golden(g.name))
			p := found(t, golden(g.name))
			r := imported(t, p, Options{Strict: true})
			if after := tree(t, golden(g.name)); !reflect.DeepEqual(before, after) {
				t.Error("the library's files were changed")
			}
			if p.Layout != g.layout || p.Signed() != g.signed || p.Cache != filepath.Join(golden(g.name), g.cache) || !p.CacheFound {
				t.Errorf("found %+v", p)
			}
			if r.Bundles != 12 || r.SkippedTotal != 0 || r.Waiting != g.waiting || len(r.Types) != 5 {
				t.Errorf("report %+v", r)
			}
			id, err := identity.Load(r.IdentityDir)
			if err != nil || id.RID != p.RID || (id.Key != nil) != g.signed || id.PublicKeyText() != p.Profile.PublicKey {
				t.Errorf("identity %v of %s: %v", id.RID, p.RID, err)
			}
			st := opened(t, r.DataDir)
			if info := st.Info(); info.NodeRID != p.RID || info.ID != r.StoreID {
				t.Errorf("store %+v, reported %s", info, r.StoreID)
			}
			if err := st.Check(t.Context()); err != nil {
				t.Error(err)
			}
			recs := records(t, st)
			checkRecords(t, p, recs)
			checkSources(t, p, recs, g.signed)
			_, desk := peers(recs)
			checkQueue(t, st, desk, g.waiting)
			checkSettings(t, p, r, g.partial, g.interests)
		})
	}
}

// checkRecords holds the store against the files.
func checkRecords(t *testing.T, p Plan, recs map[rid.RID]store.Record) {
	t.Helper()
	files, err := os.ReadDir(p.Cache)
	if err != nil || len(files) != len(recs) {
		t.Errorf("%d records of %d files, %v", len(recs), len(files), err)
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(p.Cache, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		b, err := protocol.DecodeBundle(text, protocol.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		rec := recs[b.Manifest.RID]
		if rec.Bundle.Manifest != b.Manifest || string(rec.Bundle.Contents) != string(b.Contents) {
			t.Errorf("%s: %+v, want %+v", b.Manifest.RID, rec.Bundle, b)
		}
		if err := protocol.VerifyHash(rec.Bundle.Contents, rec.Bundle.Manifest.SHA256Hash); err != nil {
			t.Errorf("%s: %v", b.Manifest.RID, err)
		}
	}
}

// checkSources holds whose word the records are against the rules.
func checkSources(t *testing.T, p Plan, recs map[rid.RID]store.Record, signed bool) {
	t.Helper()
	coordinator, desk := peers(recs)
	want := map[rid.RID]string{
		p.RID: string(p.RID), "orn:example.note:plain": string(p.RID), "orn:example.report:1": unsigned,
		"https://example.com/page?a=b": unsigned, coordinator: unsigned, desk: unsigned,
	}
	if signed {
		// The first contact is where the configuration says, and the coordinator
		// gives out nodes.
		want[coordinator], want[desk] = string(coordinator), string(coordinator)
	}
	for r, source := range want {
		if recs[r].Source != source {
			t.Errorf("%s is the word of %q, want %q", r, recs[r].Source, source)
		}
	}
	for r, rec := range recs {
		if r.Type() == rid.EdgeType && rec.Source != string(p.RID) {
			t.Errorf("the edge %s is the word of %q", r, rec.Source)
		}
	}
}

func checkQueue(t *testing.T, st store.Store, peer rid.RID, want int) {
	t.Helper()
	var rids []rid.RID
	err := st.View(t.Context(), func(tx store.Reader) error {
		for row, err := range tx.QueueRows(store.PollQueue, peer, 0) {
			if err != nil {
				return err
			}
			e, err := protocol.DecodeEvent(row.Event)
			if err != nil || e.RID != row.RID {
				t.Errorf("event %s: %v", row.Event, err)
			}
			rids = append(rids, row.RID)
		}
		return nil
	})
	if err != nil || len(rids) != want {
		t.Errorf("%v wait for %s, want %d: %v", rids, peer, want, err)
	}
	if want == 2 && !reflect.DeepEqual(rids, []rid.RID{"orn:example.note:plain", "orn:example.note:gone"}) {
		t.Errorf("the order was lost: %v", rids)
	}
}

func checkSettings(t *testing.T, p Plan, r Report, partial bool, interests []rid.Type) {
	t.Helper()
	settings, err := p.Settings(r.Target)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range settings {
		got[s.Name] = strings.Join(s.Values, ",")
	}
	if interests == nil {
		interests = []rid.Type{rid.NodeType} // the edge from the coordinator carries them
	}
	want := map[string]string{
		"data-dir": r.DataDir, "interest": strings.Join(texts(interests), ","), "provides-event": string(note),
		"first-contact": "http://127.0.0.1:8000/koi-net", "first-contact-rid": string(p.FirstContactRID),
	}
	switch {
	case partial:
		want["partial"], want["poll-interval"] = "true", "5s"
	default:
		want["listen"], want["base-url"], want["provides-state"] = "127.0.0.1:8001", "http://127.0.0.1:8001/koi-net", string(note)
	}
	if !p.Signed() {
		want["unsigned"] = "true"
		delete(want, "first-contact-rid")
	}
	if p.Layout == LayoutIdentity {
		delete(want, "first-contact")
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("settings %v, want %v", got, want)
	}
}

// TestThereAndBack: what was imported is exported as the library had it, and
// imports again as the same.
func TestThereAndBack(t *testing.T) {
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			p := found(t, golden(g.name))
			r := imported(t, p, Options{})
			st := opened(t, r.DataDir)
			first := records(t, st)
			back := filepath.Join(t.TempDir(), "back")
			cache := filepath.Join(back, ".rid_cache")
			ex, err := Export(t.Context(), cache, Records(t.Context(), st, nil), false)
			if err != nil || ex.Bundles != 12 || ex.SkippedTotal != 0 {
				t.Fatalf("%+v, %v", ex, err)
			}
			want := tree(t, p.Cache)
			for path, text := range tree(t, cache) {
				was := want[filepath.Join(p.Cache, strings.TrimPrefix(path, cache))]
				if was = strings.ReplaceAll(was, ",\n    \"@context\": \"orn:koi-net.context:manifest\"", ""); text != was {
					t.Errorf("%s: got\n%s\nwant\n%s", path, text, was)
				}
			}
			id, err := identity.Load(r.IdentityDir)
			if err != nil {
				t.Fatal(err)
			}
			// Encrypting anew is slow on purpose, so it is done for one of them.
			var sealed, anew []byte
			then := password
			switch {
			case g.name == "2.1.2":
				anew, then = []byte("another password"), "another password"
			case g.signed:
				if sealed, err = os.ReadFile(p.Key); err != nil {
					t.Fatal(err)
				}
			}
			x, err := NewIdentityExport(back, id, sealed, anew, first[id.RID].Bundle, cache)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := x.Write(); err != nil {
				t.Fatal(err)
			}
			p2 := found(t, back)
			if p2.RID != p.RID || p2.Cache != cache || !reflect.DeepEqual(p2.Profile.Provides, p.Profile.Provides) || p2.Profile.BaseURL != p.Profile.BaseURL || !g.partial && p2.Listen != p.Listen {
				t.Errorf("found %+v, want %+v", p2, p)
			}
			r2 := imported(t, p2, Options{Password: []byte(then), Strict: true})
			second := records(t, opened(t, r2.DataDir))
			for r, rec := range first {
				if got := second[r].Bundle; got.Manifest != rec.Bundle.Manifest || string(got.Contents) != string(rec.Bundle.Contents) {
					t.Errorf("%s: %+v, want %+v", r, got, rec.Bundle)
				}
			}
		})
	}
}

func TestFilesThatCannotBeTaken(t *testing.T) {
	const r rid.RID = "orn:example.note:odd"
	put := func(b func(t *testing.T) string) func(*testing.T, string) {
		return func(t *testing.T, cache string) { write(t, filepath.Join(cache, fileName(t, r)), b(t)) }
	}
	as := func(r rid.RID, contents string) func(*testing.T, string) {
		return func(t *testing.T, cache string) {
			write(t, filepath.Join(cache, fileName(t, r)), bundleText(t, newBundle(t, r, contents)))
		}
	}
	const stranger rid.RID = "orn:koi-net.node:stranger+4b2f0a55-0000-4000-8000-000000000000"
	keyed := rid.RID("orn:koi-net.node:keyed+" + strings.Repeat("ab", 32))
	for _, tt := range []struct {
		name   string
		damage func(*testing.T, string)
		reason string
	}{
		{"no JSON", put(func(*testing.T) string { return `{"manifest"` }), "JSON"},
		{"no bundle", put(func(*testing.T) string { return `{"rid":"orn:example.note:odd"}` }), "manifest"},
		{"contents that are no object", put(func(t *testing.T) string {
			return strings.Replace(bundleText(t, newBundle(t, r, `{}`)), "{}", "[]", 1)
		}), "contents"},
		{"empty", put(func(*testing.T) string { return "" }), "empty"},
		{"another RID", put(func(t *testing.T) string { return bundleText(t, newBundle(t, "orn:example.note:other", `{}`)) }), "another RID"},
		{"another hash", put(func(t *testing.T) string {
			return strings.Replace(bundleText(t, newBundle(t, r, `{"a":1}`)), `"a": 1`, `"a": 2`, 1)
		}), "do not match"},
		{"nested too deep", put(func(t *testing.T) string {
			return strings.Replace(bundleText(t, newBundle(t, r, `{}`)), "{}", `{"a":`+strings.Repeat("[", 300)+strings.Repeat("]", 300)+"}", 1)
		}), "deep"},
		{"stamped in the future", func(t *testing.T, cache string) {
			b := newBundle(t, "orn:example.report:odd", `{}`)
			b.Manifest.Timestamp = protocol.NewTimestamp(time.Now().AddDate(50, 0, 0))
			write(t, filepath.Join(cache, fileName(t, b.Manifest.RID)), bundleText(t, b))
		}, "future"},
		{"a huge file", func(t *testing.T, cache string) {
			path := filepath.Join(cache, fileName(t, r))
			write(t, path, "{")
			if err := os.Truncate(path, maxBundleFile+1); err != nil {
				t.Fatal(err)
			}
		}, "larger than"},
		{"huge contents", as(r, `{"a":"`+strings.Repeat("x", 8<<20)+`"}`), "contents"},
		{"another suffix", func(t *testing.T, cache string) { write(t, filepath.Join(cache, ".DS_Store"), "x") }, "no file of a cache"},
		{"no base64", func(t *testing.T, cache string) { write(t, filepath.Join(cache, "notes.json"), "{}") }, "no file of a cache"},
		{"padded base64", func(t *testing.T, cache string) { write(t, filepath.Join(cache, "YTpiYw==.json"), "{}") }, "no file of a cache"},
		{"base64 of no RID", func(t *testing.T, cache string) { write(t, filepath.Join(cache, "YWJj.json"), "{}") }, "no RID"},
		{"a directory", func(t *testing.T, cache string) { write(t, filepath.Join(cache, fileName(t, r), "x"), "x") }, "no regular file"},
		{"a link", func(t *testing.T, cache string) {
			if err := os.Symlink("/etc/passwd", filepath.Join(cache, fileName(t, r))); err != nil {
				t.Fatal(err)
			}
		}, "no regular file"},
		{"no profile of a node", as(stranger, `{"node_type":"HALF"}`), "node_type"},
		{"a node without base URL", as(stranger, `{"node_type":"FULL"}`), "base_url"},
		{"our base URL", as(stranger, `{"node_type":"FULL","base_url":"http://127.0.0.1:8001/koi-net/"}`), "base URL"},
		{"another key", as(keyed, `{"node_type":"PARTIAL","public_key":"AAAA"}`), "public key"},
		{"no key", as(keyed, `{"node_type":"PARTIAL"}`), "public key"},
		{"no profile of an edge", as("orn:koi-net.edge:odd", `{"source":"x"}`), "source"},
		{"an edge under another RID", as("orn:koi-net.edge:odd",
			`{"source":"`+string(stranger)+`","target":"`+string(keyed)+`","edge_type":"POLL","status":"PROPOSED","rid_types":["orn:a.b"]}`), "ends of the edge"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := copied(t, "2.1.2")
			tt.damage(t, filepath.Join(dir, ".rid_cache"))
			p := found(t, dir)
			r := imported(t, p, Options{})
			if r.SkippedTotal != 1 || len(r.Skipped) != 1 || !strings.Contains(r.Skipped[0].Reason, tt.reason) || !strings.HasPrefix(r.Skipped[0].File, p.Cache) {
				t.Errorf("skipped %+v, want one because of %q", r.Skipped, tt.reason)
			}
			if got := len(records(t, opened(t, r.DataDir))); r.Bundles != 12 || got != 12 {
				t.Errorf("%d bundles reported, %d stored", r.Bundles, got)
			}
			strict := filepath.Join(t.TempDir(), "strict")
			rep, err := Import(t.Context(), p, Options{Target: Target{DataDir: strict}, Password: []byte(password), Strict: true})
			if !errors.Is(err, ErrIncomplete) || rep.SkippedTotal != 1 {
				t.Errorf("strict: %+v, %v", rep, err)
			}
			if got := tree(t, filepath.Dir(strict)); len(got) != 1 {
				t.Errorf("strict left %v", got)
			}
		})
	}
}

func TestOwnKnowledgeMayBeAheadOfTime(t *testing.T) {
	dir := copied(t, "2.1.2")
	b := newBundle(t, "orn:example.note:ahead", `{}`)
	b.Manifest.Timestamp = protocol.NewTimestamp(time.Now().Add(time.Hour))
	write(t, filepath.Join(dir, ".rid_cache", fileName(t, b.Manifest.RID)), bundleText(t, b))
	if r := imported(t, found(t, dir), Options{Strict: true}); r.Bundles != 13 {
		t.Errorf("%+v", r)
	}
}

func TestProblemsAreListedUpToABound(t *testing.T) {
	dir := copied(t, "1.0.0b5")
	for i := range MaxListed + 7 {
		write(t, filepath.Join(dir, "notes_cache", strings.Repeat("x", i+1)), "")
	}
	r := imported(t, found(t, dir), Options{})
	if len(r.Skipped) != MaxListed || r.SkippedTotal != MaxListed+7 || r.Bundles != 12 {
		t.Errorf("%d listed of %d, %d bundles", len(r.Skipped), r.SkippedTotal, r.Bundles)
	}
}

func TestNothingIsReplaced(t *testing.T) {
	p := found(t, golden("2.1.2"))
	for _, name := range []string{StoreFile, SettingsFile, "identity/rid", "identity/priv_key.pem", "identity/password"} {
		dir := filepath.Join(t.TempDir(), "data")
		write(t, filepath.Join(dir, name), "mine")
		before := tree(t, filepath.Dir(dir))
		_, err := Import(t.Context(), p, Options{Target: Target{DataDir: dir}, Password: []byte(password)})
		if !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), filepath.Join(dir, name)) {
			t.Errorf("%s: %v", name, err)
		}
		if after := tree(t, filepath.Dir(dir)); !reflect.DeepEqual(before, after) {
			t.Errorf("%s: %v", name, after)
		}
	}
}

func TestTargets(t *testing.T) {
	for _, tt := range []struct {
		name   string
		make   []string // directories that are there, below the data directory's parent
		target Target
	}{
		{"new", nil, Target{DataDir: "data"}},
		{"in a new directory", nil, Target{DataDir: "a/b/data/"}},
		{"an empty directory", []string{"data"}, Target{DataDir: "data"}},
		{"a volume", []string{"data/lost+found"}, Target{DataDir: "data"}},
		{"with a directory for the identity", []string{"data/identity"}, Target{DataDir: "data"}},
		{"the identity elsewhere", nil, Target{DataDir: "data", IdentityDir: "keys"}},
		{"both there", []string{"data", "keys"}, Target{DataDir: "data", IdentityDir: "keys"}},
		{"the identity in the data under another name", nil, Target{DataDir: "data", IdentityDir: "data/secret/keys"}},
		{"as above, in what is there", []string{"data/secret"}, Target{DataDir: "data", IdentityDir: "data/secret/keys"}},
		{"all in one", nil, Target{DataDir: "data", IdentityDir: "data"}},
		{"all in one that is there", []string{"data"}, Target{DataDir: "data", IdentityDir: "data"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := found(t, mustAbs(t, golden("2.1.2")))
			t.Chdir(t.TempDir())
			for _, dir := range tt.make {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			r := imported(t, p, Options{Target: tt.target})
			id, err := identity.Load(r.IdentityDir)
			if err != nil || id.RID != p.RID {
				t.Errorf("identity: %v", err)
			}
			if got := len(records(t, opened(t, r.DataDir))); got != 12 {
				t.Errorf("%d bundles", got)
			}
			if text, err := os.ReadFile(r.SettingsFile); err != nil || !strings.Contains(string(text), "data-dir: /") {
				t.Errorf("settings %s, %v", text, err)
			}
			for path := range tree(t, ".") {
				if strings.Contains(path, ".import-") {
					t.Errorf("%s was left", path)
				}
			}
			for _, path := range []string{filepath.Join(r.DataDir, StoreFile), filepath.Join(r.IdentityDir, identity.KeyFile)} {
				if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v, %v", path, info, err)
				}
			}
		})
	}
}

func mustAbs(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNothingIsLeftAfterAnError(t *testing.T) {
	p := found(t, golden("2.1.2"))
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		o    Options
		want error
	}{
		{"canceled", canceled, Options{Target: Target{DataDir: "data"}}, context.Canceled},
		{"canceled in a dry run", canceled, Options{Target: Target{DataDir: "data"}, DryRun: true}, context.Canceled},
		{"canceled, in what is there", canceled, Options{Target: Target{DataDir: "there", IdentityDir: "keys"}}, context.Canceled},
		{"another password", t.Context(), Options{Target: Target{DataDir: "data"}, Password: []byte("other")}, identity.ErrDamaged},
		{"no place for the identity", t.Context(), Options{Target: Target{DataDir: "data", IdentityDir: "file/keys"}}, nil},
		{"no place for the data", t.Context(), Options{Target: Target{DataDir: "file"}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "file"), "x")
			write(t, filepath.Join(dir, "there", "file"), "x")
			before := tree(t, dir)
			for _, path := range []*string{&tt.o.Target.DataDir, &tt.o.Target.IdentityDir} {
				if *path != "" {
					*path = filepath.Join(dir, *path)
				}
			}
			if tt.o.Password == nil {
				tt.o.Password = []byte(password)
			}
			if _, err := Import(tt.ctx, p, tt.o); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			} else if strings.Contains(err.Error(), ".import-") || strings.Contains(err.Error(), "reflab") {
				t.Errorf("the error tells what it should not: %v", err)
			}
			if after := tree(t, dir); !reflect.DeepEqual(before, after) {
				t.Errorf("left %v", after)
			}
		})
	}
}

func TestMovesAreUndone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	write(t, filepath.Join(dir, "second"), "mine")
	s, err := stage(dir)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.path("first"), "new")
	write(t, s.path("second"), "new")
	pl := &places{data: s}
	var m mover
	if err := m.move(s, "first", "second"); !errors.Is(err, ErrExists) {
		t.Errorf("error %v", err)
	}
	if err := errors.Join(m.undo(), pl.remove()); err != nil {
		t.Error(err)
	}
	if got := tree(t, dir); len(got) != 2 || got[filepath.Join(dir, "second")] != "mine" {
		t.Errorf("left %v", got)
	}
}

// TestAllOrNothingAcrossDirectories: what is placed first goes again where the
// other part finds its place taken meanwhile.
func TestAllOrNothingAcrossDirectories(t *testing.T) {
	for _, there := range []bool{false, true} {
		dir := t.TempDir()
		o := Options{Target: Target{DataDir: filepath.Join(dir, "data"), IdentityDir: filepath.Join(dir, "keys")}}
		if there {
			write(t, filepath.Join(dir, "data", "mine"), "mine")
		}
		pl, err := newImporter(found(t, golden("2.1.2")), o).stage()
		if err != nil {
			t.Fatal(err)
		}
		write(t, pl.data.path(StoreFile), "x")
		write(t, pl.data.path(SettingsFile), "x")
		write(t, filepath.Join(pl.identity, identity.RIDFile), "x")
		write(t, filepath.Join(dir, "keys", identity.RIDFile), "mine")
		if err := pl.settle(); !errors.Is(err, ErrExists) {
			t.Errorf("error %v", err)
		}
		if err := pl.remove(); err != nil {
			t.Error(err)
		}
		got := tree(t, dir)
		delete(got, filepath.Join(dir, "data"))
		delete(got, filepath.Join(dir, "data", "mine"))
		if len(got) != 3 || got[filepath.Join(dir, "keys", identity.RIDFile)] != "mine" {
			t.Errorf("left %v", got)
		}
	}
}

func TestDryRun(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	source := copied(t, "1.0.0")
	write(t, filepath.Join(source, ".notes_rid_cache", "x"), "x")
	p := found(t, source)
	target := filepath.Join(dir, "data")
	r, err := Import(t.Context(), p, Options{Target: Target{DataDir: target}, DryRun: true})
	if err != nil || r.Bundles != 12 || r.SkippedTotal != 1 || r.Waiting != 2 || r.StoreID != "" || !r.DryRun {
		t.Errorf("%+v, %v", r, err)
	}
	if got := tree(t, dir); len(got) != 1 {
		t.Errorf("left %v", got)
	}
	if _, err := Import(t.Context(), p, Options{Target: Target{DataDir: target}, DryRun: true, Strict: true}); !errors.Is(err, ErrIncomplete) {
		t.Errorf("strict: %v", err)
	}
	write(t, filepath.Join(target, StoreFile), "mine")
	if _, err := Import(t.Context(), p, Options{Target: Target{DataDir: target}, DryRun: true}); !errors.Is(err, ErrExists) {
		t.Errorf("a target that is taken: %v", err)
	}
}

func TestKeys(t *testing.T) {
	dir := copied(t, "2.1.2")
	keyFile := filepath.Join(dir, defaultKey)
	id := loadKey(t, found(t, dir))
	other, err := identity.Generate("notes", false)
	if err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := identity.Save(plain, id); err != nil {
		t.Fatal(err)
	}
	plainKey, err := os.ReadFile(filepath.Join(plain, identity.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(id identity.Identity, password string) string {
		text, err := encryptKey(id.Key, []byte(password), 1000)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, tt := range []struct {
		name, key, password string
		want                error
		says                string
	}{
		{"plain", string(plainKey), "", nil, ""},
		{"plain, with a password", string(plainKey), "x", nil, ""},
		{"a line break at the end", sealed(id, "pass\n"), "pass\n", nil, ""},
		{"a carriage return at the end", sealed(id, "pass\r"), "pass\r", nil, ""},
		{"both", sealed(id, "pass\r\n"), "pass\r\n", nil, ""},
		{"not ASCII", sealed(id, "pässwörd ☃"), "pässwörd ☃", nil, ""},
		{"another node's", sealed(other, password), password, identity.ErrMismatch, "+" + rid.KeyID(other.PublicKeyText())},
		{"no password", sealed(id, password), "", ErrPassword, keyFile},
		{"another password", sealed(id, password), "nonsense", identity.ErrDamaged, keyFile},
		{"no key", "nonsense", "", identity.ErrDamaged, keyFile},
		{"missing", "", "", identity.ErrDamaged, keyFile},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.key == "" {
				if err := os.Remove(keyFile); err != nil {
					t.Fatal(err)
				}
			} else {
				write(t, keyFile, tt.key)
			}
			target := Target{DataDir: filepath.Join(t.TempDir(), "data")}
			_, err := Import(t.Context(), found(t, dir), Options{Target: target, Password: []byte(tt.password)})
			if !errors.Is(err, tt.want) || tt.want != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %v that names %q", err, tt.want, tt.says)
			}
			if err != nil && strings.Contains(err.Error(), ".import-") {
				t.Errorf("the error names a file that is gone: %v", err)
			}
			if tt.want == nil {
				got, err := identity.Load(filepath.Join(target.DataDir, IdentityDir))
				if err != nil || got.RID != id.RID {
					t.Errorf("identity %v, %v", got.RID, err)
				}
			}
		})
	}
}

// loadKey opens the key of a plan.
func loadKey(t *testing.T, p Plan) identity.Identity {
	t.Helper()
	files, err := p.identityFiles([]byte(password))
	if err != nil {
		t.Fatal(err)
	}
	id, err := writeIdentity(t.TempDir(), files, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestProvenance(t *testing.T) {
	self := rid.RID("orn:koi-net.node:self+" + strings.Repeat("00", 32))
	alice := rid.RID("orn:koi-net.node:alice+" + strings.Repeat("aa", 32))
	bob := rid.RID("orn:koi-net.node:bob+" + strings.Repeat("bb", 32))
	old := rid.RID("orn:koi-net.node:old+1")
	const relayed, mine, heard, private rid.Type = "orn:a.relayed", "orn:a.mine", "orn:a.heard", "orn:a.private"
	plan := Plan{RID: self, FirstContactRID: bob, FirstContact: "http://bob/koi-net/", contactSaid: "http://bob/koi-net/"}
	plan.Profile.Provides = protocol.Provides{Event: []rid.Type{relayed, mine}, State: []rid.Type{mine}}
	edge := func(source, target rid.RID, status protocol.EdgeStatus, types ...rid.Type) protocol.EdgeProfile {
		return protocol.EdgeProfile{Source: source, Target: target, EdgeType: protocol.Webhook, Status: status, RIDTypes: types}
	}
	learned := func(v *provenance) *provenance {
		v.learn(edge(old, self, protocol.Approved, heard))
		v.learn(edge(bob, self, protocol.Approved, heard, relayed))
		v.learn(edge(alice, self, protocol.Approved, heard, rid.EdgeType))
		v.learn(edge(alice, self, protocol.Proposed, mine))
		v.learn(edge(self, alice, protocol.Approved, mine))
		return v
	}
	looked := plan
	looked.contactSaid = "" // the URL was found in the cache
	unkeyed := plan
	unkeyed.RID = "orn:koi-net.node:self+1"
	hearing := newProvenance(unkeyed, nil, nil)
	hearing.learn(edge(bob, unkeyed.RID, protocol.Approved, heard))
	node := func(url string) string { return `{"node_type":"FULL","base_url":"` + url + `"}` }
	for _, tt := range []struct {
		name     string
		v        *provenance
		rid      rid.RID
		contents string
		want     string
	}{
		{"itself", learned(newProvenance(plan, nil, nil)), self, `{}`, string(self)},
		{"provided", learned(newProvenance(plan, nil, nil)), "orn:a.mine:1", `{}`, string(self)},
		{"relayed", learned(newProvenance(plan, nil, nil)), "orn:a.relayed:1", `{}`, string(bob)},
		{"relayed, and said to be own", learned(newProvenance(plan, []rid.Type{relayed}, nil)), "orn:a.relayed:1", `{}`, string(self)},
		{"provided, and said not to be own", learned(newProvenance(plan, nil, []rid.Type{mine})), "orn:a.mine:1", `{}`, unsigned},
		{"heard from several", learned(newProvenance(plan, nil, nil)), "orn:a.heard:1", `{}`, string(alice)},
		{"neither", learned(newProvenance(plan, nil, nil)), "orn:a.private:1", `{}`, unsigned},
		{"neither, and said to be own", learned(newProvenance(plan, []rid.Type{private}, nil)), "orn:a.private:1", `{}`, string(self)},
		{"no type takes nodes", learned(newProvenance(plan, []rid.Type{rid.NodeType}, nil)), alice, node("http://alice"), unsigned},
		{"the first contact", learned(newProvenance(plan, nil, nil)), bob, node("http://bob/koi-net"), string(bob)},
		{"the first contact elsewhere", learned(newProvenance(plan, nil, nil)), bob, node("http://eve/koi-net"), unsigned},
		{"the first contact, said without a URL", learned(newProvenance(looked, nil, nil)), bob, node("http://bob/koi-net"), unsigned},
		{"an unsigned node's first contact", learned(newProvenance(unkeyed, nil, nil)), bob, node("http://bob/koi-net"), unsigned},
		{"heard by an unsigned node", hearing, "orn:a.heard:1", `{}`, unsigned},
		{"others' edge", learned(newProvenance(plan, nil, nil)), "orn:koi-net.edge:1", string(edge(bob, alice, protocol.Approved, mine).Contents()), string(alice)},
		{"an own edge", learned(newProvenance(plan, nil, nil)), "orn:koi-net.edge:1", string(edge(bob, self, protocol.Approved, mine).Contents()), string(self)},
	} {
		if got := tt.v.source(newBundle(t, tt.rid, tt.contents)); got != tt.want {
			t.Errorf("%s: the word of %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestQueues(t *testing.T) {
	desk := "orn:koi-net.node:desk+1"
	event := `{"rid":"orn:a.b:1","event_type":"NEW","manifest":null,"contents":null}`
	b := newBundle(t, "orn:a.b:1", `{"a":1}`)
	whole := string(protocol.AppendEvent(nil, protocol.Event{RID: "orn:a.b:1", EventType: protocol.New, Manifest: &b.Manifest, Contents: b.Contents}))
	for _, tt := range []struct {
		name, text     string
		rows, problems int
		fails          bool
	}{
		{"none", `{"webhook":{},"poll":{}}`, 0, 0, false},
		{"some", `{"webhook":{"` + desk + `":[` + event + `]},"poll":{"` + desk + `":[` + event + `,` + whole + `]}}`, 3, 0, false},
		{"twice", `{"poll":{"` + desk + `":[` + event + `,` + whole + `,` + event + `,` + whole + `]}}`, 2, 0, false},
		{"not for a node", `{"poll":{"orn:a.b:1":[` + event + `],"":[` + event + `]}}`, 0, 2, false},
		{"no event", `{"poll":{"` + desk + `":[1,` + event + `,{"rid":"x"}]}}`, 1, 2, false},
		{"another RID", `{"poll":{"` + desk + `":[` + strings.Replace(whole, "orn:a.b:1", "orn:a.b:2", 1) + `]}}`, 0, 1, false},
		{"another hash", `{"poll":{"` + desk + `":[` + strings.Replace(whole, `"a":1`, `"a":2`, 1) + `]}}`, 0, 1, false},
		{"no queues", `[]`, 0, 0, true},
		{"no JSON", `{`, 0, 0, true},
	} {
		rows, problems, err := parseQueues([]byte(tt.text))
		if len(rows) != tt.rows || len(problems) != tt.problems || (err != nil) != tt.fails {
			t.Errorf("%s: %d rows, problems %v, error %v", tt.name, len(rows), problems, err)
		}
	}
}

func TestWaitingEvents(t *testing.T) {
	dir := copied(t, "1.0.0")
	p := found(t, dir)
	recs := records(t, opened(t, imported(t, p, Options{}).DataDir))
	coordinator, desk := peers(recs)
	event := `{"rid":"orn:a.b:1","event_type":"FORGET"}`
	write(t, p.Queues, `{"webhook":{"`+string(coordinator)+`":[`+event+`],"`+string(desk)+`":[`+event+`]},"poll":{"orn:koi-net.node:gone+1":[`+event+`]}}`)
	r := imported(t, p, Options{})
	if r.Waiting != 2 || r.SkippedTotal != 1 || !strings.Contains(r.Skipped[0].Reason, "gone+1") {
		t.Errorf("%d wait, skipped %+v", r.Waiting, r.Skipped)
	}
	st := opened(t, r.DataDir)
	for peer, queue := range map[rid.RID]store.Queue{coordinator: store.Outbox, desk: store.PollQueue} {
		err := st.View(t.Context(), func(tx store.Reader) error {
			stats, err := tx.QueueStats(queue, peer)
			if stats.Rows != 1 {
				t.Errorf("%d rows for %s in %s", stats.Rows, peer, queue)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	write(t, p.Queues, "nonsense")
	if r := imported(t, p, Options{}); r.Waiting != 0 || r.SkippedTotal != 1 || r.Skipped[0].File != p.Queues {
		t.Errorf("%d wait, skipped %+v", r.Waiting, r.Skipped)
	}
}

func TestContentsLimit(t *testing.T) {
	dir := copied(t, "2.1.2")
	const r rid.RID = "orn:example.note:big"
	write(t, filepath.Join(dir, ".rid_cache", fileName(t, r)), bundleText(t, newBundle(t, r, `{"a":"`+strings.Repeat("x", 9<<20)+`"}`)))
	p := found(t, dir)
	if got := imported(t, p, Options{Limits: protocol.Limits{ContentsBytes: 10 << 20}, Strict: true}); got.Bundles != 13 {
		t.Errorf("%d bundles", got.Bundles)
	}
}

func TestManyBundles(t *testing.T) {
	dir := copied(t, "2.1.2")
	for i := range 2*batchRecords + 3 {
		r := rid.RID("orn:example.note:" + strings.Repeat("n", i%40+1) + string(rune('a'+i%26)) + time.Duration(i).String())
		write(t, filepath.Join(dir, ".rid_cache", fileName(t, r)), bundleText(t, newBundle(t, r, `{"i":1}`)))
	}
	r := imported(t, found(t, dir), Options{Strict: true})
	if got := len(records(t, opened(t, r.DataDir))); got != r.Bundles || got != 12+2*batchRecords+3 {
		t.Errorf("%d stored, %d reported", got, r.Bundles)
	}
	if !slices.ContainsFunc(r.Types, func(c TypeCount) bool { return c.Type == note && c.Own == 5+2*batchRecords+3 && c.Bundles == c.Own }) {
		t.Errorf("types %+v", r.Types)
	}
}
