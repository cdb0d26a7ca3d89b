package target

import (
	"errors"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	no := func(what string) error { return errors.New(what) }
	tests := []struct {
		name  string
		facts Facts
		kind  Kind
		why   string // part of the reason
		err   string // part of the error
	}{
		{"kind first", Facts{}, InKind, "kind and Docker", ""},
		{"no kind", Facts{KindTool: no("no kind")}, Local, "kind is not on the path", ""},
		{"Docker is down", Facts{Docker: no("no daemon")}, Local, "Docker does not answer", ""},
		{"nothing will do", Facts{Docker: no("no daemon"), Local: no("needs root")}, "", "", "local: needs root"},
		{"nothing will do, kind's part", Facts{KindTool: no("no kind"), Docker: no("no daemon"), Local: no("needs root")}, "", "", "kind: no kind"},
		{"existing is wanted", Facts{Wanted: "existing"}, Existing, "CLUSTER=existing", ""},
		{"existing is not there", Facts{Wanted: "existing", Kubeconfig: no("no KUBECONFIG")}, "", "", "no KUBECONFIG"},
		{"existing is never chosen by itself", Facts{KindTool: no("no kind"), Local: no("needs root")}, "", "", "CLUSTER=existing"},
		{"local is wanted", Facts{Wanted: "local"}, Local, "CLUSTER=local", ""},
		{"local is wanted in vain", Facts{Wanted: "local", Local: no("needs root")}, "", "", "needs root"},
		{"kind is wanted in vain", Facts{Wanted: "kind", Docker: no("no daemon")}, "", "", "no daemon"},
		{"a wrong word", Facts{Wanted: "minikube"}, "", "", "want existing, kind or local"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			kind, why, err := Choose(tt.facts)
			if kind != tt.kind || !strings.Contains(why, tt.why) {
				t.Errorf("chose %q because %q, want %q because %q", kind, why, tt.kind, tt.why)
			}
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}
