package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

func (s *server) broadcast(ctx context.Context, a *answer, from Sender, events protocol.EventsPayload) error {
	a.seal = nil // its answer says nothing, in either generation
	if len(events) > 0 {
		if err := s.inbox.Accept(ctx, from, events); err != nil {
			return fmt.Errorf("accepting %d events: %w", len(events), err)
		}
	}
	a.text("null")
	return nil
}

// poll answers what waits for the node that asks: who signed, or whom an unsigned
// body names, if that has no key. A node without a key itself cannot be called in
// any other way, and believes the name as koi-net 1.0 does. The lease counts as
// written only when the connection has taken the whole answer.
func (s *server) poll(ctx context.Context, a *answer, from Sender, req protocol.PollRequest) error {
	if from.RID == "" && !s.identity.Unsigned() && rid.IsKeyed(req.RID) {
		return protocol.ErrorResponse{Code: protocol.UnknownNode}
	}
	if from.Replay != nil && s.polled.put(*from.Replay, struct{}{}) {
		a.payload(protocol.TypeEvents, `"events":[`)
		a.text("]}")
		return nil
	}
	lease, err := s.polls.Lease(ctx, req.RID, a.program, max(0, req.Limit))
	if err != nil {
		return fmt.Errorf("leasing events for %s: %w", req.RID, err)
	}
	defer lease.Release()
	a.payload(protocol.TypeEvents, `"events":[`)
	for _, e := range lease.Events() {
		if err := a.event(e); err != nil {
			// It cannot be had at a later poll either, and must not keep the
			// others back; whose fault it is is not the peer's affair.
			s.metrics.damaged.Inc()
			s.log.Error("a queued event is damaged and is left out of what a peer polls", "peer", req.RID, "error", err)
			continue
		}
		if err := a.spill(); err != nil {
			return err
		}
	}
	a.text("]}")
	if err := a.finish(); err != nil {
		return err
	}
	lease.Written()
	return nil
}

func (s *server) fetchRIDs(ctx context.Context, a *answer, from Sender, req protocol.FetchRIDs) error {
	a.payload(protocol.TypeRIDs, `"rids":[`)
	if err := s.each(ctx, a, from, req.RIDTypes, (*answer).ridOf); err != nil {
		return err
	}
	a.text("]}")
	return nil
}

func (s *server) fetchManifests(ctx context.Context, a *answer, from Sender, req protocol.FetchManifests) error {
	a.payload(protocol.TypeManifests, `"manifests":[`)
	var missing []rid.RID
	var err error
	if len(req.RIDs) > 0 {
		missing, err = s.pick(ctx, a, from, unique(req.RIDs), writeManifest)
	} else {
		err = s.each(ctx, a, from, req.RIDTypes, (*answer).manifest)
	}
	if err != nil {
		return err
	}
	return a.rids(`],"not_found":[`, missing, "]}")
}

// fetchBundles writes the list twice in an unsigned answer: koi-net 1.0.0b5 reads
// it under "manifests", later versions under "bundles". An answer that still fits
// its first part is copied; a larger one is read from the store again, so that
// memory stays bounded. A bundle that changes in between may then differ in the
// two lists, each of them true; not_found goes with the second.
func (s *server) fetchBundles(ctx context.Context, a *answer, from Sender, req protocol.FetchBundles) error {
	rids := unique(req.RIDs)
	const end = `],"deferred":[]}`
	if a.seal != nil {
		a.payload(protocol.TypeBundles, `"bundles":[`)
		missing, err := s.pick(ctx, a, from, rids, writeBundle)
		if err != nil {
			return err
		}
		return a.rids(`],"not_found":[`, missing, end)
	}
	a.payload(protocol.TypeBundles, `"manifests":[`)
	start := len(a.buf)
	missing, err := s.pick(ctx, a, from, rids, writeBundle)
	if err != nil {
		return err
	}
	stop := len(a.buf)
	a.list(`],"bundles":[`)
	if !a.sent {
		a.buf = append(slices.Grow(a.buf, stop-start+itemRoom), a.buf[start:stop]...)
	} else if missing, err = s.pick(ctx, a, from, rids, writeBundle); err != nil {
		return err
	}
	return a.rids(`],"not_found":[`, missing, end)
}

func writeManifest(rd store.Reader, r rid.RID, a *answer) error {
	m, err := rd.RawManifest(r)
	if err != nil {
		return err
	}
	a.manifest(&m)
	return nil
}

func writeBundle(rd store.Reader, r rid.RID, a *answer) error {
	b, err := rd.RawBundle(r)
	if err != nil {
		return err
	}
	a.bundle(&b)
	return nil
}

func (s *server) ownBundle(_ *http.Request, a *answer) error {
	b, ok := s.self()
	if !ok {
		return errNotReady
	}
	a.buf = protocol.AppendBundle(a.buf, b)
	return nil
}

// each writes something of every stored manifest of the types (none: all), page by
// page: the transaction of a page is over before the page goes to the peer. What
// is damaged is left out: a list of what there is has no place for it.
func (s *server) each(ctx context.Context, a *answer, from Sender, types []rid.Type, write func(*answer, *protocol.RawManifest)) error {
	var after rid.RID
	for more := true; more; {
		more = false
		err := s.store.View(ctx, func(rd store.Reader) error {
			rows := 0
			for m, err := range rd.RawManifests(types, after) {
				rows++
				switch {
				case err != nil && m == nil:
					return err
				case err != nil:
					// The next page must not begin behind a key that may be
					// damaged itself, so this one goes on.
					if !s.absent(m.RawRID, err) {
						return err
					}
					continue
				case m.Type != rid.NodeType || s.peers.Suits(from.RID, m.RID()):
					write(a, m)
				}
				if rows >= pageRows || len(a.buf) >= partBytes {
					after, more = m.RID(), true
					return nil
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("reading the store: %w", err)
		}
		if err := a.spill(); err != nil {
			return err
		}
	}
	return nil
}

// pick writes something for each of the given RIDs, page by page, and returns
// those that are not there.
func (s *server) pick(ctx context.Context, a *answer, from Sender, rids []rid.RID, write func(store.Reader, rid.RID, *answer) error) (missing []rid.RID, err error) {
	for len(rids) > 0 {
		err := s.store.View(ctx, func(rd store.Reader) error {
			for rows := 0; len(rids) > 0 && rows < pageRows && len(a.buf) < partBytes; rows++ {
				r := rids[0]
				rids = rids[1:]
				if strings.HasPrefix(string(r), string(rid.NodeType)+":") && !s.peers.Suits(from.RID, r) {
					missing = append(missing, r)
					continue
				}
				err := write(rd, r, a)
				if err == nil {
					continue
				}
				if !s.absent(r, err) {
					return err
				}
				missing = append(missing, r)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("reading the store: %w", err)
		}
		if err := a.spill(); err != nil {
			return nil, err
		}
	}
	return missing, nil
}

// absent says whether err means that a bundle cannot be had. A damaged record
// cannot: the peer is told not found, and we are told the truth.
func (s *server) absent(r fmt.Stringer, err error) bool {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return true
	case errors.Is(err, store.ErrDamaged):
		s.metrics.damaged.Inc()
		s.log.Error("a stored bundle is damaged; peers are told that it is not found", "rid", r.String(), "error", err)
		if s.onDamaged != nil {
			s.onDamaged(rid.RID(r.String()), err)
		}
		return true
	default:
		return false
	}
}

// unique drops repetitions, so that a short request cannot ask for one large
// bundle a hundred thousand times.
func unique(rids []rid.RID) []rid.RID {
	seen := make(map[rid.RID]struct{}, len(rids))
	out := make([]rid.RID, 0, len(rids))
	for _, r := range rids {
		if _, ok := seen[r]; !ok {
			seen[r] = struct{}{}
			out = append(out, r)
		}
	}
	return out
}
