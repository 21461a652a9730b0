package protocol

import (
	"slices"
	"strconv"
)

// Answer is an upstream's answer, cut for the requests of its batch.
type Answer struct {
	body     []byte // all of it
	text     int    // bytes of it that are JSON
	requests []*Request
	holes    []hole    // in the JSON, ordered, not overlapping
	segments []segment // the tensors in binary that follow the JSON, in order

	estimated bool
}

// hole is a stretch of the JSON that differs between clients.
type hole struct {
	start, end int
	kind       holeKind
	bounds     []span    // of rows: each request's own
	elements   []element // of data: in the order of the batch's rows
	shares     []int64   // of number: each request's
	segment    int       // of size: whose
	before     string    // of id: what stands before and after it, where the client has one
	after      string
	label      string // what must be equal in answers that are joined
}

type holeKind int

const (
	rowsHole   holeKind = iota // the rows themselves
	countHole                  // the number of rows
	idHole                     // the client's id
	sizeHole                   // the bytes of a tensor in binary
	dataHole                   // rows that have an index
	numberHole                 // a count that is divided
)

type span struct{ start, end int }

// segment is one tensor in binary.
type segment struct{ bounds []span }

// element is a row that has its index in it.
type element struct {
	span
	index span // where the number stands
}

// Estimated reports whether numbers that are for the whole batch, such as the tokens used, were divided by an estimate.
func (a *Answer) Estimated() bool { return a.estimated }

// Append appends to dst the answer to the i-th request.
func (a *Answer) Append(dst []byte, i int) Message {
	m := a.AppendText(dst, i)
	for _, tensor := range a.Tensors(i) {
		m.Body = append(m.Body, tensor...)
	}
	return m
}

// AppendText appends to dst the JSON of the answer to the i-th request, which its tensors follow. The message's Header
// is set where there are any.
func (a *Answer) AppendText(dst []byte, i int) Message {
	began, at, row := len(dst), 0, 0
	for _, r := range a.requests[:i] {
		row += r.Items
	}
	for _, h := range a.holes {
		dst = append(dst, a.body[at:h.start]...)
		switch h.kind {
		case rowsHole:
			dst = append(dst, a.body[h.bounds[i].start:h.bounds[i].end]...)
		case countHole:
			dst = strconv.AppendInt(dst, int64(a.requests[i].Items), 10)
		case idHole:
			dst = h.appendID(dst, a.requests[i].id)
		case sizeHole:
			own := a.segments[h.segment].bounds[i]
			dst = strconv.AppendInt(dst, int64(own.end-own.start), 10)
		case dataHole:
			dst = a.appendElements(dst, h.elements[row:row+a.requests[i].Items], 0)
		case numberHole:
			dst = strconv.AppendInt(dst, h.shares[i], 10)
		}
		at = h.end
	}
	m := Message{Body: append(dst, a.body[at:a.text]...)}
	if len(a.segments) > 0 {
		m.Header = len(m.Body) - began
	}
	return m
}

// Tensors are the i-th request's rows of the tensors in binary. They are not copied: they are parts of the answer's body.
func (a *Answer) Tensors(i int) [][]byte {
	if len(a.segments) == 0 {
		return nil
	}
	out := make([][]byte, len(a.segments))
	for s, segment := range a.segments {
		own := segment.bounds[i]
		out[s] = a.body[own.start:own.end]
	}
	return out
}

func (h *hole) appendID(dst, id []byte) []byte {
	if id == nil {
		return dst
	}
	dst = append(dst, h.before...)
	dst = append(dst, id...)
	return append(dst, h.after...)
}

// appendElements appends rows, which are numbered from first on.
func (a *Answer) appendElements(dst []byte, elements []element, first int) []byte {
	for i, e := range elements {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, a.body[e.start:e.index.start]...)
		dst = strconv.AppendInt(dst, int64(first+i), 10)
		dst = append(dst, a.body[e.index.end:e.end]...)
	}
	return dst
}

func (a *Answer) cut(h hole) {
	at, _ := slices.BinarySearchFunc(a.holes, h, func(x, y hole) int { return x.start - y.start })
	a.holes = slices.Insert(a.holes, at, h)
}
