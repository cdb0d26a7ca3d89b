package metrics

import (
	"context"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Client makes a client whose writes are counted, each once, whatever becomes
// of it.
func (m *Metrics) Client(c client.Client) client.Client { return counting{Client: c, metrics: m} }

type counting struct {
	client.Client
	metrics *Metrics
}

func (c counting) Create(ctx context.Context, o client.Object, opts ...client.CreateOption) error {
	c.metrics.wrote(o, "", "create")
	return c.Client.Create(ctx, o, opts...)
}

func (c counting) Update(ctx context.Context, o client.Object, opts ...client.UpdateOption) error {
	c.metrics.wrote(o, "", "update")
	return c.Client.Update(ctx, o, opts...)
}

func (c counting) Patch(ctx context.Context, o client.Object, p client.Patch, opts ...client.PatchOption) error {
	c.metrics.wrote(o, "", "patch")
	return c.Client.Patch(ctx, o, p, opts...)
}

func (c counting) Apply(ctx context.Context, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
	c.metrics.wrote(o, "", "apply")
	return c.Client.Apply(ctx, o, opts...)
}

func (c counting) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	c.metrics.wrote(o, "", "delete")
	return c.Client.Delete(ctx, o, opts...)
}

func (c counting) DeleteAllOf(ctx context.Context, o client.Object, opts ...client.DeleteAllOfOption) error {
	c.metrics.wrote(o, "", "deletecollection")
	return c.Client.DeleteAllOf(ctx, o, opts...)
}

func (c counting) Status() client.SubResourceWriter {
	return countingStatus{SubResourceWriter: c.Client.Status(), metrics: c.metrics}
}

// countingStatus counts writes of a status; only patches are made.
type countingStatus struct {
	client.SubResourceWriter
	metrics *Metrics
}

func (c countingStatus) Patch(ctx context.Context, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
	c.metrics.wrote(o, "/status", "patch")
	return c.SubResourceWriter.Patch(ctx, o, p, opts...)
}

func (c countingStatus) Update(ctx context.Context, o client.Object, opts ...client.SubResourceUpdateOption) error {
	c.metrics.wrote(o, "/status", "update")
	return c.SubResourceWriter.Update(ctx, o, opts...)
}

func (m *Metrics) wrote(o any, sub, verb string) {
	m.writes.WithLabelValues(kindOf(o)+sub, verb).Inc()
}

// kindOf names the kind of an object or apply configuration.
func kindOf(o any) string {
	// An object that says its kind: unstructured ones, and configurations made of them.
	if k, ok := o.(interface{ GetKind() string }); ok {
		return k.GetKind()
	}
	t := reflect.TypeOf(o)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Name()
}
