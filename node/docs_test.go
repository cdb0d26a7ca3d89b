package node_test

import (
	"net/http"
	"testing"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/nodetest"
)

// The page for people is there unless it is left out; the document always is.
func TestDocs(t *testing.T) {
	f := nodetest.NewFleet(t)
	plain, without := f.Start("plain"), f.Start("without", func(c *node.Config) { c.Docs = false })
	for url, want := range map[string]int{
		plain.URL() + "/docs": 200, plain.URL() + "/docs/swagger-ui-bundle.js": 200, plain.URL() + "/openapi.json": 200,
		without.URL() + "/docs": 404, without.URL() + "/docs/swagger-ui-bundle.js": 404, without.URL() + "/openapi.json": 200,
	} {
		res, err := http.Head(url)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %d, want %d", url, res.StatusCode, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
