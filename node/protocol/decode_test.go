package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/rid"
)

var limits = DefaultLimits()

// decodeRequest and decodeAnswer dispatch by path, as a server and a client do.
func decodeRequest(path string, body []byte) (any, error) {
	switch path {
	case "/events/broadcast":
		return noneOnError(DecodeBroadcast(body, limits))
	case "/events/poll":
		return noneOnError(DecodePoll(body, limits))
	case "/rids/fetch":
		return noneOnError(DecodeFetchRIDs(body, limits))
	case "/manifests/fetch":
		return noneOnError(DecodeFetchManifests(body, limits))
	case "/bundles/fetch":
		return noneOnError(DecodeFetchBundles(body, limits))
	}
	return nil, fmt.Errorf("unknown path %s", path)
}

func noneOnError[T any](v T, err error) (any, error) { return v, err }

func decodeAnswer(path string, body []byte) (any, error) {
	switch path {
	case "/events/broadcast":
		if string(body) != "null" {
			return nil, errors.New("not null")
		}
		return nil, nil
	case "/events/poll":
		return noneOnError(DecodeEvents(body, limits))
	case "/rids/fetch":
		return noneOnError(DecodeRIDs(body, limits))
	case "/manifests/fetch":
		return noneOnError(DecodeManifests(body, limits))
	case "/bundles/fetch":
		return noneOnError(DecodeBundles(body, limits))
	}
	return nil, fmt.Errorf("unknown path %s", path)
}

type capture struct {
	path, request, answer string
}

func captures(t testing.TB) []capture {
	files, err := filepath.Glob("testdata/captures/*.json")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d captures, %v", len(files), err)
	}
	var all []capture
	for _, file := range files {
		var c struct {
			Request  struct{ Line, Body string }
			Response struct{ Line, Body string }
		}
		readJSON(t, file, &c)
		path := strings.TrimPrefix(strings.Fields(c.Request.Line)[1], "/koi-net")
		all = append(all, capture{path, c.Request.Body, c.Response.Body})
	}
	return all
}

// Everything two reference nodes said to each other reads, and what we write
// for it is byte for byte what they wrote.
func TestCaptures(t *testing.T) {
	for i, c := range captures(t) {
		request, err := decodeRequest(c.path, []byte(c.request))
		if err != nil {
			t.Errorf("%d: request %s: %v", i, c.path, err)
			continue
		}
		if got := string(encodeRequest(request)); got != c.request {
			t.Errorf("%d: request %s is written as\n%s\nthe reference wrote\n%s", i, c.path, got, c.request)
		}
		answer, err := decodeAnswer(c.path, []byte(c.answer))
		if err != nil {
			t.Errorf("%d: answer %s: %v", i, c.path, err)
			continue
		}
		if events, ok := answer.([]Event); ok {
			if got := string(encodeRequest(events)); got != c.answer {
				t.Errorf("%d: answer %s is written as\n%s\nthe reference wrote\n%s", i, c.path, got, c.answer)
			}
		}
		events, _ := request.([]Event)
		answered, _ := answer.([]Event)
		for _, e := range append(events, answered...) {
			if e.Manifest == nil {
				continue
			}
			if err := VerifyHash(e.Contents, e.Manifest.SHA256Hash); err != nil {
				t.Errorf("%d: %s: %v", i, e.RID, err)
			}
			switch e.RID.Type() {
			case rid.NodeType:
				p, err := ParseNodeProfile(e.Contents)
				if err == nil {
					err = p.Validate()
				}
				if err != nil {
					t.Errorf("%d: %s: %v", i, e.RID, err)
				}
			case rid.EdgeType:
				p, err := ParseEdgeProfile(e.Contents)
				if err == nil {
					err = p.Validate()
				}
				if err != nil {
					t.Errorf("%d: %s: %v", i, e.RID, err)
				}
				if string(p.Contents()) != string(e.Contents) {
					t.Errorf("%d: %s is written as %s, the reference wrote %s", i, e.RID, p.Contents(), e.Contents)
				}
			}
		}
	}
}

func encodeRequest(v any) []byte {
	switch v := v.(type) {
	case []Event:
		rows := make([][]byte, len(v))
		for i, e := range v {
			rows[i] = AppendEvent(nil, e)
		}
		return EncodeBroadcast(rows)
	case PollRequest:
		return EncodePoll(v)
	case FetchRIDs:
		return EncodeFetchRIDs(v)
	case FetchManifests:
		return EncodeFetchManifests(v)
	case FetchBundles:
		return EncodeFetchBundles(v)
	}
	return nil
}

// Hand-made requests to the reference, most of them wrong, and what it answered.
func TestErrorCaptures(t *testing.T) {
	// What is not the decoder's: methods, paths and content types.
	other := map[string]bool{"get_method": true, "unknown_path": true, "trailing_slash": true}
	// Content types are the server's affair; the body alone is in order.
	differs := map[string]string{"ct_form": "accepted", "ct_text_plain": "accepted"}
	files, err := filepath.Glob("testdata/errors/*.json")
	if err != nil || len(files) < 25 {
		t.Fatalf("%d captures, %v", len(files), err)
	}
	refused := 0
	for _, file := range files {
		var c struct {
			Name, Path string
			Body       string `json:"request_body"`
			Status     int
			Answer     string `json:"response_body"`
		}
		readJSON(t, file, &c)
		if other[c.Name] {
			continue
		}
		body := []byte(c.Body)
		if c.Name == "invalid_utf8" {
			body = []byte("{\"rid_types\":[\"\xff\"]}") // the capture shows it as Latin-1
		}
		_, err := decodeRequest(strings.TrimPrefix(c.Path, "/koi-net"), body)
		// A 500 of the reference is an exception over a bad RID.
		if wantError := c.Status != 200 && differs[c.Name] == ""; (err != nil) != wantError {
			t.Errorf("%s: %v; the reference answered %d", c.Name, err, c.Status)
			continue
		}
		if err != nil {
			refused++
			var ours *ValidationError
			if !errors.As(err, &ours) {
				t.Errorf("%s: %v is no ValidationError", c.Name, err)
				continue
			}
			if c.Status != 422 {
				continue
			}
			var theirs struct{ Detail []Detail }
			if err := json.Unmarshal([]byte(c.Answer), &theirs); err != nil {
				t.Fatal(err)
			}
			want, got := theirs.Detail[len(theirs.Detail)-1], ours.Details[0]
			n := min(len(want.Loc), len(got.Loc))
			if got.Type != want.Type || fmt.Sprint(got.Loc) != fmt.Sprint(want.Loc[:n]) || n < len(want.Loc)-1 {
				t.Errorf("%s: %s at %v, the reference said %s at %v", c.Name, got.Type, got.Loc, want.Type, want.Loc)
			}
			continue
		}
		if c.Status == 200 {
			if _, err := decodeAnswer(strings.TrimPrefix(c.Path, "/koi-net"), []byte(c.Answer)); err != nil {
				t.Errorf("%s: answer: %v", c.Name, err)
			}
		}
	}
	if refused < 10 {
		t.Errorf("only %d refused", refused)
	}
}

// Bodies of the wrong shape, and everything that is told about them.
func TestDecodeRefuses(t *testing.T) {
	const manifest = `{"rid":"orn:a.b:c","timestamp":"2026-01-01T00:00:00Z","sha256_hash":"x"}`
	long := "orn:a.b:" + strings.Repeat("x", rid.MaxLength)
	for name, c := range map[string]struct {
		path, body string
		want       []string // type and location of each detail
	}{
		"no JSON":          {"/rids/fetch", `{"rid_types":[}`, []string{"json_invalid body.14"}},
		"cut off":          {"/rids/fetch", `{"rid_types":[`, []string{"json_invalid body.14"}},
		"two values":       {"/rids/fetch", `{} {}`, []string{"json_invalid body.3"}},
		"empty":            {"/rids/fetch", ` `, []string{"missing body"}},
		"null":             {"/rids/fetch", `null`, []string{"missing body"}},
		"null and more":    {"/rids/fetch", `null 1`, []string{"json_invalid body.5"}},
		"number":           {"/rids/fetch", `7`, []string{"model_attributes_type body"}},
		"array and more":   {"/rids/fetch", `[]]`, []string{"json_invalid body.2"}},
		"types null":       {"/rids/fetch", `{"rid_types":null}`, []string{"list_type body.rid_types"}},
		"types object":     {"/rids/fetch", `{"rid_types":{"a":1}}`, []string{"list_type body.rid_types"}},
		"type number":      {"/rids/fetch", `{"rid_types":["https",1]}`, []string{"string_type body.rid_types.1"}},
		"type is RID":      {"/rids/fetch", `{"rid_types":["orn:a:b"]}`, []string{"value_error body.rid_types.0"}},
		"no rids":          {"/bundles/fetch", `{}`, []string{"missing body.rids"}},
		"case counts":      {"/bundles/fetch", `{"RIDs":[],"Rids":[]}`, []string{"missing body.rids"}},
		"bad rids":         {"/bundles/fetch", `{"rids":["x","orn:a.b:c",":","",null]}`, []string{"value_error body.rids.0", "value_error body.rids.2", "value_error body.rids.3", "string_type body.rids.4"}},
		"long rid":         {"/bundles/fetch", `{"rids":["` + long + `"]}`, []string{"value_error body.rids.0"}},
		"manifests":        {"/manifests/fetch", `{"rids":5,"rid_types":"x"}`, []string{"list_type body.rids", "list_type body.rid_types"}},
		"poll none":        {"/events/poll", `{"limit":1}`, []string{"missing body.rid"}},
		"poll no node":     {"/events/poll", `{"rid":"orn:a.b:c"}`, []string{"value_error body.rid"}},
		"poll limit null":  {"/events/poll", `{"rid":"orn:koi-net.node:a+b","limit":null}`, []string{"int_type body.limit"}},
		"poll limit list":  {"/events/poll", `{"rid":"orn:koi-net.node:a+b","limit":[1]}`, []string{"int_type body.limit"}},
		"poll limit word":  {"/events/poll", `{"rid":"orn:koi-net.node:a+b","limit":"many"}`, []string{"int_parsing body.limit"}},
		"poll limit empty": {"/events/poll", `{"rid":"orn:koi-net.node:a+b","limit":""}`, []string{"int_parsing body.limit"}},
		"poll limit 1.5":   {"/events/poll", `{"rid":"orn:koi-net.node:a+b","limit":"1.5"}`, []string{"int_parsing body.limit"}},
		"poll limit NaN":   {"/events/poll", `{"rid":"orn:koi-net.node:a+b","limit":NaN}`, []string{"int_type body.limit"}},
		"poll limit huge":  {"/events/poll", `{"rid":"orn:koi-net.node:a+b","limit":1e999}`, []string{"int_from_float body.limit"}},
		"events null":      {"/events/broadcast", `{"events":null}`, []string{"list_type body.events"}},
		"event null":       {"/events/broadcast", `{"events":[null]}`, []string{"model_attributes_type body.events.0"}},
		"event empty":      {"/events/broadcast", `{"events":[{}]}`, []string{"missing body.events.0.rid", "missing body.events.0.event_type"}},
		"event types":      {"/events/broadcast", `{"events":[{"rid":1,"event_type":2,"manifest":3,"contents":4}]}`, []string{"string_type body.events.0.rid", "string_type body.events.0.event_type", "model_attributes_type body.events.0.manifest", "dict_type body.events.0.contents"}},
		"event lower case": {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","event_type":"new"}]}`, []string{"enum body.events.0.event_type"}},
		"second event":     {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","event_type":"NEW"},{"rid":"","event_type":"NEW"}]}`, []string{"value_error body.events.1.rid"}},
		"contents list":    {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","event_type":"NEW","contents":[{}]}]}`, []string{"dict_type body.events.0.contents"}},
		"manifest empty":   {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","event_type":"NEW","manifest":{}}]}`, []string{"missing body.events.0.manifest.rid", "missing body.events.0.manifest.timestamp", "missing body.events.0.manifest.sha256_hash"}},
		"manifest nulls":   {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","event_type":"NEW","manifest":{"rid":null,"timestamp":null,"sha256_hash":null}}]}`, []string{"string_type body.events.0.manifest.rid", "datetime_type body.events.0.manifest.timestamp", "string_type body.events.0.manifest.sha256_hash"}},
		"bad timestamp":    {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","event_type":"NEW","manifest":{"rid":"orn:a.b:c","timestamp":"today","sha256_hash":"x"}}]}`, []string{"datetime_from_date_parsing body.events.0.manifest.timestamp"}},
		"last counts":      {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","event_type":"NEW","rid":"bad"}]}`, []string{"value_error body.events.0.rid"}},
		"last list counts": {"/events/broadcast", `{"events":[],"events":[1]}`, []string{"model_attributes_type body.events.0"}},
		"last wrong kind":  {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","event_type":"NEW","manifest":` + manifest + `,"manifest":1}]}`, []string{"model_attributes_type body.events.0.manifest"}},
		"surrogate":        {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","event_type":"NEW","contents":{"a":"\ud800"}}]}`, []string{"json_invalid body.66"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := decodeRequest(c.path, []byte(c.body))
			var v *ValidationError
			if !errors.As(err, &v) {
				t.Fatalf("%v, want a ValidationError", err)
			}
			var got []string
			for _, d := range v.Details {
				var loc []string
				for _, l := range d.Loc {
					loc = append(loc, fmt.Sprint(l))
				}
				got = append(got, d.Type+" "+strings.Join(loc, "."))
				if d.Msg == "" {
					t.Errorf("%s has no message", got[len(got)-1])
				}
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			out, err := json.Marshal(v)
			if err != nil || !strings.HasPrefix(string(out), `{"detail":[{"type":`) {
				t.Errorf("marshals to %s, %v", out, err)
			}
			if len(out) > 4096 {
				t.Errorf("tells %d bytes back", len(out))
			}
		})
	}
}

func TestDecodeAccepts(t *testing.T) {
	const node = `"orn:koi-net.node:a+b"`
	for name, c := range map[string]struct {
		path, body string
		want       any
	}{
		"no events":         {"/events/broadcast", `{"events":[]}`, []Event{}},
		"unknown fields":    {"/events/broadcast", `{"x":{"a":[1,{"b":null}]},"events":[{"rid":"orn:a.b:c","event_type":"NEW","extra":[[]]}],"y":1e5}`, []Event{{RID: "orn:a.b:c", EventType: New}}},
		"forget":            {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","event_type":"FORGET","manifest":null,"contents":null}]}`, []Event{{RID: "orn:a.b:c", EventType: Forget}}},
		"other order":       {"/events/broadcast", `{"events":[{"contents":{"b": 1.50},"event_type":"UPDATE","rid":"orn:a.b:c"}]}`, []Event{{RID: "orn:a.b:c", EventType: Update, Contents: json.RawMessage(`{"b":1.5}`)}}},
		"NaN":               {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","event_type":"NEW","contents":{"a":NaN}}]}`, []Event{{RID: "orn:a.b:c", EventType: New, Contents: json.RawMessage(`{"a":null}`)}}},
		"empty contents":    {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","event_type":"NEW","contents":{}}]}`, []Event{{RID: "orn:a.b:c", EventType: New, Contents: json.RawMessage(`{}`)}}},
		"escapes":           {"/events/broadcast", `{"\u0065vents":[{"r\u0069d":"orn:a.b:\u00e9","event_type":"N\u0045W"}]}`, []Event{{RID: "orn:a.b:é", EventType: New}}},
		"last counts":       {"/events/broadcast", `{"events":[1,2],"events":[{"rid":5,"event_type":"NEW","rid":"orn:a.b:c","contents":1,"contents":{"a":1},"contents":null}]}`, []Event{{RID: "orn:a.b:c", EventType: New}}},
		"contents twice":    {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","event_type":"NEW","contents":{"a":1,"b":2,"a":{"x":1,"x":3}}}]}`, []Event{{RID: "orn:a.b:c", EventType: New, Contents: json.RawMessage(`{"a":{"x":3},"b":2}`)}}},
		"manifest twice":    {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","event_type":"NEW","manifest":{"rid":"orn:a.b:x"},"manifest":null}]}`, []Event{{RID: "orn:a.b:c", EventType: New}}},
		"case of keys":      {"/events/broadcast", `{"events":[{"rid":"orn:a.b:c","RID":"orn:x.y:z","event_type":"NEW","Event_Type":"FORGET"}]}`, []Event{{RID: "orn:a.b:c", EventType: New}}},
		"poll":              {"/events/poll", `{"rid":` + node + `}`, PollRequest{RID: "orn:koi-net.node:a+b"}},
		"poll text":         {"/events/poll", `{"rid":` + node + `,"limit":" 7 "}`, PollRequest{"orn:koi-net.node:a+b", 7}},
		"poll text 7.0":     {"/events/poll", `{"rid":` + node + `,"limit":"7.0"}`, PollRequest{"orn:koi-net.node:a+b", 7}},
		"poll float":        {"/events/poll", `{"rid":` + node + `,"limit":7.0}`, PollRequest{"orn:koi-net.node:a+b", 7}},
		"poll true":         {"/events/poll", `{"rid":` + node + `,"limit":true}`, PollRequest{"orn:koi-net.node:a+b", 1}},
		"poll negative":     {"/events/poll", `{"rid":` + node + `,"limit":-5}`, PollRequest{"orn:koi-net.node:a+b", 0}},
		"poll huge":         {"/events/poll", `{"rid":` + node + `,"limit":99999999999999999999999}`, PollRequest{"orn:koi-net.node:a+b", 1<<31 - 1}},
		"poll limit twice":  {"/events/poll", `{"limit":"x","rid":` + node + `,"limit":3}`, PollRequest{"orn:koi-net.node:a+b", 3}},
		"all rids":          {"/rids/fetch", `{}`, FetchRIDs{}},
		"types":             {"/rids/fetch", `{"rid_types":["https","orn:a.b"]}`, FetchRIDs{RIDTypes: []rid.Type{"https", "orn:a.b"}}},
		"manifests":         {"/manifests/fetch", `{"rids":["orn:a.b:c"],"rid_types":["urn:isbn"]}`, FetchManifests{[]rid.Type{"urn:isbn"}, []rid.RID{"orn:a.b:c"}}},
		"bundles":           {"/bundles/fetch", `{"rids":["orn:a.b:c"]}`, FetchBundles{[]rid.RID{"orn:a.b:c"}}},
		"wrong unknown key": {"/bundles/fetch", `{"rids":[],"deferred":7}`, FetchBundles{[]rid.RID{}}},
	} {
		got, err := decodeRequest(c.path, []byte(c.body))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v\nwant %+v", name, got, err, c.want)
		}
	}
}

func TestDecodeAnswers(t *testing.T) {
	const bundle = `{"manifest":{"rid":"orn:a.b:c","timestamp":"2026-01-01T00:00:00Z","sha256_hash":"x"},"contents":{"a": 1}}`
	want, err := DecodeBundle([]byte(bundle), limits)
	if err != nil || string(want.Contents) != `{"a":1}` || want.Manifest.RID != "orn:a.b:c" {
		t.Fatalf("%+v, %v", want, err)
	}
	for name, body := range map[string]string{
		"bundles":          `{"bundles":[` + bundle + `],"not_found":["orn:a.b:d"],"deferred":[]}`,
		"manifests":        `{"manifests":[` + bundle + `],"not_found":["orn:a.b:d"],"deferred":[]}`,
		"both":             `{"bundles":[` + bundle + `],"manifests":[],"not_found":["orn:a.b:d"],"deferred":[]}`,
		"both, other way":  `{"manifests":[],"bundles":[` + bundle + `],"not_found":["orn:a.b:d"],"deferred":[]}`,
		"manifests unread": `{"manifests":[7],"bundles":[` + bundle + `],"not_found":["orn:a.b:d"],"deferred":[]}`,
	} {
		got, err := DecodeBundles([]byte(body), limits)
		if err != nil || !reflect.DeepEqual(got, BundlesAnswer{Bundles: []Bundle{want}, NotFound: []rid.RID{"orn:a.b:d"}, Deferred: []rid.RID{}}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	var v *ValidationError
	if _, err := DecodeBundles([]byte(`{"not_found":[]}`), limits); !errors.As(err, &v) || v.Details[0].Type != "missing" {
		t.Errorf("no bundles: %v", err)
	}
	if _, err := DecodeManifests([]byte(`{"not_found":[]}`), limits); !errors.As(err, &v) || v.Details[0].Type != "missing" {
		t.Errorf("no manifests: %v", err)
	}
	if _, err := DecodeBundle([]byte(`{"manifest":null,"contents":null}`), limits); !errors.As(err, &v) || len(v.Details) != 2 {
		t.Errorf("null bundle: %v", err)
	}
	got, err := DecodeManifests([]byte(`{"manifests":[{"rid":"orn:a.b:c","timestamp":0,"sha256_hash":"x"}],"not_found":["orn:a.b:d"]}`), limits)
	if err != nil || !reflect.DeepEqual(got, ManifestsAnswer{[]Manifest{{RID: "orn:a.b:c", SHA256Hash: "x"}}, []rid.RID{"orn:a.b:d"}}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestLimits(t *testing.T) {
	l := Limits{BodyBytes: 1000, Events: 2, Depth: 3, ContentsBytes: 20, RIDs: 2, RIDTypes: 1}
	event := func(contents string) string {
		return `{"rid":"orn:a.b:c","event_type":"NEW","contents":` + contents + `}`
	}
	broadcast := func(events ...string) string { return `{"events":[` + strings.Join(events, ",") + `]}` }
	for name, c := range map[string]struct{ body, want string }{
		"at the bounds": {broadcast(event(`{"a":[{}]}`), event(`{"a":"0123456789ab"}`)), ""},
		"spaces":        {broadcast(event(`{"a":            "0123456789ab"}`)), ""},
		"events":        {broadcast(event(`{}`), event(`{}`), event(`{}`)), "too_long"},
		"depth":         {broadcast(event(`{"a":[[[]]]}`)), "json_invalid"},
		"unknown depth": {`{"events":[],"x":[[[[]]]]}`, "json_invalid"},
		"contents":      {broadcast(event(`{"a":"0123456789abcde"}`)), "too_long"},
	} {
		_, err := DecodeBroadcast([]byte(c.body), l)
		var v *ValidationError
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (!errors.As(err, &v) || v.Details[0].Type != c.want):
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	var v *ValidationError
	if _, err := DecodeFetchBundles([]byte(`{"rids":["a:b","a:b","a:b"]}`), l); !errors.As(err, &v) || v.Details[0].Type != "too_long" {
		t.Errorf("RIDs: %v", err)
	}
	if _, err := DecodeFetchRIDs([]byte(`{"rid_types":["a","b"]}`), l); !errors.As(err, &v) || v.Details[0].Type != "too_long" {
		t.Errorf("RID types: %v", err)
	}
	if _, err := DecodeBroadcast([]byte(broadcast()+strings.Repeat(" ", 1000)), l); !errors.Is(err, ErrTooLarge) {
		t.Errorf("body: %v", err)
	}
	if _, err := DecodeBroadcast([]byte(`{"events":[`+strings.Repeat(`7,`, 5000)+`7]}`), Limits{}); !errors.As(err, &v) || len(v.Details) != maxDetails {
		t.Errorf("many problems: %v", err)
	}
	for _, twice := range []string{
		`{"events":[` + strings.Repeat(`7,`, 100) + `7],"events":[7]}`,
		`{"events":[7],"events":[` + strings.Repeat(`7,`, 100) + `7]}`,
	} {
		if _, err := DecodeBroadcast([]byte(twice), Limits{}); !errors.As(err, &v) || len(v.Details) == 0 {
			t.Errorf("more problems than are told, and a field twice: %v", err)
		}
	}
	if got := (Limits{Events: 7}).withDefaults(); got.Events != 7 || got.BodyBytes != 16<<20 || got.Depth != 256 || got.ContentsBytes != 8<<20 || got.RIDs != 100_000 || got.RIDTypes != 1_000 {
		t.Errorf("defaults: %+v", got)
	}
}

// An event kept must not keep the body it came in.
func TestContentsAreCopied(t *testing.T) {
	body := []byte(`{"events":[{"rid":"orn:a.b:c","event_type":"NEW","contents":{"a":1}},{"rid":"orn:a.b:d","event_type":"NEW","contents":{"b":2}}]}`)
	events, err := DecodeBroadcast(body, limits)
	if err != nil {
		t.Fatal(err)
	}
	for i := range body {
		body[i] = 'x'
	}
	if string(events[0].Contents) != `{"a":1}` || string(events[1].Contents) != `{"b":2}` || events[0].RID != "orn:a.b:c" {
		t.Errorf("%+v", events)
	}
	if cap(events[0].Contents) > 16 {
		t.Errorf("contents of 7 bytes hold %d", cap(events[0].Contents))
	}
}

func TestEventRoundTrip(t *testing.T) {
	ts, err := ParseTimestamp("2026-01-01T00:00:00.5+02:00")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Event{
		{RID: "orn:a.b:c", EventType: Forget},
		{RID: "orn:a.b:\"é\n", EventType: New, Manifest: &Manifest{RID: "orn:a.b:\"é\n", Timestamp: ts, SHA256Hash: "00"}, Contents: json.RawMessage(`{"a":1.0}`)},
		{RID: "orn:a.b:c", EventType: Update, Manifest: &Manifest{RID: "orn:a.b:other", Timestamp: ts}},
		{RID: "orn:a.b:c", EventType: Update, Contents: json.RawMessage(`{}`)},
	} {
		data := AppendEvent(nil, e)
		if !json.Valid(data) {
			t.Errorf("%s is no JSON", data)
		}
		got, err := DecodeEvent(data)
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("%s: %+v, %v", data, got, err)
		}
	}
	if _, err := DecodeEvent([]byte(`{"rid":"orn:a.b:c"}`)); err == nil {
		t.Error("an event without a type decodes")
	}
	b, err := NewBundle("orn:a.b:c", ts, []byte(` {"b":1,"a":2.50} `))
	if err != nil {
		t.Fatal(err)
	}
	again, err := DecodeBundle(AppendBundle(nil, b), limits)
	if err != nil || !reflect.DeepEqual(again, b) {
		t.Errorf("%+v, %v, want %+v", again, err, b)
	}
	if err := VerifyHash(b.Contents, b.Manifest.SHA256Hash); err != nil || string(b.Contents) != `{"b":1,"a":2.5}` {
		t.Errorf("%s: %v", b.Contents, err)
	}
	for _, bad := range []string{``, `[]`, `1`, `{`, `null`} {
		if _, err := NewBundle("orn:a.b:c", ts, []byte(bad)); err == nil {
			t.Errorf("NewBundle takes %q", bad)
		}
	}
}

func FuzzDecodeBroadcast(f *testing.F) {
	for _, c := range captures(f) {
		if c.path == "/events/broadcast" {
			f.Add([]byte(c.request))
		}
	}
	files, err := filepath.Glob("testdata/errors/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var c struct {
			Body string `json:"request_body"`
		}
		if err := json.Unmarshal(data, &c); err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(c.Body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, path := range []string{"/events/broadcast", "/events/poll", "/rids/fetch", "/manifests/fetch", "/bundles/fetch"} {
			v, err := decodeRequest(path, body)
			decodeAnswer(path, body)
			if err != nil {
				var invalid *ValidationError
				if !errors.As(err, &invalid) || len(invalid.Details) == 0 || len(invalid.Details) > maxDetails {
					t.Fatalf("%s %q: %v", path, body, err)
				}
				if out, err := json.Marshal(invalid); err != nil || !json.Valid(out) {
					t.Fatalf("%s %q: the error marshals to %s, %v", path, body, out, err)
				}
				continue
			}
			again, err := decodeRequest(path, encodeRequest(v))
			// A list given empty and one left out are the same.
			if err != nil || string(encodeRequest(again)) != string(encodeRequest(v)) {
				t.Fatalf("%s %q: %+v, written and read again %+v, %v", path, body, v, again, err)
			}
		}
	})
}

func BenchmarkDecodeBroadcast(b *testing.B) {
	var rows [][]byte
	for i := range 100 {
		contents := kilobyte(i)
		sum, err := Hash(contents)
		if err != nil {
			b.Fatal(err)
		}
		r := rid.RID(fmt.Sprintf("orn:git.commit:%040d", i))
		rows = append(rows, AppendEvent(nil, Event{RID: r, EventType: New, Manifest: &Manifest{RID: r, SHA256Hash: sum}, Contents: contents}))
	}
	body := EncodeBroadcast(rows)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeBroadcast(body, limits); err != nil {
			b.Fatal(err)
		}
	}
}
