package assets

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// Envtest returns a directory with etcd, kube-apiserver and kubectl, fit to be
// KUBEBUILDER_ASSETS, and builds them where they are missing. A KUBEBUILDER_ASSETS
// that is set already and holds them is taken as it is: on a machine that reaches
// the usual downloads, setup-envtest is quicker than a build.
func Envtest(ctx context.Context, progress io.Writer) (string, error) {
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		for _, name := range []string{"etcd", "kube-apiserver"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				return "", fmt.Errorf("KUBEBUILDER_ASSETS lacks %s: unset it or fill it: %w", name, err)
			}
		}
		return filepath.Abs(dir)
	}
	if runtime.GOOS != "linux" {
		return "", fmt.Errorf("the API server is built here on Linux only, not on %s: fetch one with setup-envtest and set KUBEBUILDER_ASSETS", runtime.GOOS)
	}
	b, err := NewBuilder(progress)
	if err != nil {
		return "", err
	}
	dirs, err := b.Ensure(ctx, Kone())
	if err != nil {
		return "", err
	}
	return dirs[Kone().Name], nil
}
