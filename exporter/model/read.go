package model

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

// Limits of what is held of a page at one moment, whatever its length.
const (
	blockSize  = 64 << 10 // of lines that are parsed together; no line may be longer
	maxMessage = 1 << 20  // of one family in protobuf
	detectSize = 64 << 10 // the engine must have shown itself by then
)

// Formats of a page.
const (
	text = iota
	openMetrics
	protobuf
)

// formatOf returns the format that a Content-Type stands for. Text is what old exporters send under any name, but a page of a
// browser is none.
func formatOf(contentType string) (int, error) {
	if contentType == "" {
		return text, nil
	}
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return 0, fmt.Errorf("its Content-Type is not one: %w", err)
	}
	switch kind {
	case "text/plain", "application/octet-stream":
		return text, nil
	case "application/openmetrics-text":
		if strings.HasPrefix(params["version"], "2") {
			return 0, errors.New("it is OpenMetrics 2, which was not asked for")
		}
		return openMetrics, nil
	case "application/vnd.google.protobuf":
		if params["encoding"] != "delimited" || params["proto"] != "io.prometheus.client.MetricFamily" {
			return 0, fmt.Errorf("it is protobuf of another kind: %s", contentType)
		}
		return protobuf, nil
	}
	return 0, fmt.Errorf("it is %s, not a page of metrics", kind)
}

// read reads a page into r. It holds a block of it at a time, and breaks off when it is too long, wrong, or ctx is done.
func (r *reading) read(ctx context.Context, body io.Reader, contentType, encoding string) (err error) {
	defer func() {
		if err != nil && !errors.Is(err, errOther) {
			r.reset() // what came of this page is not the one before of the next, and may be anything
		}
	}()
	format, err := formatOf(contentType)
	if err != nil {
		return err
	}
	limit := int64(r.config.MaxBody)
	limited := &limitedReader{from: body, left: limit, limit: limit}
	switch strings.ToLower(encoding) {
	case "", "identity":
	case "gzip": // not asked for: the server is near, and to compress costs it more than to send
		unzipped, err := gzip.NewReader(limited)
		if err != nil {
			return fmt.Errorf("its gzip is broken: %w", err)
		}
		limited = &limitedReader{from: unzipped, left: limit, limit: limit}
	default:
		return fmt.Errorf("its Content-Encoding is %s, which was not asked for", encoding)
	}
	r.begin()
	if format == protobuf {
		err = r.readMessages(ctx, limited)
	} else {
		err = r.readLines(ctx, limited, format == openMetrics)
	}
	if err != nil {
		return err
	}
	if err := r.detected(); err != nil {
		return err
	}
	r.end()
	return nil
}

// detected says that a page is of no engine that is known, where that is needed.
func (r *reading) detected() error {
	if r.config.Engine == "auto" && r.table.engine == nil && len(r.config.Mapping) == 0 {
		return errors.New("it has no metric of an engine that is known: give its engine, or engine: custom and a mapping")
	}
	if e := r.table.engine; r.config.Engine == "auto" && r.backend != nil && !r.own {
		return fmt.Errorf("the page was one of %s before and is one of %s now: it is read from the next time on", e.name, r.backend.name)
	}
	return nil
}

// readLines reads a page of text.
func (r *reading) readLines(ctx context.Context, body io.Reader, open bool) error {
	block, next := make([]byte, 0, blockSize+len(endOfPage)), make([]byte, 0, blockSize+len(endOfPage))
	ended, done, before := false, false, 0
	for !done {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := body.Read(block[len(block):blockSize])
		block = block[:len(block)+n]
		done = errors.Is(err, io.EOF)
		if err != nil && !done {
			return err
		}
		if len(block) < blockSize && !done { // a server that sends a little at a time
			continue
		}
		lines := block
		if !done {
			lines = block[:bytes.LastIndexByte(block, '\n')+1]
			if len(lines) == 0 {
				return fmt.Errorf("a line longer than %d bytes", blockSize)
			}
		}
		next = append(next[:0], block[len(lines):]...)
		before += len(lines)
		if bytes.IndexByte(lines, 0) >= 0 {
			return errors.New("there is a byte 0 in it") // which the parser takes for the end
		}
		if open && len(lines) > 0 {
			if ended {
				return errors.New("there is something after # EOF")
			}
			if ended = bytes.HasSuffix(bytes.TrimSuffix(lines, newline), endOfPage); !ended {
				lines = append(lines, endOfPage...) // which the parser wants
			}
		}
		if err := r.parse(newParser(lines, open)); err != nil {
			return err
		}
		if before >= detectSize {
			if err := r.detected(); err != nil {
				return err
			}
		}
		block, next = next, block
	}
	if open && !ended {
		return errors.New("it does not end with # EOF: it was cut off")
	}
	return nil
}

func newParser(lines []byte, open bool) textparse.Parser {
	if open && len(lines) > 0 {
		return textparse.NewOpenMetricsParser(lines, labels.NewSymbolTable())
	}
	return textparse.NewPromParser(lines, labels.NewSymbolTable(), false)
}

var newline = []byte("\n")

// endOfPage is the last line of OpenMetrics.
var endOfPage = []byte("# EOF")

// readMessages reads a page of protobuf, one family at a time.
func (r *reading) readMessages(ctx context.Context, body io.Reader) error {
	in := bufio.NewReader(body)
	var message []byte
	before := 0
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		size, err := binary.ReadUvarint(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if size > maxMessage {
			return fmt.Errorf("a family of %d bytes, more than %d", size, maxMessage)
		}
		message = binary.AppendUvarint(message[:0], size)
		from := len(message)
		message = append(message, make([]byte, size)...)
		if _, err := io.ReadFull(in, message[from:]); err != nil {
			return fmt.Errorf("it was cut off: %w", err)
		}
		if err := r.parse(textparse.NewProtobufParser(message, false, true, false, false, labels.NewSymbolTable())); err != nil {
			return err
		}
		if before += len(message); before >= detectSize {
			if err := r.detected(); err != nil {
				return err
			}
		}
	}
}

// parse takes all samples of a parser.
func (r *reading) parse(p textparse.Parser) error {
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return brief(err)
		}
		switch entry {
		case textparse.EntryType:
			name, _ := p.Type()
			if string(name) != r.family {
				r.family = string(name)
			}
		case textparse.EntryHistogram:
			if err := r.takeNative(p); err != nil {
				return err
			}
		case textparse.EntrySeries:
			text, _, v := p.Series()
			if err := r.take(p, text, v); err != nil {
				return err
			}
		}
	}
}

// brief shortens an error that quotes the page.
func brief(err error) error {
	const most = 300
	if text := err.Error(); len(text) > most {
		return errors.New(strings.ToValidUTF8(text[:most], "") + "...")
	}
	return err
}

// limitedReader is an error after so many bytes, where io.LimitReader is an end.
type limitedReader struct {
	from        io.Reader
	left, limit int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if l.left <= 0 {
		var one [1]byte
		if n, err := l.from.Read(one[:]); n == 0 {
			return 0, err
		}
		return 0, fmt.Errorf("it is larger than %d bytes (max_body)", l.limit)
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.from.Read(p)
	l.left -= int64(n)
	return n, err
}
