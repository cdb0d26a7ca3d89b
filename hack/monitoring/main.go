package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"

	"github.com/koi-net/koi-operator/hack/cluster/assets"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	dir, err := build(ctx, ".")
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "monitoring:", err)
		os.Exit(1)
	}
	fmt.Println(dir)
}

// noPlugins leaves the service discovery of clouds out of promtool, which is
// most of it and of no use to rules.
const noPlugins = "remove_all_sd"

// build builds the programs, once for what they are made of, and returns their
// directory. root is the repository's.
func build(ctx context.Context, root string) (string, error) {
	module := filepath.Join(root, "hack", "tools", "promtool")
	name, err := nameOf(module)
	if err != nil {
		return "", err
	}
	cache, err := assets.CacheDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	dir := filepath.Join(cache, name)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	fresh, err := os.MkdirTemp(cache, "promtool-new-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(fresh) }() // it is gone where all went well
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-tags="+noPlugins, "-o", fresh+"/",
		"github.com/prometheus/prometheus/cmd/promtool", "./inspect")
	cmd.Dir = module
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build promtool: %w\n%s", err, out)
	}
	if err := os.Rename(fresh, dir); err != nil {
		if _, made := os.Stat(dir); made != nil { // by somebody else meanwhile
			return "", err
		}
	}
	return dir, nil
}

// nameOf names the programs by what they are built from.
func nameOf(module string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), noPlugins)
	for _, name := range []string{"go.mod", "go.sum", "inspect/main.go"} {
		text, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(text), text)
	}
	return "promtool-" + hex.EncodeToString(sum.Sum(nil))[:16], nil
}
