package deploy

import (
	"strings"
	"testing"
)

const manager = `
containers:
- name: manager
  image: ghcr.io/koi-net/koi-operator:dev
  args: ["--node-image=ghcr.io/koi-net/koi-node:dev"]
  env:
  - name: KOI_NODE_IMAGE
    value: "ghcr.io/koi-net/koi-node:v1.2.3-rc.1"
- name: other
  image: ghcr.io/koi-net/koi-node-exporter:dev
- name: else
  image: ghcr.io/koi-networks/koi-node:dev
`

func TestSetImages(t *testing.T) {
	got, err := SetImages([]byte(manager), map[string]string{
		"koi-operator": "registry.example:5000/team/koi-operator:dev-1",
		"koi-node":     "ghcr.io/koi-net/koi-node:dev-2",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer(
		"ghcr.io/koi-net/koi-operator:dev", "registry.example:5000/team/koi-operator:dev-1",
		"ghcr.io/koi-net/koi-node:dev\"", "ghcr.io/koi-net/koi-node:dev-2\"",
		"ghcr.io/koi-net/koi-node:v1.2.3-rc.1", "ghcr.io/koi-net/koi-node:dev-2",
	).Replace(manager)
	if string(got) != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestSetImagesRefusesWhatIsNotThere(t *testing.T) {
	_, err := SetImages([]byte("image: ghcr.io/koi-net/koi-operator:dev\n"), map[string]string{"koi-operator": "a/b:1", "koi-node": "a/c:1"})
	if err == nil || !strings.Contains(err.Error(), "koi-node") {
		t.Errorf("error %v, want one that names koi-node", err)
	}
}
