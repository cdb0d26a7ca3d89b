package protocol

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/koi-net/koi-operator/node/rid"
)

// RID types whose texts the reference rewrites when it reads them. Every other
// RID is its own canonical form.
const (
	httpType   rid.Type = "http"
	httpsType  rid.Type = "https"
	vectorType rid.Type = "orn:vector"
	textType   rid.Type = "orn:normalized.text"
	hackmdType rid.Type = "orn:hackmd.note"

	httpPrefix   = string(httpType + ":")
	httpsPrefix  = string(httpsType + ":")
	vectorPrefix = string(vectorType + ":")
	textPrefix   = string(textType + ":")
	hackmdPrefix = string(hackmdType + ":")
)

var errNotCanonical = errors.New("peers of the signed generation would read it differently each time")

// CanonicalRID returns the form in which every node of the signed generation
// reads, stores, signs and writes r: http and https RIDs lose an empty query or
// fragment and white space as Python's urlsplit and urlunsplit drop them, also
// where a vector or normalised text wraps them. RIDs of all other types are
// returned as they are.
//
// The error wraps rid.ErrInvalid: r has no such form, or none that is stable,
// so that no envelope that names it could be verified.
func CanonicalRID(r rid.RID) (rid.RID, error) {
	if !mayDiffer(r) {
		return r, nil
	}
	canonical, err := canonicalText(string(r))
	if err == nil && canonical != string(r) {
		var again string
		if again, err = canonicalText(canonical); err == nil && again != canonical {
			err = errNotCanonical
		}
		if err == nil {
			_, err = rid.Parse(canonical)
		}
	}
	if err != nil {
		if errors.Is(err, rid.ErrInvalid) {
			return "", err
		}
		return "", fmt.Errorf("%w %q: %w", rid.ErrInvalid, clip(string(r), 120), err)
	}
	return rid.RID(canonical), nil
}

// mayDiffer reports whether a RID is of a type that the reference rewrites.
func mayDiffer[T ~string | ~[]byte](r T) bool {
	if len(r) < len(httpPrefix) {
		return false
	}
	switch r[0] {
	case 'h':
		return hasPrefix(r, httpPrefix) || hasPrefix(r, httpsPrefix)
	case 'o':
		return hasPrefix(r, vectorPrefix) || hasPrefix(r, textPrefix) || hasPrefix(r, hackmdPrefix)
	}
	return false
}

// rewritten reports whether t is a type whose RIDs the reference rewrites.
func rewritten(t rid.Type) bool {
	switch t {
	case httpType, httpsType, vectorType, textType, hackmdType:
		return true
	}
	return false
}

func hasPrefix[T ~string | ~[]byte](s T, prefix string) bool {
	return len(s) >= len(prefix) && string(s[:len(prefix)]) == prefix
}

func canonicalText(r string) (string, error) {
	for _, prefix := range [...]string{httpPrefix, httpsPrefix} {
		if reference, ok := strings.CutPrefix(r, prefix); ok {
			reference, err := canonicalURL(reference)
			return prefix + reference, err
		}
	}
	for _, prefix := range [...]string{vectorPrefix, textPrefix} {
		if wrapped, ok := strings.CutPrefix(r, prefix); ok {
			inner, err := rid.Parse(wrapped)
			if err != nil {
				return "", err
			}
			wrapped, err := canonicalText(string(inner)) // a RID is short, so this ends soon
			return prefix + wrapped, err
		}
	}
	if reference, ok := strings.CutPrefix(r, hackmdPrefix); ok {
		return hackmdPrefix + strings.TrimPrefix(reference, "/"), nil // an empty workspace
	}
	return r, nil
}

// canonicalURL does to a reference what Python's urlsplit and urlunsplit do.
func canonicalURL(s string) (string, error) {
	s = strings.TrimLeftFunc(s, func(r rune) bool { return r <= ' ' })
	s = strings.NewReplacer("\t", "", "\r", "", "\n", "").Replace(s)
	if scheme, rest, found := strings.Cut(s, ":"); found && isScheme(scheme) {
		s = rest
	}
	authority := ""
	if after, found := strings.CutPrefix(s, "//"); found {
		end := strings.IndexAny(after, "/?#")
		if end < 0 {
			end = len(after)
		}
		authority, s = after[:end], after[end:]
		if err := checkAuthority(authority); err != nil {
			return "", err
		}
		if authority == "" && strings.HasPrefix(s, "//") {
			return "", errNotCanonical // Python's versions differ on it
		}
	}
	s, fragment, _ := strings.Cut(s, "#")
	out, query, _ := strings.Cut(s, "?")
	if authority != "" {
		out = "//" + authority + out
	}
	if query != "" {
		out += "?" + query
	}
	if fragment != "" {
		out += "#" + fragment
	}
	return out, nil
}

func isScheme(s string) bool {
	if s == "" || !isLetter(s[0]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isLetter(c) && !isDigit(c) && c != '+' && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// delimiterLookalikes are the characters that compatibility normalisation (NFKC)
// turns into one of "/?#@:", which Python takes in no authority.
const delimiterLookalikes = "\u2047\u2048\u2049\u2100\u2101\u2105\u2106\u2a74\ufe13\ufe16\ufe55\ufe56\ufe5f\ufe6b\uff03\uff0f\uff1a\uff1f\uff20"

var futureAddress = regexp.MustCompile(`^v[0-9a-fA-F]+\..+$`)

// checkAuthority refuses what urlsplit refuses in some version of Python: what
// one peer cannot read must not reach it in a body with what it can.
func checkAuthority(s string) error {
	if strings.ContainsAny(s, delimiterLookalikes) {
		return errors.New("its host holds a character that looks like a delimiter")
	}
	if strings.Contains(s, "[") != strings.Contains(s, "]") {
		return errors.New("its host has one bracket alone")
	}
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		if strings.Contains(s[:i], "[") {
			return errors.New("its user name holds a bracket")
		}
		s = s[i+1:]
	}
	before, after, found := strings.Cut(s, "[")
	if !found {
		return nil
	}
	host, port, _ := strings.Cut(after, "]")
	if before != "" || port != "" && port[0] != ':' {
		return errors.New("its host has something beside its brackets")
	}
	if strings.HasPrefix(host, "v") {
		if !futureAddress.MatchString(host) {
			return errors.New("its host is no IP address of a future version")
		}
		return nil
	}
	address, err := netip.ParseAddr(host)
	if err != nil || !address.Is6() {
		return errors.New("its host in brackets is no IPv6 address")
	}
	return nil
}
