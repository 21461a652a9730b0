package protocol

import (
	"errors"
	"fmt"
)

// V1 is the predict protocol of TensorFlow Serving and of KServe's version 1: rows in `instances`, answered in
// `predictions`.
type V1 struct{}

// Name implements [Protocol].
func (V1) Name() string { return "v1" }

// Parse implements [Protocol]. A request in columnar form (`inputs`) or without any instance is ErrAlone.
func (V1) Parse(m Message) (*Request, error) { return parseRows(m.Body, "instances", "instance") }

// Merge implements [Protocol]. The protocol has no ids.
func (V1) Merge(dst []byte, _ string, requests []*Request) Message {
	return mergeRows(dst, `{"instances":[`, requests)
}

// Split implements [Protocol]. What the answer holds besides `predictions` goes to every client, except that an array
// as long as the batch may well hold something of each row, and makes the answer one that cannot be split.
func (V1) Split(m Message, requests []*Request) (*Answer, error) {
	return splitRows(m.Body, requests, "predictions", "predictions")
}

// Examples is TensorFlow Serving's classify and regress: rows in `examples`, answered in `results`, or in `result`, as its
// documentation has it.
type Examples struct{}

// Name implements [Protocol].
func (Examples) Name() string { return "v1" }

// Parse implements [Protocol]. A request without any example is ErrAlone.
func (Examples) Parse(m Message) (*Request, error) { return parseRows(m.Body, "examples", "example") }

// Merge implements [Protocol]. The protocol has no ids.
func (Examples) Merge(dst []byte, _ string, requests []*Request) Message {
	return mergeRows(dst, `{"examples":[`, requests)
}

// Split implements [Protocol], as that of [V1].
func (Examples) Split(m Message, requests []*Request) (*Answer, error) {
	return splitRows(m.Body, requests, "results", "result")
}

func parseRows(body []byte, member, row string) (*Request, error) {
	return strictly(body, func(l look) (*Request, error) { return walkRows(body, l, member, row) })
}

func walkRows(body []byte, l look, member, row string) (*Request, error) {
	r := new(Request)
	var others [][]byte
	var rows, columns bool
	o := walkObject(body, space(body, 0), MaxDepth)
	o.look = l
	for o.nextName() {
		if is(o.name, member) {
			if c := body[o.start]; c != '[' {
				return nil, &Fault{Where: member, Reason: "an array with one element per " + row + " is wanted, this is " + kind(c)}
			}
			if rows, r.Items = true, o.count(); o.err != nil {
				break
			}
			r.parts = []part{{raw: trim(body, o.start, o.end), each: 1}}
			continue
		}
		if !o.skip() {
			break
		}
		switch {
		case is(o.name, "inputs"):
			columns = true
		default:
			others = append(others, body[o.nameStart:o.end])
		}
	}
	if err := o.ended(); err != nil {
		return nil, err
	}
	switch {
	case rows && columns:
		return nil, &Fault{Reason: "has both " + member + " (rows) and inputs (columns): give one of them"}
	case columns || rows && r.Items == 0:
		return nil, ErrAlone
	case !rows:
		return nil, &Fault{Where: member, Reason: "missing: give an array with one element per " + row}
	}
	r.rest = appendRest(nil, others)
	r.Key = r.rest
	return r, nil
}

// mergeRows appends the rows of all after the text that opens their array, and what else the body has.
func mergeRows(dst []byte, opening string, requests []*Request) Message {
	dst = append(dst, opening...)
	for i, r := range requests {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, r.parts[0].raw...)
	}
	dst = append(dst, ']')
	if rest := requests[0].rest; len(rest) > 0 {
		dst = append(dst, ',')
		dst = append(dst, rest...)
	}
	return Message{Body: append(dst, '}')}
}

func splitRows(body []byte, requests []*Request, member, other string) (*Answer, error) {
	a := &Answer{body: body, text: len(body), requests: requests}
	rows := items(requests)
	o := walkObject(body, space(body, 0), MaxDepth)
	for o.nextName() {
		if !is(o.name, member) && !is(o.name, other) {
			if !o.skip() {
				break
			}
			if err := shareable(body, &o, rows); err != nil {
				return nil, err
			}
			continue
		}
		if a.holes != nil {
			return nil, fmt.Errorf("%s is there twice", member)
		}
		if body[o.start] != '[' {
			return nil, fmt.Errorf("%s is %s", member, kind(body[o.start]))
		}
		bounds, end, err := cutRows(body, o.start, leaf(body, o.start), 1, requests)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", member, err)
		}
		o.end = end
		a.holes = []hole{{start: o.start + 1, end: o.end - 1, kind: rowsHole, bounds: bounds}}
	}
	if o.err != nil {
		return nil, o.err
	}
	if !blank(body[o.after:]) {
		return nil, errors.New("more text after the object")
	}
	if a.holes == nil {
		return nil, errors.New("no " + member)
	}
	return a, nil
}

// shareable reports whether the member that o stands on may be copied to every client of a batch of so many rows.
func shareable(body []byte, o *object, rows int) error {
	if body[o.start] != '[' {
		return nil
	}
	n, err := count(body, o.start, o.end, o.depth)
	if err != nil {
		return fmt.Errorf("%s: %w", o.name, err)
	}
	if n == rows && rows > 1 {
		return fmt.Errorf("%s has an element for each of the %d rows", o.name, rows)
	}
	return nil
}
