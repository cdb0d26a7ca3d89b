//go:build e2e

package e2e

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/hack/up/deploy"
)

// pluginWorks uses the kubectl plugin as a person does: through the API server, with
// a kubeconfig and nothing else.
func pluginWorks(t *testing.T, s *suite) {
	program := filepath.Join(t.TempDir(), "kubectl-koi")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, filepath.Join(s.root, "cmd", "kubectl-koi")).CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, out)
	}
	command := func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, program, append([]string{"-n", deploy.Namespace}, args...)...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+s.kubectl.Kubeconfig)
		return cmd
	}
	koi := func(stdin string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := command(ctx, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl koi %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	says := func(out string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("no %q in\n%s", w, out)
			}
		}
	}
	says(koi("", "graph"), "coordinator (coordinator)", "── sensor")
	says(koi("", "edges"), "Approved")
	says(koi("", "status", "sensor"), "is Ready", "the node says: ready true")

	watched := make(chan string, 1)
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	watch := command(ctx, "watch", "sensor", "-o", "json")
	out, err := watch.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	const note = "orn:git.commit:by-the-plugin"
	go func() {
		var seen strings.Builder
		buf := make([]byte, 64<<10)
		for {
			n, err := out.Read(buf)
			seen.Write(buf[:n])
			if strings.Contains(seen.String(), note) || err != nil {
				watched <- seen.String()
				return
			}
		}
	}()
	// The watch may begin after the first of these.
	eventually(t, "the watch shows what is put", time.Minute, func() (bool, string) {
		says(koi(`{"by":"plugin"}`, "put", "sensor", note, "-"), note+" is held by sensor")
		says(koi("", "forget", "sensor", note), "is forgotten")
		select {
		case text := <-watched:
			return strings.Contains(text, note), text
		default:
			return false, "nothing"
		}
	})
	stop()
	_ = watch.Wait() // it was interrupted

	koi(`{"by":"plugin"}`, "put", "sensor", note, "-")
	says(koi("", "rids", "sensor", "--type", "orn:git.commit"), note)
	says(koi("", "get", "sensor", note), `"by": "plugin"`)
	s.waitAtReader(t, note, `{"by":"plugin"}`)
	koi("", "forget", "sensor", note)

	file := filepath.Join(t.TempDir(), "report.tar.gz")
	koi("", "report", "-f", file)
	encoded := s.k(t, "get", "secret", "sensor-admin", "-o", "jsonpath={.data.token}")
	token, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(token) < 16 {
		t.Fatalf("the token: %d bytes, %v", len(token), err)
	}
	text := unpacked(t, file)
	for _, secret := range []string{string(token), encoded} {
		if strings.Contains(text, secret) {
			t.Error("the admin token is in the report")
		}
	}
	says(text, "koi-report/nodes/"+deploy.Namespace+"/sensor.json", "koi-report/koinodes.yaml", "koi-report/logs/")
}

// unpacked is all of a tar.gz: names and contents.
func unpacked(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for r := tar.NewReader(zipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(h.Name + "\n")
		if _, err := io.Copy(&b, r); err != nil {
			t.Fatal(err)
		}
	}
}
