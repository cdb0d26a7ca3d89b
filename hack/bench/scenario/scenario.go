package scenario

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/koi-net/koi-operator/hack/bench/load"
	"github.com/koi-net/koi-operator/hack/bench/report"
	"github.com/koi-net/koi-operator/hack/bench/subject"
	"github.com/koi-net/koi-operator/hack/interop/reference"
	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// deadline bounds a case that names no other.
const deadline = 3 * time.Minute

// Env is what cases run in.
type Env struct {
	// Dir is where nodes have their data, on a real file system.
	Dir string
	// Program is koi-node.
	Program string
	// First and Newest are the environments of the first and the newest release of the
	// reference; without them only cases of ours are there.
	First, Newest *reference.Environment
	// Short bounds every case to a few seconds.
	Short bool
	// Large has the cases with a million bundles run too.
	Large bool
}

// Case is one thing to measure.
type Case struct {
	Group, Load, Node string
	// Deadline bounds the run.
	Deadline time.Duration
	run      func(ctx context.Context, dir string) ([]report.Row, error)
}

// Name is what a case is chosen by.
func (c Case) Name() string { return c.Group + "/" + c.Load + "/" + c.Node }

// Run runs the case and leaves nothing behind.
func (c Case) Run(ctx context.Context, e *Env) (rows []report.Row, err error) {
	dir, err := os.MkdirTemp(e.Dir, "case-")
	if err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	defer func() {
		if e := os.RemoveAll(dir); err == nil {
			err = e
		}
	}()
	if c.Deadline == 0 {
		c.Deadline = deadline
	}
	ctx, cancel := context.WithTimeout(ctx, c.Deadline)
	defer cancel()
	return c.run(ctx, dir)
}

// Cases returns everything there is to measure, group by group.
func Cases(e *Env) []Case {
	all := slices.Concat(e.limitCases(), e.broadcastCases(), e.stateCases(), e.graphCases(), e.fanOutCases(), e.startCases(), e.idleCases())
	if e.Large {
		all = append(all, e.largeCase())
	}
	return all
}

// Groups returns the tables of the report.
func Groups() []report.Group {
	return []report.Group{limitsGroup, broadcastGroup, stateGroup, graphGroup, fanOutGroup, startGroup, idleGroup}
}

// pace is how many requests of a load a node is given, so that it takes seconds:
// ours, then the first and the newest release as shipped and quiet.
type pace struct{ ours, first, firstQuiet, newest, newestQuiet int }

// of returns the figure for a contender.
func (p pace) of(c contender) int {
	switch {
	case c.ours == "":
		return p.ours
	case c.signed && c.quiet:
		return p.newestQuiet
	case c.signed:
		return p.newest
	case c.quiet:
		return p.firstQuiet
	}
	return p.first
}

// Names of nodes of ours in the report.
const (
	oursUnsigned = "koi-node, unsigned"
	oursSigned   = "koi-node, signed"
	oursAlone    = "koi-node" // where the generation makes no difference
)

// contender is one kind of node that a load is put on.
type contender struct {
	name string
	// ours is the contender of ours it is compared with; empty for one of ours.
	ours   string
	signed bool
	quiet  bool // of the reference: its logging is silenced
	// prepare makes a node, which does not run, in a directory.
	prepare func(ctx context.Context, dir string) (subject.Node, error)
}

// contenders returns the nodes that are there.
func (e *Env) contenders() []contender {
	ours := func(_ context.Context, dir string) (subject.Node, error) {
		return subject.NewOurs(e.Program, dir, provided)
	}
	all := []contender{{name: oursUnsigned, prepare: ours}, {name: oursSigned, signed: true, prepare: ours}}
	for _, env := range []*reference.Environment{e.First, e.Newest} {
		if env == nil {
			continue
		}
		for _, quiet := range []bool{false, true} {
			c := contender{name: ReferenceName(env.Release, quiet), ours: oursUnsigned, signed: env.Release.Signed, quiet: quiet}
			if c.signed {
				c.ours = oursSigned
			}
			c.prepare = func(ctx context.Context, dir string) (subject.Node, error) {
				return subject.NewReference(ctx, *env, *e.Newest, dir, quiet, provided)
			}
			all = append(all, c)
		}
	}
	return all
}

// provided are the types whose events and state nodes under load give out.
var provided = []rid.Type{load.NoteType}

// ReferenceName names a node of the reference in the report.
func ReferenceName(r reference.Release, quiet bool) string {
	if quiet {
		return r.Version + ", quiet"
	}
	return r.Version + " as shipped"
}

// speaker makes the client that loads come from, a node that the subject knows:
// it is seeded, so this is called before the subject starts. Its words are signed
// where the contender's are.
func (c contender) speaker(ctx context.Context, n subject.Node) (load.Speaker, error) {
	id, err := identity.Generate("client", !c.signed)
	if err != nil {
		return load.Speaker{}, err
	}
	profile, err := load.PartialNode(id)
	if err != nil {
		return load.Speaker{}, err
	}
	source := id.RID
	if !c.signed {
		source = "unsigned"
	}
	err = n.Seed(ctx, source, func(yield func(protocol.Bundle, error) bool) { yield(profile, nil) })
	return load.Speaker{Self: id, To: n.RID()}, err
}

// pick returns a figure for a full run, or the one for a short run.
func (e *Env) pick(full, short int) int {
	if e.Short {
		return short
	}
	return full
}

// memory adds what a node used to a row.
func memory(values map[string]float64, u subject.Usage) {
	values["anon"] = report.MiB(u.End.Anonymous)
	values["peak"] = report.MiB(u.PeakAnonymous)
	values["file"] = report.MiB(u.End.File)
}

// memoryColumns are the columns that memory fills.
var memoryColumns = []report.Column{
	{Key: "anon", Title: "RssAnon MiB", Lower: true},
	{Key: "peak", Title: "highest", Lower: true},
	{Key: "file", Title: "RssFile MiB", Lower: true},
}
