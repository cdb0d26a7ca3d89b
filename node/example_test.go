package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/pipeline"
	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// A node is made with New, from a name and what it is to be, and runs until its
// context ends. What it knows stays in its data directory.
func Example() {
	dir, err := os.MkdirTemp("", "koi-example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	n, err := node.New(node.WithName("desk"), node.WithProvides("orn:example.note"),
		node.WithDataDir(dir), node.WithListen("127.0.0.1:0"))
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()

	_, err = n.Put(ctx, "orn:example.note:1", map[string]string{"text": "hello"}) // subscribers get a NEW
	fmt.Println("put:", err)
	b, err := n.Bundle(ctx, "orn:example.note:1")
	fmt.Println("held:", string(b.Contents), err)

	stop()
	fmt.Println("ended:", <-done)
	// Output:
	// put: <nil>
	// held: {"text":"hello"} <nil>
	// ended: <nil>
}

// with runs a node in a temporary directory while use works with it.
func with(use func(ctx context.Context, n *node.Node) error, options ...node.Option) {
	err := func() error {
		dir, err := os.MkdirTemp("", "koi-example")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		n, err := node.New(append(options, node.WithName("example"), node.WithDataDir(dir), node.WithListen("127.0.0.1:0"))...)
		if err != nil {
			return err
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		err = use(ctx, n)
		stop()
		return errors.Join(err, <-done)
	}()
	if err != nil {
		fmt.Println("error:", err)
	}
}

// Put takes any value that marshals to a JSON object. What is put again unchanged
// is no news: the manifest stays, and nobody is told.
func ExampleNode_Put() {
	with(func(ctx context.Context, n *node.Node) error {
		type note struct {
			Text string   `json:"text"`
			Tags []string `json:"tags"`
		}
		first, err := n.Put(ctx, "orn:example.note:1", note{"hello", []string{"greeting"}})
		if err != nil {
			return err
		}
		again, err := n.Put(ctx, "orn:example.note:1", json.RawMessage(`{"tags": ["greeting"], "text": "hello"}`))
		if err != nil {
			return err
		}
		fmt.Println("the same:", first == again)

		b, err := n.Bundle(ctx, "orn:example.note:1")
		if err != nil {
			return err
		}
		var held note
		if err := json.Unmarshal(b.Contents, &held); err != nil {
			return err
		}
		fmt.Println(b.Manifest.RID, held.Text, held.Tags)

		if err := n.Forget(ctx, "orn:example.note:1"); err != nil {
			return err
		}
		_, err = n.Bundle(ctx, "orn:example.note:1")
		fmt.Println("gone:", errors.Is(err, store.ErrNotFound))
		return nil
	})
	// Output:
	// the same: true
	// orn:example.note:1 hello [greeting]
	// gone: true
}

// RIDs goes through the cache, by type or all of it.
func ExampleNode_RIDs() {
	with(func(ctx context.Context, n *node.Node) error {
		for _, r := range []rid.RID{"orn:example.note:b", "orn:example.note:a", "orn:example.task:1"} {
			if _, err := n.Put(ctx, r, struct{}{}); err != nil {
				return err
			}
		}
		for r, err := range n.RIDs(ctx, "orn:example.note", "orn:example.task") {
			if err != nil {
				return err
			}
			fmt.Println(r)
		}
		return nil
	})
	// Output:
	// orn:example.note:a
	// orn:example.note:b
	// orn:example.task:1
}

// A handler sees knowledge on its way. This one counts the words of every note;
// the count commits together with the note.
func ExampleWithHandlers() {
	count := pipeline.Handler{
		Name:     "count-words",
		Phase:    pipeline.PhaseBundle,
		RIDTypes: []rid.Type{"orn:example.note"},
		Func: func(_ context.Context, c *pipeline.Context, o *pipeline.Object) error {
			var note struct{ Text string }
			if err := json.Unmarshal(o.Contents, &note); err != nil {
				return pipeline.Stop("UnreadableNote")
			}
			c.Handle(pipeline.Object{
				RID:      rid.RID("orn:example.word-count:" + o.RID.Reference()),
				Contents: fmt.Appendf(nil, `{"words":%d}`, len(strings.Fields(note.Text))),
			})
			return nil
		},
	}
	with(func(ctx context.Context, n *node.Node) error {
		if _, err := n.Put(ctx, "orn:example.note:1", map[string]string{"text": "all in all four"}); err != nil {
			return err
		}
		if err := n.Flush(ctx); err != nil { // what followed from it is done as well
			return err
		}
		b, err := n.Bundle(ctx, "orn:example.word-count:1")
		fmt.Println(string(b.Contents))
		return err
	}, node.WithHandlers(count))
	// Output: {"words":4}
}

// A Dereferencer makes the contents of RIDs that the node can resolve itself.
// Deref asks it for what is not in the cache, and keeps what it made.
func ExampleWithDeref() {
	upper := func(_ context.Context, r rid.RID) (any, error) {
		fmt.Println("resolving", r)
		if r.Reference() == "nothing" {
			return nil, fmt.Errorf("no such word: %w", store.ErrNotFound)
		}
		return map[string]string{"upper": strings.ToUpper(r.Reference())}, nil
	}
	with(func(ctx context.Context, n *node.Node) error {
		for range 2 {
			b, err := n.Deref(ctx, "orn:example.word:hello")
			if err != nil {
				return err
			}
			fmt.Println(string(b.Contents))
		}
		_, err := n.Deref(ctx, "orn:example.word:nothing")
		fmt.Println("found:", !errors.Is(err, store.ErrNotFound))
		return nil
	}, node.WithDeref(upper, "orn:example.word"))
	// Output:
	// resolving orn:example.word:hello
	// {"upper":"HELLO"}
	// {"upper":"HELLO"}
	// resolving orn:example.word:nothing
	// found: false
}

// SkipCache has a RID resolved anew; what became of it goes to subscribers.
func ExampleNode_Deref() {
	visits := 0
	counter := func(context.Context, rid.RID) (any, error) {
		visits++
		return map[string]int{"visits": visits}, nil
	}
	with(func(ctx context.Context, n *node.Node) error {
		for _, options := range [][]node.DerefOption{nil, nil, {node.SkipCache, node.SkipNetwork}} {
			b, err := n.Deref(ctx, "orn:example.page:1", options...)
			if err != nil {
				return err
			}
			fmt.Println(string(b.Contents))
		}
		return nil
	}, node.WithDeref(counter, "orn:example.page"))
	// Output:
	// {"visits":1}
	// {"visits":1}
	// {"visits":2}
}
