package protocol

import "errors"

// ErrTooLarge is returned for a body above Limits.BodyBytes, before any of it
// is looked at. Servers answer it with 413.
var ErrTooLarge = errors.New("body too large")

// Limits bound what a decoder takes from a peer. A field that is zero or
// negative stands for its default.
type Limits struct {
	BodyBytes     int64 // whole body
	Events        int   // events of one broadcast or poll answer
	Depth         int   // nesting of contents, and of fields that are skipped
	ContentsBytes int   // one event's or bundle's contents, in normal form
	RIDs          int   // RIDs, manifests or bundles in one body
	RIDTypes      int   // RID types in one list
}

// DefaultLimits returns the documented bounds.
func DefaultLimits() Limits {
	return Limits{
		BodyBytes:     16 << 20,
		Events:        10_000,
		Depth:         256,
		ContentsBytes: 8 << 20,
		RIDs:          100_000,
		RIDTypes:      1_000,
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	if l.BodyBytes <= 0 {
		l.BodyBytes = d.BodyBytes
	}
	if l.Events <= 0 {
		l.Events = d.Events
	}
	if l.Depth <= 0 {
		l.Depth = d.Depth
	}
	if l.ContentsBytes <= 0 {
		l.ContentsBytes = d.ContentsBytes
	}
	if l.RIDs <= 0 {
		l.RIDs = d.RIDs
	}
	if l.RIDTypes <= 0 {
		l.RIDTypes = d.RIDTypes
	}
	return l
}
