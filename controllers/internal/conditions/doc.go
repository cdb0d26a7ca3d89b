// Package conditions says how a KoiNode or KoiEdge fares: from the object, its
// children and what the nodes said, to its conditions. It is pure.
//
// Invariants, which make the objects true to kstatus: a resting object has
// Ready=True and neither Reconciling nor Stalled; one that is not ready has
// exactly one of these two, with the reason and message of Ready; a suspended
// one has Suspended=True and no Ready at all, which kstatus calls Current. The
// order of conditions is fixed and a condition's transition time moves only
// with its status.
package conditions
