// Package localpath provides the volumes of the local cluster: a claim becomes a
// directory on the one node, and goes with its claim.
//
// It owns the provisioner koi-net.io/local-path and the directory it is given. Sizes
// are not enforced; blocks and shared access modes are refused.
package localpath
