// Installer writes dist/install.yaml: all that an operator takes, in one file to
// be applied with kubectl.
//
//	go run ./hack/installer -operator IMAGE -node IMAGE
//
// It is what kustomize makes of config/default, with the images put in. Of the
// repository it imports hack/cluster/assets, hack/image/product and hack/up/deploy.
package main
