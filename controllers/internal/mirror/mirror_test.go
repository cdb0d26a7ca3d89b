package mirror

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/controllers/internal/conditions"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

const (
	ridA rid.RID  = "orn:koi-net.node:a+01"
	ridB rid.RID  = "orn:koi-net.node:b+02"
	x    rid.Type = "orn:t.x"
	y    rid.Type = "orn:t.y"
)

func wire(status protocol.EdgeStatus, types ...rid.Type) *client.Edge {
	return &client.Edge{RID: "orn:koi-net.edge:1", Source: ridA, Target: ridB, EdgeType: protocol.Webhook, Status: status, RIDTypes: types}
}

func refused() *client.Edge {
	e := wire(protocol.Proposed, x)
	e.Refused = true
	return e
}

func decision(verdict string, types ...rid.Type) *client.Policy {
	p := &client.Policy{Source: ridA, Target: ridB, Verdict: verdict, RIDTypes: types}
	if verdict == client.Approve {
		p.EdgeType = protocol.Webhook
	}
	return p
}

// here are two nodes of one namespace, up, with nothing between them.
func here() Facts {
	return Facts{
		Source:    End{Name: "a", RID: ridA, Steered: true, Managed: true, Asked: true, Fresh: true},
		Target:    End{Name: "b", RID: ridB, Steered: true, Managed: true, Asked: true, Fresh: true},
		Want:      NewTerms(v1alpha1.EdgeWebhook, []v1alpha1.RIDType{v1alpha1.RIDType(x)}),
		Automatic: true,
	}
}

func TestMake(t *testing.T) {
	external := func(e *End) { *e = End{Name: e.Name, RID: e.RID} }
	for _, tt := range []struct {
		name   string
		change func(*Facts)
		// asks is what is asked of the nodes: any of propose, approve, reject, undecide.
		asks   string
		status v1alpha1.EdgeStatus
		kind   conditions.Kind
		reason string
	}{
		{"nothing there", func(*Facts) {}, "propose", "", conditions.Waiting, v1alpha1.ReasonProposed},
		{"proposed", func(f *Facts) { f.Source.Edge, f.Target.Edge = wire(protocol.Proposed, x), wire(protocol.Proposed, x) },
			"", v1alpha1.EdgeProposed, conditions.Waiting, v1alpha1.ReasonProposed},
		{"proposed, the source waits for a person", func(f *Facts) {
			f.Automatic = false
			f.Source.Edge, f.Target.Edge = wire(protocol.Proposed, x), wire(protocol.Proposed, x)
		}, "", v1alpha1.EdgeProposed, conditions.Waiting, v1alpha1.ReasonAwaitingApproval},
		{"agreed", func(f *Facts) { f.Source.Edge, f.Target.Edge = wire(protocol.Approved, x), wire(protocol.Approved, x) },
			"", v1alpha1.EdgeApproved, conditions.Ready, v1alpha1.ReasonApproved},
		{"the target has not heard", func(f *Facts) { f.Source.Edge, f.Target.Edge = wire(protocol.Approved, x), wire(protocol.Proposed, x) },
			"", v1alpha1.EdgeApproved, conditions.Waiting, v1alpha1.ReasonEndsDisagree},
		{"the source lost it", func(f *Facts) { f.Target.Edge = wire(protocol.Approved, x) },
			"propose", "", conditions.Waiting, v1alpha1.ReasonProposed},
		{"other terms wanted", func(f *Facts) { f.Source.Edge, f.Target.Edge = wire(protocol.Approved, y), wire(protocol.Approved, y) },
			"propose", v1alpha1.EdgeApproved, conditions.Waiting, v1alpha1.ReasonEndsDisagree},
		{"refused", func(f *Facts) { f.Target.Edge = refused() },
			"", v1alpha1.EdgeRejected, conditions.Stalled, v1alpha1.ReasonRefusedBySource},
		{"refused, then approved by a person", func(f *Facts) { f.Target.Edge, f.Approval = refused(), v1alpha1.Approved },
			"approve propose", v1alpha1.EdgeRejected, conditions.Waiting, v1alpha1.ReasonProposed},

		{"approved by a person, beforehand", func(f *Facts) { f.Approval = v1alpha1.Approved },
			"approve propose", "", conditions.Waiting, v1alpha1.ReasonProposed},
		{"approved by a person, decision stands", func(f *Facts) {
			f.Approval, f.Automatic, f.Source.Decision = v1alpha1.Approved, false, decision(client.Approve, x)
			f.Source.Edge, f.Target.Edge = wire(protocol.Approved, x), wire(protocol.Approved, x)
		}, "", v1alpha1.EdgeApproved, conditions.Ready, v1alpha1.ReasonApproved},
		{"approved, the standing decision is wider", func(f *Facts) {
			f.Approval, f.Source.Decision = v1alpha1.Approved, decision(client.Approve, x, y)
			f.Source.Edge, f.Target.Edge = wire(protocol.Approved, x), wire(protocol.Approved, x)
		}, "approve", v1alpha1.EdgeApproved, conditions.Waiting, v1alpha1.ReasonProposed},
		{"approved, the target asks for more", func(f *Facts) {
			external(&f.Target)
			f.Approval, f.Automatic, f.Source.Decision = v1alpha1.Approved, false, decision(client.Approve, x)
			f.Source.Edge = wire(protocol.Proposed, x, y)
		}, "", v1alpha1.EdgeProposed, conditions.Waiting, v1alpha1.ReasonAwaitingApproval},
		{"decision withdrawn", func(f *Facts) {
			f.Held, f.Source.Decision = v1alpha1.Approved, decision(client.Approve, x)
			f.Source.Edge, f.Target.Edge = wire(protocol.Approved, x), wire(protocol.Approved, x)
		}, "undecide", v1alpha1.EdgeApproved, conditions.Waiting, v1alpha1.ReasonProposed},
		{"approval given beforehand withdrawn", func(f *Facts) { external(&f.Target); f.Held = v1alpha1.Approved },
			"undecide", "", conditions.Waiting, v1alpha1.ReasonAwaitingProposal},
		{"decision withdrawn in the node itself", func(f *Facts) {
			f.Held = v1alpha1.Approved
			f.Source.Edge, f.Target.Edge = wire(protocol.Approved, x), wire(protocol.Approved, x)
		}, "", v1alpha1.EdgeApproved, conditions.Ready, v1alpha1.ReasonApproved},
		{"someone else's decision", func(f *Facts) {
			f.Source.Decision = decision(client.Approve, x)
			f.Source.Edge, f.Target.Edge = wire(protocol.Approved, x), wire(protocol.Approved, x)
		}, "", v1alpha1.EdgeApproved, conditions.Ready, v1alpha1.ReasonApproved},
		{"someone else's refusal", func(f *Facts) { f.Source.Decision = decision(client.Reject) },
			"", v1alpha1.EdgeRejected, conditions.Stalled, v1alpha1.ReasonRefusedBySource},

		{"rejected by a person", func(f *Facts) {
			f.Approval = v1alpha1.Rejected
			f.Source.Edge, f.Target.Edge = wire(protocol.Approved, x), wire(protocol.Approved, x)
		}, "reject", v1alpha1.EdgeApproved, conditions.Waiting, v1alpha1.ReasonRejected},
		{"rejected, the target still has it", func(f *Facts) {
			f.Approval, f.Source.Decision = v1alpha1.Rejected, decision(client.Reject)
			f.Target.Edge = wire(protocol.Approved, x)
		}, "", v1alpha1.EdgeRejected, conditions.Waiting, v1alpha1.ReasonRejected},
		{"rejected and gone", func(f *Facts) { f.Approval, f.Source.Decision = v1alpha1.Rejected, decision(client.Reject) },
			"", v1alpha1.EdgeRejected, conditions.Ready, v1alpha1.ReasonRejected},
		{"rejected, the source is elsewhere", func(f *Facts) { external(&f.Source); f.Approval = v1alpha1.Rejected },
			"", "", conditions.Stalled, v1alpha1.ReasonNotSource},

		{"external source", func(f *Facts) { external(&f.Source) }, "propose", "", conditions.Waiting, v1alpha1.ReasonProposed},
		{"external source did not answer", func(f *Facts) { external(&f.Source); f.Target.Edge = wire(protocol.Proposed, x) },
			"", v1alpha1.EdgeProposed, conditions.Waiting, v1alpha1.ReasonProposed},
		{"external source approved", func(f *Facts) { external(&f.Source); f.Target.Edge = wire(protocol.Approved, x) },
			"", v1alpha1.EdgeApproved, conditions.Ready, v1alpha1.ReasonApproved},
		{"external source refused", func(f *Facts) { external(&f.Source); f.Target.Edge = refused() },
			"", v1alpha1.EdgeRejected, conditions.Stalled, v1alpha1.ReasonRefusedBySource},
		{"external target", func(f *Facts) { external(&f.Target) }, "", "", conditions.Waiting, v1alpha1.ReasonAwaitingProposal},
		{"external target, approval of a type not known", func(f *Facts) {
			external(&f.Target)
			f.Approval, f.Want.EdgeType = v1alpha1.Approved, ""
		}, "", "", conditions.Waiting, v1alpha1.ReasonAwaitingProposal},
		{"external target proposed, approval of its type", func(f *Facts) {
			external(&f.Target)
			f.Approval, f.Want.EdgeType, f.Automatic = v1alpha1.Approved, "", false
			f.Source.Edge = wire(protocol.Proposed, x)
		}, "approve", v1alpha1.EdgeProposed, conditions.Waiting, v1alpha1.ReasonProposed},
		{"target of another namespace", func(f *Facts) { f.Target.Steered = false }, "", "", conditions.Waiting, v1alpha1.ReasonAwaitingProposal},
		{"both elsewhere", func(f *Facts) { external(&f.Source); external(&f.Target) }, "", "", conditions.Stalled, v1alpha1.ReasonNoManagedEnd},

		{"both in other namespaces", func(f *Facts) {
			f.Source.Steered, f.Target.Steered = false, false
			f.Source.Edge, f.Target.Edge = wire(protocol.Approved, x), wire(protocol.Approved, x)
		}, "", v1alpha1.EdgeApproved, conditions.Stalled, v1alpha1.ReasonNoManagedEnd},

		{"source suspended", func(f *Facts) { f.Source.Suspended, f.Source.Fresh = true, false }, "", "", conditions.Suspended, v1alpha1.ReasonSuspended},
		{"target silent", func(f *Facts) { f.Target.Fresh = false }, "", "", conditions.Waiting, v1alpha1.ReasonNodeUnreachable},
		{"not asked since the operator began", func(f *Facts) {
			f.Target.Fresh, f.Target.Asked, f.Before = false, false, conditions.Rest(v1alpha1.ReasonApproved, "m")
		}, "", "", conditions.Ready, v1alpha1.ReasonApproved},
		{"silent, and ready before", func(f *Facts) { f.Target.Fresh, f.Before = false, conditions.Rest(v1alpha1.ReasonApproved, "m") },
			"", "", conditions.Waiting, v1alpha1.ReasonNodeUnreachable},

		{"discovered, agreed", func(f *Facts) {
			f.Discovered = true
			f.Source.Edge, f.Target.Edge = wire(protocol.Approved, x), wire(protocol.Approved, x)
		}, "", v1alpha1.EdgeApproved, conditions.Ready, v1alpha1.ReasonApproved},
		{"discovered, gone", func(f *Facts) { f.Discovered = true }, "", "", conditions.Waiting, v1alpha1.ReasonAwaitingProposal},
		{"discovered, approved by a person", func(f *Facts) {
			f.Discovered, f.Approval, f.Automatic = true, v1alpha1.Approved, false
			f.Source.Edge, f.Target.Edge = wire(protocol.Proposed, x), wire(protocol.Proposed, x)
		}, "approve", v1alpha1.EdgeProposed, conditions.Waiting, v1alpha1.ReasonProposed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := here()
			tt.change(&f)
			p := Make(f)
			if got := asks(p); got != tt.asks {
				t.Errorf("asks %q, want %q", got, tt.asks)
			}
			if p.State == nil || p.State.Kind != tt.kind || p.State.Reason != tt.reason || p.Status != tt.status {
				t.Errorf("status %q, state %+v", p.Status, p.State)
			}
		})
	}
}

func asks(p Plan) string {
	var out []string
	if p.Decide != nil {
		out = append(out, map[string]string{client.Approve: "approve", client.Reject: "reject"}[p.Decide.Verdict])
	}
	if p.Undecide {
		out = append(out, "undecide")
	}
	if p.Propose {
		out = append(out, "propose")
	}
	return strings.Join(out, " ")
}

// The package's invariants, for facts of every kind.
func TestPlansKeepTheirBounds(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	bit := func() bool { return r.IntN(2) == 0 }
	edge := func() *client.Edge {
		switch r.IntN(4) {
		case 0:
			return nil
		case 1:
			return refused()
		}
		types := []rid.Type{x}
		if bit() {
			types = append(types, y)
		}
		return wire([]protocol.EdgeStatus{protocol.Proposed, protocol.Approved}[r.IntN(2)], types...)
	}
	for range 50_000 {
		f := here()
		for _, e := range []*End{&f.Source, &f.Target} {
			e.Managed, e.Suspended, e.Fresh, e.Asked = bit(), r.IntN(8) == 0, r.IntN(8) != 0, r.IntN(8) != 0
			e.Steered, e.Suspended = e.Managed && bit(), e.Managed && e.Suspended
			if e.Managed {
				e.Edge = edge()
			}
		}
		f.Source.Decision = []*client.Policy{nil, decision(client.Approve, x), decision(client.Reject)}[r.IntN(3)]
		f.Approval = []v1alpha1.Approval{v1alpha1.Undecided, v1alpha1.Approved, v1alpha1.Rejected}[r.IntN(3)]
		f.Held = []v1alpha1.Approval{v1alpha1.Undecided, v1alpha1.Approved, v1alpha1.Rejected}[r.IntN(3)]
		f.Discovered, f.Automatic = bit(), bit()
		p := Make(f)
		switch {
		case p.State == nil:
			t.Fatalf("no state for %+v", f)
		case (p.Decide != nil || p.Undecide) && !f.Source.Steered:
			t.Fatalf("a decision in a source that is not the object's to steer: %+v", f)
		case p.Propose && (!f.Target.Steered || f.Discovered || f.Approval == v1alpha1.Rejected):
			t.Fatalf("a proposal that is not the object's to make: %+v", f)
		case p.Decide != nil && p.Decide.Verdict == client.Approve && (f.Approval != v1alpha1.Approved || !f.Want.Covers(Terms{p.Decide.EdgeType, p.Decide.RIDTypes})):
			t.Fatalf("an approval wider than the object: %+v", f)
		case p.State.Kind == conditions.Ready && p.State.Reason != v1alpha1.ReasonRejected && (f.Source.Managed && !f.Source.Fresh || f.Target.Managed && !f.Target.Fresh):
			t.Fatalf("Ready without a fresh word of the ends: %+v", f)
		case p.State.Kind == conditions.Ready && asks(p) != "":
			t.Fatalf("Ready with %q to do: %+v", asks(p), f)
		}
	}
}

func TestTerms(t *testing.T) {
	a := NewTerms(v1alpha1.EdgePoll, []v1alpha1.RIDType{"b", "a", "b"})
	if fmt.Sprint(a.RIDTypes) != "[a b]" || a.EdgeType != protocol.Poll {
		t.Errorf("%+v", a)
	}
	open := NewTerms("", []v1alpha1.RIDType{"a", "b"})
	hook := NewTerms(v1alpha1.EdgeWebhook, []v1alpha1.RIDType{"a", "b"})
	if !open.Equal(a) || !open.Equal(hook) || a.Equal(hook) {
		t.Error("Equal")
	}
	less := NewTerms(v1alpha1.EdgePoll, []v1alpha1.RIDType{"a"})
	if !a.Covers(less) || less.Covers(a) || a.Covers(hook) || !open.Covers(less) {
		t.Error("Covers")
	}
}

func TestNamesAreNames(t *testing.T) {
	seen := map[string]bool{}
	long := rid.RID("orn:koi-net.node:" + strings.Repeat("Ünïcödé-", 40) + "+1")
	for _, source := range []rid.RID{ridA, "orn:koi-net.node:A_B.c+1", "orn:koi-net.node:---+1", "orn:koi-net.node:日本+1", long, "no RID"} {
		name := Name(source, ridB)
		if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
			t.Errorf("%s: %q: %v", source, name, errs)
		}
		if seen[name] || name != Name(source, ridB) || name == Name(ridB, source) {
			t.Errorf("%q is not one pair's alone", name)
		}
		seen[name] = true
	}
}

func TestDiscovered(t *testing.T) {
	home := &v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "n", UID: "u"}}
	e := *wire(protocol.Proposed, y, x)
	o := Discovered(home, e, func(r rid.RID) string {
		if r == ridA {
			return "a"
		}
		return ""
	})
	if !o.IsDiscovered() || !o.IsKept() || o.Namespace != "n" || o.Spec.Source.NodeRef.Name != "a" || o.Spec.Target.RID != v1alpha1.NodeRID(ridB) ||
		o.Spec.EdgeType != v1alpha1.EdgeWebhook || fmt.Sprint(o.Spec.RIDTypes) != "[orn:t.x orn:t.y]" || o.Spec.Approval != v1alpha1.Undecided {
		t.Errorf("%+v", o)
	}
	if !SameTerms(o, e) || SameTerms(o, *wire(protocol.Proposed, x)) {
		t.Error("SameTerms")
	}
	many := wire(protocol.Proposed)
	for i := range 65 {
		many.RIDTypes = append(many.RIDTypes, rid.Type(fmt.Sprintf("orn:t.%d", i)))
	}
	if Representable(*wire(protocol.Proposed)) || Representable(*many) || Representable(*wire(protocol.Proposed, "orn:a b")) || !Representable(e) {
		t.Error("Representable")
	}
}
