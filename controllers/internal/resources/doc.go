// Package resources builds the objects a KoiNode is made of: one pure builder
// for each, from the KoiNode and what was decided about it to the object as it
// should be.
//
// It imports the API types and Kubernetes' own, talks to nobody and knows no
// clock, so the same input gives the same bytes. Builders set what the
// operator means to own and nothing else: a field left out belongs to whoever
// sets it. What changes here restarts every node in the world at the next
// upgrade of the operator, so the golden files are changed with care.
package resources
