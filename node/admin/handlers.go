package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/go-chi/chi/v5"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "ok\n")
}

func (s *server) readyz(w http.ResponseWriter, _ *http.Request) {
	var text bytes.Buffer
	status := http.StatusOK
	for _, c := range s.cfg.Backend.Ready() {
		if c.OK {
			fmt.Fprintf(&text, "[+] %s ok\n", c.Name)
			continue
		}
		status = http.StatusServiceUnavailable
		fmt.Fprintf(&text, "[-] %s: %s\n", c.Name, c.Message)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = text.WriteTo(w)
}

func (s *server) status(w http.ResponseWriter, r *http.Request) {
	st, err := s.cfg.Backend.Status(r.Context())
	st.Checks, st.Interests, st.Provides = orEmpty(st.Checks), orEmpty(st.Interests), provides(st.Provides)
	s.reply(w, r, st, err)
}

func (s *server) nodes(w http.ResponseWriter, r *http.Request) {
	nodes, err := s.cfg.Backend.Nodes(r.Context())
	for i := range nodes {
		nodes[i].Profile.Provides = provides(nodes[i].Profile.Provides)
	}
	s.reply(w, r, client.NodeList{Nodes: orEmpty(nodes)}, err)
}

func (s *server) introduce(w http.ResponseWriter, r *http.Request) {
	var in client.Introduction
	if err := s.decode(w, r, &in); err != nil {
		s.fail(w, r, err)
		return
	}
	if err := checkIntroduction(in); err != nil {
		s.fail(w, r, err)
		return
	}
	n, err := s.cfg.Backend.Introduce(r.Context(), in)
	n.Profile.Provides = provides(n.Profile.Provides)
	s.reply(w, r, n, err)
}

func (s *server) edges(w http.ResponseWriter, r *http.Request) {
	own, err := queryBool(r.URL.Query(), "own")
	if err != nil {
		s.fail(w, r, err)
		return
	}
	list, err := s.cfg.Backend.Edges(r.Context(), own)
	list.Edges = orEmpty(list.Edges)
	s.reply(w, r, list, err)
}

func (s *server) propose(w http.ResponseWriter, r *http.Request) {
	var p client.Proposal
	if err := s.decode(w, r, &p); err != nil {
		s.fail(w, r, err)
		return
	}
	if err := checkProposal(p); err != nil {
		s.fail(w, r, err)
		return
	}
	e, err := s.cfg.Backend.Propose(r.Context(), p)
	s.reply(w, r, e, err)
}

func (s *server) forgetEdge(w http.ResponseWriter, r *http.Request) {
	source, target, err := pathPair(r)
	if err == nil {
		err = s.cfg.Backend.ForgetEdge(r.Context(), source, target)
	}
	s.done(w, r, err)
}

func (s *server) setPolicy(w http.ResponseWriter, r *http.Request) {
	source, target, err := pathPair(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	var p client.Policy
	if err := s.decode(w, r, &p); err != nil {
		s.fail(w, r, err)
		return
	}
	if p, err = checkPolicy(p, source, target); err != nil {
		s.fail(w, r, err)
		return
	}
	p, err = s.cfg.Backend.SetPolicy(r.Context(), p)
	s.reply(w, r, p, err)
}

func (s *server) deletePolicy(w http.ResponseWriter, r *http.Request) {
	source, target, err := pathPair(r)
	if err == nil {
		err = s.cfg.Backend.DeletePolicy(r.Context(), source, target)
	}
	s.done(w, r, err)
}

func (s *server) rids(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	types, after, limit, err := s.page(q)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	list, err := s.cfg.Backend.RIDs(r.Context(), types, after, limit)
	list.RIDs = orEmpty(list.RIDs)
	s.reply(w, r, list, err)
}

func (s *server) bundle(w http.ResponseWriter, r *http.Request) {
	id, err := pathRID(r, "rid")
	if err != nil {
		s.fail(w, r, err)
		return
	}
	b, err := s.cfg.Backend.Bundle(r.Context(), id)
	s.reply(w, r, b, err)
}

func (s *server) put(w http.ResponseWriter, r *http.Request) {
	id, err := pathRID(r, "rid")
	if err != nil {
		s.fail(w, r, err)
		return
	}
	var body client.Put
	if err := s.decode(w, r, &body); err != nil {
		s.fail(w, r, err)
		return
	}
	item := client.PutItem{RID: id, Contents: body.Contents}
	if err := s.checkItem(item); err != nil {
		s.fail(w, r, err)
		return
	}
	res, err := s.cfg.Backend.Put(r.Context(), []client.PutItem{item})
	var at *ItemError
	if errors.As(err, &at) {
		err = at.Err // there is but one item
	}
	s.reply(w, r, res, err)
}

func (s *server) forget(w http.ResponseWriter, r *http.Request) {
	id, err := pathRID(r, "rid")
	if err == nil {
		err = s.cfg.Backend.Forget(r.Context(), id)
	}
	s.done(w, r, err)
}

func (s *server) resync(w http.ResponseWriter, r *http.Request) {
	s.done(w, r, s.cfg.Backend.Resync(r.Context()))
}

func (s *server) leave(w http.ResponseWriter, r *http.Request) {
	s.done(w, r, s.cfg.Backend.Leave(r.Context()))
}

// reply answers v, or err if there is one.
func (s *server) reply(w http.ResponseWriter, r *http.Request, v any, err error) {
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.write(w, http.StatusOK, v)
}

// done answers a call that has no result.
func (s *server) done(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// decode reads a body of exactly one JSON object. Fields it does not know are
// passed over, so that a newer client may speak to an older node.
func (s *server) decode(w http.ResponseWriter, r *http.Request, into any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.limits.Protocol.BodyBytes))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return fmt.Errorf("the body exceeds %d bytes: %w", tooLarge.Limit, err)
		}
		return invalid("the body cannot be read: %w", err)
	}
	return decodeObject(body, into)
}

func decodeObject(text []byte, into any) error {
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return invalid("the body is empty; it takes one JSON object")
	}
	if text[0] != '{' {
		return invalid("one JSON object is needed, not %s", startOf(text))
	}
	if err := json.Unmarshal(text, into); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return invalid("no valid JSON at byte %d: %w", syntax.Offset, err)
		}
		return invalid("%w", err)
	}
	return nil
}

// startOf shows how a text begins, for an error.
func startOf(text []byte) string {
	const most = 20
	if len(text) > most {
		return strconv.Quote(string(text[:most])) + "…"
	}
	return strconv.Quote(string(text))
}

func (s *server) page(q url.Values) (types []rid.Type, after rid.RID, limit int, err error) {
	limit = client.DefaultPage
	if text := q.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 {
			return nil, "", 0, invalid("limit %q is not a number from 1 to %d", text, client.MaxPage)
		}
		limit = min(limit, client.MaxPage)
	}
	if most := s.limits.Protocol.RIDTypes; len(q["type"]) > most {
		return nil, "", 0, invalid("%d types given, the limit is %d", len(q["type"]), most)
	}
	for _, text := range q["type"] {
		t, err := rid.ParseType(text)
		if err != nil {
			return nil, "", 0, fmt.Errorf("query parameter type: %w", err)
		}
		types = append(types, t)
	}
	if text := q.Get("after"); text != "" {
		if after, err = rid.Parse(text); err != nil {
			return nil, "", 0, fmt.Errorf("query parameter after: %w", err)
		}
	}
	return types, after, limit, nil
}

func queryBool(q url.Values, name string) (bool, error) {
	text := q.Get(name)
	if text == "" {
		return false, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, invalid("query parameter %s: %q is neither true nor false", name, text)
	}
	return v, nil
}

func pathPair(r *http.Request) (source, target rid.RID, err error) {
	if source, err = pathRID(r, "source"); err != nil {
		return "", "", err
	}
	target, err = pathRID(r, "target")
	return source, target, err
}

// pathRID returns a path parameter, decoded exactly once (see routeEscaped).
func pathRID(r *http.Request, name string) (rid.RID, error) {
	text, err := url.PathUnescape(chi.URLParam(r, name))
	if err != nil {
		return "", invalid("%s in the path: %w", name, err)
	}
	id, err := rid.Parse(text)
	if err != nil {
		return "", fmt.Errorf("%s in the path: %w", name, err)
	}
	return id, nil
}

func checkIntroduction(in client.Introduction) error {
	if in.URL == "" {
		return invalid("url is missing: the node's base URL")
	}
	if err := checkURL("url", in.URL); err != nil {
		return err
	}
	if in.RID != "" {
		return checkRID("rid", in.RID)
	}
	if in.PublicKey != "" {
		return invalid("publicKey is given without rid")
	}
	return nil
}

func checkProposal(p client.Proposal) error {
	if err := checkRID("source", p.Source); err != nil {
		return err
	}
	if err := checkEdgeKind(p.EdgeType); err != nil {
		return err
	}
	if len(p.RIDTypes) == 0 {
		return invalid("ridTypes is empty: name what the edge is to carry")
	}
	if err := checkTypes(p.RIDTypes); err != nil {
		return err
	}
	if p.SourceURL != "" {
		return checkURL("sourceURL", p.SourceURL)
	}
	return nil
}

// checkPolicy holds a policy's body to its path, which decides.
func checkPolicy(p client.Policy, source, target rid.RID) (client.Policy, error) {
	if p.Source != "" && p.Source != source {
		return p, invalid("source in the body is %q, in the path %q", p.Source, source)
	}
	if p.Target != "" && p.Target != target {
		return p, invalid("target in the body is %q, in the path %q", p.Target, target)
	}
	p.Source, p.Target = source, target
	if p.Verdict != client.Approve && p.Verdict != client.Reject {
		return p, invalid("verdict %q is neither %s nor %s", p.Verdict, client.Approve, client.Reject)
	}
	if err := checkEdgeKind(p.EdgeType); err != nil {
		return p, err
	}
	return p, checkTypes(p.RIDTypes)
}

func checkEdgeKind(k protocol.EdgeKind) error {
	if !slices.Contains([]protocol.EdgeKind{"", protocol.Webhook, protocol.Poll}, k) {
		return invalid("edgeType %q is neither %s nor %s", k, protocol.Webhook, protocol.Poll)
	}
	return nil
}

func checkTypes(types []rid.Type) error {
	for i, t := range types {
		if _, err := rid.ParseType(string(t)); err != nil {
			return fmt.Errorf("ridTypes[%d]: %w", i, err)
		}
	}
	return nil
}

func checkRID(field string, r rid.RID) error {
	if _, err := rid.Parse(string(r)); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	return nil
}

func checkURL(field, text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return invalid("%s: %w", field, err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return invalid("%s %q is no base URL: http:// or https://, a host, and a path", field, text)
	}
	return nil
}

// orEmpty makes a missing list an empty one, so that JSON has [] and not null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func provides(p protocol.Provides) protocol.Provides {
	return protocol.Provides{Event: orEmpty(p.Event), State: orEmpty(p.State)}
}
