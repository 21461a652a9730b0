package protocol

import "bytes"

// Glance is a quick look at a request, some ten times as fast as Parse: how many rows it has, how urgent it is, and whether it is
// ErrAlone. It does not check the request, which must not be merged by what is returned; any other error says that it cannot be told. Unbroken is
// what is known of its body already.
func Glance(p Protocol, m Message, unbroken Unbroken) (*Request, error) {
	l := look{care: quick, unbroken: unbroken}
	switch p.(type) {
	case V1:
		return walkRows(m.Body, l, "instances", "instance")
	case Examples:
		return walkRows(m.Body, l, "examples", "example")
	case OIP:
		return walkInfer(m, m.text(), l)
	case OpenAI:
		return walkEmbeddings(m.Body, l)
	}
	return nil, ErrAlone
}

// Unbroken is a part of a body with nothing in it that ends an array or begins a text, as all but the first and the last piece of a tensor
// are: who takes a body piece by piece sees that of each while it is at hand, which costs little. The zero value is none.
type Unbroken struct{ start, end int }

// Add takes a piece of the body that comes after those before it, at an index.
func (u *Unbroken) Add(piece []byte, at int) {
	if bytes.IndexByte(piece, ']') >= 0 || bytes.IndexByte(piece, '"') >= 0 {
		return
	}
	if at != u.end {
		u.start = at
	}
	u.end = at + len(piece)
}

// glanceAt is how many bytes are looked at for one thing before they are for the next: they are still at hand then.
const glanceAt = 32 << 10

// glanced is the index just after the array of numbers, or of such arrays, that starts at i; 0 where it is another value or opens more
// than depth levels. Of each row of numbers it looks at the first, and takes the next bracket for its end: who walks on after one in which
// there was something else finds a fault.
func glanced(b []byte, i, depth int, unbroken Unbroken) int {
	open, from := 0, i // quotes have been looked for up to from: the brackets after one may be in a text
	for i < len(b) {
		switch c := b[i]; {
		case c == '[' && open < depth:
			open++
		case c == ']' && open > 1:
			open--
		case c == ']' && open == 1:
			if bytes.IndexByte(b[from:i], '"') >= 0 {
				return 0
			}
			return i + 1
		case (c == '-' || c-'0' <= 9) && open > 0:
			for i < len(b) && b[i] != ']' {
				if i >= unbroken.start && i < unbroken.end && bytes.IndexByte(b[from:i], '"') < 0 {
					i, from = unbroken.end, unbroken.end
					continue
				}
				piece := b[i:min(i+glanceAt, len(b))]
				if n := bytes.IndexByte(piece, ']'); n >= 0 {
					piece = piece[:n]
				} else if n := i + len(piece); bytes.IndexByte(b[from:n], '"') < 0 {
					from = n
				} else {
					return 0
				}
				i += len(piece)
			}
			continue
		case c == ',' || c == ' ' || c == '\n' || c == '\t' || c == '\r':
		default:
			return 0
		}
		i++
	}
	return 0
}
