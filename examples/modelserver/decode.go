package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"flyball/examples/modelserver/digits"
)

// decoder reads a request body token by token. It is strict: names that come twice, bytes that are not UTF-8 and anything
// after the value are faults, and each fault says where it is, as in instances[3][17].
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

// pixel reads a number from 0 to 16; NaN and infinities have no form in JSON.
func (d decoder) pixel() (float32, error) {
	if d.json.PeekKind() != '0' {
		return 0, d.wrongKind(fmt.Sprintf("a number from 0 to %d", digits.MaxPixel))
	}
	value, err := d.json.ReadValue()
	if err != nil {
		return 0, syntaxFault(err)
	}
	v, err := strconv.ParseFloat(string(value), 32)
	if err != nil || v < 0 || v > digits.MaxPixel {
		return 0, badRequest("%s: %s is not a pixel; give a number from 0 to %d", d.place(), short(string(value)), digits.MaxPixel)
	}
	return float32(v), nil
}

// image appends an array of exactly 64 pixels to pixels.
func (d decoder) image(pixels []float32) ([]float32, error) {
	before := len(pixels)
	err := d.array(func(int) error {
		v, err := d.pixel()
		pixels = append(pixels, v)
		return err
	})
	if err != nil {
		return nil, err
	}
	if count := len(pixels) - before; count != digits.PixelCount {
		return nil, badRequest("%s: %d pixels; give %d", d.place(), count, digits.PixelCount)
	}
	return pixels, nil
}

// place is where the value read last is, such as inputs[0].data[2].
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

// tooManyImages is the fault of a batch over --max-batch.
func tooManyImages(n int64, limit int) error {
	return &fault{
		code: http.StatusRequestEntityTooLarge,
		text: fmt.Sprintf("batch of %d images: at most %d are taken (--max-batch)", n, limit),
	}
}

func kindName(kind jsontext.Kind) string {
	switch kind {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '{':
		return "an object"
	case '[':
		return "an array"
	default:
		return "nothing"
	}
}

// short keeps a sender's text from filling the answer that quotes it.
func short(text string) string {
	const limit = 120
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "..."
}
