package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unicode"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/store"
)

// Exit codes; those of run are part of the contract with the operator.
const (
	exitDone             = 0
	exitFailed           = 1
	exitNotFound         = 3
	exitStoreDamaged     = 10
	exitStoreLocked      = 11
	exitIdentityMismatch = 12
	exitBadConfig        = 13
)

// defaultTerminationLog is where a container's last words go by default.
const defaultTerminationLog = "/dev/termination-log"

// maxTerminationMessage keeps the whole termination log below the 4 KiB that
// Kubernetes reads, escaping included.
const maxTerminationMessage = 1500

// exitError ends the program with a code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// exitCode returns the code for an error of a client command.
func exitCode(err error) int {
	if errors.Is(err, client.ErrNotFound) {
		return exitNotFound
	}
	return exitFailed
}

// ending is how run ends: the reason is what the operator shows. File and
// remedy are in the error, from whoever found it.
type ending struct {
	code   int
	reason string
}

// endingOf maps an error of a node to its ending. Where two would do, the one
// that asks for more care wins.
func endingOf(err error) ending {
	switch {
	case errors.Is(err, store.ErrDamaged), errors.Is(err, store.ErrForeign):
		return ending{exitStoreDamaged, "StoreDamaged"}
	case errors.Is(err, store.ErrLocked):
		return ending{exitStoreLocked, "StoreLocked"}
	case errors.Is(err, identity.ErrMismatch), errors.Is(err, identity.ErrDamaged):
		return ending{exitIdentityMismatch, "IdentityMismatch"}
	case errors.Is(err, node.ErrBadConfig):
		return ending{exitBadConfig, "BadConfig"}
	}
	return ending{exitFailed, "Failed"}
}

// endRun turns an error of run into its exit code and leaves the reason in the
// termination log.
func endRun(err error, terminationLog string) error {
	if err == nil {
		return nil
	}
	end := endingOf(err)
	logErr := writeTermination(terminationLog, end.reason, oneLine(err.Error()))
	err = fmt.Errorf("%s: %w", end.reason, err)
	if logErr != nil {
		err = fmt.Errorf("%w (and the termination log cannot be written: %w)", err, logErr)
	}
	return &exitError{code: end.code, err: err}
}

// writeTermination writes the reason to path. The default path is only used
// where it is there and writable, as in a container.
func writeTermination(path, reason, message string) error {
	if path == "" {
		return nil
	}
	if len(message) > maxTerminationMessage {
		message = strings.ToValidUTF8(message[:maxTerminationMessage], "") + "…"
	}
	text, err := json.Marshal(struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}{reason, message})
	if err != nil {
		return err
	}
	mode := os.O_WRONLY | os.O_TRUNC
	if path != defaultTerminationLog {
		mode |= os.O_CREATE
	}
	f, err := os.OpenFile(path, mode, 0o600)
	if err != nil {
		if path == defaultTerminationLog {
			return nil
		}
		return err
	}
	_, err = f.Write(append(text, '\n'))
	return errors.Join(err, f.Close())
}

// explain adds to an error what a person would ask next.
func (a *app) explain(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("no answer at %s: connection refused: is the node running? --admin URL names its admin listener", a.admin.url)
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return fmt.Sprintf("%v; --admin-ca-file names the certificate to trust", err)
	case errors.Is(err, client.ErrUnauthorized):
		return fmt.Sprintf("%v; give the token with --admin-token-file", err)
	case errors.Is(err, client.ErrNotAdminAPI):
		return fmt.Sprintf("%v; is %s (--admin) a node's admin listener?", err, a.admin.url)
	}
	return err.Error()
}

// oneLine makes a text fit for one line of a terminal or log: no line breaks,
// no control characters.
func oneLine(s string) string {
	return clean(strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), " "))
}

// clean replaces what is not printable, for texts that came from peers.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}
