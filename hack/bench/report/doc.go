// Package report holds what was measured and makes a document of it: tables
// with ratios, the limits of the machine, and the targets met and missed.
//
// It owns the form of results (JSON, so that a run can be rendered again),
// percentiles, ratios, Markdown, and the place in a document where a run's
// results stand. It is pure but for reading and writing that document and those
// results, and imports the standard library alone.
package report
