// Package helm builds the Helm that the charts are tested with, and runs it.
//
// It owns where that Helm comes from (the module hack/tools/helm, built into the cache
// of hack/cluster/assets) and how it is called: with directories of its own, so that
// the repositories, plugins and settings of whoever runs it play no part. Imports
// hack/cluster/assets.
package helm
