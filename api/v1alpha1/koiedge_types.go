package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// EdgeType is how an edge's events travel.
// +kubebuilder:validation:Enum=Webhook;Poll
type EdgeType string

// Values of EdgeType.
const (
	EdgeWebhook EdgeType = "Webhook"
	EdgePoll    EdgeType = "Poll"
)

// Approval is a decision about an edge.
// +kubebuilder:validation:Enum="";Approved;Rejected
type Approval string

// Values of Approval. Undecided leaves the edge to the source node's policy.
const (
	Undecided Approval = ""
	Approved  Approval = "Approved"
	Rejected  Approval = "Rejected"
)

// EdgeStatus is where an edge stands in its negotiation.
// +kubebuilder:validation:Enum=Proposed;Approved;Rejected
type EdgeStatus string

// Values of EdgeStatus.
const (
	EdgeProposed EdgeStatus = "Proposed"
	EdgeApproved EdgeStatus = "Approved"
	EdgeRejected EdgeStatus = "Rejected"
)

// KoiEdgeSpec is the desired state of an edge.
//
// +kubebuilder:validation:XValidation:rule="!has(self.source.nodeRef) || !has(self.target.nodeRef) || self.source.nodeRef.name != self.target.nodeRef.name",message="source and target must be two nodes"
// +kubebuilder:validation:XValidation:rule="!has(self.source.rid) || !has(self.target.rid) || self.source.rid != self.target.rid",message="source and target must be two nodes"
type KoiEdgeSpec struct {
	// source is the node that provides. Immutable.
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="source is immutable: an edge is its pair of nodes"
	Source EdgeEnd `json:"source"`

	// target is the node that subscribes. Immutable.
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="target is immutable: an edge is its pair of nodes"
	Target EdgeEnd `json:"target"`

	// edgeType is Webhook (the source pushes) or Poll (the target asks). Default: Webhook
	// where the target is a Full node, Poll where it is Partial. A change is proposed anew.
	// +optional
	EdgeType EdgeType `json:"edgeType,omitempty"`

	// ridTypes are the RID types that travel along the edge. A change is proposed anew.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	RIDTypes []RIDType `json:"ridTypes"`

	// approval is a person's (or Git's) decision: Approved approves ridTypes and edgeType as
	// they stand here, and nothing wider; Rejected is a standing refusal of the pair. Unset
	// leaves the decision to the source node's policy. It needs a source in this namespace.
	// +optional
	Approval Approval `json:"approval,omitempty"`

	// deletionPolicy is Delete (the managed ends forget the edge when the object goes) or
	// Retain (only the object goes). Default Delete.
	// +optional
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`
}

// EdgeEnd names one end of an edge.
// +kubebuilder:validation:XValidation:rule="has(self.nodeRef) != has(self.rid)",message="exactly one of nodeRef and rid must be set"
type EdgeEnd struct {
	// nodeRef names a KoiNode in the same namespace.
	// +optional
	NodeRef *NodeReference `json:"nodeRef,omitempty"`

	// rid of any node. A node of another namespace is named by its RID; it is observed here
	// and steered from its own namespace.
	// +optional
	RID NodeRID `json:"rid,omitempty"`
}

// KoiEdgeStatus is the observed state of an edge.
type KoiEdgeStatus struct {
	// observedGeneration is the generation of the spec this status speaks of; -1 before the
	// operator has seen the object.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// rid of the edge as it is in the network.
	// +optional
	RID string `json:"rid,omitempty"`

	// status of the edge: Proposed, Approved or Rejected. Empty while there is no edge.
	// +optional
	Status EdgeStatus `json:"status,omitempty"`

	// source is the name of the source: its KoiNode's, or the name in its RID.
	// +optional
	Source string `json:"source,omitempty"`

	// target is the name of the target: its KoiNode's, or the name in its RID.
	// +optional
	Target string `json:"target,omitempty"`

	// sourceRID is the RID of the source.
	// +optional
	SourceRID string `json:"sourceRID,omitempty"`

	// targetRID is the RID of the target.
	// +optional
	TargetRID string `json:"targetRID,omitempty"`

	// edgeType as the edge bundle has it.
	// +optional
	EdgeType EdgeType `json:"edgeType,omitempty"`

	// ridTypes as the edge bundle has them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1000
	RIDTypes []string `json:"ridTypes,omitempty"`

	// timestamp of the edge bundle.
	// +optional
	Timestamp string `json:"timestamp,omitempty"`

	// decision is the approval this object has made, or is about to make, in the source node;
	// it is taken back when spec.approval is unset.
	// +optional
	Decision Approval `json:"decision,omitempty"`

	// lastHandledReconcileAt is the value of the annotation
	// koi-net.io/reconcile-requested-at that was carried out last, cut to 256 bytes.
	// +optional
	LastHandledReconcileAt string `json:"lastHandledReconcileAt,omitempty"`

	// conditions of the edge: Ready, and Reconciling, Stalled, Suspended while they are true.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// KoiEdge is an edge of a KOI-net: knowledge of the named RID types flows from source to
// target once the source has approved it. One that a person wrote is proposed and kept; one
// labelled koi-net.io/origin: discovered shows an edge that arose in the network.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=ke,categories=koi
// +kubebuilder:printcolumn:name="Source",type=string,JSONPath=`.status.source`,description="The node that provides"
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.status.target`,description="The node that subscribes"
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.status.edgeType`,description="Webhook or Poll"
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.status`,description="Proposed, Approved or Rejected"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether both managed ends agree with this object"
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.status=="True")].reason`,priority=1
// +kubebuilder:printcolumn:name="RIDTypes",type=string,JSONPath=`.status.ridTypes`,priority=1
// +kubebuilder:printcolumn:name="Origin",type=string,JSONPath=`.metadata.labels.koi-net\.io/origin`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type KoiEdge struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is the desired state of the edge.
	// +required
	Spec KoiEdgeSpec `json:"spec"`

	// status is the observed state of the edge.
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
	Status KoiEdgeStatus `json:"status,omitempty"`
}

// KoiEdgeList is a list of KoiEdges.
// +kubebuilder:object:root=true
type KoiEdgeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []KoiEdge `json:"items"`
}
