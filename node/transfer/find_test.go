package transfer

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

const selfUnsigned = "orn:koi-net.node:n+4b2f0a55-0000-4000-8000-000000000000"

// config is a configuration of 1.0 with more lines of koi_net, indented by two,
// and of the top.
func config(koiNet, top string) string {
	return "koi_net:\n  node_name: n\n  node_rid: " + selfUnsigned + "\n" + koiNet +
		"  node_profile:\n    node_type: FULL\n    base_url: http://127.0.0.1:8000/koi-net\n" + top
}

func TestWhatIsNoNode(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		at    Places
		want  error
		says  string
	}{
		{"nothing", nil, Places{}, ErrNoNode, "koi_net"},
		{"other programs'", map[string]string{"config.yaml": "a: 1", "identity.json": "[]", "x.yaml": ":", "y.json": "{}", "z.yml": ""}, Places{}, ErrSource, "identity.json"},
		{"others' files alone", map[string]string{"config.yaml": "a: 1", "x.yaml": "koi_net: {}", "y.json": "{}"}, Places{}, ErrNoNode, "node_profile"},
		{"a network", map[string]string{"koi-network-config.yaml": "first_contact: a\nnodes: {}"}, Places{}, ErrNoNode, "one of its nodes"},
		{"two nodes", map[string]string{"a.yaml": config("", ""), "b.yaml": config("", "")}, Places{}, ErrSource, "b.yaml"},
		{"no YAML", map[string]string{"config.yaml": "koi_net: {"}, Places{}, ErrSource, "config.yaml"},
		{"never run", map[string]string{"config.yaml": strings.Replace(config("", ""), selfUnsigned, "", 1)}, Places{}, ErrSource, "never run"},
		{"no RID", map[string]string{"config.yaml": strings.Replace(config("", ""), selfUnsigned, "nonsense", 1)}, Places{}, ErrSource, "node_rid"},
		{"no node's RID", map[string]string{"config.yaml": strings.Replace(config("", ""), selfUnsigned, "orn:a.b:c", 1)}, Places{}, ErrSource, "node_rid"},
		{"no node type", map[string]string{"config.yaml": strings.Replace(config("", ""), "FULL", "HALF", 1)}, Places{}, ErrSource, "node_type"},
		{"no base URL", map[string]string{"config.yaml": strings.Replace(config("", ""), "http:", "ftp:", 1)}, Places{}, ErrSource, "base_url"},
		{"no RID type", map[string]string{"config.yaml": config("  rid_types_of_interest: [nonsense:]\n", "")}, Places{}, ErrSource, "rid_types_of_interest"},
		{"no port", map[string]string{"config.yaml": config("", "server: {port: 70000}\n")}, Places{}, ErrSource, "server.port"},
		{"no interval", map[string]string{"config.yaml": config("  polling_interval: 99999999999\n", "")}, Places{}, ErrSource, "polling_interval"},
		{"another key", map[string]string{"config.yaml": config("", "") + "    public_key: AAAA\n"}, Places{}, ErrSource, "public key"},
		{"a huge file", map[string]string{"config.yaml": config("", "") + strings.Repeat("#", maxConfig)}, Places{}, nil, "larger than"},
		{"a cache that is not there", map[string]string{"config.yaml": config("", "")}, Places{Cache: "nowhere"}, ErrSource, "nowhere"},
		{"a configuration that is not there", map[string]string{"config.yaml": config("", "")}, Places{Config: "nowhere.yaml"}, os.ErrNotExist, "nowhere.yaml"},
		{"an identity of nothing", map[string]string{"identity.json": `{"rid":"x","profile":{}}`}, Places{}, ErrSource, "rid"},
		{"an identity without profile", map[string]string{"identity.json": `{"rid":"` + selfUnsigned + `","profile":{}}`}, Places{}, ErrSource, "node_type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range tt.files {
				write(t, filepath.Join(dir, name), text)
			}
			_, err := Find(dir, tt.at)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %v that says %q", err, tt.want, tt.says)
			}
		})
	}
	for _, dir := range []string{"testdata/nowhere", "testdata/golden.py"} {
		if _, err := Find(dir, Places{}); !errors.Is(err, ErrNoNode) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestPlans(t *testing.T) {
	elsewhere := t.TempDir()
	partial := strings.Replace(config("  polling_interval: 90\n", "poller: {polling_interval: 120}\n"), "FULL", "PARTIAL", 1)
	for _, tt := range []struct {
		name   string
		config string
		want   func(*Plan) bool
		notes  []string
	}{
		{"defaults", config("", ""), func(p *Plan) bool {
			return p.Layout == LayoutUnsigned && p.Listen == "127.0.0.1:8000" && !p.CacheFound && p.Key == "" && p.Queues == "" &&
				reflect.DeepEqual(p.Interests, []rid.Type{rid.NodeType})
		}, []string{"without knowledge", "subscribes in its code"}},
		{"a server without base URL", strings.Replace(config("", "server:\n  host: '::1'\n  port: '9000'\n  path: /x\n"), "http://127.0.0.1:8000/koi-net", "", 1), func(p *Plan) bool {
			return p.Listen == "[::1]:9000" && p.Profile.BaseURL == "http://[::1]:9000/x"
		}, nil},
		{"behind a proxy", config("", "server: {host: 0.0.0.0, port: 80, path: null}\n"), func(p *Plan) bool { return p.Listen == "0.0.0.0:80" }, []string{"proxy"}},
		{"partial", partial, func(p *Plan) bool {
			return p.PollInterval == 2*time.Minute && p.Profile.BaseURL == "" && p.Profile.NodeType == protocol.Partial
		}, nil},
		{"all interests", config("  rid_types_of_interest: null\n", ""), func(p *Plan) bool { return reflect.DeepEqual(p.Interests, []rid.Type{"*"}) }, nil},
		{"no interests", config("  rid_types_of_interest: []\n", ""), func(p *Plan) bool { return p.Interests != nil && len(p.Interests) == 0 }, nil},
		{"default interests", config("  event_worker: {}\n", ""), func(p *Plan) bool {
			return p.Layout == LayoutRooted && reflect.DeepEqual(p.Interests, []rid.Type{rid.NodeType})
		}, nil},
		{"an older pydantic", config("", "") + "    context: orn:koi-net.context:koi-net.node\n", func(p *Plan) bool { return p.Layout == LayoutContext }, nil},
		{"a coordinator", config("", "") + "    provides:\n      event: [orn:koi-net.node, orn:koi-net.edge]\n      state: [orn:koi-net.node, orn:koi-net.edge]\n",
			func(p *Plan) bool { return p.Coordinator }, []string{"coordinator"}},
		{"half a coordinator", config("", "") + "    provides: {event: [orn:koi-net.node, orn:koi-net.edge]}\n", func(p *Plan) bool { return !p.Coordinator }, nil},
		{"no first contact", config("  first_contact: {rid: null, url: null}\n", ""), func(p *Plan) bool { return p.FirstContact == "" && p.FirstContactRID == "" }, nil},
		{"a first contact without URL", config("  first_contact: {rid: 'orn:koi-net.node:c+1'}\n", ""), func(p *Plan) bool { return p.FirstContactRID == "" }, []string{"set first-contact"}},
		{"absolute paths", config("  cache_directory_path: "+elsewhere+"\n", ""), func(p *Plan) bool { return p.Cache == elsewhere && p.CacheFound }, []string{elsewhere + " lies outside"}},
		{"paths that lead out", config("  cache_directory_path: ../x\n", ""), func(p *Plan) bool { return !p.CacheFound }, []string{"lies outside"}},
		{"a name of its own for the password", config("  private_key_pem_path: k\n", "env: {priv_key_password: MY_PASSWORD}\n"), func(p *Plan) bool { return p.PasswordVariable == "MY_PASSWORD" }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "config.yaml"), tt.config)
			p := found(t, dir)
			if !tt.want(&p) {
				t.Errorf("found %+v", p)
			}
			all := strings.Join(p.Notes, "\n")
			for _, n := range tt.notes {
				if !strings.Contains(all, n) {
					t.Errorf("notes %q do not say %q", all, n)
				}
			}
			if strings.Contains(all, "lies outside") != (len(tt.notes) > 0 && strings.Contains(tt.notes[0], "lies outside")) {
				t.Errorf("notes %q", all)
			}
		})
	}
}

func TestFilesUnderOtherNames(t *testing.T) {
	t.Run("configuration", func(t *testing.T) {
		dir := copied(t, "1.0.0")
		rename(t, filepath.Join(dir, "config.yaml"), filepath.Join(dir, "coordinator_config.yaml"))
		write(t, filepath.Join(dir, "config.yaml"), "a: 1")
		if p := found(t, dir); p.Config != filepath.Join(dir, "coordinator_config.yaml") || !p.CacheFound {
			t.Errorf("found %+v", p)
		}
	})
	t.Run("identity and cache", func(t *testing.T) {
		dir := copied(t, "1.0.0b5")
		rename(t, filepath.Join(dir, "identity.json"), filepath.Join(dir, "me.json"))
		rename(t, filepath.Join(dir, "notes_cache"), filepath.Join(dir, "knowledge"))
		if p := found(t, dir); p.Config != filepath.Join(dir, "me.json") || p.Cache != filepath.Join(dir, "knowledge") || p.Queues == "" {
			t.Errorf("found %+v", p)
		}
	})
	t.Run("all of them named", func(t *testing.T) {
		dir, other := copied(t, "2.1.2"), t.TempDir()
		at := Places{Config: filepath.Join(other, "c.yaml"), Cache: filepath.Join(other, "cache"), Key: filepath.Join(other, "k.pem")}
		rename(t, filepath.Join(dir, "config.yaml"), at.Config)
		rename(t, filepath.Join(dir, ".rid_cache"), at.Cache)
		rename(t, filepath.Join(dir, "priv_key.pem"), at.Key)
		p, err := Find(dir, at)
		if err != nil {
			t.Fatal(err)
		}
		if r := imported(t, p, Options{}); r.Bundles != 12 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("the first contact's URL in the cache", func(t *testing.T) {
		dir := copied(t, "2.1.2")
		path := filepath.Join(dir, "config.yaml")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, strings.Replace(string(text), "    url: http://127.0.0.1:8000/koi-net\n", "", 1))
		if p := found(t, dir); p.FirstContact != "http://127.0.0.1:8000/koi-net" || p.FirstContactRID == "" {
			t.Errorf("found %+v", p)
		}
	})
	t.Run("interests of the edges", func(t *testing.T) {
		dir := copied(t, "1.0.0")
		self := found(t, dir).RID
		e := protocol.EdgeProfile{Source: "orn:koi-net.node:x+1", Target: self, EdgeType: protocol.Poll, Status: protocol.Proposed, RIDTypes: []rid.Type{report, rid.EdgeType, note}}
		b := newBundle(t, rid.LegacyEdge(e.Source, e.Target), string(e.Contents()))
		write(t, filepath.Join(dir, ".notes_rid_cache", fileName(t, b.Manifest.RID)), bundleText(t, b))
		if p := found(t, dir); !reflect.DeepEqual(p.Interests, []rid.Type{rid.NodeType, note, report, rid.EdgeType}) {
			t.Errorf("interests %v", p.Interests)
		}
	})
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestSettingsFile(t *testing.T) {
	p := found(t, golden("2.1.2"))
	p.Interests, p.Listen = []rid.Type{"*"}, "0.0.0.0:80"
	p.Profile.Provides.Event = []rid.Type{"orn:a b: #x", "yes"}
	text, err := p.SettingsYAML(Target{DataDir: "/data", IdentityDir: "/keys/\n#x"})
	if err != nil {
		t.Fatal(err)
	}
	want := "data-dir: /data\nidentity-dir: |-\n  /keys/\n  #x\nlisten: 0.0.0.0:80\nbase-url: http://127.0.0.1:8001/koi-net\n" +
		"provides-event:\n  - 'orn:a b: #x'\n  - yes\nprovides-state:\n  - orn:example.note\ninterest:\n  - '*'\n" +
		"first-contact: http://127.0.0.1:8000/koi-net\nfirst-contact-rid: " + string(p.FirstContactRID) + "\n"
	if _, rest, _ := strings.Cut(string(text), "<this file>\n"); rest != want {
		t.Errorf("got\n%s\nwant\n%s", rest, want)
	}
	p.Interests = []rid.Type{}
	if text, err := p.SettingsYAML(Target{DataDir: "data"}); err != nil || !strings.Contains(string(text), "\ninterest: []\n") {
		t.Errorf("%s, %v", text, err)
	}
	for d, want := range map[time.Duration]string{5 * time.Second: "5s", 2 * time.Minute: "2m", time.Hour: "1h", 90 * time.Second: "1m30s"} {
		if got := duration(d); got != want {
			t.Errorf("%v is written %s", d, got)
		}
	}
}

func TestDotenv(t *testing.T) {
	for _, tt := range []struct {
		text, want string
		found      bool
		fails      bool
	}{
		{"", "", false, false},
		{"PRIV_KEY_PASSWORD=secret", "secret", true, false},
		{"# c\nOTHER=x\n export PRIV_KEY_PASSWORD = a b  # c\r\n", "a b", true, false},
		{"PRIV_KEY_PASSWORD=a#b", "a#b", true, false},
		{"PRIV_KEY_PASSWORD='a \\' # b' # c", "a ' # b", true, false},
		{`PRIV_KEY_PASSWORD="a\n\"b\"\\ \x"`, "a\n\"b\"\\ \\x", true, false},
		{`PRIV_KEY_PASSWORD='a\nb'`, `a\nb`, true, false},
		{"PRIV_KEY_PASSWORD=first\nPRIV_KEY_PASSWORD=second", "second", true, false},
		{"PRIV_KEY_PASSWORD=exact\npriv_key_password=other", "exact", true, false},
		{"priv_key_password=other", "other", true, false},
		{"'PRIV_KEY_PASSWORD'=x", "x", true, false},
		{"PRIV_KEY_PASSWORD", "", false, false},
		{"PRIV_KEY_PASSWORD=", "", true, false},
		{"#PRIV_KEY_PASSWORD=x", "", false, false},
		{"PRIV_KEY_PASSWORD=a${B}", "", true, true},
		{"PRIV_KEY_PASSWORD=\"a\nb\"", "", true, true},
	} {
		got, found, err := dotenv(tt.text, "PRIV_KEY_PASSWORD")
		if got != tt.want && err == nil || found != tt.found || (err != nil) != tt.fails {
			t.Errorf("%q: %q, %v, %v", tt.text, got, found, err)
		}
	}
}

func TestPasswordFrom(t *testing.T) {
	dir := copied(t, "2.1.2")
	p := found(t, dir)
	if got, _, err := p.PasswordFrom(); got != nil || err != nil {
		t.Errorf("no file: %q, %v", got, err)
	}
	write(t, filepath.Join(dir, ".env"), "X=1\n")
	if got, _, err := p.PasswordFrom(); got != nil || err != nil {
		t.Errorf("no variable: %q, %v", got, err)
	}
	write(t, filepath.Join(dir, ".env"), "priv_key_password="+password+"\n")
	if got, path, err := p.PasswordFrom(); string(got) != password || path != filepath.Join(dir, ".env") || err != nil {
		t.Errorf("%q of %s, %v", got, path, err)
	}
	write(t, filepath.Join(dir, ".env"), "priv_key_password=${SECRET}\n")
	if _, _, err := p.PasswordFrom(); err == nil || !strings.Contains(err.Error(), ".env") {
		t.Errorf("error %v", err)
	}
}
