package remote

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/client_golang/prometheus"

	"flyball/rules"
)

// read decodes the answer to a query that was accepted.
func (c *Client) read(response *http.Response, at time.Time) ([]rules.Sample, error) {
	body, err := c.accepted(response)
	if err != nil {
		return nil, &failure{unusable, err}
	}
	a, err := decode(body, at, c.config.MaxSeries)
	switch {
	case errors.Is(err, errTooLarge):
		return nil, &failure{unusable, c.tooLarge()}
	case err != nil:
		return nil, &failure{unusable, fmt.Errorf("its answer cannot be used: %w", err)}
	case a.status == "error":
		return nil, &failure{refused, fmt.Errorf("it answered: %s", apiError(a.errorType, a.message))}
	case a.partial != "":
		return nil, &failure{partial, fmt.Errorf("it answered for a part of the data only: %s", a.partial)}
	}
	for _, w := range a.warnings {
		c.log.Debug("query gave a warning", "warning", c.secrets.Replace(w))
	}
	return a.samples, nil
}

// accepted is the body of an answer that may be one of the API.
func (c *Client) accepted(response *http.Response) (io.Reader, error) {
	if kind, _, err := mime.ParseMediaType(response.Header.Get("Content-Type")); err == nil && strings.Contains(kind, "html") {
		return nil, errors.New("it answered with a page for people (text/html): is the URL that of the API, and are the credentials right?")
	}
	if response.ContentLength > int64(c.config.MaxBytes) {
		return nil, c.tooLarge()
	}
	return c.body(response, int64(c.config.MaxBytes))
}

func (c *Client) tooLarge() error { return largeError{c.config.MaxBytes} }

// largeError is the error of an answer that is larger than it may be.
type largeError struct{ limit units.Base2Bytes }

func (e largeError) Error() string {
	return fmt.Sprintf("its answer is larger than %s (max_bytes): aggregate, or select fewer series", e.limit)
}

// body is what a response holds, decompressed, of which no more than limit bytes can be read, before as after.
func (c *Client) body(response *http.Response, limit int64) (io.Reader, error) {
	body := io.Reader(&bounded{r: counted{response.Body, c.metrics.bytes}, left: limit})
	switch encoding := response.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
		return body, nil
	case "gzip":
		decompressed, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("its answer is not the gzip that it says: %w", err)
		}
		return &bounded{r: decompressed, left: limit}, nil
	default:
		return nil, fmt.Errorf("its answer is compressed by %s: expected gzip or none", brief(encoding))
	}
}

// errTooLarge is what reading more than is allowed gives.
var errTooLarge = errors.New("too large")

// bounded fails where io.LimitReader would pretend that there is no more.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		var one [1]byte
		n, err := b.r.Read(one[:])
		if n > 0 {
			return 0, errTooLarge
		}
		return 0, err
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}

// counted counts what is read.
type counted struct {
	r     io.Reader
	bytes prometheus.Counter
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.bytes.Add(float64(n))
	return n, err
}
