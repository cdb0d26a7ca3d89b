// Package metrics measures what the operator does in terms of nodes and edges:
// how they fare, how long decisions and mirroring take, what the nodes' admin
// APIs answered, and what was written to the API server.
//
// It imports the API types, conditions, observe's Admin and the admin client's
// errors. It has no state but that of a Metrics, which is made once for a
// manager and registered where its maker says.
//
// Invariants: no label holds a RID, a message, or the name of an object; every
// label but namespace has values that are fixed here, and reasons that are not
// the API's count as Other. How objects fare is read from the cache when
// somebody asks, so it cannot drift and leaves no stale series; what is
// remembered of an object goes with it.
package metrics
