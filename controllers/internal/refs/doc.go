// Package refs resolves what KoiNodes and KoiEdges name: nodes by name or RID,
// first contacts, the objects of one edge. It owns the cache indexes this
// takes.
//
// It reads through a client.Reader and writes nothing. What cannot be resolved
// is a *conditions.State, so that the object says what it waits for; the
// controllers watch the kinds named here and do not poll.
package refs
