package conditions

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// Kind is the manner in which an object rests or does not.
type Kind int

// Kinds of a State.
const (
	// Ready: confirmed.
	Ready Kind = iota
	// Waiting: the operator works or waits, and goes on by itself.
	Waiting
	// Stalled: nothing changes until a person acts.
	Stalled
	// Suspended: it rests because the spec says so.
	Suspended
)

// State sums up an object. A State that is not Ready serves as the error of a
// step that could not go on.
type State struct {
	Kind    Kind
	Reason  string
	Message string
}

// Error returns the reason and the message.
func (s *State) Error() string { return s.Reason + ": " + s.Message }

// Wait makes a State that goes on by itself.
func Wait(reason, format string, args ...any) *State {
	return &State{Kind: Waiting, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Stall makes a State that needs a person.
func Stall(reason, format string, args ...any) *State {
	return &State{Kind: Stalled, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Suspend makes the State of a suspended object.
func Suspend(format string, args ...any) *State {
	return &State{Kind: Suspended, Reason: v1alpha1.ReasonSuspended, Message: fmt.Sprintf(format, args...)}
}

// Rest makes the State of an object that is as it should be.
func Rest(reason, format string, args ...any) *State {
	return &State{Kind: Ready, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// maxMessage is what the API allows a condition's message.
const maxMessage = 32768

// Set returns the conditions of an object in the given state, further ones
// appended. Transition times are taken over from old where the status is the
// same.
func Set(old []metav1.Condition, generation int64, now time.Time, s *State, more ...metav1.Condition) []metav1.Condition {
	var out []metav1.Condition
	add := func(c metav1.Condition) {
		if len(c.Message) > maxMessage {
			c.Message = c.Message[:maxMessage]
		}
		c.ObservedGeneration = generation
		c.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
		if was := meta.FindStatusCondition(old, c.Type); was != nil && was.Status == c.Status {
			c.LastTransitionTime = was.LastTransitionTime
		}
		out = append(out, c)
	}
	with := func(kind string, status metav1.ConditionStatus) {
		add(metav1.Condition{Type: kind, Status: status, Reason: s.Reason, Message: s.Message})
	}
	switch s.Kind {
	case Ready:
		with(v1alpha1.ConditionReady, metav1.ConditionTrue)
	case Waiting:
		with(v1alpha1.ConditionReady, metav1.ConditionFalse)
		with(v1alpha1.ConditionReconciling, metav1.ConditionTrue)
	case Stalled:
		with(v1alpha1.ConditionReady, metav1.ConditionFalse)
		with(v1alpha1.ConditionStalled, metav1.ConditionTrue)
	case Suspended:
		with(v1alpha1.ConditionSuspended, metav1.ConditionTrue)
	}
	for _, c := range more {
		add(c)
	}
	return out
}

// Of returns the state that conditions speak of, nil if they speak of none.
func Of(conditions []metav1.Condition) *State {
	state := func(k Kind, c *metav1.Condition) *State {
		return &State{Kind: k, Reason: c.Reason, Message: c.Message}
	}
	if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionSuspended); c != nil {
		return state(Suspended, c)
	}
	c := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
	switch {
	case c == nil:
		return nil
	case c.Status == metav1.ConditionTrue:
		return state(Ready, c)
	case meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionStalled):
		return state(Stalled, c)
	}
	return state(Waiting, c)
}
