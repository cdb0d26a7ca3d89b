package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/store"
)

// noise is n bytes that differ everywhere.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// sends is a backend's Backup that writes data in parts, then returns err.
func sends(data []byte, part int, err error) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error {
		for rest := data; len(rest) > 0; {
			n, err := w.Write(rest[:min(part, len(rest))])
			if err != nil {
				return err
			}
			rest = rest[n:]
		}
		return err
	}
}

func TestBackup(t *testing.T) {
	f := serve(t, nil)
	for _, size := range []int{0, 1, 4096, 3 << 20} {
		for _, part := range []int{1000, backupPart, backupPart + 1, 2 << 20} {
			data := noise(size)
			f.backend.backup = sends(data, part, nil)
			var got bytes.Buffer
			n, err := f.Backup(t.Context(), &got)
			if err != nil || n != int64(size) || !bytes.Equal(got.Bytes(), data) {
				t.Errorf("%d bytes in parts of %d: %d came, equal %v, %v", size, part, n, bytes.Equal(got.Bytes(), data), err)
			}
		}
	}
	if status, _ := ask(t, http.MethodPost, f.url+client.BasePath+"/backup", ""); status != http.StatusMethodNotAllowed {
		t.Errorf("POST is answered %d", status)
	}
}

// What fails before the first byte is an answer like any other; what fails later is
// told in a trailer to who takes trailers, and cut off for others.
func TestBackupFails(t *testing.T) {
	f := serve(t, nil)
	for _, tt := range []struct {
		name string
		size int
		err  error
		is   error
		says string
	}{
		{"at once", 0, store.ErrClosed, client.ErrUnavailable, "store closed"},
		{"damage at once", 0, fmt.Errorf("%w: page 3", store.ErrDamaged), client.ErrStoreDamaged, "page 3"},
		{"damage at the end", 100_000, fmt.Errorf("%w: record %q\nof bundles", store.ErrDamaged, "ü"), client.ErrStoreDamaged, "of bundles"},
		{"something else", 100_000, errors.New("the disk is gone"), &client.Error{}, "the disk is gone"},
	} {
		f.backend.backup = sends(noise(tt.size), 10_000, tt.err)
		n, err := f.Backup(t.Context(), io.Discard)
		var answer *client.Error
		if !errors.As(err, &answer) || !strings.Contains(err.Error(), tt.says) || n != int64(tt.size) {
			t.Errorf("%s: %d bytes, %v", tt.name, n, err)
		}
		if !errors.As(tt.is, &answer) && !errors.Is(err, tt.is) {
			t.Errorf("%s: %v is no %v", tt.name, err, tt.is)
		}
		if tt.size == 0 {
			continue
		}
		resp, err := get(t, f.url+client.BasePath+"/backup")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: who takes no trailers gets a whole answer: %v", tt.name, err)
		}
		resp.Body.Close()
	}
}

func get(t *testing.T, url string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return http.DefaultClient.Do(req)
}

func TestOneBackupAtATime(t *testing.T) {
	f := serve(t, nil)
	begun, goOn := make(chan struct{}), make(chan struct{})
	f.backend.backup = func(_ context.Context, w io.Writer) error {
		close(begun)
		<-goOn
		_, err := w.Write([]byte("whole"))
		return err
	}
	first := make(chan error, 1)
	go func() {
		_, err := f.Backup(t.Context(), io.Discard)
		first <- err
	}()
	<-begun
	if _, err := f.Backup(t.Context(), io.Discard); !errors.Is(err, client.ErrConflict) || !strings.Contains(err.Error(), "try again") {
		t.Errorf("a second backup: %v", err)
	}
	if _, err := f.Status(t.Context()); err != nil {
		t.Errorf("other calls wait for a backup: %v", err)
	}
	close(goOn)
	if err := <-first; err != nil {
		t.Error(err)
	}
	f.backend.backup = sends(noise(10), 10, nil)
	if _, err := f.Backup(t.Context(), io.Discard); err != nil {
		t.Errorf("the backup after the first: %v", err)
	}
}

// endless writes until it is told to stop, and tells that it has.
func endless(ended chan<- error) func(context.Context, io.Writer) error {
	return func(ctx context.Context, w io.Writer) error {
		part := noise(backupPart)
		for {
			if _, err := w.Write(part); err != nil {
				ended <- context.Cause(ctx)
				return err
			}
			if ctx.Err() != nil {
				ended <- context.Cause(ctx)
				return ctx.Err()
			}
		}
	}
}

func within(t *testing.T, what string, ch <-chan error) error {
	t.Helper()
	select {
	case err := <-ch:
		return err
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not end", what)
		return nil
	}
}

func TestBackupEndsWithItsClient(t *testing.T) {
	f := serve(t, nil)
	ended := make(chan error, 1)
	f.backend.backup = endless(ended)
	ctx, cancel := context.WithCancel(t.Context())
	gone := errors.New("no more room")
	if _, err := f.Backup(ctx, writerFunc(func(p []byte) (int, error) { return 0, gone })); !errors.Is(err, gone) {
		t.Errorf("a writer that fails: %v", err)
	}
	if err := within(t, "the backup", ended); err == nil {
		t.Error("the context lives on")
	}
	_, err := f.Backup(ctx, writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil }))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a call that is cancelled: %v", err)
	}
	if err := within(t, "the backup", ended); err == nil {
		t.Error("the context lives on")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A node that stops, and one whose client reads nothing, do not wait.
func TestBackupOfAReaderThatStalls(t *testing.T) {
	for name, tt := range map[string]struct {
		limits Limits
		act    func(f fixture)
	}{
		"stop":  {Limits{}, func(f fixture) { f.feed.Close() }},
		"stall": {Limits{LineTimeout: 50 * time.Millisecond}, func(fixture) {}},
		"bound": {Limits{BackupTime: 50 * time.Millisecond}, func(fixture) {}},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, func(c *Config) { c.Limits = tt.limits })
			ended := make(chan error, 1)
			f.backend.backup = endless(ended)
			conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := fmt.Fprintf(conn, "GET %s/backup HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", client.BasePath); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			tt.act(f)
			_ = within(t, "the backup", ended)
			// The slot is free again.
			f.backend.backup = sends(noise(10), 10, nil)
			deadline := time.Now().Add(20 * time.Second)
			for {
				_, err := f.Backup(t.Context(), io.Discard)
				if !errors.Is(err, client.ErrConflict) {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
}

// A stop is told to a client that reads.
func TestBackupOfANodeThatStops(t *testing.T) {
	f := serve(t, nil)
	f.backend.backup = func(ctx context.Context, w io.Writer) error {
		if _, err := w.Write([]byte("begun")); err != nil {
			return err
		}
		f.feed.Close()
		<-ctx.Done()
		return ctx.Err()
	}
	if _, err := f.Backup(t.Context(), io.Discard); err == nil {
		t.Error("half a backup passes for one")
	}
	f.backend.backup = sends(nil, 1, nil)
}
