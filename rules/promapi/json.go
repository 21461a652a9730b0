package promapi

import (
	"bufio"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// JSON is a small value that encoding/json knows how to write.
func JSON(v any) Data { return jsonValue{v} }

type jsonValue struct{ v any }

func (j jsonValue) WriteJSON(w *bufio.Writer) {
	b, err := json.Marshal(j.v)
	if err != nil { // only a type that cannot be written at all
		panic(err)
	}
	_, _ = w.Write(b)
}

// Raw is data that is JSON already.
type Raw []byte

// WriteJSON implements Data.
func (r Raw) WriteJSON(w *bufio.Writer) { _, _ = w.Write(r) }

// Strings is a list of strings, never null.
type Strings []string

// WriteJSON implements Data.
func (s Strings) WriteJSON(w *bufio.Writer) {
	_ = w.WriteByte('[')
	for i, text := range s {
		b := w.AvailableBuffer()
		if i > 0 {
			b = append(b, ',')
		}
		_, _ = w.Write(AppendString(b, text))
	}
	_ = w.WriteByte(']')
}

// AppendString appends text as a JSON string. What is not UTF-8 becomes U+FFFD.
func AppendString(b []byte, text string) []byte {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := range len(text) {
		c := text[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		b = append(b, text[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xF])
		}
	}
	return append(append(b, text[from:]...), '"')
}

// AppendTime appends milliseconds since 1970 as seconds, with three decimals where they are not all zero.
func AppendTime(b []byte, ms int64) []byte {
	whole, part := ms/1000, ms%1000
	if ms < 0 {
		b = append(b, '-')
		whole, part = -whole, -part
	}
	b = strconv.AppendInt(b, whole, 10)
	if part == 0 {
		return b
	}
	return append(b, '.', byte('0'+part/100), byte('0'+part/10%10), byte('0'+part%10))
}

// AppendValue appends a sample's value as a JSON string, which may say NaN, +Inf and -Inf.
func AppendValue(b []byte, v float64) []byte {
	b = append(b, '"')
	switch abs := math.Abs(v); {
	case abs < 1<<53 && v == math.Trunc(v) && (v != 0 || !math.Signbit(v)): // most: counts, ten times as fast
		b = strconv.AppendInt(b, int64(v), 10)
	case abs != 0 && (abs < 1e-6 || abs >= 1e21):
		b = strconv.AppendFloat(b, v, 'e', -1, 64)
	default:
		b = strconv.AppendFloat(b, v, 'f', -1, 64)
	}
	return append(b, '"')
}
