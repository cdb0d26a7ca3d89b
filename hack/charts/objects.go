package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// sources are the manifests of config/ that the chart of the operator takes objects
// from, with the directory below files/ that they go into. What the chart's values
// shape, such as the Deployment, it has templates for; a test compares them.
var sources = []struct{ file, dir string }{
	{"config/crd/bases/koi-net.io_koiedges.yaml", "crds"},
	{"config/crd/bases/koi-net.io_koinodes.yaml", "crds"},
	{"config/rbac/approver_policy.yaml", "rbac"},
	{"config/rbac/leader_election_role.yaml", "rbac"},
	{"config/rbac/role.yaml", "rbac"},
	{"config/rbac/user_roles.yaml", "rbac"},
	{"config/monitoring/network_policy.yaml", "monitoring"},
	{"config/monitoring/node_podmonitor.yaml", "monitoring"},
	{"config/monitoring/operator_podmonitor.yaml", "monitoring"},
	{"config/monitoring/rules.yaml", "monitoring"},
}

// dashboard goes as it is.
const dashboard = "config/monitoring/dashboard.json"

// separator parts the documents of a file.
var separator = regexp.MustCompile(`(?m)^---\n`)

// objects makes the files of the operator's chart: one object each, word for word.
func objects(repo fs.FS) (map[string][]byte, error) {
	made := map[string][]byte{}
	for _, s := range sources {
		text, err := fs.ReadFile(repo, s.file)
		if err != nil {
			return nil, err
		}
		for _, doc := range separator.Split(string(text), -1) {
			name, err := fileName([]byte(doc))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.file, err)
			}
			if name == "" {
				continue
			}
			to := path.Join(operatorChart, "files", s.dir, name)
			if _, twice := made[to]; twice {
				return nil, fmt.Errorf("%s: there is another object for %s", s.file, to)
			}
			made[to] = fmt.Appendf(nil, "# Made by go run ./hack/charts from %s. Do not edit.\n%s", s.file, doc)
		}
	}
	text, err := fs.ReadFile(repo, dashboard)
	if err != nil {
		return nil, err
	}
	made[path.Join(operatorChart, "files", "monitoring", path.Base(dashboard))] = text
	return made, nil
}

// fileName names an object's file, "" for one that the chart has a template for.
func fileName(doc []byte) (string, error) {
	if len(bytes.TrimSpace(doc)) == 0 {
		return "", nil
	}
	var o struct {
		Kind     string `json:"kind"`
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if err := yaml.Unmarshal(doc, &o); err != nil {
		return "", err
	}
	switch {
	case o.Kind == "" || o.Metadata.Name == "":
		return "", fmt.Errorf("an object without kind or name: %q", doc)
	case o.Kind == "RoleBinding":
		return "", nil
	case o.Kind == "CustomResourceDefinition":
		return strings.TrimSuffix(o.Metadata.Name, ".koi-net.io") + ".yaml", nil
	}
	return strings.ToLower(o.Kind) + "-" + o.Metadata.Name + ".yaml", nil
}
