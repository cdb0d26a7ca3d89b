package flux

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kstatus "sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// script returns what Argo CD is to judge a kind with.
func script(t *testing.T, kind string) string {
	t.Helper()
	s := text(objects(t, read(t, example+"/argocd/argocd-cm.yaml"))[0], "data", "resource.customizations.health."+kind)
	if s == "" {
		t.Fatalf("there is no health customisation of %s", kind)
	}
	return s
}

// judge runs a script as Argo CD does: with the object as obj, and no library that
// Argo CD does not open.
func judge(t *testing.T, script string, object map[string]any) (status, message string) {
	t.Helper()
	l := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer l.Close()
	l.SetContext(t.Context())
	for name, open := range map[string]lua.LGFunction{"": lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := l.CallByParam(lua.P{Fn: l.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			t.Fatal(err)
		}
	}
	l.SetGlobal("obj", value(l, object))
	if err := l.DoString(script); err != nil {
		t.Fatalf("%v: %v", object, err)
	}
	verdict, ok := l.Get(-1).(*lua.LTable)
	if !ok {
		t.Fatalf("%v: the script returned %s", object, l.Get(-1))
	}
	return lua.LVAsString(verdict.RawGetString("status")), lua.LVAsString(verdict.RawGetString("message"))
}

// value makes a Lua value of a JSON one.
func value(l *lua.LState, v any) lua.LValue {
	switch v := v.(type) {
	case map[string]any:
		out := l.NewTable()
		for k, e := range v {
			out.RawSetString(k, value(l, e))
		}
		return out
	case []any:
		out := l.NewTable()
		for _, e := range v {
			out.Append(value(l, e))
		}
		return out
	case string:
		return lua.LString(v)
	case bool:
		return lua.LBool(v)
	case int64:
		return lua.LNumber(v)
	case float64:
		return lua.LNumber(v)
	}
	return lua.LNil
}

// verdicts are Argo CD's words for those of kstatus.
var verdicts = map[kstatus.Status]string{
	kstatus.CurrentStatus: "Healthy", kstatus.InProgressStatus: "Progressing", kstatus.TerminatingStatus: "Progressing", kstatus.FailedStatus: "Degraded",
}

// agree sees that Argo CD judges an object as kstatus does.
func agree(t *testing.T, o *unstructured.Unstructured) (verdict, message string) {
	t.Helper()
	result, err := kstatus.Compute(o)
	if err != nil {
		t.Fatal(err)
	}
	verdict, message = judge(t, script(t, "koi-net.io_"+o.GetKind()), o.Object)
	if want := verdicts[result.Status]; verdict != want || want == "" {
		t.Errorf("%s %s: Argo CD says %q (%s), kstatus %s: %v", o.GetKind(), o.GetName(), verdict, message, result.Status, o.Object["status"])
	}
	return verdict, message
}

// reasons are the constants of the API.
func reasons(t *testing.T) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "api", "v1alpha1", "conditions.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		for i := 0; ok && i < len(v.Names); i++ {
			if lit, isLit := v.Values[i].(*ast.BasicLit); isLit && strings.HasPrefix(v.Names[i].Name, "Reason") {
				s, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, s)
			}
		}
		return true
	})
	if len(out) < 30 {
		t.Fatalf("found the reasons %v only", out)
	}
	return out
}

// condition is one as the operator writes it.
func condition(kind, status, reason string) any {
	return map[string]any{"type": kind, "status": status, "reason": reason, "message": "why", "observedGeneration": int64(3)}
}

// Argo CD judges as kstatus does whatever the operator may write: each manner of rest
// with each reason, beside whatever other conditions, seen or not, going or not.
func TestHealthIsThatOfKstatus(t *testing.T) {
	manners := map[string]func(reason string) []any{
		"Healthy":   func(r string) []any { return []any{condition("Ready", "True", r)} },
		"suspended": func(r string) []any { return []any{condition("Suspended", "True", r)} },
		"Progressing": func(r string) []any {
			return []any{condition("Ready", "False", r), condition("Reconciling", "True", r)}
		},
		"Degraded": func(r string) []any { return []any{condition("Ready", "False", r), condition("Stalled", "True", r)} },
	}
	beside := [][]any{nil,
		{condition("FirstContactReached", "False", "NotReached"), condition("UpgradeAvailable", "True", "UpgradePending"), condition("StoreReplaced", "True", "StoreReplaced")},
	}
	for _, kind := range []string{"KoiNode", "KoiEdge"} {
		for manner, conditions := range manners {
			for _, reason := range reasons(t) {
				for _, more := range beside {
					for _, generation := range []int64{3, 4} {
						for _, going := range []bool{false, true} {
							o := &unstructured.Unstructured{Object: map[string]any{
								"apiVersion": "koi-net.io/v1alpha1", "kind": kind,
								"metadata": map[string]any{"name": fmt.Sprintf("%s for %s", manner, reason), "generation": generation},
								"status":   map[string]any{"observedGeneration": int64(3), "conditions": slices.Concat(conditions(reason), more)},
							}}
							if going {
								o.Object["metadata"].(map[string]any)["deletionTimestamp"] = "2026-01-02T03:04:05Z"
							}
							verdict, message := agree(t, o)
							if generation == 4 || going {
								continue
							}
							if manner != "suspended" && verdict != manner || message != reason+": why" {
								t.Errorf("%s: %s, %q", o.GetName(), verdict, message)
							}
						}
					}
				}
			}
		}
	}
}

// What no operator has seen is not healthy; so do the definitions default it.
func TestHealthOfWhatIsNotSeen(t *testing.T) {
	for _, kind := range []string{"KoiNode", "KoiEdge"} {
		o := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "koi-net.io/v1alpha1", "kind": kind, "metadata": map[string]any{"name": "new", "generation": int64(1)},
			"status": map[string]any{"observedGeneration": int64(-1)},
		}}
		if verdict, _ := agree(t, o); verdict != "Progressing" {
			t.Errorf("a new %s is %s", kind, verdict)
		}
		delete(o.Object, "status")
		if verdict, _ := judge(t, script(t, "koi-net.io_"+kind), o.Object); verdict != "Progressing" {
			t.Errorf("a %s without a status is %s", kind, verdict)
		}
	}
}

// Objects as an API server stored them are judged alike.
func TestHealthOfStoredObjects(t *testing.T) {
	seen := map[string]int{}
	for _, o := range objects(t, read(t, "controllers/testdata/v0/objects.yaml")) {
		if k := o.GetKind(); k == "KoiNode" || k == "KoiEdge" {
			verdict, _ := agree(t, o)
			seen[k+" "+verdict]++
		}
	}
	for _, want := range []string{"KoiNode Healthy", "KoiEdge Healthy", "KoiEdge Progressing"} {
		if seen[want] == 0 {
			t.Errorf("none is %s: %v", want, seen)
		}
	}
}

// Sync waves wait for an Application's own health.
func TestHealthOfApplications(t *testing.T) {
	s := script(t, "argoproj.io_Application")
	for _, tt := range []struct {
		status map[string]any
		want   string
	}{
		{nil, "Progressing"},
		{map[string]any{"sync": map[string]any{}}, "Progressing"},
		{map[string]any{"health": map[string]any{"status": "Healthy"}}, "Healthy"},
		{map[string]any{"health": map[string]any{"status": "Degraded", "message": "why"}}, "Degraded"},
	} {
		o := map[string]any{"metadata": map[string]any{"name": "a"}}
		if tt.status != nil {
			o["status"] = tt.status
		}
		if got, _ := judge(t, s, o); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.status, got, tt.want)
		}
	}
}
