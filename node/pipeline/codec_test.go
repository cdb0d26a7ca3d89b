package pipeline

import (
	"reflect"
	"testing"
	"time"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

func sampleRows() []Object {
	m := protocol.Manifest{RID: "orn:a.b:1", Timestamp: protocol.NewTimestamp(time.Unix(1, 2000).UTC()), SHA256Hash: "ab"}
	return []Object{
		{RID: "orn:a.b:1", Source: Internal},
		{RID: "orn:a.b:1", Source: Unsigned, EventType: protocol.Forget},
		{RID: "orn:a.b:1", Source: "orn:koi-net.node:a+1", EventType: protocol.New, Manifest: &m},
		{RID: "orn:a.b:1", Source: Internal, EventType: protocol.Update, Normalized: protocol.Update, Manifest: &m, Contents: []byte(`{}`), Quiet: true,
			Targets: []rid.RID{"orn:koi-net.node:b+2", "orn:koi-net.node:c+3"}},
		{RID: "orn:a.b:1", Source: Internal, Contents: []byte(`{"a":"b"}`)},
	}
}

func TestRowsSurviveTheStore(t *testing.T) {
	for i, want := range sampleRows() {
		for _, st := range []stage{stageReceived, stageFinal} {
			gotStage, got, err := decodeRow(encodeRow(st, &want))
			if err != nil {
				t.Fatalf("%d: %v", i, err)
			}
			if gotStage != st || !reflect.DeepEqual(*got, want) {
				t.Errorf("%d: got %+v (stage %d), want %+v", i, *got, gotStage, want)
			}
		}
	}
}

func TestRowsCutShortAreRefused(t *testing.T) {
	for i, o := range sampleRows() {
		data := encodeRow(stageReceived, &o)
		for n := range data {
			if _, _, err := decodeRow(data[:n]); err == nil {
				t.Errorf("%d: %d of %d bytes were taken for a row", i, n, len(data))
			}
		}
		if _, _, err := decodeRow(append(data, 0)); err == nil {
			t.Errorf("%d: a byte too many was taken", i)
		}
	}
}

func FuzzDecodeRow(f *testing.F) {
	for _, o := range sampleRows() {
		f.Add(encodeRow(stageReceived, &o))
		f.Add(encodeRow(stageFinal, &o))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		st, o, err := decodeRow(data)
		if err != nil {
			return
		}
		st2, o2, err := decodeRow(encodeRow(st, o))
		if err != nil || st2 != st || !reflect.DeepEqual(o, o2) {
			t.Fatalf("%+v became %+v (%v)", o, o2, err)
		}
	})
}
