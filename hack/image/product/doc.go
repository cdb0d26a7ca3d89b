// Package product builds the images of the project, koi-node and koi-operator, without
// a container engine: static programs cross-compiled from the checkout, packed by
// hack/image/oci. The Dockerfile makes the same images where there is an engine.
//
// It owns what goes into an image and how it is tagged. Imports the standard library
// and hack/image/oci.
//
// Invariant: a tag names its content. Where no version is given, the tag is dev- and a
// hash of everything the image is made of, so that a change of code gives a new tag,
// which rolls the pods, and no change gives the old one, which touches nothing.
package product
