package report

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	ten := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	for _, c := range []struct {
		sorted []int
		share  float64
		want   int
	}{
		{nil, 0.5, 0},
		{[]int{7}, 0.5, 7},
		{[]int{7}, 0.99, 7},
		{[]int{7}, 0, 7},
		{[]int{1, 2}, 0.5, 1},
		{[]int{1, 2}, 0.51, 2},
		{ten, 0, 1},
		{ten, 0.1, 1},
		{ten, 0.5, 5},
		{ten, 0.9, 9},
		{ten, 0.91, 10},
		{ten, 0.99, 10},
		{ten, 1, 10},
	} {
		if got := Percentile(c.sorted, c.share); got != c.want {
			t.Errorf("Percentile(%v, %v) = %d, want %d", c.sorted, c.share, got, c.want)
		}
	}
}

func TestRatio(t *testing.T) {
	rate, duration := Column{}, Column{Lower: true}
	for _, c := range []struct {
		column       Column
		ours, theirs float64
		want         float64
	}{
		{rate, 100, 50, 2},
		{rate, 50, 100, 0.5},
		{rate, 1, 0, 0},
		{duration, 50, 100, 2},
		{duration, 0, 100, 0},
	} {
		if got := c.column.Ratio(c.ours, c.theirs); got != c.want {
			t.Errorf("%+v: %v, want %v", c, got, c.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for _, c := range []struct {
		v      float64
		digits int
		want   string
	}{
		{0, 0, "0"}, {999, 0, "999"}, {1000, 0, "1,000"}, {1234567.89, 1, "1,234,567.9"}, {-1234, 0, "-1,234"}, {-12, 2, "-12.00"}, {0.4, 0, "0"},
	} {
		if got := number(c.v, c.digits); got != c.want {
			t.Errorf("number(%v, %d) = %q, want %q", c.v, c.digits, got, c.want)
		}
	}
	for ratio, want := range map[float64]string{0.66: "0.7 ×", 19.96: "20.0 ×", 123.4: "123 ×"} {
		if got := times(ratio); got != want {
			t.Errorf("times(%v) = %q, want %q", ratio, got, want)
		}
	}
}

// sample is a report of two loads, whose rows do not stand together.
func sample() *Report {
	return &Report{
		Machine: Machine{
			CPU: "Some CPU", Cores: 2, Memory: 24 << 30, System: "Linux 6.1", FileSystem: "ext4", Go: "go1.26",
			Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		},
		Groups: []Group{
			{Name: "b", Title: "Broadcast", About: "How fast.", Ratio: "rate", Columns: []Column{{Key: "rate", Title: "a second"}, {Key: "p50", Title: "p50 ms", Digits: 1, Lower: true}}},
			{Name: "none", Title: "Nothing", About: "Was measured."},
		},
		Rows: []Row{
			{Group: "b", Load: "one", Node: "ours", Values: map[string]float64{"rate": 12000, "p50": 1.25}},
			{Group: "b", Load: "two", Node: "ours", Values: map[string]float64{"rate": 100}},
			{Group: "b", Load: "one", Node: "theirs", Ours: "ours", Values: map[string]float64{"rate": 200, "p50": 30}},
			{Group: "b", Load: "two", Node: "theirs", Ours: "gone", Values: map[string]float64{"rate": 50}},
		},
		Skipped: []Skipped{{What: "x/y", Why: "it\nfailed", Failed: true}},
	}
}

const sampleMarkdown = `2026-01-02, 2 cores of Some CPU, 24 GiB of memory, Linux 6.1, ext4, go1.26; a full run.

### Targets

| target | wanted | measured | |
|---|---|---:|---|
| one | at least 60.0 × | 60.0 × | met |
| two | at most 5 ms |  | not measured |

### Broadcast

How fast.

| load | node | a second | p50 ms | koi-node is |
|---|---|---:|---:|---:|
| one | ours | 12,000 | 1.2 |  |
|  | theirs | 200 | 30.0 | 60 × |
| two | ours | 100 |  |  |
|  | theirs | 50 |  |  |

### Not measured

* x/y: it failed
`

func TestMarkdown(t *testing.T) {
	r := sample()
	got := r.Markdown([]Target{
		{What: "one", Want: 60, Unit: " ×", Digits: 1, Got: func(r *Report) (float64, bool) {
			a, _ := r.Value("b", "one", "ours", "rate")
			b, ok := r.Value("b", "one", "theirs", "rate")
			return a / b, ok
		}},
		{What: "two", Want: 5, AtMost: true, Unit: " ms", Got: func(r *Report) (float64, bool) { return r.Value("b", "one", "nobody", "rate") }},
	})
	if got != sampleMarkdown {
		t.Errorf("got\n%s\nwant\n%s", got, sampleMarkdown)
	}
	r.Short, r.Rows, r.Skipped = true, nil, nil
	if got := r.Markdown(nil); !strings.HasSuffix(got, "a short run, whose figures tell little.\n") {
		t.Errorf("an empty report is\n%s", got)
	}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		target Target
		got    float64
		want   string
	}{
		{Target{Want: 60}, 60, "met"},
		{Target{Want: 60}, 30, "**missed**: 50% below"},
		{Target{Want: 200, AtMost: true}, 200, "met"},
		{Target{Want: 200, AtMost: true}, 300, "**missed**: 50% above"},
		{Target{AtMost: true}, 1, "missed"},
	} {
		if got := c.target.Verdict(c.got); got != c.want {
			t.Errorf("%v of %+v: %q, want %q", c.got, c.target, got, c.want)
		}
	}
}

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.json")
	if err := sample().Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil || !reflect.DeepEqual(got, sample()) {
		t.Errorf("%+v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	if _, err := Load(path + "x"); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestWriteInto(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	for _, c := range []struct{ before, after, err string }{
		{before: "a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n", after: "a\n<!-- bench -->\n\nnew\n<!-- /bench -->\nb\n"},
		{before: "<!-- bench --><!-- /bench -->", after: "<!-- bench -->\n\nnew\n<!-- /bench -->"},
		{before: "nothing", err: "it has no place for results"},
		{before: "<!-- /bench --> <!-- bench -->", err: "it has no place for results"},
	} {
		if err := os.WriteFile(path, []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		err := WriteInto(path, "new\n")
		text, _ := os.ReadFile(path)
		if c.err == "" && (err != nil || string(text) != c.after) {
			t.Errorf("%q became %q, %v", c.before, text, err)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || string(text) != c.before) {
			t.Errorf("%q became %q, %v", c.before, text, err)
		}
	}
	if err := WriteInto(path+"x", ""); err == nil {
		t.Error("a document that is not there was written")
	}
}
