package loadgen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// outcome is what became of one request.
type outcome struct {
	kind     Kind
	status   int           // 0 where no answer came
	latency  time.Duration // from the intended start
	reason   string        // this and what follows only where something is wrong
	expected string
	got      string
	fields   map[string]any // of a wrong answer that is JSON
}

// served says whether the server did the work: it answered, and not that it would not (429, 503) or was too late (504).
func (out outcome) served() bool {
	switch out.status {
	case 0, http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false
	}
	return true
}

// maxAnswerBytes bounds an answer that is read. It is the proxy's default for a body.
const maxAnswerBytes = 64 << 20

// sender sends one request and judges its answer. Safe for concurrent use.
type sender struct {
	transport http.RoundTripper
	timeout   time.Duration
	buffers   sync.Pool // of *bytes.Buffer, to read answers into
}

func newSender(transport http.RoundTripper, timeout time.Duration) *sender {
	return &sender{
		transport: transport,
		timeout:   timeout,
		buffers:   sync.Pool{New: func() any { return new(bytes.Buffer) }},
	}
}

// send sends the request, whose latency counts from start. Of a ctx that is cancelled the outcome is KindCancelled.
func (s *sender) send(ctx context.Context, p *prepared, id string, start time.Time) outcome {
	buffer := s.buffers.Get().(*bytes.Buffer)
	defer s.buffers.Put(buffer)
	buffer.Reset()
	return s.sendInto(ctx, buffer, p, id, start)
}

// sendInto is send with the answer's body left in buffer.
func (s *sender) sendInto(ctx context.Context, buffer *bytes.Buffer, p *prepared, id string, start time.Time) outcome {
	status, err := s.exchange(ctx, p, id, buffer)
	out := outcome{status: status, latency: time.Since(start)}
	switch {
	case err != nil && ctx.Err() != nil:
		out.kind, out.reason = KindCancelled, err.Error()
	case err != nil && isTimeout(err):
		out.kind, out.reason = KindTimeout, err.Error()
	case err != nil:
		out.kind, out.reason = KindConnection, err.Error()
	default:
		out.judge(p, id, buffer.Bytes())
	}
	return out
}

// exchange sends the request and reads the whole answer into buffer. The status is 0 where there is no whole answer.
func (s *sender) exchange(ctx context.Context, p *prepared, id string, buffer *bytes.Buffer) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	request := (&http.Request{
		Method:        http.MethodPost,
		URL:           p.url,
		Host:          p.url.Host,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        p.header,
		Body:          p.body.reader(id),
		ContentLength: p.body.size(id),
		// The transport asks again where a kept connection had been closed before anything of the request was read.
		GetBody: func() (io.ReadCloser, error) { return p.body.reader(id), nil },
	}).WithContext(ctx)

	response, err := s.transport.RoundTrip(request)
	if err != nil {
		return 0, fmt.Errorf("send request: %w", err)
	}
	defer response.Body.Close()
	n, err := buffer.ReadFrom(io.LimitReader(response.Body, maxAnswerBytes+1))
	if err != nil {
		return 0, fmt.Errorf("read answer with status %d: %w", response.StatusCode, err)
	}
	if n > maxAnswerBytes {
		return 0, fmt.Errorf("read answer with status %d: it is longer than %d bytes", response.StatusCode, maxAnswerBytes)
	}
	return response.StatusCode, nil
}

// judge finds the kind of a whole answer with the status of out.
func (out *outcome) judge(p *prepared, id string, body []byte) {
	switch {
	case out.status >= 200 && out.status < 300:
		out.kind = KindOK
		if p.want == nil {
			return
		}
		if out.reason = p.want.fault(body, id); out.reason == "" {
			return
		}
		out.kind = KindWrong
		out.expected = shorten(p.want.want)
		if fields, err := decodeObject(body); err == nil {
			out.fields = fields
		}
	case out.status == http.StatusTooManyRequests:
		out.kind = KindHTTP429
	case out.status >= 400 && out.status < 500:
		out.kind = KindHTTP4xx
	case out.status >= 500 && out.status < 600:
		out.kind = KindHTTP5xx
	default:
		out.kind = KindHTTPOther
	}
	if out.reason == "" {
		out.reason = fmt.Sprintf("status %d", out.status)
	}
	out.got = cut(body)
}

// isTimeout says whether the error is one of time: the request's own, or the connection's.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}
