package protocol

import (
	"strconv"

	"github.com/koi-net/koi-operator/node/rid"
)

// AppendManifest appends a manifest in the wire's compact form.
func AppendManifest(dst []byte, m Manifest) []byte {
	dst = AppendString(append(dst, `{"rid":`...), string(m.RID))
	dst = m.Timestamp.AppendText(append(dst, `,"timestamp":"`...))
	dst = AppendString(append(dst, `","sha256_hash":`...), m.SHA256Hash)
	return append(dst, '}')
}

// AppendBundle appends a bundle in the wire's compact form. Contents are copied
// as they are: they must be in normal form.
func AppendBundle(dst []byte, b Bundle) []byte {
	dst = AppendManifest(append(dst, `{"manifest":`...), b.Manifest)
	dst = append(dst, `,"contents":`...)
	dst = append(dst, b.Contents...)
	return append(dst, '}')
}

// AppendEvent appends an event in the compact form of the unsigned generation,
// which says null where there is no manifest or no contents. Contents are
// copied as they are: they must be in normal form.
func AppendEvent(dst []byte, e Event) []byte {
	dst = AppendString(append(dst, `{"rid":`...), string(e.RID))
	dst = AppendString(append(dst, `,"event_type":`...), string(e.EventType))
	dst = append(dst, `,"manifest":`...)
	if e.Manifest != nil {
		dst = AppendManifest(dst, *e.Manifest)
	} else {
		dst = append(dst, "null"...)
	}
	dst = append(dst, `,"contents":`...)
	if len(e.Contents) > 0 {
		dst = append(dst, e.Contents...)
	} else {
		dst = append(dst, "null"...)
	}
	return append(dst, '}')
}

// EncodeBroadcast returns the body of an unsigned broadcast, or of an answer to
// a poll, from events that AppendEvent wrote.
func EncodeBroadcast(events [][]byte) []byte {
	size := len(`{"events":[]}`)
	for _, e := range events {
		size += len(e) + 1
	}
	dst := append(make([]byte, 0, size), `{"events":[`...)
	for i, e := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, e...)
	}
	return append(dst, "]}"...)
}

// EncodePoll returns the body of an unsigned poll.
func EncodePoll(p PollRequest) []byte {
	dst := AppendString([]byte(`{"rid":`), string(p.RID))
	dst = strconv.AppendInt(append(dst, `,"limit":`...), int64(p.Limit), 10)
	return append(dst, '}')
}

// EncodeFetchRIDs returns the body of an unsigned request for RIDs.
func EncodeFetchRIDs(f FetchRIDs) []byte {
	return append(appendTypes([]byte(`{"rid_types":`), f.RIDTypes), '}')
}

// EncodeFetchManifests returns the body of an unsigned request for manifests.
func EncodeFetchManifests(f FetchManifests) []byte {
	dst := appendTypes([]byte(`{"rid_types":`), f.RIDTypes)
	return append(AppendRIDs(append(dst, `,"rids":`...), f.RIDs), '}')
}

// EncodeFetchBundles returns the body of an unsigned request for bundles.
func EncodeFetchBundles(f FetchBundles) []byte {
	return append(AppendRIDs([]byte(`{"rids":`), f.RIDs), '}')
}

// AppendRIDs appends a JSON list of RIDs.
func AppendRIDs(dst []byte, rids []rid.RID) []byte {
	dst = append(dst, '[')
	for i, r := range rids {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendString(dst, string(r))
	}
	return append(dst, ']')
}

func appendTypes(dst []byte, types []rid.Type) []byte {
	dst = append(dst, '[')
	for i, t := range types {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendString(dst, string(t))
	}
	return append(dst, ']')
}
