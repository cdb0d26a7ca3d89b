package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The table of values stands between these in a chart's README.
const (
	tableBegin = "<!-- values: made by go run ./hack/charts from values.yaml -->\n"
	tableEnd   = "<!-- values end -->\n"
)

// value is one that a person sets: a line of the table.
type value struct {
	path    []string
	text    string // what its comment says
	initial string // its default as JSON
}

// readme brings the table of values in a chart's README up to date.
func readme(repo fs.FS, chart string, made map[string][]byte) ([]byte, error) {
	text, err := fs.ReadFile(repo, chart+"/README.md")
	if err != nil {
		return nil, err
	}
	before, rest, ok1 := strings.Cut(string(text), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("%s/README.md lacks the lines %q and %q", chart, tableBegin, tableEnd)
	}
	schema, ok := made[chart+"/values.schema.json"]
	if !ok {
		if schema, err = fs.ReadFile(repo, chart+"/values.schema.json"); err != nil {
			return nil, err
		}
	}
	values, err := readValues(repo, chart, schema)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString(before + tableBegin + "| value | default | |\n|---|---|---|\n")
	for _, v := range values {
		fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", strings.Join(v.path, "."), cell(v.initial), cell(v.text))
	}
	b.WriteString(tableEnd + after)
	return []byte(b.String()), nil
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// readValues lists the values of a chart, each with its comment, in their order.
// What the schema knows no properties of is one value.
func readValues(repo fs.FS, chart string, schema []byte) ([]value, error) {
	text, err := fs.ReadFile(repo, chart+"/values.yaml")
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("%s/values.yaml: %w", chart, err)
	}
	var s map[string]any
	if err := json.Unmarshal(schema, &s); err != nil {
		return nil, fmt.Errorf("%s/values.schema.json: %w", chart, err)
	}
	if len(doc.Content) != 1 {
		return nil, fmt.Errorf("%s/values.yaml is empty", chart)
	}
	out, err := walk(doc.Content[0], s, s, nil)
	if err != nil {
		return nil, fmt.Errorf("%s/values.yaml: %w", chart, err)
	}
	return out, nil
}

// walk lists the values below a mapping.
func walk(n *yaml.Node, schema, whole map[string]any, above []string) ([]value, error) {
	var out []value
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		path := append(append([]string{}, above...), key.Value)
		known := property(schema, whole, key.Value)
		if known == nil {
			return nil, fmt.Errorf("%s is not in the schema", strings.Join(path, "."))
		}
		if val.Kind == yaml.MappingNode && known["properties"] != nil && len(val.Content) > 0 {
			below, err := walk(val, known, whole, path)
			if err != nil {
				return nil, err
			}
			out = append(out, below...)
			continue
		}
		v, err := leaf(path, key, val)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", strings.Join(path, "."), err)
		}
		out = append(out, v)
	}
	return out, nil
}

func leaf(path []string, key, val *yaml.Node) (value, error) {
	var comment []string
	for line := range strings.Lines(key.HeadComment) {
		comment = append(comment, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#")))
	}
	if len(comment) == 0 {
		return value{}, errors.New("it has no comment")
	}
	var v any
	if err := val.Decode(&v); err != nil {
		return value{}, err
	}
	initial, err := json.Marshal(v)
	if err != nil {
		return value{}, err
	}
	return value{path: path, text: strings.Join(comment, " "), initial: string(initial)}, nil
}

// property finds the schema of a property, references resolved.
func property(schema, whole map[string]any, name string) map[string]any {
	p := asMap(asMap(schema["properties"])[name])
	if ref, ok := p["$ref"].(string); ok {
		p = asMap(asMap(whole["$defs"])[strings.TrimPrefix(ref, "#/$defs/")])
	}
	return p
}
