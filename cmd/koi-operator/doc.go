// Command koi-operator runs KOI-nets on Kubernetes: it keeps KoiNodes and
// KoiEdges as their specs say. This package turns flags into options and owns
// nothing else; see package controllers.
package main
