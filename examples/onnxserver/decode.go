package main

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// decoder reads a request body. It is strict: names that come twice, bytes that are not UTF-8 and anything after the value
// are faults, and each fault says where it is, as in instances[3][17].
type decoder struct {
	json *jsontext.Decoder
}

func newDecoder(body []byte) decoder {
	return decoder{json: jsontext.NewDecoder(bytes.NewBuffer(body))}
}

// whole reads a body that is one object and nothing more; member reads the value of each of its members.
func (d decoder) whole(member func(name string) error) error {
	if err := d.object(member); err != nil {
		return err
	}
	switch _, err := d.json.ReadToken(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return syntaxFault(err)
	default:
		return badRequest("body: goes on after its JSON object")
	}
}

// object reads an object; member is called with each name and must read the value.
func (d decoder) object(member func(name string) error) error {
	if err := d.open('{'); err != nil {
		return err
	}
	for d.json.PeekKind() != '}' {
		name, err := d.json.ReadToken()
		if err != nil {
			return syntaxFault(err)
		}
		if err := member(name.String()); err != nil {
			return err
		}
	}
	return d.close()
}

// array reads an array; element is called for each one, counted from 0, and must read it.
func (d decoder) array(element func(i int) error) error {
	if err := d.open('['); err != nil {
		return err
	}
	for i := 0; d.json.PeekKind() != ']'; i++ {
		if err := element(i); err != nil {
			return err
		}
	}
	return d.close()
}

func (d decoder) open(kind jsontext.Kind) error {
	if d.json.PeekKind() != kind {
		return d.wrongKind(kindName(kind))
	}
	_, err := d.json.ReadToken()
	return syntaxFault(err)
}

func (d decoder) close() error {
	_, err := d.json.ReadToken()
	return syntaxFault(err)
}

// wrongKind reads the next value, which is not what it should be, and gives the fault that says so.
func (d decoder) wrongKind(want string) error {
	kind := d.json.PeekKind()
	if err := d.skip(); err != nil {
		return err
	}
	return badRequest("%s: %s; give %s", d.place(), kindName(kind), want)
}

func (d decoder) skip() error {
	return syntaxFault(d.json.SkipValue())
}

// raw reads any value and gives its bytes, which are valid until the next call.
func (d decoder) raw() ([]byte, error) {
	value, err := d.json.ReadValue()
	return value, syntaxFault(err)
}

func (d decoder) text() (string, error) {
	if d.json.PeekKind() != '"' {
		return "", d.wrongKind("a string")
	}
	token, err := d.json.ReadToken()
	if err != nil {
		return "", syntaxFault(err)
	}
	return token.String(), nil
}

func (d decoder) boolean() (bool, error) {
	if kind := d.json.PeekKind(); kind != 't' && kind != 'f' {
		return false, d.wrongKind("true or false")
	}
	token, err := d.json.ReadToken()
	if err != nil {
		return false, syntaxFault(err)
	}
	return token.Bool(), nil
}

// size reads a whole number of 1 or more.
func (d decoder) size() (int64, error) {
	if d.json.PeekKind() != '0' {
		return 0, d.wrongKind("a whole number of 1 or more")
	}
	value, err := d.raw()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || n < 1 {
		return 0, badRequest("%s: %s; give a whole number of 1 or more", d.place(), short(string(value)))
	}
	return n, nil
}

// place is where the value read last is, such as inputs[0].data.
func (d decoder) place() string {
	var b strings.Builder
	for token := range d.json.StackPointer().Tokens() {
		if _, err := strconv.Atoi(token); err == nil {
			b.WriteString("[" + token + "]")
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(short(token))
	}
	if b.Len() == 0 {
		return "body"
	}
	return b.String()
}

// syntaxFault turns an error of the JSON decoder into a fault; nil stays nil.
func syntaxFault(err error) error {
	var syntax *jsontext.SyntacticError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		return badRequest("body: empty; give a JSON object")
	case errors.Is(err, jsontext.ErrDuplicateName) && errors.As(err, &syntax):
		return badRequest("body: not valid JSON: the name %q comes twice in one object", short(syntax.JSONPointer.LastToken()))
	case errors.Is(err, io.ErrUnexpectedEOF):
		return badRequest("body: not valid JSON: it ends too early")
	case errors.As(err, &syntax):
		return badRequest("body: not valid JSON: byte %d: %s", syntax.ByteOffset, short(syntax.Err.Error()))
	default:
		return badRequest("body: not valid JSON: %s", short(err.Error()))
	}
}

func kindName(kind jsontext.Kind) string {
	if kind == 0 || kind == '}' || kind == ']' {
		return "nothing"
	}
	return kindOf(byte(kind))
}

// short keeps a sender's text from filling the answer that quotes it.
func short(text string) string {
	const limit = 120
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "..."
}
