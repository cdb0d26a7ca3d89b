package pipeline

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// An inbox row holds an object in a compact form of our own:
//
//	version, stage, flags, event type, normalized type: one byte each
//	rid, source: length and bytes
//	timestamp, hash: length and bytes, if flagManifest
//	contents: length and bytes, if flagContents
//	targets: count, then length and bytes of each
//
// Lengths and counts are unsigned varints.
const codecVersion = 1

const (
	flagManifest = 1 << iota
	flagContents
	flagQuiet
)

// stage says how far an inbox row has come.
type stage byte

const (
	stageReceived stage = iota // all phases are ahead
	stageFinal                 // committed; only the Final phase is ahead
)

var errRow = errors.New("inbox row cannot be read")

var eventTypes = []protocol.EventType{"", protocol.New, protocol.Update, protocol.Forget}

func eventByte(t protocol.EventType) byte {
	for i, e := range eventTypes {
		if e == t {
			return byte(i)
		}
	}
	return 0
}

func encodeRow(st stage, o *Object) []byte {
	var flags byte
	size := 32 + len(o.RID) + len(o.Source) + len(o.Contents)
	if o.Manifest != nil {
		flags |= flagManifest
		size += 112
	}
	if o.Contents != nil {
		flags |= flagContents
	}
	if o.Quiet {
		flags |= flagQuiet
	}
	b := make([]byte, 0, size)
	b = append(b, codecVersion, byte(st), flags, eventByte(o.EventType), eventByte(o.Normalized))
	b = appendText(b, string(o.RID))
	b = appendText(b, string(o.Source))
	if o.Manifest != nil {
		b = appendText(b, o.Manifest.Timestamp.String())
		b = appendText(b, o.Manifest.SHA256Hash)
		b = appendText(b, string(o.Manifest.RID))
	}
	if o.Contents != nil {
		b = binary.AppendUvarint(b, uint64(len(o.Contents)))
		b = append(b, o.Contents...)
	}
	b = binary.AppendUvarint(b, uint64(len(o.Targets)))
	for _, t := range o.Targets {
		b = appendText(b, string(t))
	}
	return b
}

func decodeRow(data []byte) (stage, *Object, error) {
	if len(data) < 5 || data[0] != codecVersion || data[1] > byte(stageFinal) ||
		int(data[3]) >= len(eventTypes) || int(data[4]) >= len(eventTypes) {
		return 0, nil, fmt.Errorf("%w: unknown header", errRow)
	}
	st, flags := stage(data[1]), data[2]
	o := &Object{EventType: eventTypes[data[3]], Normalized: eventTypes[data[4]], Quiet: flags&flagQuiet != 0}
	r := rowReader{rest: data[5:]}
	o.RID = rid.RID(r.text())
	o.Source = Source(r.text())
	if flags&flagManifest != 0 {
		ts, err := protocol.ParseTimestamp(r.text())
		if err != nil && r.err == nil {
			return 0, nil, fmt.Errorf("%w: %w", errRow, err)
		}
		o.Manifest = &protocol.Manifest{Timestamp: ts, SHA256Hash: r.text(), RID: rid.RID(r.text())}
	}
	if flags&flagContents != 0 {
		o.Contents = append(make([]byte, 0, 1), r.bytes()...)
	}
	n := r.count()
	for range n {
		o.Targets = append(o.Targets, rid.RID(r.text()))
	}
	switch {
	case r.err != nil:
		return 0, nil, r.err
	case len(r.rest) != 0:
		return 0, nil, fmt.Errorf("%w: %d bytes too many", errRow, len(r.rest))
	case o.RID == "" || o.Source == "":
		return 0, nil, fmt.Errorf("%w: no RID or source", errRow)
	}
	return st, o, nil
}

// kindOf reads from a row's header whether something may have to be fetched.
func kindOf(data []byte) kind {
	if len(data) < 5 || stage(data[1]) != stageReceived || data[2]&flagContents != 0 || data[3] == eventByte(protocol.Forget) {
		return complete
	}
	return lacking
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// rowReader remembers the first failure; later reads give zero values.
type rowReader struct {
	rest []byte
	err  error
}

func (r *rowReader) bytes() []byte {
	n, w := binary.Uvarint(r.rest)
	if r.err != nil || w <= 0 || n > uint64(len(r.rest)-w) {
		r.fail()
		return nil
	}
	b := r.rest[w : w+int(n)]
	r.rest = r.rest[w+int(n):]
	return b
}

func (r *rowReader) text() string { return string(r.bytes()) }

// count reads a number of items of at least one byte each.
func (r *rowReader) count() int {
	n, w := binary.Uvarint(r.rest)
	if r.err != nil || w <= 0 || n > uint64(len(r.rest)-w) {
		r.fail()
		return 0
	}
	r.rest = r.rest[w:]
	return int(n)
}

func (r *rowReader) fail() {
	if r.err == nil {
		r.err = fmt.Errorf("%w: cut short", errRow)
	}
	r.rest = nil
}
