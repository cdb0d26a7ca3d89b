package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// mountSmall mounts a small volume in memory. It returns what unmounts it, and what
// changes its size.
func mountSmall(dir string, size int64) (undo func() error, resize func(int64) error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	options := func(size int64) string { return fmt.Sprintf("size=%d,mode=0700", size) }
	err = syscall.Mount("chaos", dir, "tmpfs", syscall.MS_NODEV|syscall.MS_NOSUID|syscall.MS_NOEXEC, options(size))
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		return nil, nil, fmt.Errorf("%w: a volume is mounted by root alone", errSkipped)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("mount a volume on %s: %w", dir, err)
	}
	undo = func() error {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		return nil
	}
	resize = func(size int64) error {
		if err := syscall.Mount("chaos", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_NODEV|syscall.MS_NOSUID|syscall.MS_NOEXEC, options(size)); err != nil {
			return fmt.Errorf("enlarge the volume on %s: %w", dir, err)
		}
		return nil
	}
	return undo, resize, nil
}
