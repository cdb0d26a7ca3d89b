package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// contract is an OpenAPI document that bodies are held against.
type contract struct {
	doc      map[string]any
	compiler *jsonschema.Compiler
}

const contractURL = "https://koi.test/openapi.json"

func newContract(t testing.TB, text string) *contract {
	t.Helper()
	doc := parseJSON(t, text)
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource(contractURL, doc); err != nil {
		t.Fatal(err)
	}
	return &contract{doc.(map[string]any), c}
}

func defaultOpenAPI() openAPI {
	return newOpenAPI("/koi-net", "koi-node/1.2.3", generations{signed: true, unsigned: true}, protocol.Limits{})
}

func parseJSON(t testing.TB, text string) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%.200s: %v", text, err)
	}
	return v
}

// at returns the value at a JSON pointer, following references on the way, and
// the pointer without them.
func (c *contract) at(pointer string) (any, string, bool) {
	var v any = c.doc
	path := ""
	for _, step := range strings.Split(pointer, "/")[1:] {
		ok := false
		switch in := v.(type) {
		case map[string]any:
			v, ok = in[unescapePointer(step)]
		case []any:
			if i, err := strconv.Atoi(step); err == nil && i < len(in) {
				v, ok = in[i], true
			}
		}
		if !ok {
			return nil, "", false
		}
		path += "/" + step
		for {
			m, _ := v.(map[string]any)
			ref, ok := m["$ref"].(string)
			if !ok {
				break
			}
			if v, path, ok = c.at(strings.TrimPrefix(ref, "#")); !ok {
				return nil, "", false
			}
		}
	}
	return v, path, true
}

// schema compiles the schema at a JSON pointer.
func (c *contract) schema(t testing.TB, pointer string) *jsonschema.Schema {
	t.Helper()
	_, path, ok := c.at(pointer)
	if !ok {
		t.Fatalf("the document has no %s", pointer)
	}
	s, err := c.compiler.Compile(contractURL + "#" + path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const jsonContent = "/content/application~1json"

func operation(method, path string) string {
	return "/paths/" + strings.ReplaceAll(path, "/", "~1") + "/" + strings.ToLower(method)
}

// request returns the schema of a call's body.
func (c *contract) request(t testing.TB, path string) *jsonschema.Schema {
	t.Helper()
	return c.schema(t, operation("post", path)+"/requestBody"+jsonContent+"/schema")
}

// response returns where the answers of a status are described.
func (c *contract) response(method, path string, status int) (string, bool) {
	for _, key := range []string{strconv.Itoa(status), "default"} {
		if _, pointer, ok := c.at(operation(method, path) + "/responses/" + key); ok {
			return pointer, true
		}
	}
	return "", false
}

// answer returns the schema of a call's answers of a status.
func (c *contract) answer(t testing.TB, method, path string, status int) *jsonschema.Schema {
	t.Helper()
	pointer, ok := c.response(method, path, status)
	if !ok {
		t.Fatalf("the document describes no answer %d to %s %s", status, method, path)
	}
	return c.schema(t, pointer+jsonContent+"/schema")
}

// TestOpenAPIIsValid holds the document against the schema of OpenAPI 3.1, and
// every schema in it against that of JSON Schema.
func TestOpenAPIIsValid(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "openapi", "oas-3.1-schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	meta := parseJSON(t, string(raw))
	id := meta.(map[string]any)["$id"].(string)
	// OpenAPI's schema leaves open what a schema is; this says it, with the
	// discriminator, the one keyword of OpenAPI's own that is in use.
	const whole = "https://koi.test/document"
	dialect := parseJSON(t, `{
		"$id": "`+whole+`",
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"$ref": "`+id+`",
		"$defs": {"schema": {
			"$dynamicAnchor": "meta",
			"$ref": "https://json-schema.org/draft/2020-12/schema",
			"properties": {"discriminator": {
				"type": "object",
				"required": ["propertyName"],
				"properties": {"propertyName": {"type": "string"}, "mapping": {"type": "object", "additionalProperties": {"type": "string"}}}
			}}
		}}
	}`)
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for url, doc := range map[string]any{id: meta, whole: dialect} {
		if err := c.AddResource(url, doc); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := c.Compile(whole)
	if err != nil {
		t.Fatal(err)
	}
	text := defaultOpenAPI().text
	if err := schema.Validate(parseJSON(t, text)); err != nil {
		t.Fatal(err)
	}
	for _, broken := range []struct{ old, new string }{
		{`"openapi": "3.1.0"`, `"openapi": "3.0.0"`},
		{`"paths": {`, `"path": {`},
		{`"requestBody": {`, `"body": {`},
		{`"operationId": "pollEvents"`, `"operationId": 1`},
		{`"type": "integer"`, `"type": "int"`},
		{`"maxItems": 10000`, `"maxItems": "10000"`},
		{`"propertyName": "type"`, `"property": "type"`},
		{`"description": "Seconds`, `"descriptor": "Seconds`},
	} {
		changed := strings.Replace(text, broken.old, broken.new, 1)
		if changed == text {
			t.Errorf("%s is not in the document", broken.old)
		}
		if schema.Validate(parseJSON(t, changed)) == nil {
			t.Errorf("valid with %s", broken.new)
		}
	}
}

// visit calls f with every object of a value, and the JSON pointer to it.
func visit(v any, at string, f func(at string, m map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		f(at, v)
		for _, k := range slices.Sorted(maps.Keys(v)) {
			visit(v[k], at+"/"+escapePointer(k), f)
		}
	case []any:
		for i, e := range v {
			visit(e, at+"/"+strconv.Itoa(i), f)
		}
	}
}

func escapePointer(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

func unescapePointer(step string) string {
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
}

// TestOpenAPIIsWhole wants every reference to lead somewhere, every component
// to be in use and described, and nothing unfilled.
func TestOpenAPIIsWhole(t *testing.T) {
	text := defaultOpenAPI().text
	if i := strings.Index(text, "${"); i >= 0 {
		t.Errorf("not filled in: %.40s", text[i:])
	}
	c := newContract(t, text)
	used := map[string]bool{}
	operations := map[any]bool{}
	visit(c.doc, "", func(at string, m map[string]any) {
		refs := []any{m["$ref"]}
		if d, ok := m["discriminator"].(map[string]any); ok {
			refs = slices.Collect(maps.Values(d["mapping"].(map[string]any)))
		}
		for _, ref := range refs {
			ref, ok := ref.(string)
			if !ok {
				continue
			}
			used[strings.TrimPrefix(ref, "#")] = true
			if _, _, ok := c.at(strings.TrimPrefix(ref, "#")); !ok {
				t.Errorf("%s: nothing is at %s", at, ref)
			}
		}
		if id, ok := m["operationId"]; ok {
			if operations[id] {
				t.Errorf("two operations are named %v", id)
			}
			operations[id] = true
			if m["summary"] == nil || m["description"] == nil {
				t.Errorf("%v has no summary or description", id)
			}
		}
	})
	components := c.doc["components"].(map[string]any)
	for _, kind := range slices.Sorted(maps.Keys(components)) {
		for _, name := range slices.Sorted(maps.Keys(components[kind].(map[string]any))) {
			pointer := "/components/" + kind + "/" + name
			if !used[pointer] {
				t.Errorf("nothing refers to %s", pointer)
			}
			v, _, _ := c.at(pointer)
			if m := v.(map[string]any); m["description"] == nil && m["summary"] == nil {
				t.Errorf("%s is not described", pointer)
			}
		}
	}
	if len(operations) != len(documentedCalls)+2 {
		t.Errorf("%d operations", len(operations))
	}
}

// rawAt returns the text of a document's value at a JSON pointer, in which the
// order of fields is still there.
func rawAt(t testing.TB, text, pointer string) []byte {
	t.Helper()
	raw := json.RawMessage(text)
	for _, step := range strings.Split(pointer, "/")[1:] {
		name := unescapePointer(step)
		var list []json.RawMessage
		if i, err := strconv.Atoi(name); err == nil && json.Unmarshal(raw, &list) == nil {
			raw = list[i]
			continue
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal(raw, &object); err != nil || object[name] == nil {
			t.Fatalf("nothing is at %s (%v)", pointer, err)
		}
		raw = object[name]
	}
	return raw
}

// TestOpenAPIExamples holds every example against its schema. Hashes and
// signatures in them have to be right as well: people try their code on them.
func TestOpenAPIExamples(t *testing.T) {
	text := defaultOpenAPI().text
	c := newContract(t, text)
	keys := map[string]string{} // by the id in the node's RID
	visit(c.doc, "", func(_ string, m map[string]any) {
		if key, ok := m["public_key"].(string); ok {
			keys[rid.KeyID(key)] = key
		}
	})
	n := 0
	check := func(schema *jsonschema.Schema, pointer string) {
		t.Helper()
		n++
		v, path, ok := c.at(pointer)
		if !ok {
			t.Fatalf("nothing is at %s", pointer)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: %v", pointer, err)
		}
		visit(v, path, func(at string, m map[string]any) {
			manifest, ok := m["manifest"].(map[string]any)
			if _, hasContents := m["contents"].(map[string]any); !ok || !hasContents {
				return
			}
			contents, err := protocol.Normalize(rawAt(t, text, at+"/contents"), 256)
			if err == nil {
				err = protocol.VerifyHash(contents, manifest["sha256_hash"].(string))
			}
			if err != nil {
				t.Errorf("%s: %v", at, err)
			}
		})
		raw := rawAt(t, text, path)
		if !protocol.IsEnvelope(raw) {
			return
		}
		e, err := protocol.DecodeEnvelope[protocol.Payload](raw, protocol.Limits{})
		if err != nil {
			t.Fatalf("%s: %v", pointer, err)
		}
		_, id, err := rid.SplitNode(e.Source)
		if err != nil {
			t.Fatal(err)
		}
		if err := identity.Verify(keys[id], e.Signed, e.Signature); err != nil {
			t.Errorf("%s: %v", pointer, err)
		}
	}
	visit(c.doc, "", func(at string, m map[string]any) {
		switch examples := m["examples"].(type) {
		case []any:
			schema := c.schema(t, at)
			for i := range examples {
				check(schema, at+"/examples/"+strconv.Itoa(i))
			}
		case map[string]any:
			if m["schema"] == nil {
				return // the components that others refer to
			}
			schema := c.schema(t, at+"/schema")
			for name := range examples {
				check(schema, at+"/examples/"+name+"/value")
			}
		}
	})
	if n < 4*len(documentedCalls) {
		t.Errorf("only %d examples", n)
	}
}

// decoders read one form of a call and of its answer.
type decoders struct{ request, answer func([]byte) error }

func reads[T any](decode func([]byte, protocol.Limits) (T, error)) func([]byte) error {
	return func(body []byte) error {
		_, err := decode(body, protocol.Limits{})
		return err
	}
}

func readsNull(body []byte) error {
	if string(body) != "null" {
		return fmt.Errorf("%q is not null", body)
	}
	return nil
}

// documentedCalls are the five calls and what reads their two forms.
var documentedCalls = map[string]map[string]decoders{
	"/events/broadcast": {
		"unsigned": {reads(protocol.DecodeBroadcast), readsNull},
		"signed":   {reads(protocol.DecodeEnvelope[protocol.EventsPayload]), readsNull},
	},
	"/events/poll": {
		"unsigned": {reads(protocol.DecodePoll), reads(protocol.DecodeEvents)},
		"signed":   {reads(protocol.DecodeEnvelope[protocol.PollRequest]), reads(protocol.DecodeEnvelope[protocol.EventsPayload])},
	},
	"/rids/fetch": {
		"unsigned": {reads(protocol.DecodeFetchRIDs), reads(protocol.DecodeRIDs)},
		"signed":   {reads(protocol.DecodeEnvelope[protocol.FetchRIDs]), reads(protocol.DecodeEnvelope[protocol.RIDsPayload])},
	},
	"/manifests/fetch": {
		"unsigned": {reads(protocol.DecodeFetchManifests), reads(protocol.DecodeManifests)},
		"signed":   {reads(protocol.DecodeEnvelope[protocol.FetchManifests]), reads(protocol.DecodeEnvelope[protocol.ManifestsAnswer])},
	},
	"/bundles/fetch": {
		"unsigned": {reads(protocol.DecodeFetchBundles), reads(protocol.DecodeBundles)},
		"signed":   {reads(protocol.DecodeEnvelope[protocol.FetchBundles]), reads(protocol.DecodeEnvelope[protocol.BundlesAnswer])},
	},
}

// example returns an example of a call, or of its answer, and its schema.
func (c *contract) example(t testing.TB, path, form, part string) (any, *jsonschema.Schema) {
	t.Helper()
	pointer := operation("post", path) + "/" + part + jsonContent
	v, _, ok := c.at(pointer + "/examples/" + form + "/value")
	if !ok {
		t.Fatalf("%s has no example of the %s %s", path, form, part)
	}
	return v, c.schema(t, pointer+"/schema")
}

// gone stands for a field taken out.
type gone struct{}

// edited returns a copy of v with another value at a JSON pointer.
func edited(t testing.TB, v any, pointer string, value any) any {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var edit func(v any, steps []string) any
	edit = func(v any, steps []string) any {
		if len(steps) == 0 {
			return value
		}
		name := unescapePointer(steps[0])
		switch v := v.(type) {
		case map[string]any:
			if _, ok := value.(gone); ok && len(steps) == 1 {
				delete(v, name)
			} else {
				v[name] = edit(v[name], steps[1:])
			}
		case []any:
			if i, err := strconv.Atoi(name); err == nil && i < len(v) {
				v[i] = edit(v[i], steps[1:])
			}
		default:
			t.Fatalf("nothing is at %s", pointer)
		}
		return v
	}
	return edit(parseJSON(t, string(raw)), strings.Split(pointer, "/")[1:])
}

// fields returns the pointers to every field and element of v, but to none in
// contents, which are free.
func fields(v any, at string) []string {
	var out []string
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, at+"/"+escapePointer(k))
			if k != "contents" {
				out = append(out, fields(v[k], at+"/"+escapePointer(k))...)
			}
		}
	case []any:
		for i, e := range v {
			out = append(out, at+"/"+strconv.Itoa(i))
			out = append(out, fields(e, at+"/"+strconv.Itoa(i))...)
		}
	}
	return out
}

// TestOpenAPIAgreesWithDecoders takes every field of every example out, and
// puts something of a wrong type in its place. The document has to judge of it
// as this node does.
func TestOpenAPIAgreesWithDecoders(t *testing.T) {
	c := newContract(t, defaultOpenAPI().text)
	// stricter says where the document promises less than this node takes.
	stricter := func(path, form, pointer string, value any) bool {
		switch field := filepath.Base(pointer); field {
		case "type", "payload":
			return form == "signed" && (value == gone{} || field == "payload" && value != nil) // a payload's type may be missing
		case "not_found", "deferred", "manifests", "bundles":
			if value == (gone{}) {
				return true // in an answer; this node and the reference always write them
			}
		case "limit":
			return value == true // read as 1
		}
		// Where there are bundles, the list under the older name is not looked at.
		return path == "/bundles/fetch" && strings.HasPrefix(pointer, "/manifests")
	}
	cases := 0
	for path, forms := range documentedCalls {
		for form, d := range forms {
			for part, read := range map[string]func([]byte) error{"requestBody": d.request, "responses/200": d.answer} {
				if path == "/events/broadcast" && part != "requestBody" {
					continue // null, and no form of its own
				}
				v, schema := c.example(t, path, form, part)
				for _, pointer := range fields(v, "") {
					field := filepath.Base(pointer)
					_, element := strconv.Atoi(field)
					for _, value := range []any{gone{}, nil, true, []any{[]any{}}, map[string]any{"a": 1}} {
						_, object := value.(map[string]any)
						if element == nil && value == (gone{}) || field == "contents" && object {
							continue // a shorter list; contents are free
						}
						body := edited(t, v, pointer, value)
						raw, err := json.Marshal(body)
						if err != nil {
							t.Fatal(err)
						}
						cases++
						document, decoder := schema.Validate(body), read(raw)
						if (document == nil) != (decoder == nil) && (document == nil || !stricter(path, form, pointer, value)) {
							t.Errorf("%s, %s %s, %s = %v:\n document: %v\n decoder: %v", path, form, part, pointer, value, document, decoder)
						}
					}
				}
			}
		}
	}
	if cases < 700 {
		t.Errorf("only %d cases", cases)
	}
}

// TestOpenAPIRefuses changes one value of an example to one of the right type
// that is wrong all the same. takes says that this node reads it nevertheless.
func TestOpenAPIRefuses(t *testing.T) {
	c := newContract(t, defaultOpenAPI().text)
	const (
		event = "/payload/events/1"
		node  = "orn:koi-net.node:a+1"
	)
	for _, x := range []struct {
		path, form, part, pointer string
		value                     any
		takes                     bool
	}{
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/event_type", "CREATE", false},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/event_type", "new", false},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/rid", "no-colon", false},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/rid", "", false},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/rid", ":x", false},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/rid", "orn:x", false},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/rid", "orn::x", false},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/rid", "urn:a:", false},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/rid", "https:", false},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/rid", "orn:koi-net.node:noplus", false},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/rid", "orn:koi-net.node:two+plus+es", false},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/rid", "x:" + strings.Repeat("y", rid.MaxLength), false},
		{"/events/broadcast", "unsigned", "requestBody", "/events/1/manifest/timestamp", "yesterday", false},
		{"/events/broadcast", "unsigned", "requestBody", "/events/1/manifest/timestamp", "2026-13-01T00:00:00Z", false},
		{"/events/broadcast", "unsigned", "requestBody", "/events/1/manifest/timestamp", "2026-01-01T00:00:00", true},
		{"/events/broadcast", "unsigned", "requestBody", "/events/1/manifest/timestamp", "2026-01-01", true},
		{"/events/broadcast", "unsigned", "requestBody", "/events/1/manifest/timestamp", json.Number("1700000000"), true},
		{"/events/broadcast", "unsigned", "requestBody", "/events/1/manifest/sha256_hash", strings.Repeat("0", 63), true},
		{"/events/broadcast", "unsigned", "requestBody", "/events/1/manifest/sha256_hash", strings.Repeat("A", 64), true},
		{"/events/broadcast", "unsigned", "requestBody", "/events/1/contents/node_type", "HALF", true},
		{"/events/broadcast", "unsigned", "requestBody", "/events/1/contents/node_type", "FULL", true}, // without a base URL
		{"/events/broadcast", "unsigned", "requestBody", "/events/1/contents/node_type", gone{}, true},
		{"/events/broadcast", "unsigned", "requestBody", "/events/1/contents/base_url", "ftp://a", true},
		{"/events/broadcast", "unsigned", "requestBody", "/events/1/contents/provides/event", nil, true},
		{"/events/broadcast", "unsigned", "requestBody", "/events/1/contents/provides/event", []any{node}, true},
		{"/events/broadcast", "unsigned", "requestBody", "/payload", map[string]any{}, true},
		{"/events/broadcast", "signed", "requestBody", event + "/contents/public_key", true, true},
		{"/events/broadcast", "signed", "requestBody", event + "/event_type", "CREATE", false},
		{"/events/broadcast", "signed", "requestBody", "/payload/type", "poll_events", false},
		{"/events/broadcast", "signed", "requestBody", "/payload/type", "events", false},
		{"/events/broadcast", "signed", "requestBody", "/source_node", "orn:test.doc:1", false},
		{"/events/broadcast", "signed", "requestBody", "/target_node", "orn:koi-net.node:x", false},
		{"/events/broadcast", "signed", "requestBody", "/signature", "", true}, // and answers invalid_signature
		{"/events/broadcast", "signed", "requestBody", "/signature", strings.Repeat("A", 88), true},
		{"/events/broadcast", "signed", "requestBody", "/signature", strings.Repeat("A", 1025), false},
		{"/events/poll", "unsigned", "requestBody", "/limit", json.Number("1.5"), false},
		{"/events/poll", "unsigned", "requestBody", "/limit", "7", true},
		{"/events/poll", "unsigned", "requestBody", "/limit", "many", false},
		{"/events/poll", "unsigned", "requestBody", "/rid", "orn:test.doc:1", false},
		{"/events/poll", "signed", "requestBody", "/payload/limit", nil, false},
		{"/events/poll", "signed", "responses/200", event + "/contents/status", "REJECTED", true},
		{"/events/poll", "signed", "responses/200", event + "/contents/edge_type", "PUSH", true},
		{"/events/poll", "signed", "responses/200", event + "/contents/source", "orn:test.doc:1", true},
		{"/events/poll", "signed", "responses/200", event + "/contents/rid_types", []any{}, true},
		{"/events/poll", "signed", "responses/200", event + "/contents/target", gone{}, true},
		{"/rids/fetch", "unsigned", "requestBody", "/rid_types", []any{"orn:a:b"}, false},
		{"/rids/fetch", "unsigned", "requestBody", "/rid_types", []any{"orn"}, false},
		{"/rids/fetch", "unsigned", "requestBody", "/rid_types", []any{""}, false},
		{"/rids/fetch", "signed", "requestBody", "/payload/rid_types", []any{"https:"}, false},
		{"/rids/fetch", "signed", "responses/200", "/payload/rids", []any{"x"}, false},
		{"/manifests/fetch", "unsigned", "requestBody", "/rids", []any{"orn:a"}, false},
		{"/manifests/fetch", "signed", "responses/200", "/payload/type", "bundles_payload", false},
		{"/bundles/fetch", "unsigned", "responses/200", "/bundles/0/contents", []any{}, false},
		{"/bundles/fetch", "signed", "responses/200", "/payload/bundles/0/contents/public_key", json.Number("1"), true},
		{"/bundles/fetch", "signed", "responses/200", "/payload/bundles", gone{}, false},
		// What this node always writes.
		{"/bundles/fetch", "signed", "responses/200", "/payload/not_found", gone{}, true},
		{"/bundles/fetch", "signed", "responses/200", "/payload/deferred", gone{}, true},
		{"/bundles/fetch", "signed", "responses/200", "/payload/type", gone{}, true},
		{"/bundles/fetch", "unsigned", "responses/200", "/bundles", gone{}, true},
		{"/bundles/fetch", "unsigned", "responses/200", "/manifests", gone{}, true},
		{"/bundles/fetch", "unsigned", "responses/200", "/not_found", gone{}, true},
		{"/bundles/fetch", "unsigned", "responses/200", "/deferred", gone{}, true},
		{"/manifests/fetch", "unsigned", "responses/200", "/not_found", gone{}, true},
		{"/manifests/fetch", "signed", "responses/200", "/payload/not_found", gone{}, true},
	} {
		v, schema := c.example(t, x.path, x.form, x.part)
		body := edited(t, v, x.pointer, x.value)
		if schema.Validate(body) == nil {
			t.Errorf("%s, %s %s: %s may be %.60v", x.path, x.form, x.part, x.pointer, x.value)
		}
		d := documentedCalls[x.path][x.form]
		read := d.request
		if x.part != "requestBody" {
			read = d.answer
		}
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		if err := read(raw); (err == nil) != x.takes {
			t.Errorf("%s, %s %s: %s = %.60v is read: %v", x.path, x.form, x.part, x.pointer, x.value, err)
		}
	}
}

// TestOpenAPITakesWhatIsFree changes examples in ways that mean nothing.
func TestOpenAPITakesWhatIsFree(t *testing.T) {
	c := newContract(t, defaultOpenAPI().text)
	for _, x := range []struct {
		path, form, part, pointer string
		value                     any
	}{
		{"/events/broadcast", "unsigned", "requestBody", "/events", []any{}},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/manifest", gone{}},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/contents", gone{}},
		{"/events/broadcast", "unsigned", "requestBody", "/unknown", map[string]any{"a": 1}},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0/unknown", nil},
		{"/events/broadcast", "unsigned", "requestBody", "/events/0", map[string]any{"rid": "https://example.org/ü?a=b#c", "event_type": "UPDATE", "contents": map[string]any{}}},
		{"/events/broadcast", "signed", "requestBody", "/payload/events/0/contents", nil},
		{"/events/broadcast", "signed", "requestBody", "/payload/unknown", true},
		{"/events/broadcast", "signed", "requestBody", "/unknown", true},
		{"/events/poll", "unsigned", "requestBody", "/limit", gone{}},
		{"/events/poll", "unsigned", "requestBody", "/limit", json.Number("-1")},
		{"/events/poll", "unsigned", "requestBody", "/limit", json.Number("7.0")},
		{"/events/poll", "signed", "requestBody", "/payload/limit", gone{}},
		{"/rids/fetch", "unsigned", "requestBody", "/rid_types", gone{}},
		{"/rids/fetch", "unsigned", "requestBody", "/rid_types", []any{"https", "urn:a"}},
		{"/rids/fetch", "signed", "requestBody", "/payload/rid_types", gone{}},
		{"/rids/fetch", "signed", "responses/200", "/payload/rids", []any{"a:b:c:d", "orn:koi-net.node:+"}},
		{"/manifests/fetch", "unsigned", "requestBody", "/rids", gone{}},
		{"/manifests/fetch", "signed", "responses/200", "/payload/manifests/0/timestamp", "2026-01-01T00:00:00+02:00"},
	} {
		v, schema := c.example(t, x.path, x.form, x.part)
		body := edited(t, v, x.pointer, x.value)
		if err := schema.Validate(body); err != nil {
			t.Errorf("%s, %s %s: %s = %v: %v", x.path, x.form, x.part, x.pointer, x.value, err)
		}
		d := documentedCalls[x.path][x.form]
		read := d.request
		if x.part != "requestBody" {
			read = d.answer
		}
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		if err := read(raw); err != nil {
			t.Errorf("%s, %s %s: %s = %v is not read: %v", x.path, x.form, x.part, x.pointer, x.value, err)
		}
	}
}

// TestOpenAPIBounds: the bounds told are this node's own.
func TestOpenAPIBounds(t *testing.T) {
	limits := protocol.Limits{BodyBytes: 12345, Events: 3, Depth: 17, ContentsBytes: 2345, RIDs: 4, RIDTypes: 2}
	d := newOpenAPI("/koi-net", "koi-node/1.2.3", generations{signed: true, unsigned: true}, limits)
	if d.text != newOpenAPI("/koi-net", "koi-node/1.2.3", generations{signed: true, unsigned: true}, limits).text {
		t.Error("another document each time")
	}
	c := newContract(t, d.text)
	for _, told := range []string{"12345 bytes a body", "3 events a broadcast", "17 levels", "2345 bytes of contents", "4 RIDs and 2 RID types"} {
		if !strings.Contains(c.doc["info"].(map[string]any)["description"].(string), told) {
			t.Errorf("the description does not tell of %s", told)
		}
	}
	list := func(v any, n int) []any { return slices.Repeat([]any{v}, n) }
	forget := map[string]any{"rid": "a:b", "event_type": "FORGET"}
	for _, x := range []struct {
		path, part, field string
		element           any
		most              int
	}{
		{"/events/broadcast", "requestBody", "events", forget, limits.Events},
		{"/rids/fetch", "requestBody", "rid_types", "a", limits.RIDTypes},
		{"/manifests/fetch", "requestBody", "rid_types", "a", limits.RIDTypes},
		{"/manifests/fetch", "requestBody", "rids", "a:b", limits.RIDs},
		{"/bundles/fetch", "requestBody", "rids", "a:b", limits.RIDs},
	} {
		for form, at := range map[string]string{"unsigned": "/", "signed": "/payload/"} {
			v, schema := c.example(t, x.path, form, x.part)
			if err := schema.Validate(edited(t, v, at+x.field, list(x.element, x.most))); err != nil {
				t.Errorf("%s, %s: %d %s: %v", x.path, form, x.most, x.field, err)
			}
			if schema.Validate(edited(t, v, at+x.field, list(x.element, x.most+1))) == nil {
				t.Errorf("%s, %s: %d %s are valid", x.path, form, x.most+1, x.field)
			}
		}
	}
	// What this node holds and answers has no such bound.
	v, schema := c.example(t, "/rids/fetch", "signed", "responses/200")
	if err := schema.Validate(edited(t, v, "/payload/rids", list("a:b", 100))); err != nil {
		t.Error(err)
	}
}

// TestOpenAPICaptures holds what nodes of the reference said to each other
// against the document.
func TestOpenAPICaptures(t *testing.T) {
	c := newContract(t, defaultOpenAPI().text)
	for _, file := range []string{"captures/v1.0.0b5.json", "captures/v1.1.0.json", "captures/v1.3.2.json", "captures/v2.json"} {
		exchanges := capturedExchanges(t, file)
		for _, e := range exchanges {
			path := strings.TrimPrefix(e.Path, "/koi-net")
			if err := c.request(t, path).Validate(parseJSON(t, e.Body)); err != nil {
				t.Errorf("%s %s: %v", file, e.Name, err)
			}
			if err := c.answer(t, e.Method, path, e.Status).Validate(parseJSON(t, e.Answer)); err != nil {
				t.Errorf("%s %s: answer %d: %v", file, e.Name, e.Status, err)
			}
		}
	}
}

type captured struct {
	Name, Method, Path, Body, Answer string
	Status                           int
}

func capturedExchanges(t *testing.T, file string) []captured {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	var f struct{ Exchanges []captured }
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	if len(f.Exchanges) < 10 {
		t.Fatalf("%s holds %d exchanges", file, len(f.Exchanges))
	}
	return f.Exchanges
}

// TestOpenAPICapturedErrors does so with hand-made requests to the reference,
// most of them invalid. The document has to take the bodies that the reference
// read, and no others.
func TestOpenAPICapturedErrors(t *testing.T) {
	c := newContract(t, defaultOpenAPI().text)
	different := map[string]string{
		"ct_form":               "refused for its Content-Type",
		"ct_text_plain":         "refused for its Content-Type",
		"26_no_content_type":    "refused for its Content-Type",
		"27_text_plain":         "refused for its Content-Type",
		"21_unsigned_old_style": "the other generation",
		"timestamp_int":         "read, but not promised",
		"poll_limit_string":     "read, but not promised",
		"invalid_utf8":          "what was sent cannot be written in JSON",
	}
	answered := map[string]string{
		"after_bundles":   "one list of bundles, where this node writes two",
		"bundles_empty":   "one list of bundles, where this node writes two",
		"invalid_utf8":    "400, where this node answers 422 to all that is no JSON",
		"54_invalid_utf8": "400, where this node answers 422 to all that is no JSON",
	}
	taken, refused, answers := 0, 0, 0
	for _, file := range []string{"captures/v1.0.0b5-errors.json", "captures/v2-errors.json"} {
		for _, e := range capturedExchanges(t, file) {
			path := strings.TrimPrefix(e.Path, "/koi-net")
			if documentedCalls[path] == nil || e.Status == 404 || e.Method != "POST" {
				continue
			}
			body, err := jsonschema.UnmarshalJSON(strings.NewReader(e.Body))
			if err == nil {
				err = c.request(t, path).Validate(body)
			} else if e.Status == 200 && e.Name != "nan" { // which is no JSON
				t.Errorf("%s: %v", e.Name, err)
			}
			read := e.Status == 200 || strings.Contains(e.Answer, `"error_response"`)
			switch {
			case e.Name == "nan":
			case (err == nil) != read && different[e.Name] == "":
				t.Errorf("%s %s: answered %d, the document says %v", file, e.Name, e.Status, err)
			case (err == nil) == read && different[e.Name] != "":
				t.Errorf("%s %s: no difference", file, e.Name)
			case err == nil:
				taken++
			default:
				refused++
			}
			if e.Status == 500 {
				continue // no JSON, and never meant
			}
			answers++
			err = c.answer(t, e.Method, path, e.Status).Validate(parseJSON(t, e.Answer))
			if (err == nil) != (answered[e.Name] == "") {
				t.Errorf("%s %s: answer %d: %v", file, e.Name, e.Status, err)
			}
		}
	}
	if taken < 30 || refused < 15 || answers < 50 {
		t.Errorf("%d taken, %d refused, %d answers", taken, refused, answers)
	}
}
