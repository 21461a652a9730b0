package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// OIP is the Open Inference Protocol (KServe's version 2, Triton) with tensors in JSON: the first dimension of every
// input and output is the batch.
type OIP struct{}

// Name implements [Protocol].
func (OIP) Name() string { return "oip" }

// tensor is one input while a request is parsed.
type tensor struct {
	name       []byte // raw
	datatype   []byte // raw
	shape      []int
	start, end int // of the data, brackets included; 0 without data
	nested     bool
	elsewhere  bool // the parameters say that the data is not in the JSON
	others     [][]byte
}

// Parse implements [Protocol]. A request without rows, with inputs of different numbers of rows, with data outside of
// the JSON or that is part of a sequence is ErrAlone.
func (OIP) Parse(body []byte) (*Request, error) {
	if err := check(body); err != nil {
		return nil, err
	}
	r := new(Request)
	var others [][]byte
	var tensors []tensor
	alone := false
	o := walkObject(body, space(body, 0), MaxDepth)
	for o.next() {
		value := body[o.start:o.end]
		switch {
		case is(o.name, "id"):
			if value[0] != '"' {
				return nil, &Fault{Where: "id", Reason: "a string is wanted, this is " + kind(value[0])}
			}
			r.id = value
		case is(o.name, "inputs"):
			if value[0] != '[' {
				return nil, &Fault{Where: "inputs", Reason: "an array of tensors is wanted, this is " + kind(value[0])}
			}
			var err error
			if tensors, err = parseTensors(body, o.start, o.depth); err != nil {
				return nil, err
			}
		default:
			if is(o.name, "parameters") && value[0] == '{' {
				alone = alone || hasMember(body, o.start, "sequence_id")
			}
			others = append(others, body[o.nameStart:o.end])
		}
	}
	if o.err != nil {
		return nil, &Fault{Reason: o.err.Error()}
	}
	if len(tensors) == 0 {
		return nil, &Fault{Where: "inputs", Reason: "missing: give an array with one tensor or more"}
	}
	slices.SortStableFunc(tensors, func(x, y tensor) int { return bytes.Compare(x.name, y.name) })
	for i, t := range tensors {
		if i > 0 && bytes.Equal(t.name, tensors[i-1].name) {
			return nil, &Fault{Where: "inputs", Reason: fmt.Sprintf("two tensors are named %s", t.name)}
		}
		if t.elsewhere || len(t.shape) == 0 || t.shape[0] == 0 || t.shape[0] != tensors[0].shape[0] || t.start == 0 {
			alone = true
		}
	}
	if alone {
		return nil, ErrAlone
	}
	r.Items = tensors[0].shape[0]
	r.key(body, tensors, others)
	return r, nil
}

// parseTensors reads the inputs and checks that each one's data has as many elements as its shape says.
func parseTensors(body []byte, start, depth int) ([]tensor, error) {
	tensors := make([]tensor, 0, 2)
	a := walkArray(body, start, depth)
	for a.next() {
		where := "inputs[" + strconv.Itoa(len(tensors)) + "]"
		if c := body[a.start]; c != '{' {
			return nil, &Fault{Where: where, Reason: "a tensor (an object) is wanted, this is " + kind(c)}
		}
		t, err := parseTensor(body, where, a.start, a.depth)
		if err != nil {
			return nil, err
		}
		tensors = append(tensors, t)
	}
	if a.err != nil {
		return nil, &Fault{Where: "inputs", Reason: a.err.Error()}
	}
	return tensors, nil
}

func parseTensor(body []byte, where string, start, depth int) (tensor, error) {
	var t tensor
	var shaped bool
	o := walkObject(body, start, depth)
	for o.next() {
		value := body[o.start:o.end]
		switch {
		case is(o.name, "name"), is(o.name, "datatype"):
			if value[0] != '"' {
				return t, &Fault{Where: where + "." + unquote(o.name), Reason: "a string is wanted, this is " + kind(value[0])}
			}
			if is(o.name, "name") {
				t.name = appendCanonical(nil, value)
			} else {
				t.datatype = value
			}
		case is(o.name, "shape"):
			var err error
			if t.shape, err = parseShape(body, o.start, o.depth); err != nil {
				return t, &Fault{Where: where + ".shape", Reason: err.Error()}
			}
			shaped = true
		case is(o.name, "data"):
			if value[0] != '[' {
				return t, &Fault{Where: where + ".data", Reason: "an array is wanted, this is " + kind(value[0])}
			}
			t.start, t.end = o.start, o.end
		default:
			if is(o.name, "parameters") && value[0] == '{' {
				t.elsewhere = hasMember(body, o.start, "shared_memory_region") || hasMember(body, o.start, "binary_data_size")
			}
			t.others = append(t.others, body[o.nameStart:o.end])
		}
	}
	switch {
	case o.err != nil:
		return t, &Fault{Where: where, Reason: o.err.Error()}
	case t.name == nil:
		return t, &Fault{Where: where + ".name", Reason: "missing: give the tensor's name"}
	case t.datatype == nil:
		return t, &Fault{Where: where + ".datatype", Reason: "missing: give the tensor's datatype, such as \"FP32\""}
	case !shaped:
		return t, &Fault{Where: where + ".shape", Reason: "missing: give the tensor's dimensions, such as [1, 64]"}
	case t.start == 0 && !t.elsewhere:
		return t, &Fault{Where: where + ".data", Reason: "missing: give the tensor's elements"}
	case t.start == 0:
		return t, nil
	}
	var err error
	if t.nested, err = checkData(body, t.start, t.end, t.shape); err != nil {
		return t, &Fault{Where: where + ".data", Reason: err.Error()}
	}
	return t, nil
}

// parseShape reads an array of dimensions whose product fits an int.
func parseShape(body []byte, start, depth int) ([]int, error) {
	if body[start] != '[' {
		return nil, fmt.Errorf("an array of dimensions is wanted, this is %s", kind(body[start]))
	}
	shape := make([]int, 0, 4)
	product := 1
	a := walkArray(body, start, depth)
	for a.next() {
		text := body[a.start:a.end]
		n, ok := parseDimension(text)
		if !ok {
			return nil, fmt.Errorf("%.20s is not a dimension: a whole number, 0 or more, is wanted", text)
		}
		if n > 0 && product > math.MaxInt32/n {
			return nil, errors.New("the tensor has more than 2147483647 elements")
		}
		product *= max(n, 1)
		shape = append(shape, n)
	}
	return shape, a.err
}

// parseDimension reads a whole number of up to nine digits.
func parseDimension(text []byte) (int, bool) {
	if len(text) == 0 || len(text) > 9 {
		return 0, false
	}
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

// checkData reports whether data is nested as its shape says or flat, and an error where it is neither.
func checkData(body []byte, start, end int, shape []int) (nested bool, err error) {
	first := space(body, start+1)
	if nested = body[first] == '[' && len(shape) > 1; nested {
		return true, checkNested(body, start, end, shape)
	}
	elements := 1
	for _, n := range shape {
		elements *= n
	}
	have, err := countScalars(body, start, end)
	if err == nil && have != elements {
		err = fmt.Errorf("%d elements, the shape %s wants %d", have, text(shape), elements)
	}
	return false, err
}

func checkNested(body []byte, start, end int, shape []int) error {
	if len(shape) == 1 {
		have, err := countScalars(body, start, end)
		if err == nil && have != shape[0] {
			err = fmt.Errorf("a row has %d elements, the last dimension of the shape is %d", have, shape[0])
		}
		return err
	}
	n := 0
	a := walkArray(body, start, MaxDepth)
	for a.next() {
		if body[a.start] != '[' {
			return fmt.Errorf("%s where the shape has another dimension, an array is wanted", kind(body[a.start]))
		}
		if err := checkNested(body, a.start, a.end, shape[1:]); err != nil {
			return err
		}
		n++
	}
	if a.err == nil && n != shape[0] {
		return fmt.Errorf("an array of %d elements where the shape wants %d", n, shape[0])
	}
	return a.err
}

// countScalars is the number of elements of an array in which none is an array or object.
func countScalars(body []byte, start, end int) (int, error) {
	if inner := body[start+1 : end-1]; plain(inner) {
		if blank(inner) {
			return 0, nil
		}
		return bytes.Count(inner, comma) + 1, nil
	}
	n := 0
	a := walkArray(body, start, MaxDepth)
	for a.next() {
		if c := body[a.start]; c == '[' || c == '{' {
			return 0, fmt.Errorf("element %d is %s: give the elements flat, or nested as the shape says", n, kind(c))
		}
		n++
	}
	return n, a.err
}

func text(shape []int) string {
	out := []byte{'['}
	for i, n := range shape {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendInt(out, int64(n), 10)
	}
	return string(append(out, ']'))
}

// hasMember reports whether the object that starts at i has a member of this name.
func hasMember(body []byte, i int, name string) bool {
	o := walkObject(body, i, MaxDepth)
	for o.next() {
		if is(o.name, name) {
			return true
		}
	}
	return false
}

// key writes the request's key, which is also the text that Merge puts around the batched data.
func (r *Request) key(body []byte, tensors []tensor, others [][]byte) {
	r.parts = make([][]byte, len(tensors))
	cuts := make([]int, 0, 8) // where in the key heads begin and end
	key := make([]byte, 0, 128)
	for i, t := range tensors {
		r.parts[i] = trim(body, t.start, t.end)
		form := byte('f')
		if t.nested {
			form = 'n'
		}
		key = append(key, form)
		cuts = append(cuts, len(key))
		key = append(key, `{"name":`...)
		key = append(key, t.name...)
		key = append(key, `,"datatype":`...)
		key = appendCanonical(key, t.datatype)
		if len(t.others) > 0 {
			key = append(key, ',')
			key = appendRest(key, t.others)
		}
		key = append(key, `,"shape":[`...)
		cuts = append(cuts, len(key))
		for _, n := range t.shape[1:] {
			key = append(key, ',')
			key = strconv.AppendInt(key, int64(n), 10)
		}
		key = append(key, `],"data":[`...)
		cuts = append(cuts, len(key))
	}
	rest := len(key)
	r.Key = appendRest(key, others)
	r.rest = r.Key[rest:]
	r.heads = make([][]byte, 0, 2*len(tensors))
	for i := 0; i < len(cuts); i += 3 {
		r.heads = append(r.heads, r.Key[cuts[i]:cuts[i+1]], r.Key[cuts[i+1]:cuts[i+2]])
	}
}

// Merge implements [Protocol].
func (OIP) Merge(dst []byte, id string, requests []*Request) []byte {
	dst = append(dst, `{"id":`...)
	dst = strconv.AppendQuote(dst, id)
	dst = append(dst, `,"inputs":[`...)
	rows := int64(items(requests))
	for t := range requests[0].parts {
		if t > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, requests[0].heads[2*t]...)
		dst = strconv.AppendInt(dst, rows, 10)
		dst = append(dst, requests[0].heads[2*t+1]...)
		for i, r := range requests {
			if i > 0 && len(r.parts[t]) > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, r.parts[t]...)
		}
		dst = append(dst, ']', '}')
	}
	dst = append(dst, ']')
	if rest := requests[0].rest; len(rest) > 0 {
		dst = append(dst, ',')
		dst = append(dst, rest...)
	}
	return append(dst, '}')
}

// Split implements [Protocol]. What the answer holds besides `id` and `outputs` goes to every client, except as with v1
// an array as long as the batch.
func (OIP) Split(body []byte, requests []*Request) (*Answer, error) {
	a := &Answer{body: body, requests: requests}
	rows := items(requests)
	var named, split bool
	last := 0 // where the value of the member before this one ends
	id := hole{id: true, after: ","}
	o := walkObject(body, space(body, 0), MaxDepth)
	for o.next() {
		if named && id.end == 0 { // the member after the id: the id's hole ends where it begins
			id.end = o.nameStart
		}
		switch {
		case is(o.name, "id"):
			if named {
				return nil, errors.New("id is there twice")
			}
			named = true
			id.start, id.before = o.nameStart, `"id":`
		case is(o.name, "outputs"):
			if split {
				return nil, errors.New("outputs is there twice")
			}
			split = true
			if err := a.cutOutputs(o.start, rows); err != nil {
				return nil, err
			}
		default:
			if err := shareable(body, &o, rows); err != nil {
				return nil, err
			}
		}
		if !named || id.end > 0 {
			last = o.end
		}
	}
	switch {
	case o.err != nil:
		return nil, o.err
	case !blank(body[o.after:]):
		return nil, errors.New("more text after the object")
	case !split:
		return nil, errors.New("no outputs")
	case !named:
		id.start = space(body, 0) + 1
		id.end, id.before = id.start, `"id":`
	case id.end == 0: // the id is the last member: take the comma before it
		id.start, id.end = last, o.end
		id.before, id.after = `,"id":`, ""
	}
	a.cut(id)
	return a, nil
}

// cutOutputs cuts each output's rows and data.
func (a *Answer) cutOutputs(start, rows int) error {
	if a.body[start] != '[' {
		return fmt.Errorf("outputs is %s", kind(a.body[start]))
	}
	n := 0
	outputs := walkArray(a.body, start, MaxDepth-1)
	for ; outputs.next(); n++ {
		if err := a.cutOutput(outputs.start, outputs.depth, rows); err != nil {
			return fmt.Errorf("outputs[%d]: %w", n, err)
		}
	}
	if outputs.err == nil && n == 0 {
		return errors.New("outputs is empty")
	}
	return outputs.err
}

func (a *Answer) cutOutput(start, depth, rows int) error {
	var shape []int
	var data, dimension span
	o := walkObject(a.body, start, depth)
	for o.next() {
		switch {
		case is(o.name, "shape"):
			if shape != nil {
				return errors.New("shape is there twice")
			}
			var err error
			if shape, err = parseShape(a.body, o.start, o.depth); err != nil {
				return fmt.Errorf("shape: %w", err)
			}
			first := walkArray(a.body, o.start, o.depth)
			first.next()
			dimension = span{first.start, first.end}
		case is(o.name, "data"):
			if data.end != 0 {
				return errors.New("data is there twice")
			}
			if a.body[o.start] != '[' {
				return fmt.Errorf("data is %s", kind(a.body[o.start]))
			}
			data = span{o.start, o.end}
		}
	}
	switch {
	case o.err != nil:
		return o.err
	case data.end == 0:
		return errors.New("no data")
	case len(shape) == 0 || shape[0] != rows:
		return fmt.Errorf("shape is %s where the batch has %d rows", text(shape), rows)
	}
	each := 1
	if first := space(a.body, data.start+1); a.body[first] != '[' {
		for _, n := range shape[1:] {
			each *= n
		}
	}
	if each == 0 {
		return errors.New("rows without elements")
	}
	bounds, err := cutRows(a.body, data.start, data.end, each, a.requests)
	if err != nil {
		return fmt.Errorf("data: %w", err)
	}
	a.cut(hole{start: dimension.start, end: dimension.end, rows: true})
	a.cut(hole{start: data.start + 1, end: data.end - 1, bounds: bounds})
	return nil
}
