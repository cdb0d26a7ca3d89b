package server

import (
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// openAPIText is the OpenAPI document of the calls, with a "${name}" wherever a
// node puts its own in. Where such a name is all of a string, the string becomes
// a number; so the file is JSON before and after.
//
//go:embed openapi.json
var openAPIText string

// openAPIPath is where the document is found below the base path.
const openAPIPath = "/openapi.json"

// generations says which forms of a call a node takes.
type generations struct {
	signed, unsigned bool
}

func (g generations) String() string {
	switch {
	case !g.unsigned:
		return "This node takes signed calls alone; an unsigned one is answered 403."
	case !g.signed:
		return "This node has no key and takes unsigned calls alone; an envelope is answered 400, `invalid_target`."
	default:
		return "This node takes both."
	}
}

// openAPI is the document as one node serves it.
type openAPI struct {
	text string
	etag string
}

// newOpenAPI puts a node's own into the document. base is the path of its base
// URL, product its program and version, as in "koi-node/1.2.3".
func newOpenAPI(base, product string, takes generations, l protocol.Limits) openAPI {
	d := protocol.DefaultLimits()
	_, version, _ := strings.Cut(product, "/")
	fill := []string{
		"${version}", inJSON(cmp.Or(version, "unknown")),
		"${server}", inJSON(cmp.Or((&url.URL{Path: base}).EscapedPath(), "/")),
		"${accepts}", inJSON(takes.String()),
	}
	for _, bound := range []struct {
		name        string
		own, unless int64
	}{
		{"body_bytes", l.BodyBytes, d.BodyBytes},
		{"events", int64(l.Events), int64(d.Events)},
		{"depth", int64(l.Depth), int64(d.Depth)},
		{"contents_bytes", int64(l.ContentsBytes), int64(d.ContentsBytes)},
		{"rids", int64(l.RIDs), int64(d.RIDs)},
		{"rid_types", int64(l.RIDTypes), int64(d.RIDTypes)},
		{"rid_length", rid.MaxLength, 0},
	} {
		n := bound.own
		if n <= 0 {
			n = bound.unless
		}
		digits := strconv.FormatInt(n, 10)
		fill = append(fill, `"${`+bound.name+`}"`, digits, "${"+bound.name+"}", digits)
	}
	text := strings.NewReplacer(fill...).Replace(openAPIText)
	sum := sha256.Sum256([]byte(text))
	return openAPI{text: text, etag: `"` + hex.EncodeToString(sum[:16]) + `"`}
}

// inJSON returns s as it stands between the quotes of a JSON string.
func inJSON(s string) string {
	quoted := protocol.AppendString(nil, s)
	return string(quoted[1 : len(quoted)-1])
}

// answer sends the document, or that the caller's copy is current.
func (d openAPI) answer(r *http.Request, a *answer) error {
	if !a.changed(r, d.etag) {
		return nil
	}
	a.text(d.text)
	return nil
}
