// Validate holds custom resources to their definitions as the API server does:
// unknown fields, schema, CEL rules. Standard input is
//
//	{"definitions": [CustomResourceDefinition...], "objects": [OBJECT...]}
//
// and standard output a list of problems for each object, null for one whose kind
// none of the definitions has, [] for one that is right. It is a module of its own
// so that the operator's does not grow by what only this needs.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "k8s.io/apimachinery/pkg/util/json"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

func main() {
	if err := run(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "validate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	var request struct {
		Definitions []v1.CustomResourceDefinition `json:"definitions"`
		Objects     []map[string]any              `json:"objects"`
	}
	if err := kjson.Unmarshal(text, &request); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	known := map[string]*kind{}
	for i := range request.Definitions {
		if err := compile(&request.Definitions[i], known); err != nil {
			return fmt.Errorf("definition %s: %w", request.Definitions[i].Name, err)
		}
	}
	answer := make([][]string, len(request.Objects))
	for i, content := range request.Objects {
		o := unstructured.Unstructured{Object: content}
		if k, ok := known[o.GetAPIVersion()+" "+o.GetKind()]; ok {
			answer[i] = k.problems(ctx, content)
		}
	}
	return json.NewEncoder(out).Encode(answer)
}

// kind is one version of a kind.
type kind struct {
	structural *schema.Structural
	schema     validation.SchemaValidator
	rules      *cel.Validator
}

func compile(d *v1.CustomResourceDefinition, into map[string]*kind) error {
	for _, v := range d.Spec.Versions {
		if v.Schema == nil {
			return fmt.Errorf("version %s has no schema", v.Name)
		}
		var props apiextensions.JSONSchemaProps
		if err := v1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, &props, nil); err != nil {
			return err
		}
		structural, err := schema.NewStructural(&props)
		if err != nil {
			return err
		}
		validator, _, err := validation.NewSchemaValidator(&props)
		if err != nil {
			return err
		}
		into[d.Spec.Group+"/"+v.Name+" "+d.Spec.Names.Kind] = &kind{structural, validator, cel.NewValidator(structural, true, celconfig.PerCallLimit)}
	}
	return nil
}

// problems says what is wrong with an object, which it changes.
func (k *kind) problems(ctx context.Context, content map[string]any) []string {
	out := []string{}
	for _, path := range pruning.PruneWithOptions(content, k.structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		out = append(out, path+": unknown field")
	}
	defaulting.Default(content, k.structural)
	for _, err := range validation.ValidateCustomResource(nil, content, k.schema) {
		out = append(out, err.Error())
	}
	errs, _ := k.rules.Validate(ctx, nil, k.structural, content, nil, celconfig.RuntimeCELCostBudget)
	for _, err := range errs {
		out = append(out, err.Error())
	}
	return out
}
