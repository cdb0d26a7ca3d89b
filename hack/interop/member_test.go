//go:build interop

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/hack/interop/peers"
	"github.com/koi-net/koi-operator/hack/interop/reference"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/rid"
)

// Bounds of single steps.
const (
	starting = 60 * time.Second
	stopping = 20 * time.Second
	calling  = 10 * time.Second
)

// role is what a node of a net is to be.
type role struct {
	name        string
	full        bool
	coordinator bool
	provides    []rid.Type
	interests   []rid.Type
	contact     *contact
}

// contact is the node to shake hands with first.
type contact struct {
	url  string
	rid  rid.RID
	ours bool
}

// bundle is what a cache holds of an RID.
type bundle struct {
	hash     string
	contents json.RawMessage
}

// member is a node of a net, ours or theirs, as a process.
type member interface {
	// start starts it, or starts it again on its own data and address.
	start(ctx context.Context) error
	// stop ends it as a person does; kill ends it at once.
	stop(ctx context.Context) error
	kill()
	// alive tells whether the process runs.
	alive() bool

	name() string
	rid() rid.RID
	url() string
	put(ctx context.Context, r rid.RID, contents string) error
	forget(ctx context.Context, r rid.RID) error
	get(ctx context.Context, r rid.RID) (*bundle, error)
	// propose proposes an edge to source, which it has to know.
	propose(ctx context.Context, source rid.RID, types ...rid.Type) error
	nodes(ctx context.Context) ([]rid.RID, error)
	// edge returns the status of an edge in its cache, "" where there is none.
	edge(ctx context.Context, source, target rid.RID) (string, error)
	log() string
}

// theirs is a node of the reference.
type theirs struct {
	environment reference.Environment
	dir         string
	config      peers.Config
	*peers.Process
}

func newTheirs(e reference.Environment, dir string, r role) *theirs {
	c := peers.Config{
		Name: r.name, Full: r.full, Coordinator: r.coordinator,
		Event: r.provides, State: r.provides, Interests: r.interests,
	}
	if r.full {
		c.Port = freePort()
	}
	if r.contact != nil {
		c.FirstContactURL, c.FirstContactRID = r.contact.url, r.contact.rid
	}
	return &theirs{environment: e, dir: filepath.Join(dir, r.name), config: c}
}

func (m *theirs) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, starting)
	defer cancel()
	p, err := peers.Start(ctx, m.environment.Command, m.environment.Release.Script, m.dir, m.config)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, lastOf(filepath.Join(m.dir, "peer.log"), 40))
	}
	m.Process = p
	return nil
}

// startOver starts it as a newcomer: with its key, without what it knew.
func (m *theirs) startOver(ctx context.Context) error {
	if err := os.RemoveAll(filepath.Join(m.dir, ".rid_cache")); err != nil {
		return err
	}
	return m.start(ctx)
}

// wasUnknown tells whether a node answered that it does not know this one.
func (m *theirs) wasUnknown() bool {
	text, err := os.ReadFile(filepath.Join(m.dir, "peer.log"))
	return err == nil && strings.Contains(string(text), "unknown_node")
}

func (m *theirs) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopping)
	defer cancel()
	return m.Stop(ctx)
}

func (m *theirs) kill() {
	if m.Process != nil {
		m.Kill()
	}
}

func (m *theirs) alive() bool {
	select {
	case <-m.Exited():
		return false
	default:
		return true
	}
}

func (m *theirs) name() string { return m.config.Name }
func (m *theirs) rid() rid.RID { return m.RID }
func (m *theirs) url() string  { return m.URL }

func (m *theirs) put(ctx context.Context, r rid.RID, contents string) error {
	ctx, cancel := context.WithTimeout(ctx, calling)
	defer cancel()
	_, err := m.Put(ctx, r, json.RawMessage(contents))
	return err
}

func (m *theirs) forget(ctx context.Context, r rid.RID) error {
	ctx, cancel := context.WithTimeout(ctx, calling)
	defer cancel()
	return m.Forget(ctx, r)
}

func (m *theirs) get(ctx context.Context, r rid.RID) (*bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, calling)
	defer cancel()
	b, found, err := m.Get(ctx, r)
	if err != nil || !found {
		return nil, err
	}
	return &bundle{hash: b.Manifest.Hash, contents: b.Contents}, nil
}

func (m *theirs) propose(ctx context.Context, source rid.RID, types ...rid.Type) error {
	ctx, cancel := context.WithTimeout(ctx, calling)
	defer cancel()
	// A second proposal would take an approved edge a step back.
	if status, err := m.edge(ctx, source, m.RID); status != "" || err != nil {
		return err
	}
	return m.Propose(ctx, source, types...)
}

func (m *theirs) nodes(ctx context.Context) ([]rid.RID, error) {
	ctx, cancel := context.WithTimeout(ctx, calling)
	defer cancel()
	return m.Nodes(ctx)
}

func (m *theirs) edge(ctx context.Context, source, target rid.RID) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, calling)
	defer cancel()
	all, err := m.Edges(ctx)
	for _, e := range all {
		if e.Source == source && e.Target == target {
			return e.Status, nil
		}
	}
	return "", err
}

func (m *theirs) log() string { return lastOf(filepath.Join(m.dir, "peer.log"), 80) }

// ours is a koi-node.
type ours struct {
	dir, nodeName string
	args          []string
	cmd           *exec.Cmd
	exited        chan struct{}
	admin         *client.Client
	status        client.Status
}

func newOurs(dir string, r role, more ...string) *ours {
	m := &ours{dir: filepath.Join(dir, r.name), nodeName: r.name}
	m.args = append([]string{
		"run", "--name", r.name, "--data-dir", filepath.Join(m.dir, "data"), "--admin-listen", "127.0.0.1:0", "--log-format", "json", "--log-level", "debug",
		"--poll-interval", "300ms", "--check-interval", "2s", "--retry-cap", "1s",
		"--interest", join(r.interests),
	}, more...)
	if len(r.provides) > 0 {
		m.args = append(m.args, "--provides-event", join(r.provides), "--provides-state", join(r.provides))
	}
	if r.full {
		m.args = append(m.args, "--listen", fmt.Sprintf("127.0.0.1:%d", freePort()))
	} else {
		m.args = append(m.args, "--partial")
	}
	if r.coordinator {
		m.args = append(m.args, "--coordinator")
	}
	if r.contact != nil {
		m.args = append(m.args, "--first-contact", r.contact.url)
		if !r.contact.ours {
			// A node of ours tells who it is when asked, one of theirs does not.
			m.args = append(m.args, "--first-contact-rid", string(r.contact.rid))
		}
	}
	return m
}

func join(types []rid.Type) string {
	var out []string
	for _, t := range types {
		out = append(out, string(t))
	}
	return strings.Join(out, ",")
}

func (m *ours) start(ctx context.Context) error {
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(m.dir, "koi-node.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), suite.koiNode, m.args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	addresses, exited := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(exited)
		// The log says where the node listens.
		file, err := os.OpenFile(log.Name(), os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			panic(err)
		}
		defer file.Close()
		for s := bufio.NewScanner(stderr); s.Scan(); {
			fmt.Fprintln(file, s.Text())
			var line struct {
				Msg   string
				Admin net.TCPAddr
			}
			if json.Unmarshal(s.Bytes(), &line) == nil && line.Msg == "node up" {
				addresses <- line.Admin.String()
			}
		}
		_ = cmd.Wait()
	}()
	m.cmd, m.exited = cmd, exited
	ctx, cancel := context.WithTimeout(ctx, starting)
	defer cancel()
	select {
	case address := <-addresses:
		if m.admin, err = client.New(client.Options{URL: "http://" + address}); err != nil {
			return err
		}
		m.status, err = m.admin.Status(ctx)
		return err
	case <-exited:
		return fmt.Errorf("%s does not start:\n%s", m.nodeName, m.log())
	case <-ctx.Done():
		return fmt.Errorf("%s is not up:\n%s", m.nodeName, m.log())
	}
}

func (m *ours) stop(context.Context) error {
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-m.exited:
		return nil
	case <-time.After(stopping):
		m.kill()
		return fmt.Errorf("%s does not stop", m.nodeName)
	}
}

func (m *ours) kill() {
	if m.cmd != nil {
		_ = syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL)
		<-m.exited
	}
}

func (m *ours) alive() bool {
	select {
	case <-m.exited:
		return false
	default:
		return true
	}
}

func (m *ours) name() string { return m.nodeName }
func (m *ours) rid() rid.RID { return m.status.RID }
func (m *ours) url() string  { return m.status.BaseURL }

func (m *ours) put(ctx context.Context, r rid.RID, contents string) error {
	_, err := m.admin.Put(ctx, r, json.RawMessage(contents))
	return err
}

func (m *ours) forget(ctx context.Context, r rid.RID) error { return m.admin.Forget(ctx, r) }

func (m *ours) get(ctx context.Context, r rid.RID) (*bundle, error) {
	b, err := m.admin.Bundle(ctx, r)
	if errors.Is(err, client.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &bundle{hash: b.Manifest.SHA256Hash, contents: b.Contents}, nil
}

func (m *ours) propose(ctx context.Context, source rid.RID, types ...rid.Type) error {
	_, err := m.admin.Propose(ctx, client.Proposal{Source: source, RIDTypes: types})
	return err
}

func (m *ours) nodes(ctx context.Context) ([]rid.RID, error) {
	list, err := m.admin.Nodes(ctx)
	var out []rid.RID
	for _, n := range list {
		out = append(out, n.RID)
	}
	return out, err
}

func (m *ours) edge(ctx context.Context, source, target rid.RID) (string, error) {
	list, err := m.admin.Edges(ctx, false)
	for _, e := range list.Edges {
		if e.Source == source && e.Target == target {
			return string(e.Status), nil
		}
	}
	return "", err
}

func (m *ours) log() string { return lastOf(filepath.Join(m.dir, "koi-node.log"), 80) }

// routine are what nodes log all the time, and what nobody asks for after a failure.
var routine = []string{"/events/poll", "Request to poll events, returning 0", "Polled 0 events", "Response code 200", "Request from 127.0.0.1"}

// lastOf returns the end of a log, without what is routine.
func lastOf(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := slices.DeleteFunc(strings.Split(strings.TrimRight(string(text), "\n"), "\n"), func(line string) bool {
		return slices.ContainsFunc(routine, func(r string) bool { return strings.Contains(line, r) })
	})
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// ports gives every node an address of its own, below the range that outgoing
// connections take theirs from, so that a node finds it free when it returns.
var ports struct {
	sync.Mutex
	next int
}

func freePort() int {
	ports.Lock()
	defer ports.Unlock()
	if ports.next == 0 {
		ports.next = 20000 + rand.IntN(8000)
	}
	for {
		ports.next++
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ports.next))
		if err == nil {
			l.Close()
			return ports.next
		}
	}
}

// sameJSON compares two documents by value: numbers as numbers, whatever they
// look like, and the members of objects in any order.
func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	return reflect.DeepEqual(decoded(t, a), decoded(t, b))
}

func decoded(t *testing.T, text string) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return plain(v)
}

func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		r, ok := new(big.Rat).SetString(v.String())
		if !ok {
			return v.String()
		}
		return r.RatString()
	case map[string]any:
		for k := range v {
			v[k] = plain(v[k])
		}
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	}
	return v
}

// knows tells whether a node is in a member's cache.
func knows(ctx context.Context, m, other member) (bool, string) {
	all, err := m.nodes(ctx)
	if err != nil {
		return false, err.Error()
	}
	return slices.Contains(all, other.rid()), fmt.Sprintf("%s knows %v", m.name(), all)
}
