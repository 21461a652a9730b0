package loadgen

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"slices"
	"strconv"
)

// Request is one request of the load. A run sends its requests in turn, from the first again after the last.
type Request struct {
	Path     string // below the URL of the run, such as /v2/models/digits/infer
	Protocol Protocol
	Body     []byte // a JSON object; an id in it is replaced by the run's own
	Want     []byte // the body of a right answer, whatever its id; nil where answers are not checked
}

// Protocol is the inference protocol of a request: where its id and the results of its answer stand.
type Protocol string

const (
	// V2 is the Open Inference Protocol (KServe v2, Triton, OpenVINO): the answer repeats the id of the request and
	// holds outputs. JSON only; tensors in the binary extension are not sent.
	V2 Protocol = "v2"
	// V1 is the protocol of TensorFlow Serving and KServe v1: the answer holds predictions. It has no id, so an answer
	// that reached the wrong client shows only where the two right answers differ.
	V1 Protocol = "v1"
)

// Path is where a server of the protocol answers for the model.
func (p Protocol) Path(model string) string {
	if p == V1 {
		return "/v1/models/" + url.PathEscape(model) + ":predict"
	}
	return "/v2/models/" + url.PathEscape(model) + "/infer"
}

// results is the field of an answer that holds what the model computed.
func (p Protocol) results() string {
	if p == V1 {
		return "predictions"
	}
	return "outputs"
}

// inputs are the fields of a request one of which holds what the model is asked.
func (p Protocol) inputs() []string {
	if p == V1 {
		return []string{"instances", "inputs"}
	}
	return []string{"inputs"}
}

func (p Protocol) validate() error {
	if p != V1 && p != V2 {
		return fmt.Errorf("%q is not a protocol: give %s or %s", p, V1, V2)
	}
	return nil
}

// TensorRequests makes one request of each row: for V2 an FP32 input tensor of the given name and shape [1, len(row)],
// for V1 one instance (the name is not sent). It fails on an empty row and on values that JSON cannot hold.
func TensorRequests(model, tensor string, protocol Protocol, rows [][]float32) ([]Request, error) {
	if err := protocol.validate(); err != nil {
		return nil, fmt.Errorf("protocol: %w", err)
	}
	name, err := json.Marshal(tensor)
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", tensor, err)
	}
	requests := make([]Request, 0, len(rows))
	for i, row := range rows {
		values, err := appendFloats(nil, row)
		if err != nil {
			return nil, fmt.Errorf("rows[%d]: %w", i, err)
		}
		body := fmt.Appendf(nil, `{"inputs":[{"name":%s,"datatype":"FP32","shape":[1,%d],"data":%s}]}`, name, len(row), values)
		if protocol == V1 {
			body = fmt.Appendf(nil, `{"instances":[%s]}`, values)
		}
		requests = append(requests, Request{Path: protocol.Path(model), Protocol: protocol, Body: body})
	}
	return requests, nil
}

// appendFloats appends the row as a JSON array, each value in the shortest form that reads back as the same float32.
func appendFloats(b []byte, row []float32) ([]byte, error) {
	if len(row) == 0 {
		return nil, errors.New("empty: a tensor needs one value or more")
	}
	b = append(b, '[')
	for i, v := range row {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, fmt.Errorf("value %d is %v, which JSON cannot hold", i, v)
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(b, float64(v), 'g', -1, 32)
	}
	return append(b, ']'), nil
}

// maxPayloadBytes bounds one line of a payload file: the proxy's default for a body.
const maxPayloadBytes = 64 << 20

// ReadPayloads reads one request body a line (JSON Lines) for the model; empty lines are skipped. Each error names
// name:line.
func ReadPayloads(r io.Reader, name, model string, protocol Protocol) ([]Request, error) {
	if err := protocol.validate(); err != nil {
		return nil, fmt.Errorf("protocol: %w", err)
	}
	var requests []Request
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxPayloadBytes)
	line := 0
	for lines.Scan() {
		line++
		body := bytes.TrimSpace(lines.Bytes())
		if len(body) == 0 {
			continue
		}
		request := Request{Path: protocol.Path(model), Protocol: protocol, Body: slices.Clone(body)}
		if _, err := splitBody(request); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, line, err)
		}
		requests = append(requests, request)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: read payload: %w", name, line+1, err)
	}
	if len(requests) == 0 {
		return nil, fmt.Errorf("%s: no payloads: give one JSON object a line", name)
	}
	return requests, nil
}

// splicedBody is a body with the place for an id in it: head, id, tail. Without an id in the protocol it is all head.
type splicedBody struct {
	head, tail []byte
}

// splitBody makes the place for the id as the first field of the object.
func splitBody(r Request) (splicedBody, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(r.Body, &fields); err != nil {
		return splicedBody{}, fmt.Errorf("not a JSON object: %w", err)
	}
	hasInput := slices.ContainsFunc(r.Protocol.inputs(), func(field string) bool { return fields[field] != nil })
	if !hasInput {
		return splicedBody{}, fmt.Errorf("no %q field: protocol %s asks for one", r.Protocol.inputs()[0], r.Protocol)
	}
	if r.Protocol != V2 {
		return splicedBody{head: r.Body}, nil
	}
	body := bytes.TrimSpace(r.Body)
	if _, has := fields["id"]; has {
		delete(fields, "id")
		var err error
		if body, err = json.Marshal(fields); err != nil {
			return splicedBody{}, fmt.Errorf("take out the id: %w", err)
		}
	}
	return splicedBody{head: []byte(`{"id":"`), tail: append([]byte(`",`), body[1:]...)}, nil
}

// size is the length of the body with the id in it.
func (b splicedBody) size(id string) int64 {
	if b.tail == nil {
		return int64(len(b.head))
	}
	return int64(len(b.head) + len(id) + len(b.tail))
}

// reader reads the body with the id in it. The body is shared by all requests that send it and copied by none.
func (b splicedBody) reader(id string) *bodyReader {
	if b.tail == nil {
		return &bodyReader{parts: [3][]byte{b.head}}
	}
	return &bodyReader{parts: [3][]byte{b.head, []byte(id), b.tail}}
}

// bodyReader reads its parts one after the other. It holds nothing that must be closed.
type bodyReader struct {
	parts [3][]byte
	part  int
}

// Read implements io.Reader.
func (b *bodyReader) Read(p []byte) (int, error) {
	n := 0
	for b.part < len(b.parts) && n < len(p) {
		copied := copy(p[n:], b.parts[b.part])
		n += copied
		if b.parts[b.part] = b.parts[b.part][copied:]; len(b.parts[b.part]) == 0 {
			b.part++
		}
	}
	if n == 0 && b.part == len(b.parts) {
		return 0, io.EOF
	}
	return n, nil
}

// Close implements io.Closer.
func (b *bodyReader) Close() error { return nil }
