package report

import (
	"fmt"
	"strings"
)

// Target is what a figure of the report has to reach.
type Target struct {
	// What it is about and Of what, for the table.
	What string
	// Want is the figure; AtMost says that it must not be exceeded, else it has to
	// be reached.
	Want   float64
	AtMost bool
	// Unit follows the figures, and Digits is how many they show behind the point.
	Unit   string
	Digits int
	// Got takes the figure from a report; false where it was not measured.
	Got func(r *Report) (float64, bool)
}

// Verdict says whether a figure meets the target, or by how much it misses.
func (t Target) Verdict(got float64) string {
	switch {
	case t.AtMost && got <= t.Want, !t.AtMost && got >= t.Want:
		return "met"
	case t.Want == 0:
		return "missed"
	case t.AtMost:
		return fmt.Sprintf("**missed**: %.0f%% above", 100*(got/t.Want-1))
	}
	return fmt.Sprintf("**missed**: %.0f%% below", 100*(1-got/t.Want))
}

// targets renders the table of targets, nothing where none was measured.
func (r *Report) targets(all []Target) string {
	var rows [][]string
	measured := false
	for _, t := range all {
		want := "at least "
		if t.AtMost {
			want = "at most "
		}
		row := []string{t.What, want + number(t.Want, t.Digits) + t.Unit, "", "not measured"}
		if got, ok := t.Got(r); ok {
			measured = true
			row[2], row[3] = number(got, t.Digits)+t.Unit, t.Verdict(got)
		}
		rows = append(rows, row)
	}
	if !measured {
		return ""
	}
	var b strings.Builder
	b.WriteString("| target | wanted | measured | |\n|---|---|---:|---|\n")
	for _, row := range rows {
		b.WriteString("| " + strings.Join(row, " | ") + " |\n")
	}
	return b.String()
}
