package peers

import (
	"bufio"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/koi-net/koi-operator/node/rid"
)

// maxAnswer bounds one line of the control channel.
const maxAnswer = 16 << 20

//go:embed *.py
var programs embed.FS

// Config is what a node is to be.
type Config struct {
	// Name is the name in its RID.
	Name string `json:"name"`
	// Full makes it a full node that listens on Port of 127.0.0.1.
	Full bool `json:"full"`
	Port int  `json:"port,omitempty"`
	// Coordinator makes it answer handshakes.
	Coordinator bool `json:"coordinator"`
	// FirstContactURL is where it shakes hands first; the signed generation
	// needs the RID of who is there as well.
	FirstContactURL string  `json:"first_contact_url,omitempty"`
	FirstContactRID rid.RID `json:"first_contact_rid,omitempty"`
	// Event and State are what it provides, Interests what it subscribes to.
	Event     []rid.Type `json:"event,omitempty"`
	State     []rid.Type `json:"state,omitempty"`
	Interests []rid.Type `json:"interests,omitempty"`
}

// Edge is an edge in a node's cache.
type Edge struct {
	RID      rid.RID    `json:"rid"`
	Source   rid.RID    `json:"source"`
	Target   rid.RID    `json:"target"`
	EdgeType string     `json:"edge_type"`
	Status   string     `json:"status"`
	RIDTypes []rid.Type `json:"rid_types"`
}

// Manifest is the manifest of a bundle, as the node wrote it.
type Manifest struct {
	RID       rid.RID `json:"rid"`
	Timestamp string  `json:"timestamp"`
	Hash      string  `json:"sha256_hash"`
}

// Bundle is a bundle in a node's cache.
type Bundle struct {
	Manifest Manifest        `json:"manifest"`
	Contents json.RawMessage `json:"contents"`
}

// ErrExited says that the process has ended.
var ErrExited = errors.New("the process has ended")

// Process is a running node. Its methods may be called side by side.
type Process struct {
	// RID and URL are what the node calls itself; a partial node has no URL.
	RID rid.RID `json:"rid"`
	URL string  `json:"url"`

	log     string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers chan answer
	exited  chan struct{}
	result  error // of the process, once exited is closed

	mu   sync.Mutex // one request at a time
	last int
}

// answer is a line that a program writes.
type answer struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  string          `json:"error"`
}

// Start runs a program of this package in dir, which keeps what the node
// writes from one run to the next, and waits until the node is up. python
// prepares a run of the environment's interpreter; ctx bounds the start alone.
func Start(ctx context.Context, python func(ctx context.Context, args ...string) *exec.Cmd, program, dir string, cfg Config) (*Process, error) {
	settings, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("settings of %s: %w", cfg.Name, err)
	}
	if err := unpack(filepath.Join(dir, "program")); err != nil {
		return nil, err
	}
	p := &Process{log: filepath.Join(dir, "peer.log"), answers: make(chan answer, 1), exited: make(chan struct{})}
	// The process outlives ctx: it ends by Stop, by Kill, or with this one.
	p.cmd = python(context.WithoutCancel(ctx), filepath.Join(dir, "program", program), string(settings))
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), "PRIV_KEY_PASSWORD=interop", "PYTHONNOUSERSITE=1", "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.Name, err)
	}
	if err := p.receive(ctx, 0, p); err != nil {
		p.Kill()
		return nil, fmt.Errorf("start %s: %w", cfg.Name, err)
	}
	return p, nil
}

// unpack writes the programs out.
func unpack(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("unpack the programs: %w", err)
	}
	if err := os.CopyFS(dir, programs); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("unpack the programs: %w", err)
	}
	return nil
}

// start runs the process and follows its output until it ends.
func (p *Process) start() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	p.cmd.Stderr = log
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() {
		p.follow(stdout)
		p.result = p.cmd.Wait()
		close(p.exited)
	}()
	return nil
}

// follow hands on answers until the output ends. An answer that nobody took
// gives way to the next.
func (p *Process) follow(stdout io.Reader) {
	s := bufio.NewScanner(stdout)
	s.Buffer(nil, maxAnswer)
	for s.Scan() {
		var a answer
		if err := json.Unmarshal(s.Bytes(), &a); err != nil {
			a = answer{ID: -1, Error: fmt.Sprintf("not an answer: %.200q", s.Text())}
		}
		select {
		case <-p.answers:
		default:
		}
		p.answers <- a
	}
	// A line too long for the scanner must not block the process.
	_, _ = io.Copy(io.Discard, stdout)
}

// receive waits for the answer to a request.
func (p *Process) receive(ctx context.Context, id int, into any) error {
	for {
		select {
		case a := <-p.answers:
			switch {
			case a.ID >= 0 && a.ID != id:
				continue // to a request that was given up
			case a.Error != "":
				return errors.New(a.Error)
			case into == nil:
				return nil
			}
			return json.Unmarshal(a.Result, into)
		case <-p.exited:
			return fmt.Errorf("%w: %w", ErrExited, p.exitError())
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w", context.Cause(ctx))
		}
	}
}

// exitError tells how the process ended, which exit code 0 does not undo.
func (p *Process) exitError() error {
	if p.result == nil {
		return errors.New("exit status 0")
	}
	return p.result
}

// call sends a request and waits for its answer.
func (p *Process) call(ctx context.Context, op string, fields map[string]any, into any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	request := map[string]any{"id": p.last, "op": op}
	for k, v := range fields {
		request[k] = v
	}
	line, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if _, err := p.stdin.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("%s: %w: %w", op, ErrExited, err)
	}
	if err := p.receive(ctx, p.last, into); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// Put makes the node handle a bundle of its own and returns its manifest.
func (p *Process) Put(ctx context.Context, r rid.RID, contents json.RawMessage) (Manifest, error) {
	var m Manifest
	err := p.call(ctx, "put", map[string]any{"rid": r, "contents": contents}, &m)
	return m, err
}

// Forget makes the node forget an RID.
func (p *Process) Forget(ctx context.Context, r rid.RID) error {
	return p.call(ctx, "forget", map[string]any{"rid": r}, nil)
}

// Get reads a bundle from the node's cache; found is false where there is none.
func (p *Process) Get(ctx context.Context, r rid.RID) (b Bundle, found bool, err error) {
	var held *Bundle
	if err := p.call(ctx, "get", map[string]any{"rid": r}, &held); err != nil || held == nil {
		return Bundle{}, false, err
	}
	return *held, true, nil
}

// RIDs lists the node's cache.
func (p *Process) RIDs(ctx context.Context) ([]rid.RID, error) {
	var out []rid.RID
	err := p.call(ctx, "rids", nil, &out)
	return out, err
}

// Nodes lists the nodes in the node's cache, itself included.
func (p *Process) Nodes(ctx context.Context) ([]rid.RID, error) {
	var out []rid.RID
	err := p.call(ctx, "nodes", nil, &out)
	return out, err
}

// Edges lists the edges in the node's cache.
func (p *Process) Edges(ctx context.Context) ([]Edge, error) {
	var out []Edge
	err := p.call(ctx, "edges", nil, &out)
	return out, err
}

// Receive makes the node handle an event as if the node named by source had
// sent it; event is an event of the protocol.
func (p *Process) Receive(ctx context.Context, source rid.RID, event json.RawMessage) error {
	return p.call(ctx, "receive", map[string]any{"source": source, "event": event}, nil)
}

// Propose makes the node propose an edge from source to itself.
func (p *Process) Propose(ctx context.Context, source rid.RID, types ...rid.Type) error {
	return p.call(ctx, "propose", map[string]any{"source": source, "rid_types": types}, nil)
}

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Stop ends the node as a person at a terminal does and waits for it; a node
// that has not ended when ctx does is killed, and that is an error.
func (p *Process) Stop(ctx context.Context) error {
	p.mu.Lock()
	_, err := io.WriteString(p.stdin, `{"op":"stop"}`+"\n")
	p.mu.Unlock()
	if err != nil {
		p.Kill()
		return fmt.Errorf("stop: %w", err)
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("stop: still running: %w", context.Cause(ctx))
	}
}

// Kill ends the process and all it started, at once, and waits for that.
func (p *Process) Kill() {
	// Errors mean that it is gone already.
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.exited
	p.stdin.Close()
}

// Log returns the end of what the node and its libraries logged.
func (p *Process) Log(lines int) string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}
