package dashboard

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// value is a JSON value that knows where it is. A nil *value stands for what is not there: all methods take it.
type value struct {
	at     int    // offset of its first byte
	text   string // of a string, unescaped; of a number, true, false or null as it is written
	quoted bool   // it is a string
	keys   []string
	fields map[string]*value // of an object; nil for anything else
	items  []*value          // of an array
	array  bool
}

// parseJSON reads one JSON value. The offset is that of the fault, if there is one.
func parseJSON(text []byte) (v *value, offset int, err error) {
	// The whole is checked first: it gives the better error, and bounds the depth.
	var whole json.RawMessage
	if err := json.Unmarshal(text, &whole); err != nil {
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			return nil, max(int(syntax.Offset)-1, 0), err
		}
		return nil, 0, err
	}
	p := reader{text: text, decoder: json.NewDecoder(bytes.NewReader(text))}
	p.decoder.UseNumber()
	v, err = p.value()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, int(p.decoder.InputOffset()), err
	}
	return v, 0, nil
}

type reader struct {
	text    []byte
	decoder *json.Decoder
}

func (p *reader) value() (*value, error) {
	v := &value{at: p.next()}
	token, err := p.decoder.Token()
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '{' {
			return v, p.object(v)
		}
		return v, p.list(v)
	case string:
		v.text, v.quoted = t, true
	case json.Number:
		v.text = t.String()
	case bool:
		v.text = strconv.FormatBool(t)
	default:
		v.text = "null"
	}
	return v, nil
}

func (p *reader) object(v *value) error {
	v.fields = map[string]*value{}
	for p.decoder.More() {
		key, err := p.decoder.Token()
		if err != nil {
			return err
		}
		field, err := p.value()
		if err != nil {
			return err
		}
		name := key.(string) // the text is valid JSON
		if v.fields[name] == nil {
			v.keys = append(v.keys, name)
		}
		v.fields[name] = field
	}
	_, err := p.decoder.Token()
	return err
}

func (p *reader) list(v *value) error {
	v.array = true
	for p.decoder.More() {
		item, err := p.value()
		if err != nil {
			return err
		}
		v.items = append(v.items, item)
	}
	_, err := p.decoder.Token()
	return err
}

// next is the offset at which the next token begins.
func (p *reader) next() int {
	at := int(p.decoder.InputOffset())
	for at < len(p.text) && bytes.IndexByte([]byte(" \t\r\n:,"), p.text[at]) >= 0 {
		at++
	}
	return at
}

// get follows a path of keys.
func (v *value) get(path ...string) *value {
	for _, key := range path {
		if v == nil {
			return nil
		}
		v = v.fields[key]
	}
	return v
}

// string is the text of a string, "" of anything else.
func (v *value) string() string {
	if v == nil || !v.quoted {
		return ""
	}
	return v.text
}

// is reports whether the value is the given literal, such as true.
func (v *value) is(literal string) bool { return v != nil && !v.quoted && v.text == literal }

// list is the items of an array, none of anything else.
func (v *value) list() []*value {
	if v == nil {
		return nil
	}
	return v.items
}

// strings is a string or an array of strings, numbers or booleans as texts.
func (v *value) strings() []string {
	switch {
	case v == nil || v.fields != nil || v.is("null"):
		return nil
	case v.array:
		var all []string
		for _, item := range v.items {
			all = append(all, item.strings()...)
		}
		return all
	}
	return []string{v.text}
}

// offset is where in the file the byte at i of a string's text is.
func (v *value) offset(text []byte, i int) int {
	if v == nil || !v.quoted {
		return v.place()
	}
	at := v.at + 1
	for done := 0; done < i && at < len(text) && text[at] != '"'; {
		if text[at] != '\\' {
			_, size := utf8.DecodeRune(text[at:])
			at, done = at+size, done+size
			continue
		}
		long, short := escape(text[at:])
		at, done = at+long, done+short
	}
	return at
}

func (v *value) place() int {
	if v == nil {
		return 0
	}
	return v.at
}

// escape is how many bytes an escape sequence takes as it is written, and how many as what it stands for.
func escape(text []byte) (long, short int) {
	unit := func(at int) rune {
		if at+6 > len(text) || text[at] != '\\' || text[at+1] != 'u' {
			return -1
		}
		n, err := strconv.ParseUint(string(text[at+2:at+6]), 16, 16)
		if err != nil {
			return -1
		}
		return rune(n)
	}
	r := unit(0)
	if r < 0 {
		return 2, 1
	}
	if utf16.IsSurrogate(r) {
		if pair := utf16.DecodeRune(r, unit(6)); pair != utf8.RuneError {
			return 12, utf8.RuneLen(pair)
		}
		return 6, utf8.RuneLen(utf8.RuneError)
	}
	return 6, utf8.RuneLen(r)
}
