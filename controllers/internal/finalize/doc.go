// Package finalize decides what has to happen before an object may go. It is
// pure, and its one invariant is that every table ends: whatever is gone,
// suspended, silent or slow, the finalizer is released within a bounded time.
package finalize
