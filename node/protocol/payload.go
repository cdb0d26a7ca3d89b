package protocol

import (
	"strconv"

	"github.com/koi-net/koi-operator/node/rid"
)

// PayloadType names a kind of payload on the wire.
type PayloadType string

// The payloads of the signed generation.
const (
	TypeEvents         PayloadType = "events_payload" // a broadcast, and the answer to a poll
	TypePoll           PayloadType = "poll_events"
	TypeFetchRIDs      PayloadType = "fetch_rids"
	TypeRIDs           PayloadType = "rids_payload"
	TypeFetchManifests PayloadType = "fetch_manifests"
	TypeManifests      PayloadType = "manifests_payload"
	TypeFetchBundles   PayloadType = "fetch_bundles"
	TypeBundles        PayloadType = "bundles_payload"
	TypeError          PayloadType = "error_response"
)

// Payload is what an envelope carries: EventsPayload, PollRequest, FetchRIDs,
// RIDsPayload, FetchManifests, ManifestsAnswer, FetchBundles, BundlesAnswer or
// ErrorResponse. Contents within must be in normal form.
type Payload interface {
	// PayloadType returns the payload's name on the wire.
	PayloadType() PayloadType
	// appendFields appends the fields behind "type", each after a comma.
	appendFields(dst []byte, form form) []byte
}

// form says whose text is written.
type form uint8

const (
	sent     form = iota // our own
	received             // a peer's, as the peer signed it: naive times stay naive
)

// EventsPayload is a broadcast, and the answer to a poll.
type EventsPayload []Event

// RIDsPayload is the answer to FetchRIDs.
type RIDsPayload []rid.RID

// PayloadType returns TypeEvents.
func (EventsPayload) PayloadType() PayloadType { return TypeEvents }

// PayloadType returns TypePoll. The asking node is named by the envelope alone.
func (PollRequest) PayloadType() PayloadType { return TypePoll }

// PayloadType returns TypeFetchRIDs.
func (FetchRIDs) PayloadType() PayloadType { return TypeFetchRIDs }

// PayloadType returns TypeRIDs.
func (RIDsPayload) PayloadType() PayloadType { return TypeRIDs }

// PayloadType returns TypeFetchManifests.
func (FetchManifests) PayloadType() PayloadType { return TypeFetchManifests }

// PayloadType returns TypeManifests.
func (ManifestsAnswer) PayloadType() PayloadType { return TypeManifests }

// PayloadType returns TypeFetchBundles.
func (FetchBundles) PayloadType() PayloadType { return TypeFetchBundles }

// PayloadType returns TypeBundles.
func (BundlesAnswer) PayloadType() PayloadType { return TypeBundles }

// PayloadType returns TypeError.
func (ErrorResponse) PayloadType() PayloadType { return TypeError }

func (p EventsPayload) appendFields(dst []byte, form form) []byte {
	dst = append(dst, `,"events":[`...)
	for i, e := range p {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendSignedEvent(dst, e, form)
	}
	return append(dst, ']')
}

func (p PollRequest) appendFields(dst []byte, _ form) []byte {
	return strconv.AppendInt(append(dst, `,"limit":`...), int64(p.Limit), 10)
}

func (f FetchRIDs) appendFields(dst []byte, _ form) []byte {
	return appendTypes(append(dst, `,"rid_types":`...), f.RIDTypes)
}

func (p RIDsPayload) appendFields(dst []byte, _ form) []byte {
	return appendSignedRIDs(append(dst, `,"rids":`...), p)
}

func (f FetchManifests) appendFields(dst []byte, _ form) []byte {
	dst = appendTypes(append(dst, `,"rid_types":`...), f.RIDTypes)
	return appendSignedRIDs(append(dst, `,"rids":`...), f.RIDs)
}

func (a ManifestsAnswer) appendFields(dst []byte, form form) []byte {
	dst = append(dst, `,"manifests":[`...)
	for i, m := range a.Manifests {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendSignedManifest(dst, m, form)
	}
	return appendSignedRIDs(append(dst, `],"not_found":`...), a.NotFound)
}

func (f FetchBundles) appendFields(dst []byte, _ form) []byte {
	return appendSignedRIDs(append(dst, `,"rids":`...), f.RIDs)
}

func (a BundlesAnswer) appendFields(dst []byte, form form) []byte {
	dst = append(dst, `,"bundles":[`...)
	for i, b := range a.Bundles {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendSignedBundle(dst, b, form)
	}
	dst = appendSignedRIDs(append(dst, `],"not_found":`...), a.NotFound)
	return appendSignedRIDs(append(dst, `,"deferred":`...), a.Deferred)
}

func (e ErrorResponse) appendFields(dst []byte, _ form) []byte {
	return AppendString(append(dst, `,"error":`...), string(e.Code))
}

// appendSignedEvent appends an event as the signed generation writes it: what is
// missing is left out.
func appendSignedEvent(dst []byte, e Event, form form) []byte {
	dst = appendSignedRID(append(dst, `{"rid":`...), e.RID)
	dst = AppendString(append(dst, `,"event_type":`...), string(e.EventType))
	if e.Manifest != nil {
		dst = appendSignedManifest(append(dst, `,"manifest":`...), *e.Manifest, form)
	}
	if len(e.Contents) > 0 {
		dst = append(append(dst, `,"contents":`...), e.Contents...)
	}
	return append(dst, '}')
}

func appendSignedBundle(dst []byte, b Bundle, form form) []byte {
	dst = appendSignedManifest(append(dst, `{"manifest":`...), b.Manifest, form)
	dst = append(append(dst, `,"contents":`...), b.Contents...)
	return append(dst, '}')
}

func appendSignedManifest(dst []byte, m Manifest, form form) []byte {
	dst = appendSignedRID(append(dst, `{"rid":`...), m.RID)
	dst = m.Timestamp.AppendText(append(dst, `,"timestamp":"`...))
	if form == received && m.Timestamp.naive {
		dst = dst[:len(dst)-1]
	}
	dst = AppendString(append(dst, `","sha256_hash":`...), m.SHA256Hash)
	if form == received {
		dst = append(dst, m.extra...)
	}
	return append(dst, '}')
}

// appendSignedRID appends a RID in canonical form, where it has one: a receiver
// makes that of it before it verifies.
func appendSignedRID(dst []byte, r rid.RID) []byte {
	if canonical, err := CanonicalRID(r); err == nil {
		r = canonical
	}
	return AppendString(dst, string(r))
}

func appendSignedRIDs(dst []byte, rids []rid.RID) []byte {
	dst = append(dst, '[')
	for i, r := range rids {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendSignedRID(dst, r)
	}
	return append(dst, ']')
}

// payload takes a payload of the kind, which for "" is the one it names itself.
// limit is the exact text of a poll's limit.
func (d *decoder) payload(kind PayloadType) (p Payload, limit string, err error) {
	if kind == "" {
		if kind, err = d.payloadType(); kind == "" || err != nil {
			return nil, "", err
		}
	}
	required, limit := "", "0"
	var read fieldReader
	var result func() Payload
	switch kind {
	case TypeEvents:
		var events []Event
		required, read = "events", d.eventsField(&events)
		result = func() Payload { return EventsPayload(events) }
	case TypePoll:
		var poll PollRequest
		read = func(key string) (taken bool, err error) {
			if key != "limit" {
				return false, nil
			}
			limit, err = d.limit(&poll.Limit)
			return true, err
		}
		result = func() Payload { return poll }
	case TypeFetchRIDs:
		f := FetchRIDs{RIDTypes: []rid.Type{}}
		read, result = d.fetchRIDsField(&f), func() Payload { return f }
	case TypeRIDs:
		var rids []rid.RID
		required, read = "rids", d.ridsField(&rids)
		result = func() Payload { return RIDsPayload(rids) }
	case TypeFetchManifests:
		f := FetchManifests{RIDTypes: []rid.Type{}, RIDs: []rid.RID{}}
		read, result = d.fetchManifestsField(&f), func() Payload { return f }
	case TypeManifests:
		a := ManifestsAnswer{NotFound: []rid.RID{}}
		required, read = "manifests", d.manifestsField(&a)
		result = func() Payload { return a }
	case TypeFetchBundles:
		var f FetchBundles
		required, read = "rids", d.ridsField(&f.RIDs)
		result = func() Payload { return f }
	case TypeBundles:
		a := BundlesAnswer{NotFound: []rid.RID{}, Deferred: []rid.RID{}}
		required, read = "bundles", d.bundlesAnswerField(&a)
		result = func() Payload { return a }
	case TypeError:
		var e ErrorResponse
		required, read = "error", d.errorField(&e)
		result = func() Payload { return e }
	}
	err = d.require(required, d.typed(kind, read))
	if err != nil {
		return nil, "", err
	}
	return result(), limit, nil
}

// typed reads a payload's type besides its other fields. As in the reference it
// may be left out, but not be another.
func (d *decoder) typed(kind PayloadType, read fieldReader) fieldReader {
	return func(key string) (bool, error) {
		if key != "type" {
			return read(key)
		}
		c := d.peek()
		start := d.pos
		if c == '"' {
			sp, err := d.str()
			if err != nil {
				return true, err
			}
			if string(d.bytes(sp)) == string(kind) {
				return true, nil
			}
		} else if err := d.skip(d.limits.Depth, d.limits.Depth); err != nil {
			return true, err
		}
		d.note("literal_error", "Input should be '"+string(kind)+"'", d.src[start:d.pos])
		return true, nil
	}
}

// levelsAbove is how deep in a field of a payload contents are: a list's element.
const levelsAbove = 2

// payloadType looks ahead for the type that a payload names; "" where it names
// none that is known, which is noted, the payload then being passed over.
func (d *decoder) payloadType() (PayloadType, error) {
	if d.peek() != '{' {
		return "", d.wrong("model_attributes_type", "Input should be an object")
	}
	start := d.pos
	depth := d.limits.Depth + levelsAbove
	var kind PayloadType
	found := false
	for more := d.open('}'); more; {
		sp, err := d.key()
		if err != nil {
			return "", err
		}
		if string(d.bytes(sp)) == "type" {
			found, kind = true, ""
			if d.peek() == '"' {
				sp, err := d.str()
				if err != nil {
					return "", err
				}
				kind = knownType(d.bytes(sp))
			} else if err := d.skip(depth, depth); err != nil {
				return "", err
			}
		} else if err := d.skip(depth, depth); err != nil {
			return "", err
		}
		if more, err = d.next('}'); err != nil {
			return "", err
		}
	}
	if kind != "" {
		d.pos = start
		return kind, nil
	}
	if !found {
		d.missing("type")
		return "", nil
	}
	d.loc = append(d.loc, step{name: "type"})
	d.note("literal_error", "Input should be the name of a payload, such as '"+string(TypeEvents)+"'", nil)
	d.loc = d.loc[:len(d.loc)-1]
	return "", nil
}

func knownType(text []byte) PayloadType {
	for _, t := range [...]PayloadType{
		TypeEvents, TypePoll, TypeFetchRIDs, TypeRIDs, TypeFetchManifests,
		TypeManifests, TypeFetchBundles, TypeBundles, TypeError,
	} {
		if string(text) == string(t) {
			return t
		}
	}
	return ""
}

// bundlesAnswerField reads the signed generation's answer, which knows one name
// for the list of bundles.
func (d *decoder) bundlesAnswerField(to *BundlesAnswer) fieldReader {
	return func(key string) (bool, error) {
		switch key {
		case "bundles":
			return true, d.bundles(&to.Bundles)
		case "not_found":
			return true, d.rids(&to.NotFound)
		case "deferred":
			return true, d.rids(&to.Deferred)
		}
		return false, nil
	}
}
