package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/koi-net/koi-operator/hack/bench/report"
)

// errMemory says that a directory is not on a real file system.
var errMemory = errors.New("its files are in memory, so nothing there is durable: name another with -dir")

// dataDir returns where the nodes' data go: the directory asked for, else the
// temporary one, or where that is in memory the user's cache.
func dataDir(asked string) (string, error) {
	if asked != "" {
		return asked, onDisk(asked)
	}
	temporary := os.TempDir()
	if onDisk(temporary) == nil {
		return temporary, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	return cache, onDisk(cache)
}

// Magic numbers of statfs(2).
const (
	magicTmpfs   = 0x01021994
	magicRamfs   = 0x858458f6
	magicExt     = 0xef53
	magicXFS     = 0x58465342
	magicBtrfs   = 0x9123683e
	magicOverlay = 0x794c7630
)

// onDisk reports a directory whose files are in memory alone.
func onDisk(dir string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if magic := uint32(st.Type); magic == magicTmpfs || magic == magicRamfs {
		return fmt.Errorf("%s: %w", dir, errMemory)
	}
	return nil
}

// fileSystem names the file system of a directory.
func fileSystem(dir string) string {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return "unknown file system"
	}
	magic := uint32(st.Type)
	switch magic {
	case magicExt:
		return "ext4"
	case magicXFS:
		return "xfs"
	case magicBtrfs:
		return "btrfs"
	case magicOverlay:
		return "overlayfs"
	}
	return fmt.Sprintf("file system %#x", magic)
}

// machine describes what the run is made on. What cannot be read stays unknown.
func machine(dir string) report.Machine {
	m := report.Machine{
		CPU: "an unknown CPU", Cores: runtime.NumCPU(), System: runtime.GOOS, FileSystem: fileSystem(dir),
		Go: runtime.Version(), Date: time.Now().UTC(),
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if name := field(text, "model name"); name != "" {
			m.CPU = name
		}
	}
	if text, err := os.ReadFile(filepath.Join("/proc", "sys", "kernel", "osrelease")); err == nil {
		m.System = "Linux " + strings.TrimSpace(string(text))
	}
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil {
		m.Memory = int64(info.Totalram) * int64(info.Unit)
	}
	return m
}

// field returns the value of the first line "name : value".
func field(text []byte, name string) string {
	for line := range bytes.Lines(text) {
		key, value, ok := strings.Cut(string(line), ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
