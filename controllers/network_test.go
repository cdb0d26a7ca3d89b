package controllers_test

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	adminclient "github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// network simulates kubelet and nodes: for each Deployment with a replica it
// runs a node behind the real admin API's routes, over TLS and with the token
// of the admin Secret, and reports the Deployment rolled out. The nodes
// negotiate edges among themselves, at once.
type network struct {
	w     *world
	mu    sync.Mutex
	nodes map[rid.RID]*fakeNode
	names map[string]*fakeNode
	down  map[string]bool // Deployments that do not come up
	// unready are Deployments whose pods run and are not ready, frozen those whose
	// status and node stay as they are.
	unready, frozen map[string]bool
	clock           int
	plain           bool // without TLS
	away            bool // nothing is run or reported
}

type pair struct{ source, target rid.RID }

// fakeNode is one simulated node; network.mu guards it.
type fakeNode struct {
	name     string
	rid      rid.RID
	kind     protocol.NodeKind
	hash     string
	storeID  string
	ready    bool
	manual   bool
	provides []rid.Type
	edges    map[pair]adminclient.Edge
	policies map[pair]adminclient.Policy
	left     int
	silent   string // what others meet that call it
	starts   int
	of       types.UID // its Deployment
	asked    int       // how often for its status
	calls    []string
	trouble  string             // hang, refuse or reset: what a call to the admin API meets
	says     adminclient.Status // Checks and FirstContact, where set
	answers  map[string]int     // HTTP status with which propose, policy and forget are refused
	server   *httptest.Server   // nil for a node elsewhere
	watchers map[chan struct{}]bool
}

func newNetwork(w *world) *network {
	n := &network{w: w, nodes: map[rid.RID]*fakeNode{}, names: map[string]*fakeNode{},
		down: map[string]bool{}, unready: map[string]bool{}, frozen: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			n.kubelet(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	w.t.Cleanup(func() {
		cancel()
		<-done
		n.mu.Lock()
		running := make([]*fakeNode, 0, len(n.names))
		for _, f := range n.names {
			running = append(running, f)
		}
		n.mu.Unlock()
		for _, f := range running {
			n.halt(f)
		}
	})
	return n
}

func (n *network) adminURL(node *v1alpha1.KoiNode, _ []corev1.Pod) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.names[node.Name]
	switch {
	case f == nil || f.server == nil:
		return ""
	case f.trouble == refuse:
		return "https://127.0.0.1:1"
	}
	return f.server.URL
}

// What a call to an admin API may meet.
const (
	hang   = "hang"
	refuse = "refuse"
	reset  = "reset"
)

// trouble has a node's admin API hang, refuse or reset connections from now on,
// those that stand included.
func (n *network) trouble(name, what string) {
	n.mu.Lock()
	f := n.names[name]
	f.trouble = what
	n.mu.Unlock()
	f.server.CloseClientConnections()
}

// kubelet brings pods and Deployments together.
func (n *network) kubelet(ctx context.Context) {
	var list appsv1.DeploymentList
	if err := n.w.client.List(ctx, &list, client.InNamespace(n.w.ns)); err != nil {
		return // the test fails where it waits
	}
	wanted := map[string]bool{}
	n.mu.Lock()
	away := n.away
	n.mu.Unlock()
	if away {
		return
	}
	for i := range list.Items {
		d := &list.Items[i]
		n.mu.Lock()
		up, ready, frozen := *d.Spec.Replicas > 0 && !n.down[d.Name], !n.unready[d.Name], n.frozen[d.Name]
		n.mu.Unlock()
		switch {
		case frozen:
			wanted[d.Name] = true
		case up && n.run(ctx, d):
			wanted[d.Name] = true
			n.report(ctx, d, 1, ready)
		default:
			n.report(ctx, d, 0, false)
		}
	}
	n.mu.Lock()
	var stop []*fakeNode
	for name, f := range n.names {
		if !wanted[name] && f.server != nil {
			stop = append(stop, f)
		}
	}
	n.mu.Unlock()
	for _, f := range stop {
		n.halt(f)
	}
}

func (n *network) report(ctx context.Context, d *appsv1.Deployment, replicas int32, ready bool) {
	available := replicas
	if !ready {
		available = 0
	}
	want := appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation, Replicas: replicas, UpdatedReplicas: replicas, ReadyReplicas: available, AvailableReplicas: available,
	}
	if s := d.Status; s.ObservedGeneration == want.ObservedGeneration && s.AvailableReplicas == available && s.Replicas == replicas {
		return
	}
	d.Status = want
	_ = n.w.client.Status().Update(ctx, d) // again in 50 ms
}

// run starts a Deployment's node if what it needs is there, and starts it anew
// with another configuration.
func (n *network) run(ctx context.Context, d *appsv1.Deployment) bool {
	hash := ""
	for _, c := range d.Spec.Template.Spec.Containers {
		for _, e := range c.Env {
			if c.Name == "node" && e.Name == "KOI_CONFIG_HASH" {
				hash = e.Value
			}
		}
	}
	n.mu.Lock()
	old := n.names[d.Name]
	n.mu.Unlock()
	if old != nil && old.server != nil {
		if old.hash == hash && old.of == d.UID {
			return true
		}
		n.halt(old)
	}
	var admin, identity corev1.Secret
	var config corev1.ConfigMap
	for _, o := range []struct {
		name string
		into client.Object
	}{{volume(d, "admin"), &admin}, {volume(d, "identity"), &identity}, {volume(d, "config"), &config}} {
		if n.w.client.Get(ctx, client.ObjectKey{Namespace: n.w.ns, Name: o.name}, o.into) != nil {
			return false
		}
	}
	cert, err := tls.X509KeyPair(admin.Data["tls.crt"], admin.Data["tls.key"])
	if err != nil {
		n.w.t.Errorf("the admin Secret of %s: %v", d.Name, err)
		return false
	}
	var c struct {
		Partial       bool       `json:"partial"`
		EdgeApproval  string     `json:"edge-approval"`
		ProvidesEvent []rid.Type `json:"provides-event"`
	}
	if err := yaml.Unmarshal([]byte(config.Data["config.yaml"]), &c); err != nil {
		n.w.t.Errorf("the configuration of %s: %v", d.Name, err)
		return false
	}
	f := &fakeNode{
		name: d.Name, rid: rid.RID(identity.Data["rid"]), kind: protocol.Full, hash: hash, storeID: "store-" + d.Name, ready: true,
		manual: c.EdgeApproval == "Manual", provides: append(c.ProvidesEvent, rid.NodeType, rid.EdgeType),
		edges: map[pair]adminclient.Edge{}, policies: map[pair]adminclient.Policy{}, watchers: map[chan struct{}]bool{},
	}
	if c.Partial {
		f.kind = protocol.Partial
	}
	if old != nil { // the same store
		f.edges, f.policies, f.storeID, f.left, f.calls = old.edges, old.policies, old.storeID, old.left, old.calls
		f.starts, f.trouble, f.says, f.answers = old.starts, old.trouble, old.says, old.answers
	}
	f.starts, f.of = f.starts+1, d.UID
	f.server = httptest.NewUnstartedServer(n.handler(f, string(admin.Data["token"])))
	f.server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	f.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	if n.plain {
		f.server.Start()
	} else {
		f.server.StartTLS()
	}
	n.mu.Lock()
	n.nodes[f.rid], n.names[f.name] = f, f
	n.mu.Unlock()
	return true
}

func (n *network) halt(f *fakeNode) {
	n.mu.Lock()
	s := f.server
	f.server = nil
	n.mu.Unlock()
	if s != nil {
		s.CloseClientConnections()
		s.Close()
	}
}

func volume(d *appsv1.Deployment, name string) string {
	for _, v := range d.Spec.Template.Spec.Volumes {
		switch {
		case v.Name != name:
		case v.Secret != nil:
			return v.Secret.SecretName
		case v.ConfigMap != nil:
			return v.ConfigMap.Name
		}
	}
	return ""
}

// elsewhere adds a node that nobody here runs.
func (n *network) elsewhere(name string, provides ...rid.Type) *fakeNode {
	r, err := rid.NewNode(name, "0f1e2d3c")
	if err != nil {
		n.w.t.Fatal(err)
	}
	f := &fakeNode{name: name, rid: r, kind: protocol.Full, provides: provides, ready: true,
		edges: map[pair]adminclient.Edge{}, policies: map[pair]adminclient.Policy{}, watchers: map[chan struct{}]bool{}}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[r] = f
	return f
}

// at runs f on a node by name, under the lock, and tells its watchers.
func (n *network) at(name string, f func(*fakeNode)) {
	n.w.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	node := n.names[name]
	if node == nil {
		n.w.t.Fatalf("no node %s runs", name)
	}
	f(node)
	n.wake(node)
}

func (n *network) handler(f *fakeNode, token string) http.Handler {
	mux := http.NewServeMux()
	base := adminclient.BasePath
	locked := func(answer func(r *http.Request) (any, int)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			n.mu.Lock()
			v, code := answer(r)
			n.mu.Unlock()
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			if v != nil {
				_ = json.NewEncoder(w).Encode(v)
			}
		}
	}
	of := func(r *http.Request) pair {
		return pair{rid.RID(r.PathValue("source")), rid.RID(r.PathValue("target"))}
	}
	missing := func() (any, int) {
		return adminclient.ErrorBody{Error: adminclient.ErrorDetail{Code: "notFound", Message: "there is none"}}, http.StatusNotFound
	}
	mux.HandleFunc("GET "+base+"/status", locked(func(*http.Request) (any, int) {
		f.asked++
		return f.status(), 200
	}))
	mux.HandleFunc("GET "+base+"/nodes", locked(func(*http.Request) (any, int) { return n.known(f), 200 }))
	mux.HandleFunc("GET "+base+"/edges", locked(func(*http.Request) (any, int) { return f.list(), 200 }))
	mux.HandleFunc("POST "+base+"/edges", locked(func(r *http.Request) (any, int) {
		var p adminclient.Proposal
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
			return adminclient.ErrorBody{Error: adminclient.ErrorDetail{Code: "badRequest", Message: err.Error()}}, 400
		}
		f.calls = append(f.calls, "propose")
		if code := f.answers["propose"]; code != 0 {
			return refusal(code), code
		}
		return n.propose(f, p), 200
	}))
	mux.HandleFunc("DELETE "+base+"/edges/{source}/{target}", locked(func(r *http.Request) (any, int) {
		f.calls = append(f.calls, "forget")
		if _, ok := f.edges[of(r)]; !ok {
			return missing()
		}
		n.forget(of(r))
		return nil, http.StatusNoContent
	}))
	mux.HandleFunc("PUT "+base+"/policy/{source}/{target}", locked(func(r *http.Request) (any, int) {
		var p adminclient.Policy
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
			return adminclient.ErrorBody{Error: adminclient.ErrorDetail{Code: "badRequest", Message: err.Error()}}, 400
		}
		f.calls = append(f.calls, "policy "+p.Verdict)
		if code := f.answers["policy"]; code != 0 {
			return refusal(code), code
		}
		n.decide(f, p)
		return p, 200
	}))
	mux.HandleFunc("DELETE "+base+"/policy/{source}/{target}", locked(func(r *http.Request) (any, int) {
		f.calls = append(f.calls, "unpolicy")
		if _, ok := f.policies[of(r)]; !ok {
			return missing()
		}
		delete(f.policies, of(r))
		n.wake(f)
		return nil, http.StatusNoContent
	}))
	mux.HandleFunc("POST "+base+"/leave", locked(func(*http.Request) (any, int) {
		f.left++
		return nil, http.StatusNoContent
	}))
	mux.HandleFunc("GET "+base+"/watch", func(w http.ResponseWriter, r *http.Request) { n.watch(f, w, r) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		trouble := f.trouble
		n.mu.Unlock()
		switch trouble {
		case hang:
			_, _ = io.Copy(io.Discard, r.Body) // until then nobody sees the caller hang up
			<-r.Context().Done()
			return
		case refuse, reset: // who was here before is turned away, too
			if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
				conn.Close()
			}
			return
		}
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+token)) != 1 {
			http.Error(w, `{"error":{"code":"unauthorized","message":"give the token"}}`, http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func refusal(status int) adminclient.ErrorBody {
	code := adminclient.CodeUnavailable
	switch status {
	case http.StatusBadRequest:
		code = adminclient.CodeBadRequest
	case http.StatusConflict:
		code = adminclient.CodeConflict
	}
	return adminclient.ErrorBody{Error: adminclient.ErrorDetail{Code: code, Message: "it is not taken"}}
}

func (n *network) watch(f *fakeNode, w http.ResponseWriter, r *http.Request) {
	c := make(chan struct{}, 1)
	n.mu.Lock()
	f.watchers[c] = true
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		delete(f.watchers, c)
		n.mu.Unlock()
	}()
	say := func(kind adminclient.ChangeKind) bool {
		if json.NewEncoder(w).Encode(adminclient.Change{Token: "1", Kind: kind, Time: time.Now()}) != nil {
			return false
		}
		return http.NewResponseController(w).Flush() == nil
	}
	if !say(adminclient.ChangeHeartbeat) {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case <-time.After(5 * time.Second):
			if !say(adminclient.ChangeHeartbeat) {
				return
			}
		case <-c:
			if !say(adminclient.ChangeEdge) {
				return
			}
		}
	}
}

func (n *network) wake(f *fakeNode) {
	for c := range f.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (f *fakeNode) status() adminclient.Status {
	s := adminclient.Status{Version: "1.2.3", RID: f.rid, NodeType: f.kind, ConfigHash: f.hash, StoreID: f.storeID, Ready: f.ready,
		Checks: []adminclient.Check{{Name: "store", OK: f.ready, Message: "the store is closed"}}, FirstContact: f.says.FirstContact}
	if f.says.Checks != nil {
		s.Checks = f.says.Checks
	}
	return s
}

func (f *fakeNode) list() adminclient.EdgeList {
	var l adminclient.EdgeList
	for p, e := range f.edges {
		if d, ok := f.policies[p]; ok {
			e.Decision = &d
		}
		l.Edges = append(l.Edges, e)
	}
	for p, d := range f.policies {
		if _, ok := f.edges[p]; !ok && d.Verdict == adminclient.Reject {
			l.Refusals = append(l.Refusals, d)
		}
	}
	slices.SortFunc(l.Edges, func(a, b adminclient.Edge) int { return compare(a.RID, b.RID) })
	return l
}

func compare(a, b rid.RID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (n *network) known(f *fakeNode) adminclient.NodeList {
	var l adminclient.NodeList
	for r, o := range n.nodes {
		l.Nodes = append(l.Nodes, adminclient.Node{RID: r, Self: o == f, Verified: true, Profile: protocol.NodeProfile{NodeType: o.kind}, LastError: o.silent})
	}
	slices.SortFunc(l.Nodes, func(a, b adminclient.Node) int { return compare(a.RID, b.RID) })
	return l
}

// propose is what a target does: its proposal meets the source's decision.
func (n *network) propose(target *fakeNode, p adminclient.Proposal) adminclient.Edge {
	n.clock++
	k := pair{p.Source, target.rid}
	e := adminclient.Edge{RID: rid.NewEdge(p.Source, target.rid), Source: p.Source, Target: target.rid, EdgeType: p.EdgeType,
		Status: protocol.Proposed, RIDTypes: p.RIDTypes, Timestamp: protocol.NewTimestamp(time.Unix(int64(n.clock), 0))}
	if e.EdgeType == "" {
		e.EdgeType = protocol.Webhook
	}
	target.edges[k] = e
	if source := n.nodes[p.Source]; source != nil {
		n.consider(source, target, k, e)
	}
	n.wake(target)
	return target.edges[k]
}

func (n *network) consider(source, target *fakeNode, k pair, e adminclient.Edge) {
	defer n.wake(source)
	defer n.wake(target)
	d, decided := source.policies[k]
	provided := !slices.ContainsFunc(e.RIDTypes, func(t rid.Type) bool { return !slices.Contains(source.provides, t) })
	covered := decided && d.Verdict == adminclient.Approve && d.EdgeType == e.EdgeType &&
		!slices.ContainsFunc(e.RIDTypes, func(t rid.Type) bool { return !slices.Contains(d.RIDTypes, t) })
	switch {
	case decided && d.Verdict == adminclient.Reject, !provided:
		delete(source.edges, k)
		e.Refused = true
		target.edges[k] = e
	case covered, !source.manual && !decided:
		e.Status = protocol.Approved
		source.edges[k], target.edges[k] = e, e
	default:
		source.edges[k] = e
	}
}

func (n *network) decide(source *fakeNode, p adminclient.Policy) {
	k := pair{p.Source, p.Target}
	source.policies[k] = p
	target := n.nodes[p.Target]
	if e, ok := source.edges[k]; ok && target != nil {
		n.consider(source, target, k, e)
	}
	n.wake(source)
}

func (n *network) forget(k pair) {
	for _, f := range n.nodes {
		if _, ok := f.edges[k]; ok {
			delete(f.edges, k)
			n.wake(f)
		}
	}
}

// subscribe has a target propose an edge by itself, as nodes do.
func (n *network) subscribe(source, target *fakeNode, types ...rid.Type) {
	n.mu.Lock()
	defer n.mu.Unlock()
	kind := protocol.Webhook
	if target.kind == protocol.Partial {
		kind = protocol.Poll
	}
	n.propose(target, adminclient.Proposal{Source: source.rid, EdgeType: kind, RIDTypes: types})
}

func (n *network) named(name string) *fakeNode {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.names[name]
}

func (n *network) asked(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.names[name].asked
}

func (n *network) called(name string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.names[name].calls)
}

func logTo(t *testing.T) slog.Handler {
	return slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})
}
