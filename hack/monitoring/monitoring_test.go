package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// rule is an alert of the PrometheusRule.
type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type group struct {
	Name  string `json:"name"`
	Rules []rule `json:"rules"`
}

type rules struct {
	Groups []group `json:"groups"`
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{root}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func readRules(t *testing.T) rules {
	t.Helper()
	var o struct {
		Spec rules `json:"spec"`
	}
	if err := yaml.Unmarshal(read(t, "config", "monitoring", "rules.yaml"), &o); err != nil {
		t.Fatal(err)
	}
	return o.Spec
}

func alerts(t *testing.T) []rule {
	t.Helper()
	var out []rule
	for _, g := range readRules(t).Groups {
		out = append(out, g.Rules...)
	}
	if len(out) < 20 {
		t.Fatalf("found %d alerts only", len(out))
	}
	return out
}

// dashboard is what the tests look at in it.
type dashboard struct {
	UID        string  `json:"uid"`
	Title      string  `json:"title"`
	Panels     []panel `json:"panels"`
	Templating struct {
		List []struct {
			Name       string `json:"name"`
			Type       string `json:"type"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
}

type panel struct {
	ID          int    `json:"id"`
	Type        string `json:"type"`
	Title       string `json:"title"`
	Description string `json:"description"`
	Datasource  struct {
		UID string `json:"uid"`
	} `json:"datasource"`
	GridPos struct {
		H, W, X, Y int
	} `json:"gridPos"`
	Targets []struct {
		Expr  string `json:"expr"`
		RefID string `json:"refId"`
	} `json:"targets"`
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	text := read(t, "config", "monitoring", "dashboard.json")
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, text, "", "  "); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSpace(indented.Bytes()), bytes.TrimSpace(text)) {
		t.Error("dashboard.json is not indented by two spaces")
	}
	return d
}

// queries are all PromQL of rules and dashboard, by where they stand.
func queries(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, a := range alerts(t) {
		out["alert "+a.Alert] = a.Expr
	}
	d := readDashboard(t)
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			// What Grafana puts in before it asks.
			out["panel "+p.Title+" "+target.RefID] = strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")
		}
	}
	for _, v := range d.Templating.List {
		if m := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(v.Definition); m != nil {
			out["variable "+v.Name] = fmt.Sprintf("count by (%s) (%s)", m[2], m[1])
		}
	}
	return out
}

// ofTarget are the labels that Prometheus gives every series of a job.
var ofTarget = map[string]family{
	`job="koi-operator"`: {"job": true, "instance": true, "pod": true, "namespace": true, "container": true},
	`job="koi-node"`:     {"job": true, "instance": true, "pod": true, "namespace": true, "container": true, "koinode": true},
}

func TestEveryMetricExists(t *testing.T) {
	jobs := map[string]known{`job="koi-operator"`: ofOperator(t), `job="koi-node"`: ofNode(t)}
	all := queries(t)
	names := slices.Sorted(maps.Keys(all))
	var texts []string
	for _, n := range names {
		texts = append(texts, all[n])
	}
	parsed, _ := inspect(t, texts, nil)
	seen := 0
	for i, name := range names {
		e := parsed[i]
		if e.Error != "" {
			t.Errorf("%s: %s", name, e.Error)
			continue
		}
		labels := family{"le": true}
		for _, s := range e.Selectors {
			seen++
			maps.Copy(labels, series(t, name, s, jobs, texts[i]))
		}
		for _, l := range e.Labels {
			if !labels[l] {
				t.Errorf("%s: none of its metrics has the label %s", name, l)
			}
		}
	}
	if seen < 60 {
		t.Errorf("found %d metrics in %d queries only", seen, len(names))
	}
}

// series holds a selector to what is registered and returns the labels it may have.
func series(t *testing.T, where string, s selector, jobs map[string]known, text string) family {
	t.Helper()
	labels := family{}
	found := false
	for job, have := range jobs {
		// A selector without a job is looked for in both.
		if slices.Contains(s.Labels, "job") && !strings.Contains(text, job) {
			continue
		}
		for name := range matching(s.Name, have) {
			found = true
			f, _ := have.find(name)
			maps.Copy(labels, f)
			maps.Copy(labels, ofTarget[job])
		}
		if s.Name == "up" {
			found = true
			maps.Copy(labels, ofTarget[job])
		}
	}
	if !found {
		t.Errorf("%s: nobody has the metric %s", where, s.Name)
		return labels
	}
	for _, l := range s.Labels {
		if l != "le" && !labels[l] {
			t.Errorf("%s: %s has no label %s", where, s.Name, l)
		}
	}
	return labels
}

// matching are the metrics that a name, or an anchored pattern, means.
func matching(name string, have known) map[string]bool {
	out := map[string]bool{}
	if _, ok := have.find(name); ok {
		out[name] = true
		return out
	}
	pattern, err := regexp.Compile("^(?:" + name + ")$")
	if err != nil {
		return out
	}
	for n := range have {
		if pattern.MatchString(n) {
			out[n] = true
		}
	}
	return out
}

func TestAlertsHaveRunbooks(t *testing.T) {
	const url = "https://github.com/koi-net/koi-operator/blob/main/docs/runbooks.md#"
	sections := map[string]string{}
	name := ""
	for line := range strings.Lines(string(read(t, "docs", "runbooks.md"))) {
		if title, ok := strings.CutPrefix(line, "### "); ok {
			name = strings.TrimSpace(title)
		} else if name != "" {
			sections[name] += line
		}
	}
	for _, a := range alerts(t) {
		text, ok := sections[a.Alert]
		if !ok {
			t.Errorf("%s has no section in docs/runbooks.md", a.Alert)
			continue
		}
		delete(sections, a.Alert)
		for _, part := range []string{"**Means:**", "**Look at:**", "**Do:**"} {
			if strings.Count(text, part) != 1 {
				t.Errorf("the runbook of %s has no %s", a.Alert, part)
			}
		}
		if want := url + strings.ToLower(a.Alert); a.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url %q, want %q", a.Alert, a.Annotations["runbook_url"], want)
		}
		if a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s has no summary or description", a.Alert)
		}
		if s := a.Labels["severity"]; !slices.Contains([]string{"critical", "warning", "info"}, s) {
			t.Errorf("%s: severity %q", a.Alert, s)
		}
	}
	for name := range sections {
		t.Errorf("docs/runbooks.md has %s, which is no alert", name)
	}
}

// promtool runs it in a directory with the rules as Prometheus reads them.
func promtool(t *testing.T, r rules, more map[string][]byte, args ...string) {
	t.Helper()
	path := program(t, "promtool")
	dir := t.TempDir()
	text, err := yaml.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"rules.yaml": text}
	maps.Copy(files, more)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestPromtoolTakesTheRules(t *testing.T) {
	promtool(t, readRules(t), nil, "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")
}

func TestAlertsFireWhenTheyShould(t *testing.T) {
	text := read(t, "config", "monitoring", "tests", "rules_test.yaml")
	for _, a := range alerts(t) {
		if !regexp.MustCompile(`alertname: ` + a.Alert + `\n    exp_alerts:`).Match(text) {
			t.Errorf("no test has %s fire", a.Alert)
		}
	}
	r := readRules(t)
	for _, g := range r.Groups {
		for i := range g.Rules {
			g.Rules[i].Annotations = nil // which promtool would compare, word for word
		}
	}
	promtool(t, r, map[string][]byte{"rules_test.yaml": text}, "test", "rules", "rules_test.yaml")
}

func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	if d.UID == "" || d.Title == "" {
		t.Error("it has no uid or title")
	}
	ids, titles, taken := map[int]bool{}, map[string]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || titles[p.Title] || p.Title == "" {
			t.Errorf("panel %d %q: there is another of that id or title", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("panel %q lies over %q or beside the grid", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("panel %q lacks a description, the data source or a query", p.Title)
		}
	}
	if len(d.Panels) < 20 {
		t.Errorf("%d panels only", len(d.Panels))
	}
}

// What kustomize makes of it is what the Prometheus Operator takes, and it is
// no part of what is installed by default.
func TestComponent(t *testing.T) {
	const own = "apiVersion: monitoring.coreos.com/v1\n"
	rendered := string(kustomize(t, "config/monitored"))
	var objects []string
	for o := range strings.SplitSeq(rendered, "\n---\n") {
		if strings.HasPrefix(o, own) {
			objects = append(objects, o)
		}
	}
	if len(objects) != 3 {
		t.Errorf("%d objects for the Prometheus Operator, want 3", len(objects))
	}
	_, wrong := inspect(t, nil, objects)
	for i, w := range wrong {
		if w != "" {
			t.Errorf("%s\n%s", w, objects[i])
		}
	}
	for _, want := range []string{"--metrics-bind-address=:8080", "containerPort: 8080", `grafana_dashboard: "1"`, `"uid": "koi-net"`} {
		if !strings.Contains(rendered, want) {
			t.Errorf("there is no %s in it", want)
		}
	}
	if strings.Contains(string(kustomize(t, "config/default")), "monitoring.coreos.com") {
		t.Error("config/default has monitoring in it")
	}
}
