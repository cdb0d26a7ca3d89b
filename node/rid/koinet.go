package rid

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// NewNode makes the node RID "orn:koi-net.node:<name>+<id>". The id is a UUID
// in the unsigned generation and the hash of the public key in the signed one.
func NewNode(name, id string) (RID, error) {
	switch {
	case name == "":
		return "", fmt.Errorf("%w: a node needs a name", ErrInvalid)
	case id == "":
		return "", fmt.Errorf("%w: the node named %s needs an id", ErrInvalid, quote(name))
	}
	return Parse(string(NodeType) + ":" + name + "+" + id)
}

// SplitNode returns the name and the id of a node RID. As in the reference,
// either may be empty in a RID that came from outside.
func SplitNode(r RID) (name, id string, err error) {
	if r.Type() != NodeType {
		return "", "", fmt.Errorf("%w %s: not of type %s", ErrInvalid, quote(string(r)), NodeType)
	}
	name, id, err = splitNodeReference(r.Reference())
	if err != nil {
		return "", "", fmt.Errorf("%w %s: %w", ErrInvalid, quote(string(r)), err)
	}
	return name, id, nil
}

func splitNodeReference(ref string) (name, id string, err error) {
	name, id, found := strings.Cut(ref, "+")
	if !found || strings.Contains(id, "+") {
		return "", "", errors.New("a node reference is <name>+<id> with exactly one '+'")
	}
	return name, id, nil
}

// NewEdge returns the RID of the edge from source to target as the signed
// generation (koi-net 1.1 and later) makes it: the SHA-256 of both RIDs
// joined. It is what our nodes make for new edges.
func NewEdge(source, target RID) RID {
	return edgeOf(string(source) + string(target))
}

// LegacyEdge returns the RID of the same edge as the unsigned generation
// (rid-lib 3.2.0 to 3.2.4) makes it: the SHA-256 of a Python JSON text. Both
// name one edge; compare edges by their (source, target) pair.
func LegacyEdge(source, target RID) RID {
	return edgeOf(`{"source": ` + pythonString(string(source)) + `, "target": ` + pythonString(string(target)) + `}`)
}

func edgeOf(preimage string) RID {
	sum := sha256.Sum256([]byte(preimage))
	return RID(string(EdgeType) + ":" + hex.EncodeToString(sum[:]))
}

// pythonString writes s as Python's json.dumps does with ensure_ascii.
func pythonString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r >= 0x20 && r < 0x7f:
			b.WriteRune(r)
		case r >= 0x10000:
			r -= 0x10000
			b.WriteString(`\u` + hex4(0xd800+(r>>10)) + `\u` + hex4(0xdc00+(r&0x3ff)))
		default:
			b.WriteString(`\u` + hex4(r))
		}
	}
	b.WriteByte('"')
	return b.String()
}

func hex4(r rune) string {
	s := strconv.FormatInt(int64(r), 16)
	return strings.Repeat("0", 4-len(s)) + s
}

// KeyID returns the <id> of the node RID that belongs to a public key: the
// SHA-256, in hexadecimal, of the key's text, which is the base64 of its DER
// SubjectPublicKeyInfo as node profiles carry it.
func KeyID(publicKeyText string) string {
	sum := sha256.Sum256([]byte(publicKeyText))
	return hex.EncodeToString(sum[:])
}

// IsKeyed reports whether r is a node RID of the signed generation: one whose id
// is the hash of a public key, 64 lower-case hex digits, so that nobody without
// the key can speak as that node.
func IsKeyed(r RID) bool {
	if r.Type() != NodeType {
		return false
	}
	_, id, err := SplitNode(r)
	if err != nil || len(id) != 64 {
		return false
	}
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
