package deploy

import (
	"fmt"
	"strings"
)

// object is what is read of a KoiNode or KoiEdge.
type object struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name       string `json:"name"`
		Generation int64  `json:"generation"`
	} `json:"metadata"`
	Spec struct {
		Image   string `json:"image"`
		Upgrade string `json:"upgrade"`
	} `json:"spec"`
	Status struct {
		ObservedGeneration int64       `json:"observedGeneration"`
		Image              string      `json:"image"`
		Conditions         []condition `json:"conditions"`
	} `json:"status"`
}

type condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

type objectList struct {
	Items []object `json:"items"`
}

func (o object) key() string { return strings.ToLower(o.Kind) + "/" + o.Metadata.Name }

// ready returns the Ready condition, and whether it is true of the present spec.
func (o object) ready() (condition, bool) {
	for _, c := range o.Status.Conditions {
		if c.Type == "Ready" {
			return c, c.Status == "True" && o.Status.ObservedGeneration >= o.Metadata.Generation
		}
	}
	return condition{Reason: "Unknown", Message: "no word from the operator yet"}, false
}

// String says how the object is.
func (o object) String() string {
	c, ok := o.ready()
	word := "ready"
	if !ok {
		word = "not ready"
	}
	line := fmt.Sprintf("%s: %s (%s)", o.key(), word, c.Reason)
	if !ok && c.Message != "" {
		line += ": " + c.Message
	}
	return line
}

// follows tells whether a node takes the operator's image by itself, and so will be
// rolled when that is another.
func (o object) follows() bool {
	return o.Kind == "KoiNode" && o.Spec.Image == "" && o.Spec.Upgrade == "Automatic"
}

// standing is true when there are nodes and edges, all are ready, and the nodes that
// follow the operator's image run it.
func (l objectList) standing(image string) bool {
	kinds := map[string]bool{}
	for _, o := range l.Items {
		if _, ok := o.ready(); !ok || o.follows() && o.Status.Image != image {
			return false
		}
		kinds[o.Kind] = true
	}
	return kinds["KoiNode"] && kinds["KoiEdge"]
}
