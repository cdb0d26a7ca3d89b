package rid

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxLength is the longest RID accepted, in bytes. The protocol sets no bound;
// ours keeps keys small and refusals early.
const MaxLength = 2048

// ErrInvalid is wrapped by every error of Parse and ParseType.
var ErrInvalid = errors.New("invalid RID")

// RID is a reference identifier: "<scheme>:<reference>" or, for the schemes
// orn and urn, "<scheme>:<namespace>:<reference>". It is comparable and is its
// own wire form.
type RID string

// Type is a RID type: what stands before the reference of a RID, for example
// "orn:koi-net.node" or "https".
type Type string

// RID types with a meaning in KOI-net itself.
const (
	NodeType Type = "orn:koi-net.node"
	EdgeType Type = "orn:koi-net.edge"
)

// Parse checks s and returns it as a RID. Node RIDs are held to their own form
// as well (see SplitNode); other types take any reference.
// The error wraps ErrInvalid and says which part is wrong.
func Parse(s string) (RID, error) {
	t, ref, err := split(s)
	if err != nil {
		return "", err
	}
	if ref == "" {
		return "", fmt.Errorf("%w %s: the reference after %q is empty", ErrInvalid, quote(s), string(t)+":")
	}
	if t == NodeType {
		if _, _, err := splitNodeReference(ref); err != nil {
			return "", fmt.Errorf("%w %s: %w", ErrInvalid, quote(s), err)
		}
	}
	return RID(s), nil
}

// ParseType checks s and returns it as a RID type. The error wraps ErrInvalid.
func ParseType(s string) (Type, error) {
	if err := checkText(s); err != nil {
		return "", err
	}
	scheme, rest, found := strings.Cut(s, ":")
	if scheme == "" {
		return "", fmt.Errorf("%w type %s: the scheme is empty", ErrInvalid, quote(s))
	}
	if hasNamespace(scheme) {
		if !found || rest == "" {
			return "", fmt.Errorf("%w type %s: the scheme %q needs a namespace, as in %q", ErrInvalid, quote(s), scheme, scheme+":example.note")
		}
		if strings.Contains(rest, ":") {
			return "", fmt.Errorf("%w type %s: a RID type ends with its namespace; this looks like a whole RID", ErrInvalid, quote(s))
		}
		return Type(s), nil
	}
	if found {
		return "", fmt.Errorf("%w type %s: only orn and urn have a namespace; the RID type of scheme %q is %q", ErrInvalid, quote(s), scheme, scheme)
	}
	return Type(s), nil
}

// Type returns the RID's type, or "" where r is not a valid RID.
func (r RID) Type() Type {
	t, _, err := split(string(r))
	if err != nil {
		return ""
	}
	return t
}

// Reference returns what stands after the RID's type, or "" where r is not a
// valid RID.
func (r RID) Reference() string {
	_, ref, err := split(string(r))
	if err != nil {
		return ""
	}
	return ref
}

// String returns the RID as text.
func (r RID) String() string { return string(r) }

// String returns the RID type as text.
func (t Type) String() string { return string(t) }

func hasNamespace(scheme string) bool { return scheme == "orn" || scheme == "urn" }

func split(s string) (Type, string, error) {
	if err := checkText(s); err != nil {
		return "", "", err
	}
	scheme, rest, found := strings.Cut(s, ":")
	switch {
	case scheme == "":
		return "", "", fmt.Errorf("%w %s: the scheme is empty", ErrInvalid, quote(s))
	case !found:
		return "", "", fmt.Errorf("%w %s: there is no ':' after the scheme", ErrInvalid, quote(s))
	}
	if !hasNamespace(scheme) {
		return Type(scheme), rest, nil
	}
	ns, ref, found := strings.Cut(rest, ":")
	switch {
	case ns == "":
		return "", "", fmt.Errorf("%w %s: the namespace is empty", ErrInvalid, quote(s))
	case !found:
		return "", "", fmt.Errorf("%w %s: there is no ':' and reference after the namespace", ErrInvalid, quote(s))
	}
	return Type(s[:len(scheme)+1+len(ns)]), ref, nil
}

func checkText(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: it is empty", ErrInvalid)
	case len(s) > MaxLength:
		return fmt.Errorf("%w %s: %d bytes long, the limit is %d", ErrInvalid, quote(s), len(s), MaxLength)
	case !utf8.ValidString(s):
		return fmt.Errorf("%w %s: not valid UTF-8", ErrInvalid, quote(s))
	}
	return nil
}

// quote keeps a hostile RID from filling a log line.
func quote(s string) string {
	const most = 120
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}

// New returns the RID of a type with a reference. The error wraps ErrInvalid.
func New(t Type, reference string) (RID, error) {
	if _, err := ParseType(string(t)); err != nil {
		return "", err
	}
	return Parse(string(t) + ":" + reference)
}
