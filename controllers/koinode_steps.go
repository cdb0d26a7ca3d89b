package controllers

import (
	"context"
	"fmt"
	"net/netip"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/apply"
	"github.com/koi-net/koi-operator/controllers/internal/conditions"
	"github.com/koi-net/koi-operator/controllers/internal/observe"
	"github.com/koi-net/koi-operator/controllers/internal/resources"
	"github.com/koi-net/koi-operator/controllers/internal/secrets"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// validate holds the spec to what the CRD's rules cannot say.
func (r *nodeReconciler) validate(_ context.Context, v *visit) error {
	n := v.node
	bad := func(field string, err error) error {
		return conditions.Stall(v1alpha1.ReasonInvalidSpec, "spec.%s: %v", field, err)
	}
	types := append([]v1alpha1.RIDType(nil), n.Spec.Interests...)
	if p := n.Spec.Provides; p != nil {
		types = append(append(types, p.Event...), p.State...)
	}
	for _, t := range types {
		if t == "*" {
			continue
		}
		if _, err := rid.ParseType(string(t)); err != nil {
			return bad("interests or provides", err)
		}
	}
	if p := n.Spec.Provides; p != nil {
		for _, t := range append(append([]v1alpha1.RIDType(nil), p.Event...), p.State...) {
			if t == "*" {
				return bad("provides", fmt.Errorf("%q is for interests: name what the node provides", t))
			}
		}
	}
	if s := n.Spec.Security; s != nil {
		for _, c := range s.AllowedPeerCIDRs {
			if _, err := netip.ParsePrefix(c); err != nil {
				return bad("security.allowedPeerCIDRs", err)
			}
		}
	}
	if e := n.Spec.External; e != nil {
		_, id, err := rid.SplitNode(rid.RID(e.RID))
		if err != nil {
			return bad("external.rid", err)
		}
		if e.PublicKey != "" && rid.KeyID(e.PublicKey) != id {
			return bad("external.publicKey", fmt.Errorf("it is not the key of %s", e.RID))
		}
	}
	return nil
}

// identity reads the node's identity, and makes it where the node never had
// one. What is there is never changed.
func (r *nodeReconciler) identity(ctx context.Context, v *visit) error {
	n, name := v.node, v.node.IdentitySecretName()
	secret, err := r.secret(ctx, n.Namespace, name)
	if err != nil {
		return err
	}
	if secret == nil {
		return r.newIdentity(ctx, v)
	}
	if other := secret.Labels[v1alpha1.LabelNode]; other != "" && other != n.Name {
		return conditions.Stall(v1alpha1.ReasonConflict, "the Secret %s holds the identity of the KoiNode %s", name, other)
	}
	if secret.DeletionTimestamp != nil {
		return conditions.Wait(v1alpha1.ReasonCleaningUp, "the Secret %s is being removed", name)
	}
	id, err := secrets.ReadIdentity(secret.Data, n.IsUnsigned())
	if err != nil {
		return conditions.Stall(v1alpha1.ReasonIdentityMismatch, "the Secret %s is not usable: %v; restore it from a backup", name, err)
	}
	had := n.Status.RID
	if had != "" && had != string(id.RID) {
		return conditions.Stall(v1alpha1.ReasonIdentityMismatch,
			"the Secret %s holds %s, and this node is %s: restore the Secret, or make another KoiNode for the other identity", name, id.RID, had)
	}
	if in, _, err := rid.SplitNode(id.RID); err != nil || in != n.RIDName() {
		return conditions.Stall(v1alpha1.ReasonIdentityMismatch,
			"the Secret %s holds %s, whose name is not %q: set spec.identity.name, or name another Secret", name, id.RID, n.RIDName())
	}
	v.next.RID = string(id.RID)
	if id.PublicKey != "" {
		v.next.PublicKey = id.PublicKey
	}
	return nil
}

func (r *nodeReconciler) newIdentity(ctx context.Context, v *visit) error {
	n := v.node
	if n.Status.RID != "" {
		return conditions.Stall(v1alpha1.ReasonIdentityLost,
			"the Secret %s with the identity of %s is gone: restore it from a backup; without it the node can never be this node again", n.IdentitySecretName(), n.Status.RID)
	}
	id, data, err := secrets.NewIdentity(n.RIDName(), n.IsUnsigned())
	if err != nil {
		return err
	}
	if err := r.client.Create(ctx, resources.IdentitySecret(n, data), client.FieldOwner(apply.FieldManager)); err != nil {
		return fmt.Errorf("make the identity Secret: %w", err)
	}
	v.next.RID, v.next.PublicKey = string(id.RID), id.PublicKey
	return nil
}

// secret reads a Secret from the cache, and past it where it is not the
// operator's; nil if there is none.
func (r *nodeReconciler) secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	var s corev1.Secret
	key := client.ObjectKey{Namespace: namespace, Name: name}
	err := r.client.Get(ctx, key, &s)
	if apierrors.IsNotFound(err) {
		err = r.live.Get(ctx, key, &s)
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s: %w", name, err)
	}
	return &s, nil
}

func (r *nodeReconciler) firstContact(ctx context.Context, v *visit) error {
	contact, missing, err := r.refs.Contact(ctx, v.node)
	if err != nil {
		return err
	}
	v.contact, v.missing = contact, missing
	return nil
}

// image decides what the node runs: what the spec says, else what it ran
// before, else the operator's default.
func (r *nodeReconciler) image(ctx context.Context, v *visit) error {
	n, latest := v.node, r.options.NodeImage
	switch {
	case n.Spec.Image != "":
		v.next.Image = n.Spec.Image
		return nil
	case n.Status.Image != "":
		v.next.Image = n.Status.Image
	default:
		running, err := r.runningImage(ctx, n)
		if err != nil {
			return err
		}
		if v.next.Image = running; running == "" {
			v.next.Image = latest
		}
	}
	if v.next.Image == latest {
		return nil
	}
	reason := v1alpha1.ReasonUpgradeAvailable
	if upgradesItself(n) {
		mine, err := r.upgradeTurn(ctx, n)
		if err != nil {
			return err
		}
		if mine {
			v.next.Image = latest
			return nil
		}
		reason = v1alpha1.ReasonUpgradePending
		v.again = r.options.Interval / 10
	}
	v.more = append(v.more, conditions.UpgradeAvailable(reason, v.next.Image, latest))
	return nil
}

// upgradesItself tells whether the node goes over to the default image by itself.
func upgradesItself(n *v1alpha1.KoiNode) bool {
	return n.Spec.Upgrade == v1alpha1.UpgradeAutomatic && n.Spec.Image == "" && !n.IsExternal()
}

// upgradeTurn tells whether it is the node's turn to be upgraded: no other node
// is on its way to the default image. A node that does not become ready there
// holds the turn, so a bad image stops at one node. Who is on its way is read
// off the objects, so an operator that ended in the middle of an upgrade goes on
// with that node.
func (r *nodeReconciler) upgradeTurn(ctx context.Context, n *v1alpha1.KoiNode) (bool, error) {
	key, latest := client.ObjectKeyFromObject(n), r.options.NodeImage
	if r.upgrades.others(key) {
		return false, nil
	}
	var all v1alpha1.KoiNodeList
	if err := r.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("list the nodes being upgraded: %w", err)
	}
	running, err := r.runningImages(ctx)
	if err != nil {
		return false, err
	}
	if running[key] == latest {
		return r.upgrades.take(key), nil
	}
	for i := range all.Items {
		o := &all.Items[i]
		if o.UID == n.UID || !upgradesItself(o) || o.DeletionTimestamp != nil {
			continue
		}
		s := conditions.Of(o.Status.Conditions)
		moves := s != nil && (s.Kind == conditions.Waiting || s.Kind == conditions.Stalled)
		there := o.Status.Image == latest
		if there && moves || !there && running[client.ObjectKeyFromObject(o)] == latest {
			return false, nil
		}
	}
	return r.upgrades.take(key), nil
}

// runningImages are the images of all nodes' Deployments, by the names of their
// nodes.
func (r *nodeReconciler) runningImages(ctx context.Context) (map[types.NamespacedName]string, error) {
	var all appsv1.DeploymentList
	if err := r.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list the images nodes run: %w", err)
	}
	out := make(map[types.NamespacedName]string, len(all.Items))
	for i := range all.Items {
		d := &all.Items[i]
		out[types.NamespacedName{Namespace: d.Namespace, Name: d.Labels[v1alpha1.LabelNode]}] = imageOf(d)
	}
	return out, nil
}

// imageOf is the image of a Deployment's node.
func imageOf(d *appsv1.Deployment) string {
	for i := range d.Spec.Template.Spec.Containers {
		if c := &d.Spec.Template.Spec.Containers[i]; c.Name == resources.ContainerName {
			return c.Image
		}
	}
	return ""
}

// runningImage is the image of the node's Deployment, for a KoiNode whose
// status was lost.
func (r *nodeReconciler) runningImage(ctx context.Context, n *v1alpha1.KoiNode) (string, error) {
	found, err := r.applier.Find(ctx, n, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name}})
	if err != nil {
		return "", err
	}
	if d, ok := found.(*appsv1.Deployment); ok {
		return imageOf(d), nil
	}
	return "", nil
}

func (r *nodeReconciler) configure(_ context.Context, v *visit) error {
	config, err := r.configs.of(v.node, v.contact)
	if err != nil {
		return err
	}
	v.config, v.hash = config, resources.ConfigHash(config)
	v.next.BaseURL = v.node.EffectiveBaseURL()
	return nil
}

// children applies what the node is made of, what the pod needs before the
// pod.
func (r *nodeReconciler) children(ctx context.Context, v *visit) error {
	n := v.node
	deployment, err := resources.Deployment(n, resources.Run{Image: v.next.Image, ConfigHash: v.hash})
	if err != nil {
		return err
	}
	want := []client.Object{resources.ServiceAccount(n), resources.ConfigMap(n, v.config)}
	if err := r.claim(ctx, v); err != nil {
		return err
	}
	if service := resources.Service(n); service != nil {
		want = append(want, service)
	}
	policy := resources.NetworkPolicy(n, r.options.Namespace)
	if policy != nil {
		want = append(want, policy)
	} else if _, err := r.applier.Remove(ctx, n, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name}}); err != nil {
		return err
	}
	for _, o := range append(want, deployment) {
		live, changed, err := r.applier.Apply(ctx, n, o)
		if err != nil {
			return err
		}
		if d, ok := live.(*appsv1.Deployment); ok && !changed {
			v.facts.Deployment = d
		}
	}
	return nil
}

// claim applies the claim of the node's volume. It is never asked to shrink:
// Kubernetes would refuse, and a claim that was kept may be larger than the spec
// of the KoiNode that adopts it. It grows once it is bound, because until then
// it cannot be changed. A storage class that does not expand its volumes is
// reported, and the node goes on with what it has.
func (r *nodeReconciler) claim(ctx context.Context, v *visit) error {
	n := v.node
	claim := resources.Claim(n)
	if claim == nil {
		return nil
	}
	found, err := r.applier.Find(ctx, n, claim)
	if err != nil {
		return err
	}
	grows := false
	want := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	have := want
	if live, ok := found.(*corev1.PersistentVolumeClaim); ok {
		have = live.Spec.Resources.Requests[corev1.ResourceStorage]
		grows = want.Cmp(have) > 0 && live.Status.Phase == corev1.ClaimBound
		if !grows {
			claim.Spec.Resources.Requests[corev1.ResourceStorage] = have
		}
	}
	_, _, err = r.applier.Apply(ctx, n, claim)
	if grows && (apierrors.IsForbidden(err) || apierrors.IsInvalid(err)) && !namespaceGoes(err) {
		v.refused = conditions.Stall(v1alpha1.ReasonExpansionRefused,
			"the claim %s cannot grow from %s to %s, and the node goes on with what it has: %v; set spec.storage.size back, "+
				"or bring the store to a storage class that expands volumes", claim.Name, have.String(), want.String(), err)
		claim.Spec.Resources.Requests[corev1.ResourceStorage] = have
		_, _, err = r.applier.Apply(ctx, n, claim)
	}
	return err
}

// observe sees that the node is followed where it runs, and takes in what it
// said.
func (r *nodeReconciler) observe(ctx context.Context, v *visit) error {
	n, key := v.node, client.ObjectKeyFromObject(v.node)
	pods, url, err := r.follow(ctx, n, v.admin)
	if err != nil {
		return err
	}
	snapshot := r.observer.Snapshot(key)
	v.facts.Node, v.facts.RID, v.facts.ConfigHash = n, v.next.RID, v.hash
	v.facts.Pods, v.facts.Snapshot, v.facts.Asked = pods, snapshot, url != ""
	v.facts.Now, v.facts.Interval = r.options.Clock(), r.options.Interval
	r.contactReached(v, snapshot)
	if snapshot == nil || snapshot.At.IsZero() {
		v.keep(v1alpha1.ConditionStoreReplaced)
		return nil
	}
	v.next.Version = snapshot.Status.Version
	if v.next.PublicKey == "" {
		v.next.PublicKey = snapshot.Status.PublicKey
	}
	r.store(v, snapshot.Status.StoreID)
	return nil
}

// follow sees that the node is followed where it runs, with what its admin
// Secret holds. It returns its pods and where its admin API is, "" while it has
// no place.
func (r *nodeReconciler) follow(ctx context.Context, n *v1alpha1.KoiNode, admin map[string][]byte) ([]corev1.Pod, string, error) {
	key := client.ObjectKeyFromObject(n)
	pods, err := r.refs.Pods(ctx, n)
	if err != nil {
		return nil, "", err
	}
	url := ""
	if !n.Spec.Suspend {
		url = r.options.AdminURL(n, pods)
	}
	if url == "" {
		r.observer.Unfollow(key)
		return pods, "", nil
	}
	e := observe.Endpoint{URL: url, Token: string(admin[secrets.KeyToken]), CA: string(admin[secrets.KeyCert])}
	e.PreviousToken, e.PreviousCA = secrets.Previous(admin)
	if err := r.observer.Follow(key, e); err != nil {
		return nil, "", fmt.Errorf("follow the node at %s: %w", url, err)
	}
	return pods, url, nil
}

func (r *nodeReconciler) contactReached(v *visit, s *observe.Snapshot) {
	if v.node.Spec.FirstContact == nil {
		return
	}
	if s == nil && v.missing == "" {
		v.keep(v1alpha1.ConditionFirstContact)
		return
	}
	if c, ok := conditions.FirstContact(v.missing, s); ok {
		v.more = append(v.more, c)
	}
}

// keep carries a condition over that only a node's word can change.
func (v *visit) keep(kind string) {
	if c := meta.FindStatusCondition(v.node.Status.Conditions, kind); c != nil {
		v.more = append(v.more, *c)
	}
}

// store notices another store on lasting storage.
func (r *nodeReconciler) store(v *visit, id string) {
	was := v.next.StoreID
	if id == "" {
		return
	}
	if was == "" || was == id || v.node.IsEphemeral() || v.node.Annotations[v1alpha1.AnnotationAcceptStore] == id {
		v.next.StoreID = id
		return
	}
	v.more = append(v.more, conditions.StoreReplaced(was, id))
}

// count counts the edges a node is an end of.
func count(s *observe.Snapshot) *v1alpha1.NodeEdgeCounts {
	var c v1alpha1.NodeEdgeCounts
	for _, e := range s.Edges {
		switch {
		case e.Status == protocol.Approved:
			c.Approved++
		case !e.Refused:
			c.Proposed++
		}
	}
	return &c
}
