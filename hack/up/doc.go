// Up brings a KOI-net up on a Kubernetes, from nothing, with one command:
//
//	go run ./hack/up up      # cluster, images, operator, samples, real knowledge
//	go run ./hack/up down    # take it all back
//
// The cluster is one in kind where Docker and kind are there, else the local one of
// hack/cluster (Linux, root); CLUSTER=existing, kind or local decides otherwise. For an
// existing cluster, KUBECONFIG names it and IMAGE_REGISTRY the registry that it pulls
// the images from. A second run changes nothing.
package main
