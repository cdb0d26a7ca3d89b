// Command charts generates what is generated in charts/: the copies of config/ that
// the charts are made of, the schemas of their values, and the tables of values in
// their READMEs. What it writes is determined by config/ and by values.yaml alone.
//
//	go run ./hack/charts         # generate
//	go run ./hack/charts helm    # build Helm into the cache, and print where it is
//
// The tests beside it hold the charts to config/ (what the chart of the operator
// renders by default means the same as config/default), to their schemas and to
// Kubernetes' restricted Pod Security Standard, with the real Helm. Imports
// hack/charts/helm and hack/cluster/assets.
package main
