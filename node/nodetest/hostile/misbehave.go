package hostile

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Misbehaviour is a way in which a Peer answers a request.
type Misbehaviour string

// The misbehaviours. Each ends when the client goes, or the test.
const (
	SlowBody         Misbehaviour = "slow body"                // 200, a byte each Pause
	EndlessBody      Misbehaviour = "endless body"             // 200, JSON that never ends, as fast as it is read
	CutShort         Misbehaviour = "body cut short"           // 200, less than its Content-Length, then the end
	GzipBomb         Misbehaviour = "gzip bomb"                // 200, 1 GiB in 1 MiB, whether it was asked for or not
	Huge             Misbehaviour = "huge"                     // 200, a TiB announced, and as much of it as is read
	HugeHeaders      Misbehaviour = "huge headers"             // 200 below 8 MiB of headers
	SlowHeaders      Misbehaviour = "slow headers"             // a byte each Pause, and never the end of the first header
	Hang             Misbehaviour = "hang"                     // no answer
	HangAfterHeaders Misbehaviour = "hang after headers"       // 200 and no body
	Reset            Misbehaviour = "reset"                    // the connection is reset
	Redirect         Misbehaviour = "redirect"                 // 307 to a metadata address, which no node may dial
	RedirectToTrap   Misbehaviour = "redirect to trap"         // 307 to the peer itself; see Trapped
	NotJSON          Misbehaviour = "not JSON"                 // 200, a web page
	WrongJSON        Misbehaviour = "wrong JSON"               // 200, JSON that answers no call
	DeepJSON         Misbehaviour = "deep JSON"                // 200, a million arrays, one in the other
	TooManyEvents    Misbehaviour = "too many events"          // 200, 10,001 events
	DuplicateKeys    Misbehaviour = "duplicate keys"           // 200, the answer of every call twice: empty, then of the wrong kind
	WrongStatus      Misbehaviour = "wrong status"             // 418
	ServerError      Misbehaviour = "server error"             // 500
	Busy             Misbehaviour = "busy"                     // 503, Retry-After 1
	BusyForever      Misbehaviour = "busy for a hundred years" // 503, Retry-After beyond all measure
)

// Misbehaviours returns all of them, for a test to go through.
func Misbehaviours() []Misbehaviour {
	return []Misbehaviour{
		SlowBody, EndlessBody, CutShort, GzipBomb, Huge, HugeHeaders, SlowHeaders, Hang, HangAfterHeaders, Reset, Redirect,
		RedirectToTrap, NotJSON, WrongJSON, DeepJSON, TooManyEvents, DuplicateKeys, WrongStatus, ServerError, Busy, BusyForever,
	}
}

// Succeeds reports whether an answer like this has the status of success and
// comes to an end: who asked for nothing but the status takes it for a yes.
func (m Misbehaviour) Succeeds() bool {
	switch m {
	case NotJSON, WrongJSON, DeepJSON, TooManyEvents, DuplicateKeys:
		return true
	}
	return false
}

func (p *Peer) misbehave(m Misbehaviour, w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	switch m {
	case SlowBody:
		p.drip(w, r)
	case EndlessBody:
		_, _ = io.Copy(w, io.MultiReader(strings.NewReader(`{"events":[`), forever(' '))) // to the client's end
	case CutShort:
		h.Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"events":[`) // the server closes what it cannot complete
	case GzipBomb:
		h.Set("Content-Encoding", "gzip")
		bomb(w)
	case Huge:
		h.Set("Content-Length", "1099511627776")
		_, _ = io.Copy(w, io.MultiReader(strings.NewReader(`{"events":[`), forever(' '))) // to the client's end
	case SlowHeaders:
		p.dripHeaders(w)
	case HugeHeaders:
		long := strings.Repeat("x", 8<<10)
		for i := range 1024 {
			h.Set(fmt.Sprintf("X-Bomb-%d", i), long)
		}
		_, _ = io.WriteString(w, "null")
	case Hang:
		p.wait(r)
		p.reset(w) // what it would answer now, nobody is to read
	case HangAfterHeaders:
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush() // fails where nobody is there
		p.wait(r)
	case Reset:
		p.reset(w)
	case Redirect:
		http.Redirect(w, r, "http://169.254.169.254/koi-net"+r.URL.Path, http.StatusTemporaryRedirect)
	case RedirectToTrap:
		http.Redirect(w, r, p.server.URL+trap, http.StatusTemporaryRedirect)
	case NotJSON:
		h.Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<!doctype html><title>It works!</title>")
	case WrongJSON:
		_, _ = io.WriteString(w, `["events",{"rids":7},null]`)
	case DeepJSON:
		_, _ = io.WriteString(w, deepText())
	case TooManyEvents:
		_, _ = w.Write(tooManyText())
	case DuplicateKeys:
		_, _ = io.WriteString(w, `{"events":[],"rids":[],"manifests":[],"bundles":[],"manifest":{},"contents":{},`+
			`"events":7,"rids":7,"manifests":7,"bundles":7,"manifest":7,"contents":7}`)
	case WrongStatus:
		w.WriteHeader(http.StatusTeapot)
	case ServerError:
		http.Error(w, "Internal Server Error", http.StatusInternalServerError)
	case Busy:
		h.Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
	case BusyForever:
		h.Set("Retry-After", "3155760000")
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		p.t.Errorf("a hostile peer knows no misbehaviour %q", m)
		w.WriteHeader(http.StatusNotImplemented)
	}
}

// wait returns when the client is gone or the test ends.
func (p *Peer) wait(r *http.Request) {
	// The server notices that a client is gone once the request was read.
	_, _ = io.Copy(io.Discard, r.Body) // whatever it was
	select {
	case <-r.Context().Done():
	case <-p.done:
	}
}

func (p *Peer) drip(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	tick := time.NewTicker(p.Pause)
	defer tick.Stop()
	for _, b := range []byte(`{"events":[` + strings.Repeat(" ", 1<<20)) {
		if _, err := w.Write([]byte{b}); err != nil || c.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		case <-p.done:
			return
		}
	}
}

// dripHeaders writes a header without an end, until the client goes or the test ends.
func (p *Peer) dripHeaders(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // it is gone already
	}
	defer conn.Close()
	tick := time.NewTicker(p.Pause)
	defer tick.Stop()
	text := []byte("HTTP/1.1 200 OK\r\nX-Slow: x")
	for {
		if _, err := conn.Write(text); err != nil {
			return
		}
		text = []byte("x")
		select {
		case <-tick.C:
		case <-p.done:
			return
		}
	}
}

// reset closes the connection so that the other side is told of an error.
func (p *Peer) reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // it is gone already
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // else it is closed in good order, which is bad enough
	}
	_ = conn.Close()
}

// What is dear to make is made once.
var (
	deepText    = sync.OnceValue(func() string { return `{"events":` + strings.Repeat("[", 1e6) + strings.Repeat("]", 1e6) + `}` })
	tooManyText = sync.OnceValue(func() []byte { return TooMany(10_001) })
	// bombMember is 1 MiB of blanks as a gzip member of a kilobyte.
	bombMember = sync.OnceValue(func() []byte {
		var member bytes.Buffer
		z, err := gzip.NewWriterLevel(&member, gzip.BestCompression)
		if err != nil {
			return nil // the level is one of gzip's
		}
		_, _ = io.CopyN(z, forever(' '), 1<<20) // into memory
		_ = z.Close()
		return member.Bytes()
	})
)

// bomb writes 1 GiB of blanks as 1,024 gzip members, which are one stream.
func bomb(w io.Writer) {
	for range 1024 {
		if _, err := w.Write(bombMember()); err != nil {
			return
		}
	}
}

// forever is a reader of one byte without an end.
type forever byte

func (b forever) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	p[0] = byte(b)
	for n := 1; n < len(p); n *= 2 {
		copy(p[n:], p[:n])
	}
	return len(p), nil
}
