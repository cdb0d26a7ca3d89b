package node_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// run runs n and returns what Run returned, if that comes in time.
func run(ctx context.Context, t *testing.T, n *node.Node) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	select {
	case err := <-done:
		return err
	case <-time.After(nodetest.Timeout):
		t.Fatal("Run did not return")
		return nil
	}
}

func lifeConfig(t *testing.T) node.Config {
	cfg := node.DefaultConfig()
	cfg.Name, cfg.DataDir = "life", t.TempDir()
	cfg.Listen, cfg.AdminListen = "127.0.0.1:0", "127.0.0.1:0"
	return cfg
}

func TestStoppedBeforeItIsUp(t *testing.T) {
	n, err := node.New(node.WithConfig(lifeConfig(t)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, t, n); err != nil {
		t.Errorf("Run: %v, want nil after a stop that was asked for", err)
	}
}

// A handler that keeps the node's own bundle from the cache stops the node
// before it is up; stopping it then is no failure, and nothing is left behind.
func TestStoppedWhileItsOwnBundleWaits(t *testing.T) {
	cfg := lifeConfig(t)
	called := make(chan struct{}, 100)
	cfg.Handlers = []pipeline.Handler{{
		Name: "waits", Phase: pipeline.PhaseBundle,
		Func: func(context.Context, *pipeline.Context, *pipeline.Object) error {
			called <- struct{}{}
			return pipeline.Retry(errors.New("not yet"))
		},
	}}
	n, err := node.New(node.WithConfig(cfg))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-called; cancel() }()
	if err := run(ctx, t, n); err != nil {
		t.Errorf("Run: %v, want nil after a stop that was asked for", err)
	}
}

// A part that fails before the node is up ends Run, with the part's failure:
// here an inbox row that fails its checksum.
func TestDamagedInboxEndsRun(t *testing.T) {
	cfg := lifeConfig(t)
	n, err := node.New(node.WithConfig(cfg))
	if err != nil {
		t.Fatal(err)
	}
	self := n.RID()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cfg.DataDir, node.StoreFile)
	marker := []byte("marker-of-the-row-to-be-damaged")
	st, err := bolt.Open(bolt.Options{Path: path, NodeRID: self})
	if err != nil {
		t.Fatal(err)
	}
	err = st.Update(t.Context(), func(tx store.Writer) error {
		_, err := tx.AppendInbox(store.InboxRow{RID: note(1), Data: marker})
		return err
	})
	if err := errors.Join(err, st.Close()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, damage(t, data, marker), 0o600); err != nil {
		t.Fatal(err)
	}

	n, err = node.New(node.WithConfig(cfg))
	if err == nil {
		err = run(t.Context(), t, n)
	}
	if !errors.Is(err, store.ErrDamaged) {
		t.Errorf("%v, want %v", err, store.ErrDamaged)
	}
}

// damage flips a bit wherever marker stands.
func damage(t *testing.T, data, marker []byte) []byte {
	t.Helper()
	found := 0
	for i := 0; i+len(marker) <= len(data); i++ {
		if string(data[i:i+len(marker)]) == string(marker) {
			data[i] ^= 1
			found++
		}
	}
	if found == 0 {
		t.Fatal("the row is not in the file as it is")
	}
	return data
}
