package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// OIP is the Open Inference Protocol (KServe's version 2, Triton), its tensors in JSON or in binary: the first dimension of
// every input and output is the batch.
type OIP struct{}

// Name implements [Protocol].
func (OIP) Name() string { return "oip" }

// HeaderLength is the HTTP header of the Open Inference Protocol that says how much of a body is JSON, in bytes.
const HeaderLength = "Inference-Header-Content-Length"

// tensor is one input while a request is parsed.
type tensor struct {
	name       []byte // raw
	datatype   []byte // raw
	shape      []int
	start, end int // of the data in the JSON, brackets included; 0 without data
	nested     bool
	shared     bool // the parameters say that the data is in shared memory
	binary     bool // the data follows the JSON
	size       int  // with binary: its bytes
	raw        []byte
	after      int      // just after the tensor
	params     [][]byte // the members of its parameters but binary_data_size; with binary only
	others     [][]byte
}

// Parse implements [Protocol]. A request without rows, with inputs of different numbers of rows, with data in shared memory
// or that is part of a sequence is ErrAlone.
func (OIP) Parse(m Message) (*Request, error) {
	body := m.text()
	return strictly(body, func(l look) (*Request, error) { return walkInfer(m, body, l) })
}

func walkInfer(m Message, body []byte, l look) (*Request, error) {
	r := new(Request)
	var others [][]byte
	var tensors []tensor
	alone := false
	o := walkObject(body, space(body, 0), MaxDepth)
	o.look = l
	for o.nextName() {
		if is(o.name, "inputs") {
			if c := body[o.start]; c != '[' {
				return nil, &Fault{Where: "inputs", Reason: "an array of tensors is wanted, this is " + kind(c)}
			}
			var err error
			if tensors, o.end, err = parseTensors(body, o.start, o.depth, l); err != nil {
				return nil, err
			}
			continue
		}
		if !o.skip() {
			break
		}
		value := body[o.start:o.end]
		switch {
		case is(o.name, "id"):
			if value[0] != '"' {
				return nil, &Fault{Where: "id", Reason: "a string is wanted, this is " + kind(value[0])}
			}
			r.id = value
		case is(o.name, "parameters") && value[0] == '{':
			sequence, err := r.parameters(body, o.start)
			if err != nil {
				return nil, err
			}
			alone = alone || sequence
		default:
			if is(o.name, "outputs") && value[0] == '[' {
				alone = alone || sharedOutput(body, o.start)
			}
			others = append(others, body[o.nameStart:o.end])
		}
	}
	if err := o.ended(); err != nil {
		return nil, err
	}
	if len(tensors) == 0 {
		return nil, &Fault{Where: "inputs", Reason: "missing: give an array with one tensor or more"}
	}
	if err := takeBinary(m, tensors); err != nil {
		return nil, err
	}
	slices.SortStableFunc(tensors, func(x, y tensor) int { return bytes.Compare(x.name, y.name) })
	for i, t := range tensors {
		if i > 0 && bytes.Equal(t.name, tensors[i-1].name) {
			return nil, &Fault{Where: "inputs", Reason: fmt.Sprintf("two tensors are named %s", t.name)}
		}
		if t.shared || len(t.shape) == 0 || t.shape[0] == 0 || t.shape[0] != tensors[0].shape[0] ||
			!t.binary && onlyBinary(unquote(t.datatype)) { // some servers read it all the same
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

// parameters reads the request's parameters, and reports whether it is part of a sequence. What says how urgent the request
// is, in Triton's schedule policy extension, does not keep it apart from others, and is taken out.
func (r *Request) parameters(body []byte, start int) (sequence bool, err error) {
	var members [][]byte
	terms := false
	o := walkObject(body, start, MaxDepth)
	for o.next() {
		value := body[o.start:o.end]
		switch {
		case is(o.name, "sequence_id"), is(o.name, "sequence_start"), is(o.name, "sequence_end"):
			sequence = true
		case is(o.name, "priority"):
			if terms = whole(value, &r.Priority); !terms {
				return false, &Fault{Where: "parameters.priority", Reason: fmt.Sprintf("%.40s is not a priority: give a whole number, 1 for the most urgent, or 0 for none", value)}
			}
			continue
		case is(o.name, "timeout"):
			if terms = whole(value, &r.Timeout); !terms {
				return false, &Fault{Where: "parameters.timeout", Reason: fmt.Sprintf("%.40s is not a timeout: give a whole number of microseconds, or 0 for none", value)}
			}
			continue
		}
		members = append(members, body[o.nameStart:o.end])
	}
	if len(members) > 0 || !terms {
		r.params = appendRest([]byte{}, members)
	}
	return sequence, nil
}

// whole reads a whole number that fits int64, the type that the protocol has for it.
func whole(text []byte, to *uint64) bool {
	n, err := strconv.ParseUint(string(text), 10, 63)
	*to = n
	return err == nil
}

// sharedOutput reports whether an output is to be written to shared memory.
func sharedOutput(body []byte, start int) bool {
	outputs := walkArray(body, start, MaxDepth)
	for outputs.next() {
		if body[outputs.start] != '{' {
			continue
		}
		o := walkObject(body, outputs.start, MaxDepth)
		for o.next() {
			if is(o.name, "parameters") && body[o.start] == '{' && hasMember(body, o.start, "shared_memory_region") {
				return true
			}
		}
	}
	return false
}

// takeBinary gives the tensors, which are in the order of the request, their data after the JSON, and checks that nothing
// is left of it.
func takeBinary(m Message, tensors []tensor) error {
	at := len(m.text())
	for i := range tensors {
		t := &tensors[i]
		if !t.binary {
			continue
		}
		where := "inputs[" + strconv.Itoa(i) + "]"
		if m.Header == 0 {
			return &Fault{Where: where + ".parameters.binary_data_size", Reason: fmt.Sprintf("tensor %s is said to be in binary, and there is no header %s", t.name, HeaderLength)}
		}
		if left := len(m.Body) - at; t.size > left {
			return &Fault{Where: where + ".parameters.binary_data_size", Reason: fmt.Sprintf("tensor %s is said to be %d bytes, and %d are left of the body", t.name, t.size, left)}
		}
		t.raw = m.Body[at : at+t.size]
		if err := checkBinary(t.raw, unquote(t.datatype), t.shape); err != nil {
			return &Fault{Where: where, Reason: fmt.Sprintf("tensor %s: %s", t.name, err)}
		}
		at += t.size
	}
	if left := len(m.Body) - at; left > 0 {
		return &Fault{Reason: fmt.Sprintf("%d bytes after the last tensor: no input has them in its binary_data_size", left)}
	}
	return nil
}

// parseTensors reads the inputs, checks that each one's data has as many elements as its shape says, unless the look is a quick one, and
// returns where they end.
func parseTensors(body []byte, start, depth int, l look) ([]tensor, int, error) {
	tensors := make([]tensor, 0, 2)
	a := walkArray(body, start, depth)
	for a.nextStart() {
		var t tensor
		var fault *Fault
		if c := body[a.start]; c != '{' {
			fault = &Fault{Reason: "a tensor (an object) is wanted, this is " + kind(c)}
		} else {
			t, fault = parseTensor(body, a.start, a.depth, l)
		}
		if fault != nil {
			fault.Where = "inputs[" + strconv.Itoa(len(tensors)) + "]" + fault.Where
			return nil, 0, fault
		}
		a.end = t.after
		tensors = append(tensors, t)
	}
	if a.err != nil {
		return nil, 0, &Fault{Where: "inputs", Reason: a.err.Error()}
	}
	return tensors, a.after, nil
}

// parseTensor reads an input. The fault says where in the tensor it is.
func parseTensor(body []byte, start, depth int, l look) (tensor, *Fault) {
	var t tensor
	var shaped, flat bool
	o := walkObject(body, start, depth)
	o.look = l
	for o.next() {
		value := body[o.start:o.end]
		switch {
		case is(o.name, "name"), is(o.name, "datatype"):
			if value[0] != '"' {
				return t, &Fault{Where: "." + unquote(o.name), Reason: "a string is wanted, this is " + kind(value[0])}
			}
			if is(o.name, "name") {
				t.name = appendCanonical(nil, value)
			} else {
				t.datatype = value
			}
		case is(o.name, "shape"):
			var err error
			if t.shape, err = parseShape(body, o.start, o.depth); err != nil {
				return t, &Fault{Where: ".shape", Reason: err.Error()}
			}
			shaped = true
		case is(o.name, "data"):
			if value[0] != '[' {
				return t, &Fault{Where: ".data", Reason: "an array is wanted, this is " + kind(value[0])}
			}
			t.start, t.end, flat = o.start, o.end, o.flat
		default:
			if is(o.name, "parameters") && value[0] == '{' {
				if err := t.parameters(body, o.start); err != nil {
					return t, &Fault{Where: ".parameters.binary_data_size", Reason: err.Error()}
				}
				if t.binary {
					continue
				}
			}
			t.others = append(t.others, body[o.nameStart:o.end])
		}
	}
	t.after = o.after
	switch {
	case o.err != nil:
		return t, &Fault{Reason: o.err.Error()}
	case t.name == nil:
		return t, &Fault{Where: ".name", Reason: "missing: give the tensor's name"}
	case t.datatype == nil:
		return t, &Fault{Where: ".datatype", Reason: "missing: give the tensor's datatype, such as \"FP32\""}
	case !shaped:
		return t, &Fault{Where: ".shape", Reason: "missing: give the tensor's dimensions, such as [1, 64]"}
	case t.start != 0 && t.binary:
		return t, &Fault{Reason: fmt.Sprintf("tensor %s has both data and parameters.binary_data_size: give one of them", t.name)}
	case t.start == 0 && !t.shared && !t.binary:
		return t, &Fault{Where: ".data", Reason: "missing: give the tensor's elements"}
	case t.start == 0, l.care == quick:
		return t, nil
	}
	var err error
	if t.nested, err = checkData(body, t.start, t.end, flat, t.shape); err != nil {
		return t, &Fault{Where: ".data", Reason: err.Error()}
	}
	return t, nil
}

// parameters reads a tensor's parameters.
func (t *tensor) parameters(body []byte, start int) error {
	o := walkObject(body, start, MaxDepth)
	for o.next() {
		switch {
		case is(o.name, "binary_data_size"):
			n, ok := parseDimension(body[o.start:o.end])
			if !ok {
				return fmt.Errorf("%.20s is not a size: a whole number of bytes, 0 or more, is wanted", body[o.start:o.end])
			}
			t.binary, t.size = true, n
			continue
		case is(o.name, "shared_memory_region"):
			t.shared = true
		}
		t.params = append(t.params, body[o.nameStart:o.end])
	}
	return o.err
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
		if len(shape) == MaxDepth { // as many levels as data can be nested
			return nil, fmt.Errorf("more than %d dimensions", MaxDepth)
		}
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
func checkData(body []byte, start, end int, flat bool, shape []int) (nested bool, err error) {
	first := space(body, start+1)
	if nested = body[first] == '[' && len(shape) > 1; nested {
		return true, checkNested(body, start, end, shape)
	}
	elements := product(shape)
	have, err := countScalars(body, start, end, flat)
	if err == nil && have != elements {
		err = fmt.Errorf("%d elements, the shape %s wants %d", have, text(shape), elements)
	}
	return false, err
}

func checkNested(body []byte, start, end int, shape []int) error {
	if len(shape) == 1 {
		have, err := countScalars(body, start, end, plain(body[start+1:end-1]))
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

// countScalars is the number of elements of an array in which none is an array or object; flat says that none is a string.
func countScalars(body []byte, start, end int, flat bool) (int, error) {
	if flat {
		return scalars(body, start, end), nil
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
	r.parts = make([]part, len(tensors))
	cuts := make([]int, 0, 8) // where in the key heads begin and end
	key := make([]byte, 0, 192)
	for i, t := range tensors {
		p := &r.parts[i]
		form := byte('f')
		switch {
		case t.binary:
			form = 'b'
			*p = part{raw: t.raw, each: product(t.shape[1:]), width: widthOf(unquote(t.datatype))}
		case t.nested:
			form = 'n'
			*p = part{raw: trim(body, t.start, t.end), each: 1}
		default:
			*p = part{raw: trim(body, t.start, t.end), each: product(t.shape[1:])}
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
		if t.binary {
			key = append(key, `],"parameters":{`...)
			if len(t.params) > 0 {
				key = append(appendRest(key, t.params), ',')
			}
			key = append(key, `"binary_data_size":`...)
		} else {
			key = append(key, `],"data":[`...)
		}
		cuts = append(cuts, len(key))
	}
	rest := len(key)
	key = appendRest(key, others)
	end := len(key)
	if r.params != nil {
		key = append(key, `,"parameters":{`...)
		key = append(key, r.params...)
		key = append(key, '}')
	}
	r.Key = key
	r.rest = key[rest:end:end]
	r.heads = make([][]byte, 0, 2*len(tensors))
	for i := 0; i < len(cuts); i += 3 {
		r.heads = append(r.heads, r.Key[cuts[i]:cuts[i+1]], r.Key[cuts[i+1]:cuts[i+2]])
	}
}

// Merge implements [Protocol].
func (OIP) Merge(dst []byte, id string, requests []*Request) Message {
	began := len(dst)
	first := requests[0]
	dst = append(dst, `{"id":`...)
	dst = strconv.AppendQuote(dst, id)
	dst = append(dst, `,"inputs":[`...)
	rows := int64(items(requests))
	binary := false
	for t := range first.parts {
		if t > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, first.heads[2*t]...)
		dst = strconv.AppendInt(dst, rows, 10)
		dst = append(dst, first.heads[2*t+1]...)
		if first.parts[t].width != 0 {
			binary = true
			size := 0
			for _, r := range requests {
				size += len(r.parts[t].raw)
			}
			dst = strconv.AppendInt(dst, int64(size), 10)
			dst = append(dst, '}', '}')
			continue
		}
		for i, r := range requests {
			if i > 0 && len(r.parts[t].raw) > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, r.parts[t].raw...)
		}
		dst = append(dst, ']', '}')
	}
	dst = append(dst, ']')
	dst = appendParameters(dst, requests)
	if len(first.rest) > 0 {
		dst = append(dst, ',')
		dst = append(dst, first.rest...)
	}
	dst = append(dst, '}')
	if !binary {
		return Message{Body: dst}
	}
	m := Message{Header: len(dst) - began}
	for t := range first.parts { // one tensor after the other, each with the rows of all
		if first.parts[t].width != 0 {
			for _, r := range requests {
				dst = append(dst, r.parts[t].raw...)
			}
		}
	}
	m.Body = dst
	return m
}

// appendParameters appends the requests' parameters. A batch is as urgent as the most urgent of its requests: the smallest
// priority is sent, the highest to a server, where each has one. Of the timeouts the largest is sent, where each has one: to
// the server the batch is one request, all of which it gives up when its timeout is over, and the others need not fail with
// the one that waits for the shortest time.
func appendParameters(dst []byte, requests []*Request) []byte {
	priority, timeout, bounded := requests[0].Priority, uint64(0), true
	for _, r := range requests {
		priority, timeout = min(priority, r.Priority), max(timeout, r.Timeout) // 0 is the least: one that has no priority
		bounded = bounded && r.Timeout != 0
	}
	if !bounded {
		timeout = 0
	}
	if requests[0].params == nil && timeout == 0 && priority == 0 {
		return dst
	}
	dst = append(dst, `,"parameters":{`...)
	dst = append(dst, requests[0].params...)
	if priority != 0 {
		dst = append(more(dst), `"priority":`...)
		dst = strconv.AppendUint(dst, priority, 10)
	}
	if timeout != 0 {
		dst = append(more(dst), `"timeout":`...)
		dst = strconv.AppendUint(dst, timeout, 10)
	}
	return append(dst, '}')
}

// more appends a comma, unless the text ends with the bracket of an object that has no member yet.
func more(dst []byte) []byte {
	if dst[len(dst)-1] == '{' {
		return dst
	}
	return append(dst, ',')
}

// Split implements [Protocol]. What the answer holds besides `id` and `outputs` goes to every client, except as with v1
// an array as long as the batch.
func (OIP) Split(m Message, requests []*Request) (*Answer, error) {
	body := m.text()
	a := &Answer{body: m.Body, text: len(body), requests: requests}
	rows := items(requests)
	var named, split bool
	last := 0 // where the value of the member before this one ends
	id := hole{kind: idHole, after: ","}
	o := walkObject(body, space(body, 0), MaxDepth)
	for o.nextName() {
		if !is(o.name, "outputs") && !o.skip() {
			break
		}
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
			var err error
			if o.end, err = a.cutOutputs(body, o.start, rows); err != nil {
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

// cutOutputs cuts each output's rows and data, and returns where the outputs end.
func (a *Answer) cutOutputs(body []byte, start, rows int) (int, error) {
	if body[start] != '[' {
		return 0, fmt.Errorf("outputs is %s", kind(body[start]))
	}
	n, at := 0, len(body)
	outputs := walkArray(body, start, MaxDepth-1)
	for ; outputs.nextStart(); n++ {
		out, err := readOutput(body, outputs.start, outputs.depth)
		if err == nil {
			outputs.end = out.after
			at, err = a.cutOutput(body, out, rows, at)
		}
		if err != nil {
			return 0, fmt.Errorf("outputs[%d]: %w", n, err)
		}
	}
	switch {
	case outputs.err != nil:
		return 0, outputs.err
	case n == 0:
		return 0, errors.New("outputs is empty")
	case at != len(a.body):
		return 0, fmt.Errorf("%d bytes after the last output", len(a.body)-at)
	}
	return outputs.after, nil
}

// output is one output while an answer is read.
type output struct {
	name, datatype []byte // raw, nil where they are not given
	shape          []int
	dimension      span // the first one
	data           span
	flat           int  // where data ends that is numbers and literals alone, else 0
	size           span // the number of bytes, of one in binary
	bytes          int
	after          int // just after the output
}

// cutOutput cuts an output, whose data in binary, if it is that, begins at a byte of the answer. It returns where that of the
// next begins.
func (a *Answer) cutOutput(body []byte, out output, rows, at int) (int, error) {
	binary := out.size.end != 0
	switch {
	case out.data.end == 0 && !binary:
		return 0, errors.New("no data")
	case out.data.end != 0 && binary:
		return 0, errors.New("both data and binary_data_size")
	case len(out.shape) == 0 || out.shape[0] != rows:
		return 0, fmt.Errorf("shape is %s where the batch has %d rows", text(out.shape), rows)
	}
	label := string(out.name) + string(out.datatype) + text(out.shape[1:])
	each := product(out.shape[1:])
	if !binary {
		if first := space(body, out.data.start+1); body[first] == '[' {
			each, label = 1, label+"nested"
		}
	}
	if each == 0 {
		return 0, errors.New("rows without elements")
	}
	a.cut(hole{start: out.dimension.start, end: out.dimension.end, kind: countHole})
	if !binary {
		bounds, _, err := cutRows(body, out.data.start, out.flat, each, a.requests)
		if err != nil {
			return 0, fmt.Errorf("data: %w", err)
		}
		a.cut(hole{start: out.data.start + 1, end: out.data.end - 1, kind: rowsHole, bounds: bounds, label: label})
		return at, nil
	}
	if left := len(a.body) - at; out.bytes > left {
		return 0, fmt.Errorf("binary_data_size is %d, and %d bytes are left", out.bytes, left)
	}
	if out.datatype == nil {
		return 0, errors.New("no datatype")
	}
	datatype, end := unquote(out.datatype), at+out.bytes
	if err := checkBinary(a.body[at:end], datatype, out.shape); err != nil {
		return 0, err
	}
	bounds, err := cutBinary(a.body, at, end, each, widthOf(datatype), a.requests)
	if err != nil {
		return 0, err
	}
	a.cut(hole{start: out.size.start, end: out.size.end, kind: sizeHole, segment: len(a.segments), label: label})
	a.segments = append(a.segments, segment{bounds})
	return end, nil
}

func readOutput(body []byte, start, depth int) (output, error) {
	var out output
	o := walkObject(body, start, depth)
	for o.next() {
		value := body[o.start:o.end]
		switch {
		case is(o.name, "name"):
			out.name = value
		case is(o.name, "datatype") && value[0] == '"':
			out.datatype = value
		case is(o.name, "shape"):
			if out.shape != nil {
				return out, errors.New("shape is there twice")
			}
			var err error
			if out.shape, err = parseShape(body, o.start, o.depth); err != nil {
				return out, fmt.Errorf("shape: %w", err)
			}
			first := walkArray(body, o.start, o.depth)
			first.next()
			out.dimension = span{first.start, first.end}
		case is(o.name, "data"):
			if out.data.end != 0 {
				return out, errors.New("data is there twice")
			}
			if value[0] != '[' {
				return out, fmt.Errorf("data is %s", kind(value[0]))
			}
			if out.data = (span{o.start, o.end}); o.flat {
				out.flat = o.end
			}
		case is(o.name, "parameters") && value[0] == '{':
			p := walkObject(body, o.start, o.depth)
			for p.next() {
				if !is(p.name, "binary_data_size") {
					continue
				}
				n, ok := parseDimension(body[p.start:p.end])
				if !ok || out.size.end != 0 {
					return out, errors.New("binary_data_size is not one number of bytes")
				}
				out.size, out.bytes = span{p.start, p.end}, n
			}
			if p.err != nil {
				return out, p.err
			}
		}
	}
	out.after = o.after
	return out, o.err
}
