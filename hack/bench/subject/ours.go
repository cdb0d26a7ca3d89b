package subject

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// seedBatch is how many bundles Seed puts into one transaction.
const seedBatch = 5_000

// Build builds koi-node as the Makefile does and returns its path, in dir.
func Build(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "koi-node")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "github.com/koi-net/koi-operator/cmd/koi-node")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build koi-node: %w\n%s", err, out)
	}
	return program, nil
}

// Ours is a koi-node, with its defaults but for the addresses it listens on and
// what it provides.
type Ours struct {
	program, dir string
	args         []string
	id           identity.Identity
	listen       string
	admin        *client.Client
	adminURL     string
	*process
}

// NewOurs prepares a node in a directory: its identity is made, and nothing runs.
func NewOurs(program, dir string, provides []rid.Type) (*Ours, error) {
	id, _, err := identity.LoadOrCreate(filepath.Join(dir, "data", "identity"), "bench", false)
	if err != nil {
		return nil, err
	}
	o := &Ours{program: program, dir: dir, id: id}
	for _, t := range provides {
		o.args = append(o.args, "--provides-event", string(t), "--provides-state", string(t))
	}
	return o, nil
}

func (o *Ours) data() string { return filepath.Join(o.dir, "data") }

// Open opens the store of the node, which must not run.
func (o *Ours) Open() (store.Store, error) {
	return bolt.Open(bolt.Options{Path: filepath.Join(o.data(), "koi.db"), NodeRID: o.id.RID, Create: true})
}

// Seed implements Node. The bundles go into the store in large transactions.
func (o *Ours) Seed(ctx context.Context, source rid.RID, bundles iter.Seq2[protocol.Bundle, error]) (err error) {
	s, err := o.Open()
	if err != nil {
		return err
	}
	defer func() {
		if e := s.Close(); err == nil {
			err = e
		}
	}()
	batch := make([]protocol.Bundle, 0, seedBatch)
	flush := func() error {
		err := s.Update(ctx, func(w store.Writer) error {
			for _, b := range batch {
				if err := w.PutBundle(store.Record{Bundle: b, Source: string(source)}); err != nil {
					return err
				}
			}
			return nil
		})
		batch = batch[:0]
		return err
	}
	for b, err := range bundles {
		if err != nil {
			return err
		}
		if batch = append(batch, b); len(batch) == seedBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// Start implements Node: it returns when /readyz says so.
func (o *Ours) Start(ctx context.Context) error {
	listen, err := freeAddress()
	if err != nil {
		return err
	}
	admin, err := freeAddress()
	if err != nil {
		return err
	}
	o.listen, o.adminURL = listen, "http://"+admin
	if o.admin, err = client.New(client.Options{URL: o.adminURL}); err != nil {
		return err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), o.program, append([]string{
		"run", "--data-dir", o.data(), "--listen", listen, "--admin-listen", admin}, o.args...)...)
	if o.process, err = start(cmd, filepath.Join(o.dir, "koi-node.log")); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := o.until(ctx, "koi-node is ready", time.Millisecond, o.ready); err != nil {
		o.Stop()
		return err
	}
	return nil
}

// ready asks /readyz.
func (o *Ours) ready(ctx context.Context) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.adminURL+"/readyz", http.NoBody)
	if err != nil {
		return false, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK, nil
}

// Stop implements Node.
func (o *Ours) Stop() {
	if o.process != nil {
		o.end()
		o.admin.CloseIdleConnections()
		http.DefaultClient.CloseIdleConnections()
		o.process = nil
	}
}

// RID implements Node.
func (o *Ours) RID() rid.RID { return o.id.RID }

// URL implements Node.
func (o *Ours) URL() string { return "http://" + o.listen + "/koi-net" }

// Status asks the node how it fares.
func (o *Ours) Status(ctx context.Context) (client.Status, error) { return o.admin.Status(ctx) }

// Cached implements Node: the node counts its bundles as they come.
func (o *Ours) Cached(ctx context.Context) (int, error) {
	st, err := o.admin.Status(ctx)
	return st.Bundles, err
}

// WaitCached implements Node.
func (o *Ours) WaitCached(ctx context.Context, bundles int) error {
	return o.until(ctx, fmt.Sprintf("%d bundles are cached", bundles), 2*time.Millisecond, func(ctx context.Context) (bool, error) {
		st, err := o.admin.Status(ctx)
		return st.Bundles >= bundles && st.Inbox == 0, err
	})
}

// WaitFor implements Node.
func (o *Ours) WaitFor(ctx context.Context, r rid.RID) error {
	return o.until(ctx, string(r)+" is cached", time.Millisecond, func(ctx context.Context) (bool, error) {
		_, err := o.admin.Bundle(ctx, r)
		return err == nil, err
	})
}

// StoreBytes implements Node.
func (o *Ours) StoreBytes() (int64, error) { return DiskBytes(o.data()) }
