package bolt_test

import (
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
	storetest.Run(t, func(t *testing.T, dir string) store.Store {
		s, err := bolt.Open(bolt.Options{Path: filepath.Join(dir, "koi.db"), NodeRID: self, Create: true})
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		return s
	})
}
