// Package rid holds reference identifiers (RIDs) and RID types: parsing,
// formatting and the derivation of node and edge RIDs.
//
// It owns no state, does no I/O and imports the standard library alone, so
// that every other package (and users' code) can use RIDs as plain comparable
// values. A value of type RID or Type obtained from Parse, ParseType or one of
// the constructors is valid; converting a string is the caller's own claim.
package rid
