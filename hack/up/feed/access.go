package feed

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/koi-net/koi-operator/hack/up/kubectl"
)

// container is the node's container in the pod of a KoiNode.
const container = "node"

// Node is a node in a pod. It is reached by the program in its own container, which
// finds the admin API and its token in the environment.
type Node struct {
	// Kubectl talks to the cluster.
	Kubectl *kubectl.Client
	// Namespace and Name are the KoiNode's.
	Namespace, Name string
}

// exec runs koi-node in the node's container.
func (n Node) exec(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	prefix := []string{"exec", "-n", n.Namespace, "deployment/" + n.Name, "-c", container}
	if stdin != nil {
		prefix = append(prefix, "-i")
	}
	return n.Kubectl.Pipe(ctx, stdin, append(append(prefix, "--", "/koi-node"), args...)...)
}

// RIDs returns the RIDs of a type that the node holds.
func (n Node) RIDs(ctx context.Context, ridType string) ([]string, error) {
	out, err := n.exec(ctx, nil, "rids", "--type", ridType)
	if err != nil {
		return nil, fmt.Errorf("list the RIDs of node %s: %w", n.Name, err)
	}
	return strings.Fields(string(out)), nil
}

// Put puts bundles into the node: one JSON object a line, with rid and contents.
func (n Node) Put(ctx context.Context, lines io.Reader) error {
	if _, err := n.exec(ctx, lines, "put", "-f", "-"); err != nil {
		return fmt.Errorf("put bundles into node %s: %w", n.Name, err)
	}
	return nil
}
