package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	adminclient "github.com/koi-net/koi-operator/node/admin/client"
)

// shownEvents bounds the Events that status shows.
const shownEvents = 5

// fare is what is known of how a node fares, from every side.
type fare struct {
	Node       string              `json:"node"`
	Namespace  string              `json:"namespace"`
	Ready      bool                `json:"ready"`
	Conditions []metav1.Condition  `json:"conditions"`
	Pods       []podFare           `json:"pods"`
	Events     []string            `json:"events"`
	Says       *adminclient.Status `json:"says,omitempty"`
	// Silent is why the node was not asked, or did not answer.
	Silent string `json:"silent,omitempty"`
}

type podFare struct {
	Name     string   `json:"name"`
	Phase    string   `json:"phase"`
	Restarts int32    `json:"restarts"`
	Troubles []string `json:"troubles,omitempty"`
}

func (a *App) status() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status NODE",
		Short: "Say how a node fares, and why it is not Ready",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.Clients()
			if err != nil {
				return err
			}
			n, err := c.node(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			f := c.fare(cmd.Context(), n)
			if done, err := a.structured(f); done {
				return err
			}
			_, err = fmt.Fprint(a.Out, f.text())
			return err
		},
		ValidArgsFunction: a.completeNodes,
	}
	return a.formatted(cmd)
}

// fare asks all sides. What one of them does not tell is left out, or said.
func (c *Clients) fare(ctx context.Context, n *v1alpha1.KoiNode) fare {
	f := fare{
		Node: n.Name, Namespace: n.Namespace, Conditions: n.Status.Conditions,
		Ready: meta.IsStatusConditionTrue(n.Status.Conditions, v1alpha1.ConditionReady),
	}
	pods, err := c.Core.CoreV1().Pods(n.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.Set{v1alpha1.LabelNode: n.Name}.String()})
	if err == nil {
		for i := range pods.Items {
			f.Pods = append(f.Pods, farePod(&pods.Items[i]))
		}
	}
	events, err := c.Core.CoreV1().Events(n.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.Set{"involvedObject.kind": "KoiNode", "involvedObject.name": n.Name}.String(), Limit: 500,
	})
	if err == nil {
		slices.SortFunc(events.Items, func(a, b corev1.Event) int { return when(&b).Compare(when(&a).Time) })
		for i := range events.Items[:min(len(events.Items), shownEvents)] {
			e := &events.Items[i]
			f.Events = append(f.Events, fmt.Sprintf("%s %s: %s", age(when(e)), e.Reason, oneLine(e.Message)))
		}
	}
	api, _, done, err := c.Node(ctx, n)
	if err != nil {
		f.Silent = err.Error()
		return f
	}
	defer func() { _ = done() }() // the way is not needed any more
	st, err := api.Status(ctx)
	if err != nil {
		f.Silent = err.Error()
		return f
	}
	f.Says = &st
	return f
}

// when is the time of an Event, whichever of its fields holds it.
func when(e *corev1.Event) metav1.Time {
	switch {
	case e.Series != nil:
		return metav1.Time(e.Series.LastObservedTime)
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp
	}
	return metav1.Time(e.EventTime)
}

func farePod(p *corev1.Pod) podFare {
	f := podFare{Name: p.Name, Phase: string(p.Status.Phase)}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			f.Troubles = append(f.Troubles, "not scheduled: "+oneLine(c.Message))
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		f.Restarts += s.RestartCount
		if w := s.State.Waiting; w != nil {
			f.Troubles = append(f.Troubles, strings.TrimSuffix(fmt.Sprintf("%s waits, %s: %s", s.Name, w.Reason, oneLine(w.Message)), ": "))
		}
		if t := s.LastTerminationState.Terminated; t != nil && s.State.Running == nil {
			f.Troubles = append(f.Troubles, strings.TrimSuffix(fmt.Sprintf("%s ended with %d, %s: %s", s.Name, t.ExitCode, t.Reason, oneLine(t.Message)), ": "))
		}
	}
	return f
}

// text is the answer for a person: the verdict first, then what it rests on.
func (f fare) text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	verdict := "is not Ready"
	switch {
	case f.Ready:
		verdict = "is Ready"
	case meta.IsStatusConditionTrue(f.Conditions, v1alpha1.ConditionSuspended):
		verdict = "is suspended"
	case len(f.Conditions) == 0:
		verdict = "was not seen by the operator yet: does it run, and does it watch this namespace?"
	}
	line("%s/%s %s", f.Namespace, f.Node, verdict)
	for _, kind := range []string{v1alpha1.ConditionStalled, v1alpha1.ConditionReconciling, v1alpha1.ConditionReady} {
		c := meta.FindStatusCondition(f.Conditions, kind)
		if c != nil && (c.Status == metav1.ConditionTrue) == (kind != v1alpha1.ConditionReady) {
			line("  %s: %s", c.Reason, oneLine(c.Message))
			break // the others repeat it
		}
	}
	for _, c := range f.Conditions {
		switch c.Type {
		case v1alpha1.ConditionReady, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled, v1alpha1.ConditionSuspended:
			continue
		}
		line("  %s=%s, %s: %s", c.Type, c.Status, c.Reason, oneLine(c.Message))
	}
	for _, p := range f.Pods {
		line("pod %s: %s, %d restarts", p.Name, p.Phase, p.Restarts)
		for _, t := range p.Troubles {
			line("  %s", t)
		}
	}
	if s := f.Says; s != nil {
		line("the node says: ready %t, %d bundles, %d objects wait, version %s", s.Ready, s.Bundles, s.Inbox, s.Version)
		for _, check := range s.Checks {
			if !check.OK {
				line("  %s: %s", check.Name, oneLine(check.Message))
			}
		}
		if fc := s.FirstContact; fc != nil && !fc.Reached {
			line("  its first contact is not reached: %s", oneLine(fc.Message))
		}
		for _, q := range s.Queues {
			if q.LastError != "" {
				line("  %d events wait for %s: %s", q.Rows, q.Peer, oneLine(q.LastError))
			}
		}
	} else {
		line("the node was not asked: %s", oneLine(f.Silent))
	}
	if len(f.Events) > 0 {
		line("Events:")
		for _, e := range f.Events {
			line("  %s", e)
		}
	}
	return b.String()
}
