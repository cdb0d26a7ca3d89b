package client

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// What is not whole, or not what was sent, is noticed, whatever the server does.
func TestBackupThatIsNotWhole(t *testing.T) {
	const text = "a whole store"
	sum := sha256.Sum256([]byte(text))
	good := map[string]string{BackupBytesTrailer: "13", BackupSumTrailer: hex.EncodeToString(sum[:])}
	with := func(name, value string) map[string]string {
		out := map[string]string{}
		for k, v := range good {
			out[k] = v
		}
		out[name] = value
		return out
	}
	for _, tt := range []struct {
		name     string
		trailers map[string]string
		abort    bool
		is       error
		says     string
	}{
		{"whole", good, false, nil, ""},
		{"no trailers", nil, false, ErrBrokenOff, "13 bytes"},
		{"no sum", with(BackupSumTrailer, ""), false, ErrBrokenOff, ""},
		{"another length", with(BackupBytesTrailer, "14"), false, ErrBrokenOff, "14"},
		{"another sum", with(BackupSumTrailer, strings.Repeat("0", 64)), false, ErrBrokenOff, "SHA-256"},
		{"cut", good, true, ErrBrokenOff, "the node's log"},
		{"an error", with(BackupErrorTrailer, `{"code":"storeDamaged","message":"page 3"}`), false, ErrStoreDamaged, "page 3"},
		{"an error that is none", with(BackupErrorTrailer, "\x01"), false, ErrBrokenOff, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("TE") != "trailers" {
					t.Error("the client does not ask for trailers")
				}
				for name := range tt.trailers {
					w.Header().Add("Trailer", name)
				}
				_, _ = io.WriteString(w, text)
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
				if tt.abort {
					panic(http.ErrAbortHandler)
				}
				for name, value := range tt.trailers {
					w.Header().Set(name, value)
				}
			}))
			defer srv.Close()
			c, err := New(Options{URL: srv.URL})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseIdleConnections()
			var got bytes.Buffer
			n, err := c.Backup(t.Context(), &got)
			if !errors.Is(err, tt.is) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want %v that says %q", err, tt.is, tt.says)
			}
			if tt.is == nil && (n != int64(len(text)) || got.String() != text) {
				t.Errorf("%d bytes came: %q", n, &got)
			}
		})
	}
}

func TestBackupOfASilentNode(t *testing.T) {
	for name, begin := range map[string]bool{"before the answer": false, "in it": true} {
		release := make(chan struct{})
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if begin {
				_, _ = io.WriteString(w, "begun")
				_ = http.NewResponseController(w).Flush()
			}
			<-release
		}))
		c, err := New(Options{URL: srv.URL, Timeout: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Backup(t.Context(), io.Discard); !errors.Is(err, ErrBrokenOff) || !strings.Contains(err.Error(), "nothing") {
			t.Errorf("%s: %v", name, err)
		}
		close(release)
		c.CloseIdleConnections()
		srv.Close()
	}
}

// How long the writer takes is not the node's silence.
func TestBackupToASlowWriter(t *testing.T) {
	const text = "a whole store"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.Sum256([]byte(text))
		w.Header().Set("Trailer", BackupBytesTrailer+", "+BackupSumTrailer)
		_, _ = io.WriteString(w, text)
		w.Header().Set(BackupBytesTrailer, "13")
		w.Header().Set(BackupSumTrailer, hex.EncodeToString(sum[:]))
	}))
	defer srv.Close()
	c, err := New(Options{URL: srv.URL, Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	if n, err := c.Backup(t.Context(), slowWriter(700*time.Millisecond)); err != nil || n != int64(len(text)) {
		t.Errorf("%d, %v", n, err)
	}
}

type slowWriter time.Duration

func (s slowWriter) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(s))
	return len(p), nil
}
