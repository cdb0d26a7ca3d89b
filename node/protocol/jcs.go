package protocol

import (
	"bytes"
	"math"
)

// isJCS reports whether text is JSON in its RFC 8785 form already, so that it can
// be hashed as it is. It may say no where it is one: of rare spellings nothing is
// asked but that they take the long way.
func isJCS(text []byte) bool {
	c := jcsCheck{scanner{src: text}}
	return c.value(maxDepth) && c.pos == len(text)
}

// jcsCheck walks over a text for as long as it is its own RFC 8785 form.
type jcsCheck struct{ scanner }

// at takes c, if that is next.
func (j *jcsCheck) at(c byte) bool {
	if j.pos < len(j.src) && j.src[j.pos] == c {
		j.pos++
		return true
	}
	return false
}

func (j *jcsCheck) value(left int) bool {
	if j.pos >= len(j.src) || left <= 0 {
		return false
	}
	switch c := j.src[j.pos]; c {
	case '{':
		return j.object(left - 1)
	case '[':
		return j.array(left - 1)
	default:
		kind, sp, err := j.scalar(c)
		return err == nil && j.isScalar(kind, sp)
	}
}

func (j *jcsCheck) object(left int) bool {
	j.pos++
	if j.at('}') {
		return true
	}
	var last []byte
	for first := true; ; first = false {
		if j.pos >= len(j.src) || j.src[j.pos] != '"' {
			return false
		}
		sp, err := j.str()
		if err != nil || sp.escaped || !j.at(':') {
			return false
		}
		key := j.src[sp.start:sp.end]
		if !first && bytes.Compare(last, key) >= 0 || beyondBytes(key) {
			return false
		}
		last = key
		if !j.value(left) {
			return false
		}
		if !j.at(',') {
			return j.at('}')
		}
	}
}

func (j *jcsCheck) array(left int) bool {
	j.pos++
	if j.at(']') {
		return true
	}
	for {
		if !j.value(left) {
			return false
		}
		if !j.at(',') {
			return j.at(']')
		}
	}
}

// isScalar reports whether a value without others is written as RFC 8785 has it.
func (j *jcsCheck) isScalar(kind scalarKind, sp span) bool {
	raw := j.src[sp.start:sp.end]
	switch kind {
	case kindString:
		return !sp.respell
	case kindLiteral:
		return true
	case kindInt, kindFloat:
		if kind == kindInt && len(raw) <= 15 { // below 2^53
			return string(raw) != "-0"
		}
		var buf [32]byte
		f := parseFloat(raw)
		return !math.IsInf(f, 0) && bytes.Equal(raw, appendJCS(buf[:0], f))
	}
	return false
}
