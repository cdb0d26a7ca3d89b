// Image builds the images of koi-node and koi-operator into dist/ without a container
// engine:
//
//	go run ./hack/image [--version V] [--arch amd64,arm64] [--registry HOST/PATH] [NAME...]
//
// It prints name, digest and sizes of each. It is the command line over
// hack/image/product.
package main
