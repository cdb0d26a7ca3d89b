package controllers

import (
	"github.com/go-logr/logr"
)

// Quiet is log without errors that are none: while a namespace is being deleted
// the API server refuses whatever is made in it, Events included, and that is
// as it should be. Such a line is still logged, as information.
func Quiet(log logr.Logger) logr.Logger {
	sink := log.GetSink()
	if sink == nil {
		return log
	}
	return log.WithSink(quiet{sink})
}

type quiet struct{ logr.LogSink }

// Error logs err as information where it is an expected refusal.
func (q quiet) Error(err error, msg string, keysAndValues ...any) {
	if err != nil && namespaceGoes(err) {
		q.Info(0, msg, "because", err.Error())
		return
	}
	q.LogSink.Error(err, msg, keysAndValues...)
}

// WithValues keeps quiet.
func (q quiet) WithValues(keysAndValues ...any) logr.LogSink {
	return quiet{q.LogSink.WithValues(keysAndValues...)}
}

// WithName keeps quiet.
func (q quiet) WithName(name string) logr.LogSink { return quiet{q.LogSink.WithName(name)} }
