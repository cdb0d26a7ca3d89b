package witness

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// maxBody bounds what a witness reads of a request or an answer.
const maxBody = 64 << 20

func (w *Witness) serve(res http.ResponseWriter, req *http.Request) {
	call, mood := strings.TrimPrefix(req.URL.Path, basePath), Well
	if call == "/events/broadcast" && w.cfg.Mood != nil {
		mood = w.cfg.Mood()
	}
	if mood == Reset {
		w.Trouble("the connection was reset")
		cut(res, true)
		return
	}
	body, err := io.ReadAll(io.LimitReader(req.Body, maxBody))
	if err != nil {
		return // who asked is gone
	}
	answer, err := w.answer(req, call, body, mood)
	switch {
	case err != nil:
		http.Error(res, err.Error(), http.StatusNotFound)
	case mood == Refuse:
		res.WriteHeader(http.StatusServiceUnavailable)
	case mood == HangUp:
		cut(res, false)
	default:
		res.Header().Set("Content-Type", "application/json")
		_, _ = res.Write(answer) // who asked may be dead by now
	}
}

// cut closes the connection, by a reset or in good order.
func cut(res http.ResponseWriter, hard bool) {
	conn, _, err := http.NewResponseController(res).Hijack()
	if err != nil {
		return // it is gone already
	}
	if tcp, ok := conn.(*net.TCPConn); ok && hard {
		_ = tcp.SetLinger(0) // else it is closed in good order, which is bad enough
	}
	_ = conn.Close()
}

func (w *Witness) answer(req *http.Request, call string, body []byte, mood Mood) ([]byte, error) {
	limits := protocol.DefaultLimits()
	switch call {
	case "":
		own, err := w.Bundle()
		return protocol.AppendBundle(nil, own), err
	case "/events/broadcast":
		events, _, err := request(w, body, func(b []byte) (protocol.EventsPayload, error) {
			events, err := protocol.DecodeBroadcast(b, limits)
			return events, err
		})
		if err == nil {
			w.offered(events, mood)
		}
		if mood == Slow {
			_ = w.pause(req.Context()) // who waits for it may be gone
		}
		return []byte("null"), err
	case "/rids/fetch":
		q, from, err := request(w, body, func(b []byte) (protocol.FetchRIDs, error) { return protocol.DecodeFetchRIDs(b, limits) })
		if err != nil {
			return nil, err
		}
		found, _, err := w.find(q.RIDTypes, nil)
		rids := protocol.RIDsPayload{}
		for _, b := range found {
			rids = append(rids, b.Manifest.RID)
		}
		return w.sealed(from, rids, func() any { return map[string]any{"rids": rids} }, err)
	case "/manifests/fetch":
		q, from, err := request(w, body, func(b []byte) (protocol.FetchManifests, error) {
			return protocol.DecodeFetchManifests(b, limits)
		})
		if err != nil {
			return nil, err
		}
		found, missing, err := w.find(q.RIDTypes, q.RIDs)
		ans := protocol.ManifestsAnswer{Manifests: []protocol.Manifest{}, NotFound: missing}
		for _, b := range found {
			ans.Manifests = append(ans.Manifests, b.Manifest)
		}
		return w.sealed(from, ans, func() any {
			return map[string]any{"manifests": ans.Manifests, "not_found": append([]rid.RID{}, missing...)}
		}, err)
	case "/bundles/fetch":
		q, from, err := request(w, body, func(b []byte) (protocol.FetchBundles, error) { return protocol.DecodeFetchBundles(b, limits) })
		if err != nil {
			return nil, err
		}
		if err := w.pause(req.Context()); err != nil {
			return nil, err
		}
		found, missing, err := w.find(nil, q.RIDs)
		return w.sealed(from, protocol.BundlesAnswer{Bundles: found, NotFound: missing}, func() any {
			bundles := append([]protocol.Bundle{}, found...)
			return map[string]any{"bundles": bundles, "manifests": bundles, "not_found": append([]rid.RID{}, missing...), "deferred": []rid.RID{}}
		}, err)
	}
	return nil, errCall
}

// request reads a request of either generation and says who signed it, "" for
// nobody.
func request[P protocol.Payload](w *Witness, body []byte, plain func([]byte) (P, error)) (payload P, from rid.RID, err error) {
	if !protocol.IsEnvelope(body) {
		if payload, err = plain(body); err == nil && !w.cfg.Unsigned {
			w.fault("a request without a signature")
		}
		return payload, "", err
	}
	e, err := protocol.DecodeEnvelope[P](body, protocol.DefaultLimits())
	if err == nil {
		err = verify(w, e)
	}
	if err != nil {
		w.fault("an envelope that is not to be believed: %v", err)
	}
	return e.Payload, e.Source, err
}

func (w *Witness) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.add(format, args...)
}

// sealed writes an answer as the asker asked: signed for it, or plain.
func (w *Witness) sealed(to rid.RID, p protocol.Payload, plain func() any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	if to == "" {
		return json.Marshal(plain())
	}
	return protocol.EncodeEnvelope(p, w.id.RID, to, protocol.FloatsCurrent, w.id.Sign)
}
