package bolt

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"github.com/koi-net/koi-operator/node/rid"
	"github.com/koi-net/koi-operator/node/store"
)

// maxValueName bounds the names of values, in bytes.
const maxValueName = 1024

func pairKey(source, target rid.RID) ([]byte, error) {
	for _, r := range []rid.RID{source, target} {
		if r.Type() == "" {
			return nil, fmt.Errorf("%w %s in a decision", rid.ErrInvalid, printable([]byte(r)))
		}
	}
	return append(appendText(nil, string(source)), target...), nil
}

// Decision implements store.Reader.
func (t *tx) Decision(source, target rid.RID) (store.Decision, error) {
	key, err := pairKey(source, target)
	if err != nil {
		return store.Decision{}, err
	}
	v, err := t.get(bucketDecisions, key)
	if err != nil {
		return store.Decision{}, err
	}
	if v == nil {
		return store.Decision{}, fmt.Errorf("decision on the edge from %s to %s: %w", source, target, store.ErrNotFound)
	}
	return decodeDecision(key, v)
}

func decodeDecision(key, v []byte) (store.Decision, error) {
	payload, err := unseal(key, v)
	if err != nil {
		return store.Decision{}, damaged("decisions", key, err)
	}
	var d store.Decision
	if err := json.Unmarshal(payload, &d); err != nil {
		return store.Decision{}, damaged("decisions", key, err)
	}
	return d, nil
}

// Decisions implements store.Reader.
func (t *tx) Decisions() ([]store.Decision, error) {
	var all []store.Decision
	var failed error
	err := t.scan(bucketDecisions, nil, nil, func(k, v []byte) bool {
		var d store.Decision
		d, failed = decodeDecision(k, v)
		all = append(all, d)
		return failed == nil
	})
	if failed != nil {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}

// PutDecision implements store.Writer.
func (t *tx) PutDecision(d store.Decision) error {
	key, err := pairKey(d.Source, d.Target)
	if err != nil {
		return err
	}
	data, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode the decision on the edge from %s to %s: %w", d.Source, d.Target, err)
	}
	if err := t.needRoom(len(data) + len(key)); err != nil {
		return err
	}
	return t.put(bucketDecisions, key, encodeBytes(key, data))
}

// DeleteDecision implements store.Writer.
func (t *tx) DeleteDecision(source, target rid.RID) error {
	key, err := pairKey(source, target)
	if err != nil {
		return err
	}
	return t.delete(bucketDecisions, key)
}

// Value implements store.Reader.
func (t *tx) Value(name string) ([]byte, error) {
	key := []byte(name)
	v, err := t.get(bucketValues, key)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, fmt.Errorf("value %s: %w", printable(key), store.ErrNotFound)
	}
	payload, err := unseal(key, v)
	if err != nil {
		return nil, damaged("values", key, err)
	}
	return append(make([]byte, 0, len(payload)), payload...), nil
}

// Values implements store.Reader.
func (t *tx) Values(prefix string) iter.Seq2[store.Value, error] {
	return func(yield func(store.Value, error) bool) {
		var failed error
		stopped := false
		err := t.scan(bucketValues, []byte(prefix), nil, func(k, v []byte) bool {
			payload, err := unseal(k, v)
			if err != nil {
				failed = damaged("values", k, err)
				return false
			}
			value := store.Value{Key: string(k), Value: append(make([]byte, 0, len(payload)), payload...)}
			stopped = !yield(value, nil)
			return !stopped
		})
		if failed != nil {
			err = failed
		}
		if err != nil && !stopped {
			yield(store.Value{}, err)
		}
	}
}

// PutValue implements store.Writer.
func (t *tx) PutValue(name string, value []byte) error {
	key := []byte(name)
	switch {
	case name == "":
		return errors.New("a value needs a name")
	case len(name) > maxValueName:
		return fmt.Errorf("the name of value %s has %d bytes, the limit is %d", printable(key), len(name), maxValueName)
	case value == nil:
		return t.delete(bucketValues, key)
	}
	if err := t.needRoom(len(value) + len(key)); err != nil {
		return err
	}
	return t.put(bucketValues, key, encodeBytes(key, value))
}
