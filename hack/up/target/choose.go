package target

import (
	"errors"
	"fmt"
)

// Kind is a kind of cluster.
type Kind string

// The kinds of clusters, as the variable CLUSTER spells them.
const (
	Existing Kind = "existing"
	InKind   Kind = "kind"
	Local    Kind = "local"
)

// Facts are what the choice depends on.
type Facts struct {
	// Wanted is the variable CLUSTER; empty leaves the choice to Choose.
	Wanted string
	// Kubeconfig is nil when kubectl can find a cluster by itself.
	Kubeconfig error
	// KindTool is nil when kind is on the path.
	KindTool error
	// Docker is nil when the Docker daemon answers.
	Docker error
	// Local is nil when this machine can run the local cluster.
	Local error
}

// Choose picks the cluster and says why, or says what each of them lacks.
func Choose(f Facts) (kind Kind, why string, err error) {
	var lacking error
	switch Kind(f.Wanted) {
	case Existing:
		kind, why, lacking = Existing, "CLUSTER=existing", f.Kubeconfig
	case InKind:
		kind, why, lacking = InKind, "CLUSTER=kind", errors.Join(f.KindTool, f.Docker)
	case Local:
		kind, why, lacking = Local, "CLUSTER=local", f.Local
	case "":
		switch {
		case f.KindTool == nil && f.Docker == nil:
			return InKind, "kind and Docker are here", nil
		case f.Local == nil && f.KindTool != nil:
			return Local, "this is Linux, we are root, and kind is not on the path", nil
		case f.Local == nil:
			return Local, "this is Linux, we are root, and Docker does not answer", nil
		}
		return "", "", fmt.Errorf("no way to run a cluster here:\n  kind: %w\n  local: %w\n  existing: set CLUSTER=existing and KUBECONFIG to use a cluster of yours",
			oneLine(f.KindTool, f.Docker), f.Local)
	default:
		return "", "", fmt.Errorf("CLUSTER=%s: want existing, kind or local", f.Wanted)
	}
	if lacking != nil {
		return "", "", fmt.Errorf("%s will not do: %w", why, lacking)
	}
	return kind, why, nil
}

// oneLine returns the first error that there is.
func oneLine(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
