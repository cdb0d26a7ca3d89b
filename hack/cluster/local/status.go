package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Status says how the cluster is.
type Status struct {
	// Exists is true where anything of a cluster is there, running or not.
	Exists bool
	// Running are the daemons that run, with their process IDs.
	Running map[string]int
	// Faults say what is not as it should be; none means healthy.
	Faults []string
}

// Healthy is true when all daemons run, the API server serves and the node is ready.
func (s Status) Healthy() bool { return s.Exists && len(s.Faults) == 0 }

// Status looks at the daemons, the API server and the node, and changes nothing.
func (c *Cluster) Status(ctx context.Context) (Status, error) {
	running, err := processes(c.Run)
	if err != nil {
		return Status{}, err
	}
	out := Status{Exists: len(running) > 0, Running: map[string]int{}}
	s, err := readState(c.Run)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if out.Exists {
			out.Faults = append(out.Faults, "daemons run but their state file is gone")
		}
		return out, nil
	case err != nil:
		return Status{Exists: true, Faults: []string{err.Error()}}, nil
	}
	out.Exists = true
	all := c.daemons(s)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		program := filepath.Base(all[name].path)
		i := slices.IndexFunc(running, func(p process) bool { return p.name == program })
		if i < 0 {
			out.Faults = append(out.Faults, name+" is dead")
			continue
		}
		out.Running[name] = running[i].pid
	}
	a, err := c.newAPI()
	if err != nil {
		out.Faults = append(out.Faults, err.Error())
		return out, nil
	}
	defer a.close()
	if err := a.ready(ctx); err != nil {
		out.Faults = append(out.Faults, fmt.Sprintf("the API server does not serve: %v", err))
	} else if err := a.nodeReady(ctx); err != nil {
		out.Faults = append(out.Faults, err.Error())
	}
	return out, ctx.Err()
}
