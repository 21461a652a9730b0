package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/bits"

	"github.com/go-json-experiment/json/jsontext"
)

// A strict walk checks what it walks as jsontext does, in the same pass that finds where values end: arrays of numbers, which are
// most of what there is, eight bytes at a time. It knows no reasons. Where a body is not as it should be, or only unusual (a name
// with an escape, an object with many members), it stops, and jsontext looks at all of it.

// errUnusual is the error of a strict walk that stops for jsontext to decide.
var errUnusual = errors.New("unusual")

// names are those that an object has had, as far as it was walked, without escapes.
type names struct {
	starts [mostNames]int // of each, with its quotes
	n      int
	kinds  uint64 // a bit for each length and last letter, more or less
}

// mostNames is how many members an object may have for its names to be compared one by one.
const mostNames = 32

// add reports whether the name that stands, with its quotes, at start:end is another than those before it, and plain.
func (s *names) add(b []byte, start, end int) bool {
	name := b[start:end]
	if s.n == mostNames || bytes.IndexByte(name, '\\') >= 0 {
		return false
	}
	kind := uint64(1) << ((len(name) + 7*int(b[end-2])) & 63)
	if s.kinds&kind != 0 {
		for _, before := range s.starts[:s.n] {
			if bytes.HasPrefix(b[before:], name) {
				return false
			}
		}
	}
	s.kinds |= kind
	s.starts[s.n] = start
	s.n++
	return true
}

// value is the index just after the valid value that starts at i and opens up to depth levels, 0 where it is not known to be
// one. It is flat where it is an array of numbers alone.
func value(b []byte, i, depth int) (end int, flat bool) {
	if i >= len(b) {
		return 0, false
	}
	switch b[i] {
	case '[':
		if depth == 0 {
			return 0, false
		}
		if end = numbers(b, i); end > 0 {
			return end, true
		}
		a := walkArray(b, i, depth)
		a.look.care = strict
		for a.next() {
		}
		return a.after, false
	case '{':
		if depth == 0 {
			return 0, false
		}
		o := walkObject(b, i, depth)
		o.look.care = strict
		for o.next() {
		}
		return o.after, false
	case '"':
		return quoted(b, i), false
	case 't':
		return literal(b, i, "true"), false
	case 'f':
		return literal(b, i, "false"), false
	case 'n':
		return literal(b, i, "null"), false
	}
	return number(b, i), false
}

func literal(b []byte, i int, want string) int {
	if end := i + len(want); end <= len(b) && string(b[i:end]) == want {
		return end
	}
	return 0
}

// number is the index just after the number that starts at i, 0 where there is none. What follows it is for the caller to see.
func number(b []byte, i int) int {
	if i < len(b) && b[i] == '-' {
		i++
	}
	first := i
	if i = digits(b, i); i == first || b[first] == '0' && i > first+1 {
		return 0
	}
	if i < len(b) && b[i] == '.' {
		first = i + 1
		if i = digits(b, first); i == first {
			return 0
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		if i++; i < len(b) && (b[i] == '-' || b[i] == '+') {
			i++
		}
		first = i
		if i = digits(b, first); i == first {
			return 0
		}
	}
	return i
}

// digits is the index just after the digits from i on.
func digits(b []byte, i int) int {
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	return i
}

// numbers is the index just after the array of numbers alone that starts at i; 0 where it is another, or not a valid one.
func numbers(b []byte, i int) int {
	if i = space(b, i+1); i < len(b) && b[i] == ']' {
		return i + 1
	}
	for {
		i += plainNumbers(b[i:])
		if i = number(b, space(b, i)); i == 0 {
			return 0
		}
		if i = space(b, i); i == len(b) {
			return 0
		}
		switch b[i] {
		case ',':
			i++
		case ']':
			return i + 1
		default:
			return 0
		}
	}
}

const (
	eachByte = 0x0101010101010101 // times a byte: it in every byte of a word
	highBits = 0x8080808080808080
)

// from has the high bit set of each byte that is c or more, of a word whose bytes are ASCII; the other bits mean nothing.
func from(word uint64, c byte) uint64 { return word + (0x80-uint64(c))*eachByte }

// plainNumbers is how many of the first bytes are valid numbers without exponents, each with a comma after it and perhaps spaces
// before it. A number may start where b does. It looks at eight bytes at a time, and stops before the number in which it sees
// anything else.
//
// The bytes of a word are classified all at once: a flag for each, its high bit. Whether the classes may follow each other as
// they do is then seen by shifting the flags by a byte. The rules, beside which a digit may come after all five:
//
//	a minus or a space   comes after a comma or a space (or where b starts)
//	a dot or a comma     comes after a digit
//	a digit              does not come after a zero that a number begins with
//	a dot                does not come after a dot and digits
//
// So every number is a minus or none, digits, and a dot with digits or none.
func plainNumbers(b []byte) int {
	var (
		rest = b
		// Of the byte before the word, in the low byte.
		separator, joint, minus uint64 = 0x80, 0, 0
		leading                 uint64 // it is the zero that a number begins with
		fraction                uint64 // 1 where it is in or before the digits after a dot
	)
	for len(rest) >= 8 {
		word := binary.LittleEndian.Uint64(rest)
		fromComma, fromMinus, fromDot, fromSlash := from(word, ','), from(word, '-'), from(word, '.'), from(word, '/')
		fromZero := from(word, '0')
		space := from(word, ' ') ^ from(word, ' '+1) // what is one and not the other
		digit := fromZero ^ from(word, '9'+1)
		other := ^(space ^ digit ^ fromComma ^ fromSlash) | word // none of the five

		dot := (fromDot ^ fromSlash) & highBits
		isMinus := fromMinus ^ fromDot
		isSeparator := (fromComma ^ fromMinus | space) & highBits
		isJoint := (fromMinus ^ fromSlash) & highBits // a minus or a dot
		digit &= highBits

		afterSeparator := isSeparator<<8 | separator
		afterMinus := isMinus<<8&highBits | minus
		isLeading := (fromZero ^ from(word, '1')) & (afterSeparator | afterMinus) & highBits
		bad := (isMinus | space) ^ afterSeparator | isJoint<<8 | joint // if it is no digit
		bad &^= digit
		bad |= digit & (isLeading<<8 | leading)
		// A one goes from after each dot through the digits, whose bytes are all ones, to the byte after them.
		carried, out := bits.Add64(digit<<1-digit>>7, dot<<1, fraction)
		bad |= carried << 7 & dot
		if (bad|other)&highBits != 0 {
			break
		}
		separator, joint, minus, leading = isSeparator>>56, isJoint>>56, isMinus>>56&0x80, isLeading>>56
		fraction = out | dot>>63
		rest = rest[8:]
	}
	return bytes.LastIndexByte(b[:len(b)-len(rest)], ',') + 1
}

// quoted is the index just after the string that starts at i, 0 where it is not valid.
func quoted(b []byte, i int) int {
	start := i
	for i++; i+8 <= len(b); i += 8 {
		word := binary.LittleEndian.Uint64(b[i:])
		quote, slash := word^'"'*eachByte, word^'\\'*eachByte
		// The high bit of a byte that is 0 once it is differed from what is looked for, or that is a control character.
		// One above such a byte may be wrong, which is seen below.
		if (word|(quote-eachByte)&^quote|(slash-eachByte)&^slash|(word-' '*eachByte)&^word)&highBits != 0 {
			break
		}
	}
	for ; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\' || c >= 0x80:
			end, err := skipString(b, start)
			if err != nil || !jsontext.Value(b[start:end]).IsValid() {
				return 0
			}
			return end
		case c < ' ':
			return 0
		}
	}
	return 0
}
