package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/koi-net/koi-operator/node/rid"
)

// ErrProfile is wrapped by every error about a node's or an edge's profile.
var ErrProfile = errors.New("invalid profile")

// maxURL is the longest base URL taken, in bytes.
const maxURL = 2048

// ParseNodeProfile reads the contents of a node bundle. It is strict about
// shape and ignores unknown fields, "@context" among them; whether the profile
// makes sense is Validate's business.
func ParseNodeProfile(contents []byte) (NodeProfile, error) {
	d := newDecoder(contents, DefaultLimits(), nil)
	var p NodeProfile
	const required = 1 << 1
	err := d.whole(func() error {
		seen, err := d.fields(func(key []byte) (uint, error) {
			switch string(key) {
			case "base_url":
				return 1 << 0, d.optionalString(&p.BaseURL)
			case "node_type":
				return required, d.enum((*string)(&p.NodeType), "'FULL' or 'PARTIAL'", string(Full), string(Partial))
			case "provides":
				p.Provides = Provides{}
				return 1 << 2, d.provides(&p.Provides)
			case "public_key":
				return 1 << 3, d.optionalString(&p.PublicKey)
			}
			return 0, nil
		})
		if err == nil && seen&required == 0 {
			d.missing("node_type")
		}
		return err
	})
	if err != nil {
		return NodeProfile{}, fmt.Errorf("%w of a node: %w", ErrProfile, err)
	}
	return p, nil
}

func (d *decoder) provides(p *Provides) error {
	_, err := d.fields(func(key []byte) (uint, error) {
		switch string(key) {
		case "event":
			return 1 << 0, d.ridTypes(&p.Event)
		case "state":
			return 1 << 1, d.ridTypes(&p.State)
		}
		return 0, nil
	})
	return err
}

// ParseEdgeProfile reads the contents of an edge bundle, strict about shape.
func ParseEdgeProfile(contents []byte) (EdgeProfile, error) {
	d := newDecoder(contents, DefaultLimits(), nil)
	var p EdgeProfile
	names := [...]string{"source", "target", "edge_type", "status", "rid_types"}
	err := d.whole(func() error {
		seen, err := d.fields(func(key []byte) (uint, error) {
			switch string(key) {
			case "source":
				return 1 << 0, d.nodeRID(&p.Source)
			case "target":
				return 1 << 1, d.nodeRID(&p.Target)
			case "edge_type":
				return 1 << 2, d.enum((*string)(&p.EdgeType), "'WEBHOOK' or 'POLL'", string(Webhook), string(Poll))
			case "status":
				return 1 << 3, d.enum((*string)(&p.Status), "'PROPOSED' or 'APPROVED'", string(Proposed), string(Approved))
			case "rid_types":
				return 1 << 4, d.ridTypes(&p.RIDTypes)
			}
			return 0, nil
		})
		if err != nil {
			return err
		}
		for i, name := range names {
			if seen&(1<<i) == 0 {
				d.missing(name)
			}
		}
		return nil
	})
	if err != nil {
		return EdgeProfile{}, fmt.Errorf("%w of an edge: %w", ErrProfile, err)
	}
	return p, nil
}

// Validate reports what is wrong with a profile of valid shape: an unknown
// node type, a full node without a base URL, a URL that is not plain http or
// https, or an invalid RID type.
func (p NodeProfile) Validate() error {
	switch p.NodeType {
	case Full:
		if p.BaseURL == "" {
			return fmt.Errorf("%w of a node: a full node needs a base_url, so that its peers can call it", ErrProfile)
		}
	case Partial:
	default:
		return fmt.Errorf("%w of a node: node_type %q is neither FULL nor PARTIAL", ErrProfile, clip(string(p.NodeType), 40))
	}
	if p.BaseURL != "" {
		if err := checkBaseURL(p.BaseURL); err != nil {
			return fmt.Errorf("%w of a node: base_url: %w", ErrProfile, err)
		}
	}
	for _, types := range [][]rid.Type{p.Provides.Event, p.Provides.State} {
		for _, t := range types {
			if _, err := rid.ParseType(string(t)); err != nil {
				return fmt.Errorf("%w of a node: provides: %w", ErrProfile, err)
			}
		}
	}
	return nil
}

func checkBaseURL(s string) error {
	if len(s) > maxURL {
		return fmt.Errorf("it is %d bytes long, the limit is %d", len(s), maxURL)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.Unwrap(err) // without the URL, which may hold a secret
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("its scheme is neither http nor https: %q", clip(s, 120))
	case u.Host == "" || u.Hostname() == "":
		return fmt.Errorf("it names no host: %q", clip(s, 120))
	case u.User != nil:
		return errors.New("it holds a user name or password")
	case u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(s, "?"):
		return fmt.Errorf("it has a query or a fragment: %q", clip(s, 120))
	}
	return nil
}

// KeyMatches reports whether the profile's public key, if it has one, is the
// one that r, a node RID, was made from.
func (p NodeProfile) KeyMatches(r rid.RID) bool {
	if p.PublicKey == "" {
		return true
	}
	_, id, err := rid.SplitNode(r)
	return err == nil && id == rid.KeyID(p.PublicKey)
}

// Allows reports whether events of type t may travel along the edge once it is
// approved.
func (p EdgeProfile) Allows(t rid.Type) bool { return slices.Contains(p.RIDTypes, t) }

// Validate reports what is wrong with a profile of valid shape: an end that is
// no node, two equal ends, an unknown type or status, no RID types or an
// invalid one.
func (p EdgeProfile) Validate() error {
	for _, end := range []struct {
		name string
		rid  rid.RID
	}{{"source", p.Source}, {"target", p.Target}} {
		if _, err := rid.Parse(string(end.rid)); err != nil {
			return fmt.Errorf("%w of an edge: %s: %w", ErrProfile, end.name, err)
		}
		if end.rid.Type() != rid.NodeType {
			return fmt.Errorf("%w of an edge: %s %s is no node", ErrProfile, end.name, clip(string(end.rid), 120))
		}
	}
	switch {
	case p.Source == p.Target:
		return fmt.Errorf("%w of an edge: source and target are one node, %s", ErrProfile, p.Source)
	case p.EdgeType != Webhook && p.EdgeType != Poll:
		return fmt.Errorf("%w of an edge: edge_type %q is neither WEBHOOK nor POLL", ErrProfile, clip(string(p.EdgeType), 40))
	case p.Status != Proposed && p.Status != Approved:
		return fmt.Errorf("%w of an edge: status %q is neither PROPOSED nor APPROVED", ErrProfile, clip(string(p.Status), 40))
	case len(p.RIDTypes) == 0:
		return fmt.Errorf("%w of an edge: rid_types is empty, so nothing could travel along it", ErrProfile)
	}
	for _, t := range p.RIDTypes {
		if _, err := rid.ParseType(string(t)); err != nil {
			return fmt.Errorf("%w of an edge: rid_types: %w", ErrProfile, err)
		}
	}
	return nil
}

// Contents returns the profile as the contents of a node bundle, in normal form.
func (p NodeProfile) Contents() json.RawMessage {
	dst := []byte{'{'}
	if p.BaseURL != "" {
		dst = AppendString(append(dst, `"base_url":`...), p.BaseURL)
		dst = append(dst, ',')
	}
	dst = AppendString(append(dst, `"node_type":`...), string(p.NodeType))
	dst = appendTypes(append(dst, `,"provides":{"event":`...), p.Provides.Event)
	dst = appendTypes(append(dst, `,"state":`...), p.Provides.State)
	dst = append(dst, '}')
	if p.PublicKey != "" {
		dst = AppendString(append(dst, `,"public_key":`...), p.PublicKey)
	}
	return append(dst, '}')
}

// Contents returns the profile as the contents of an edge bundle, in normal form.
func (p EdgeProfile) Contents() json.RawMessage {
	dst := AppendString([]byte(`{"source":`), string(p.Source))
	dst = AppendString(append(dst, `,"target":`...), string(p.Target))
	dst = AppendString(append(dst, `,"edge_type":`...), string(p.EdgeType))
	dst = AppendString(append(dst, `,"status":`...), string(p.Status))
	dst = appendTypes(append(dst, `,"rid_types":`...), p.RIDTypes)
	return append(dst, '}')
}

// NewBundle makes the bundle of r from the text of any JSON object: contents
// are normalised and hashed. The error says what is wrong with the text.
func NewBundle(r rid.RID, t Timestamp, contents []byte) (Bundle, error) {
	normal, err := Normalize(contents, DefaultLimits().Depth)
	if err != nil {
		return Bundle{}, fmt.Errorf("contents of %s: %w", clip(string(r), 120), err)
	}
	if normal[0] != '{' {
		return Bundle{}, fmt.Errorf("contents of %s: %w", clip(string(r), 120), errNotObject)
	}
	sum, err := Hash(normal)
	if err != nil {
		return Bundle{}, fmt.Errorf("contents of %s: %w", clip(string(r), 120), err)
	}
	return Bundle{Manifest: Manifest{RID: r, Timestamp: t, SHA256Hash: sum}, Contents: normal}, nil
}

var errNotObject = errors.New("contents must be a JSON object")
