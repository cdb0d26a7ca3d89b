package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// Request is what to look at.
type Request struct {
	// Expressions are PromQL.
	Expressions []string `json:"expressions"`
	// Objects are custom resources as YAML.
	Objects []string `json:"objects"`
}

// Answer has an element for each of the Request.
type Answer struct {
	Expressions []Expression `json:"expressions"`
	// Objects are what is wrong with them, "" for nothing.
	Objects []string `json:"objects"`
}

// Expression is what an expression asks for.
type Expression struct {
	Error     string     `json:"error,omitempty"`
	Selectors []Selector `json:"selectors"`
	// Labels are those it groups, joins or counts by.
	Labels []string `json:"labels"`
}

// Selector is one metric and the labels it is selected by.
type Selector struct {
	Name   string   `json:"name"`
	Labels []string `json:"labels"`
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "inspect:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	var request Request
	if err := json.NewDecoder(in).Decode(&request); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	var answer Answer
	for _, text := range request.Expressions {
		answer.Expressions = append(answer.Expressions, inspect(text))
	}
	for _, text := range request.Objects {
		said := ""
		if err := check([]byte(text)); err != nil {
			said = err.Error()
		}
		answer.Objects = append(answer.Objects, said)
	}
	return json.NewEncoder(out).Encode(answer)
}

func inspect(text string) Expression {
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		return Expression{Error: err.Error()}
	}
	var e Expression
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			e.Selectors = append(e.Selectors, selector(n))
		case *parser.AggregateExpr:
			e.Labels = append(e.Labels, n.Grouping...)
		case *parser.BinaryExpr:
			if m := n.VectorMatching; m != nil {
				e.Labels = append(append(e.Labels, m.MatchingLabels...), m.Include...)
			}
		}
		return nil
	})
	return e
}

func selector(v *parser.VectorSelector) Selector {
	s := Selector{Name: v.Name}
	for _, m := range v.LabelMatchers {
		switch {
		case m.Name != labels.MetricName:
			s.Labels = append(s.Labels, m.Name)
		case s.Name == "":
			s.Name = m.Value
		}
	}
	return s
}

// check holds a custom resource to its type: no unknown fields.
func check(text []byte) error {
	var kind struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal(text, &kind); err != nil {
		return err
	}
	if want := monitoringv1.SchemeGroupVersion.String(); kind.APIVersion != want {
		return fmt.Errorf("apiVersion %q, want %q", kind.APIVersion, want)
	}
	known := map[string]any{
		monitoringv1.PodMonitorsKind:     &monitoringv1.PodMonitor{},
		monitoringv1.PrometheusRuleKind:  &monitoringv1.PrometheusRule{},
		monitoringv1.ServiceMonitorsKind: &monitoringv1.ServiceMonitor{},
	}
	into, ok := known[kind.Kind]
	if !ok {
		return fmt.Errorf("kind %q is not known here", kind.Kind)
	}
	return yaml.UnmarshalStrict(bytes.TrimSpace(text), into)
}
