package peer

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"testing"

	"github.com/koi-net/koi-operator/node/protocol"
)

// TestCapturedAnswers makes the calls that nodes of the reference made of each
// other, and is answered what they were: the request is the same but for its
// signature, and the answer verifies.
func TestCapturedAnswers(t *testing.T) {
	data, err := os.ReadFile("testdata/captured.json")
	if err != nil {
		t.Fatal(err)
	}
	var exchanges []struct{ Version, Path, Product, Key, Request, Answer string }
	if err := json.Unmarshal(data, &exchanges); err != nil || len(exchanges) < 8 {
		t.Fatalf("%d exchanges: %v", len(exchanges), err)
	}
	ctx := context.Background()
	for _, x := range exchanges {
		asked, err := protocol.DecodeEnvelope[protocol.Payload]([]byte(x.Request), protocol.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		p := newTestPeer(t)
		p.before = func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			got, err := protocol.DecodeEnvelope[protocol.Payload](body, protocol.Limits{})
			if err != nil || string(got.Signed) != string(asked.Signed) || r.URL.Path != x.Path {
				t.Errorf("%s: request %s %s, %v, want %s", x.Version, r.URL.Path, body, err, x.Request)
			}
			w.Header().Set("Server", x.Product)
			w.Write([]byte(x.Answer))
			return true
		}
		c := newCaller(t, func(c *ClientConfig) { c.Identity.RID = asked.Source })
		target := Target{RID: asked.Target, URL: p.URL, Key: x.Key}
		n := 0
		switch q := asked.Payload.(type) {
		case protocol.PollRequest:
			var got Received
			got, err = c.Poll(ctx, target, q.Limit)
			n = len(got.Events)
		case protocol.FetchRIDs:
			n, err = count(c.FetchRIDs(ctx, target, q.RIDTypes))
		case protocol.FetchManifests:
			var got protocol.ManifestsAnswer
			got, err = c.FetchManifests(ctx, target, q.RIDTypes, q.RIDs)
			n = len(got.Manifests)
		case protocol.FetchBundles:
			var got protocol.BundlesAnswer
			got, err = c.FetchBundles(ctx, target, q.RIDs)
			n = len(got.Bundles)
		}
		if err != nil || n == 0 {
			t.Errorf("%s %s: %d items, %v, of %s", x.Version, x.Path, n, err, x.Answer)
		}
		if c.traits.Kin(target.RID) {
			t.Errorf("%s: the reference is kin", x.Version)
		}
	}
}

func count[T any](items []T, err error) (int, error) { return len(items), err }
