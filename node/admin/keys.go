package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/koi-net/koi-operator/node/admin/client"
)

// Grace is how long the token before is taken beside a new one, so that nobody
// who learns of the change a little later is turned away.
const Grace = 10 * time.Minute

// keysAge is how old what was read of the files may be.
const keysAge = time.Second

// KeyFiles are the files of a listener's token and certificate. "" leaves one
// out; certificate and key go together.
type KeyFiles struct {
	Token, Cert, Key string
}

// Keys are the token and certificate of an admin listener as their files have
// them now: whoever manages the node replaces the files, and the node goes over
// to what they hold without a restart. What cannot be used changes nothing and
// is logged once. It has no goroutine: the files are read, at most once a
// second, when somebody calls.
type Keys struct {
	files KeyFiles
	clock func() time.Time
	log   *slog.Logger

	mu       sync.Mutex
	read     time.Time
	token    [sha256.Size]byte
	previous [sha256.Size]byte
	until    time.Time // the previous token is taken before this time
	cert     *tls.Certificate
	trouble  string // what was logged last
}

// OpenKeys reads the files for the first time; an error says which one cannot
// be used. clock and log may be nil.
func OpenKeys(files KeyFiles, clock func() time.Time, log *slog.Logger) (*Keys, error) {
	k := &Keys{files: files, clock: clock, log: log}
	if k.clock == nil {
		k.clock = time.Now
	}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	k.read = k.clock()
	if files.Token != "" {
		token, err := client.ReadTokenFile(files.Token)
		if err != nil {
			return nil, err
		}
		k.token = sha256.Sum256([]byte(token))
		k.previous = k.token
	}
	if files.Cert != "" {
		cert, err := k.readCert()
		if err != nil {
			return nil, err
		}
		k.cert = cert
	}
	return k, nil
}

// Allows tells whether the token is the one of the file, or the one before it
// within Grace. It takes the same time for every token.
func (k *Keys) Allows(token string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refresh()
	got := sha256.Sum256([]byte(token))
	current := subtle.ConstantTimeCompare(got[:], k.token[:])
	previous := subtle.ConstantTimeCompare(got[:], k.previous[:])
	if !k.read.Before(k.until) {
		previous = 0
	}
	return current|previous == 1
}

// Certificate returns the certificate for a handshake, for
// tls.Config.GetCertificate.
func (k *Keys) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refresh()
	return k.cert, nil
}

// refresh reads the files again where what was read is old; mu is held.
func (k *Keys) refresh() {
	now := k.clock()
	if now.Sub(k.read) < keysAge && !now.Before(k.read) {
		return
	}
	k.read = now
	if err := k.reload(now); err != nil {
		if text := err.Error(); text != k.trouble {
			k.trouble = text
			k.log.Error("the admin API keeps its token and certificate: the new ones cannot be used", "error", text)
		}
		return
	}
	k.trouble = ""
}

func (k *Keys) reload(now time.Time) error {
	if k.files.Token != "" {
		text, err := client.ReadTokenFile(k.files.Token)
		if err != nil {
			return err
		}
		if token := sha256.Sum256([]byte(text)); token != k.token {
			k.previous, k.token, k.until = k.token, token, now.Add(Grace)
			k.log.Info("the admin API has a new token", "previousUntil", k.until)
		}
	}
	if k.files.Cert == "" {
		return nil
	}
	// Certificate and key are two files; where one was replaced between the two
	// reads they do not fit, and are read again.
	cert, err := k.readCert()
	if err != nil {
		return err
	}
	if string(cert.Certificate[0]) != string(k.cert.Certificate[0]) {
		k.cert = cert
		k.log.Info("the admin API has a new certificate")
	}
	return nil
}

func (k *Keys) readCert() (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(k.files.Cert, k.files.Key)
	if err != nil {
		return nil, fmt.Errorf("admin certificate %s with key %s: %w", k.files.Cert, k.files.Key, err)
	}
	return &cert, nil
}
