package node_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/nodetest"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

const afterwards = rid.RID(noteType + ":afterwards")

// A backup of a node at work holds all that the node had answered for when it began,
// and a node goes on from it as the same one.
func TestBackupOfARunningNode(t *testing.T) {
	f := nodetest.NewFleet(t)
	dir := t.TempDir()
	n := f.Start("source", node.WithDataDir(dir), node.WithProvides(noteType))
	reader := f.Start("reader", node.WithInterests(noteType), node.WithFirstContact(n.URL()))
	reader.WaitEdge(n.RID(), reader.RID(), protocol.Approved)
	for i := range 200 {
		n.Put(note(i), fmt.Sprintf(`{"n":%d}`, i))
	}
	ctx, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 200; ctx.Err() == nil; i++ {
			_, err := n.Node.Put(ctx, note(i), []byte(`{"later":true}`)) // the backup may have it or not
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	var backup bytes.Buffer
	size, err := n.Admin.Backup(t.Context(), &backup)
	stop()
	writer.Wait()
	if err != nil || size != int64(backup.Len()) {
		t.Fatalf("%d bytes of %d, %v", size, backup.Len(), err)
	}
	before, err := n.Admin.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n.Put(afterwards, `{"lost":true}`)
	reader.WaitBundle(afterwards, `{"lost":true}`)
	n.Stop()

	fresh := t.TempDir()
	if err := os.CopyFS(filepath.Join(fresh, "identity"), os.DirFS(filepath.Join(dir, "identity"))); err != nil {
		t.Fatal(err)
	}
	done, err := bolt.Restore(t.Context(), &backup, filepath.Join(fresh, node.StoreFile), bolt.RestoreOptions{NodeRID: n.RID()})
	if err != nil {
		t.Fatal(err)
	}
	n = n.Restart(node.WithDataDir(fresh), func(c *node.Config) { c.IdentityDir = "" })
	after, err := n.Admin.Status(t.Context())
	if err != nil || after.RID != before.RID || after.StoreID != before.StoreID || after.StoreID != done.Info.ID {
		t.Errorf("it is %s with store %s, was %s with %s, %v", after.RID, after.StoreID, before.RID, before.StoreID, err)
	}
	for i := range 200 {
		if _, err := n.Bundle(t.Context(), note(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Bundle(t.Context(), afterwards); err == nil {
		t.Error("a backup holds what came after it")
	}
	// Its subscribers go on with it, and what it puts anew is newer than what they have.
	n.Put(afterwards, `{"lost":false}`)
	reader.WaitBundle(afterwards, `{"lost":false}`)
}

// A node that stops waits for nobody who reads a backup slowly.
func TestStopEndsABackup(t *testing.T) {
	f := nodetest.NewFleet(t)
	n := f.Start("source", node.WithProvides(noteType), func(c *node.Config) { c.ShutdownTimeout = 5 * time.Minute })
	var rids []rid.RID
	for from := 0; from < 400; from += 40 {
		body, more := large(t, from, 40)
		if status, text := call(t, http.MethodPost, n.URL()+"/events/broadcast", body); status != http.StatusOK {
			t.Fatal(status, text)
		}
		rids = append(rids, more...)
	}
	if err := n.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", n.AdminAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /admin/v1/backup HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	n.Stop() // fails where it takes as long as it may
	n = n.Restart()
	if _, err := n.Bundle(t.Context(), rids[0]); err != nil {
		t.Error(err)
	}
}
