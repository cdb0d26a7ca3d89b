package main

import (
	"path/filepath"
	"syscall"
)

// roomBeside is how many bytes are left to this process on the volume of path, if
// that is known.
func roomBeside(path string) (left int64, known bool) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(path), &st); err != nil || st.Blocks == 0 { // some have no figures
		return 0, false
	}
	return int64(st.Bavail) * int64(st.Bsize), true //nolint:unconvert // its type differs between architectures
}
