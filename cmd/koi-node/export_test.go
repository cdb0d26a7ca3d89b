package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/store/bolt"
	"github.com/koi-net/koi-operator/node/transfer"
)

// importedData is a data directory with a node taken over.
func importedData(t *testing.T, release string) string {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	if out := (call{args: []string{"import", python(release), "--data-dir", data}, env: keyPassword}).run(t); out.code != 0 {
		t.Fatalf("%+v", out)
	}
	return data
}

func files(t *testing.T, dir string) int {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return len(list)
}

func TestExport(t *testing.T) {
	_, _, url := serveFake(t, "")
	data := importedData(t, "2.1.2")
	for _, tt := range []struct {
		name  string
		args  []string
		env   map[string]string
		code  int
		files int
	}{
		{"export", []string{"--data-dir", data}, nil, 0, 12},
		{"export-json", []string{"--data-dir", data, "-o", "json", "--rid-type", "orn:example.note,https"}, nil, 0, 6},
		{"export-none", []string{"--data-dir", data, "--rid-type", "orn:a.b"}, nil, 0, 0},
		{"export-running", []string{"--admin", url}, nil, 0, 1}, // the others are gone by then
		{"export-running-variable", nil, map[string]string{"KOI_ADMIN": url}, 0, 1},
		{"export-store-over-variable", []string{"--data-dir", data}, map[string]string{"KOI_ADMIN": url}, 0, 12},
		{"export-no-store", []string{"--data-dir", "nowhere"}, nil, exitNotFound, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			out := call{args: append([]string{"export", dir}, tt.args...), env: tt.env}.run(t)
			if out.code != tt.code || files(t, dir) != tt.files {
				t.Errorf("exit %d, want %d; %d files, want %d", out.code, tt.code, files(t, dir), tt.files)
			}
			golden(t, tt.name, strings.NewReplacer(dir, "DIR", data, "DATA").Replace(out.stdout+out.stderr))
			if tt.name == "export-json" && !json.Valid([]byte(out.stdout)) {
				t.Error("the output is no JSON")
			}
		})
	}
}

func TestExportWhileTheNodeRuns(t *testing.T) {
	data := importedData(t, "1.0.0")
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(data, node.StoreFile)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	dir := filepath.Join(t.TempDir(), "cache")
	out := call{args: []string{"export", dir, "--data-dir", data}}.run(t)
	if out.code != exitStoreLocked || !strings.Contains(out.stderr, "--admin") {
		t.Errorf("%+v", out)
	}
	if files(t, dir) != 0 {
		t.Error("something was written")
	}
}

func TestExportIntoWhatIsThere(t *testing.T) {
	data, dir := importedData(t, "1.0.0"), t.TempDir()
	put(t, filepath.Join(dir, "mine"), "mine")
	out := call{args: []string{"export", dir, "--data-dir", data}}.run(t)
	if out.code != exitFailed || !strings.Contains(out.stderr, "--force") || files(t, dir) != 1 {
		t.Errorf("%+v", out)
	}
	for range 2 {
		out = call{args: []string{"export", dir, "--data-dir", data, "--force"}}.run(t)
		if out.code != 0 || files(t, dir) != 13 {
			t.Errorf("%+v", out)
		}
	}
}

func TestExportIdentity(t *testing.T) {
	for _, tt := range []struct {
		name     string
		release  string
		args     []string
		env      map[string]string
		password string
	}{
		{"as it is encrypted", "2.1.2", nil, nil, keyPassword["PRIV_KEY_PASSWORD"]},
		{"encrypted anew", "2.1.2", nil, map[string]string{"PRIV_KEY_PASSWORD": "another"}, "another"},
		{"with the password in a file", "1.1.0", []string{"--password-file", write(t, "password", "a third\n")}, map[string]string{"PRIV_KEY_PASSWORD": "another"}, "a third"},
		{"without a key", "1.0.0b5", nil, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data, dir := importedData(t, tt.release), t.TempDir()
			args := append([]string{"export", filepath.Join(dir, ".rid_cache"), "--data-dir", data, "--identity", dir}, tt.args...)
			if out := (call{args: args, env: tt.env}).run(t); out.code != 0 || !strings.Contains(out.stdout, "config.yaml written") {
				t.Fatalf("%+v", out)
			}
			was, err := transfer.Find(python(tt.release), transfer.Places{})
			if err != nil {
				t.Fatal(err)
			}
			is, err := transfer.Find(dir, transfer.Places{})
			if err != nil || is.RID != was.RID {
				t.Fatalf("%s, want %s: %v", is.RID, was.RID, err)
			}
			back := call{args: []string{"import", dir, "--strict", "--data-dir", filepath.Join(t.TempDir(), "data")}, env: map[string]string{"PRIV_KEY_PASSWORD": tt.password}}
			if out := back.run(t); out.code != 0 {
				t.Errorf("%+v", out)
			}
			// Neither file is written over, and then no cache is written either.
			args[1] = filepath.Join(dir, "again")
			if out := (call{args: args, env: tt.env}).run(t); out.code != exitFailed || !strings.Contains(out.stderr, "left as it is") || files(t, args[1]) != 0 {
				t.Errorf("over what is there: %+v", out)
			}
		})
	}
}

func TestExportIdentityRefuses(t *testing.T) {
	data, other := importedData(t, "2.1.2"), importedData(t, "1.0.0")
	_, _, url := serveFake(t, "")
	plain := filepath.Join(t.TempDir(), "plain")
	copyIdentityPlain(t, filepath.Join(data, transfer.IdentityDir), plain)
	for _, tt := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"another node's", []string{"--data-dir", data, "--identity-dir", filepath.Join(other, transfer.IdentityDir)}, exitIdentityMismatch, "--identity-dir"},
		{"another node's, of a running one", []string{"--admin", url, "--data-dir", data}, exitIdentityMismatch, "--identity-dir"},
		{"none", []string{"--data-dir", data, "--identity-dir", t.TempDir()}, exitFailed, "no identity"},
		{"no password for a plain key", []string{"--data-dir", data, "--identity-dir", plain}, exitIdentityMismatch, "--password-file"},
		{"no password file", []string{"--data-dir", data, "--password-file", "nowhere"}, exitFailed, "--password-file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			out := call{args: append([]string{"export", filepath.Join(dir, "cache"), "--identity", dir}, tt.args...)}.run(t)
			if out.code != tt.code || !strings.Contains(out.stderr, tt.says) || files(t, dir) != 0 {
				t.Errorf("%+v, want exit %d that says %q", out, tt.code, tt.says)
			}
		})
	}
}
