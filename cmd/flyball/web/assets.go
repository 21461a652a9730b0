package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed static
var static embed.FS

// assets are the scripts and styles of the page. An address holds a hash of what is there, so a browser keeps it for good
// and never has an old one beside a new page.
type assets struct {
	build   string // stands for all of them
	byPath  map[string]asset
	address map[string]string // by file name
}

type asset struct {
	contentType string
	plain, gzip []byte
}

func newAssets() (*assets, error) {
	a := &assets{byPath: map[string]asset{}, address: map[string]string{}}
	all := sha256.New()
	err := fs.WalkDir(static, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := static.ReadFile(name)
		if err != nil {
			return err
		}
		packed, err := compress(text)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		all.Write(sum[:])
		at := "/static/" + hex.EncodeToString(sum[:6]) + "/" + path.Base(name)
		a.address[path.Base(name)] = at
		a.byPath[at] = asset{contentType: contentType(name), plain: text, gzip: packed}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the page's own files: %w", err)
	}
	a.build = hex.EncodeToString(all.Sum(nil)[:6])
	return a, nil
}

// contentType does not ask the system, whose tables differ.
func contentType(name string) string {
	switch ext := path.Ext(name); ext {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".txt":
		return "text/plain; charset=utf-8"
	default:
		return mime.TypeByExtension(ext)
	}
}

func (a *assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	found, ok := a.byPath[r.URL.Path]
	if !ok {
		Text(w, http.StatusNotFound, "no such file: it is of another version of the page, which a reload of the page brings.\n")
		return
	}
	h := w.Header()
	h.Set("Content-Type", found.contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Vary", "Accept-Encoding")
	body := found.plain
	if takesGzip(r) {
		h.Set("Content-Encoding", "gzip")
		body = found.gzip
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}

// takesGzip says whether a client takes gzip; "gzip;q=0" is one that says it does not.
func takesGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		coding, quality, _ := strings.Cut(strings.TrimSpace(part), ";")
		if q, err := strconv.ParseFloat(strings.TrimPrefix(strings.TrimSpace(quality), "q="), 64); err == nil && q == 0 {
			continue
		}
		if strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			return true
		}
	}
	return false
}

func compress(text []byte) ([]byte, error) {
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(w, bytes.NewReader(text)); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}
