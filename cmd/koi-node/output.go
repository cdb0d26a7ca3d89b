package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
)

// outputFormat is the value of -o.
type outputFormat string

const (
	text       outputFormat = "text"
	jsonOutput outputFormat = "json"
)

func registerOutput(f *pflag.FlagSet, to *outputFormat) {
	*to = text
	f.VarP(&choice[outputFormat]{to, []outputFormat{text, jsonOutput}}, "output", "o", "form of the output")
}

// printer writes results for people or for programs.
type printer struct {
	w      io.Writer
	format outputFormat
}

// print writes v as JSON, or has human write the text.
func (p printer) print(v any, human func() error) error {
	if p.format == jsonOutput {
		enc := json.NewEncoder(p.w)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	return human()
}

// compactJSON encodes v on one line.
func compactJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// linef writes a line without control characters.
func (p printer) linef(format string, args ...any) error {
	_, err := fmt.Fprintln(p.w, clean(fmt.Sprintf(format, args...)))
	return err
}

// table writes aligned columns; an empty cell shows as a dash.
func (p printer) table(header []string, rows [][]string) error {
	tw := tabwriter.NewWriter(p.w, 0, 8, 2, ' ', 0)
	if header != nil {
		fmt.Fprintln(tw, strings.Join(header, "\t"))
	}
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			if cells[i] = clean(cell); cell == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

func joined[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = v.String()
	}
	return strings.Join(texts, ",")
}

// bytesText writes a size for people.
func bytesText(n int64) string {
	const k = 1024
	switch {
	case n < k:
		return fmt.Sprintf("%d B", n)
	case n < k*k:
		return fmt.Sprintf("%.1f KiB", float64(n)/k)
	case n < k*k*k:
		return fmt.Sprintf("%.1f MiB", float64(n)/(k*k))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(k*k*k))
}
