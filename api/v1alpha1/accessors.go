package v1alpha1

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// maxRequest is how much of AnnotationReconcile is told in the status, in bytes.
const maxRequest = 256

// ReconcileRequest returns what AnnotationReconcile of an object with these
// annotations asks for, cut to what the status holds; "" for nothing.
func ReconcileRequest(annotations map[string]string) string {
	value := annotations[AnnotationReconcile]
	if len(value) > maxRequest {
		value = value[:maxRequest]
	}
	return strings.ToValidUTF8(value, "")
}

// IsExternal tells whether the node runs elsewhere.
func (n *KoiNode) IsExternal() bool { return n.Spec.External != nil }

// IsPartial tells whether the node serves nothing and polls.
func (n *KoiNode) IsPartial() bool { return n.Spec.NodeType == NodePartial }

// IsUnsigned tells whether the node has a RID without a key.
func (n *KoiNode) IsUnsigned() bool {
	return n.Spec.Security != nil && n.Spec.Security.Mode == SecurityUnsigned
}

// IsEphemeral tells whether the node's store goes with its pod.
func (n *KoiNode) IsEphemeral() bool { return n.Spec.Storage != nil && n.Spec.Storage.Ephemeral }

// RIDName returns the <name> in the node's RID.
func (n *KoiNode) RIDName() string {
	if n.Spec.Identity != nil && n.Spec.Identity.Name != "" {
		return n.Spec.Identity.Name
	}
	return n.Name
}

// IdentitySecretName returns the name of the Secret with the node's identity.
func (n *KoiNode) IdentitySecretName() string {
	if n.Spec.Identity != nil && n.Spec.Identity.SecretName != "" {
		return n.Spec.Identity.SecretName
	}
	return n.Name + "-identity"
}

// AdminSecretName returns the name of the Secret with the admin token and certificate.
func (n *KoiNode) AdminSecretName() string { return n.Name + "-admin" }

// ClaimName returns the name of the volume claim with the node's store.
func (n *KoiNode) ClaimName() string { return n.Name + "-data" }

// ConfigMapName returns the name of the ConfigMap with the node's configuration.
func (n *KoiNode) ConfigMapName() string { return n.Name + "-config" }

// EffectiveBaseURL returns the URL below which peers find the node: the one in the spec or
// that of its Service; "" for a Partial node.
func (n *KoiNode) EffectiveBaseURL() string {
	switch {
	case n.IsExternal():
		return strings.TrimSuffix(n.Spec.External.BaseURL, "/")
	case n.IsPartial():
		return ""
	case n.Spec.BaseURL != "":
		return strings.TrimSuffix(n.Spec.BaseURL, "/")
	}
	return "http://" + n.Name + "." + n.Namespace + ".svc:8000/koi-net"
}

// KeepsIdentity tells whether the identity Secret outlives the KoiNode.
func (n *KoiNode) KeepsIdentity() bool {
	return n.Spec.Identity == nil || n.Spec.Identity.DeletionPolicy != DeletionDelete
}

// KeepsStorage tells whether the volume claim outlives the KoiNode.
func (n *KoiNode) KeepsStorage() bool {
	return n.Spec.Storage == nil || n.Spec.Storage.DeletionPolicy != DeletionDelete
}

// MirrorsEdges tells whether edges found in the network become KoiEdges.
func (n *KoiNode) MirrorsEdges() bool {
	return !n.IsExternal() && (n.Spec.Edges == nil || n.Spec.Edges.Discovery != DiscoveryIgnore)
}

// ApprovesEdges tells whether the node itself approves what no KoiEdge decides.
func (n *KoiNode) ApprovesEdges() bool {
	return n.Spec.Edges == nil || n.Spec.Edges.Approval != ApprovalManual
}

// AccessModes returns the access modes of the node's volume claim.
func (n *KoiNode) AccessModes() []corev1.PersistentVolumeAccessMode {
	if n.Spec.Storage != nil && len(n.Spec.Storage.AccessModes) > 0 {
		return n.Spec.Storage.AccessModes
	}
	return []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
}

// IsDiscovered tells whether the edge was found in the network rather than written.
func (e *KoiEdge) IsDiscovered() bool { return e.Labels[LabelOrigin] == OriginDiscovered }

// IsKept tells whether only the object goes when it is deleted.
func (e *KoiEdge) IsKept() bool { return e.Spec.DeletionPolicy == DeletionRetain }
