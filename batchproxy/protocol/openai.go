package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// OpenAI is OpenAI's embeddings: rows in `input`, which are strings or arrays of tokens, answered in `data` by their index.
type OpenAI struct{}

// Name implements [Protocol].
func (OpenAI) Name() string { return "openai" }

// Parse implements [Protocol]. A request whose input is none of OpenAI's is ErrAlone: servers have their own.
func (OpenAI) Parse(m Message) (*Request, error) {
	return strictly(m.Body, func(l look) (*Request, error) { return walkEmbeddings(m.Body, l) })
}

func walkEmbeddings(body []byte, l look) (*Request, error) {
	r := new(Request)
	var others [][]byte
	alone := true
	o := walkObject(body, space(body, 0), MaxDepth)
	o.look = l
	for o.next() {
		if !is(o.name, "input") {
			if is(o.name, "model") && body[o.start] != '"' {
				return nil, &Fault{Where: "model", Reason: "a string is wanted, this is " + kind(body[o.start])}
			}
			others = append(others, body[o.nameStart:o.end])
			continue
		}
		var err error
		if alone, err = r.input(body, o.start, o.end, o.depth); err != nil {
			return nil, err
		}
	}
	if err := o.ended(); err != nil {
		return nil, err
	}
	if alone {
		return nil, ErrAlone
	}
	form := byte('s')
	if r.tokens {
		form = 't'
	}
	r.Key = appendRest([]byte{form}, others)
	r.rest = r.Key[1:]
	return r, nil
}

// input reads the value of `input`, and reports whether it is another than OpenAI's.
func (r *Request) input(body []byte, start, end, depth int) (alone bool, err error) {
	switch body[start] {
	case '"':
		r.Items, r.parts = 1, []part{{raw: body[start:end], each: 1}}
		return false, nil
	case '[':
	default:
		return true, nil
	}
	if inner := body[start+1 : end-1]; plain(inner) { // numbers, if anything: one row of tokens
		if blank(inner) || !areTokens(inner) {
			return true, nil
		}
		r.Items, r.tokens, r.parts = 1, true, []part{{raw: body[start:end], each: 1}}
		return false, nil
	}
	first := byte(0)
	a := walkArray(body, start, depth)
	for a.next() {
		c := body[a.start]
		if first == 0 {
			first = c
		}
		switch {
		case c != first && kind(c) != kind(first):
			return false, &Fault{Where: "input", Reason: fmt.Sprintf("element %d is %s, and element 0 is %s: give strings, or arrays of tokens", r.Items, kind(c), kind(first))}
		case c == '[' && !areTokens(body[a.start+1:a.end-1]):
			return true, nil
		case c != '"' && c != '[':
			return true, nil
		}
		r.Items++
	}
	if a.err != nil {
		return false, &Fault{Where: "input", Reason: a.err.Error()}
	}
	r.tokens, r.parts = first == '[', []part{{raw: trim(body, start, end), each: 1}}
	return false, nil
}

// areTokens reports whether the elements of an array, which is valid, are whole numbers, and at least one.
func areTokens(inner []byte) bool {
	some := false
	for _, c := range inner {
		switch {
		case c >= '0' && c <= '9':
			some = true
		case c != ',' && c != ' ' && c != '\n' && c != '\t' && c != '\r':
			return false
		}
	}
	return some
}

// Merge implements [Protocol]. The protocol has no ids.
func (OpenAI) Merge(dst []byte, _ string, requests []*Request) Message {
	return mergeRows(dst, `{"input":[`, requests)
}

// Split implements [Protocol]. The elements of `data` are put in the order of their indexes, which must be those of the
// batch's rows. The counts of `usage` are divided: exactly, where the input is tokens and they were counted as such, and
// else in proportion to the bytes of the inputs, so that the sum is the same to the last one.
func (OpenAI) Split(m Message, requests []*Request) (*Answer, error) {
	body := m.Body
	a := &Answer{body: body, text: len(body), requests: requests}
	rows := items(requests)
	var split, used bool
	o := walkObject(body, space(body, 0), MaxDepth)
	for o.next() {
		var err error
		switch {
		case is(o.name, "data"):
			if split {
				return nil, errors.New("data is there twice")
			}
			split = true
			err = a.cutElements(o.start, o.end, o.depth, rows)
		case is(o.name, "usage") && body[o.start] == '{':
			if used {
				return nil, errors.New("usage is there twice")
			}
			used = true
			if len(requests) > 1 {
				err = a.cutUsage(o.start, o.depth, weigh(requests), "usage")
			} else {
				err = a.cutUsage(o.start, o.depth, []int64{1}, "usage")
			}
		default:
			err = shareable(body, &o, rows)
		}
		if err != nil {
			return nil, err
		}
	}
	switch {
	case o.err != nil:
		return nil, o.err
	case !blank(body[o.after:]):
		return nil, errors.New("more text after the object")
	case !split:
		return nil, errors.New("no data")
	}
	if len(requests) == 1 {
		a.estimated = false
	}
	return a, nil
}

// cutElements finds each row by its index.
func (a *Answer) cutElements(start, end, depth, rows int) error {
	if a.body[start] != '[' {
		return fmt.Errorf("data is %s", kind(a.body[start]))
	}
	elements := make([]element, rows)
	n := 0
	list := walkArray(a.body, start, depth)
	for ; list.next(); n++ {
		if a.body[list.start] != '{' {
			return fmt.Errorf("data[%d] is %s", n, kind(a.body[list.start]))
		}
		e := element{span: span{list.start, list.end}}
		index := -1
		o := walkObject(a.body, list.start, list.depth)
		for o.next() {
			if !is(o.name, "index") {
				continue
			}
			i, ok := parseDimension(a.body[o.start:o.end])
			if !ok || index >= 0 {
				return fmt.Errorf("data[%d]: its index is not one number", n)
			}
			index, e.index = i, span{o.start, o.end}
		}
		switch {
		case o.err != nil:
			return fmt.Errorf("data[%d]: %w", n, o.err)
		case index < 0:
			return fmt.Errorf("data[%d] has no index", n)
		case index >= rows:
			return fmt.Errorf("data[%d] has the index %d where the batch has %d rows", n, index, rows)
		case elements[index].end != 0:
			return fmt.Errorf("two elements of data have the index %d", index)
		}
		elements[index] = e
	}
	if list.err != nil {
		return fmt.Errorf("data: %w", list.err)
	}
	if n != rows {
		return fmt.Errorf("data has %d elements where the batch has %d rows", n, rows)
	}
	a.cut(hole{start: start + 1, end: end - 1, kind: dataHole, elements: elements})
	return nil
}

// cutUsage divides the whole numbers of an object, and of objects in it, by the weights of the requests.
func (a *Answer) cutUsage(start, depth int, weights []int64, path string) error {
	o := walkObject(a.body, start, depth)
	for o.next() {
		name, value := path+"."+unquote(o.name), a.body[o.start:o.end]
		switch c := value[0]; {
		case c == '{':
			if err := a.cutUsage(o.start, o.depth, weights, name); err != nil {
				return err
			}
		case c == 'n':
		case c >= '0' && c <= '9':
			n, err := strconv.ParseInt(string(value), 10, 64)
			if err != nil {
				return fmt.Errorf("%s is %.20s: no whole number, which cannot be divided", name, value)
			}
			shares, exact := divide(n, weights, a.requests[0].tokens)
			a.estimated = a.estimated || !exact
			a.cut(hole{start: o.start, end: o.end, kind: numberHole, shares: shares, label: name})
		default:
			return fmt.Errorf("%s is %s, which cannot be divided", name, kind(c))
		}
	}
	return o.err
}

// divide divides a count in proportion to the weights by the method of the largest remainder: the shares' sum is the count.
// It is exact where the weights are the very things that were counted, or there is nothing to divide.
func divide(n int64, weights []int64, counted bool) (shares []int64, exact bool) {
	var total int64
	for _, w := range weights {
		total += w
	}
	shares = make([]int64, len(weights))
	if total == 0 { // no bytes at all: as good as equal
		weights = slices.Repeat([]int64{1}, len(weights))
		total = int64(len(weights))
	}
	if counted && n == total || n == 0 {
		for i, w := range weights {
			shares[i] = min(w, n)
		}
		return shares, true
	}
	type remainder struct {
		of   int
		rest int64
	}
	rests := make([]remainder, len(weights))
	left := n
	for i, w := range weights {
		// n*w may not fit: bodies are of millions of bytes, and a count is what a server says.
		share, rest := new(big.Int).DivMod(new(big.Int).Mul(big.NewInt(n), big.NewInt(w)), big.NewInt(total), new(big.Int))
		shares[i] = share.Int64()
		rests[i] = remainder{i, rest.Int64()}
		left -= shares[i]
	}
	slices.SortStableFunc(rests, func(x, y remainder) int {
		return -compare(x.rest, y.rest)
	})
	for _, r := range rests[:left] {
		shares[r.of]++
	}
	return shares, false
}

func compare(x, y int64) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// weigh is what each request brings to a batch: its tokens, or the bytes of its strings.
func weigh(requests []*Request) []int64 {
	weights := make([]int64, len(requests))
	for i, r := range requests {
		raw := r.parts[0].raw
		if r.tokens {
			for at := 0; at < len(raw); {
				open := bytes.IndexByte(raw[at:], '[')
				if open < 0 {
					break
				}
				end := at + open + bytes.IndexByte(raw[at+open:], ']')
				weights[i] += int64(bytes.Count(raw[at+open:end], comma) + 1)
				at = end
			}
			continue
		}
		for at := space(raw, 0); at < len(raw); at = space(raw, at) {
			if raw[at] != '"' {
				at++ // a comma
				continue
			}
			end, err := skipString(raw, at)
			if err != nil {
				break
			}
			weights[i] += int64(bytesOf(raw[at:end]))
			at = end
		}
	}
	return weights
}

// bytesOf is the number of bytes of the text that a raw JSON string stands for.
func bytesOf(raw []byte) int {
	if bytes.IndexByte(raw, '\\') < 0 {
		return len(raw) - 2
	}
	text, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		return len(raw) - 2
	}
	return len(text)
}

// ErrMore is the error of [Model] where the text ends before it is known.
var ErrMore = errors.New("the text ends before a member model")

// Model finds the member `model` of a JSON object, of which perhaps only the beginning is there, and does not look beyond
// it. It is empty, without an error, where the object is whole and has none. The error is ErrMore where more text is needed,
// which more says there is, and a *Fault where there is no way to tell.
func Model(beginning []byte, more bool) (string, error) {
	start := space(beginning, 0)
	switch {
	case start == len(beginning) && more:
		return "", ErrMore
	case start == len(beginning):
		return "", &Fault{Reason: "empty, a JSON object is wanted"}
	case beginning[start] != '{':
		return "", &Fault{Reason: "a JSON object is wanted, this is " + kind(beginning[start])}
	}
	o := walkObject(beginning, start, MaxDepth)
	for o.next() {
		if !is(o.name, "model") {
			continue
		}
		if c := beginning[o.start]; c != '"' {
			return "", &Fault{Where: "model", Reason: "a string is wanted, this is " + kind(c)}
		}
		return unquote(beginning[o.start:o.end]), nil
	}
	switch {
	case o.err == nil:
		return "", nil
	case errors.Is(o.err, errDeep) || !more:
		return "", &Fault{Reason: "not JSON: " + o.err.Error()}
	default:
		return "", ErrMore
	}
}
