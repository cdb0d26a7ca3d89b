package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// NodeType is a node's type in KOI-net.
// +kubebuilder:validation:Enum=Full;Partial
type NodeType string

// Values of NodeType.
const (
	NodeFull    NodeType = "Full"
	NodePartial NodeType = "Partial"
)

// SecurityMode says which identity a node has.
// +kubebuilder:validation:Enum=Signed;Unsigned
type SecurityMode string

// Values of SecurityMode.
const (
	SecuritySigned   SecurityMode = "Signed"
	SecurityUnsigned SecurityMode = "Unsigned"
)

// UnsignedPeers says whether peers that do not sign are listened to.
// +kubebuilder:validation:Enum=Allow;Deny
type UnsignedPeers string

// Values of UnsignedPeers.
const (
	UnsignedPeersAllow UnsignedPeers = "Allow"
	UnsignedPeersDeny  UnsignedPeers = "Deny"
)

// EdgeApproval says who decides about proposals that no KoiEdge decides.
// +kubebuilder:validation:Enum=Automatic;Manual
type EdgeApproval string

// Values of EdgeApproval.
const (
	ApprovalAutomatic EdgeApproval = "Automatic"
	ApprovalManual    EdgeApproval = "Manual"
)

// EdgeDiscovery says whether edges that arise in the network become objects.
// +kubebuilder:validation:Enum=Mirror;Ignore
type EdgeDiscovery string

// Values of EdgeDiscovery.
const (
	DiscoveryMirror EdgeDiscovery = "Mirror"
	DiscoveryIgnore EdgeDiscovery = "Ignore"
)

// UpgradePolicy says what happens to a node when the operator's default image changes.
// +kubebuilder:validation:Enum=Manual;Automatic
type UpgradePolicy string

// Values of UpgradePolicy.
const (
	UpgradeManual    UpgradePolicy = "Manual"
	UpgradeAutomatic UpgradePolicy = "Automatic"
)

// KoiNodeSpec is the desired state of a node.
//
// +kubebuilder:validation:XValidation:rule="self.nodeType != 'Partial' || !has(self.baseURL) || self.baseURL == \"\"",message="a Partial node serves nothing: baseURL must not be set",fieldPath=".baseURL"
// +kubebuilder:validation:XValidation:rule="self.nodeType != 'Partial' || !has(self.coordinator) || !self.coordinator",message="a Partial node cannot be a coordinator",fieldPath=".coordinator"
// +kubebuilder:validation:XValidation:rule="self.nodeType != 'Partial' || !has(self.service)",message="a Partial node serves nothing: service must not be set",fieldPath=".service"
// +kubebuilder:validation:XValidation:rule="(has(self.identity) && has(self.identity.name) ? self.identity.name : \"\") == (has(oldSelf.identity) && has(oldSelf.identity.name) ? oldSelf.identity.name : \"\")",message="identity.name is part of the node's RID and immutable"
// +kubebuilder:validation:XValidation:rule="(has(self.security) && has(self.security.mode) ? self.security.mode : 'Signed') == (has(oldSelf.security) && has(oldSelf.security.mode) ? oldSelf.security.mode : 'Signed')",message="security.mode decides the node's RID and is immutable"
// +kubebuilder:validation:XValidation:rule="has(self.external) == has(oldSelf.external) && (!has(self.external) || self.external == oldSelf.external)",message="external is immutable: make another KoiNode"
// +kubebuilder:validation:XValidation:rule="(has(self.storage) && has(self.storage.ephemeral) && self.storage.ephemeral) == (has(oldSelf.storage) && has(oldSelf.storage.ephemeral) && oldSelf.storage.ephemeral)",message="storage.ephemeral is immutable"
// +kubebuilder:validation:XValidation:rule="(has(self.storage) && has(self.storage.storageClassName) ? self.storage.storageClassName : \"\") == (has(oldSelf.storage) && has(oldSelf.storage.storageClassName) ? oldSelf.storage.storageClassName : \"\")",message="storage.storageClassName is immutable"
// +kubebuilder:validation:XValidation:rule="(has(self.storage) && has(self.storage.accessModes) ? self.storage.accessModes : ['ReadWriteOnce']) == (has(oldSelf.storage) && has(oldSelf.storage.accessModes) ? oldSelf.storage.accessModes : ['ReadWriteOnce'])",message="storage.accessModes is immutable"
// +kubebuilder:validation:XValidation:rule="!has(self.external) || (!has(self.baseURL) && !has(self.provides) && !has(self.interests) && !has(self.coordinator) && !has(self.firstContact) && !has(self.edges))",message="external: nothing is deployed, so baseURL, provides, interests, coordinator, firstContact and edges must not be set (the base URL goes into external.baseURL)"
// +kubebuilder:validation:XValidation:rule="!has(self.external) || (!has(self.identity) && !has(self.security) && !has(self.networkPolicy) && !has(self.suspend) && !has(self.upgrade))",message="external: nothing is deployed, so identity, security, networkPolicy, suspend and upgrade must not be set"
// +kubebuilder:validation:XValidation:rule="!has(self.external) || (!has(self.storage) && !has(self.image) && !has(self.imagePullPolicy) && !has(self.imagePullSecrets) && !has(self.resources) && !has(self.service) && !has(self.podTemplate))",message="external: nothing is deployed, so storage, image, imagePullPolicy, imagePullSecrets, resources, service and podTemplate must not be set"
// +kubebuilder:validation:XValidation:rule="!has(self.external) || self.nodeType != 'Full' || (has(self.external.baseURL) && self.external.baseURL != \"\")",message="external.baseURL is required for a Full node"
// +kubebuilder:validation:XValidation:rule="!has(self.external) || self.nodeType != 'Partial' || !has(self.external.baseURL) || self.external.baseURL == \"\"",message="a Partial node has no external.baseURL"
type KoiNodeSpec struct {
	// nodeType is Full (serves the protocol) or Partial (serves nothing and polls others).
	// Default Full. Immutable.
	// +optional
	// +kubebuilder:default=Full
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="nodeType is immutable: make another KoiNode"
	NodeType NodeType `json:"nodeType,omitempty"`

	// baseURL is the URL below which other nodes find this one's five calls. Default: the
	// cluster URL of its Service followed by /koi-net. Set it when the node is behind an
	// Ingress or Gateway. A change restarts the node and is announced to its peers. Not for
	// Partial nodes.
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^(https?://[^\s?#@]+)?$`
	BaseURL string `json:"baseURL,omitempty"`

	// provides lists the RID types the node gives out. Default: none (a coordinator
	// provides nodes and edges by itself). A change restarts the node.
	// +optional
	Provides *Provides `json:"provides,omitempty"`

	// interests are the RID types the node subscribes to wherever they are provided.
	// Unset means ["orn:koi-net.node"]; [] means none; ["*"] means every type. A change
	// restarts the node.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:XValidation:rule="self.all(t, self.exists_one(o, o == t))",message="Duplicate value: name each RID type once"
	// +kubebuilder:validation:MaxItems=64
	Interests []RIDType `json:"interests,omitzero"`

	// coordinator makes the node answer handshakes: it introduces itself and subscribes to
	// the newcomer's nodes and edges. Default false. A change restarts the node.
	// +optional
	Coordinator bool `json:"coordinator,omitempty"`

	// firstContact is the node to shake hands with first. Default: none; the node waits to
	// be found. A change restarts the node. A nodeRef that does not exist yet does not hold
	// the node back: it starts alone and restarts once when the other is there.
	// +optional
	FirstContact *FirstContact `json:"firstContact,omitempty"`

	// identity says where the node's identity (its RID and key) is kept.
	// +optional
	Identity *Identity `json:"identity,omitempty"`

	// security says how the node proves who it is and with whom it speaks.
	// +optional
	Security *Security `json:"security,omitempty"`

	// networkPolicy limits who may reach the node's pod. Default: no NetworkPolicy.
	// +optional
	NetworkPolicy *NetworkPolicy `json:"networkPolicy,omitempty"`

	// edges says how proposals are decided and whether edges show as KoiEdges.
	// +optional
	Edges *NodeEdges `json:"edges,omitempty"`

	// external describes a node that runs elsewhere, so that edges and first contacts can
	// name it. Nothing is deployed. Immutable, as is its presence.
	// +optional
	External *External `json:"external,omitempty"`

	// suspend stops the node's pod and keeps everything else. Peers are not told: to them
	// the node is away. Default false.
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// upgrade says what happens when the operator's default image changes: Manual keeps
	// status.image and raises UpgradeAvailable; Automatic rolls to the new image, one node
	// at a time. Default Manual. Without effect where image is set.
	// +optional
	Upgrade UpgradePolicy `json:"upgrade,omitempty"`

	// storage is where the node keeps its bundles and queues. Default: 1Gi of the default
	// storage class, kept when the KoiNode is deleted.
	// +optional
	Storage *Storage `json:"storage,omitempty"`

	// image of the node. Default: the operator's, recorded in status.image and kept. A
	// change restarts the node.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Image string `json:"image,omitempty"`

	// imagePullPolicy of the node's container. Default: Kubernetes' own.
	// +optional
	// +kubebuilder:validation:Enum=Always;IfNotPresent;Never
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`

	// imagePullSecrets name Secrets in the same namespace. Default: none.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`

	// resources of the node's container. Default: requests of 10m CPU and 64Mi memory and a
	// limit of 512Mi memory. A change restarts the node.
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`

	// service shapes the Service in front of a Full node.
	// +optional
	Service *Service `json:"service,omitempty"`

	// podTemplate is merged over the generated pod template by strategic merge, so it can
	// add (sidecars, affinity, tolerations) and remove ("$patch: delete", null). The node's
	// container is named "node". A change restarts the node.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	PodTemplate *runtime.RawExtension `json:"podTemplate,omitempty"`
}

// Provides lists what a node gives out.
type Provides struct {
	// event lists the RID types of which the node sends events to subscribers.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	Event []RIDType `json:"event,omitempty"`

	// state lists the RID types of which the node answers for the present state.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	State []RIDType `json:"state,omitempty"`
}

// FirstContact names the node to shake hands with first.
// +kubebuilder:validation:XValidation:rule="has(self.nodeRef) != has(self.url)",message="exactly one of nodeRef and url must be set"
// +kubebuilder:validation:XValidation:rule="!has(self.rid) || has(self.url)",message="rid goes with url: a nodeRef knows its own"
type FirstContact struct {
	// nodeRef names a Full KoiNode in the same namespace, external ones included.
	// +optional
	NodeRef *NodeReference `json:"nodeRef,omitempty"`

	// url is the base URL of a node anywhere.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://[^\s?#@]+$`
	URL string `json:"url,omitempty"`

	// rid of the node at url, where it is known: any other answer is refused.
	// +optional
	RID NodeRID `json:"rid,omitempty"`
}

// Identity says where a node's identity is kept.
type Identity struct {
	// name is the <name> in the node's RID. Default: the KoiNode's own name. Immutable.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[^+\s]*$`
	Name string `json:"name,omitempty"`

	// secretName names the Secret with the identity (keys rid, priv_key.pem and, for an
	// encrypted key, password). Default: <KoiNode's name>-identity. It is made when it is
	// missing and never changed. Another identity than the node's own stalls the node.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	SecretName string `json:"secretName,omitempty"`

	// deletionPolicy says what becomes of the Secret when the KoiNode is deleted. Retain
	// keeps it, and a KoiNode made again under the same name adopts it; Delete removes it
	// where the operator made it. Default Retain.
	// +optional
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`
}

// Security says how a node proves who it is and with whom it speaks.
// +kubebuilder:validation:XValidation:rule="!has(self.mode) || self.mode != 'Unsigned' || !has(self.unsignedPeers) || self.unsignedPeers != 'Deny'",message="an Unsigned node can only speak unsigned: unsignedPeers must be Allow"
type Security struct {
	// mode is Signed (the node has a key pair, its RID is derived from the key) or Unsigned
	// (KOI-net 1.0: a RID with a UUID, no key). Default Signed. Immutable.
	// +optional
	Mode SecurityMode `json:"mode,omitempty"`

	// unsignedPeers is Allow (speak with nodes that have no key) or Deny (refuse what is not
	// signed). Default Allow. A change restarts the node.
	// +optional
	UnsignedPeers UnsignedPeers `json:"unsignedPeers,omitempty"`

	// allowedPeerCIDRs limits whom the node may dial. Default: no further limit than the
	// built-in one (link-local and metadata addresses are never dialled). A change restarts
	// the node.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:Pattern=`^[0-9a-fA-F.:]+/[0-9]{1,3}$`
	AllowedPeerCIDRs []string `json:"allowedPeerCIDRs,omitempty"`
}

// NetworkPolicy limits who may reach a node's pod.
type NetworkPolicy struct {
	// enabled makes a NetworkPolicy: the protocol port is open to whom from names, the admin
	// port to the operator alone, the metrics to namespaces labelled
	// koi-net.io/metrics-scraper=true, and every other port is closed. Default false.
	// +optional
	Enabled bool `json:"enabled,omitempty"`

	// from names who may reach the protocol port. Default: everyone.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	From []networkingv1.NetworkPolicyPeer `json:"from,omitempty"`
}

// NodeEdges says how a node's edges are treated.
type NodeEdges struct {
	// approval decides proposals of other nodes that no KoiEdge decides: Automatic approves
	// what the node provides, Manual leaves them Proposed. It is in the node's configuration
	// before it listens. Default Automatic. A change restarts the node.
	// +optional
	Approval EdgeApproval `json:"approval,omitempty"`

	// discovery says whether edges that arise in the network appear as KoiEdges labelled
	// koi-net.io/origin: discovered (Mirror, at most 64 per node) or not (Ignore). Default
	// Mirror.
	// +optional
	Discovery EdgeDiscovery `json:"discovery,omitempty"`
}

// External describes a node that runs elsewhere.
type External struct {
	// rid of the node.
	// +required
	RID NodeRID `json:"rid"`

	// baseURL below which the node's five calls are found. Required for Full nodes.
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^(https?://[^\s?#@]+)?$`
	BaseURL string `json:"baseURL,omitempty"`

	// publicKey of the node, base64 of the DER SubjectPublicKeyInfo. Default: none, an
	// unsigned node or one whose key is learned from its profile.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9+/=]*$`
	PublicKey string `json:"publicKey,omitempty"`
}

// Storage is where a node keeps its bundles and queues.
// +kubebuilder:validation:XValidation:rule="!has(self.ephemeral) || !self.ephemeral || (!has(self.storageClassName) && !has(self.accessModes) && !has(self.deletionPolicy))",message="ephemeral storage has no storageClassName, accessModes or deletionPolicy"
type Storage struct {
	// size of the volume; for ephemeral storage, its limit. Default 1Gi. It can grow where
	// the storage class allows expansion, and never shrink.
	// +optional
	Size *resource.Quantity `json:"size,omitempty"`

	// storageClassName of the volume. Default: the cluster's default class. Immutable.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	StorageClassName *string `json:"storageClassName,omitempty"`

	// accessModes of the volume. Default [ReadWriteOnce]; ReadWriteOncePod is better where
	// the storage is CSI. Immutable.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	// +kubebuilder:validation:items:Enum=ReadWriteOnce;ReadWriteOncePod;ReadWriteMany
	AccessModes []corev1.PersistentVolumeAccessMode `json:"accessModes,omitempty"`

	// deletionPolicy says what becomes of the volume claim when the KoiNode is deleted.
	// Retain keeps it, and a KoiNode made again under the same name adopts it. Default
	// Retain.
	// +optional
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`

	// ephemeral keeps the store in an emptyDir that goes with the pod; the node's identity
	// stays. Default false. Immutable.
	// +optional
	Ephemeral bool `json:"ephemeral,omitempty"`
}

// Service shapes the Service in front of a Full node.
type Service struct {
	// type of the Service. Default ClusterIP.
	// +optional
	// +kubebuilder:validation:Enum=ClusterIP;NodePort;LoadBalancer
	Type corev1.ServiceType `json:"type,omitempty"`

	// annotations of the Service. Default: none.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	Annotations map[string]string `json:"annotations,omitempty"`
}

// KoiNodeStatus is the observed state of a node. Nothing in it changes with traffic.
type KoiNodeStatus struct {
	// observedGeneration is the generation of the spec this status speaks of; -1 before the
	// operator has seen the object.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// rid of the node. It stands before the pod runs.
	// +optional
	RID string `json:"rid,omitempty"`

	// publicKey of the node, base64 of the DER SubjectPublicKeyInfo.
	// +optional
	PublicKey string `json:"publicKey,omitempty"`

	// baseURL below which peers find the node.
	// +optional
	BaseURL string `json:"baseURL,omitempty"`

	// image the node is kept at.
	// +optional
	Image string `json:"image,omitempty"`

	// version the running node reports.
	// +optional
	Version string `json:"version,omitempty"`

	// storeID of the node's store when it was first seen.
	// +optional
	StoreID string `json:"storeID,omitempty"`

	// edges counts the node's edges.
	// +optional
	Edges *NodeEdgeCounts `json:"edges,omitempty"`

	// lastHandledReconcileAt is the value of the annotation
	// koi-net.io/reconcile-requested-at that was carried out last, cut to 256 bytes.
	// +optional
	LastHandledReconcileAt string `json:"lastHandledReconcileAt,omitempty"`

	// conditions of the node: Ready, and Reconciling, Stalled, Suspended, UpgradeAvailable,
	// StoreReplaced while they are true.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// NodeEdgeCounts counts the edges in which a node is an end.
type NodeEdgeCounts struct {
	// approved edges.
	// +optional
	Approved int32 `json:"approved"`

	// proposed edges that wait for their source.
	// +optional
	Proposed int32 `json:"proposed"`

	// unmirrored edges are beyond the 64 that appear as discovered KoiEdges.
	// +optional
	Unmirrored int32 `json:"unmirrored,omitempty"`
}

// KoiNode is a node of a KOI-net: a running pod of the node image, or, with external, a node
// that runs elsewhere.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=kn,categories=koi
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.nodeType`,description="Full or Partial"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether the node confirmed this generation within the last interval"
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.status=="True")].reason`,description="The reason of the state"
// +kubebuilder:printcolumn:name="Edges",type=integer,JSONPath=`.status.edges.approved`,description="Approved edges"
// +kubebuilder:printcolumn:name="Proposed",type=integer,JSONPath=`.status.edges.proposed`,priority=1,description="Edges that wait for their source"
// +kubebuilder:printcolumn:name="RID",type=string,JSONPath=`.status.rid`,priority=1
// +kubebuilder:printcolumn:name="URL",type=string,JSONPath=`.status.baseURL`,priority=1
// +kubebuilder:printcolumn:name="Image",type=string,JSONPath=`.status.image`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="a KoiNode's name begins with a letter, holds lower-case letters, digits and '-' and is at most 52 characters long: its Service is named after it"
// +kubebuilder:validation:XValidation:rule="!has(self.spec.firstContact) || !has(self.spec.firstContact.nodeRef) || self.spec.firstContact.nodeRef.name != self.metadata.name",message="a node cannot be its own first contact"
type KoiNode struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is the desired state of the node.
	// +required
	Spec KoiNodeSpec `json:"spec"`

	// status is the observed state of the node.
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
	Status KoiNodeStatus `json:"status,omitempty"`
}

// KoiNodeList is a list of KoiNodes.
// +kubebuilder:object:root=true
type KoiNodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []KoiNode `json:"items"`
}
