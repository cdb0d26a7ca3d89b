package v1alpha1

// RIDType is a RID type such as "orn:koi-net.node" or "https".
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=256
// +kubebuilder:validation:Pattern=`^((orn|urn):[^:\s]+|[^:\s]+)$`
type RIDType string

// NodeRID is the RID of a node: "orn:koi-net.node:<name>+<id>".
// +kubebuilder:validation:MaxLength=2048
// +kubebuilder:validation:Pattern=`^orn:koi-net\.node:[^+]+\+[^+]+$`
type NodeRID string

// NodeReference names a KoiNode in the same namespace.
type NodeReference struct {
	// name of the KoiNode.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=52
	Name string `json:"name"`
}

// DeletionPolicy says what becomes of something when its object is deleted.
// +kubebuilder:validation:Enum=Retain;Delete
type DeletionPolicy string

// Values of DeletionPolicy.
const (
	DeletionRetain DeletionPolicy = "Retain"
	DeletionDelete DeletionPolicy = "Delete"
)
