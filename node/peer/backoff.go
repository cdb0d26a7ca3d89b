package peer

import (
	"math/rand/v2"
	"time"
)

// Defaults of the back-off between attempts to reach a peer.
const (
	DefaultRetryBase = 500 * time.Millisecond
	DefaultRetryCap  = 30 * time.Second
)

// backoff returns how long to wait after the given number of failures in a
// row: base, doubled each time up to limit, of which a random part between half
// and all, so that peers that failed together do not come back together.
func backoff(failures int, base, limit time.Duration, random func() float64) time.Duration {
	wait := ceiling(failures, base, limit)
	return wait/2 + time.Duration(random()*float64(wait/2))
}

// ceiling is base, doubled with each failure but the first up to limit.
func ceiling(failures int, base, limit time.Duration) time.Duration {
	if failures < 1 {
		return 0
	}
	wait := base
	for i := 1; i < failures && wait < limit; i++ {
		wait *= 2
	}
	return min(wait, limit)
}

func random() float64 { return rand.Float64() }
