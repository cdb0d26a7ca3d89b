package deploy

import (
	"encoding/json"
	"testing"
)

func TestStanding(t *testing.T) {
	const (
		node    = `{"kind":"KoiNode","metadata":{"name":"a","generation":2},"status":{"observedGeneration":2,"conditions":[{"type":"Stalled","status":"False"},{"type":"Ready","status":"True","reason":"Running"}]}}`
		stale   = `{"kind":"KoiNode","metadata":{"name":"a","generation":3},"status":{"observedGeneration":2,"conditions":[{"type":"Ready","status":"True","reason":"Running"}]}}`
		pending = `{"kind":"KoiNode","metadata":{"name":"b","generation":1},"status":{"observedGeneration":1,"conditions":[{"type":"Ready","status":"False","reason":"PodPending","message":"image"}]}}`
		fresh   = `{"kind":"KoiNode","metadata":{"name":"c","generation":1},"status":{"observedGeneration":-1}}`
		behind  = `{"kind":"KoiNode","metadata":{"name":"d","generation":1},"spec":{"upgrade":"Automatic"},"status":{"observedGeneration":1,"image":"img:1","conditions":[{"type":"Ready","status":"True"}]}}`
		rolled  = `{"kind":"KoiNode","metadata":{"name":"d","generation":1},"spec":{"upgrade":"Automatic"},"status":{"observedGeneration":1,"image":"img:2","conditions":[{"type":"Ready","status":"True"}]}}`
		manual  = `{"kind":"KoiNode","metadata":{"name":"d","generation":1},"spec":{"upgrade":"Manual"},"status":{"observedGeneration":1,"image":"img:1","conditions":[{"type":"Ready","status":"True"}]}}`
		edge    = `{"kind":"KoiEdge","metadata":{"name":"e","generation":1},"status":{"observedGeneration":1,"conditions":[{"type":"Ready","status":"True","reason":"Approved"}]}}`
	)
	tests := []struct {
		name, items string
		want        bool
	}{
		{"all ready", node + "," + edge, true},
		{"nothing there", "", false},
		{"no edge yet", node, false},
		{"no node", edge, false},
		{"ready of an older spec", stale + "," + edge, false},
		{"one not ready", node + "," + pending + "," + edge, false},
		{"one still to be rolled", behind + "," + edge, false},
		{"one rolled", rolled + "," + edge, true},
		{"one that keeps its image", manual + "," + edge, true},
		{"one without a word", node + "," + edge + "," + fresh, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var list objectList
			if err := json.Unmarshal([]byte(`{"items":[`+tt.items+`]}`), &list); err != nil {
				t.Fatal(err)
			}
			if got := list.standing("img:2"); got != tt.want {
				t.Errorf("standing %v, want %v", got, tt.want)
			}
		})
	}
	var o object
	if err := json.Unmarshal([]byte(pending), &o); err != nil {
		t.Fatal(err)
	}
	if got, want := o.String(), "koinode/b: not ready (PodPending): image"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
