package secrets

import (
	"bytes"
	"maps"
	"slices"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func admin(t *testing.T, now time.Time) map[string][]byte {
	t.Helper()
	data, err := NewAdmin(now)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func with(data map[string][]byte, key string, value []byte) map[string][]byte {
	out := maps.Clone(data)
	out[key] = value
	return out
}

// carries tells whether data has other's token and certificate as the previous ones.
func carries(data, other map[string][]byte) bool {
	token, cert := Previous(data)
	return token == string(other[KeyToken]) && cert == string(other[KeyCert])
}

func TestRotation(t *testing.T) {
	first := admin(t, start)
	second, err := Succeed(first, start)
	if err != nil || !carries(second, first) || bytes.Equal(second[KeyToken], first[KeyToken]) || CheckAdmin(second) != nil {
		t.Fatalf("the successor: %v", err)
	}
	if token, cert := Previous(first); token != "" || cert != "" {
		t.Error("a first token has a previous one")
	}
	at := func(d time.Duration) time.Time { return start.Add(d) }
	for _, tt := range []struct {
		name  string
		data  map[string][]byte
		facts Rotation
		keeps map[string][]byte // whose token and certificate are the previous ones; nil: none
		stays bool
		token []byte // nil: a new one
	}{
		{name: "young", data: first, facts: Rotation{Now: at(26 * day)}, stays: true},
		{name: "young and in use", data: first, facts: Rotation{Now: at(day), InUse: true}, stays: true},
		{name: "a month old", data: first, facts: Rotation{Now: at(34 * day)}, keeps: first},
		{name: "asked for", data: first, facts: Rotation{Now: at(day), Asked: true, InUse: true}, keeps: first},
		{name: "nearly at its end", data: second, facts: Rotation{Now: at(adminLife - adminRenew + day)}, keeps: first},
		{name: "under way", data: second, facts: Rotation{Now: at(day)}, stays: true},
		{name: "under way for a month", data: second, facts: Rotation{Now: at(40 * day)}, stays: true},
		{name: "under way, and asked for again", data: second, facts: Rotation{Now: at(day), Asked: true}, keeps: first},
		{name: "taken up", data: second, facts: Rotation{Now: at(day), InUse: true}, token: second[KeyToken]},
		{name: "taken up after a month", data: second, facts: Rotation{Now: at(40 * day), InUse: true}, token: second[KeyToken]},
		{name: "damaged key", data: with(first, KeyKey, []byte("x")), facts: Rotation{Now: at(day)}, keeps: first},
		{name: "damaged certificate", data: with(first, KeyCert, first[KeyKey]), facts: Rotation{Now: at(day)}},
		{name: "damaged while under way", data: with(second, KeyCert, nil), facts: Rotation{Now: at(day)}, keeps: first},
		{name: "damaged previous one", data: with(second, KeyPreviousCert, []byte("x")), facts: Rotation{Now: at(day)}, stays: true},
		{name: "empty", data: nil, facts: Rotation{Now: at(day)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			next, why, err := tt.facts.Next(tt.data)
			if err != nil {
				t.Fatal(err)
			}
			if (next == nil) != tt.stays || (why == "") != tt.stays {
				t.Fatalf("stays %t (%s), want %t", next == nil, why, tt.stays)
			}
			if tt.stays {
				return
			}
			if err := CheckAdmin(next); err != nil {
				t.Error(err)
			}
			if !carries(next, tt.keeps) {
				t.Error("the previous token and certificate are others")
			}
			if tt.token != nil && !bytes.Equal(next[KeyToken], tt.token) {
				t.Error("the token is another one")
			}
			if tt.token == nil && tt.data != nil && bytes.Equal(next[KeyToken], tt.data[KeyToken]) {
				t.Error("the token is the same")
			}
			if wantKeys := 3 + 2*min(1, len(tt.keeps)); len(next) != wantKeys {
				t.Errorf("keys %q", slices.Sorted(maps.Keys(next)))
			}
		})
	}
}

// Nodes made at one moment do not rotate at one moment.
func TestPeriodsAreSpread(t *testing.T) {
	var periods []time.Duration
	for range 20 {
		cert, err := adminCert(admin(t, start))
		if err != nil {
			t.Fatal(err)
		}
		p := period(cert)
		if p < 27*day || p > 33*day {
			t.Errorf("a period of %s", p)
		}
		periods = append(periods, p)
	}
	slices.Sort(periods)
	if distinct := len(slices.Compact(periods)); distinct < 10 {
		t.Errorf("%d different periods among 20", distinct)
	}
}
