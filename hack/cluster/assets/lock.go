package assets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// Lock takes an exclusive lock on a file, waiting for its holder; note is told once
// whom it waits for. The kernel drops the lock when the holder ends, however it ends.
func Lock(ctx context.Context, file string, note io.Writer) (release func(), err error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock file: %w", err)
	}
	told := false
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", file, err)
		}
		if !told {
			told = true
			holder := make([]byte, 32)
			n, _ := f.ReadAt(holder, 0)
			fmt.Fprintf(note, "waiting for another run (process %s) that holds %s\n", strings.TrimSpace(string(holder[:n])), file)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for the lock %s: %w", file, context.Cause(ctx))
		case <-time.After(200 * time.Millisecond):
		}
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid()) // for the note above only
	}
	return func() { f.Close() }, nil
}
