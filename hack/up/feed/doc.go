// Package feed gives a node real knowledge, the history of the repository, and watches
// it arrive at another node.
//
// It owns the form of a commit's bundle (orn:git.commit:<sha>, contents author, date,
// subject, files) and, in access.go alone, how a node in a pod is reached. Imports the
// standard library and hack/up/kubectl.
//
// Invariant: only what a node lacks is put, so that feeding again changes nothing.
package feed
