package apidocs

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
)

// Path is where the page is found below a node's base path. Its files are below it.
const Path = "/docs"

// Policy is the Content-Security-Policy of the page. The viewer draws its icons from
// data URLs; nothing else may come from anywhere but the node.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

//go:embed page viewer
var embedded embed.FS

// File is one of the page's files, or the page itself.
type File struct {
	// Path is where it is found below the base path.
	Path string
	// ContentType is sent with it.
	ContentType string
	// ETag names its content, with quotes. What is sent compressed needs another.
	ETag string
	// Size is how many bytes it has, uncompressed.
	Size int

	plain, gzip []byte // one of them
}

// leastGzip is how many bytes compressed content has at least.
const leastGzip = 18

// files are the page's: where each is embedded, and what it is.
var files = []struct{ path, embedded, contentType string }{
	{Path, "page/page.html", "text/html; charset=utf-8"},
	{Path + "/page.css", "page/page.css", "text/css; charset=utf-8"},
	{Path + "/page.js", "page/page.js", "text/javascript; charset=utf-8"},
	{Path + "/swagger-ui.css", "viewer/swagger-ui.css.gz", "text/css; charset=utf-8"},
	{Path + "/swagger-ui-bundle.js", "viewer/swagger-ui-bundle.js.gz", "text/javascript; charset=utf-8"},
	{Path + "/favicon-32x32.png", "viewer/favicon-32x32.png", "image/png"},
	{Path + "/LICENSE", "viewer/LICENSE", "text/plain; charset=utf-8"},
	{Path + "/NOTICE", "viewer/NOTICE", "text/plain; charset=utf-8"},
	{Path + "/swagger-ui-bundle.js.LICENSE.txt", "viewer/swagger-ui-bundle.js.LICENSE.txt", "text/plain; charset=utf-8"},
}

// Files returns the page, first, and what it is made of. It fails only where the
// program was built from files that are not whole.
func Files() ([]File, error) {
	out := make([]File, 0, len(files))
	for _, f := range files {
		content, err := embedded.ReadFile(f.embedded)
		if err != nil {
			return nil, fmt.Errorf("apidocs: %w", err)
		}
		file, err := newFile(content)
		if err != nil {
			return nil, fmt.Errorf("apidocs: %s: %w", f.embedded, err)
		}
		file.Path, file.ContentType = f.path, f.contentType
		out = append(out, file)
	}
	return out, nil
}

// newFile makes a file of its content, which is compressed or not. Compressed content
// is not read, but for the size that gzip writes at its end.
func newFile(content []byte) (File, error) {
	sum := sha256.Sum256(content)
	f := File{plain: content, Size: len(content), ETag: `"` + hex.EncodeToString(sum[:16]) + `"`}
	if !bytes.HasPrefix(content, []byte{0x1f, 0x8b}) {
		return f, nil
	}
	if len(content) < leastGzip {
		return File{}, io.ErrUnexpectedEOF
	}
	f.plain, f.gzip = nil, content
	f.Size = int(binary.LittleEndian.Uint32(content[len(content)-4:]))
	return f, nil
}

// Gzip returns the file compressed, or nil where it is kept as it is. It must not be
// changed.
func (f File) Gzip() []byte { return f.gzip }

// Open reads the file uncompressed.
func (f File) Open() (io.Reader, error) {
	if f.gzip == nil {
		return bytes.NewReader(f.plain), nil
	}
	return gzip.NewReader(bytes.NewReader(f.gzip))
}
