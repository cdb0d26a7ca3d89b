package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/controllers/internal/conditions"
)

// callTimeout bounds one call that changes a node.
const callTimeout = 5 * time.Second

// retry ends a Reconcile that failed. A conflict only says that the cache is
// behind; what wrote the object may be nothing the predicates pass, so the next
// look is asked for here. An object that is gone needs none, nor does one whose
// namespace is going, which takes it along, nor one whose operator is ending.
func retry(err error) (ctrl.Result, error) {
	switch {
	case apierrors.IsConflict(err):
		return ctrl.Result{RequeueAfter: 100 * time.Millisecond}, nil
	case apierrors.IsNotFound(err), namespaceGoes(err), errors.Is(err, context.Canceled):
		return ctrl.Result{}, nil
	}
	return ctrl.Result{}, err
}

// namespaceGoes tells whether the API server refused to make something because
// its namespace is being deleted.
func namespaceGoes(err error) bool {
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// since is how long ago the deletion of o was asked for, or, where that was
// longer ago, how long the operator has been at work: one that was away gives
// the nodes their time all the same.
func since(o client.Object, begun, now time.Time) time.Duration {
	from := begun
	if t := o.GetDeletionTimestamp(); t != nil && t.After(from) {
		from = t.Time
	}
	return now.Sub(from)
}

// setFinalizer writes the object's finalizers if change changes them.
func setFinalizer(ctx context.Context, c client.Client, o client.Object, name string, change func(client.Object, string) bool) error {
	base := o.DeepCopyObject().(client.Object)
	if !change(o, name) {
		return nil
	}
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := c.Patch(ctx, o, patch); err != nil {
		return fmt.Errorf("set the finalizers of %s: %w", o.GetName(), err)
	}
	return nil
}

// announce makes an Event and a line in the log of a change of state.
func announce(ctx context.Context, recorder events.EventRecorder, o client.Object, before, now *conditions.State) {
	if before != nil && before.Kind == now.Kind && before.Reason == now.Reason {
		return
	}
	kind := corev1.EventTypeNormal
	if now.Kind == conditions.Stalled {
		kind = corev1.EventTypeWarning
	}
	const most = 1000 // the API allows 1024
	note := now.Message
	if len(note) > most {
		note = note[:most] + "…"
	}
	recorder.Eventf(o, nil, kind, now.Reason, "Reconcile", "%s", note)
	ctrl.LoggerFrom(ctx).Info("state changed", "reason", now.Reason, "message", note)
}
