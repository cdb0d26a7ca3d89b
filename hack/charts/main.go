package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"github.com/koi-net/koi-operator/hack/charts/helm"
	"github.com/koi-net/koi-operator/hack/cluster/assets"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "charts:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch strings.Join(args, " ") {
	case "":
		root, err := assets.Root()
		if err != nil {
			return err
		}
		made, err := generate(os.DirFS(root))
		if err != nil {
			return err
		}
		return write(root, made)
	case "helm":
		program, err := helm.Build(ctx, os.Stderr)
		if err != nil {
			return err
		}
		fmt.Println(program)
		return nil
	default:
		return errors.New("usage: go run ./hack/charts [helm]")
	}
}

// Where the charts are.
const (
	operatorChart    = "charts/koi-operator"
	coordinatorChart = "charts/koi-coordinator"
)

// generate makes everything that is generated of the charts, by path, from a
// checkout of the repository.
func generate(repo fs.FS) (map[string][]byte, error) {
	made, err := objects(repo)
	if err != nil {
		return nil, err
	}
	schema, err := coordinatorSchema(repo)
	if err != nil {
		return nil, err
	}
	made[coordinatorChart+"/values.schema.json"] = schema
	for _, chart := range []string{operatorChart, coordinatorChart} {
		text, err := readme(repo, chart, made)
		if err != nil {
			return nil, err
		}
		made[chart+"/README.md"] = text
	}
	return made, nil
}

// write writes what differs, and removes what is no longer made.
func write(root string, made map[string][]byte) error {
	stale, err := superfluous(os.DirFS(root), made)
	if err != nil {
		return err
	}
	for _, path := range stale {
		if err := os.Remove(filepath.Join(root, path)); err != nil {
			return err
		}
		fmt.Println("removed", path)
	}
	for _, path := range slices.Sorted(maps.Keys(made)) {
		file := filepath.Join(root, path)
		if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, made[path]) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, made[path], 0o644); err != nil {
			return err
		}
		fmt.Println("wrote", path)
	}
	return nil
}

// superfluous lists files of the chart's files directory that nothing makes.
func superfluous(repo fs.FS, made map[string][]byte) ([]string, error) {
	var out []string
	err := fs.WalkDir(repo, operatorChart+"/files", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		if _, ok := made[path]; !ok {
			out = append(out, path)
		}
		return nil
	})
	return out, err
}
