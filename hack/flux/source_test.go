package flux

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func eventually(t *testing.T, what string, cond func() (bool, string)) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		ok, seen := cond()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in time; last seen: %s", what, seen)
		}
	}
}

// files are those of a served artifact, held to its digest.
func files(t *testing.T, url, digest string) map[string]string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, err)
	}
	if sum := sha256.Sum256(body); "sha256:"+hex.EncodeToString(sum[:]) != digest {
		t.Errorf("the artifact is not that of %s", digest)
	}
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			out[h.Name] = string(text)
		} else if h.Typeflag != tar.TypeDir {
			t.Errorf("%s is of type %q", h.Name, h.Typeflag)
		}
	}
}

func TestSource(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	repo, err := NewRepository(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := repo.Stop(); err != nil {
			t.Error(err)
		}
	}()
	commit := func(text string) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(repo.Dir, "below"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(repo.Dir, "below", "file"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		id, err := repo.Commit(ctx, text)
		if err != nil {
			t.Fatal(err)
		}
		return Branch + "@sha1:" + id
	}
	first := commit("one")

	o := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"name": "koi", "namespace": Namespace, "generation": int64(1)},
		"spec":     map[string]any{"url": repo.URL, "interval": "1h", "ref": map[string]any{"branch": Branch}},
		"status":   map[string]any{"observedGeneration": int64(-1)},
	}}
	o.SetGroupVersionKind(repositories.GroupVersion().WithKind("GitRepository"))
	scheme := runtime.NewScheme()
	scheme.AddKnownTypeWithName(o.GroupVersionKind(), &unstructured.Unstructured{})
	scheme.AddKnownTypeWithName(repositories, &unstructured.UnstructuredList{})
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(o).WithStatusSubresource(o).Build()
	source, err := StartSource(ctx, c, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := source.Stop(); err != nil {
			t.Error(err)
		}
	}()

	var seen repository
	look := func() {
		t.Helper()
		if err := c.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			t.Fatal(err)
		}
		seen = repository{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &seen); err != nil {
			t.Fatal(err)
		}
	}
	stored := func(revision, text string) {
		t.Helper()
		eventually(t, revision+" is stored", func() (bool, string) {
			look()
			a := seen.Status.Artifact
			return a != nil && a.Revision == revision && seen.Status.Conditions[0].Status == "True", text
		})
		if got := files(t, seen.Status.Artifact.URL, seen.Status.Artifact.Digest); len(got) != 1 || got["below/file"] != text {
			t.Errorf("the artifact has %v", got)
		}
	}
	change := func(f func()) {
		t.Helper()
		look()
		f()
		if err := c.Update(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	stored(first, "one")
	if seen.Status.ObservedGeneration != 1 {
		t.Errorf("observed %d", seen.Status.ObservedGeneration)
	}

	// Within the interval nobody looks, unless asked.
	second := commit("two")
	change(func() { o.SetAnnotations(map[string]string{requestedAt: "now"}) })
	stored(second, "two")
	if seen.Status.LastHandledReconcileAt != "now" {
		t.Errorf("the request handled is %q", seen.Status.LastHandledReconcileAt)
	}

	// What cannot be fetched is said, and the last that could be stays.
	change(func() {
		o.SetGeneration(2)
		if err := unstructured.SetNestedField(o.Object, "nowhere", "spec", "ref", "branch"); err != nil {
			t.Fatal(err)
		}
	})
	eventually(t, "the missing branch is told", func() (bool, string) {
		look()
		ready := seen.Status.Conditions[0]
		return ready.Status == "False" && strings.Contains(ready.Message, "nowhere") && seen.Status.ObservedGeneration == 2, ready.Message
	})
	if a := seen.Status.Artifact; a == nil || a.Revision != second {
		t.Errorf("the artifact is %+v", a)
	}
}

// A program that ends by itself is not taken for one that was ended.
func TestControllerThatEnds(t *testing.T) {
	for program, bad := range map[string]bool{"/bin/false": true, "/bin/true": true} {
		c, err := StartController(t.Context(), program, os.DevNull, t.TempDir(), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		c.group.Wait()
		if err := c.Stop(); (err != nil) != bad {
			t.Errorf("%s: %v", program, err)
		}
	}
	if _, err := StartController(t.Context(), "/no/such/program", os.DevNull, t.TempDir(), io.Discard); err == nil {
		t.Error("a program that is not there was started")
	}
}
