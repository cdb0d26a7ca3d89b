package report

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"
)

// Report is what one run measured.
type Report struct {
	Machine Machine   `json:"machine"`
	Short   bool      `json:"short"` // a bounded run
	Groups  []Group   `json:"groups"`
	Rows    []Row     `json:"rows"`
	Skipped []Skipped `json:"skipped,omitempty"`
}

// Machine is what the run was made on.
type Machine struct {
	CPU        string    `json:"cpu"`
	Cores      int       `json:"cores"`
	Memory     int64     `json:"memory"` // bytes
	System     string    `json:"system"`
	FileSystem string    `json:"fileSystem"` // that the nodes' data were on
	Go         string    `json:"go"`
	Date       time.Time `json:"date"`
}

// Group is one table: measurements that have their columns in common.
type Group struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	About   string   `json:"about"`
	Columns []Column `json:"columns"`
	// Ratio is the column that nodes are compared by; none where it is empty.
	Ratio string `json:"ratio,omitempty"`
}

// Column is one figure of a group's rows.
type Column struct {
	Key   string `json:"key"`
	Title string `json:"title"` // with its unit
	// Digits is how many follow the decimal point.
	Digits int `json:"digits"`
	// Lower says that less is better.
	Lower bool `json:"lower,omitempty"`
}

// Row is one measurement.
type Row struct {
	Group  string             `json:"group"`
	Load   string             `json:"load"`
	Node   string             `json:"node"`
	Values map[string]float64 `json:"values"`
	// Ours is the row of the same load that a reference's is compared with, by
	// the name of its node; empty for a row of ours.
	Ours string `json:"ours,omitempty"`
}

// Skipped is what was not measured.
type Skipped struct {
	What string `json:"what"`
	Why  string `json:"why"`
	// Failed tells a case that did not come to its end from one left out.
	Failed bool `json:"failed,omitempty"`
}

// Value returns a figure that was measured.
func (r *Report) Value(group, load, node, key string) (float64, bool) {
	for _, row := range r.Rows {
		if row.Group == group && row.Load == load && row.Node == node {
			v, ok := row.Values[key]
			return v, ok
		}
	}
	return 0, false
}

// column returns a column of a group.
func (g Group) column(key string) (Column, bool) {
	i := slices.IndexFunc(g.Columns, func(c Column) bool { return c.Key == key })
	if i < 0 {
		return Column{}, false
	}
	return g.Columns[i], true
}

// Ratio returns how many times better ours is than theirs.
func (c Column) Ratio(ours, theirs float64) float64 {
	if c.Lower {
		ours, theirs = theirs, ours
	}
	if theirs == 0 {
		return 0
	}
	return ours / theirs
}

// Percentile returns the value that a share of sorted values does not exceed (the
// nearest rank); zero of none.
func Percentile[T any](sorted []T, share float64) T {
	if len(sorted) == 0 {
		var zero T
		return zero
	}
	rank := int(share * float64(len(sorted)))
	if float64(rank) < share*float64(len(sorted)) {
		rank++
	}
	return sorted[min(max(rank-1, 0), len(sorted)-1)]
}

// Milliseconds returns d in milliseconds.
func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// MiB returns bytes in MiB.
func MiB(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// Save writes the report as JSON.
func (r *Report) Save(path string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}

// Load reads a report that Save wrote.
func Load(path string) (*Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Report
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s holds no results: %w", path, err)
	}
	return &r, nil
}
