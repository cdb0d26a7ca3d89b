package v1alpha1

// Labels, annotations and finalizers.
const (
	// LabelNode names the KoiNode an object belongs to.
	LabelNode = "koi-net.io/node"
	// LabelOrigin says where a KoiEdge came from: OriginDiscovered, or a person where unset.
	LabelOrigin = "koi-net.io/origin"
	// OriginDiscovered marks a KoiEdge that mirrors an edge found in the network.
	OriginDiscovered = "discovered"
	// LabelScraper on a Namespace, with the value "true", lets its pods scrape the metrics of
	// nodes that have a NetworkPolicy.
	LabelScraper = "koi-net.io/metrics-scraper"
	// AnnotationConfigHash on a pod template names the configuration its node runs.
	AnnotationConfigHash = "koi-net.io/config-hash"
	// AnnotationAcceptStore on a KoiNode accepts a replaced store: its value is the new
	// store's ID, as the message of StoreReplaced gives it.
	AnnotationAcceptStore = "koi-net.io/accept-store"
	// AnnotationReconcile on a KoiNode or KoiEdge asks for a look at once: every new
	// value is one request, and status.lastHandledReconcileAt is the last one carried out.
	AnnotationReconcile = "koi-net.io/reconcile-requested-at"
	// AnnotationRotateAdmin on a KoiNode asks for another admin token and certificate: every
	// new value is one request. On the admin Secret it is the last one carried out.
	AnnotationRotateAdmin = "koi-net.io/rotate-admin-token"
	// FinalizerNode lets a node take its leave before it goes.
	FinalizerNode = "koi-net.io/node"
	// FinalizerEdge lets the ends of an edge forget it before its object goes.
	FinalizerEdge = "koi-net.io/edge"
)

// Condition types. Ready is there unless the object is suspended; the others only while true.
const (
	// ConditionReady is true when the node, or both managed ends of the edge, confirmed this
	// generation within the last interval.
	ConditionReady = "Ready"
	// ConditionReconciling is true while the operator works or waits.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is true when nothing will change until a person acts.
	ConditionStalled = "Stalled"
	// ConditionSuspended is true while spec.suspend of the node, or of an end, says so.
	ConditionSuspended = "Suspended"
	// ConditionUpgradeAvailable is true when the operator's default image is another one.
	ConditionUpgradeAvailable = "UpgradeAvailable"
	// ConditionStoreReplaced is true when lasting storage holds another store than before.
	ConditionStoreReplaced = "StoreReplaced"
	// ConditionFirstContact says whether the first contact was reached; absent without one.
	ConditionFirstContact = "FirstContactReached"
	// ConditionReachable says of a node that runs elsewhere whether the nodes here that have
	// an edge with it reach it; absent where there is none.
	ConditionReachable = "Reachable"
)

// Reasons of a KoiNode's conditions.
const (
	ReasonReady              = "Ready"
	ReasonExternal           = "External"
	ReasonSuspended          = "Suspended"
	ReasonInvalidSpec        = "InvalidSpec"
	ReasonIdentityLost       = "IdentityLost"
	ReasonIdentityMismatch   = "IdentityMismatch"
	ReasonConflict           = "Conflict"
	ReasonCleaningUp         = "CleaningUp"
	ReasonAwaitingContact    = "AwaitingFirstContact"
	ReasonDeploying          = "Deploying"
	ReasonUnschedulable      = "Unschedulable"
	ReasonImagePull          = "ImagePullFailed"
	ReasonCrashed            = "Crashed"
	ReasonStoreDamaged       = "StoreDamaged"
	ReasonStoreLocked        = "StoreLocked"
	ReasonStorageFull        = "StorageFull"
	ReasonExpansionRefused   = "ExpansionRefused"
	ReasonBadConfig          = "BadConfig"
	ReasonNodeNotReady       = "NodeNotReady"
	ReasonNodeUnreachable    = "NodeUnreachable"
	ReasonUpgradeAvailable   = "UpgradeAvailable"
	ReasonUpgradePending     = "UpgradePending"
	ReasonStoreReplaced      = "StoreReplaced"
	ReasonContactReached     = "Reached"
	ReasonContactUnreached   = "NotReached"
	ReasonContactMissing     = "NodeNotFound"
	ReasonApplyFailed        = "ApplyFailed"
	ReasonDiscoveryTruncated = "DiscoveryTruncated"
)

// Reasons of a KoiEdge's conditions, beside those above.
const (
	ReasonApproved         = "Approved"
	ReasonRejected         = "Rejected"
	ReasonProposed         = "Proposed"
	ReasonAwaitingApproval = "AwaitingApproval"
	ReasonAwaitingProposal = "AwaitingProposal"
	ReasonRefusedBySource  = "RefusedBySource"
	ReasonNodeNotFound     = "NodeNotFound"
	ReasonNoManagedEnd     = "NoManagedEnd"
	ReasonEndsDisagree     = "EndsDisagree"
	ReasonNotSource        = "NotSource"
	ReasonProposalRefused  = "ProposalRefused"
	ReasonDecisionRefused  = "DecisionRefused"
)
