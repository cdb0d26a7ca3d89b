// Package admin serves the control API of one node: its status, the nodes and
// edges it knows, standing decisions on edges, its bundles, backups of its store,
// and a watch of changes. Peers never reach it; it has a listener of its own.
//
// It owns HTTP, authorization and the change Feed; what the calls do is behind
// Backend. The JSON types live in admin/client, which only grows. It imports
// node/admin/client, node/protocol, node/rid and the errors of node/store.
//
// Invariants: nothing but the probes and metrics is answered without the token
// where one is set; every body, line, batch, page and watcher is bounded;
// publishing a change never waits for a watcher.
package admin
