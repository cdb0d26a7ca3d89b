// Package reach finds the admin API of a KoiNode's pod and calls it through the API
// server's port-forward, with the caller's own permissions: pods may be listed, the
// node's admin Secret read, pods/portforward created. The node's certificate is
// pinned to that of the Secret, so what answers is the node, whatever lies between.
//
// It may import node/admin/client and client-go; nothing of the operator's.
package reach
