// Package protocol holds KOI-net's wire as pure values: manifests, bundles,
// events, profiles, the requests and answers of the five calls, the canonical
// forms that are hashed and signed, and error answers.
//
// The signed generation's envelopes are read by DecodeEnvelope, which yields
// besides the payload the text that the signature covers: a normal form made
// anew from what was read, byte for byte what the reference's models serialise
// to. Signing and verifying are node/identity's; this package is handed them as
// functions.
//
// It does no I/O and imports node/rid and the standard library alone. Decoding
// is strict about shape and bounded by Limits; contents keep all their fields,
// their order and their exact values in a compact normal form.
package protocol
