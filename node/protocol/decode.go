package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/koi-net/koi-operator/node/rid"
)

// PollRequest asks for the events that wait for a node.
type PollRequest struct {
	RID   rid.RID // the asking node
	Limit int     // the most events wanted; 0 means all, and so does a negative one received
}

// FetchRIDs asks for the RIDs of some types, of all where there are none.
type FetchRIDs struct{ RIDTypes []rid.Type }

// FetchManifests asks for manifests by RID, or where RIDs is empty by type.
type FetchManifests struct {
	RIDTypes []rid.Type
	RIDs     []rid.RID
}

// FetchBundles asks for bundles by RID.
type FetchBundles struct{ RIDs []rid.RID }

// ManifestsAnswer is the answer to FetchManifests.
type ManifestsAnswer struct {
	Manifests []Manifest
	NotFound  []rid.RID
}

// BundlesAnswer is the answer to FetchBundles.
type BundlesAnswer struct {
	Bundles  []Bundle
	NotFound []rid.RID
	Deferred []rid.RID // known to the peer, but not held by it
}

// DecodeBroadcast reads the body of a broadcast of the unsigned generation.
// Contents come out in normal form. Neither hashes nor the agreement of an
// event's RID with its manifest's is checked: those concern one event, a
// decoder's errors the body.
//
// Errors of this and the other decoders are ErrTooLarge or a *ValidationError.
func DecodeBroadcast(body []byte, l Limits) ([]Event, error) { return DecodeEvents(body, l) }

// DecodeEvents reads the answer to a poll; see DecodeBroadcast.
func DecodeEvents(body []byte, l Limits) ([]Event, error) {
	var events []Event
	err := decode(body, l, func(d *decoder) error {
		return d.require("events", d.eventsField(&events))
	})
	if err != nil {
		return nil, err
	}
	return events, nil
}

// DecodeEvent reads one event as AppendEvent wrote it.
func DecodeEvent(data []byte) (Event, error) { return decodeRow(data, false) }

// decodeRow is DecodeEvent, which asIs leaves contents in data where they are.
func decodeRow(data []byte, asIs bool) (Event, error) {
	var e Event
	l := DefaultLimits()
	l.BodyBytes, l.ContentsBytes, l.Depth = math.MaxInt64, math.MaxInt, maxDepth
	d := newDecoder(data, l, nil)
	d.asIs = asIs
	if err := d.whole(func() error { return d.event(&e) }); err != nil {
		return Event{}, fmt.Errorf("event: %w", err)
	}
	return e, nil
}

// DecodePoll reads the request of a poll. As in the reference, the limit may
// be an integer in a string or a float without a fraction.
func DecodePoll(body []byte, l Limits) (PollRequest, error) {
	var p PollRequest
	err := decode(body, l, func(d *decoder) error {
		return d.require("rid", func(key string) (bool, error) {
			switch key {
			case "rid":
				return true, d.nodeRID(&p.RID)
			case "limit":
				_, err := d.limit(&p.Limit)
				return true, err
			}
			return false, nil
		})
	})
	if err != nil {
		return PollRequest{}, err
	}
	return p, nil
}

// DecodeFetchRIDs reads a request for RIDs.
func DecodeFetchRIDs(body []byte, l Limits) (FetchRIDs, error) {
	var f FetchRIDs
	err := decode(body, l, func(d *decoder) error {
		return d.require("", d.fetchRIDsField(&f))
	})
	if err != nil {
		return FetchRIDs{}, err
	}
	return f, nil
}

// DecodeFetchManifests reads a request for manifests.
func DecodeFetchManifests(body []byte, l Limits) (FetchManifests, error) {
	var f FetchManifests
	err := decode(body, l, func(d *decoder) error {
		return d.require("", d.fetchManifestsField(&f))
	})
	if err != nil {
		return FetchManifests{}, err
	}
	return f, nil
}

// DecodeFetchBundles reads a request for bundles.
func DecodeFetchBundles(body []byte, l Limits) (FetchBundles, error) {
	rids, err := DecodeRIDs(body, l)
	return FetchBundles{RIDs: rids}, err
}

// DecodeRIDs reads the answer to a request for RIDs.
func DecodeRIDs(body []byte, l Limits) ([]rid.RID, error) {
	var rids []rid.RID
	err := decode(body, l, func(d *decoder) error {
		return d.require("rids", d.ridsField(&rids))
	})
	if err != nil {
		return nil, err
	}
	return rids, nil
}

// DecodeManifests reads the answer to a request for manifests.
func DecodeManifests(body []byte, l Limits) (ManifestsAnswer, error) {
	var a ManifestsAnswer
	err := decode(body, l, func(d *decoder) error {
		return d.require("manifests", d.manifestsField(&a))
	})
	if err != nil {
		return ManifestsAnswer{}, err
	}
	return a, nil
}

// DecodeBundles reads the answer to a request for bundles. The first release of
// the unsigned generation calls the list of bundles "manifests"; where both are
// there, "bundles" counts.
func DecodeBundles(body []byte, l Limits) (BundlesAnswer, error) {
	var a BundlesAnswer
	err := decode(body, l, func(d *decoder) error {
		var old, current []Bundle
		err := d.require("", func(key string) (bool, error) {
			switch key {
			case "bundles":
				err := d.bundles(&current)
				d.forgetBeside("manifests")
				return true, err
			case "manifests":
				if current != nil {
					return false, nil
				}
				return true, d.bundles(&old)
			case "not_found":
				return true, d.rids(&a.NotFound)
			case "deferred":
				return true, d.rids(&a.Deferred)
			}
			return false, nil
		})
		switch {
		case current != nil:
			a.Bundles = current
		case old != nil:
			a.Bundles = old
		case err == nil && len(d.details) == 0:
			d.missing("bundles")
		}
		return err
	})
	if err != nil {
		return BundlesAnswer{}, err
	}
	return a, nil
}

// DecodeBundle reads one bundle, the answer to GET on a node's base URL.
func DecodeBundle(body []byte, l Limits) (Bundle, error) {
	var b Bundle
	err := decode(body, l, func(d *decoder) error { return d.bundle(&b) })
	if err != nil {
		return Bundle{}, err
	}
	return b, nil
}

// fieldReader takes the value of a field of that name, or returns false.
type fieldReader = func(key string) (bool, error)

func (d *decoder) eventsField(to *[]Event) fieldReader {
	return func(key string) (bool, error) {
		if key != "events" {
			return false, nil
		}
		*to = []Event{}
		return true, d.list(d.limits.Events, "events", func() error {
			*to = append(*to, Event{})
			return d.event(&(*to)[len(*to)-1])
		})
	}
}

func (d *decoder) fetchRIDsField(to *FetchRIDs) fieldReader {
	return func(key string) (bool, error) {
		if key != "rid_types" {
			return false, nil
		}
		return true, d.ridTypes(&to.RIDTypes)
	}
}

func (d *decoder) fetchManifestsField(to *FetchManifests) fieldReader {
	return func(key string) (bool, error) {
		switch key {
		case "rid_types":
			return true, d.ridTypes(&to.RIDTypes)
		case "rids":
			return true, d.rids(&to.RIDs)
		}
		return false, nil
	}
}

func (d *decoder) ridsField(to *[]rid.RID) fieldReader {
	return func(key string) (bool, error) {
		if key != "rids" {
			return false, nil
		}
		return true, d.rids(to)
	}
}

func (d *decoder) manifestsField(to *ManifestsAnswer) fieldReader {
	return func(key string) (bool, error) {
		switch key {
		case "manifests":
			to.Manifests = []Manifest{}
			return true, d.list(d.limits.RIDs, "manifests", func() error {
				to.Manifests = append(to.Manifests, Manifest{})
				return d.manifest(&to.Manifests[len(to.Manifests)-1], "")
			})
		case "not_found":
			return true, d.rids(&to.NotFound)
		}
		return false, nil
	}
}

func (d *decoder) bundles(to *[]Bundle) error {
	*to = []Bundle{}
	return d.list(d.limits.RIDs, "bundles", func() error {
		*to = append(*to, Bundle{})
		return d.bundle(&(*to)[len(*to)-1])
	})
}

// decoder reads one body in one pass and collects what is wrong with its shape.
// Its methods return an error only where the body is no JSON or breaks a bound;
// a value of the wrong shape is noted, passed over, and the pass goes on.
type decoder struct {
	normalizer
	limits  Limits
	prefix  []any
	loc     []step
	details []Detail
	// overflow: more was wrong than details hold.
	overflow bool
	scratch  []byte // normal form of the contents at hand
	// canonical: RIDs are taken in canonical form, as the signed generation
	// reads them.
	canonical bool
	// asIs: contents are in normal form and taken as they stand in the source.
	asIs bool
}

// step is one element of a location: a field, or an index where name is empty.
type step struct {
	name  string
	index int
}

// errStop ends a pass whose outcome is already noted.
var errStop = errors.New("stop")

func newDecoder(body []byte, l Limits, prefix []any) *decoder {
	return &decoder{normalizer: normalizer{scanner: scanner{src: body}}, limits: l.withDefaults(), prefix: prefix}
}

func decode(body []byte, l Limits, read func(*decoder) error) error {
	l = l.withDefaults()
	if int64(len(body)) > l.BodyBytes {
		return fmt.Errorf("%w: it has %d bytes, the limit is %d", ErrTooLarge, len(body), l.BodyBytes)
	}
	d := newDecoder(body, l, []any{"body"})
	if d.peek() == 0 && d.pos == len(body) {
		d.missing("")
		return d.result()
	}
	return d.whole(func() error { return read(d) })
}

// whole runs read over the whole text.
func (d *decoder) whole(read func() error) error {
	err := read()
	if err == nil {
		err = d.end()
	}
	if err != nil && !errors.Is(err, errStop) {
		return invalid(d.prefix, err)
	}
	return d.result()
}

func (d *decoder) result() error {
	if len(d.details) == 0 {
		return nil
	}
	return &ValidationError{Details: d.details}
}

// note records a problem at the current location.
func (d *decoder) note(kind, msg string, input []byte) {
	if len(d.details) >= maxDetails {
		d.overflow = true
		return
	}
	loc := append(make([]any, 0, len(d.prefix)+len(d.loc)), d.prefix...)
	for _, s := range d.loc {
		if s.name != "" {
			loc = append(loc, s.name)
		} else {
			loc = append(loc, s.index)
		}
	}
	d.details = append(d.details, Detail{Type: kind, Loc: loc, Msg: msg, Input: shown(input)})
}

func (d *decoder) missing(field string) {
	if field != "" {
		d.loc = append(d.loc, step{name: field})
		defer func() { d.loc = d.loc[:len(d.loc)-1] }()
	}
	d.note("missing", "Field required", nil)
}

// forget takes back what was noted below a field of the object at hand, of whose
// problems from is the first: the field comes again, and only its last value
// counts. Where problems went unnoted for their number, nothing is taken back,
// lest the body look sound.
func (d *decoder) forget(field string, from int) {
	if d.overflow {
		return
	}
	at := len(d.prefix) + len(d.loc)
	// An earlier value of a member that holds this object may have had problems at
	// the same place; they are not this object's to take back.
	kept := slices.DeleteFunc(d.details[from:], func(detail Detail) bool {
		if len(detail.Loc) <= at || detail.Loc[at] != any(field) {
			return false
		}
		for i, s := range d.loc {
			want := any(s.name)
			if s.name == "" {
				want = s.index
			}
			if detail.Loc[len(d.prefix)+i] != want {
				return false
			}
		}
		return true
	})
	d.details = d.details[:from+len(kept)]
}

// forgetBeside is forget from within the reading of another field of a body.
func (d *decoder) forgetBeside(field string) {
	last := len(d.loc) - 1
	saved := d.loc[last]
	d.loc = d.loc[:last]
	d.forget(field, 0)
	d.loc = append(d.loc, saved)
}

// wrong notes that the value ahead has the wrong type and passes over it.
func (d *decoder) wrong(kind, msg string) error {
	d.peek()
	start := d.pos
	if err := d.skip(d.limits.Depth, d.limits.Depth); err != nil {
		return err
	}
	d.note(kind, msg, d.src[start:d.pos])
	return nil
}

// fields takes an object. For each member read gets the key, with the scanner
// before the value, and returns the field's bit; for 0 the value was not taken
// and is passed over. It returns the bits of the fields seen.
func (d *decoder) fields(read func(key []byte) (uint, error)) (uint, error) {
	if d.peek() != '{' {
		if len(d.loc) == 0 && d.peek() == 'n' {
			if err := d.literal("null"); err != nil {
				return 0, err
			}
			d.missing("")
			return 0, d.stopAtEnd()
		}
		if err := d.wrong("model_attributes_type", "Input should be an object"); err != nil {
			return 0, err
		}
		if len(d.loc) == 0 {
			return 0, d.stopAtEnd()
		}
		return ^uint(0), nil // not also missing
	}
	var seen uint
	first := len(d.details)
	for more := d.open('}'); more; {
		sp, err := d.key()
		if err != nil {
			return seen, err
		}
		key := d.bytes(sp)
		d.loc = append(d.loc, step{name: fieldName(key)})
		at := d.pos
		noted := len(d.details)
		bit, err := read(key)
		d.loc = d.loc[:len(d.loc)-1]
		if err != nil {
			return seen, err
		}
		switch {
		case bit == 0 && d.pos == at:
			if err := d.skip(d.limits.Depth, d.limits.Depth); err != nil {
				return seen, err
			}
		case seen&bit != 0:
			fresh := slices.Clone(d.details[noted:])
			d.details = d.details[:noted]
			d.forget(string(key), first)
			d.details = append(d.details, fresh...)
		}
		seen |= bit
		if more, err = d.next('}'); err != nil {
			return seen, err
		}
	}
	return seen, nil
}

// fieldName returns the name of a field we know without an allocation. Others
// are never part of a location.
func fieldName(key []byte) string {
	switch string(key) {
	case "events":
		return "events"
	case "rid":
		return "rid"
	case "event_type":
		return "event_type"
	case "manifest":
		return "manifest"
	case "contents":
		return "contents"
	case "timestamp":
		return "timestamp"
	case "sha256_hash":
		return "sha256_hash"
	}
	return string(key)
}

// stopAtEnd finishes a body that is no object, provided it is JSON.
func (d *decoder) stopAtEnd() error {
	if err := d.end(); err != nil {
		return err
	}
	return errStop
}

// require takes an object of a request or an answer; field, if not "", must be
// there.
func (d *decoder) require(field string, read fieldReader) error {
	found := field == ""
	names := make([]string, 0, 4) // of fields seen; their index is their bit
	_, err := d.fields(func(key []byte) (uint, error) {
		name := fieldName(key)
		taken, err := read(name)
		if !taken {
			return 0, err
		}
		found = found || name == field
		i := slices.Index(names, name)
		if i < 0 {
			i = len(names)
			names = append(names, name)
		}
		return 1 << i, err
	})
	if err == nil && !found {
		d.missing(field)
	}
	return err
}

// list takes an array of at most limit elements.
func (d *decoder) list(limit int, what string, read func() error) error {
	if d.peek() != '[' {
		return d.wrong("list_type", "Input should be a list")
	}
	d.loc = append(d.loc, step{})
	at := len(d.loc) - 1
	i := 0
	for more := d.open(']'); more; i++ {
		if i == limit {
			d.loc = d.loc[:at]
			d.note("too_long", fmt.Sprintf("at most %d %s are taken in one list", limit, what), nil)
			return errStop
		}
		d.loc[at] = step{index: i}
		err := read()
		if err != nil {
			return err
		}
		if more, err = d.next(']'); err != nil {
			return err
		}
	}
	d.loc = d.loc[:at]
	return nil
}

// string takes a string; ok is false where the value is none (noted).
func (d *decoder) string() (text []byte, ok bool, err error) {
	if d.peek() != '"' {
		return nil, false, d.wrong("string_type", "Input should be a string")
	}
	sp, err := d.str()
	if err != nil {
		return nil, false, err
	}
	return d.bytes(sp), true, nil
}

// null takes a null, if that is what is ahead.
func (d *decoder) null() (bool, error) {
	if d.peek() != 'n' {
		return false, nil
	}
	return true, d.literal("null")
}

func (d *decoder) optionalString(to *string) error {
	*to = ""
	if is, err := d.null(); is || err != nil {
		return err
	}
	text, ok, err := d.string()
	if ok {
		*to = string(text)
	}
	return err
}

func (d *decoder) enum(to *string, expected string, values ...string) error {
	d.peek()
	start := d.pos
	text, ok, err := d.string()
	if !ok {
		return err
	}
	for _, v := range values {
		if string(text) == v {
			*to = v
			return nil
		}
	}
	d.note("enum", "Input should be "+expected, d.src[start:d.pos])
	return nil
}

// rid takes a RID. like is one it may well be, which saves making it again.
func (d *decoder) rid(to *rid.RID, like rid.RID) error {
	d.peek()
	start := d.pos
	text, ok, err := d.string()
	if !ok {
		return err
	}
	if like != "" && string(text) == string(like) && (!d.canonical || !mayDiffer(text)) {
		*to = like
		return nil
	}
	r, err := rid.Parse(string(text))
	if err == nil && d.canonical {
		r, err = CanonicalRID(r)
	}
	if err != nil {
		d.note("value_error", err.Error(), d.src[start:d.pos])
		return nil
	}
	*to = r
	return nil
}

func (d *decoder) nodeRID(to *rid.RID) error {
	d.peek()
	start, noted := d.pos, len(d.details)
	if err := d.rid(to, ""); err != nil || len(d.details) > noted {
		return err
	}
	if to.Type() != rid.NodeType {
		d.note("value_error", "the RID of a node was expected, "+string(rid.NodeType)+":<name>+<id>", d.src[start:d.pos])
	}
	return nil
}

func (d *decoder) rids(to *[]rid.RID) error {
	*to = []rid.RID{}
	return d.list(d.limits.RIDs, "RIDs", func() error {
		*to = append(*to, "")
		return d.rid(&(*to)[len(*to)-1], "")
	})
}

func (d *decoder) ridTypes(to *[]rid.Type) error {
	*to = []rid.Type{}
	return d.list(d.limits.RIDTypes, "RID types", func() error {
		d.peek()
		start := d.pos
		text, ok, err := d.string()
		if !ok {
			return err
		}
		t, err := rid.ParseType(string(text))
		if err != nil {
			d.note("value_error", err.Error(), d.src[start:d.pos])
			return nil
		}
		*to = append(*to, t)
		return nil
	})
}

// limit takes an integer as pydantic's lax mode does. exact is its canonical
// text, which to may only come close to.
func (d *decoder) limit(to *int) (exact string, err error) {
	c := d.peek()
	start := d.pos
	kind, sp := kindLiteral, span{}
	if c == '{' || c == '[' {
		err = d.skip(d.limits.Depth, d.limits.Depth)
	} else {
		kind, sp, err = d.scalar(c)
	}
	if err != nil {
		return "", err
	}
	raw := d.src[start:d.pos]
	text := string(raw)
	switch kind {
	case kindString:
		text = strings.TrimSpace(string(d.bytes(sp)))
		_, whole, ok := cutZeroFraction(text)
		if !ok {
			d.note("int_parsing", "Input should be an integer, unable to parse the string as one", raw)
			return "", nil
		}
		text = whole
	case kindFloat:
		f := parseFloat(raw)
		if f != math.Trunc(f) || math.Abs(f) >= 1<<63 {
			d.note("int_from_float", "Input should be an integer, got a number with a fractional part or out of range", raw)
			return "", nil
		}
		*to = clampLimit(f)
		return strconv.FormatInt(int64(f), 10), nil
	case kindInt:
	default:
		switch text {
		case "true":
			text = "1"
		case "false":
			text = "0"
		default:
			d.note("int_type", "Input should be an integer", raw)
			return "", nil
		}
	}
	n, err := strconv.ParseInt(text, 10, 64) // out of range: the nearest
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		d.note("int_parsing", "Input should be an integer, unable to parse the string as one", raw)
		return "", nil
	}
	*to = clampLimit(float64(n))
	return canonicalInt(text), nil
}

// canonicalInt writes checked decimal digits as an integer is printed.
func canonicalInt(text string) string {
	negative := strings.HasPrefix(text, "-")
	text = strings.TrimLeft(text, "+-0")
	switch {
	case text == "":
		return "0"
	case negative:
		return "-" + text
	}
	return text
}

// cutZeroFraction splits the "7" off a text such as "7" or "7.0".
func cutZeroFraction(s string) (zeros, whole string, ok bool) {
	whole, zeros, found := strings.Cut(s, ".")
	return zeros, whole, !found || strings.Trim(zeros, "0") == ""
}

func clampLimit(f float64) int {
	return int(min(max(f, 0), math.MaxInt32))
}

// event takes an event.
func (d *decoder) event(e *Event) error {
	const (
		fieldRID uint = 1 << iota
		fieldType
		fieldManifest
		fieldContents
	)
	var m Manifest
	seen, err := d.fields(func(key []byte) (uint, error) {
		switch string(key) {
		case "rid":
			return fieldRID, d.rid(&e.RID, m.RID)
		case "event_type":
			return fieldType, d.enum((*string)(&e.EventType), "'NEW', 'UPDATE' or 'FORGET'", string(New), string(Update), string(Forget))
		case "manifest":
			e.Manifest, m = nil, Manifest{}
			if is, err := d.null(); is || err != nil {
				return fieldManifest, err
			}
			e.Manifest = &m
			return fieldManifest, d.manifest(&m, e.RID)
		case "contents":
			e.Contents = nil
			if is, err := d.null(); is || err != nil {
				return fieldContents, err
			}
			return fieldContents, d.contents(&e.Contents)
		}
		return 0, nil
	})
	if err != nil {
		return err
	}
	if seen&fieldRID == 0 {
		d.missing("rid")
	}
	if seen&fieldType == 0 {
		d.missing("event_type")
	}
	return nil
}

// manifest takes a manifest whose RID may well be like.
func (d *decoder) manifest(m *Manifest, like rid.RID) error {
	var extras extras
	seen, err := d.fields(func(key []byte) (uint, error) {
		switch string(key) {
		case "rid":
			return 1 << 0, d.rid(&m.RID, like)
		case "timestamp":
			return 1 << 1, d.timestamp(&m.Timestamp)
		case "sha256_hash":
			text, ok, err := d.string()
			if ok {
				m.SHA256Hash = string(text)
			}
			return 1 << 2, err
		}
		if !d.canonical {
			return 0, nil
		}
		return 0, d.extra(&extras, string(key))
	})
	if err != nil {
		return err
	}
	for i, name := range [...]string{"rid", "timestamp", "sha256_hash"} {
		if seen&(1<<i) == 0 {
			d.missing(name)
		}
	}
	m.extra = extras.text()
	return nil
}

// Bounds of the further members of a manifest. rid-lib 3.3 writes one.
const (
	maxExtras     = 16
	maxExtraBytes = 4 << 10
)

// extras are the further members of a manifest in the order of their first
// mention.
type extras struct {
	members []extraMember
	over    bool // a bound is exceeded, which was noted
}

type extraMember struct {
	key   string
	value []byte
}

// extra takes a further member of a manifest. As in Python's dictionaries, a
// repeated key keeps its place and takes the last value.
func (d *decoder) extra(to *extras, key string) error {
	if to.over {
		return nil // it is passed over
	}
	value, err := d.normalize(nil, d.limits.Depth)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(to.members, func(m extraMember) bool { return m.key == key })
	if at < 0 {
		at = len(to.members)
		to.members = append(to.members, extraMember{key: key})
	}
	to.members[at].value = value
	size := 0
	for _, m := range to.members {
		size += len(m.key) + len(m.value)
	}
	if to.over = len(to.members) > maxExtras || size > maxExtraBytes; to.over {
		d.note("too_long", fmt.Sprintf("a manifest has at most %d further members, of %d bytes together", maxExtras, maxExtraBytes), nil)
	}
	return nil
}

// text is how the members stand in what is signed: those that are null do not.
func (e extras) text() string {
	var dst []byte
	for _, m := range e.members {
		if string(m.value) != "null" {
			dst = AppendString(append(dst, ','), m.key)
			dst = append(append(dst, ':'), m.value...)
		}
	}
	return string(dst)
}

func (d *decoder) bundle(b *Bundle) error {
	seen, err := d.fields(func(key []byte) (uint, error) {
		switch string(key) {
		case "manifest":
			b.Manifest = Manifest{}
			return 1 << 0, d.manifest(&b.Manifest, "")
		case "contents":
			return 1 << 1, d.contents(&b.Contents)
		}
		return 0, nil
	})
	if err != nil {
		return err
	}
	for i, name := range [...]string{"manifest", "contents"} {
		if seen&(1<<i) == 0 {
			d.missing(name)
		}
	}
	return nil
}

func (d *decoder) timestamp(to *Timestamp) error {
	c := d.peek()
	start := d.pos
	var text []byte
	switch {
	case c == '"':
		sp, err := d.str()
		if err != nil {
			return err
		}
		text = d.bytes(sp)
	case c == '-' || isDigit(c):
		if _, _, err := d.scalar(c); err != nil {
			return err
		}
		text = d.src[start:d.pos]
	default:
		return d.wrong("datetime_type", "Input should be a timestamp such as 2026-01-01T00:00:00Z")
	}
	var t Timestamp
	if err := t.UnmarshalText(text); err != nil {
		d.note("datetime_from_date_parsing", err.Error(), d.src[start:d.pos])
		return nil
	}
	*to = t
	return nil
}

// contents takes an object in normal form. It is copied to its own size, so
// that one event kept does not keep a whole body.
func (d *decoder) contents(to *json.RawMessage) error {
	if d.peek() != '{' {
		return d.wrong("dict_type", "Input should be an object")
	}
	if d.asIs {
		start := d.pos
		err := d.skip(d.limits.Depth, d.limits.Depth)
		*to = d.src[start:d.pos]
		return err
	}
	out, err := d.normalize(d.scratch[:0], d.limits.Depth)
	if err != nil {
		return err
	}
	d.scratch = out
	if len(out) > d.limits.ContentsBytes {
		d.note("too_long", fmt.Sprintf("contents have %d bytes in normal form, the limit is %d", len(out), d.limits.ContentsBytes), nil)
		return nil
	}
	*to = bytes.Clone(out)
	return nil
}
