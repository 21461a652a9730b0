package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	protocolV1 = "v1"
	protocolV2 = "v2"

	// statusClientGone is counted, and never sent, where the client went away before its answer (nginx's number for it).
	statusClientGone = 499
)

// fault is an answer that is not 200: an HTTP status and what was wrong, in words for whoever sent the request.
type fault struct {
	code int
	text string
}

func (f *fault) Error() string { return f.text }

func badRequest(format string, args ...any) error {
	return &fault{code: http.StatusBadRequest, text: fmt.Sprintf(format, args...)}
}

// tooManyRows is the fault of a batch over --max-batch.
func tooManyRows(n int64, limit int) error {
	return &fault{
		code: http.StatusRequestEntityTooLarge,
		text: fmt.Sprintf("batch of %d rows: at most %d are taken (--max-batch)", n, limit),
	}
}

// answerer decodes the body of a request for a model, runs it and encodes the answer.
type answerer func(r *http.Request, m *model, body []byte) (reply, error)

// inference makes one protocol's handler of POST requests with rows: it reads the body, has it answered, and counts the outcome.
func (s *server) inference(protocol string, answer answerer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		code := http.StatusOK
		name := ""
		m, err := s.model(r)
		var out reply
		if err == nil {
			name = m.name
			out, err = s.readAndAnswer(w, r, m, answer)
		}
		switch {
		case err == nil:
			out.write(w)
		case r.Context().Err() != nil && !errors.As(err, new(*fault)):
			code = statusClientGone
		default:
			code = s.writeFault(w, err)
		}
		s.metrics.duration.WithLabelValues(name).Observe(time.Since(start).Seconds())
		s.metrics.requests.WithLabelValues(name, protocol, strconv.Itoa(code)).Inc()
		if code == statusClientGone {
			panic(http.ErrAbortHandler) // closes the connection; just returning would send an empty 200
		}
	}
}

func (s *server) readAndAnswer(w http.ResponseWriter, r *http.Request, m *model, answer answerer) (reply, error) {
	if s.loading() {
		return reply{}, m.isLoading()
	}
	body, err := s.readBody(w, r)
	if err != nil {
		return reply{}, err
	}
	return answer(r, m, body)
}

// model is the one that the path names; of each there is one version.
func (s *server) model(r *http.Request) (*model, error) {
	name := r.PathValue("model")
	for _, m := range s.models {
		if m.name != name {
			continue
		}
		if version := r.PathValue("version"); version != "" && version != modelVersion {
			return nil, &fault{code: http.StatusNotFound, text: fmt.Sprintf("model %q has no version %q: there is %q", name, short(version), modelVersion)}
		}
		return m, nil
	}
	return nil, &fault{code: http.StatusNotFound, text: fmt.Sprintf("model %q is not served here: GET /v1/models lists those that are", short(name))}
}

// readBody reads the whole body, within the limits of size and time.
func (s *server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, &fault{code: http.StatusUnsupportedMediaType, text: fmt.Sprintf("content encoding %q is not supported: send it plain", short(encoding))}
	}
	tooLarge := &fault{
		code: http.StatusRequestEntityTooLarge,
		text: fmt.Sprintf("body is larger than %d bytes (--max-body)", s.opts.MaxBody),
	}
	if r.ContentLength > s.opts.MaxBody {
		// Closing spares both sides the sending of a body that nobody reads.
		w.Header().Set("Connection", "close")
		return nil, tooLarge
	}
	// net/http lifts the deadline when the body has been read, so a long wait for the model's turn is not cut off.
	bodyDeadline := time.Now().Add(s.opts.BodyTimeout)
	if err := http.NewResponseController(w).SetReadDeadline(bodyDeadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("body: set the deadline: %w", err)
	}
	var body bytes.Buffer
	if r.ContentLength > 0 {
		// What is announced is not believed beyond 1 MiB, so that a sender has to send what it makes the server hold. One byte
		// more than the body is, so that the last read, which finds the end, has room without growing.
		body.Grow(int(min(r.ContentLength, 1<<20)) + bytes.MinRead)
	}
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, s.opts.MaxBody))
	var sizeErr *http.MaxBytesError
	var timeoutErr interface{ Timeout() bool }
	switch {
	case err == nil:
	case errors.As(err, &sizeErr):
		return nil, tooLarge
	case errors.As(err, &timeoutErr) && timeoutErr.Timeout():
		w.Header().Set("Connection", "close")
		return nil, &fault{code: http.StatusRequestTimeout, text: fmt.Sprintf("body did not arrive within %s", s.opts.BodyTimeout)}
	case r.Context().Err() != nil:
		return nil, err // the client went away in the middle of the body
	default:
		return nil, badRequest("body: %v", err)
	}
	return body.Bytes(), nil
}

// writeFault answers with err and returns the status it sent. An error that is no fault is ours: it is logged and answered
// with 500.
func (s *server) writeFault(w http.ResponseWriter, err error) int {
	var f *fault
	if !errors.As(err, &f) {
		s.opts.Logger.Error("inference", "err", err)
		f = &fault{code: http.StatusInternalServerError, text: "internal error"}
	}
	if f.code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, f.code, errorBody(f.text))
	return f.code
}

// errorBody is {"error": text}, the form of an error in both protocols.
func errorBody(text string) []byte {
	b := append([]byte(nil), `{"error":`...)
	b = appendString(b, text)
	return append(b, '}')
}

func writeJSON(w http.ResponseWriter, code int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, _ = w.Write(body) // an error here means that the client has gone
}

// appendString appends text as a JSON string; bytes that are not UTF-8 become U+FFFD.
func appendString(b []byte, text string) []byte {
	b, _ = jsontext.AppendQuote(b, text) // the error only tells that something was replaced
	return b
}

func quote(text string) string { return string(appendString(nil, text)) }
