package peer

import "crypto/sha256"

// onceTexts is how many texts of one batch a Once holds signatures of: with our
// introduction in front and without, in either style of floats.
const onceTexts = 4

// Once makes the repeated broadcasts of one batch of events the same, byte for
// byte, so that a peer that took one in tells the next as a replay, which has no
// effect. A batch that is a new one needs a new Once, also where its events are
// the same: a second FORGET must not look like a replay.
//
// It holds a few hundred bytes: hashes of texts and their signatures. It is not
// safe for concurrent use. A nil *Once remembers nothing.
type Once struct {
	signed []signature // the latest at the end
	used   bool
	front  bool // where used: our introduction stands in front of the batch
}

// signature is that of a text, known by its hash.
type signature struct {
	text [sha256.Size]byte
	base string // base64, as in the envelope
}

// sign returns the signature made for the same text before, or else a new one.
func (o *Once) sign(text [sha256.Size]byte, sign func() (string, error)) (string, error) {
	if o == nil {
		return sign()
	}
	for _, s := range o.signed {
		if s.text == text {
			return s.base, nil
		}
	}
	base, err := sign()
	if err != nil {
		return "", err
	}
	if len(o.signed) == onceTexts {
		o.signed = o.signed[:copy(o.signed, o.signed[1:])]
	}
	o.signed = append(o.signed, signature{text: text, base: base})
	return base, nil
}

// introduces returns whether our introduction is to stand in front: as the batch
// went out before, or for a new batch as wanted says.
func (o *Once) introduces(wanted bool) bool {
	if o == nil || !o.used {
		return wanted
	}
	return o.front
}

// sent notes how the batch goes out.
func (o *Once) sent(front bool) {
	if o != nil {
		o.used, o.front = true, front
	}
}
