package protocol

import (
	"bytes"
	"errors"
	"fmt"
)

// MaxDepth is the number of levels of objects and arrays that a body may have. Tensors have less than ten dimensions;
// 64 fits the bits of one word, which is what the scanner keeps its open brackets in.
const MaxDepth = 64

var (
	errTruncated = errors.New("the JSON text ends too early")
	errBracket   = errors.New("the brackets of the JSON text do not match")
	errDeep      = fmt.Errorf("nested deeper than %d levels", MaxDepth)
)

// The scanner finds where values begin and end. It checks brackets, strings and commas between the values that it
// walks, and trusts the rest, unless the walk is a strict one (strict.go), as that through a request is: what an upstream writes
// inside a row is the client's to judge (some write NaN, which is no JSON).

// look is how a walk looks at what it walks.
type look struct {
	care     care
	unbroken Unbroken // in which a quick one need not look again
}

type care uint8

const (
	trusting care = iota
	strict        // checks all of it: see strict.go
	quick         // does not look into arrays of numbers: see glance.go
)

// space is the index of the first byte from i on that is not white space.
func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// skip is the index just after the value that starts at i, which may open up to depth levels.
func skip(b []byte, i, depth int) (int, error) {
	if i >= len(b) {
		return 0, errTruncated
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '[', '{':
		return skipBrackets(b, i, depth)
	}
	start := i
	for i < len(b) && !ends(b[i]) {
		i++
	}
	if i == start {
		return 0, fmt.Errorf("a JSON value is missing at byte %d", i)
	}
	return i, nil
}

// ends reports whether a number or literal ends before this byte.
func ends(c byte) bool {
	switch c {
	case ',', ']', '}', ' ', '\n', '\t', '\r', ':', '[', '{', '"':
		return true
	}
	return false
}

// skipString is the index just after the string that starts at i.
func skipString(b []byte, i int) (int, error) {
	for i++; ; i++ {
		quote := bytes.IndexByte(b[i:], '"')
		if quote < 0 {
			return 0, errTruncated
		}
		i += quote
		slashes := i
		for b[slashes-1] == '\\' {
			slashes--
		}
		if (i-slashes)%2 == 0 {
			return i + 1, nil
		}
	}
}

// skipBrackets is the index just after the object or array that starts at i.
func skipBrackets(b []byte, i, depth int) (int, error) {
	var arrays uint64 // bit d: the bracket at depth d is an array's
	open := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			end, err := skipString(b, i)
			if err != nil {
				return 0, err
			}
			i = end
			continue
		case '[', '{':
			if open == depth {
				return 0, errDeep
			}
			if b[i] == '[' {
				if end := leaf(b, i); end > 0 {
					if i = end; open == 0 {
						return i, nil
					}
					continue
				}
				arrays |= 1 << open
			} else {
				arrays &^= 1 << open
			}
			open++
		case ']', '}':
			open--
			if (arrays>>open&1 == 1) != (b[i] == ']') {
				return 0, errBracket
			}
			if open == 0 {
				return i + 1, nil
			}
		}
		i++
	}
	return 0, errTruncated
}

// leaf is the index just after the array that starts at i where that is one of numbers and literals only, and else 0.
// It looks at blocks of bytes at a time, which is what makes arrays of numbers cheap.
func leaf(b []byte, i int) int {
	n := bytes.IndexByte(b[i+1:], ']')
	if n < 0 || !plain(b[i+1:i+1+n]) {
		return 0
	}
	return i + n + 2
}

// plain reports whether text has no string, array or object in it.
func plain(text []byte) bool {
	if len(text) < 16 {
		for _, c := range text {
			if c == '"' || c == '[' || c == '{' || c == '}' {
				return false
			}
		}
		return true
	}
	return bytes.IndexByte(text, '"') < 0 && bytes.IndexByte(text, '[') < 0 &&
		bytes.IndexByte(text, '{') < 0 && bytes.IndexByte(text, '}') < 0
}

// array walks the elements of an array: while next() { element start:end }.
type array struct {
	b          []byte
	depth      int // levels that an element may open
	look       look
	start, end int // the element
	after      int // just after the array, once next has returned false without an error
	err        error
}

// walkArray starts before the first element of the array that starts at i.
func walkArray(b []byte, i, depth int) array {
	return array{b: b, depth: depth - 1, end: i}
}

func (a *array) next() bool {
	if !a.nextStart() {
		return false
	}
	switch a.look.care {
	case strict:
		if a.end, _ = value(a.b, a.start, a.depth); a.end == 0 {
			a.err = errUnusual
		}
		return a.err == nil
	case quick:
		if a.end = glanced(a.b, a.start, a.depth, a.look.unbroken); a.end > 0 {
			return true
		}
	}
	a.end, a.err = skip(a.b, a.start, a.depth)
	return a.err == nil
}

// nextStart is next for a caller that finds the element's end by itself, and sets it.
func (a *array) nextStart() bool {
	i, first := a.end, a.start == 0 // no element starts at 0: the bracket does
	if first {
		if i >= len(a.b) || a.b[i] != '[' {
			a.err = errors.New("not an array")
			return false
		}
		if i = space(a.b, i+1); i < len(a.b) && a.b[i] == ']' {
			a.after = i + 1
			return false
		}
	} else {
		i = space(a.b, i)
		if i < len(a.b) && a.b[i] == ']' {
			a.after = i + 1
			return false
		}
		if i >= len(a.b) || a.b[i] != ',' {
			a.err = fmt.Errorf("a comma or ] is missing at byte %d", i)
			return false
		}
		i = space(a.b, i+1)
	}
	if i >= len(a.b) {
		a.err = errTruncated
		return false
	}
	a.start = i
	return true
}

// object walks the members of an object: while next() { name, value start:end }.
type object struct {
	b          []byte
	depth      int
	name       []byte // raw, with its quotes
	nameStart  int
	start, end int  // the value
	flat       bool // it is known to be an array of numbers and literals alone
	look       look
	seen       names
	after      int // just after the object, once next has returned false without an error
	err        error
}

// walkObject starts before the first member of the object that starts at i.
func walkObject(b []byte, i, depth int) object {
	return object{b: b, depth: depth - 1, end: i}
}

func (o *object) next() bool { return o.nextName() && o.skip() }

// skip finds the end of the value.
func (o *object) skip() bool {
	o.flat = false
	switch o.look.care {
	case strict:
		if o.end, o.flat = value(o.b, o.start, o.depth); o.end == 0 {
			o.err = errUnusual
		}
		return o.err == nil
	case quick:
		if o.end = glanced(o.b, o.start, o.depth, o.look.unbroken); o.end > 0 {
			return true
		}
	case trusting:
		if o.start < len(o.b) && o.b[o.start] == '[' && o.depth > 0 {
			if end := leaf(o.b, o.start); end > 0 {
				o.end, o.flat = end, true
				return true
			}
		}
	}
	o.end, o.err = skip(o.b, o.start, o.depth)
	return o.err == nil
}

// count is skip for a value that is an array, and returns the number of its elements.
func (o *object) count() (n int) {
	a := walkArray(o.b, o.start, o.depth)
	if a.look = o.look; a.look.care == strict {
		if end := numbers(o.b, o.start); end > 0 {
			o.end = end
			return scalars(o.b, o.start, end)
		}
	}
	for a.next() {
		n++
	}
	o.end, o.err = a.after, a.err
	return n
}

// ended is what is wrong with a body whose outermost object was walked to its end, or as far as that was possible.
func (o *object) ended() error {
	switch {
	case o.err != nil:
		return &Fault{Reason: o.err.Error()}
	case !blank(o.b[o.after:]):
		return errUnusual
	}
	return nil
}

// nextName is next for a caller that finds the value's end by itself, and sets it, or calls skip.
func (o *object) nextName() bool {
	i, first := o.end, o.start == 0
	if first {
		if i >= len(o.b) || o.b[i] != '{' {
			o.err = errors.New("not an object")
			return false
		}
		i++
	}
	i = space(o.b, i)
	if i < len(o.b) && o.b[i] == '}' {
		o.after = i + 1
		return false
	}
	if !first {
		if i >= len(o.b) || o.b[i] != ',' {
			o.err = fmt.Errorf("a comma or } is missing at byte %d", i)
			return false
		}
		i = space(o.b, i+1)
	}
	if i >= len(o.b) || o.b[i] != '"' {
		o.err = fmt.Errorf("a name is missing at byte %d", i)
		return false
	}
	o.nameStart = i
	if o.look.care != strict {
		i, o.err = skipString(o.b, i)
	} else if i = quoted(o.b, i); i == 0 || !o.seen.add(o.b, o.nameStart, i) {
		o.err = errUnusual
	}
	if o.err != nil {
		return false
	}
	o.name = o.b[o.nameStart:i]
	if i = space(o.b, i); i >= len(o.b) || o.b[i] != ':' {
		o.err = fmt.Errorf("a colon is missing at byte %d", i)
		return false
	}
	if o.start = space(o.b, i+1); o.start >= len(o.b) {
		o.err = errTruncated
		return false
	}
	return true
}

// count is the number of elements of the array b[start:end], brackets included.
func count(b []byte, start, end, depth int) (int, error) {
	return countKnown(b, start, end, depth, plain(b[start+1:end-1]))
}

// countKnown is count for a caller that knows whether the array is of numbers and literals alone.
func countKnown(b []byte, start, end, depth int, flat bool) (int, error) {
	if flat {
		return scalars(b, start, end), nil
	}
	n := 0
	a := walkArray(b, start, depth)
	for a.next() {
		n++
	}
	return n, a.err
}

// scalars is the number of elements of the array b[start:end], which are numbers and literals alone.
func scalars(b []byte, start, end int) int {
	inner := b[start+1 : end-1]
	if blank(inner) {
		return 0
	}
	return bytes.Count(inner, comma) + 1
}

var comma = []byte{','}

func blank(b []byte) bool { return space(b, 0) == len(b) }

// trim is the text of the elements of the array b[start:end], without brackets and outer white space.
func trim(b []byte, start, end int) []byte {
	return bytes.Trim(b[start+1:end-1], " \n\t\r")
}

// cutRows divides the array that starts at start, of `each` elements a row, among the requests, in order, and returns where it
// ends, too. The array must hold exactly the rows of all of them. Where it is known to be one of numbers and literals alone flat is
// where it ends, else 0.
func cutRows(b []byte, start, flat, each int, requests []*Request) (bounds []span, end int, err error) {
	bounds = make([]span, len(requests))
	if flat > 0 {
		at, missing := start+1, 0
		for i, r := range requests {
			from := at
			at, missing = pastCommas(b[:flat-1], at, r.Items*each)
			bounds[i] = span{from, at - 1}
			if missing > 0 != (i == len(requests)-1) {
				missing = 2
				break
			}
		}
		if missing != 1 || blank(b[start+1:flat-1]) {
			return nil, 0, notRows(scalars(b, start, flat), each, requests)
		}
		bounds[len(bounds)-1].end = flat - 1
		return bounds, flat, nil
	}
	a := walkArray(b, start, MaxDepth-1)
	have, want, next := 0, 0, 0
	for a.next() {
		if have == want && next < len(requests) {
			bounds[next].start = a.start
			want += requests[next].Items * each
			next++
		}
		if have++; have == want {
			bounds[next-1].end = a.end
		}
	}
	switch {
	case a.err != nil:
		return nil, 0, a.err
	case have != items(requests)*each:
		return nil, 0, notRows(have, each, requests)
	}
	return bounds, a.after, nil
}

func notRows(have, each int, requests []*Request) error {
	return fmt.Errorf("%d elements for %d rows of %d", have, items(requests), each)
}

// pastCommas is the index just after the n-th comma from i on. Where there are fewer it is that of the end, plus one as if there
// were one more, and missing is how many there are too few.
func pastCommas(b []byte, i, n int) (after, missing int) {
	for stride := 8 * n; n > 0; {
		if stride = min(stride, len(b)-i); stride >= 64 {
			if some := bytes.Count(b[i:i+stride], comma); some < n {
				i += stride
				n -= some
				stride = 8 * n
			} else {
				stride /= 2
			}
			continue
		}
		next := bytes.IndexByte(b[i:], ',')
		if next < 0 {
			return len(b) + 1, n
		}
		i += next + 1
		n--
	}
	return i, 0
}
