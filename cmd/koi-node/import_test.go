package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store/bolt"
	"github.com/koi-net/koi-operator/node/transfer"
)

// python names a directory as the Python library leaves it, of a release.
func python(release string) string {
	return filepath.Join("..", "..", "node", "transfer", "testdata", release)
}

// pythonCopy is such a directory that a test may change.
func pythonCopy(t *testing.T, release string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "python")
	if err := os.CopyFS(dir, os.DirFS(python(release))); err != nil {
		t.Fatal(err)
	}
	return dir
}

var keyPassword = map[string]string{"PRIV_KEY_PASSWORD": "reflab-password"}

func TestStoreFileIsTheNodes(t *testing.T) {
	if transfer.StoreFile != node.StoreFile {
		t.Errorf("import writes %s, a node reads %s", transfer.StoreFile, node.StoreFile)
	}
}

func TestImport(t *testing.T) {
	broken := pythonCopy(t, "1.0.0")
	if err := os.WriteFile(filepath.Join(broken, ".notes_rid_cache", "\x1b[31mred"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		dir  string
		args []string
		code int
	}{
		{"import", python("2.1.2"), nil, 0},
		{"import-partial", python("2.1.2-partial"), nil, 0},
		{"import-unsigned", broken, nil, 0},
		{"import-strict", broken, []string{"--strict"}, 1},
		{"import-dry-run", python("1.1.0"), []string{"--dry-run", "--own-type", "https", "--foreign-type", "orn:example.note"}, 0},
		{"import-json", python("1.0.0b5"), []string{"-o", "json"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			out := call{args: append([]string{"import", tt.dir, "--data-dir", data}, tt.args...), env: keyPassword}.run(t)
			if out.code != tt.code {
				t.Errorf("exit %d, want %d", out.code, tt.code)
			}
			text := strings.NewReplacer(data, "DATA", broken, "DIR").Replace(out.stdout + out.stderr)
			if st, err := bolt.Open(bolt.Options{Path: filepath.Join(data, node.StoreFile)}); err == nil {
				text = strings.ReplaceAll(text, st.Info().ID, "STORE")
				if err := st.Close(); err != nil {
					t.Error(err)
				}
			} else if tt.code == 0 && tt.name != "import-dry-run" {
				t.Error(err)
			}
			golden(t, tt.name, text)
			if tt.name == "import-json" && !json.Valid([]byte(out.stdout)) {
				t.Error("the output is no JSON")
			}
		})
	}
}

func TestImportRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, dir string)
		args   []string
		env    map[string]string
		code   int
		says   string
	}{
		{"no node", func(t *testing.T, dir string) { remove(t, dir, "config.yaml") }, nil, keyPassword, exitNotFound, "no node"},
		{"no password", nil, nil, nil, exitIdentityMismatch, "--password-file"},
		{"another password", nil, nil, map[string]string{"PRIV_KEY_PASSWORD": "nonsense"}, exitIdentityMismatch, "variable PRIV_KEY_PASSWORD"},
		{"no key", func(t *testing.T, dir string) { remove(t, dir, "priv_key.pem") }, nil, keyPassword, exitIdentityMismatch, "priv_key.pem"},
		{"no password file", nil, []string{"--password-file", "nowhere"}, keyPassword, exitFailed, "--password-file"},
		{"a bad configuration", func(t *testing.T, dir string) { put(t, filepath.Join(dir, "config.yaml"), "koi_net: {") }, nil, keyPassword, exitBadConfig, "config.yaml"},
		{"a setting no node takes", func(t *testing.T, dir string) {
			path := filepath.Join(dir, "config.yaml")
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			put(t, path, strings.Replace(string(text), "url: http://127.0.0.1:8000/koi-net", "url: ftp://host", 1))
		}, nil, keyPassword, exitBadConfig, "--first-contact"},
		{"no type", nil, []string{"--own-type", "nonsense:"}, keyPassword, exitFailed, "--own-type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, data := pythonCopy(t, "2.1.2"), filepath.Join(t.TempDir(), "data")
			if tt.change != nil {
				tt.change(t, dir)
			}
			out := call{args: append([]string{"import", dir, "--data-dir", data}, tt.args...), env: tt.env}.run(t)
			if out.code != tt.code || !strings.Contains(out.stderr, tt.says) || strings.Count(out.stderr, "\n") != 1 {
				t.Errorf("%+v, want exit %d that says %q", out, tt.code, tt.says)
			}
			if _, err := os.Lstat(data); err == nil {
				t.Error("something was left")
			}
		})
	}
}

func remove(t *testing.T, path ...string) {
	t.Helper()
	if err := os.Remove(filepath.Join(path...)); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestImportTwice(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	args := []string{"import", python("2.1.2"), "--data-dir", data}
	if out := (call{args: args, env: keyPassword}).run(t); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	if out := (call{args: args, env: keyPassword}).run(t); out.code != exitFailed || !strings.Contains(out.stderr, filepath.Join(data, node.StoreFile)) {
		t.Errorf("%+v", out)
	}
}

func TestWhereThePasswordIs(t *testing.T) {
	right, wrong := keyPassword["PRIV_KEY_PASSWORD"], "nonsense"
	file := write(t, "password", right+"\r\n")
	for _, tt := range []struct {
		name string
		call call
		env  string // of the .env file
	}{
		{"file over variable", call{args: []string{"--password-file", file}, env: map[string]string{"PRIV_KEY_PASSWORD": wrong}}, ""},
		{"standard input", call{args: []string{"--password-file", "-"}, stdin: right + "\n"}, ""},
		{"variable over .env", call{env: keyPassword}, "PRIV_KEY_PASSWORD=" + wrong},
		{".env", call{env: map[string]string{"PRIV_KEY_PASSWORD": ""}}, "PRIV_KEY_PASSWORD='" + right + "'"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, data := pythonCopy(t, "1.1.0"), filepath.Join(t.TempDir(), "data")
			if tt.env != "" {
				put(t, filepath.Join(dir, ".env"), tt.env)
			}
			tt.call.args = append([]string{"import", dir, "--data-dir", data}, tt.call.args...)
			if out := tt.call.run(t); out.code != 0 {
				t.Errorf("%+v", out)
			}
			if _, err := identity.Load(filepath.Join(data, transfer.IdentityDir)); err != nil {
				t.Error(err)
			}
		})
	}
	dir := pythonCopy(t, "1.1.0")
	path := filepath.Join(dir, "config.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put(t, path, strings.Replace(string(text), "PRIV_KEY_PASSWORD", "MY_PASSWORD", 1))
	out := call{args: []string{"import", dir, "--data-dir", filepath.Join(t.TempDir(), "data")}, env: map[string]string{"MY_PASSWORD": right, "PRIV_KEY_PASSWORD": wrong}}.run(t)
	if out.code != 0 {
		t.Errorf("a variable of its own: %+v", out)
	}
}

// TestImportedNodesLiveOn runs nodes of every release under the settings that
// were taken over.
func TestImportedNodesLiveOn(t *testing.T) {
	for _, release := range []string{"1.0.0b5", "1.0.0", "1.1.0", "1.2.5", "1.3.2", "2.0.7", "2.1.2", "2.1.2-partial"} {
		t.Run(release, func(t *testing.T) {
			plan, err := transfer.Find(python(release), transfer.Places{})
			if err != nil {
				t.Fatal(err)
			}
			data := filepath.Join(t.TempDir(), "data")
			if out := (call{args: []string{"import", python(release), "--data-dir", data}, env: keyPassword}).run(t); out.code != 0 {
				t.Fatalf("%+v", out)
			}
			cfg, out := configOf(t, nil, "--config", filepath.Join(data, transfer.SettingsFile))
			if out.code != 0 {
				t.Fatalf("%+v", out)
			}
			// Nobody is there to be called, and ports may be taken.
			cfg.FirstContact, cfg.FirstContactRID, cfg.AdminListen, cfg.Listen, cfg.Logger = "", "", "", "127.0.0.1:0", nil
			if cfg.Partial {
				cfg.FirstContact = "http://127.0.0.1:1/koi-net"
			}
			checkLives(t, cfg, plan)
		})
	}
}

func checkLives(t *testing.T, cfg node.Config, plan transfer.Plan) {
	t.Helper()
	n, err := node.New(node.WithConfig(cfg))
	if err != nil {
		t.Fatal(err)
	}
	if n.RID() != plan.RID {
		t.Errorf("it is %s, and was %s", n.RID(), plan.RID)
	}
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	select {
	case <-n.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	own, err := n.Bundle(ctx, plan.RID)
	if err != nil {
		t.Fatal(err)
	}
	profile, err := protocol.ParseNodeProfile(own.Contents)
	if err != nil || profile.BaseURL != plan.Profile.BaseURL || profile.NodeType != plan.Profile.NodeType || profile.PublicKey != plan.Profile.PublicKey {
		t.Errorf("it says %s of itself, %v; it was %+v", own.Contents, err, plan.Profile)
	}
	const note rid.RID = "orn:example.note:plain"
	if b, err := n.Bundle(ctx, note); err != nil || string(b.Contents) != `{"text":"hello"}` {
		t.Errorf("%s: %s, %v", note, b.Contents, err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// copyIdentityPlain saves an identity without encrypting its key.
func copyIdentityPlain(t *testing.T, from, to string) {
	t.Helper()
	id, err := identity.Load(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.Save(to, id); err != nil {
		t.Fatal(err)
	}
}
