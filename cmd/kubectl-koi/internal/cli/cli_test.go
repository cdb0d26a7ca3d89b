package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clientfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/koi-net/koi-operator/api/v1alpha1"
	"github.com/koi-net/koi-operator/cmd/kubectl-koi/internal/reach"
	adminclient "github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// aNode is a node that answers from memory.
type aNode struct {
	held   map[rid.RID]json.RawMessage
	closed int
}

var errGone = errors.New("not found")

func (n *aNode) AllRIDs(_ context.Context, types []rid.Type) iter.Seq2[rid.RID, error] {
	return func(yield func(rid.RID, error) bool) {
		for r := range n.held {
			if (len(types) == 0 || r.Type() == types[0]) && !yield(r, nil) {
				return
			}
		}
	}
}

func (n *aNode) Bundle(_ context.Context, r rid.RID) (protocol.Bundle, error) {
	c, ok := n.held[r]
	if !ok {
		return protocol.Bundle{}, errGone
	}
	return protocol.Bundle{Manifest: protocol.Manifest{RID: r}, Contents: c}, nil
}

func (n *aNode) Put(_ context.Context, r rid.RID, c json.RawMessage) (adminclient.PutResult, error) {
	n.held[r] = c
	return adminclient.PutResult{}, nil
}

func (n *aNode) Forget(_ context.Context, r rid.RID) error {
	delete(n.held, r)
	return nil
}

func (n *aNode) Follow(_ context.Context, _ string, fn func(adminclient.Change) error, _ adminclient.FollowOptions) error {
	return fn(adminclient.Change{Kind: adminclient.ChangeBundle, Event: protocol.New, RID: "orn:x.y:\x1b1"})
}

func (n *aNode) Status(context.Context) (adminclient.Status, error) {
	return adminclient.Status{
		Version: "v9", Bundles: 3, Checks: []adminclient.Check{{Name: "store", Message: "the store is full"}},
		Queues: []adminclient.QueueStatus{{Peer: "orn:koi-net.node:far+1", Rows: 7, LastError: "connection refused"}},
	}, nil
}

// cluster is a fake one with a net in it.
type cluster struct {
	node    *aNode
	objects client.Client
	core    *fake.Clientset
}

const planted = "s3cr3t-of-somebody"

func newCluster(t *testing.T) *cluster {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "net", Name: name, Labels: map[string]string{
			v1alpha1.LabelNode: "sensor", "app.kubernetes.io/name": "koi-node", "app.kubernetes.io/managed-by": "koi-operator",
		}, Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: planted}}
	}
	sensor := &v1alpha1.KoiNode{ObjectMeta: meta("sensor")}
	sensor.Spec.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"containers":[{"name":"x","env":[{"name":"PW","value":"` + planted + `"}]}]}}`)}
	sensor.Status.Conditions = []metav1.Condition{
		{Type: "Ready", Status: "False", Reason: "StorageFull", Message: "the store is full: enlarge it"},
		{Type: "Stalled", Status: "True", Reason: "StorageFull", Message: "the store is full: enlarge it"},
		{Type: "FirstContactReached", Status: "False", Reason: "NotReached", Message: "it did not answer"},
	}
	edge := func(name, reason string, status v1alpha1.EdgeStatus) *v1alpha1.KoiEdge {
		e := &v1alpha1.KoiEdge{ObjectMeta: metav1.ObjectMeta{Namespace: "net", Name: name}}
		e.Spec.Source, e.Spec.Target = v1alpha1.EdgeEnd{RID: "orn:koi-net.node:sensor+1"}, v1alpha1.EdgeEnd{RID: "orn:koi-net.node:far+1"}
		e.Spec.RIDTypes = []v1alpha1.RIDType{"orn:x.y"}
		e.Status.Source, e.Status.Target, e.Status.Status, e.Status.RIDTypes = "sensor", "far", status, []string{"orn:x.y"}
		e.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: "False", Reason: reason}}
		return e
	}
	pod := &corev1.Pod{ObjectMeta: meta("sensor-1"), Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "node", Env: []corev1.EnvVar{{Name: "KOI_CONFIG_HASH", Value: "abc"}, {Name: "PW", Value: planted}},
	}}}, Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{
		Name: "node", RestartCount: 2, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off"}},
	}}}}
	deployment := &appsv1.Deployment{ObjectMeta: meta("sensor"), Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: *pod.Spec.DeepCopy()}}}
	secret := &corev1.Secret{ObjectMeta: meta("sensor-admin"), Data: map[string][]byte{"token": []byte(planted)}}
	event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "net", Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "KoiNode", Name: "sensor"}, Reason: "StorageFull", Message: "it\nis full"}
	suspended := &v1alpha1.KoiNode{ObjectMeta: metav1.ObjectMeta{Namespace: "net", Name: "old"}, Spec: v1alpha1.KoiNodeSpec{Suspend: true}}
	return &cluster{
		node: &aNode{held: map[rid.RID]json.RawMessage{"orn:x.y:1": json.RawMessage(`{"n":1}`), "orn:z.z:1": json.RawMessage(`{}`)}},
		objects: clientfake.NewClientBuilder().WithScheme(scheme).WithObjects(sensor, suspended, edge("waits", "AwaitingApproval", "Proposed"), edge("done", "Approved", "Approved"),
			pod.DeepCopy(), deployment, secret, event.DeepCopy()).Build(),
		core: fake.NewClientset(pod, secret, event),
	}
}

// koi runs a command.
func (c *cluster) koi(t *testing.T, stdin string, args ...string) (out string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &App{Version: "v1", In: strings.NewReader(stdin), Out: &stdout, Err: &stderr}
	a.Clients = func() (*Clients, error) {
		return &Clients{Namespace: "net", Objects: c.objects, Core: c.core, Node: func(ctx context.Context, n *v1alpha1.KoiNode) (Admin, string, func() error, error) {
			if n.Spec.Suspend {
				_, err := (&reach.Reacher{Client: c.core}).Node(ctx, n)
				return nil, "", nil, err
			}
			return c.node, "sensor-1", func() error { c.node.closed++; return nil }, nil
		}}, nil
	}
	root := a.Root()
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return stdout.String() + stderr.String(), err
}

func (c *cluster) says(t *testing.T, stdin string, args []string, words ...string) {
	t.Helper()
	out, err := c.koi(t, stdin, args...)
	if err != nil {
		t.Errorf("%v: %v", args, err)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("%v: no %q in\n%s", args, w, out)
		}
	}
}

func TestCommands(t *testing.T) {
	c := newCluster(t)
	c.says(t, "", []string{"graph"}, "sensor (StorageFull)", "far")
	c.says(t, "", []string{"graph", "-A", "-o", "dot"}, `"net/sensor"`)
	c.says(t, "", []string{"graph", "-o", "json"}, `"Nodes"`)
	c.says(t, "", []string{"edges"}, "waits", "AwaitingApproval", "done", "orn:x.y")
	if out, _ := c.koi(t, "", "edges", "--waiting"); strings.Contains(out, "done") || !strings.Contains(out, "waits") {
		t.Errorf("what waits:\n%s", out)
	}
	c.says(t, "", []string{"rids", "sensor", "--type", "orn:x.y"}, "orn:x.y:1\n")
	c.says(t, "", []string{"get", "sensor", "orn:x.y:1"}, `"n": 1`)
	c.says(t, "", []string{"get", "sensor", "orn:x.y:1", "-o", "yaml"}, `"n": 1`)
	c.says(t, `{"n":2}`, []string{"put", "sensor", "orn:x.y:2", "-"}, "orn:x.y:2 is held by sensor")
	c.says(t, "", []string{"forget", "sensor", "orn:x.y:2"}, "is forgotten")
	c.says(t, "", []string{"watch", "sensor"}, "NEW", "orn:x.y: 1\n")
	c.says(t, "", []string{"watch", "sensor", "-o", "json"}, `"rid":"orn:x.y:\u001b1"`)
	c.says(t, "", []string{"version"}, "v1\n")
	if c.node.closed < 7 {
		t.Errorf("%d ways to nodes were taken down", c.node.closed)
	}
}

func TestStatus(t *testing.T) {
	c := newCluster(t)
	c.says(t, "", []string{"status", "sensor"},
		"net/sensor is not Ready\n  StorageFull: the store is full: enlarge it\n  FirstContactReached=False",
		"pod sensor-1: Running, 2 restarts\n  node waits, CrashLoopBackOff: back-off",
		"store: the store is full", "7 events wait for orn:koi-net.node:far+1: connection refused", "StorageFull: it is full")
	c.says(t, "", []string{"status", "old"}, "was not asked", "suspended")
	c.says(t, "", []string{"status", "sensor", "-o", "json"}, `"ready": false`)
}

func TestDecisions(t *testing.T) {
	c := newCluster(t)
	approval := func(name string) v1alpha1.Approval {
		var e v1alpha1.KoiEdge
		if err := c.objects.Get(t.Context(), client.ObjectKey{Namespace: "net", Name: name}, &e); err != nil {
			t.Fatal(err)
		}
		return e.Spec.Approval
	}
	c.says(t, "", []string{"approve", "waits"}, "koiedge/waits approved")
	c.says(t, "", []string{"approve", "waits"}, "was approved already")
	if approval("waits") != v1alpha1.Approved || approval("done") != "" {
		t.Errorf("%q, %q", approval("waits"), approval("done"))
	}
	c.says(t, "", []string{"reject", "waits"}, "koiedge/waits rejected")
	c.says(t, "", []string{"approve", "--all-waiting"}, "koiedge/waits approved")
	if approval("done") != "" {
		t.Error("what does not wait was approved")
	}
}

func TestMistakesAreExplained(t *testing.T) {
	c := newCluster(t)
	for _, tt := range []struct{ args, want string }{
		{"approve", "name edges, or give --all-waiting"},
		{"approve waits --all-waiting", "name edges, or give --all-waiting"},
		{"approve nobody", "there is no KoiEdge nobody in namespace net; kubectl koi edges lists them"},
		{"status nobody", "there is no KoiNode nobody in namespace net; there are old, sensor"},
		{"rids old", "it is suspended; set spec.suspend to false"},
		{"get sensor orn:x.y:9", "node sensor: not found"},
		{"get sensor nonsense", "nonsense"},
		{"put sensor orn:x.y:1 -", "- does not hold JSON"},
		{"edges -o xml", "--output xml: use one of json, yaml"},
		{"rids sensor --type :", "--type"},
	} {
		if out, err := c.koi(t, "{", strings.Fields(tt.args)...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v\n%s", tt.args, err, out)
		}
	}
}

// A report has everything but secrets, and says what it could not have.
func TestReport(t *testing.T) {
	c := newCluster(t)
	file := filepath.Join(t.TempDir(), "r.tar.gz")
	c.says(t, "", []string{"report", "-f", file}, file)
	if _, err := c.koi(t, "", "report", "-f", file); !errors.Is(err, os.ErrExist) {
		t.Errorf("a file that is there: %v", err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{}
	for r := tar.NewReader(zipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		parts[strings.TrimPrefix(h.Name, "koi-report/")] = string(text)
		if strings.Contains(string(text), planted) || strings.Contains(string(text), "managedFields") {
			t.Errorf("a secret is in %s:\n%s", h.Name, text)
		}
	}
	for name, words := range map[string]string{
		"koinodes.yaml": "StorageFull", "koiedges.yaml": "AwaitingApproval", "pods.yaml": "value: abc", "deployments.yaml": "left out",
		"events.yaml": "is full", "nodes/net/sensor.json": "the store is full", "logs/net/sensor-1/node.log": "fake logs",
		"logs/net/sensor-1/node.previous.log": "fake logs", "errors.txt": "nodes/net/old.json: KoiNode old: the node does not run",
	} {
		if !strings.Contains(parts[name], words) {
			t.Errorf("%s: %q", name, parts[name])
		}
	}
}

func TestCompletion(t *testing.T) {
	c := newCluster(t)
	c.says(t, "", []string{"__complete", "approve", "wa"}, "waits\n")
	c.says(t, "", []string{"__complete", "status", ""}, "old\nsensor\n")
	c.says(t, "", []string{"__complete", "graph", "-o", ""}, "mermaid")
}
