package batchproxy

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"flyball/batchproxy/protocol"
)

// answer is what a client is sent. One of body and message is set.
type answer struct {
	code       int
	status     int         // the replica's, where this is the proxy's own word for it; else 0
	headers    http.Header // of an answer that is this client's alone; nil for a part of a batch's
	body       *buffer
	header     int      // of a part: the bytes of it that are JSON, where tensors in binary follow; else 0
	tensors    [][]byte // of a part: what follows body, parts of another buffer
	tensorsOf  *buffer
	message    string        // the text of an error of the proxy's own
	retryAfter time.Duration // 0 without
	shed       string        // the reason, where the request was refused for the load that there is
	items      int           // rows in the batch that it came with, 0 where none was sent
	chunks     int           // in which the request was sent, 0 for one that was not cut
	estimated  bool          // the tokens used are an estimate
	timing
}

const (
	// batchSizeHeader tells a client how many rows its batch had, or the largest of its batches.
	batchSizeHeader = "X-Flyball-Batch-Size"
	// chunksHeader tells a client in how many parts its request was sent.
	chunksHeader = "X-Flyball-Chunks"
	// usageHeader tells a client that its share of the tokens that a batch used is an estimate.
	usageHeader = "X-Flyball-Usage"
)

// write sends the answer, and returns its status.
func (a *answer) write(w http.ResponseWriter, f form) int {
	header := w.Header()
	endToEnd(header, a.headers)
	if a.items > 0 {
		header[batchSizeHeader] = []string{strconv.Itoa(a.items)}
	}
	a.timing.write(header)
	if acc := accountOf(w); acc != nil {
		acc.timing, acc.rows = a.timing, a.items
	}
	if a.chunks > 0 {
		header[chunksHeader] = []string{strconv.Itoa(a.chunks)}
	}
	if a.body == nil {
		if a.retryAfter > 0 {
			return f.writeRetry(w, a.code, a.retryAfter, a.message)
		}
		return f.writeError(w, a.code, a.message)
	}
	if a.headers == nil {
		setFormat(header, a.header)
	}
	if a.estimated {
		header[usageHeader] = []string{"estimated"}
	}
	length := len(a.body.b)
	for _, tensor := range a.tensors {
		length += len(tensor)
	}
	header["Content-Length"] = []string{strconv.Itoa(length)}
	w.WriteHeader(a.code)
	writeBody(w, a.body.b)
	for _, tensor := range a.tensors {
		writeBody(w, tensor)
	}
	return a.code
}

// setFormat sets the headers that say what a body is, of which so many bytes are JSON and tensors follow; 0 for JSON alone.
func setFormat(header http.Header, text int) {
	if text == 0 {
		header["Content-Type"] = []string{"application/json"}
		return
	}
	header["Content-Type"] = []string{"application/octet-stream"}
	header[protocol.HeaderLength] = []string{strconv.Itoa(text)}
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
		a.tensorsOf.release()
	}
}

// form is how the proxy's own errors are written: as the protocol of the path has them.
type form int

const (
	plainForm  form = iota // {"error": message}, of KServe, Triton and TensorFlow Serving
	openAIForm             // {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}
)

// writeError sends an error, and returns the status.
func (f form) writeError(w http.ResponseWriter, code int, message string) int {
	return f.writeFault(w, code, message, "", "")
}

// writeFault is writeError with what OpenAI's clients are told besides: the member of the body that is at fault, and a
// word for programs. Either may be empty.
func (f form) writeFault(w http.ResponseWriter, code int, message, param, word string) int {
	var value any = message
	if f == openAIForm {
		type fault struct {
			Message string  `json:"message"`
			Type    string  `json:"type"`
			Param   *string `json:"param"`
			Code    *string `json:"code"`
		}
		out := fault{Message: message, Type: "invalid_request_error"}
		switch {
		case code == http.StatusTooManyRequests:
			out.Type, word = "rate_limit_error", "rate_limit_exceeded"
		case code >= 500:
			out.Type = "server_error"
		}
		if param != "" {
			out.Param = &param
		}
		if word != "" {
			out.Code = &word
		}
		value = out
	}
	text, err := json.Marshal(map[string]any{"error": value})
	if err != nil { // texts always can be
		text = []byte(`{"error":"internal error"}`)
	}
	return writeJSON(w, code, string(text))
}

// writeRetry is writeError with the whole seconds, 1 or more, after which it is worth trying again.
func (f form) writeRetry(w http.ResponseWriter, code int, after time.Duration, message string) int {
	seconds := max(1, int((after+time.Second-1)/time.Second))
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	return f.writeError(w, code, message)
}

// clientGone stands in metrics for a client that went before its answer, as nginx has it: it is the client's doing.
const clientGone = 499

// writeGone answers a client that closed the connection, and returns clientGone. One that closed only its own side still
// reads this, where the server would tell it 200 if nothing were written.
func (f form) writeGone(w http.ResponseWriter) int {
	f.writeError(w, http.StatusBadRequest, "the client closed the connection before the answer")
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
