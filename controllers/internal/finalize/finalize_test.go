package finalize

import (
	"testing"
	"time"
)

func TestNode(t *testing.T) {
	for _, tt := range []struct {
		name  string
		facts NodeFacts
		want  NodePlan
	}{
		{"kept", NodeFacts{Reachable: true, KeepStorage: true, KeepIdentity: true, OwnIdentity: true}, NodePlan{Leave: true}},
		{"dropped", NodeFacts{Reachable: true, OwnIdentity: true}, NodePlan{Leave: true, DeleteStorage: true, DeleteIdentity: true}},
		{"someone else's Secret", NodeFacts{Reachable: true}, NodePlan{Leave: true, DeleteStorage: true}},
		{"suspended", NodeFacts{Suspended: true, Reachable: true, KeepStorage: true, KeepIdentity: true}, NodePlan{}},
		{"silent", NodeFacts{KeepStorage: true, KeepIdentity: true}, NodePlan{}},
		{"external", NodeFacts{External: true, Reachable: true, OwnIdentity: true}, NodePlan{}},
		{"not heard yet", NodeFacts{Unheard: true, OwnIdentity: true}, NodePlan{Wait: true}},
		{"not heard yet, suspended", NodeFacts{Unheard: true, Suspended: true, KeepStorage: true, KeepIdentity: true}, NodePlan{}},
		{"not heard in time", NodeFacts{Unheard: true, Since: LeaveTimeout, OwnIdentity: true}, NodePlan{DeleteStorage: true, DeleteIdentity: true}},
		{"heard before, and now anew", NodeFacts{Unheard: true, Reachable: true, KeepStorage: true, KeepIdentity: true}, NodePlan{Leave: true}},
		{"too late", NodeFacts{Reachable: true, Since: LeaveTimeout, KeepStorage: true, KeepIdentity: true}, NodePlan{}},
	} {
		if got := Node(tt.facts); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestEdge(t *testing.T) {
	up := EndFacts{Steered: true, Reachable: true, Knows: true}
	for _, tt := range []struct {
		name  string
		facts EdgeFacts
		want  EdgePlan
	}{
		{"both ends know it", EdgeFacts{Source: up, Target: up}, EdgePlan{Source: true, Target: true}},
		{"kept", EdgeFacts{Kept: true, Source: up, Target: up}, EdgePlan{Done: true}},
		{"lost to another", EdgeFacts{Loser: true, Source: up, Target: up}, EdgePlan{Done: true}},
		{"patience over", EdgeFacts{Since: ForgetPatience, Source: up, Target: up}, EdgePlan{Done: true}},
		{"one end elsewhere", EdgeFacts{Source: EndFacts{}, Target: up}, EdgePlan{Target: true}},
		{"one end silent", EdgeFacts{Source: EndFacts{Steered: true, Knows: true}, Target: up}, EdgePlan{Target: true, Wait: true}},
		{"both silent", EdgeFacts{Source: EndFacts{Steered: true}, Target: EndFacts{Steered: true}}, EdgePlan{Wait: true}},
		{"suspended", EdgeFacts{Source: EndFacts{Steered: true, Suspended: true, Knows: true}, Target: EndFacts{Steered: true, Suspended: true}}, EdgePlan{Done: true}},
		{"nodes go as well", EdgeFacts{Source: EndFacts{Steered: true, Going: true, Reachable: true, Knows: true}, Target: EndFacts{}}, EdgePlan{Done: true}},
		{"forgotten already", EdgeFacts{Source: EndFacts{Steered: true, Reachable: true}, Target: EndFacts{Steered: true, Reachable: true}}, EdgePlan{Done: true}},
	} {
		if got := Edge(tt.facts); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// Whatever is known of a node: it is not waited for beyond its time, and while it
// is, nothing is removed.
func TestNodeAlwaysEnds(t *testing.T) {
	for bits := range 1 << 7 {
		bit := func(i int) bool { return bits>>i&1 == 1 }
		f := NodeFacts{External: bit(0), Suspended: bit(1), Reachable: bit(2), Unheard: bit(3), KeepStorage: bit(4), KeepIdentity: bit(5), OwnIdentity: bit(6)}
		for _, since := range []time.Duration{-time.Second, 0, LeaveTimeout - 1, LeaveTimeout, time.Hour} {
			f.Since = since
			p := Node(f)
			if since >= LeaveTimeout && (p.Wait || p.Leave) {
				t.Fatalf("%+v never ends", f)
			}
			if p.Wait && (p.Leave || p.DeleteStorage || p.DeleteIdentity) {
				t.Fatalf("%+v waits and acts: %+v", f, p)
			}
			if p.DeleteStorage && (f.KeepStorage || f.External) || p.DeleteIdentity && (f.KeepIdentity || f.External || !f.OwnIdentity) {
				t.Fatalf("%+v removes what is to stay: %+v", f, p)
			}
		}
	}
}

// Whatever is gone, silent or slow: in the end the object goes, and until then
// there is something to do or to wait for.
func TestEdgeAlwaysEnds(t *testing.T) {
	for bits := range 1 << 12 {
		bit := func(i int) bool { return bits>>i&1 == 1 }
		end := func(i int) EndFacts {
			return EndFacts{Steered: bit(i), Going: bit(i + 1), Suspended: bit(i + 2), Reachable: bit(i + 3), Knows: bit(i + 4)}
		}
		f := EdgeFacts{Kept: bit(0), Loser: bit(1), Source: end(2), Target: end(7)}
		for _, since := range []time.Duration{0, ForgetPatience - 1, ForgetPatience, time.Hour} {
			f.Since = since
			p := Edge(f)
			if since >= ForgetPatience && !p.Done {
				t.Fatalf("%+v never ends", f)
			}
			if p.Done == (p.Source || p.Target || p.Wait) {
				t.Fatalf("%+v: %+v", f, p)
			}
			if (p.Source && !f.Source.Steered) || (p.Target && !f.Target.Steered) {
				t.Fatalf("%+v asks a node it may not steer", f)
			}
		}
	}
}
