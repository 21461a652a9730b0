package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"flyball/examples/modelserver/digits"
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

// inference makes one protocol's handler of POST requests that carry images: it reads the body, lets answer decode it,
// classify and encode, and counts the outcome.
func (s *server) inference(protocol string, answer func(r *http.Request, body []byte) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		code := http.StatusOK
		reply, err := s.readAndAnswer(w, r, answer)
		switch {
		case err == nil:
			writeJSON(w, code, reply)
		case r.Context().Err() != nil && !errors.As(err, new(*fault)):
			code = statusClientGone
		default:
			code = s.writeFault(w, err)
		}
		s.metrics.duration.Observe(time.Since(start).Seconds())
		s.metrics.requests.WithLabelValues(protocol, strconv.Itoa(code)).Inc()
		if code == statusClientGone {
			panic(http.ErrAbortHandler) // closes the connection; just returning would send an empty 200
		}
	}
}

func (s *server) readAndAnswer(w http.ResponseWriter, r *http.Request, answer func(*http.Request, []byte) ([]byte, error)) ([]byte, error) {
	if err := s.checkModel(r); err != nil {
		return nil, err
	}
	if s.state.Load() == stateLoading {
		return nil, &fault{code: http.StatusServiceUnavailable, text: fmt.Sprintf("model %q is loading: try again soon", s.opts.ModelName)}
	}
	body, err := s.readBody(w, r)
	if err != nil {
		return nil, err
	}
	return answer(r, body)
}

// checkModel sees that the model and the version in the path are the ones served; there is one of each.
func (s *server) checkModel(r *http.Request) error {
	if name := r.PathValue("model"); name != s.opts.ModelName {
		return &fault{code: http.StatusNotFound, text: fmt.Sprintf("model %q is not served here: there is %q", short(name), s.opts.ModelName)}
	}
	if version := r.PathValue("version"); version != "" && version != modelVersion {
		return &fault{code: http.StatusNotFound, text: fmt.Sprintf("model %q has no version %q: there is %q", s.opts.ModelName, short(version), modelVersion)}
	}
	return nil
}

// readBody reads the whole body, within the limits of size and time.
func (s *server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, &fault{code: http.StatusUnsupportedMediaType, text: fmt.Sprintf("content encoding %q is not supported: send plain JSON", encoding)}
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
	// net/http lifts the deadline when the body has been read, so a long wait for the emulated accelerator is not cut off.
	bodyDeadline := time.Now().Add(s.opts.BodyTimeout)
	if err := http.NewResponseController(w).SetReadDeadline(bodyDeadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("body: set the deadline: %w", err)
	}
	var body bytes.Buffer
	if r.ContentLength > 0 {
		// One byte more than the body is, so that the last read, which finds the end, has room without growing.
		body.Grow(int(r.ContentLength) + bytes.MinRead)
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

// classify runs one batch, images after images of 64 pixels, on the device. The answers have the order of the images.
func (s *server) classify(ctx context.Context, pixels []float32) ([]digits.Digit, error) {
	n := len(pixels) / digits.PixelCount
	out := make([]digits.Digit, n)
	var classifyErr error
	err := s.device.run(ctx, n, func() {
		for i := range out {
			image := pixels[i*digits.PixelCount : (i+1)*digits.PixelCount]
			if out[i], classifyErr = s.model.Classify(image); classifyErr != nil {
				return
			}
		}
	})
	if err := errors.Join(err, classifyErr); err != nil {
		return nil, err
	}
	s.metrics.images.Add(float64(n))
	return out, nil
}

// writeFault answers with err and returns the status it sent. An error that is no fault is ours: it is logged and answered
// with 500.
func (s *server) writeFault(w http.ResponseWriter, err error) int {
	var f *fault
	switch {
	case errors.As(err, &f):
	case errors.Is(err, errCutOff):
		f = &fault{code: http.StatusServiceUnavailable, text: err.Error()}
	default:
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

// appendFloat appends the shortest decimal that reads back as the same float32. Equal bits always give equal text, so that
// answers can be compared byte for byte.
func appendFloat(b []byte, v float32) []byte {
	return strconv.AppendFloat(b, float64(v), 'g', -1, 32)
}
