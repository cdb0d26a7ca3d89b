package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// sections are the paths of a values.yaml below which the names are the chart's:
// "" and every mapping of which the schema knows the properties.
func sections(t *testing.T, chart string) []string {
	t.Helper()
	values, err := readValues(repo(), chart, read(t, chart+"/values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{"": true}
	for _, v := range values {
		for i := range v.path[:len(v.path)-1] {
			found[strings.Join(v.path[:i+1], ".")] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// with is YAML with a value at a path.
func with(t *testing.T, path, key string, v any) string {
	t.Helper()
	in := map[string]any{key: v}
	for _, p := range slices.Backward(strings.FieldsFunc(path, func(c rune) bool { return c == '.' })) {
		in = map[string]any{p: in}
	}
	text, err := yaml.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTyposAreRefused(t *testing.T) {
	const typo = "mispelt"
	for chart, of := range map[string]func(string) release{operatorChart: operator, coordinatorChart: coordinator} {
		all := sections(t, chart)
		if len(all) < 8 {
			t.Fatalf("%s has %d sections only", chart, len(all))
		}
		for _, section := range all {
			t.Run(chart+"/"+section, func(t *testing.T) {
				t.Parallel()
				if _, err := of(with(t, section, typo, true)).template(t); err == nil || !strings.Contains(err.Error(), typo) {
					t.Errorf("a typo in %q: %v", section, err)
				}
			})
		}
	}
	// Where values hold lists and custom resources.
	for i, values := range []string{
		`nodes: [{name: a, mispelt: true}]`,
		`nodes: [{name: a, spec: {mispelt: true}}]`,
		`nodes: [{name: a, spec: {provides: {mispelt: []}}}]`,
		`nodes: [{name: a, spec: {firstContact: {nodeRef: {name: b, mispelt: c}}}}]`,
		`edges: [{name: a, spec: {}, mispelt: true}]`,
		`edges: [{name: a, spec: {mispelt: true}}]`,
		`edges: [{name: a, spec: {source: {mispelt: {name: b}}}}]`,
		`coordinator: {service: {mispelt: a}}`,
		`coordinator: {resources: {mispelt: {}}}`,
		`gateway: {parentRefs: [{name: a, mispelt: b}]}`,
		`test: {imagePullSecrets: [{mispelt: b}]}`,
	} {
		t.Run(fmt.Sprintf("list %d", i), func(t *testing.T) {
			t.Parallel()
			if _, err := coordinator(values).template(t); err == nil || !strings.Contains(err.Error(), "mispelt") {
				t.Errorf("%s: %v", values, err)
			}
		})
	}
}

// Every value that the schema has by hand is in values.yaml, and so in the README.
func TestSchemaHasNoMore(t *testing.T) {
	for _, chart := range []string{operatorChart, coordinatorChart} {
		var schema, values map[string]any
		if err := json.Unmarshal(read(t, chart+"/values.schema.json"), &schema); err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(read(t, chart+"/values.yaml"), &values); err != nil {
			t.Fatal(err)
		}
		delete(asMap(schema["properties"]), "global") // Helm's own
		less(t, chart, schema, values)
	}
}

func less(t *testing.T, where string, schema, values map[string]any) {
	t.Helper()
	if schema["additionalProperties"] != false {
		t.Errorf("%s takes any name", where)
	}
	for name, p := range asMap(schema["properties"]) {
		v, ok := values[name]
		if !ok {
			t.Errorf("%s.%s is in the schema alone", where, name)
		}
		if asMap(p)["properties"] != nil {
			less(t, where+"."+name, asMap(p), asMap(v))
		}
	}
}

func TestRefusals(t *testing.T) {
	bare := coordinator("")
	bare.args = nil
	noRoutes := coordinator(`gateway: {enabled: true, host: a.example.org, parentRefs: [{name: b}]}`)
	noRoutes.args = known[:1]
	for _, tt := range []struct {
		name string
		release
		want string
	}{
		{"no operator", bare, "helm install koi-operator"},
		{"no Gateway API", noRoutes, "has no HTTPRoutes"},
		{"two that work on the same", operator(`{replicas: 2, leaderElection: {enabled: false}}`), "leaderElection.enabled=true"},
		{"a digest that is none", operator(`{image: {digest: "sha256:abc"}}`), "digest"},
		{"a tag that is none", operator(`{nodeImage: {tag: "a b"}}`), "tag"},
		{"a level that is none", operator(`{log: {level: loud}}`), "level"},
		{"a number as a label", operator(`{labels: {a: 1}}`), "labels"},
		{"an ingress without a host", coordinator(`{ingress: {enabled: true}}`), "host"},
		{"a route without a Gateway", coordinator(`{gateway: {enabled: true, host: a.example.org}}`), "parentRefs"},
		{"two URLs", coordinator(`{ingress: {enabled: true, host: a.example.org}, gateway: {enabled: true, host: b.example.org, parentRefs: [{name: c}]}}`), "coordinator.baseURL"},
		{"a coordinator elsewhere", coordinator(`{coordinator: {external: {rid: "orn:koi-net.node:a+b"}}}`), "coordinator.external cannot be set"},
		{"a partial coordinator", coordinator(`{coordinator: {nodeType: Partial}}`), "coordinator.nodeType cannot be set"},
		{"what the API refuses", coordinator(`{coordinator: {edges: {approval: automatic}}}`), "approval"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := tt.template(t); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that says %q", err, tt.want)
			}
		})
	}
}

func TestNotes(t *testing.T) {
	for _, tt := range []struct {
		release
		want []string
	}{
		{operator(""), []string{"in all namespaces", "helm install coordinator", "helm uninstall leaves"}},
		{operator(`{crds: {keep: false}, watchNamespaces: [a, b]}`), []string{"in a, b", "WARNING: crds.keep is false", "--namespace a\n"}},
		{operator(`{crds: {enabled: false}}`), []string{"not part of this release"}},
		{coordinator(`{checkOperator: false}`), []string{"helm test coordinator", "http://coordinator.koi-net.svc:8000/koi-net"}},
		{coordinator(`{checkOperator: false, coordinator: {edges: {approval: Manual}}, ingress: {enabled: true, host: a.example.org}}`), []string{"http://a.example.org/koi-net\n", `"approval":"Approved"`}},
	} {
		file := writeValues(t, tt.values)
		out, err := client(t).Run(t.Context(), "install", tt.name, root+"/"+tt.chart, "--namespace", tt.namespace, "--dry-run=client", "--values", file)
		if err != nil {
			t.Error(err)
		}
		_, notes, _ := strings.Cut(out, "\nNOTES:\n")
		for _, want := range tt.want {
			if !strings.Contains(notes, want) {
				t.Errorf("notes of %s with %s lack %q:\n%s", tt.chart, tt.values, want, notes)
			}
		}
	}
}
