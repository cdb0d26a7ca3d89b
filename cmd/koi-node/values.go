package main

import (
	"encoding/csv"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/rid"
)

// list is a flag that may be repeated or hold several values between commas.
// The first value given replaces the default.
type list[T fmt.Stringer] struct {
	to    *[]T
	parse func(string) (T, error)
	given bool
}

func (l *list[T]) Type() string { return "list" }

func (l *list[T]) String() string {
	if l.to == nil {
		return ""
	}
	return strings.Join(l.GetSlice(), ",")
}

// Set adds the values in text; an empty text is no value.
func (l *list[T]) Set(text string) error {
	var values []string
	if text != "" {
		var err error
		if values, err = csv.NewReader(strings.NewReader(text)).Read(); err != nil {
			return err
		}
	}
	if !l.given {
		return l.Replace(values)
	}
	for _, v := range values {
		if err := l.Append(v); err != nil {
			return err
		}
	}
	return nil
}

// Append adds one value.
func (l *list[T]) Append(text string) error {
	v, err := l.parse(strings.TrimSpace(text))
	if err != nil {
		return err
	}
	*l.to, l.given = append(*l.to, v), true
	return nil
}

// Replace makes values the whole list.
func (l *list[T]) Replace(values []string) error {
	*l.to, l.given = []T{}, true
	for _, v := range values {
		if err := l.Append(v); err != nil {
			return err
		}
	}
	return nil
}

// GetSlice returns the values as text.
func (l *list[T]) GetSlice() []string {
	texts := make([]string, 0, len(*l.to))
	for _, v := range *l.to {
		texts = append(texts, v.String())
	}
	return texts
}

func ridTypes(to *[]rid.Type) *list[rid.Type] {
	return &list[rid.Type]{to: to, parse: rid.ParseType}
}

// interests are RID types or the star that stands for all of them.
func interests(to *[]rid.Type) *list[rid.Type] {
	return &list[rid.Type]{to: to, parse: func(s string) (rid.Type, error) {
		if s == string(node.AllTypes) {
			return node.AllTypes, nil
		}
		return rid.ParseType(s)
	}}
}

func prefixes(to *[]netip.Prefix) *list[netip.Prefix] {
	return &list[netip.Prefix]{to: to, parse: func(s string) (netip.Prefix, error) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return p, fmt.Errorf("%q is no CIDR, as in 10.0.0.0/8: %w", s, err)
		}
		return p.Masked(), nil
	}}
}

// choice is a flag that takes one of a few words, in any case.
type choice[T ~string] struct {
	to    *T
	among []T
}

func (c *choice[T]) Type() string   { return c.words("|") }
func (c *choice[T]) String() string { return string(*c.to) }

func (c *choice[T]) Set(text string) error {
	for _, v := range c.among {
		if strings.EqualFold(text, string(v)) {
			*c.to = v
			return nil
		}
	}
	return fmt.Errorf("%q is none of %s", text, c.words(", "))
}

func (c *choice[T]) words(sep string) string {
	words := make([]string, len(c.among))
	for i, v := range c.among {
		words[i] = string(v)
	}
	return strings.Join(words, sep)
}

// ridValue is a flag that takes a RID or nothing.
type ridValue struct{ to *rid.RID }

func (v ridValue) Type() string   { return "rid" }
func (v ridValue) String() string { return string(*v.to) }

func (v ridValue) Set(text string) (err error) {
	*v.to = ""
	if text != "" {
		*v.to, err = rid.Parse(text)
	}
	return err
}

// size is a flag that takes a number of bytes, as in 16777216 or 16Mi.
type size[T int | int64] struct{ to *T }

func (s size[T]) Type() string { return "bytes" }

func (s size[T]) String() string {
	n := int64(*s.to)
	for _, u := range []string{"", "Ki", "Mi"} {
		if n == 0 || n%1024 != 0 {
			return strconv.FormatInt(n, 10) + u
		}
		n /= 1024
	}
	return strconv.FormatInt(n, 10) + "Gi"
}

func (s size[T]) Set(text string) error {
	digits := strings.TrimSuffix(text, "B")
	shift := 0
	for suffix, bits := range map[string]int{"Ki": 10, "Mi": 20, "Gi": 30} {
		if d, ok := strings.CutSuffix(digits, suffix); ok {
			digits, shift = d, bits
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > (1<<62)>>shift {
		return fmt.Errorf("%q is no number of bytes, as in 16777216 or 16Mi", text)
	}
	*s.to = T(n << shift)
	return nil
}
