package finalize

import "time"

// Bounds of how long an object's end may take.
const (
	// LeaveTimeout bounds a node's farewell to its neighbours.
	LeaveTimeout = 10 * time.Second
	// ForgetPatience is how long the ends of an edge are asked to forget it.
	ForgetPatience = 20 * time.Second
	// RetryAfter is the pause between two attempts.
	RetryAfter = 2 * time.Second
	// ConfirmAfter is the pause before an end that forgot is asked whether it did.
	ConfirmAfter = 500 * time.Millisecond
)

// NodeFacts is what is known about a KoiNode that is to go.
type NodeFacts struct {
	External  bool
	Suspended bool
	// Reachable: its admin API answered within the last interval.
	Reachable bool
	// Unheard: it is being asked for the first time and has neither answered nor
	// failed to, because the operator has just begun.
	Unheard bool
	// Since is how long ago the deletion was asked for, or the operator began if
	// that was later.
	Since time.Duration

	KeepStorage  bool
	KeepIdentity bool
	// OwnIdentity: the operator made the identity Secret.
	OwnIdentity bool
}

// NodePlan is what happens before the KoiNode goes. The finalizer is released
// when it was carried out once, whatever the node answered.
type NodePlan struct {
	// Wait: nothing happens now; ask again after RetryAfter, or when the node is heard.
	Wait           bool
	Leave          bool
	DeleteStorage  bool
	DeleteIdentity bool
}

// Node decides the end of a KoiNode.
func Node(f NodeFacts) NodePlan {
	if f.External {
		return NodePlan{}
	}
	inTime := !f.Suspended && f.Since < LeaveTimeout
	if inTime && !f.Reachable && f.Unheard {
		return NodePlan{Wait: true}
	}
	return NodePlan{
		Leave:          inTime && f.Reachable,
		DeleteStorage:  !f.KeepStorage,
		DeleteIdentity: !f.KeepIdentity && f.OwnIdentity,
	}
}

// EndFacts is what is known about one end of an edge that is to go.
type EndFacts struct {
	// Steered: the end is a node of the edge's namespace that the operator runs.
	Steered bool
	// Going: it is being deleted itself, and takes its leave of everybody.
	Going     bool
	Suspended bool
	Reachable bool
	// Knows: it still has the edge, or holds a decision of the object.
	Knows bool
}

// EdgeFacts is what is known about a KoiEdge that is to go.
type EdgeFacts struct {
	// Kept: deletionPolicy is Retain.
	Kept bool
	// Loser: another object holds the pair.
	Loser  bool
	Since  time.Duration
	Source EndFacts
	Target EndFacts
}

// EdgePlan says which ends have to forget the edge before it goes.
type EdgePlan struct {
	Source, Target bool
	// Wait: another end may answer soon; ask again after RetryAfter.
	Wait bool
	// Done: release the finalizer now.
	Done bool
}

// Edge decides the end of a KoiEdge.
func Edge(f EdgeFacts) EdgePlan {
	if f.Kept || f.Loser || f.Since >= ForgetPatience {
		return EdgePlan{Done: true}
	}
	p := EdgePlan{Source: asks(f.Source), Target: asks(f.Target), Wait: waits(f.Source) || waits(f.Target)}
	p.Done = !p.Source && !p.Target && !p.Wait
	return p
}

// asks: the end can be asked to forget.
func asks(e EndFacts) bool {
	return e.Steered && !e.Going && !e.Suspended && e.Reachable && e.Knows
}

// waits: the end may answer soon, and is given until ForgetPatience.
func waits(e EndFacts) bool {
	return e.Steered && !e.Going && !e.Suspended && !e.Reachable
}
