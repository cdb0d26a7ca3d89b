package report

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// The markers that a run's results stand between in a document.
const (
	beginMarker = "<!-- bench -->"
	endMarker   = "<!-- /bench -->"
)

// Markdown renders the whole report, held against targets.
func (r *Report) Markdown(targets []Target) string {
	var b strings.Builder
	b.WriteString(r.about())
	if t := r.targets(targets); t != "" {
		b.WriteString("\n### Targets\n\n" + t)
	}
	for _, g := range r.Groups {
		if t := r.table(g); t != "" {
			fmt.Fprintf(&b, "\n### %s\n\n%s\n\n%s", g.Title, g.About, t)
		}
	}
	if len(r.Skipped) > 0 {
		b.WriteString("\n### Not measured\n\n")
		for _, s := range r.Skipped {
			fmt.Fprintf(&b, "* %s: %s\n", s.What, oneLine(s.Why))
		}
	}
	return b.String()
}

// about says what the run was made on.
func (r *Report) about() string {
	m := r.Machine
	kind := "a full run"
	if r.Short {
		kind = "a short run, whose figures tell little"
	}
	return fmt.Sprintf("%s, %d cores of %s, %.0f GiB of memory, %s, %s, %s; %s.\n",
		m.Date.Format("2006-01-02"), m.Cores, m.CPU, float64(m.Memory)/(1<<30), m.System, m.FileSystem, m.Go, kind)
}

// table renders the rows of a group, nothing where there are none.
func (r *Report) table(g Group) string {
	var rows [][]string
	ratio, compared := g.column(g.Ratio)
	head := []string{"load", "node"}
	for _, c := range g.Columns {
		head = append(head, c.Title)
	}
	if compared {
		head = append(head, "koi-node is")
	}
	last := ""
	for _, row := range r.byLoad(g.Name) {
		cells := []string{row.Load, row.Node}
		if row.Load == last {
			cells[0] = ""
		}
		last = row.Load
		for _, c := range g.Columns {
			cell := ""
			if v, ok := row.Values[c.Key]; ok {
				cell = number(v, c.Digits)
			}
			cells = append(cells, cell)
		}
		if compared {
			cells = append(cells, r.compare(g, ratio, row))
		}
		rows = append(rows, cells)
	}
	if len(rows) == 0 {
		return ""
	}
	return render(head, rows)
}

// byLoad returns the rows of a group with those of one load together, in the
// order in which loads and nodes came first.
func (r *Report) byLoad(group string) []Row {
	var loads []string
	of := map[string][]Row{}
	for _, row := range r.Rows {
		if row.Group != group {
			continue
		}
		if of[row.Load] == nil {
			loads = append(loads, row.Load)
		}
		of[row.Load] = append(of[row.Load], row)
	}
	var out []Row
	for _, l := range loads {
		out = append(out, of[l]...)
	}
	return out
}

// compare says how many times better ours is than what a row of the reference
// shows.
func (r *Report) compare(g Group, c Column, row Row) string {
	if row.Ours == "" {
		return ""
	}
	ours, ok := r.Value(g.Name, row.Load, row.Ours, c.Key)
	theirs, found := row.Values[c.Key]
	if !ok || !found {
		return ""
	}
	return times(c.Ratio(ours, theirs))
}

// times writes a ratio with the digits that mean something.
func times(ratio float64) string {
	digits := 1
	if ratio >= 20 {
		digits = 0
	}
	return number(ratio, digits) + " ×"
}

// number writes a figure with its thousands apart.
func number(v float64, digits int) string {
	text := strconv.FormatFloat(v, 'f', digits, 64)
	whole, fraction, _ := strings.Cut(text, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	return sign + whole
}

// render writes a table; the first two columns are text.
func render(head []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) {
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	line(head)
	rule := make([]string, len(head))
	for i := range rule {
		rule[i] = "---:"
		if i < 2 {
			rule[i] = "---"
		}
	}
	b.WriteString("|" + strings.Join(rule, "|") + "|\n")
	for _, cells := range rows {
		line(cells)
	}
	return b.String()
}

// oneLine keeps a reason from breaking a list.
func oneLine(s string) string {
	return strings.Join(strings.Fields(s), " ")
}

// WriteInto puts text between the markers of a document.
func WriteInto(path, result string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, err = replace(text, result)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, text, 0o644)
}

// replace puts text between the markers.
func replace(document []byte, text string) ([]byte, error) {
	before, rest, ok := bytes.Cut(document, []byte(beginMarker))
	_, after, okToo := bytes.Cut(rest, []byte(endMarker))
	if !ok || !okToo {
		return nil, fmt.Errorf("it has no place for results: a line %s and, below it, a line %s", beginMarker, endMarker)
	}
	return fmt.Appendf(nil, "%s%s\n\n%s%s%s", before, beginMarker, text, endMarker, after), nil
}
