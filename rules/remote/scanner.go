package remote

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads JSON value by value as it comes. It holds one string at a time, so what it needs does not grow with what
// it reads. encoding/json holds a whole value, and a token of any length.
type scanner struct {
	r     *bufio.Reader
	at    int64 // bytes read
	text  []byte
	names map[string]string // of labels, which each series has again
}

// Limits of what an answer may hold. Prometheus itself has none; Mimir's defaults are 1,024 bytes a name, 2,048 a value,
// and 30 labels a series.
const (
	maxString = 64 << 10
	maxDepth  = 32 // levels; a vector has 5
	maxNames  = 1024
)

func newScanner(r io.Reader) *scanner {
	return &scanner{r: bufio.NewReaderSize(r, 16<<10), names: map[string]string{}}
}

func (s *scanner) fault(format string, args ...any) error {
	return fmt.Errorf("it is not JSON as the API gives it, at byte %d: %s", s.at, fmt.Sprintf(format, args...))
}

func (s *scanner) byte() (byte, error) {
	c, err := s.r.ReadByte()
	if err != nil {
		return 0, s.end(err)
	}
	s.at++
	return c, nil
}

// end is why there is no next byte.
func (s *scanner) end(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it was cut off after %d bytes", s.at)
	}
	return err
}

// next returns the next byte that is not white space.
func (s *scanner) next() (byte, error) {
	for {
		c, err := s.byte()
		if err != nil || c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			return c, err
		}
	}
}

// back takes back the byte that was read last; nothing may have been peeked at since.
func (s *scanner) back() {
	if err := s.r.UnreadByte(); err != nil {
		panic(err)
	}
	s.at--
}

// expect reads the byte that must come next.
func (s *scanner) expect(want byte) error {
	c, err := s.next()
	if err == nil && c != want {
		return s.fault("%q where %q is expected", c, want)
	}
	return err
}

// object calls f for each key; f reads the value.
func (s *scanner) object(f func(key string) error) error {
	if err := s.expect('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		c, err := s.next()
		switch {
		case err != nil:
			return err
		case c == '}' && first:
			return nil
		case c != '"':
			return s.fault("%q where a key is expected", c)
		}
		key, err := s.name()
		if err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		if err := f(key); err != nil {
			return err
		}
		if more, err := s.more('}'); !more {
			return err
		}
	}
}

// array calls f for each value, which f reads.
func (s *scanner) array(f func() error) error {
	if err := s.expect('['); err != nil {
		return err
	}
	c, err := s.next()
	if err != nil || c == ']' {
		return err
	}
	s.back()
	for {
		if err := f(); err != nil {
			return err
		}
		if more, err := s.more(']'); !more {
			return err
		}
	}
}

// texts calls f for each string of a list, which may be null.
func (s *scanner) texts(f func(text string)) error {
	if null, err := s.null(); null || err != nil {
		return err
	}
	return s.array(func() error {
		text, err := s.string()
		if err == nil {
			f(text)
		}
		return err
	})
}

// more reads the comma before the next value, or the end.
func (s *scanner) more(end byte) (bool, error) {
	c, err := s.next()
	switch {
	case err != nil:
		return false, err
	case c == ',':
		return true, nil
	case c == end:
		return false, nil
	}
	return false, s.fault("%q where , or %c is expected", c, end)
}

// string reads a value that must be a string.
func (s *scanner) string() (string, error) {
	if err := s.expect('"'); err != nil {
		return "", err
	}
	if err := s.scanString(); err != nil {
		return "", err
	}
	return string(s.text), nil
}

// name reads the rest of a key. Keys come again and again, so those of reasonable number are kept.
func (s *scanner) name() (string, error) {
	if err := s.scanString(); err != nil {
		return "", err
	}
	if name, known := s.names[string(s.text)]; known {
		return name, nil
	}
	name := string(s.text)
	if len(s.names) < maxNames && len(name) < 256 {
		s.names[name] = name
	}
	return name, nil
}

// scanString reads a string behind its first quote into text.
func (s *scanner) scanString() error {
	s.text = s.text[:0]
	for {
		c, err := s.byte()
		switch {
		case err != nil:
			return err
		case c == '"':
			if !utf8.Valid(s.text) {
				return s.fault("a string that is not valid UTF-8")
			}
			return nil
		case c < ' ':
			return s.fault("a control character within a string")
		case c == '\\':
			if err := s.escape(); err != nil {
				return err
			}
		default:
			s.text = append(s.text, c)
		}
		if len(s.text) > maxString {
			return s.fault("a string of more than %d bytes", maxString)
		}
	}
}

func (s *scanner) escape() error {
	c, err := s.byte()
	if err != nil {
		return err
	}
	switch c {
	case '"', '\\', '/':
		s.text = append(s.text, c)
	case 'b':
		s.text = append(s.text, '\b')
	case 'f':
		s.text = append(s.text, '\f')
	case 'n':
		s.text = append(s.text, '\n')
	case 'r':
		s.text = append(s.text, '\r')
	case 't':
		s.text = append(s.text, '\t')
	case 'u':
		return s.unicode()
	default:
		return s.fault(`\%c is not an escape`, c)
	}
	return nil
}

// unicode reads \uXXXX, and the second half of a pair. A half alone is U+FFFD, as in encoding/json.
func (s *scanner) unicode() error {
	r, err := s.hex()
	if err != nil {
		return err
	}
	for utf16.IsSurrogate(r) {
		next, err := s.r.Peek(2)
		if err != nil {
			if len(next) == 0 || len(next) == 1 && next[0] == '\\' {
				return s.end(err)
			}
		}
		if len(next) < 2 || next[0] != '\\' || next[1] != 'u' {
			r = utf8.RuneError
			break
		}
		_, _ = s.r.Discard(2) // they were peeked at
		s.at += 2
		second, err := s.hex()
		if err != nil {
			return err
		}
		if pair := utf16.DecodeRune(r, second); pair != utf8.RuneError {
			r = pair
			break
		}
		s.text = utf8.AppendRune(s.text, utf8.RuneError)
		r = second
	}
	s.text = utf8.AppendRune(s.text, r)
	return nil
}

func (s *scanner) hex() (rune, error) {
	var r rune
	for range 4 {
		c, err := s.byte()
		switch {
		case err != nil:
			return 0, err
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, s.fault(`%q in \u`, c)
		}
	}
	return r, nil
}

// number reads past a number by JSON's grammar.
func (s *scanner) number() error {
	c, err := s.next()
	if err != nil {
		return err
	}
	if c == '-' {
		if c, err = s.byte(); err != nil {
			return err
		}
	}
	switch {
	case c == '0':
	case '1' <= c && c <= '9':
		if _, err := s.digits(); err != nil {
			return err
		}
	default:
		return s.fault("%q where a number is expected", c)
	}
	if s.peek() == '.' {
		if _, err := s.byte(); err != nil {
			return err
		}
		if err := s.someDigits(); err != nil {
			return err
		}
	}
	if c := s.peek(); c != 'e' && c != 'E' {
		return nil
	}
	if _, err := s.byte(); err != nil {
		return err
	}
	if c := s.peek(); c == '+' || c == '-' {
		if _, err := s.byte(); err != nil {
			return err
		}
	}
	return s.someDigits()
}

// someDigits reads past digits, of which there must be one.
func (s *scanner) someDigits() error {
	n, err := s.digits()
	if err != nil || n > 0 {
		return err
	}
	c, err := s.byte()
	if err != nil {
		return err
	}
	return s.fault("%q where a digit is expected", c)
}

func (s *scanner) digits() (n int, err error) {
	for ; ; n++ {
		if c := s.peek(); c < '0' || c > '9' {
			return n, nil
		}
		if _, err := s.byte(); err != nil {
			return n, err
		}
	}
}

// peek is the next byte, 0 at the end.
func (s *scanner) peek() byte {
	next, err := s.r.Peek(1)
	if err != nil {
		return 0
	}
	return next[0]
}

func (s *scanner) literal(want string) error {
	for i := range want {
		c, err := s.byte()
		if err != nil {
			return err
		}
		if c != want[i] {
			return s.fault("%q where %s is expected", c, want)
		}
	}
	return nil
}

// null reads past null, if that is what comes next.
func (s *scanner) null() (bool, error) {
	c, err := s.next()
	if err != nil {
		return false, err
	}
	s.back()
	if c != 'n' {
		return false, nil
	}
	return true, s.literal("null")
}

// bool reads true or false.
func (s *scanner) bool() (bool, error) {
	c, err := s.next()
	if err != nil {
		return false, err
	}
	s.back()
	if c == 't' {
		return true, s.literal("true")
	}
	return false, s.literal("false")
}

// skip reads past any value, depth levels below the top.
func (s *scanner) skip(depth int) error {
	if depth > maxDepth {
		return s.fault("more than %d levels", maxDepth)
	}
	c, err := s.next()
	if err != nil {
		return err
	}
	switch c {
	case '"':
		return s.scanString()
	case '{':
		s.back()
		return s.object(func(string) error { return s.skip(depth + 1) })
	case '[':
		s.back()
		return s.array(func() error { return s.skip(depth + 1) })
	case 't', 'f':
		s.back()
		_, err := s.bool()
		return err
	case 'n':
		s.back()
		return s.literal("null")
	}
	s.back()
	return s.number()
}

// finish sees that nothing but white space follows.
func (s *scanner) finish() error {
	for {
		c, err := s.r.ReadByte()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return s.end(err)
		case c != ' ' && c != '\t' && c != '\n' && c != '\r':
			return s.fault("%q behind its end", c)
		}
		s.at++
	}
}
