package server

import (
	"log/slog"
	"net/http"
	"time"
)

// Bounds of a connection, as HTTPServer sets them.
const (
	// ReadHeaderTimeout and ReadTimeout bound how long a peer may take to send
	// a request's head and its whole body.
	ReadHeaderTimeout = 5 * time.Second
	ReadTimeout       = 60 * time.Second
	// WriteTimeout bounds the time from a request's head to the first part of
	// its answer. From then on each part has StallTimeout and the whole answer
	// AnswerTimeout.
	WriteTimeout = 120 * time.Second
	// StallTimeout is how long a peer may take to take in one part of an
	// answer (at most partBytes); a peer that keeps reading is not cut.
	StallTimeout = 30 * time.Second
	// AnswerTimeout bounds one whole answer, so that a slow reader cannot hold
	// its place among the concurrent requests for ever.
	AnswerTimeout = 10 * time.Minute
	// IdleTimeout bounds how long an idle connection is kept.
	IdleTimeout = 2 * time.Minute
	// MaxHeaderBytes bounds a request's head; beyond it the answer is 431.
	MaxHeaderBytes = 16 << 10
)

// HTTPServer returns an http.Server for the handler New made, with the bounds
// above. The caller serves and shuts it down. Connection errors, which any peer
// can cause, are logged at debug level; log may be nil.
func HTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: ReadHeaderTimeout,
		ReadTimeout:       ReadTimeout,
		WriteTimeout:      WriteTimeout,
		IdleTimeout:       IdleTimeout,
		MaxHeaderBytes:    MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
