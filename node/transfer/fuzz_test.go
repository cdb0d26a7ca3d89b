package transfer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func TestFileNames(t *testing.T) {
	for r, name := range map[rid.RID]string{
		"orn:example.note:plain":                   "b3JuOmV4YW1wbGUubm90ZTpwbGFpbg.json",
		"orn:example.note:Überschrift/ä:b c?d=e#f": "b3JuOmV4YW1wbGUubm90ZTrDnGJlcnNjaHJpZnQvw6Q6YiBjP2Q9ZSNm.json",
		"a:??>>": "YTo_Pz4-.json",
	} {
		if got := fileName(t, r); got != name {
			t.Errorf("%s is in %s, want %s", r, got, name)
		}
		if got, err := FileRID(name); got != r || err != nil {
			t.Errorf("%s holds %s, %v; want %s", name, got, err, r)
		}
	}
	for _, name := range []string{"", ".json", "YTpi", "YTpi.JSON", "YTpi.json.json", "YTp.json", "YTpi=.json", "YT+i.json", "YTpi\n.json", "YWJj.json", "orn:a.b:c.json", "_____w.json"} {
		if r, err := FileRID(name); err == nil {
			t.Errorf("%q holds %s", name, r)
		}
	}
	most := rid.RID("a:" + strings.Repeat("x", 185))
	if name := fileName(t, most); len(name) > maxName {
		t.Errorf("%d bytes", len(name))
	}
	if _, err := FileName(most + "x"); !errors.Is(err, ErrLongName) {
		t.Errorf("error %v", err)
	}
}

func FuzzFileRID(f *testing.F) {
	files, err := filepath.Glob("testdata/*/.*_cache/*.json")
	if err != nil || len(files) == 0 {
		f.Fatal(err)
	}
	for _, path := range files {
		f.Add(filepath.Base(path))
	}
	f.Add("YWJj.json")
	f.Fuzz(func(t *testing.T, name string) {
		r, err := FileRID(name)
		if err != nil {
			return
		}
		if back, err := FileName(r); err == nil && back != name {
			t.Errorf("%q holds %q, whose file is %q", name, r, back)
		}
	})
}

func seeds(f *testing.F, pattern string) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		f.Fatal(err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
}

func FuzzConfig(f *testing.F) {
	seeds(f, "testdata/*/config.yaml")
	f.Add([]byte(config("  first_contact: &a [*a]\n", "poller: *b\n")))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parseConfig(text)
		if err != nil {
			return
		}
		checkNode(t, p)
	})
}

func FuzzIdentity(f *testing.F) {
	seeds(f, "testdata/*/identity.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parseIdentity(text)
		if err != nil {
			return
		}
		checkNode(t, p)
	})
}

// checkNode holds what was read against what the rest relies on.
func checkNode(t *testing.T, p python) {
	t.Helper()
	plan := Plan{RID: p.rid, Profile: p.profile, Layout: p.layout, Interests: p.interests, Listen: p.listen, PollInterval: p.poll, FirstContact: p.contact, FirstContactRID: p.contactRID}
	if p.poll < 0 || p.layout == "" || p.cache == "" {
		t.Errorf("read %+v", p)
	}
	if plan.check() != nil {
		return
	}
	if _, _, err := rid.SplitNode(plan.RID); err != nil {
		t.Errorf("%q: %v", plan.RID, err)
	}
	if _, err := plan.SettingsYAML(Target{DataDir: "/data"}); err != nil {
		t.Errorf("the settings of %+v: %v", plan, err)
	}
}

func FuzzQueues(f *testing.F) {
	seeds(f, "testdata/*/*_queues.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		rows, _, _ := parseQueues(text)
		for _, row := range rows {
			if _, err := protocol.DecodeEvent(protocol.AppendEvent(nil, row.event)); err != nil {
				t.Errorf("%+v: %v", row, err)
			}
		}
	})
}

func FuzzBundleFile(f *testing.F) {
	seeds(f, "testdata/*/.*_cache/*.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, r := range []rid.RID{"orn:example.note:plain", "orn:example.note:numbers"} {
			name := fileName(t, r)
			b, err := bundle(fstest.MapFS{name: {Data: text}}, entry{name: name, rid: r}, protocol.Limits{})
			if err != nil {
				continue
			}
			back, err := appendFile(nil, b)
			if err != nil {
				t.Fatal(err)
			}
			again, err := bundle(fstest.MapFS{name: {Data: back}}, entry{name: name, rid: r}, protocol.Limits{})
			if err != nil || string(again.Contents) != string(b.Contents) {
				t.Errorf("%s became %s: %v", text, back, err)
			}
		}
	})
}

func FuzzDotenv(f *testing.F) {
	f.Add("export PRIV_KEY_PASSWORD=\"a\\n\" # c")
	f.Fuzz(func(t *testing.T, text string) {
		if value, found, _ := dotenv(text, "PRIV_KEY_PASSWORD"); value != "" && !found {
			t.Errorf("%q: %q of nothing", text, value)
		}
	})
}
