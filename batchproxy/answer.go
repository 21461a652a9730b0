package batchproxy

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// answer is what a client is sent. One of body and message is set.
type answer struct {
	code       int
	header     http.Header // of an answer that is this client's alone; nil for a part of a batch's
	body       *buffer
	message    string        // the text of an error of the proxy's own
	retryAfter time.Duration // 0 without
	items      int           // rows in the batch that it came with, 0 where none was sent
}

// batchSizeHeader tells a client how many rows its batch had.
const batchSizeHeader = "X-Flyball-Batch-Size"

// write sends the answer, and returns its status.
func (a *answer) write(w http.ResponseWriter) int {
	header := w.Header()
	endToEnd(header, a.header)
	if a.items > 0 {
		header[batchSizeHeader] = []string{strconv.Itoa(a.items)}
	}
	if a.body == nil {
		if a.retryAfter > 0 {
			return writeRetry(w, a.code, a.retryAfter, a.message)
		}
		return writeError(w, a.code, a.message)
	}
	if a.header == nil {
		header["Content-Type"] = []string{"application/json"}
	}
	header["Content-Length"] = []string{strconv.Itoa(len(a.body.b))}
	w.WriteHeader(a.code)
	_, _ = w.Write(a.body.b) // a client that has gone is no error of ours
	return a.code
}

func (a *answer) release() {
	if a != nil {
		a.body.release()
	}
}

// writeError sends {"error": message}, and returns the status.
func writeError(w http.ResponseWriter, code int, message string) int {
	text, err := json.Marshal(struct {
		Error string `json:"error"`
	}{message})
	if err != nil { // a string always can be
		text = []byte(`{"error":"internal error"}`)
	}
	return writeJSON(w, code, string(text))
}

// writeRetry is writeError with the whole seconds, 1 or more, after which it is worth trying again.
func writeRetry(w http.ResponseWriter, code int, after time.Duration, message string) int {
	seconds := max(1, int((after+time.Second-1)/time.Second))
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	return writeError(w, code, message)
}

func writeJSON(w http.ResponseWriter, code int, text string) int {
	header := w.Header()
	header["Content-Type"] = []string{"application/json"}
	header["Content-Length"] = []string{strconv.Itoa(len(text))}
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text))
	return code
}
