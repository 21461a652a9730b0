package exporter

import (
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// gzips compresses pages. A writer has some 700 kB of tables, half of what a scrape otherwise takes, so one is kept; a
// sync.Pool would have lost it to the garbage collector by the next scrape. Its level is the fastest: the next ones take
// twice the time to save a seventh of 10 kB.
type gzips struct{ free chan *gzip.Writer }

func newGzips() gzips { return gzips{make(chan *gzip.Writer, 1)} }

func (g gzips) get(w io.Writer) *gzip.Writer {
	select {
	case z := <-g.free:
		z.Reset(w)
		return z
	default:
		z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err != nil {
			panic(err) // the level is one that there is
		}
		return z
	}
}

func (g gzips) put(z *gzip.Writer) {
	z.Reset(io.Discard) // it is not to hold on to a connection
	select {
	case g.free <- z:
	default:
	}
}

// gzipped is an answer that is compressed, unless it is an error.
type gzipped struct {
	http.ResponseWriter
	writers gzips
	writer  *gzip.Writer // nil before the first byte, and for an error
	plain   bool
}

// WriteHeader implements http.ResponseWriter.
func (g *gzipped) WriteHeader(code int) {
	if g.plain = code != http.StatusOK; !g.plain {
		g.Header().Set("Content-Encoding", "gzip")
	}
	g.ResponseWriter.WriteHeader(code)
}

// Write implements io.Writer.
func (g *gzipped) Write(p []byte) (int, error) {
	if g.plain {
		return g.ResponseWriter.Write(p)
	}
	if g.writer == nil {
		g.Header().Set("Content-Encoding", "gzip")
		g.writer = g.writers.get(g.ResponseWriter)
	}
	return g.writer.Write(p)
}

// close writes what is left.
func (g *gzipped) close() {
	if g.writer != nil {
		_ = g.writer.Close() // that the client has gone is no error of ours
		g.writers.put(g.writer)
	}
}

// wantsGzip reports whether an Accept-Encoding header asks for gzip, and not rather for zstd.
func wantsGzip(header []string) bool {
	var gzip, zstd, others float64
	named := false
	for _, list := range header {
		for item := range strings.SplitSeq(list, ",") {
			name, parameters, _ := strings.Cut(item, ";")
			q := 1.0
			if text, ok := strings.CutPrefix(strings.ReplaceAll(parameters, " ", ""), "q="); ok {
				v, err := strconv.ParseFloat(text, 64)
				if err != nil {
					continue
				}
				q = v
			}
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "gzip":
				gzip, named = q, true
			case "zstd":
				zstd = q
			case "*":
				others = q
			}
		}
	}
	if !named {
		gzip = others
	}
	return gzip > 0 && gzip >= zstd
}
