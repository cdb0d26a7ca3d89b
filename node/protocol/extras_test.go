package protocol_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/koi-net/koi-operator/node/identity"
	"github.com/koi-net/koi-operator/node/protocol"
)

// From rid-lib 3.3 on manifests may have further members, which are signed: the
// text that is verified has them as they came. The data was made by that version.
func TestManifestExtrasAreVerified(t *testing.T) {
	data, err := os.ReadFile("testdata/signed_manifest_extras.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name      string
		PublicKey string `json:"public_key"`
		Signed    string
		Body      string
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			key, err := identity.ParsePublicKey(c.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			// Members come in any order, and null or repeated ones make no other text.
			respelt := strings.ReplaceAll(c.Body, `{"rid":"orn:test.note:1","timestamp"`, `{"none":null,"@context":"x","@context":null,"rid":"orn:test.note:1","timestamp"`)
			for name, body := range map[string]string{"as it came": c.Body, "respelt": respelt} {
				if name == "respelt" && c.Name == "extras" {
					continue // the order of further members is signed
				}
				e, err := protocol.DecodeEnvelope[protocol.Payload]([]byte(body), protocol.DefaultLimits())
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if name == "as it came" || !strings.Contains(c.Signed, "@context") {
					if string(e.Signed) != c.Signed {
						t.Errorf("%s: signed text\n%s\nwant\n%s", name, e.Signed, c.Signed)
					}
				}
				if _, err := e.Verify(key.Verify); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			forged := strings.Replace(c.Body, "@context", "@contexts", 1)
			e, err := protocol.DecodeEnvelope[protocol.Payload]([]byte(forged), protocol.DefaultLimits())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.Verify(key.Verify); err == nil {
				t.Error("a changed member is taken")
			}
		})
	}
}

func TestManifestExtrasAreBounded(t *testing.T) {
	var many strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&many, `"k%d":%d,`, i, i)
	}
	for name, more := range map[string]string{"long": `"more":"` + strings.Repeat("x", 5000) + `",`, "many": many.String()} {
		body := `{"payload":{"type":"manifests_payload","manifests":[{` + more + `"rid":"orn:t.n:1","timestamp":"2026-01-01T00:00:00Z","sha256_hash":"x"}],"not_found":[]},` +
			`"source_node":"orn:koi-net.node:a+1","target_node":"orn:koi-net.node:b+2","signature":"x"}`
		_, err := protocol.DecodeEnvelope[protocol.ManifestsAnswer]([]byte(body), protocol.DefaultLimits())
		if err == nil || !strings.Contains(err.Error(), "further members") {
			t.Errorf("%s: %v, want a word on further members", name, err)
		}
	}
}
