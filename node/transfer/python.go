package transfer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Layout names the releases of the library that lay a node's files out alike.
type Layout string

// The layouts. Within each the file names, keys and their meaning are the same.
const (
	// LayoutIdentity: koi-net 1.0.0b5 to b13. identity.json holds RID and
	// profile; everything else is in the node's code.
	LayoutIdentity Layout = "koi-net 1.0 beta"
	// LayoutUnsigned: koi-net 1.0. config.yaml, without keys.
	LayoutUnsigned Layout = "koi-net 1.0"
	// LayoutQueues: koi-net 1.1. Keys; event queues on disk; the first contact
	// has a RID.
	LayoutQueues Layout = "koi-net 1.1"
	// LayoutInterests: koi-net 1.2. RID types of interest; the event queues are
	// in memory alone.
	LayoutInterests Layout = "koi-net 1.2"
	// LayoutRooted: koi-net 1.3 and 2.0. No section env; paths are below the
	// node's directory.
	LayoutRooted Layout = "koi-net 1.3 or 2.0"
	// LayoutContext: koi-net 2.1. Profiles and manifests carry an @context.
	LayoutContext Layout = "koi-net 2.1"
)

// Defaults of the library.
const (
	configName    = "config.yaml"
	identityName  = "identity.json"
	networkName   = "koi-network-config.yaml"
	defaultCache  = ".rid_cache"
	defaultQueues = "event_queues.json"
	defaultKey    = "priv_key.pem"
	defaultHost   = "127.0.0.1"
	defaultPort   = "8000"
	defaultPath   = "/koi-net"

	// KeyVariable is the environment variable with the password of a node's key,
	// unless its configuration names another.
	KeyVariable = "PRIV_KEY_PASSWORD"
)

// maxPoll is the longest polling interval taken over; what is longer is a
// mistake, and would overflow.
const maxPoll = 365 * 24 * time.Hour

// python is what a node's files say, before anything else is looked at.
type python struct {
	layout  Layout
	rid     rid.RID
	profile protocol.NodeProfile

	cache, key, queues string // as configured; queues and key may be ""
	passwordVariable   string

	contact    string
	contactRID rid.RID
	// interests are nil where the release has none: its nodes subscribe in code.
	interests    []rid.Type
	listen, path string // of the server; listen is "" where nothing is said of it
	poll         time.Duration
}

// errNotNode: a file is none of a node of the library.
var errNotNode = errors.New("no node of the Python library")

// yamlConfig is the part of the library's configuration that says something to
// us. Scalars are texts, as YAML reads 8001 and "8001" alike into them.
type yamlConfig struct {
	Server *struct {
		Host *string `yaml:"host"`
		Port *string `yaml:"port"`
		Path *string `yaml:"path"`
	} `yaml:"server"`
	KoiNet *struct {
		Name      string       `yaml:"node_name"`
		RID       string       `yaml:"node_rid"`
		Profile   *yamlProfile `yaml:"node_profile"`
		Interests yaml.Node    `yaml:"rid_types_of_interest"`
		Cache     *string      `yaml:"cache_directory_path"`
		Queues    *string      `yaml:"event_queues_path"`
		Key       *string      `yaml:"private_key_pem_path"`
		Poll      *string      `yaml:"polling_interval"`
		Contact   yamlContact  `yaml:"first_contact"`
		Worker    yaml.Node    `yaml:"event_worker"`
	} `yaml:"koi_net"`
	Poller *struct {
		Interval *string `yaml:"polling_interval"`
	} `yaml:"poller"`
	Env *struct {
		Password string `yaml:"priv_key_password"`
	} `yaml:"env"`
}

type yamlProfile struct {
	Context    *string `yaml:"@context"`
	OldContext *string `yaml:"context"`
	BaseURL    string  `yaml:"base_url"`
	Type       string  `yaml:"node_type"`
	Provides   struct {
		Event []string `yaml:"event"`
		State []string `yaml:"state"`
	} `yaml:"provides"`
	PublicKey string `yaml:"public_key"`
}

// yamlContact is a URL in 1.0, and a mapping from 1.1 on.
type yamlContact struct {
	mapping  bool
	rid, url string
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (c *yamlContact) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return n.Decode(&c.url)
	}
	var m struct {
		RID string `yaml:"rid"`
		URL string `yaml:"url"`
	}
	if err := n.Decode(&m); err != nil {
		return err
	}
	c.mapping, c.rid, c.url = true, m.RID, m.URL
	return nil
}

// parseConfig reads the library's config.yaml. The error wraps errNotNode where
// it is some other program's.
func parseConfig(text []byte) (p python, err error) {
	c, err := decodeConfig(text)
	if err != nil {
		return python{}, err
	}
	k := c.KoiNet
	p = python{
		layout: c.layout(), passwordVariable: KeyVariable,
		cache: or(k.Cache, defaultCache), key: or(k.Key, ""), queues: or(k.Queues, ""),
		contact: k.Contact.url,
	}
	if c.Env != nil && c.Env.Password != "" {
		p.passwordVariable = c.Env.Password
	}
	if p.layout != LayoutUnsigned && p.key == "" {
		p.key = defaultKey
	}
	if p.queues == "" && (p.layout == LayoutUnsigned || p.layout == LayoutQueues) {
		p.queues = defaultQueues
	}
	if p.rid, err = optionalNode(k.RID); err != nil {
		return python{}, fmt.Errorf("koi_net.node_rid: %w", err)
	}
	if p.contactRID, err = optionalNode(k.Contact.rid); err != nil {
		return python{}, fmt.Errorf("koi_net.first_contact.rid: %w", err)
	}
	if p.profile, err = k.Profile.profile(); err != nil {
		return python{}, fmt.Errorf("koi_net.node_profile: %w", err)
	}
	if p.interests, err = interests(k.Interests, p.layout); err != nil {
		return python{}, fmt.Errorf("koi_net.rid_types_of_interest: %w", err)
	}
	if p.poll, err = c.interval(); err != nil {
		return python{}, fmt.Errorf("polling_interval: %w", err)
	}
	err = p.serve(c)
	return p, err
}

// decodeConfig reads the YAML and sees to what a node cannot do without.
func decodeConfig(text []byte) (c yamlConfig, err error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	switch err := dec.Decode(&c); {
	case errors.Is(err, io.EOF):
		return c, fmt.Errorf("%w: the file is empty", errNotNode)
	case c.KoiNet == nil && err == nil:
		return c, fmt.Errorf("%w: it has no section koi_net", errNotNode)
	case err != nil:
		return c, err
	}
	if c.KoiNet.Profile == nil {
		return c, errors.New("koi_net.node_profile is missing")
	}
	return c, nil
}

// layout tells by which keys are there. A release writes all of its keys back
// when a node starts.
func (c yamlConfig) layout() Layout {
	k := c.KoiNet
	switch {
	case k.Profile.Context != nil, k.Profile.OldContext != nil:
		return LayoutContext
	case !k.Interests.IsZero() || !k.Worker.IsZero() || c.Poller != nil:
		if c.Env != nil {
			return LayoutInterests
		}
		return LayoutRooted
	case k.Key != nil, k.Contact.mapping, k.Poll != nil, k.Profile.PublicKey != "":
		return LayoutQueues
	}
	return LayoutUnsigned
}

// serve takes over where the node's server listens.
func (p *python) serve(c yamlConfig) error {
	host, port := defaultHost, defaultPort
	p.path = defaultPath
	if s := c.Server; s != nil {
		host, port = or(s.Host, host), or(s.Port, port)
		p.path = ""
		if s.Path != nil {
			p.path = *s.Path
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("server.port: %q is no port", clip(port))
	}
	p.listen = net.JoinHostPort(host, port)
	if p.profile.NodeType == protocol.Full && p.profile.BaseURL == "" {
		p.profile.BaseURL = "http://" + p.listen + p.path
	}
	return nil
}

// interval is how often the node polls: at its place of 1.1 or of later releases.
func (c yamlConfig) interval() (time.Duration, error) {
	text := c.KoiNet.Poll
	if c.Poller != nil && c.Poller.Interval != nil {
		text = c.Poller.Interval
	}
	if text == nil {
		return 0, nil
	}
	seconds, err := strconv.ParseInt(*text, 10, 64)
	if err != nil || seconds <= 0 || seconds > int64(maxPoll/time.Second) {
		return 0, fmt.Errorf("%q is no number of seconds", clip(*text))
	}
	return time.Duration(seconds) * time.Second, nil
}

func (y *yamlProfile) profile() (p protocol.NodeProfile, err error) {
	p = protocol.NodeProfile{BaseURL: y.BaseURL, NodeType: protocol.NodeKind(y.Type), PublicKey: y.PublicKey}
	if p.Provides.Event, err = ridTypes(y.Provides.Event); err == nil {
		p.Provides.State, err = ridTypes(y.Provides.State)
	}
	if err == nil && p.NodeType != protocol.Full && p.NodeType != protocol.Partial {
		err = fmt.Errorf("node_type %q is neither FULL nor PARTIAL", clip(y.Type))
	}
	return p, err
}

// interests reads the list; null stands for all types where it is given, and for
// the default, nodes, where a release that has the key leaves it out.
func interests(n yaml.Node, l Layout) ([]rid.Type, error) {
	if n.IsZero() {
		if l == LayoutInterests || l == LayoutRooted || l == LayoutContext {
			return []rid.Type{rid.NodeType}, nil
		}
		return nil, nil
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return []rid.Type{allTypes}, nil
	}
	var texts []string
	if err := n.Decode(&texts); err != nil {
		return nil, err
	}
	return ridTypes(texts)
}

// allTypes stands, as an interest, for every RID type.
const allTypes rid.Type = "*"

func ridTypes(texts []string) ([]rid.Type, error) {
	types := make([]rid.Type, 0, len(texts))
	for _, s := range texts {
		t, err := rid.ParseType(s)
		if err != nil {
			return nil, err
		}
		types = append(types, t)
	}
	return types, nil
}

func optionalNode(s string) (rid.RID, error) {
	if s == "" {
		return "", nil
	}
	r, err := rid.Parse(s)
	if err == nil {
		_, _, err = rid.SplitNode(r)
	}
	return r, err
}

func or(s *string, otherwise string) string {
	if s == nil || *s == "" {
		return otherwise
	}
	return *s
}

// parseIdentity reads the identity file of LayoutIdentity. The error wraps
// errNotNode where it is something else.
func parseIdentity(text []byte) (python, error) {
	var file struct {
		RID     string          `json:"rid"`
		Profile json.RawMessage `json:"profile"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return python{}, err
	}
	if file.RID == "" || file.Profile == nil {
		return python{}, fmt.Errorf("%w: there is no rid or no profile in it", errNotNode)
	}
	r, err := optionalNode(file.RID)
	if err != nil {
		return python{}, fmt.Errorf("rid: %w", err)
	}
	profile, err := protocol.ParseNodeProfile(file.Profile)
	if err != nil {
		return python{}, fmt.Errorf("profile: %w", err)
	}
	name, _, _ := rid.SplitNode(r) // it is a node's
	p := python{
		layout: LayoutIdentity, rid: r, profile: profile,
		cache: name + "_cache", queues: name + "_event_queues.json", passwordVariable: KeyVariable,
	}
	p.listen, p.path = listenAt(profile.BaseURL)
	return p, nil
}

// listenAt makes up where a node listens whose code alone knows it: at the
// address of its base URL, if it is one of the machine's own by its looks.
func listenAt(base string) (listen, path string) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" {
		return "", ""
	}
	host, port := u.Hostname(), u.Port()
	if host != "localhost" && net.ParseIP(host) == nil {
		host = ""
	}
	if port == "" {
		port = map[string]string{"http": "80"}[u.Scheme]
	}
	if host == "" || port == "" {
		return "", u.Path
	}
	return net.JoinHostPort(host, port), strings.TrimSuffix(u.Path, "/")
}
