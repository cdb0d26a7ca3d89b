package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/koi-net/koi-operator/node/rid"
)

type vectorKey struct {
	Password  string
	PEM       string
	PublicKey string `json:"public_key_der_b64"`
	Plain     string `json:"unencrypted_pkcs8_pem"`
}

func vectorKeys(t testing.TB) []vectorKey {
	t.Helper()
	data, err := os.ReadFile("testdata/priv_key_pem.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Keys []vectorKey }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Keys) < 2 {
		t.Fatalf("%d keys", len(file.Keys))
	}
	return file.Keys
}

func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// snapshot returns the names and contents of all files in dir.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(data)
	}
	return files
}

func same(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || w != v {
			return false
		}
	}
	return true
}

func TestGenerate(t *testing.T) {
	id, err := Generate("alice", false)
	if err != nil {
		t.Fatal(err)
	}
	name, hash, err := rid.SplitNode(id.RID)
	if err != nil || name != "alice" || hash != rid.KeyID(id.PublicKeyText()) || id.Unsigned() || id.Name() != "alice" {
		t.Errorf("%s, key %s: %v", id.RID, id.PublicKeyText(), err)
	}
	der, err := base64.StdEncoding.DecodeString(id.PublicKeyText())
	if err != nil {
		t.Fatal(err)
	}
	if key, err := x509.ParsePKIXPublicKey(der); err != nil || !id.Key.PublicKey.Equal(key) {
		t.Errorf("public key %v, %v", key, err)
	}
	other, err := Generate("alice", false)
	if err != nil || other.RID == id.RID {
		t.Errorf("two identities are %s, %v", other.RID, err)
	}

	plain, err := Generate("bob", true)
	if err != nil || !plain.Unsigned() || plain.PublicKeyText() != "" || plain.Name() != "bob" {
		t.Fatalf("%+v, %v", plain, err)
	}
	_, id4, _ := rid.SplitNode(plain.RID)
	if u, err := uuid.Parse(id4); err != nil || u.Version() != 4 {
		t.Errorf("the id of %s is no random UUID: %v", plain.RID, err)
	}
	for _, bad := range []string{"", "a+b", strings.Repeat("x", 3000), "a\xff"} {
		for _, unsigned := range []bool{true, false} {
			if id, err := Generate(bad, unsigned); err == nil {
				t.Errorf("Generate(%.20q) = %.80s", bad, id.RID)
			}
		}
	}
}

func TestLoadOrCreate(t *testing.T) {
	for _, unsigned := range []bool{false, true} {
		for name, dir := range map[string]string{"empty": t.TempDir(), "missing": filepath.Join(t.TempDir(), "a", "b")} {
			id, created, err := LoadOrCreate(dir, "alice", unsigned)
			if err != nil || !created || id.Unsigned() != unsigned {
				t.Fatalf("%s: %+v, %v, %v", name, id, created, err)
			}
			files := snapshot(t, dir)
			if want := map[bool]int{false: 2, true: 1}[unsigned]; len(files) != want {
				t.Errorf("%s: %d files are left, want %d", name, len(files), want)
			}
			for file := range files {
				info, err := os.Stat(filepath.Join(dir, file))
				if err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%s: %s has mode %v, %v", name, file, info.Mode(), err)
				}
			}
			for _, as := range []string{"alice", ""} {
				again, created, err := LoadOrCreate(dir, as, unsigned)
				if err != nil || created || again.RID != id.RID || (!unsigned && !again.Key.Equal(id.Key)) {
					t.Errorf("%s: again %+v, %v, %v", name, again, created, err)
				}
			}
			for _, c := range []struct {
				name     string
				unsigned bool
				says     []string
			}{{"bob", unsigned, []string{"alice", "bob"}}, {"alice", !unsigned, []string{string(id.RID)}}} {
				_, _, err := LoadOrCreate(dir, c.name, c.unsigned)
				if !errors.Is(err, ErrMismatch) {
					t.Errorf("%s: as %s, unsigned %v: %v", name, c.name, c.unsigned, err)
					continue
				}
				for _, part := range append(c.says, dir) {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("%s: %v does not name %s", name, err, part)
					}
				}
			}
			if !same(files, snapshot(t, dir)) {
				t.Errorf("%s: the files changed", name)
			}
			if err := Save(dir, id); !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s: saved over: %v", name, err)
			}
			if !same(files, snapshot(t, dir)) {
				t.Errorf("%s: the files changed", name)
			}
		}
	}
}

// The layout of a Secret mounted into a pod: links to links, read-only.
func TestSecretMount(t *testing.T) {
	dir := t.TempDir()
	id, err := Generate("alice", false)
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "..2026_01_01_00_00_00.123")
	if err := Save(data, id); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Base(data), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{RIDFile, KeyFile} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{data, dir} {
		if err := os.Chmod(d, 0o500); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(d, 0o700) })
	}
	got, created, err := LoadOrCreate(dir, "alice", false)
	if err != nil || created || got.RID != id.RID || !got.Key.Equal(id.Key) {
		t.Errorf("%+v, %v, %v", got, created, err)
	}
	if err := Save(dir, id); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Save: %v", err)
	}
}

func TestEncryptedKeys(t *testing.T) {
	for _, k := range vectorKeys(t) {
		r := "orn:koi-net.node:alice+" + rid.KeyID(k.PublicKey)
		for name, files := range map[string]map[string]string{
			"encrypted":         {RIDFile: r + "\n", KeyFile: k.PEM, PasswordFile: k.Password},
			"password and line": {RIDFile: r, KeyFile: k.PEM, PasswordFile: k.Password + "\r\n"},
			"plain":             {RIDFile: r, KeyFile: k.Plain},
			"needless password": {RIDFile: r, KeyFile: k.Plain, PasswordFile: "x"},
		} {
			dir := t.TempDir()
			write(t, dir, files)
			id, err := Load(dir)
			if err != nil || id.PublicKeyText() != k.PublicKey {
				t.Errorf("%s, password %q: %v", name, k.Password, err)
			}
		}
		for name, files := range map[string]map[string]string{
			"no password":    {RIDFile: r, KeyFile: k.PEM},
			"wrong password": {RIDFile: r, KeyFile: k.PEM, PasswordFile: k.Password + "x"},
			"empty password": {RIDFile: r, KeyFile: k.PEM, PasswordFile: ""},
		} {
			dir := t.TempDir()
			write(t, dir, files)
			_, err := Load(dir)
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), KeyFile) || !strings.Contains(err.Error(), PasswordFile) {
				t.Errorf("%s, password %q: %v", name, k.Password, err)
			}
			if len(k.Password) > 1 && err != nil && strings.Contains(err.Error(), k.Password) {
				t.Errorf("the password is told: %v", err)
			}
		}
	}
}

func TestLoadReports(t *testing.T) {
	k := vectorKeys(t)[0]
	keyed := "orn:koi-net.node:alice+" + rid.KeyID(k.PublicKey)
	const unsigned = "orn:koi-net.node:alice+0529319c-d7fd-48ac-b65d-6dfc9a497e51"
	encode := func(key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: pemPlain, Bytes: der}))
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Generate("bob", false)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  error
		says  string
	}{
		"nothing":            {nil, ErrNotFound, ""},
		"something else":     {map[string]string{"README": "x"}, ErrNotFound, ""},
		"password alone":     {map[string]string{PasswordFile: "x"}, ErrDamaged, RIDFile},
		"key alone":          {map[string]string{KeyFile: k.Plain}, ErrDamaged, rid.KeyID(k.PublicKey)},
		"lost key":           {map[string]string{RIDFile: keyed}, ErrDamaged, KeyFile},
		"empty RID":          {map[string]string{RIDFile: ""}, ErrDamaged, RIDFile},
		"bad RID":            {map[string]string{RIDFile: "alice"}, ErrDamaged, RIDFile},
		"no node":            {map[string]string{RIDFile: "orn:test.doc:1"}, ErrDamaged, "test.doc"},
		"two RIDs":           {map[string]string{RIDFile: unsigned + "\n" + keyed, KeyFile: k.Plain}, ErrDamaged, RIDFile},
		"huge RID":           {map[string]string{RIDFile: strings.Repeat("x", maxFile+1)}, ErrDamaged, RIDFile},
		"empty key":          {map[string]string{RIDFile: keyed, KeyFile: ""}, ErrDamaged, KeyFile},
		"cut key":            {map[string]string{RIDFile: keyed, KeyFile: k.Plain[:100]}, ErrDamaged, KeyFile},
		"garbled key":        {map[string]string{RIDFile: keyed, KeyFile: strings.Replace(k.Plain, "MIGH", "MIGI", 1)}, ErrDamaged, KeyFile},
		"public key":         {map[string]string{RIDFile: keyed, KeyFile: strings.ReplaceAll(k.Plain, "PRIVATE", "PUBLIC")}, ErrDamaged, KeyFile},
		"garbled cipher":     {map[string]string{RIDFile: keyed, KeyFile: strings.Replace(k.PEM, "MIH0", "MIH1", 1), PasswordFile: k.Password}, ErrDamaged, KeyFile},
		"plain as encrypted": {map[string]string{RIDFile: keyed, KeyFile: strings.ReplaceAll(k.Plain, "PRIVATE", "ENCRYPTED PRIVATE"), PasswordFile: k.Password}, ErrDamaged, KeyFile},
		"other curve":        {map[string]string{RIDFile: keyed, KeyFile: encode(p384)}, ErrDamaged, "P-256"},
		"other algorithm":    {map[string]string{RIDFile: keyed, KeyFile: encode(rsaKey)}, ErrDamaged, "P-256"},
		"another's key":      {map[string]string{RIDFile: keyed, KeyFile: encode(other.Key)}, ErrMismatch, keyed},
		"key and UUID":       {map[string]string{RIDFile: unsigned, KeyFile: k.Plain}, ErrMismatch, unsigned},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, c.files)
			before := snapshot(t, dir)
			_, err := Load(dir)
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%v does not name %s and the directory", err, c.says)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if c.want == ErrNotFound {
				return
			}
			if _, created, err := LoadOrCreate(dir, "alice", false); created || !errors.Is(err, c.want) {
				t.Errorf("LoadOrCreate: %v, %v", created, err)
			}
			if !same(before, snapshot(t, dir)) {
				t.Error("the files changed")
			}
		})
	}
	if _, err := Load(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, ErrNotFound) {
		t.Errorf("no directory: %v", err)
	}
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadOrCreate(path, "alice", false); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
		t.Errorf("a file for a directory: %v", err)
	}
}

func TestUnsignedIdentity(t *testing.T) {
	dir := t.TempDir()
	const r = "orn:koi-net.node:alice+0529319c-d7fd-48ac-b65d-6dfc9a497e51"
	write(t, dir, map[string]string{RIDFile: r + "\n"})
	id, err := Load(dir)
	if err != nil || id.RID != r || !id.Unsigned() {
		t.Errorf("%+v, %v", id, err)
	}
}

func TestSaveRefuses(t *testing.T) {
	id, err := Generate("alice", false)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]Identity{
		"nothing": {}, "no key": {RID: id.RID}, "other RID": {RID: "orn:koi-net.node:alice+1", Key: id.Key}, "no node": {RID: "orn:a.b:c"},
	} {
		dir := filepath.Join(t.TempDir(), "id")
		if err := Save(dir, bad); err == nil {
			t.Errorf("%s is saved", name)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s leaves a directory", name)
		}
	}
}

// However many start at once, one identity comes of it.
func TestConcurrentCreation(t *testing.T) {
	for range 20 {
		dir := filepath.Join(t.TempDir(), "id")
		var wg sync.WaitGroup
		ids := make([]Identity, 8)
		made := make([]bool, len(ids))
		for i := range ids {
			wg.Go(func() {
				var err error
				if ids[i], made[i], err = LoadOrCreate(dir, "alice", false); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		n := 0
		for i := range ids {
			if ids[i].RID != ids[0].RID {
				t.Errorf("%s and %s", ids[i].RID, ids[0].RID)
			}
			if made[i] {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d identities were made", n)
		}
		left, err := os.ReadDir(filepath.Dir(dir))
		if err != nil || len(left) != 1 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, k := range vectorKeys(f) {
		f.Add([]byte(k.PEM), []byte(k.Password))
		f.Add([]byte(k.Plain), []byte(nil))
	}
	f.Fuzz(func(t *testing.T, data, password []byte) {
		// Keep a hostile number of rounds from slowing the search.
		if block, _ := pem.Decode(data); block != nil && len(block.Bytes) > 4096 {
			return
		}
		key, err := parseKey(data, password)
		if (key == nil) == (err == nil) {
			t.Fatalf("%v, %v", key, err)
		}
	})
}
