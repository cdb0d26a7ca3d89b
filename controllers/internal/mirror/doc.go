// Package mirror decides how a KoiEdge and the network are brought together:
// from what the object wants and what both ends say, to what to ask of whom
// and how the edge fares. It also turns edges found in the network into
// objects.
//
// It is pure. It imports the API types, conditions and the admin API's models.
//
// Invariants: a target proposes and a source decides, never the other way
// round; a decision never reaches wider than the object says; only nodes the
// object may steer are asked for anything.
package mirror
