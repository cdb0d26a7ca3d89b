// Package scrub reads a store's bundles over and over, slowly, so that damage is
// found before somebody asks for what is damaged: each record's checksum, and the
// manifest's hash over its contents.
//
// It imports node/rid, node/protocol and node/store, and changes nothing but a
// small value, its place, so that a restart goes on where it was. What is found
// bad is reported; to mend it is for others. A node's own bundles are not held
// against their manifests, which nobody did when they came. It holds no
// transaction between pages, and a store that is small enough is read at once and
// left alone until the next round.
package scrub
