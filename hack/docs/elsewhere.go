package docs

// Elsewhere are the commands of README.md and of the tutorial that the tutorial's test
// does not run, each with the test that does, or that stands in for it: the directory
// and the name of a test, or a target of make that CI runs.
var Elsewhere = map[string]string{
	// The cluster from nothing, and all that is in it.
	"make up": "hack/e2e TestKOINet",
	// CI runs this, and nothing beside it.
	"make test": "make test",
	// With images that can be pulled: the test has them in its cluster.
	"helm install koi-operator charts/koi-operator --namespace koi-operator-system --create-namespace --wait": "hack/e2e TestKOINet",
	"helm install coordinator charts/koi-coordinator --namespace koi-net --create-namespace":                  "hack/e2e TestKOINet",
	"make installer IMG=ghcr.io/koi-net/koi-operator:dev NODE_IMG=ghcr.io/koi-net/koi-node:dev":               "hack/e2e TestKOINet",
	"kubectl apply --server-side -f dist/install.yaml":                                                        "hack/e2e TestKOINet",
	// A reader's own; the test brings others.
	"export GIT_URL=https://git.example.org/koi.git CLONE=$HOME/koi": "hack/e2e TestTutorial",
	"python3 -m venv gauge/venv":                                     "hack/e2e TestTutorial",
	"gauge/venv/bin/pip install koi-net==2.1.2":                      "hack/e2e TestTutorial",
	"export PYTHON=$PWD/gauge/venv/bin/python":                       "hack/e2e TestTutorial",
}
