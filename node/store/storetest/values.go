package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/koi-net/koi-operator/node/store"
)

var valueTests = []namedTest{
	{"values are kept, replaced, removed", testValues},
	{"Values come by prefix, in order", testValuesPrefix},
	{"what Values gave is the caller's", testValuesCopied},
	{"Values sees its own transaction", testValuesOwnWrites},
	{"Values bears changes under it", testValuesChanges},
	{"Values stops when told", testValuesBreak},
	{"Values of a view obeys its context", testValuesContext},
	{"Values is of no use afterwards", testValuesOver},
}

func testValues(e *env) {
	values := map[string][]byte{"a": []byte("1"), "b": {}, "a b/ü": {0, 1, 255}}
	e.update(func(w store.Writer) error {
		for name, value := range values {
			if err := w.PutValue(name, value); err != nil {
				return err
			}
		}
		return w.PutValue("a", []byte("1"))
	})
	e.reopen()
	e.view(func(r store.Reader) error {
		for name, want := range values {
			if got, err := r.Value(name); err != nil || string(got) != string(want) || got == nil {
				e.Errorf("Value(%q): %v, %v", name, got, err)
			}
		}
		if _, err := r.Value("none"); !errors.Is(err, store.ErrNotFound) {
			e.Errorf("Value of no name: %v", err)
		}
		return nil
	})
	e.check()
	for range 2 {
		e.update(func(w store.Writer) error { return w.PutValue("a", nil) })
	}
	e.view(func(r store.Reader) error {
		if _, err := r.Value("a"); !errors.Is(err, store.ErrNotFound) {
			e.Errorf("Value after removing it: %v", err)
		}
		return nil
	})
	if err := e.store().Update(e.Context(), func(w store.Writer) error { return w.PutValue("", []byte("x")) }); err == nil {
		e.Error("a value without a name was taken")
	}
}

// values lists what Values yields, as key=value.
func values(e *env, r store.Reader, prefix string) []string {
	e.Helper()
	var all []string
	for v, err := range r.Values(prefix) {
		if err != nil {
			e.Fatalf("Values(%q): %v", prefix, err)
		}
		if v.Value == nil {
			e.Errorf("Values(%q) yields %q with nil", prefix, v.Key)
		}
		all = append(all, v.Key+"="+string(v.Value))
	}
	return all
}

func (e *env) putValues(keys ...string) {
	e.Helper()
	e.update(func(w store.Writer) error {
		for _, key := range keys {
			if err := w.PutValue(key, []byte(strings.ToUpper(key))); err != nil {
				return err
			}
		}
		return nil
	})
}

func testValuesPrefix(e *env) {
	look := func(want map[string][]string) {
		e.Helper()
		e.view(func(r store.Reader) error {
			for prefix, want := range want {
				if got := values(e, r, prefix); !slices.Equal(got, want) {
					e.Errorf("Values(%q): %q, want %q", prefix, got, want)
				}
			}
			return nil
		})
	}
	look(map[string][]string{"": nil, "a": nil})
	e.putValues("b", "a/2", "a/10", "a", "a0", "a/1", "\xff\xff\x01", "\xff", "a/1/x")
	e.update(func(w store.Writer) error { return w.PutValue("a/empty", []byte{}) })
	want := map[string][]string{
		"":                           {"a=A", "a/1=A/1", "a/1/x=A/1/X", "a/10=A/10", "a/2=A/2", "a/empty=", "a0=A0", "b=B", "\xff=" + strings.ToUpper("\xff"), "\xff\xff\x01=" + strings.ToUpper("\xff\xff\x01")},
		"a/":                         {"a/1=A/1", "a/1/x=A/1/X", "a/10=A/10", "a/2=A/2", "a/empty="},
		"a/1":                        {"a/1=A/1", "a/1/x=A/1/X", "a/10=A/10"},
		"a/1/x":                      {"a/1/x=A/1/X"},
		"a/1/xy":                     nil,
		"A":                          nil,
		"c":                          nil,
		"\xff":                       {"\xff=" + strings.ToUpper("\xff"), "\xff\xff\x01=" + strings.ToUpper("\xff\xff\x01")},
		"\xff\xff\xff":               nil,
		strings.Repeat("a", 100_000): nil,
	}
	look(want)
	e.reopen()
	look(want)
	e.check()
}

func testValuesCopied(e *env) {
	e.putValues("a/1", "a/2")
	var kept []store.Value
	e.view(func(r store.Reader) error {
		kept = nil
		for v, err := range r.Values("") {
			if err != nil {
				return err
			}
			kept = append(kept, v)
		}
		return nil
	})
	for n := range 100 { // write over what they may alias
		e.update(func(w store.Writer) error {
			return errors.Join(w.PutValue("a/1", []byte(fmt.Sprint(n))), w.PutValue("a/2", nil), w.PutValue(fmt.Sprintf("b/%d", n), []byte(strings.Repeat("x", 500))))
		})
	}
	if len(kept) != 2 || kept[0].Key != "a/1" || string(kept[0].Value) != "A/1" || kept[1].Key != "a/2" || string(kept[1].Value) != "A/2" {
		e.Fatalf("became %q", kept)
	}
	e.view(func(r store.Reader) error {
		for v, err := range r.Values("a/") {
			if err != nil {
				return err
			}
			clear(v.Value)
		}
		if got := values(e, r, "a/"); !slices.Equal(got, []string{"a/1=99"}) {
			e.Errorf("Values: %q", got)
		}
		return nil
	})
}

func testValuesOwnWrites(e *env) {
	e.putValues("a/1", "a/2", "a/3")
	err := e.store().Update(e.Context(), func(w store.Writer) error {
		if err := errors.Join(w.PutValue("a/2", nil), w.PutValue("a/3", []byte("new")), w.PutValue("a/4", []byte("4")), w.PutValue("b", []byte("b"))); err != nil {
			return err
		}
		if got := values(e, w, "a/"); !slices.Equal(got, []string{"a/1=A/1", "a/3=new", "a/4=4"}) {
			e.Errorf("Values of own writes: %q", got)
		}
		return errTest
	})
	if !errors.Is(err, errTest) {
		e.Errorf("Update: %v", err)
	}
	e.view(func(r store.Reader) error {
		if got := values(e, r, ""); !slices.Equal(got, []string{"a/1=A/1", "a/2=A/2", "a/3=A/3"}) {
			e.Errorf("Values after a rollback: %q", got)
		}
		return nil
	})
}

func testValuesChanges(e *env) {
	name := func(n int) string { return fmt.Sprintf("a/%05d", n) }
	e.update(func(w store.Writer) error {
		for n := range 300 {
			if err := w.PutValue(name(n), []byte("old")); err != nil {
				return err
			}
		}
		return w.PutValue("b", []byte("other"))
	})
	e.update(func(w store.Writer) error {
		n := 0
		for v, err := range w.Values("a/") {
			if err != nil {
				return err
			}
			if v.Key != name(n) || n > 0 && string(v.Value) == "old" {
				e.Errorf("%q = %.10q was yielded where %q is due", v.Key, v.Value, name(n))
			}
			// Delete this one and the one after the next, write one that was
			// passed, and replace the next due.
			err := errors.Join(w.PutValue(v.Key, nil), w.PutValue(name(n+1), nil), w.PutValue("a/", []byte("passed")))
			if n += 2; err == nil && n < 300 {
				err = w.PutValue(name(n), []byte(strings.Repeat("y", 3000)))
			}
			if err != nil {
				return err
			}
		}
		if n != 300 {
			e.Errorf("%d of 300 values were passed", n)
		}
		if got := values(e, w, ""); !slices.Equal(got, []string{"a/=passed", "b=other"}) {
			e.Errorf("%d values are left, want two", len(got))
		}
		return nil
	})
	e.check()
}

func testValuesBreak(e *env) {
	e.putValues("a/1", "a/2", "a/3")
	e.view(func(r store.Reader) error {
		seq := r.Values("a/")
		for range 2 { // a sequence runs again from its beginning
			var got []string
			for v, err := range seq {
				if err != nil {
					return err
				}
				if got = append(got, v.Key); len(got) == 2 {
					break
				}
			}
			if !slices.Equal(got, []string{"a/1", "a/2"}) {
				e.Errorf("Values: %q", got)
			}
		}
		return nil
	})
}

func testValuesContext(e *env) {
	e.update(func(w store.Writer) error {
		for n := range 2000 {
			if err := w.PutValue(fmt.Sprintf("a/%05d", n), []byte("x")); err != nil {
				return err
			}
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen, failures := 0, 0
	err := e.store().View(ctx, func(r store.Reader) (failed error) {
		for _, err := range r.Values("a/") {
			if err != nil {
				failures++
				failed = err
				continue // an error is the last element
			}
			seen++
			cancel()
		}
		return failed
	})
	if !errors.Is(err, context.Canceled) || seen >= 2000 || failures != 1 {
		e.Errorf("View returned %v after %d values and %d errors", err, seen, failures)
	}
}

func testValuesOver(e *env) {
	e.putValues("a")
	var r store.Reader
	var w store.Writer
	e.view(func(got store.Reader) error { r = got; return nil })
	e.update(func(got store.Writer) error { w = got; return nil })
	for _, reader := range []store.Reader{r, w} {
		n := 0
		for _, err := range reader.Values("") {
			n++
			if err == nil {
				e.Error("Values still lists after its transaction")
			}
		}
		if n != 1 {
			e.Errorf("Values yielded %d elements after its transaction, want one error", n)
		}
	}
}
