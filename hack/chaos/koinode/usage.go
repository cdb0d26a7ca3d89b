package koinode

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Usage is what a node uses of the machine.
type Usage struct {
	RSS        int64 // bytes
	Files      int   // open descriptors
	Goroutines int   // -1 where the node does not tell
	Store      int64 // bytes on disk
}

// Usage asks the system (Linux) and the node's metrics.
func (n *Node) Usage(ctx context.Context) (Usage, error) {
	l, err := n.current()
	if err != nil {
		return Usage{}, err
	}
	var u Usage
	proc := filepath.Join("/proc", strconv.Itoa(l.cmd.Process.Pid))
	files, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return Usage{}, fmt.Errorf("the open files of %s: %w", n.Name, err)
	}
	u.Files = len(files)
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return Usage{}, fmt.Errorf("the memory of %s: %w", n.Name, err)
	}
	if u.RSS, err = rss(string(status)); err != nil {
		return Usage{}, fmt.Errorf("the memory of %s: %w", n.Name, err)
	}
	if u.Store, err = n.StoreBytes(); err != nil {
		return Usage{}, err
	}
	metrics, err := n.Metrics(ctx)
	if err != nil {
		return Usage{}, err
	}
	u.Goroutines = -1
	if g, ok := metrics["go_goroutines"]; ok {
		u.Goroutines = int(g)
	}
	return u, nil
}

// rss reads the anonymous memory of a process, in bytes: the mapped store is left
// out, which is the page cache's.
func rss(status string) (int64, error) {
	for line := range strings.Lines(status) {
		if text, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the system does not tell")
}

// Metrics are the node's metrics by name and labels, as they are written.
func (n *Node) Metrics(ctx context.Context) (map[string]float64, error) {
	l, err := n.current()
	if err != nil {
		return nil, err
	}
	text, err := n.get(ctx, l, "/metrics")
	if err != nil {
		return nil, err
	}
	return parseMetrics(strings.NewReader(text)), nil
}

func parseMetrics(r io.Reader) map[string]float64 {
	out := map[string]float64{}
	for s := bufio.NewScanner(r); s.Scan(); {
		i := strings.LastIndexByte(s.Text(), ' ')
		if i < 0 || strings.HasPrefix(s.Text(), "#") {
			continue
		}
		if v, err := strconv.ParseFloat(s.Text()[i+1:], 64); err == nil {
			out[s.Text()[:i]] = v
		}
	}
	return out
}

// Ready asks /readyz and returns its text.
func (n *Node) Ready(ctx context.Context) (ready bool, text string, err error) {
	l, err := n.current()
	if err != nil {
		return false, "", err
	}
	return l.admin.Readyz(ctx)
}

func (n *Node) get(ctx context.Context, l *life, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.adminURL+path, nil)
	if err != nil {
		return "", err
	}
	req.Close = true // it may be the last question to this life
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", n.Name, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", n.Name, err)
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("ask %s: %s answered %s", n.Name, path, res.Status)
	}
	return string(text), nil
}
