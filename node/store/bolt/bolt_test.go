package bolt_test

import (
	"io"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
	"github.com/koi-net/koi-operator/node/store/storetest"
)

const self = "orn:koi-net.node:self+0000"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	in := func(t *testing.T, dir string) store.Store { return open(t, filepath.Join(dir, "koi.db")) }
	storetest.Run(t, in, func(t *testing.T, backup io.Reader, dir string) store.Store {
		if _, err := bolt.Restore(t.Context(), backup, filepath.Join(dir, "koi.db"), bolt.RestoreOptions{NodeRID: self}); err != nil {
			t.Fatalf("Restore: %v", err)
		}
		return in(t, dir)
	})
}
