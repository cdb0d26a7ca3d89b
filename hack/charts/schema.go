package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"

	"sigs.k8s.io/yaml"
)

// specs are the definitions in the schema of the coordinator's chart that are made
// from the custom resources: a value that the API server would refuse for its form
// is refused before it gets there, as is a misspelt one, which it would drop.
var specs = map[string]string{
	"koiNodeSpec": "config/crd/bases/koi-net.io_koinodes.yaml",
	"koiEdgeSpec": "config/crd/bases/koi-net.io_koiedges.yaml",
}

// coordinatorSchema brings the definitions in the schema of the coordinator's chart
// up to date; the rest of it is written by hand.
func coordinatorSchema(repo fs.FS) ([]byte, error) {
	const file = coordinatorChart + "/values.schema.json"
	text, err := fs.ReadFile(repo, file)
	if err != nil {
		return nil, err
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	defs, ok := schema["$defs"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s has no $defs", file)
	}
	for name, crd := range specs {
		spec, err := specSchema(repo, crd)
		if err != nil {
			return nil, err
		}
		defs[name] = strict(spec)
	}
	out, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(out, '\n'), nil
}

// specSchema reads the schema of a custom resource's spec.
func specSchema(repo fs.FS, file string) (map[string]any, error) {
	text, err := fs.ReadFile(repo, file)
	if err != nil {
		return nil, err
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema struct {
						Properties struct {
							Spec map[string]any `json:"spec"`
						} `json:"properties"`
					} `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(crd.Spec.Versions) != 1 {
		return nil, fmt.Errorf("%s has %d versions: say which the chart makes", file, len(crd.Spec.Versions))
	}
	return crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties.Spec, nil
}

// strict makes a JSON Schema of a structural one, that takes no other properties.
// What is required is left to the API server, as the chart fills some of it in.
func strict(in map[string]any) map[string]any {
	out := map[string]any{}
	for key, v := range in {
		switch {
		case strings.HasPrefix(key, "x-kubernetes-"), key == "required", key == "default", key == "description",
			key == "format", key == "nullable":
		case key == "properties":
			properties := map[string]any{}
			for name, p := range asMap(v) {
				properties[name] = strict(asMap(p))
			}
			out[key] = properties
		case key == "items", key == "additionalProperties" && asMap(v) != nil:
			out[key] = strict(asMap(v))
		case key == "anyOf", key == "oneOf", key == "allOf":
			list, _ := v.([]any)
			var all []any
			for _, s := range list {
				all = append(all, strict(asMap(s)))
			}
			out[key] = all
		default:
			out[key] = v
		}
	}
	if _, closed := out["properties"]; closed && in["x-kubernetes-preserve-unknown-fields"] != true {
		out["additionalProperties"] = false
	}
	return out
}

func asMap(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}
