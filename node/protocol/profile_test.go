package protocol

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/rid"
)

func TestNodeProfile(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want NodeProfile
	}{
		"1.0 full": {`{"base_url":"http://127.0.0.1:8000/koi-net","node_type":"FULL","provides":{"event":["orn:koi-net.node"],"state":[]}}`,
			NodeProfile{BaseURL: "http://127.0.0.1:8000/koi-net", NodeType: Full, Provides: Provides{Event: []rid.Type{rid.NodeType}, State: []rid.Type{}}}},
		"1.0 partial": {`{"base_url":null,"node_type":"PARTIAL","provides":{"event":[],"state":[]}}`,
			NodeProfile{NodeType: Partial, Provides: Provides{Event: []rid.Type{}, State: []rid.Type{}}}},
		"2.1": {`{"@context":"orn:koi-net.context:koi-net.node","node_type":"PARTIAL","provides":{},"public_key":"MFkw"}`,
			NodeProfile{NodeType: Partial, PublicKey: "MFkw"}},
		"least": {`{"node_type":"PARTIAL"}`, NodeProfile{NodeType: Partial}},
	} {
		got, err := ParseNodeProfile([]byte(c.text))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
			continue
		}
		if err := got.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		contents := got.Contents()
		if normal, err := Normalize(contents, 8); err != nil || string(normal) != string(contents) {
			t.Errorf("%s: contents %s are not in normal form: %v", name, contents, err)
		}
		again, err := ParseNodeProfile(contents)
		if err != nil || string(again.Contents()) != string(contents) || again.BaseURL != got.BaseURL || again.PublicKey != got.PublicKey {
			t.Errorf("%s: %s, %v", name, again.Contents(), err)
		}
	}
	for name, text := range map[string]string{
		"empty": ``, "null": `null`, "list": `[]`, "no type": `{}`, "bad type": `{"node_type":"full"}`, "url": `{"node_type":"FULL","base_url":1}`,
		"provides": `{"node_type":"FULL","provides":[]}`, "provides null": `{"node_type":"FULL","provides":null}`, "bad provides": `{"node_type":"FULL","provides":{"event":["a:b"]}}`,
		"key": `{"node_type":"FULL","public_key":{}}`, "more": `{"node_type":"FULL"} 1`,
	} {
		var v *ValidationError
		if p, err := ParseNodeProfile([]byte(text)); !errors.Is(err, ErrProfile) || !errors.As(err, &v) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func TestNodeProfileValidate(t *testing.T) {
	for name, p := range map[string]NodeProfile{
		"no type":        {},
		"other type":     {NodeType: "HALF"},
		"no URL":         {NodeType: Full},
		"bad URL":        {NodeType: Full, BaseURL: "http://a b/"},
		"scheme":         {NodeType: Full, BaseURL: "file:///etc/passwd"},
		"no host":        {NodeType: Full, BaseURL: "http:///x"},
		"port alone":     {NodeType: Full, BaseURL: "http://:80/x"},
		"user":           {NodeType: Full, BaseURL: "http://u:p@h/"},
		"query":          {NodeType: Full, BaseURL: "http://h/?a"},
		"empty query":    {NodeType: Full, BaseURL: "http://h/?"},
		"fragment":       {NodeType: Full, BaseURL: "http://h/#a"},
		"relative":       {NodeType: Partial, BaseURL: "/koi-net"},
		"long":           {NodeType: Full, BaseURL: "http://h/" + strings.Repeat("a", maxURL)},
		"event type":     {NodeType: Partial, Provides: Provides{Event: []rid.Type{"orn"}}},
		"state type":     {NodeType: Partial, Provides: Provides{State: []rid.Type{"*:*"}}},
		"a secret stays": {NodeType: Full, BaseURL: "http://u:secret@h:x/"},
	} {
		err := p.Validate()
		if !errors.Is(err, ErrProfile) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeyMatches(t *testing.T) {
	key := "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEHVPP2uqII8WrU1k+Jh5txK1/DWfKaJCYqR6JVaYcqpQzIIYWZI9f2XjyxsxWVkuodnvxEuIn+lbhVGZPdw/JFQ=="
	r := rid.RID("orn:koi-net.node:alice+6061eade2b51a53cbfa9e06edb28041c7f3db33f0f298656e042645fb6cc90c1")
	if !(NodeProfile{PublicKey: key}).KeyMatches(r) {
		t.Error("the key does not match its RID")
	}
	if (NodeProfile{PublicKey: key[1:]}).KeyMatches(r) || (NodeProfile{PublicKey: key}).KeyMatches("orn:koi-net.node:alice+1") || (NodeProfile{PublicKey: key}).KeyMatches("bad") {
		t.Error("another key or RID matches")
	}
	if !(NodeProfile{}).KeyMatches("orn:koi-net.node:alice+1") {
		t.Error("an unsigned node has no key to mismatch")
	}
}

func TestEdgeProfile(t *testing.T) {
	text := `{"source":"orn:koi-net.node:a+1","target":"orn:koi-net.node:b+2","edge_type":"POLL","status":"PROPOSED","rid_types":["orn:koi-net.node","https"]}`
	p, err := ParseEdgeProfile([]byte(text))
	want := EdgeProfile{"orn:koi-net.node:a+1", "orn:koi-net.node:b+2", Poll, Proposed, []rid.Type{rid.NodeType, "https"}}
	if err != nil || !reflect.DeepEqual(p, want) {
		t.Fatalf("%+v, %v", p, err)
	}
	if string(p.Contents()) != text {
		t.Errorf("contents %s", p.Contents())
	}
	if !p.Allows("https") || p.Allows("http") {
		t.Error("Allows")
	}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	if _, err := ParseEdgeProfile([]byte(strings.Replace(text, `{`, `{"@context":"orn:koi-net.context:koi-net.edge",`, 1))); err != nil {
		t.Errorf("with @context: %v", err)
	}
	for _, replace := range [][2]string{
		{`"orn:koi-net.node:a+1"`, `"orn:test.doc:1"`}, {`"orn:koi-net.node:b+2"`, `"orn:koi-net.node:b"`}, {`"POLL"`, `"poll"`}, {`"PROPOSED"`, `"REJECTED"`},
		{`["orn:koi-net.node","https"]`, `null`}, {`"https"]`, `"https:x"]`}, {`"source"`, `"from"`}, {`"rid_types"`, `"types"`},
	} {
		bad := strings.Replace(text, replace[0], replace[1], 1)
		if _, err := ParseEdgeProfile([]byte(bad)); !errors.Is(err, ErrProfile) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for name, change := range map[string]func(*EdgeProfile){
		"source":  func(p *EdgeProfile) { p.Source = "orn:a.b:c" },
		"target":  func(p *EdgeProfile) { p.Target = "" },
		"loop":    func(p *EdgeProfile) { p.Target = p.Source },
		"type":    func(p *EdgeProfile) { p.EdgeType = "" },
		"status":  func(p *EdgeProfile) { p.Status = "x" },
		"none":    func(p *EdgeProfile) { p.RIDTypes = nil },
		"invalid": func(p *EdgeProfile) { p.RIDTypes = []rid.Type{"orn"} },
	} {
		bad := want
		change(&bad)
		if err := bad.Validate(); !errors.Is(err, ErrProfile) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestValidationErrorText(t *testing.T) {
	_, err := DecodeBroadcast([]byte(`{"events":[{"rid":"x","event_type":"y"}]}`), limits)
	want := `body.events.0.rid: invalid RID "x": there is no ':' after the scheme (and 1 more)`
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	out, err := json.Marshal(err)
	if err != nil || !strings.Contains(string(out), `"input":"x"`) {
		t.Errorf("%s, %v", out, err)
	}
}
