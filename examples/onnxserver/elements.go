package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// elements reads the elements out of a JSON value whose syntax has been checked. Walking its bytes here, and not token by token,
// is what makes a batch of large tensors cheap to read.
type elements struct {
	datatype datatype
	text     []byte
	at       int
	path     []int // of the arrays that are open, the element in each
	data     []byte
}

// nested reads text, a value of the shape: a dimension of -1 takes the size of the first array that is there, and is set to it.
// place is where the value stands, for faults.
func nested(data, text []byte, dt datatype, shape []int64, place string) ([]byte, error) {
	e := &elements{datatype: dt, text: text, data: data}
	if err := e.level(shape); err != nil {
		return nil, badRequest("%s%v", place+e.where(), err)
	}
	return e.data, nil
}

// flat reads text, an array of elements, or of arrays as the shape says.
func flat(data, text []byte, dt datatype, shape []int64, place string) ([]byte, error) {
	if inner := bytes.TrimLeft(text[1:], " \t\r\n"); len(shape) > 1 && inner[0] == '[' {
		return nested(data, text, dt, append([]int64(nil), shape...), place)
	}
	want, _ := count(shape)
	have := []int64{-1}
	// An element has a byte at least, and a comma or bracket after it: what a shape claims is not believed beyond that.
	data = slices.Grow(data, int(min(want, int64(len(text)/2)))*dt.size())
	data, err := nested(data, text, dt, have, place)
	if err == nil && have[0] != want {
		err = badRequest("%s: %d values; the shape %s has %d", place, have[0], appendShape(nil, shape), want)
	}
	return data, err
}

// where is the path to what is being read, as in [3][17].
func (e *elements) where() string {
	var b strings.Builder
	for _, i := range e.path {
		b.WriteString("[" + strconv.Itoa(i) + "]")
	}
	return b.String()
}

func (e *elements) space() {
	for e.at < len(e.text) {
		switch e.text[e.at] {
		case ' ', '\t', '\r', '\n':
			e.at++
		default:
			return
		}
	}
}

// level reads an array of the first dimension of shape, or an element where no dimension is left.
func (e *elements) level(shape []int64) error {
	e.space()
	if len(shape) == 0 {
		return e.element()
	}
	if e.text[e.at] != '[' {
		return fmt.Errorf(": %s; give an array", kindOf(e.text[e.at]))
	}
	e.at++
	n := int64(0)
	e.path = append(e.path, 0)
	for e.space(); e.text[e.at] != ']'; e.space() {
		if e.text[e.at] == ',' {
			e.at++
		}
		e.path[len(e.path)-1] = int(n)
		if err := e.level(shape[1:]); err != nil {
			return err
		}
		n++
	}
	e.at++
	e.path = e.path[:len(e.path)-1]
	switch {
	case shape[0] < 0 && n == 0:
		return errors.New(": empty; give 1 value or more")
	case shape[0] < 0:
		shape[0] = n
	case n != shape[0]:
		return fmt.Errorf(": %d values; give %d", n, shape[0])
	}
	return nil
}

func (e *elements) element() error {
	start := e.at
	switch e.text[start] {
	case '[', '{', '"', 'n':
		return fmt.Errorf(": %s; give %s", kindOf(e.text[start]), e.datatype.wanted())
	}
	for e.at < len(e.text) {
		switch e.text[e.at] {
		case ',', ']', ' ', '\t', '\r', '\n':
		default:
			e.at++
			continue
		}
		break
	}
	data, err := e.datatype.appendElement(e.data, e.text[start:e.at])
	if err != nil {
		return fmt.Errorf(": %s is not %s", short(string(e.text[start:e.at])), e.datatype.wanted())
	}
	e.data = data
	return nil
}

// kindOf names the kind of the JSON value that begins with c.
func kindOf(c byte) string {
	switch c {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "an array"
	default:
		return "a number"
	}
}

// appendNested appends data as JSON: arrays as the shape says, or one flat array where shape is the number of elements.
func appendNested(b, data []byte, dt datatype, shape []int64) (text, rest []byte, err error) {
	if len(shape) == 0 {
		b, err = dt.appendText(b, data[:dt.size()])
		return b, data[dt.size():], err
	}
	b = append(b, '[')
	for i := range shape[0] {
		if i > 0 {
			b = append(b, ',')
		}
		if b, data, err = appendNested(b, data, dt, shape[1:]); err != nil {
			return nil, nil, err
		}
	}
	return append(b, ']'), data, nil
}

func appendShape(b []byte, shape []int64) []byte {
	b = append(b, '[')
	for i, size := range shape {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, size, 10)
	}
	return append(b, ']')
}
