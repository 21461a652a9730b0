package batchproxy

import (
	"encoding/json"
	"net/http"
	"slices"
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
	writeBody(w, a.body.b)
	return a.code
}

const (
	// takeTime is how long a client may take for a piece of its answer, or it has gone: what it does not read is
	// memory, and a shutdown waits for it.
	takeTime = 30 * time.Second
	piece    = 256 << 10
	// atOnce is how much the server takes before it writes to the connection.
	atOnce = 2 << 10
)

// writeBody sends the body of an answer. That the client has gone is no error of ours.
func writeBody(w http.ResponseWriter, body []byte) {
	if len(body) <= atOnce {
		_, _ = w.Write(body)
		return
	}
	control := http.NewResponseController(w)
	for part := range slices.Chunk(body, piece) {
		_ = control.SetWriteDeadline(time.Now().Add(takeTime)) // a writer that has none does not wait either
		if _, err := w.Write(part); err != nil {
			return
		}
	}
	_ = control.SetWriteDeadline(time.Time{}) // the connection may serve another request
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

// clientGone stands in metrics for a client that went before its answer, as nginx has it: it is the client's doing.
const clientGone = 499

// writeGone answers a client that closed the connection, and returns clientGone. One that closed only its own side still
// reads this, where the server would tell it 200 if nothing were written.
func writeGone(w http.ResponseWriter) int {
	writeError(w, http.StatusBadRequest, "the client closed the connection before the answer")
	return clientGone
}

func writeJSON(w http.ResponseWriter, code int, text string) int {
	header := w.Header()
	header["Content-Type"] = []string{"application/json"}
	header["Content-Length"] = []string{strconv.Itoa(len(text))}
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text))
	return code
}
