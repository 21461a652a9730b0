package protocol

import (
	"bytes"
	"errors"
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Message is the body of a request or of an answer. In the Open Inference Protocol tensors in binary may follow the JSON
// text; then Header is the length of that text in bytes, which the HTTP header Inference-Header-Content-Length says. It is
// 0 where all of the body is JSON.
type Message struct {
	Body   []byte
	Header int
}

// text is the part that is JSON.
func (m Message) text() []byte {
	if m.Header == 0 {
		return m.Body
	}
	return m.Body[:m.Header]
}

// Protocol merges requests and splits answers. The bodies that it is given are not changed, and what it returns refers
// to them: they must stay as they are for as long as the results are in use.
type Protocol interface {
	// Name is the protocol's label in metrics: v1, oip or openai.
	Name() string
	// Parse checks a request. The error is a *Fault where it is wrong, and ErrAlone where it is right, or the model
	// server's to judge, but is no request that can share a batch.
	Parse(m Message) (*Request, error)
	// Merge appends to dst one body for all the requests, in their order. There is at least one, and their keys are
	// equal. The batch's id is sent in the place of their own ids, in protocols that have ids.
	Merge(dst []byte, id string, requests []*Request) Message
	// Split finds each request's part in the answer to the merged body. The error says why the answer cannot be split
	// without the risk of giving a client what belongs to another.
	Split(m Message, requests []*Request) (*Answer, error)
}

// ErrAlone is the error for a valid request that cannot share a batch: columnar inputs, no rows, tensors in shared
// memory, a sequence.
var ErrAlone = errors.New("not a request that can share a batch")

// Request is one client's checked request, or a chunk of one.
type Request struct {
	// Items is the number of rows that the request brings to a batch, 1 or more.
	Items int
	// Key is everything in the body that is not batched, in canonical form.
	Key []byte
	// Priority is the one of the Open Inference Protocol's parameters: 1 is the most urgent, 0 where none is given.
	Priority uint64
	// Timeout is the one of these parameters: in how many microseconds the answer is wanted, 0 where none is given.
	Timeout uint64

	id     []byte   // the client's id as raw JSON, nil without one
	parts  []part   // per batched array in the order of the key
	heads  [][]byte // per batched array: what stands before the number of rows and after it (pairs), parts of Key
	rest   []byte   // the other members of the body, canonical, without the braces; part of Key
	params []byte   // the members of the body's parameters, as rest; part of Key
	tokens bool     // the rows are arrays of tokens
}

// part is the rows that a request has of one batched array.
type part struct {
	raw   []byte // the elements without the brackets, or the bytes of a tensor in binary
	each  int    // elements a row
	width int    // of an element in bytes where the rows are binary, inLength for BYTES; 0 where they are JSON
}

// Fault says what is wrong with a request's body and where.
type Fault struct {
	Where  string // a JSON pointer, a field's name or an HTTP header's; empty for the body as a whole
	Reason string
}

// Error returns where and what, as the client is told.
func (f *Fault) Error() string {
	if f.Where == "" {
		return "body: " + f.Reason
	}
	return f.Where + ": " + f.Reason
}

// items is the number of rows that the requests bring together.
func items(requests []*Request) int {
	n := 0
	for _, r := range requests {
		n += r.Items
	}
	return n
}

// strictly has a body walked strictly. Where that finds anything wrong, or unusual, jsontext checks all of it, and says what is
// wrong, and what is valid is walked again.
func strictly(body []byte, walk func(look) (*Request, error)) (*Request, error) {
	r, err := walk(look{care: strict})
	if err == nil || errors.Is(err, ErrAlone) {
		return r, err
	}
	if err := check(body); err != nil {
		return nil, err
	}
	return walk(look{})
}

// check reports whether the body is one JSON object as RFC 7493 wants it: UTF-8, no name twice. That it has no more than
// MaxDepth levels is for the walk through it to see.
func check(body []byte) error {
	if !jsontext.Value(body).IsValid() {
		return explain(body)
	}
	if c := body[space(body, 0)]; c != '{' {
		return &Fault{Reason: "a JSON object is wanted, this is " + kind(c)}
	}
	return nil
}

// explain says why the body is not valid JSON.
func explain(body []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(body))
	_, err := d.ReadValue()
	if err == nil {
		if _, err = d.ReadToken(); err == nil {
			return &Fault{Reason: "not JSON: more text after the object, at byte " + strconv.FormatInt(d.InputOffset(), 10)}
		}
	}
	if errors.Is(err, io.EOF) {
		return &Fault{Reason: "empty, a JSON object is wanted"}
	}
	syntax, ok := errors.AsType[*jsontext.SyntacticError](err)
	if !ok {
		return &Fault{Reason: "not JSON: " + err.Error()}
	}
	where := string(syntax.JSONPointer)
	if len(where) > 100 {
		where = where[:100] + "..."
	}
	if errors.Is(syntax.Err, jsontext.ErrDuplicateName) {
		return &Fault{Where: where, Reason: "this name is given twice in its object"}
	}
	return &Fault{Where: where, Reason: "not JSON: " + syntax.Err.Error() + " at byte " + strconv.FormatInt(syntax.ByteOffset, 10)}
}

// appendCanonical appends a valid JSON value in canonical form: no white space, members in order of their names,
// strings in their shortest form. Numbers stay as they were written.
func appendCanonical(dst, value []byte) []byte {
	if value[0] != '{' && value[0] != '[' && bytes.IndexByte(value, '\\') < 0 {
		return append(dst, value...)
	}
	v := jsontext.Value(bytes.Clone(value))
	if err := v.Format(jsontext.ReorderRawObjects(true)); err != nil {
		return append(dst, value...) // cannot be: the value was checked; as it stands it is still a key of its own
	}
	return append(dst, v...)
}

// appendRest appends the members, which are raw `"name":value` pairs in any order, in canonical form without braces.
func appendRest(dst []byte, members [][]byte) []byte {
	if len(members) == 0 {
		return dst
	}
	object := append([]byte{'{'}, bytes.Join(members, []byte{','})...)
	canonical := appendCanonical(nil, append(object, '}'))
	return append(dst, canonical[1:len(canonical)-1]...)
}

// unquote is the text of a raw JSON string.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	text, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		return string(raw)
	}
	return string(text)
}

// is reports whether a raw JSON string is this text.
func is(raw []byte, text string) bool {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1:len(raw)-1]) == text
	}
	return unquote(raw) == text
}

// kind names a JSON value by its first byte, for messages.
func kind(c byte) string {
	switch c {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}
