package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/hack/charts/helm"
)

// root is the repository's, seen from this package.
const root = "../.."

var update = flag.Bool("update", false, "write the golden files anew")

// built builds Helm, unless that was done before.
var built = sync.OnceValues(func() (string, error) { return helm.Build(context.Background(), io.Discard) })

// client returns a Helm that knows nothing of the machine's. Where it cannot be
// built, as without a network, the test is not run, and in CI it fails.
func client(t *testing.T) *helm.Client {
	t.Helper()
	program, err := built()
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatal(err)
	case err != nil:
		t.Skipf("NOT RUN: the charts are not checked with Helm: %v", err)
	}
	return &helm.Client{Path: program, Home: t.TempDir()}
}

// repo is the checkout.
func repo() fs.FS { return os.DirFS(root) }

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := fs.ReadFile(repo(), path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// object is one that Kubernetes takes.
type object map[string]any

func (o object) kind() string { return fmt.Sprint(o["kind"]) }

func (o object) meta() map[string]any { return asMap(o["metadata"]) }

func (o object) String() string {
	return fmt.Sprintf("%s %s/%s", o.kind(), o.meta()["namespace"], o.meta()["name"])
}

// parse splits manifests into objects.
func parse(t *testing.T, manifests string) []object {
	t.Helper()
	var out []object
	for _, doc := range separator.Split("\n"+manifests, -1) {
		var o object
		if err := yaml.UnmarshalStrict([]byte(doc), &o); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if len(o) > 0 {
			out = append(out, o)
		}
	}
	return out
}

// release says what to render.
type release struct {
	chart, name, namespace string
	values                 string   // YAML
	args                   []string // more arguments
}

func operator(values string) release {
	return release{chart: operatorChart, name: "koi-operator", namespace: "koi-operator-system", values: values}
}

// known are the custom resources of a cluster with everything.
var known = []string{"--api-versions=koi-net.io/v1alpha1/KoiNode", "--api-versions=gateway.networking.k8s.io/v1/HTTPRoute"}

func coordinator(values string) release {
	return release{chart: coordinatorChart, name: "coordinator", namespace: "koi-net", values: values, args: known}
}

func writeValues(t *testing.T, values string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (r release) template(t *testing.T) (string, error) {
	t.Helper()
	c := client(t)
	file := writeValues(t, r.values)
	chart := r.chart
	if !filepath.IsAbs(chart) {
		chart = filepath.Join(root, chart)
	}
	args := []string{"template", r.name, chart, "--namespace", r.namespace, "--values", file}
	return c.Run(t.Context(), append(args, r.args...)...)
}

func (r release) render(t *testing.T) []object {
	t.Helper()
	out, err := r.template(t)
	if err != nil {
		t.Fatal(err)
	}
	objects := parse(t, out)
	if len(objects) == 0 {
		t.Fatal("it rendered nothing")
	}
	return objects
}

func TestGeneratedIsUpToDate(t *testing.T) {
	made, err := generate(repo())
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range slices.Sorted(maps.Keys(made)) {
		if have, err := fs.ReadFile(repo(), path); err != nil || !bytes.Equal(have, made[path]) {
			t.Errorf("%s is not what make charts makes: commit that (%v)", path, err)
		}
	}
	stale, err := superfluous(repo(), made)
	if err != nil || len(stale) > 0 {
		t.Errorf("nothing makes %v any more: run make charts (%v)", stale, err)
	}
}

func TestLint(t *testing.T) {
	out, err := client(t).Run(t.Context(), "lint", "--strict", filepath.Join(root, operatorChart), filepath.Join(root, coordinatorChart))
	if err != nil || strings.Contains(out, "[WARNING]") {
		t.Errorf("%v\n%s", err, out)
	}
}

// versions are of a Chart.yaml.
type versions struct {
	Version    string `json:"version"`
	AppVersion string `json:"appVersion"`
}

func versionsOf(t *testing.T, chart string) versions {
	t.Helper()
	var v versions
	if err := yaml.Unmarshal(read(t, chart+"/Chart.yaml"), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// The charts run the images that config/ runs, and go together.
func TestVersions(t *testing.T) {
	a, b := versionsOf(t, operatorChart), versionsOf(t, coordinatorChart)
	if a != b {
		t.Errorf("koi-operator is %v, koi-coordinator %v", a, b)
	}
	for _, image := range []string{"koi-operator", "koi-node"} {
		if want := "ghcr.io/koi-net/" + image + ":" + a.AppVersion + "\n"; !strings.Contains(string(read(t, "config/manager/manager.yaml")), want) {
			t.Errorf("config/manager does not run %s", want)
		}
	}
}

// kustomize renders a directory of the repository.
func kustomize(t *testing.T, dir string) []object {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=hack/tools/kustomize/go.mod", "kustomize", "build", dir)
	cmd.Dir = root
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatalf("kustomize build %s: %v\n%s", dir, err, said.String())
	case err != nil:
		t.Skipf("NOT RUN: kustomize build %s: %v\n%s", dir, err, said.String())
	}
	return parse(t, out.String())
}

// helmLabels are those that Helm adds, besides the name.
var helmLabels = []string{"app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart"}

// plain takes off an object what a release adds to it. Config's ClusterRole and
// CustomResourceDefinitions, which are generated, have no label of ours.
func plain(o object) object {
	for _, m := range []map[string]any{o.meta(), asMap(asMap(asMap(o["spec"])["template"])["metadata"])} {
		labels := asMap(m["labels"])
		for _, l := range helmLabels {
			delete(labels, l)
		}
		delete(labels, "app.kubernetes.io/name")
		delete(asMap(m["annotations"]), "helm.sh/resource-policy")
		for _, key := range []string{"labels", "annotations"} {
			if len(asMap(m[key])) == 0 {
				delete(m, key)
			}
		}
	}
	return o
}

// byName are objects as JSON, without what a release adds.
func byName(t *testing.T, objects []object, but ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, o := range objects {
		if slices.Contains(but, o.kind()) {
			continue
		}
		text, err := json.MarshalIndent(plain(o), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		out[o.String()] = string(text)
	}
	return out
}

func TestSameAsConfig(t *testing.T) {
	for _, tt := range []struct{ dir, values string }{
		{"config/default", ""},
		{"config/monitored", `{networkPolicy: {enabled: true}, monitoring: {podMonitors: true, rules: true, dashboard: {enabled: true}}}`},
	} {
		t.Run(tt.dir, func(t *testing.T) {
			t.Parallel()
			// The namespace is Helm's to make.
			want, got := byName(t, kustomize(t, tt.dir), "Namespace"), byName(t, operator(tt.values).render(t))
			if len(want) < 10 {
				t.Fatalf("%s has %d objects only", tt.dir, len(want))
			}
			for name := range want {
				if got[name] != want[name] {
					t.Errorf("%s: the chart has\n%s\n%s has\n%s", name, got[name], tt.dir, want[name])
				}
			}
			for name := range got {
				if _, ok := want[name]; !ok {
					t.Errorf("%s is in the chart alone", name)
				}
			}
		})
	}
}

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// goldens are the sets of values that people have.
var goldens = []struct {
	name string
	release
}{
	{"operator-defaults", operator("")},
	{"operator-namespaces", operator(`
watchNamespaces: [team-a, team-b]
crds: {enabled: false}
rbac: {userRoles: false, approverPolicy: false}
monitoring: {podMonitors: true}
`)},
	{"operator-ha", operator(`
replicas: 3
priorityClassName: system-cluster-critical
podDisruptionBudget: {maxUnavailable: 50%}
topologySpreadConstraints:
- {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app.kubernetes.io/name: koi-operator}}}
affinity: {podAntiAffinity: {}}
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: dedicated, operator: Exists}]
`)},
	{"operator-monitoring", operator(`
networkPolicy: {enabled: true, metricsFrom: [{namespaceSelector: {matchLabels: {name: monitoring}}}]}
metrics: {service: {enabled: true, annotations: {prometheus.io/scrape: "true"}}}
monitoring: {podMonitors: true, rules: true, labels: {release: prometheus}, dashboard: {enabled: true, labels: {grafana: "yes"}}}
`)},
	{"operator-digests", operator(`
image: {repository: registry.example:5000/koi/koi-operator, digest: "` + digest + `", pullPolicy: Always}
nodeImage: {repository: registry.example:5000/koi/koi-node, digest: "` + digest + `"}
imagePullSecrets: [{name: registry}]
fullnameOverride: koi
crds: {keep: false}
serviceAccount: {name: runner, annotations: {example.org/role: koi}}
labels: {team: knowledge}
annotations: {example.org/owner: knowledge}
podLabels: {sidecar: "off"}
podAnnotations: {example.org/scan: "true"}
resyncInterval: 30s
log: {level: debug, format: text}
extraArgs: [--workers=16]
extraEnv: [{name: GOMEMLIMIT, value: 400MiB}]
resources: {limits: {memory: 1Gi}}
`)},
	{"coordinator-defaults", coordinator("")},
	{"coordinator-ingress", coordinator(`
ingress: {enabled: true, className: nginx, host: koi.example.org, annotations: {example.org/body: 16m}, tls: {enabled: true, secretName: koi-tls}}
labels: {team: knowledge}
annotations: {example.org/owner: knowledge}
test: {enabled: false}
`)},
	{"coordinator-gateway", coordinator(`
gateway: {enabled: true, host: koi.example.org, path: /net, parentRefs: [{name: public, namespace: gateways}]}
test: {enabled: false}
`)},
	{"coordinator-first-edges", coordinator(`
name: hub
coordinator:
  edges: {approval: Manual}
  security: {unsignedPeers: Deny, allowedPeerCIDRs: [10.0.0.0/8]}
  networkPolicy: {enabled: true, from: [{namespaceSelector: {}}]}
  storage: {size: 10Gi, storageClassName: fast}
  resources: {limits: {memory: 1Gi}}
nodes:
- {name: sensor, spec: {provides: {event: [orn:example.note], state: [orn:example.note]}}}
- {name: far, spec: {external: {rid: "orn:koi-net.node:far+0", baseURL: "https://far.example.org/koi-net"}}}
- {name: reader, labels: {who: reads}, spec: {nodeType: Partial, interests: []}}
edges:
- {name: sensor-to-reader, spec: {source: {nodeRef: {name: sensor}}, target: {nodeRef: {name: reader}}, ridTypes: [orn:example.note], approval: Approved}}
test: {image: {digest: "` + digest + `"}}
`)},
	{"coordinator-ephemeral", coordinator(`{coordinator: {storage: {ephemeral: true}, interests: []}, test: {enabled: false}}`)},
}

// short leaves out of a golden file what stands word for word in config/, which
// TestSameAsConfig sees to.
func short(o object) object {
	switch o.kind() {
	case "CustomResourceDefinition", "PrometheusRule":
		o["spec"] = "as in config/"
	case "ConfigMap":
		for key := range asMap(o["data"]) {
			asMap(o["data"])[key] = "as in config/"
		}
	}
	return o
}

func TestGoldens(t *testing.T) {
	for _, tt := range goldens {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got bytes.Buffer
			for _, o := range tt.render(t) {
				text, err := yaml.Marshal(short(o))
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&got, "---\n%s", text)
			}
			file := filepath.Join("testdata", tt.name+".yaml")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil || got.String() != string(want) {
				t.Errorf("%s differs (%v); see git diff after go test ./hack/charts -update. Now:\n%s", file, err, got.String())
			}
		})
	}
}

// A chart is used where there is nothing of the repository but the package.
func TestPackagedAlone(t *testing.T) {
	for _, r := range []release{operator(""), coordinator("")} {
		t.Run(r.chart, func(t *testing.T) {
			t.Parallel()
			want, err := r.template(t)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			c := client(t)
			if _, err := c.Run(t.Context(), "package", filepath.Join(root, r.chart), "--destination", dir); err != nil {
				t.Fatal(err)
			}
			archive := filepath.Join(dir, filepath.Base(r.chart)+"-"+versionsOf(t, r.chart).Version+".tgz")
			// What Kubernetes stores of a release, all of the chart, has to fit a Secret.
			if info, err := os.Stat(archive); err != nil || info.Size() > 256<<10 {
				t.Errorf("the package: %v, %v", info, err)
			}
			r.chart = archive
			got, err := r.template(t)
			if err != nil || got != want {
				t.Errorf("the package renders another thing than its directory: %v", err)
			}
			if _, err := c.Run(t.Context(), "lint", "--strict", archive); err != nil {
				t.Error(err)
			}
		})
	}
}
