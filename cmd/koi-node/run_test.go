package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/edge"
	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// configOf runs the program and returns what the node was told.
func configOf(t *testing.T, env map[string]string, args ...string) (node.Config, outcome) {
	t.Helper()
	var got node.Config
	out := call{args: append([]string{"run", "--termination-log", ""}, args...), env: env, newNode: func(c node.Config) (daemon, error) {
		got = c
		return fakeDaemon{}, nil
	}}.run(t)
	return got, out
}

func TestPrecedence(t *testing.T) {
	file := write(t, "node.yaml", `
# settings of a sensor
name: from-file
base-url: http://file:1/koi-net
poll-interval: 7s
interest: [orn:file.a, orn:file.b]
provides-event: orn:file.c,orn:file.d
provides-state: []
coordinator: true
max-events: 12
max-body-bytes: 2Mi
edge-approval: manual
`)
	env := map[string]string{
		"KOI_BASE_URL":       "http://env:1/koi-net",
		"KOI_POLL_INTERVAL":  "8s",
		"KOI_INTEREST":       "orn:env.a, orn:env.b",
		"KOI_PROVIDES_STATE": "orn:env.c",
		"KOI_PROVIDES_EVENT": "",
		"KOI_SERVICE_HOST":   "10.0.0.1", // a Kubernetes service called koi
		"KOI_CONFIG":         file,
	}
	c, out := configOf(t, env, "--poll-interval", "9s", "--interest", "orn:flag.a", "--interest", "orn:flag.b,orn:flag.c")
	if out.code != 0 {
		t.Fatalf("%+v", out)
	}
	for _, tt := range []struct {
		what      string
		got, want any
	}{
		{"default", c.Listen, node.DefaultConfig().Listen},
		{"file", c.Name, "from-file"},
		{"file, bool", c.Coordinator, true},
		{"file, int", c.Limits.Events, 12},
		{"file, size", c.Limits.BodyBytes, int64(2 << 20)},
		{"file, choice", c.EdgeApproval, edge.Manual},
		{"variable over file", c.BaseURL, "http://env:1/koi-net"},
		{"variable over file, list", c.Provides.State, []rid.Type{"orn:env.c"}},
		{"empty variable over file, list", c.Provides.Event, []rid.Type{}},
		{"flag over both", c.PollInterval, 9 * time.Second},
		{"flag over both, list", c.Interests, []rid.Type{"orn:flag.a", "orn:flag.b", "orn:flag.c"}},
		{"version", c.Version, "v1.2.3"},
	} {
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.what, tt.got, tt.want)
		}
	}
	c, out = configOf(t, map[string]string{"KOI_INTEREST": "*"}, "--config", file)
	if out.code != 0 || !reflect.DeepEqual(c.Interests, []rid.Type{node.AllTypes}) || !reflect.DeepEqual(c.Provides.Event, []rid.Type{"orn:file.c", "orn:file.d"}) {
		t.Errorf("%+v; interests %v, provides %v", out, c.Interests, c.Provides)
	}
	c, _ = configOf(t, nil, "--interest=", "--allow-peer-cidr", "10.1.2.3/8,fd00::/8", "--first-contact-rid", "orn:koi-net.node:c+1")
	if len(c.Interests) != 0 || c.FirstContactRID != "orn:koi-net.node:c+1" {
		t.Errorf("interests %v, first contact %s", c.Interests, c.FirstContactRID)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}; !reflect.DeepEqual(c.AllowPeerCIDRs, want) {
		t.Errorf("CIDRs %v, want %v", c.AllowPeerCIDRs, want)
	}
}

// TestEverySettingFromEverySource holds all flags to their variable and key.
func TestEverySettingFromEverySource(t *testing.T) {
	token := write(t, "token", "s3cret\n")
	samples := map[string]string{
		"unsigned-peers": "Deny", "edge-approval": "Manual", "first-contact-rid": "orn:koi-net.node:a+b", "admin-token-file": token,
		"allow-peer-cidr": "10.0.0.0/8", "log-level": "DEBUG", "log-format": "json", "termination-log": write(t, "log", ""),
		"provides-event": "orn:a.b", "provides-state": "orn:a.b", "interest": "orn:a.b",
		"docs": "false",
	}
	byType := map[string]string{"string": "some-text", "bool": "true", "duration": "42s", "int": "42", "bytes": "42Ki"}
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	newSettings().register(f)
	f.VisitAll(func(flag *pflag.Flag) {
		if flag.Name == "config" {
			return
		}
		sample := samples[flag.Name]
		if sample == "" {
			sample = byType[flag.Value.Type()]
		}
		if sample == "" || sample == flag.DefValue {
			t.Errorf("--%s has no sample for its type %s", flag.Name, flag.Value.Type())
			return
		}
		file := write(t, "node.yaml", flag.Name+": "+sample+"\n")
		for source, c := range map[string]struct {
			env  map[string]string
			args []string
		}{
			"flag":     {nil, []string{"--" + flag.Name + "=" + sample}},
			"variable": {map[string]string{"KOI_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_")): sample}, nil},
			"file":     {nil, []string{"--config", file}},
		} {
			s := newSettings()
			f := pflag.NewFlagSet("", pflag.ContinueOnError)
			s.register(f)
			if err := f.Parse(c.args); err != nil {
				t.Errorf("--%s from the %s: %v", flag.Name, source, err)
				continue
			}
			err := s.load(f, func(name string) (string, bool) { v, ok := c.env[name]; return v, ok })
			if got := f.Lookup(flag.Name).Value.String(); err != nil || got != sample {
				t.Errorf("--%s from the %s is %q, %v; want %q", flag.Name, source, got, err, sample)
			}
			if flag.Name == "admin-token-file" && s.config.AdminToken != "s3cret" {
				t.Errorf("the token read is %q", s.config.AdminToken)
			}
		}
	})
}

func TestBadConfig(t *testing.T) {
	file := func(text string) []string { return []string{"--config", write(t, "node.yaml", text)} }
	for _, tt := range []struct {
		name string
		env  map[string]string
		args []string
		want []string
	}{
		{"unknown flag", nil, []string{"--nonsense"}, []string{"--nonsense"}},
		{"argument", nil, []string{"nonsense"}, []string{"nonsense"}},
		{"flag value", nil, []string{"--poll-interval", "soon"}, []string{"--poll-interval", "soon"}},
		{"choice", nil, []string{"--edge-approval", "Never"}, []string{"--edge-approval", "Never", "Automatic, Manual"}},
		{"RID type", nil, []string{"--interest", "orn:a:b"}, []string{"--interest", "orn:a:b"}},
		{"star elsewhere", nil, []string{"--provides-state", "orn:*,orn:"}, []string{"--provides-state"}},
		{"CIDR", nil, []string{"--allow-peer-cidr", "10.0.0.1"}, []string{"--allow-peer-cidr", "10.0.0.0/8"}},
		{"size", nil, []string{"--max-body-bytes", "-1"}, []string{"--max-body-bytes", "16Mi"}},
		{"huge size", nil, []string{"--queue-bytes", "9999999999999Gi"}, []string{"--queue-bytes"}},
		{"variable", map[string]string{"KOI_WORKERS": "many"}, nil, []string{"KOI_WORKERS", "many"}},
		{"empty variable", map[string]string{"KOI_PARTIAL": ""}, nil, []string{"KOI_PARTIAL"}},
		{"no file", nil, []string{"--config", "/nonexistent/node.yaml"}, []string{"/nonexistent/node.yaml"}},
		{"unknown key", nil, file("name: a\nbaseURL: x\n"), []string{"node.yaml:2", `"baseURL"`}},
		{"config in the file", nil, file("config: other.yaml\n"), []string{"node.yaml:1", `"config"`}},
		{"key twice", nil, file("name: a\nlisten: :1\nname: b\n"), []string{"node.yaml:3", "name", "line 1"}},
		{"value in the file", nil, file("name: a\n\nworkers: many\n"), []string{"node.yaml:3", "workers", "many"}},
		{"list for one", nil, file("name: [a, b]\n"), []string{"node.yaml:1", "name", "one value"}},
		{"mapping", nil, file("interest:\n  a: b\n"), []string{"interest", "one value"}},
		{"nested list", nil, file("interest:\n- a\n- [b]\n"), []string{"interest", "line 3"}},
		{"bad item", nil, file("interest:\n- a\n- 'orn:'\n"), []string{"interest", "orn:"}},
		{"null", nil, file("name:\n"), []string{"name", "no value"}},
		{"list file", nil, file("- name\n"), []string{"node.yaml:1", "mapping"}},
		{"two documents", nil, file("name: a\n---\nname: b\n"), []string{"more than one"}},
		{"no YAML", nil, file("name: [\n"), []string{"node.yaml", "yaml:"}},
		{"large file", nil, file(strings.Repeat("#\n", 600_000)), []string{"larger than"}},
		{"no token", nil, []string{"--admin-token-file", "/nonexistent/token"}, []string{"--admin-token-file", "/nonexistent/token"}},
		{"empty token", nil, []string{"--admin-token-file", write(t, "token", "\n")}, []string{"--admin-token-file", "empty"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, out := configOf(t, tt.env, tt.args...)
			if out.code != exitBadConfig || out.stdout != "" || strings.Count(out.stderr, "\n") != 1 {
				t.Fatalf("%+v", out)
			}
			for _, want := range append(tt.want, "koi-node: BadConfig: ") {
				if !strings.Contains(out.stderr, want) {
					t.Errorf("%q does not say %q", out.stderr, want)
				}
			}
		})
	}
	for _, text := range []string{"", "# nothing\n", "---\n", "{}\n"} {
		if _, out := configOf(t, nil, file(text)...); out.code != 0 {
			t.Errorf("a file of %q: %+v", text, out)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		err    error
		code   int
		reason string
	}{
		{store.ErrDamaged, 10, "StoreDamaged"},
		{store.ErrForeign, 10, "StoreDamaged"},
		{store.ErrLocked, 11, "StoreLocked"},
		{identity.ErrMismatch, 12, "IdentityMismatch"},
		{identity.ErrDamaged, 12, "IdentityMismatch"},
		{node.ErrBadConfig, 13, "BadConfig"},
		{errors.New("something else"), 1, "Failed"},
		{errors.Join(node.ErrBadConfig, store.ErrDamaged), 10, "StoreDamaged"},
	} {
		cause := fmt.Errorf("open /data/node.db:\nbad page: %w", tt.err)
		for where, maker := range map[string]nodeMaker{
			"New": func(node.Config) (daemon, error) { return nil, cause },
			"Run": func(node.Config) (daemon, error) { return fakeDaemon{cause}, nil },
		} {
			log := filepath.Join(t.TempDir(), "termination-log")
			out := call{args: []string{"run", "--termination-log", log}, newNode: maker}.run(t)
			if out.code != tt.code || strings.Count(out.stderr, "\n") != 1 || !strings.Contains(out.stderr, "/data/node.db") || !strings.HasPrefix(out.stderr, "koi-node: "+tt.reason+": ") {
				t.Errorf("%v from %s: %+v", tt.err, where, out)
			}
			data, err := os.ReadFile(log)
			if err != nil {
				t.Errorf("%v from %s: %v", tt.err, where, err)
				continue
			}
			var said struct{ Reason, Message string }
			if err := json.Unmarshal(data, &said); err != nil || said.Reason != tt.reason || !strings.Contains(said.Message, "/data/node.db") {
				t.Errorf("%v from %s: termination log %s, %v", tt.err, where, data, err)
			}
		}
	}
}

func TestTerminationLog(t *testing.T) {
	path := write(t, "log", strings.Repeat("old", 5000))
	if err := writeTermination(path, "Failed", strings.Repeat("\"ü\x01", 5000)); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || len(data) > 4096 || !json.Valid(data) {
		t.Errorf("%d bytes, %v: %.100s", len(data), err, data)
	}
	bad := filepath.Join(t.TempDir(), "log")
	out := call{args: []string{"run", "--termination-log", bad, "--nonsense"}}.run(t)
	if data, err := os.ReadFile(bad); out.code != exitBadConfig || err != nil || !strings.Contains(string(data), "BadConfig") {
		t.Errorf("a flag that does not exist: %+v; termination log %s, %v", out, data, err)
	}
	missing := filepath.Join(t.TempDir(), "no", "log")
	out = call{args: []string{"run", "--termination-log", missing}}.run(t)
	if out.code != 1 || !strings.Contains(out.stderr, missing) {
		t.Errorf("a termination log that cannot be written: %+v", out)
	}
}

func TestRunStopsInPeace(t *testing.T) {
	_, out := configOf(t, nil)
	if out.code != 0 || out.stdout != "" || out.stderr != "" {
		t.Errorf("%+v", out)
	}
	s := newSettings()
	s.logFormat = "json"
	var b strings.Builder
	s.logger(&b).Info("hello")
	s.logger(&b).Debug("not this")
	if !json.Valid([]byte(b.String())) {
		t.Errorf("log %q", b.String())
	}
	s.logger(io.Discard)
}

// hangingDaemon is a node that does not stop before it is released.
type hangingDaemon struct {
	fakeDaemon
	release chan struct{}
}

func (d hangingDaemon) Run(context.Context) error {
	<-d.release
	return nil
}

// What hangs does not hold the process beyond its time.
func TestRunEndsThoughTheNodeHangs(t *testing.T) {
	hangs := hangingDaemon{release: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := runBounded(ctx, hangs, 10*time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not stop within 10ms") {
		t.Errorf("%v", err)
	}
	close(hangs.release)
	if err := runBounded(ctx, hangs, time.Minute); err != nil {
		t.Errorf("a node that stops in time: %v", err)
	}
	failed := errors.New("failed")
	if err := runBounded(t.Context(), fakeDaemon{failed}, 0); !errors.Is(err, failed) {
		t.Errorf("a node that fails: %v", err)
	}
}

func FuzzApplyYAML(f *testing.F) {
	f.Add("name: a\ninterest: [b, c]\n")
	f.Add("a: &x 1\nb: *x\n")
	f.Add("? [a]\n: b\n")
	f.Add("--- !!binary\n")
	f.Fuzz(func(t *testing.T, text string) {
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		newSettings().register(flags)
		if err := applyYAML(flags, "node.yaml", []byte(text)); err != nil && !strings.HasPrefix(err.Error(), "node.yaml") {
			t.Errorf("%q: the error does not name the file: %v", text, err)
		}
	})
}
