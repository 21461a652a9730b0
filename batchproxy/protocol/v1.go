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
func (V1) Parse(body []byte) (*Request, error) {
	if err := check(body); err != nil {
		return nil, err
	}
	r := new(Request)
	var others [][]byte
	var instances, columns bool
	o := walkObject(body, space(body, 0), MaxDepth)
	for o.next() {
		switch {
		case is(o.name, "instances"):
			if c := body[o.start]; c != '[' {
				return nil, &Fault{Where: "instances", Reason: "an array with one element per instance is wanted, this is " + kind(c)}
			}
			n, err := count(body, o.start, o.end, o.depth)
			if err != nil {
				return nil, &Fault{Where: "instances", Reason: err.Error()}
			}
			instances, r.Items = true, n
			r.parts = [][]byte{trim(body, o.start, o.end)}
		case is(o.name, "inputs"):
			columns = true
		default:
			others = append(others, body[o.nameStart:o.end])
		}
	}
	switch {
	case o.err != nil:
		return nil, &Fault{Reason: o.err.Error()}
	case instances && columns:
		return nil, &Fault{Reason: "has both instances (rows) and inputs (columns): give one of them"}
	case columns || instances && r.Items == 0:
		return nil, ErrAlone
	case !instances:
		return nil, &Fault{Where: "instances", Reason: "missing: give an array with one element per instance"}
	}
	r.rest = appendRest(nil, others)
	r.Key = r.rest
	return r, nil
}

// Merge implements [Protocol]. The protocol has no ids.
func (V1) Merge(dst []byte, _ string, requests []*Request) []byte {
	dst = append(dst, `{"instances":[`...)
	for i, r := range requests {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, r.parts[0]...)
	}
	dst = append(dst, ']')
	if rest := requests[0].rest; len(rest) > 0 {
		dst = append(dst, ',')
		dst = append(dst, rest...)
	}
	return append(dst, '}')
}

// Split implements [Protocol]. What the answer holds besides `predictions` goes to every client, except that an array
// as long as the batch may well hold something of each row, and makes the answer one that cannot be split.
func (V1) Split(body []byte, requests []*Request) (*Answer, error) {
	a := &Answer{body: body, requests: requests}
	rows := items(requests)
	o := walkObject(body, space(body, 0), MaxDepth)
	for o.next() {
		if !is(o.name, "predictions") {
			if err := shareable(body, &o, rows); err != nil {
				return nil, err
			}
			continue
		}
		if a.holes != nil {
			return nil, errors.New("predictions is there twice")
		}
		if body[o.start] != '[' {
			return nil, fmt.Errorf("predictions is %s", kind(body[o.start]))
		}
		bounds, err := cutRows(body, o.start, o.end, 1, requests)
		if err != nil {
			return nil, fmt.Errorf("predictions: %w", err)
		}
		a.holes = []hole{{start: o.start + 1, end: o.end - 1, bounds: bounds}}
	}
	if o.err != nil {
		return nil, o.err
	}
	if !blank(body[o.after:]) {
		return nil, errors.New("more text after the object")
	}
	if a.holes == nil {
		return nil, errors.New("no predictions")
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
	if n == rows {
		return fmt.Errorf("%s has an element for each of the %d rows", o.name, rows)
	}
	return nil
}
