package bolt

import "os"

// SealForTest seals a value as the store would.
var SealForTest = encodeBytes

// WithVolume has options ask room how much is left on the volume; nil: it is not
// known, and met when it is written to.
func WithVolume(o Options, room func() int64) Options {
	o.volume = func(string) (int64, bool) {
		if room == nil {
			return 0, false
		}
		return room(), true
	}
	return o
}

// FileOf is the file that a store has open.
func FileOf(s any) *os.File { return s.(*Store).file }
