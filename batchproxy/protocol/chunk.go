package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// Chunks cuts a request that has more rows than a batch shall have. Nothing is copied, and a chunk is made when it is asked
// for.
type Chunks struct {
	of    *Request
	most  int
	left  int   // rows
	at    []int // per part: where the next chunk begins
	plain []bool
}

// Chunks begins to cut the request into ones of up to so many rows, 1 or more.
func (r *Request) Chunks(most int) *Chunks {
	c := &Chunks{of: r, most: most, left: r.Items, at: make([]int, len(r.parts)), plain: make([]bool, len(r.parts))}
	for i, p := range r.parts {
		c.plain[i] = p.width == 0 && plain(p.raw)
	}
	return c
}

// Next is the next chunk, in the order of the rows, and nil after the last.
func (c *Chunks) Next() *Request {
	if c.left == 0 {
		return nil
	}
	chunk := *c.of
	chunk.Items = min(c.most, c.left)
	c.left -= chunk.Items
	chunk.parts = make([]part, len(c.of.parts))
	for i, p := range c.of.parts {
		start := c.at[i]
		elements := chunk.Items * p.each
		var end int
		switch p.width {
		case 0:
			end = c.takeText(i, elements)
		case inLength:
			n, err := walkBytes(p.raw[start:], elements)
			if err != nil { // cannot be: the tensor was checked; and what is sent is less than the shape says, never more
				n = 0
			}
			end = start + n
			c.at[i] = end
		default:
			end = start + elements*p.width
			c.at[i] = end
		}
		raw := p.raw[start:end]
		if p.width == 0 {
			raw = bytes.Trim(raw, " \n\t\r")
		}
		chunk.parts[i] = part{raw: raw, each: p.each, width: p.width}
	}
	return &chunk
}

// takeText is where so many elements of a part in JSON end; the next chunk begins after the comma that follows.
func (c *Chunks) takeText(i, elements int) (end int) {
	raw, at := c.of.parts[i].raw, c.at[i]
	for range elements {
		if c.plain[i] {
			for at < len(raw) && raw[at] != ',' {
				at++
			}
		} else {
			next, err := skip(raw, space(raw, at), MaxDepth)
			if err != nil { // cannot be, as above
				break
			}
			at = space(raw, next)
		}
		end = at
		at++
	}
	if elements == 0 {
		return at
	}
	c.at[i] = at
	return end
}

// Join puts the answers to a request's chunks together to one. What is not of a row is taken from the first.
type Join struct {
	protocol Protocol
	whole    *Request
	first    *Answer
	rows     int
	size     int
	holes    [][]byte // per hole of the first answer: the rows
	numbers  []int64  // per hole: the sum
	segments [][]byte

	estimated bool
}

// NewJoin begins to put together the answer to a request.
func NewJoin(p Protocol, whole *Request) *Join { return &Join{protocol: p, whole: whole} }

// Size is the number of bytes that are held for the answers so far.
func (j *Join) Size() int { return j.size }

// Estimated reports whether a chunk's share of a batch's numbers was an estimate.
func (j *Join) Estimated() bool { return j.estimated }

// Add takes the answer to the next chunk, in order, and copies what it keeps. estimated says that numbers in it are. The
// error says why the answer does not fit: it is none to so many rows, or differs from the first in more than its rows.
func (j *Join) Add(m Message, chunk *Request, estimated bool) error {
	body := append([]byte(nil), m.Body...)
	if j.first != nil {
		body = m.Body
	}
	a, err := j.protocol.Split(Message{Body: body, Header: m.Header}, []*Request{chunk})
	if err != nil {
		return err
	}
	if j.first == nil {
		j.first = a
		j.size = len(body)
		j.holes, j.numbers = make([][]byte, len(a.holes)), make([]int64, len(a.holes))
		j.segments = make([][]byte, len(a.segments))
	} else if err := j.alike(a); err != nil {
		return err
	}
	for i := range a.holes {
		h := &a.holes[i]
		had := len(j.holes[i])
		switch h.kind {
		case rowsHole, dataHole:
			if j.rows > 0 && h.start < h.end {
				j.holes[i] = append(j.holes[i], ',')
			}
			if h.kind == rowsHole {
				j.holes[i] = append(j.holes[i], a.body[h.bounds[0].start:h.bounds[0].end]...)
			} else {
				j.holes[i] = a.appendElements(j.holes[i], h.elements, j.rows)
			}
		case numberHole:
			j.numbers[i] += h.shares[0]
		}
		j.size += len(j.holes[i]) - had
	}
	for i := range j.segments {
		own := a.segments[i].bounds[0]
		j.segments[i] = append(j.segments[i], a.body[own.start:own.end]...)
		j.size += own.end - own.start
	}
	j.rows += chunk.Items
	j.estimated = j.estimated || estimated
	return nil
}

// alike reports whether an answer has the same things in the same order as the first.
func (j *Join) alike(a *Answer) error {
	if len(a.holes) != len(j.first.holes) || len(a.segments) != len(j.first.segments) {
		return errors.New("the answers to two chunks have not the same members")
	}
	for i := range a.holes {
		if x, y := j.first.holes[i], a.holes[i]; x.kind != y.kind || x.label != y.label {
			return fmt.Errorf("the answers to two chunks differ: %s and %s", x.label, y.label)
		}
	}
	return nil
}

// Append appends to dst the answer to the whole request, once the answers to all its chunks are there.
func (j *Join) Append(dst []byte) Message {
	began, at, a := len(dst), 0, j.first
	for i := range a.holes {
		h := &a.holes[i]
		dst = append(dst, a.body[at:h.start]...)
		switch h.kind {
		case rowsHole, dataHole:
			dst = append(dst, j.holes[i]...)
		case countHole:
			dst = strconv.AppendInt(dst, int64(j.rows), 10)
		case idHole:
			dst = h.appendID(dst, j.whole.id)
		case sizeHole:
			dst = strconv.AppendInt(dst, int64(len(j.segments[h.segment])), 10)
		case numberHole:
			dst = strconv.AppendInt(dst, j.numbers[i], 10)
		}
		at = h.end
	}
	dst = append(dst, a.body[at:a.text]...)
	m := Message{}
	if len(j.segments) > 0 {
		m.Header = len(dst) - began
	}
	for _, tensor := range j.segments {
		dst = append(dst, tensor...)
	}
	m.Body = dst
	return m
}
