package observe

import (
	"context"
	"sync"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/rid"
)

// Admin is what the operator asks of a node; *client.Client is one.
type Admin interface {
	Status(ctx context.Context) (client.Status, error)
	Nodes(ctx context.Context) ([]client.Node, error)
	Edges(ctx context.Context, own bool) (client.EdgeList, error)
	Propose(ctx context.Context, p client.Proposal) (client.Edge, error)
	ForgetEdge(ctx context.Context, source, target rid.RID) error
	SetPolicy(ctx context.Context, p client.Policy) (client.Policy, error)
	DeletePolicy(ctx context.Context, source, target rid.RID) error
	Leave(ctx context.Context) error
	Follow(ctx context.Context, since string, fn func(client.Change) error, o client.FollowOptions) error
	Current() bool
	CloseIdleConnections()
}

// Endpoint is where and how a node's admin API is reached.
type Endpoint struct {
	URL   string
	Token string
	// CA pins the node's certificate (PEM).
	CA string
	// PreviousToken and PreviousCA are what the node may still go by while Token
	// and CA are new; "" for none.
	PreviousToken, PreviousCA string
}

// Dial makes an Admin for an endpoint without calling it.
func Dial(e Endpoint) (Admin, error) {
	return client.New(client.Options{
		URL: e.URL, Token: e.Token, CACert: []byte(e.CA), Timeout: requestTimeout,
		PreviousToken: e.PreviousToken, PreviousCACert: []byte(e.PreviousCA),
	})
}

const (
	requestTimeout = 10 * time.Second
	// settle gathers changes that come together into one look at the node.
	settle = 50 * time.Millisecond
	// events is how many events may wait for a controller before followers wait.
	events = 1024
)

// Options of an Observer.
type Options struct {
	// Interval is how old a snapshot may become; each node is asked anew before that.
	Interval time.Duration
	// Dial makes clients; default Dial.
	Dial func(Endpoint) (Admin, error)
	// Clock tells the time; default time.Now.
	Clock func() time.Time
	// Log takes transitions between answering and silent nodes.
	Log logr.Logger
}

// Observer follows nodes. Its methods may be called before Start; following
// begins with it.
type Observer struct {
	interval time.Duration
	dial     func(Endpoint) (Admin, error)
	clock    func() time.Time
	log      logr.Logger

	mu          sync.Mutex
	ctx         context.Context // of Start; nil before
	followers   map[types.NamespacedName]*follower
	subscribers []chan event.GenericEvent
	running     sync.WaitGroup
}

// New makes an Observer.
func New(o Options) *Observer {
	if o.Dial == nil {
		o.Dial = Dial
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return &Observer{
		interval:  o.Interval,
		dial:      o.Dial,
		clock:     o.Clock,
		log:       o.Log,
		followers: map[types.NamespacedName]*follower{},
	}
}

// Subscribe returns a channel on which every changed node is announced. It
// must be read for as long as the Observer runs, and is made before Start.
func (o *Observer) Subscribe() <-chan event.GenericEvent {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := make(chan event.GenericEvent, events)
	o.subscribers = append(o.subscribers, c)
	return c
}

// NeedLeaderElection says that only the leader follows nodes.
func (o *Observer) NeedLeaderElection() bool { return true }

// Start follows until ctx ends and returns when all followers have stopped.
func (o *Observer) Start(ctx context.Context) error {
	o.mu.Lock()
	o.ctx = ctx
	for _, f := range o.followers {
		o.launch(f)
	}
	o.mu.Unlock()

	<-ctx.Done()

	o.mu.Lock()
	for key, f := range o.followers {
		f.stop()
		delete(o.followers, key)
	}
	o.mu.Unlock()
	o.running.Wait()
	return nil
}

// Follow follows a node at an endpoint, and goes over to another endpoint when
// it changes. The snapshot of the endpoint before is kept until the new one
// answers.
func (o *Observer) Follow(key types.NamespacedName, e Endpoint) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	old := o.followers[key]
	if old != nil && old.endpoint == e {
		return nil
	}
	admin, err := o.dial(e)
	if err != nil {
		return err
	}
	f := &follower{observer: o, key: key, endpoint: e, admin: admin, poke: make(chan struct{}, 1)}
	if old != nil {
		f.snapshot = old.snapshot
		old.stop()
	}
	o.followers[key] = f
	if o.ctx != nil {
		o.launch(f)
	}
	return nil
}

// Unfollow forgets a node, and announces that nothing is known of it any more.
func (o *Observer) Unfollow(key types.NamespacedName) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := o.followers[key]
	if f == nil {
		return
	}
	f.stop()
	delete(o.followers, key)
	if ctx := o.ctx; ctx != nil && ctx.Err() == nil {
		o.running.Go(func() { o.announce(ctx, key) })
	}
}

// Snapshot returns what a followed node said last, nil if it never answered.
func (o *Observer) Snapshot(key types.NamespacedName) *Snapshot {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.followers[key]; f != nil {
		return f.snapshot
	}
	return nil
}

// Sight is what the followed nodes see of another one.
type Sight struct {
	// Reach is how many of Asked had an answer from it last. Asked answered within the
	// interval themselves, of Known, which have an edge with it.
	Reach, Asked, Known int
	// Why is what one of those that had none met, and By is who that is.
	Why string
	By  types.NamespacedName
}

// Seen asks what the followed nodes see of the node with a RID.
func (o *Observer) Seen(r rid.RID, now time.Time) Sight {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out Sight
	for key, f := range o.followers {
		p, known := f.snapshot.peer(r)
		if !known {
			continue
		}
		out.Known++
		if !f.snapshot.Fresh(now, o.interval) {
			continue
		}
		out.Asked++
		switch {
		case !p.Silent:
			out.Reach++
		case out.Why == "" || key.String() < out.By.String(): // the same one each time
			out.Why, out.By = p.Why, key
		}
	}
	return out
}

// Admin returns the client of a followed node, nil if it is not followed.
func (o *Observer) Admin(key types.NamespacedName) Admin {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.followers[key]; f != nil {
		return f.admin
	}
	return nil
}

// Endpoint returns where and how a node is followed; false if it is not.
func (o *Observer) Endpoint(key types.NamespacedName) (Endpoint, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.followers[key]; f != nil {
		return f.endpoint, true
	}
	return Endpoint{}, false
}

// Current tells whether a followed node goes by the token: it answered to it
// last, under the certificate that came with it.
func (o *Observer) Current(key types.NamespacedName, token string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := o.followers[key]
	return f != nil && f.endpoint.Token == token && f.admin.Current()
}

// Refresh has a followed node asked anew at once.
func (o *Observer) Refresh(key types.NamespacedName) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.followers[key]; f != nil {
		f.wake()
	}
}

// launch starts a follower; o.mu is held and o.ctx set.
func (o *Observer) launch(f *follower) {
	if o.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(o.ctx)
	f.cancel = cancel
	o.running.Go(func() { f.run(ctx) })
}

// keep stores a follower's snapshot if it is still the one that counts.
func (o *Observer) keep(f *follower, s *Snapshot) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.followers[f.key] != f {
		return false
	}
	f.snapshot = s
	return true
}

func (o *Observer) announce(ctx context.Context, key types.NamespacedName) {
	o.mu.Lock()
	subscribers := o.subscribers
	o.mu.Unlock()
	e := event.GenericEvent{Object: named(key)}
	for _, c := range subscribers {
		select {
		case c <- e:
		case <-ctx.Done():
			return
		}
	}
}

func named(key types.NamespacedName) ctrlclient.Object {
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
}
