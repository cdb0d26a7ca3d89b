// Package v1alpha1 is the Kubernetes API of KOI-nets: the kinds KoiNode and
// KoiEdge of group koi-net.io, their defaults and CEL rules as markers, and
// the condition types and reasons their status speaks in.
//
// It owns what is stored in a cluster, so a field, once released, keeps its
// name and meaning. It imports Kubernetes' API types alone, never node/ or
// controllers/, and holds no behaviour beyond small pure accessors.
//
// The CRD manifests and the deepcopy code are generated from this package.
//
// +kubebuilder:object:generate=true
// +groupName=koi-net.io
package v1alpha1
