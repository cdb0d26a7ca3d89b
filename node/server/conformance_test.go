package server

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// exchange is a request to the reference and its answer, as captured.
type exchange struct {
	Name    string            `json:"name"`
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
	Status  int               `json:"status"`
	Answer  string            `json:"answer"`
}

func captures(t testing.TB, name string) []exchange {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "captures", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Exchanges []exchange }
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Exchanges) == 0 {
		t.Fatalf("%s holds no exchange", name)
	}
	return file.Exchanges
}

func (e exchange) send(t *testing.T, f *fixture) (int, []byte) {
	t.Helper()
	var headers []string
	for k, v := range e.Headers {
		headers = append(headers, k, v)
	}
	f.Metrics = nil
	w := do(f.handler(t), e.Method, e.Path, e.Body, headers...)
	if w.Code == 200 && e.Name != "docs" && w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("Content-Type %q", w.Header().Get("Content-Type"))
	}
	return w.Code, w.Body.Bytes()
}

// TestCapturedExchanges replays what koi-net 1.0.0b5 nodes said to each other.
// The answers must be the captured ones, value by value: the store and the poll
// queue hold what the reference's held.
func TestCapturedExchanges(t *testing.T) {
	for _, e := range captures(t, "v1.0.0b5") {
		t.Run(e.Name, func(t *testing.T) {
			f := newFixture(t)
			var answer struct {
				RIDs   []rid.RID         `json:"rids"`
				Events []json.RawMessage `json:"events"`
			}
			if e.Answer != "null" {
				if err := json.Unmarshal([]byte(e.Answer), &answer); err != nil {
					t.Fatal(err)
				}
			}
			for _, r := range answer.RIDs {
				f.put(t, bundle(t, r, `{}`))
			}
			for _, raw := range answer.Events {
				ev, err := protocol.DecodeEvent(raw)
				if err != nil {
					t.Fatal(err)
				}
				f.polls.events = append(f.polls.events, protocol.AppendEvent(nil, ev))
			}
			status, body := e.send(t, f)
			if status != e.Status {
				t.Fatalf("status %d, the reference's %d: %s", status, e.Status, body)
			}
			if got, want := canonical(t, body), canonical(t, []byte(e.Answer)); got != want {
				t.Errorf("answer\n%s\nthe reference's\n%s", got, want)
			}
			if strings.HasSuffix(e.Path, "/events/broadcast") {
				var sent struct{ Events []json.RawMessage }
				if err := json.Unmarshal([]byte(e.Body), &sent); err != nil {
					t.Fatal(err)
				}
				if len(f.inbox.events) != len(sent.Events) {
					t.Errorf("%d events accepted of %d", len(f.inbox.events), len(sent.Events))
				}
			}
		})
	}
}

// canonical is JSON with the order of RID lists, which means nothing, taken out.
func canonical(t *testing.T, body []byte) string {
	t.Helper()
	v := decodeJSON(t, body)
	if m, ok := v.(map[string]any); ok {
		if rids, ok := m["rids"].([]any); ok {
			sort.Slice(rids, func(i, j int) bool { return fmt.Sprint(rids[i]) < fmt.Sprint(rids[j]) })
		}
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// differs lists where our status is not the reference's, and why.
var differs = map[string]struct {
	status int
	why    string
}{
	"bad_rid_type":      {422, "the reference fails with 500 on a RID where a RID type belongs"},
	"bad_rid_typeerror": {422, "the reference fails with 500 on a RID without ':'"},
	"invalid_utf8":      {422, "one shape for all that is no JSON"},
	"docs":              {200, "ours carries its viewer in itself"},
	"openapi":           {200, "ours is about this node, and both generations"},
}

// adds lists the fields we answer beyond the reference's.
var adds = map[string][]string{
	"after_bundles": {"bundles"}, // the name later versions read
	"bundles_empty": {"bundles"},
}

// TestCapturedErrors replays hand-made requests, most of them invalid, and
// compares status and shape of the answers.
func TestCapturedErrors(t *testing.T) {
	for _, e := range captures(t, "v1.0.0b5-errors") {
		t.Run(e.Name, func(t *testing.T) {
			f := newFixture(t)
			if strings.HasPrefix(e.Name, "after_") {
				for _, ref := range []string{"bad", "B", "nan", "ts"} {
					f.put(t, bundle(t, rid.RID("orn:test.doc:"+ref), `{"a":1}`))
				}
			}
			f.put(t, bundle(t, "orn:koi-net.node:coordinator+53e100e5-3142-4294-8517-024e73730507", `{"node_type":"FULL"}`))
			if e.Name == "invalid_utf8" {
				e.Body = strings.ReplaceAll(e.Body, "ÿ", "\xff") // JSON cannot hold what was sent
			}
			status, body := e.send(t, f)
			if d, ok := differs[e.Name]; ok {
				if status != d.status {
					t.Errorf("status %d, want %d (the reference's is %d: %s): %s", status, d.status, e.Status, d.why, body)
				}
				return
			}
			if status != e.Status {
				t.Fatalf("status %d, the reference's %d: %s", status, e.Status, body)
			}
			if e.Answer == "" {
				return
			}
			got, want := decodeJSON(t, body), decodeJSON(t, []byte(e.Answer))
			if m, ok := got.(map[string]any); ok {
				for _, name := range adds[e.Name] {
					if _, ok := m[name]; !ok {
						t.Errorf("%q is missing", name)
					}
					delete(m, name)
				}
			}
			if status == 422 {
				checkDetail(t, got, want)
				return
			}
			if g, w := shape(got), shape(want); g != w {
				t.Errorf("shape %s, the reference's %s", g, w)
			}
		})
	}
}

// checkDetail wants every problem told with type, place and message, and the
// first one in the place where the reference sees it.
func checkDetail(t *testing.T, got, want any) {
	t.Helper()
	list := func(v any) []any {
		m, _ := v.(map[string]any)
		l, _ := m["detail"].([]any)
		if len(l) == 0 {
			t.Fatalf("no detail in %v", v)
		}
		return l
	}
	place := func(d any) []any {
		loc, _ := d.(map[string]any)["loc"].([]any)
		// The reference names its own validators after the field.
		return slices.DeleteFunc(slices.Clone(loc), func(v any) bool {
			s, ok := v.(string)
			return ok && strings.Contains(s, "[")
		})
	}
	for _, d := range list(got) {
		m, ok := d.(map[string]any)
		if !ok || m["type"] == "" || m["msg"] == "" || m["type"] == nil || m["msg"] == nil {
			t.Errorf("incomplete detail %v", d)
		}
	}
	if g, w := place(list(got)[0]), place(list(want)[0]); fmt.Sprint(g) != fmt.Sprint(w) {
		t.Errorf("loc %v, the reference's %v", g, w)
	}
}

// shape writes a value's types in place of its values.
func shape(v any) string {
	switch v := v.(type) {
	case map[string]any:
		var keys []string
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for i, k := range keys {
			if k == "contents" {
				keys[i] += ":…" // any object
				continue
			}
			keys[i] += ":" + shape(v[k])
		}
		return "{" + strings.Join(keys, " ") + "}"
	case []any:
		var kinds []string
		for _, e := range v {
			if s := shape(e); !slices.Contains(kinds, s) {
				kinds = append(kinds, s)
			}
		}
		return fmt.Sprintf("%d[%s]", len(v), strings.Join(kinds, "|"))
	default:
		return fmt.Sprintf("%T", v)
	}
}
