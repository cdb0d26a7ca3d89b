package koinode

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/store/bolt"
)

// Bounds of single steps.
const (
	// Starting is how long a node may take until it is up, Stopping how long it
	// may take to stop in good order.
	Starting = 30 * time.Second
	Stopping = 30 * time.Second

	maxLog = 300 // lines of its log that are kept
)

// Build builds koi-node into a directory and returns its path.
func Build(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "koi-node")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/koi-net/koi-operator/cmd/koi-node")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return program, nil
}

// Node is one node, through all its lives. Kill and Alive may be called at any
// time; the rest is for one caller at a time.
type Node struct {
	// Name is for messages, and part of its RID.
	Name string
	// Data is its data directory.
	Data string

	program string
	args    []string

	mu     sync.Mutex
	life   *life
	log    []string
	starts int
}

// life is one process.
type life struct {
	cmd  *exec.Cmd
	up   chan struct{} // closed when it is up
	over chan struct{} // closed when it was waited for

	// Set before up is closed.
	rid, url, adminURL string
	admin              *client.Client
	err                error
}

// New returns a node that was not started. It keeps its data below dir; args are
// further arguments of "koi-node run". A full node keeps the address it is given
// here for all its lives; "--partial" among args makes a node without one.
func New(program, dir, name string, args ...string) (*Node, error) {
	n := &Node{Name: name, Data: filepath.Join(dir, name), program: program}
	n.args = append([]string{
		"run", "--name", name, "--data-dir", n.Data, "--admin-listen", "127.0.0.1:0",
		"--termination-log", "", "--log-format", "json",
	}, args...)
	if !slices.Contains(args, "--partial") {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		n.args = append(n.args, "--listen", fmt.Sprintf("127.0.0.1:%d", port))
	}
	return n, nil
}

// freePort returns a port below those that outgoing connections take theirs from,
// so that a node finds it free when it comes back.
func freePort() (int, error) {
	for range 1000 {
		port := 10_000 + rand.IntN(20_000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return port, nil
		}
	}
	return 0, errors.New("no free port for a node between 10000 and 30000")
}

// Start starts the node and waits until it is up.
func (n *Node) Start(ctx context.Context) error {
	if err := n.Begin(); err != nil {
		return err
	}
	return n.WaitUp(ctx)
}

// Begin starts the node and does not wait for it: it may be killed while it starts.
func (n *Node) Begin() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life != nil {
		return fmt.Errorf("start %s: it runs", n.Name)
	}
	cmd := exec.Command(n.program, n.args...)
	cmd.SysProcAttr = attributes()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	l := &life{cmd: cmd, up: make(chan struct{}), over: make(chan struct{})}
	n.life = l
	n.starts++
	go n.follow(l, stderr)
	return nil
}

// follow reads the log of a process to its end, and then waits for the process.
func (n *Node) follow(l *life, stderr io.Reader) {
	defer close(l.over)
	s := bufio.NewScanner(stderr)
	s.Buffer(nil, 1<<20)
	for up := false; s.Scan(); {
		n.mu.Lock()
		if n.log = append(n.log, s.Text()); len(n.log) > 2*maxLog {
			n.log = slices.Clone(n.log[maxLog:])
		}
		n.mu.Unlock()
		if !up && l.parse(s.Bytes()) {
			up = true
			close(l.up)
		}
	}
	_, _ = io.Copy(io.Discard, stderr) // a line beyond measure must not block it
	_ = l.cmd.Wait()                   // "signal: killed", and whatever it logged
}

// parse takes from the log where the node is, once it is up.
func (l *life) parse(line []byte) bool {
	var up struct {
		Msg     string
		RID     string
		BaseURL string
		Admin   net.TCPAddr
	}
	if json.Unmarshal(line, &up) != nil || up.Msg != "node up" {
		return false
	}
	l.rid, l.url, l.adminURL = up.RID, up.BaseURL, "http://"+up.Admin.String()
	l.admin, l.err = client.New(client.Options{URL: l.adminURL})
	return true
}

// current returns the process that runs, or an error.
func (n *Node) current() (*life, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life == nil {
		return nil, fmt.Errorf("%s does not run", n.Name)
	}
	return n.life, nil
}

// WaitUp waits until the node that was begun is up.
func (n *Node) WaitUp(ctx context.Context) error {
	l, err := n.current()
	if err != nil {
		return err
	}
	timer := time.NewTimer(Starting)
	defer timer.Stop()
	select {
	case <-l.up:
		return l.err
	case <-l.over:
		select {
		case <-l.up: // and went at once
			return l.err
		default:
		}
		return fmt.Errorf("%s ended before it was up: %s", n.Name, l.cmd.ProcessState)
	case <-timer.C:
		return fmt.Errorf("%s is not up after %s", n.Name, Starting)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Alive reports whether the process runs.
func (n *Node) Alive() bool {
	l, err := n.current()
	if err != nil {
		return false
	}
	select {
	case <-l.over:
		return false
	default:
		return true
	}
}

// Kill ends the process by SIGKILL and waits for its end. It may be called when
// there is none.
func (n *Node) Kill() {
	n.mu.Lock()
	l := n.life
	n.mu.Unlock()
	if l == nil {
		return
	}
	_ = l.cmd.Process.Kill() // gone already: as good
	<-l.over
	n.forget(l)
}

func (n *Node) forget(l *life) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life == l {
		n.life = nil
		if l.admin != nil {
			l.admin.CloseIdleConnections()
		}
	}
}

// Stop asks the process to end and waits for it; it has to end well, and in time.
func (n *Node) Stop() error {
	l, err := n.current()
	if err != nil {
		return err
	}
	defer n.forget(l)
	_ = l.cmd.Process.Signal(syscall.SIGTERM) // it may have ended: what it said tells
	select {
	case <-l.over:
	case <-time.After(Stopping):
		_ = l.cmd.Process.Kill()
		<-l.over
		return fmt.Errorf("%s does not stop", n.Name)
	}
	if !l.cmd.ProcessState.Success() {
		return fmt.Errorf("%s ended with %s", n.Name, l.cmd.ProcessState)
	}
	return nil
}

// Admin returns a client of the admin API of the present process, which is up.
func (n *Node) Admin() *client.Client {
	l, err := n.current()
	if err != nil {
		return nil
	}
	return l.admin
}

// RID is the node's RID, once it was up.
func (n *Node) RID() rid.RID {
	l, err := n.current()
	if err != nil {
		return ""
	}
	return rid.RID(l.rid)
}

// URL is the node's base URL, "" for a partial one; it stays the same.
func (n *Node) URL() string {
	l, err := n.current()
	if err != nil {
		return ""
	}
	return l.url
}

// Starts is how often it was started.
func (n *Node) Starts() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.starts
}

// Log returns the end of what the node logged, lives before the present one
// included.
func (n *Node) Log() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.log[max(0, len(n.log)-maxLog):], "\n")
}

// Remains is what a dead node left.
type Remains struct {
	Inbox   int // accepted and not processed
	Waiting int // events for others
}

// CheckStore opens the store of a node that does not run, checks all of it, and
// says what waits in it.
func (n *Node) CheckStore(ctx context.Context) (r Remains, err error) {
	path := filepath.Join(n.Data, "koi.db")
	s, err := bolt.Open(bolt.Options{Path: path})
	if errors.Is(err, store.ErrNotFound) {
		return Remains{}, nil // it died before it made one
	}
	if err != nil {
		return Remains{}, fmt.Errorf("what %s left: %w", n.Name, err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.Check(ctx); err != nil {
		return Remains{}, fmt.Errorf("what %s left: %w", n.Name, err)
	}
	err = s.View(ctx, func(tx store.Reader) error {
		var err error
		if r.Inbox, err = tx.InboxLen(); err != nil {
			return err
		}
		for _, q := range []store.Queue{store.Outbox, store.PollQueue} {
			queues, err := tx.Queues(q)
			if err != nil {
				return err
			}
			for _, stats := range queues {
				r.Waiting += stats.Rows
			}
		}
		return nil
	})
	if err != nil {
		return Remains{}, fmt.Errorf("what %s left: %w", n.Name, err)
	}
	return r, nil
}

// StoreBytes is the size of the node's store.
func (n *Node) StoreBytes() (int64, error) {
	st, err := os.Stat(filepath.Join(n.Data, "koi.db"))
	if err != nil {
		return 0, fmt.Errorf("the store of %s: %w", n.Name, err)
	}
	return st.Size(), nil
}
