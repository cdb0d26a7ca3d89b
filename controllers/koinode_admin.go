package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/apply"
	"github.com/koi-net/koi-operator/controllers/internal/resources"
	"github.com/koi-net/koi-operator/controllers/internal/secrets"
)

// adminSecret sees that the way to the node's admin API has its token and
// certificate, and replaces them when it is time. The node takes up the new
// ones while it runs; until it was seen to, the previous ones stand beside them.
func (r *nodeReconciler) adminSecret(ctx context.Context, v *visit) error {
	found, err := r.applier.Find(ctx, v.node, resources.AdminSecret(v.node, nil))
	if err != nil {
		return err
	}
	secret, ok := found.(*corev1.Secret)
	if !ok {
		return r.newAdminSecret(ctx, v)
	}
	asked := v.node.Annotations[v1alpha1.AnnotationRotateAdmin]
	rotation := secrets.Rotation{
		Now:   r.options.Clock(),
		Asked: asked != "" && asked != secret.Annotations[v1alpha1.AnnotationRotateAdmin],
		InUse: r.observer.Current(client.ObjectKeyFromObject(v.node), string(secret.Data[secrets.KeyToken])),
	}
	next, why, err := rotation.Next(secret.Data)
	if err != nil {
		return err
	}
	if next == nil {
		v.admin = secret.Data
		return nil
	}
	secret.Data = next
	noteRequest(secret, asked)
	// Against the version that was read: who acts on an old one starts anew.
	if err := r.client.Update(ctx, secret, client.FieldOwner(apply.FieldManager)); err != nil {
		return fmt.Errorf("renew the admin Secret: %w", err)
	}
	ctrl.LoggerFrom(ctx).Info("admin Secret changed", "secret", secret.Name, "because", why)
	v.admin = next
	return nil
}

// newAdminSecret makes the Secret of a new node, or of one whose Secret was
// deleted: that one still goes by what it has.
func (r *nodeReconciler) newAdminSecret(ctx context.Context, v *visit) error {
	var before map[string][]byte
	if e, ok := r.observer.Endpoint(client.ObjectKeyFromObject(v.node)); ok {
		before = map[string][]byte{secrets.KeyToken: []byte(e.Token), secrets.KeyCert: []byte(e.CA)}
		if e.PreviousToken != "" {
			before[secrets.KeyPreviousToken], before[secrets.KeyPreviousCert] = []byte(e.PreviousToken), []byte(e.PreviousCA)
		}
	}
	data, err := secrets.Succeed(before, r.options.Clock())
	if err != nil {
		return err
	}
	secret := resources.AdminSecret(v.node, data)
	noteRequest(secret, v.node.Annotations[v1alpha1.AnnotationRotateAdmin])
	if err := r.client.Create(ctx, secret, client.FieldOwner(apply.FieldManager)); err != nil {
		return fmt.Errorf("make the admin Secret: %w", err)
	}
	v.admin = data
	return nil
}

// noteRequest writes down which request for a rotation was carried out.
func noteRequest(secret *corev1.Secret, asked string) {
	if asked == "" {
		return
	}
	if secret.Annotations == nil {
		secret.Annotations = map[string]string{}
	}
	secret.Annotations[v1alpha1.AnnotationRotateAdmin] = asked
}
