// Package protocol holds KOI-net's wire as pure values: manifests, bundles,
// events, profiles, the requests and answers of the five calls, the canonical
// forms that are hashed and signed, and error answers.
//
// It does no I/O and imports node/rid and the standard library alone. Decoding
// is strict about shape and bounded by Limits; contents keep all their fields,
// their order and their exact values in a compact normal form.
package protocol
