// Package oci assembles one-layer container images from files, with no container
// engine and no registry, and writes them as archives.
//
// The archive is an OCI image layout that carries docker's manifest.json as well, so
// that "ctr images import", "kind load image-archive", "docker load" and "podman load"
// all read it. Imports only the standard library.
//
// Invariant: the same image gives the same bytes: every time is the epoch, files and
// labels are sorted, and nothing of the machine is recorded.
package oci
