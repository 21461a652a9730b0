package loadgen

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Check says how an answer is compared with the expected one.
type Check string

const (
	// CheckNone takes each answer with a status of 2xx for right.
	CheckNone Check = "none"
	// CheckExact asks for the id of the request and for equal results: the same tensors (V2: names, datatypes, shapes)
	// and equal values. 1, 1.0 and 1e0 are equal; integers are compared digit by digit, beyond 2^53 too.
	CheckExact Check = "exact"
	// CheckClose is CheckExact where two numbers may differ by Options.Tolerance, unless both are written as integers.
	// Some servers round differently in a batch than alone: the kernels that they choose add up in another order.
	CheckClose Check = "close"
)

// Checks lists the ways to check.
func Checks() []Check { return []Check{CheckNone, CheckExact, CheckClose} }

// maxForms bounds the known byte forms of one right answer. Servers write an answer in one or two ways (a proxy may
// put the fields in another order); one that writes it differently each time is compared field by field instead.
const maxForms = 4

// answer is the right answer to one request. Safe for concurrent use.
//
// Comparing field by field costs a parse of each answer, so bytes that were once found equal are kept, split where the
// id stands, and the answers that follow are first compared with these.
type answer struct {
	protocol Protocol
	compare  comparison
	want     any // the results: outputs or predictions, numbers as json.Number

	forms   atomic.Pointer[[]form]
	formsMu sync.Mutex // held to add to forms
}

// form is the bytes of a right answer, split where the id stands; without an id in the protocol it is all head.
type form struct {
	head, tail []byte
	hasID      bool
}

// matches says whether body is the form with the id in it.
func (f form) matches(body []byte, id string) bool {
	if !f.hasID {
		return bytes.Equal(body, f.head)
	}
	n := len(f.head)
	return len(body) == n+len(id)+len(f.tail) &&
		bytes.Equal(body[:n], f.head) &&
		string(body[n:n+len(id)]) == id &&
		bytes.Equal(body[n+len(id):], f.tail)
}

// newAnswer reads the body of a right answer.
func newAnswer(protocol Protocol, body []byte, tolerance float64) (*answer, error) {
	fields, err := decodeObject(body)
	if err != nil {
		return nil, err
	}
	want, ok := fields[protocol.results()]
	if !ok {
		return nil, fmt.Errorf("no %q field: protocol %s asks for one", protocol.results(), protocol)
	}
	return &answer{protocol: protocol, compare: comparison{tolerance: tolerance}, want: want}, nil
}

// fault says what is wrong with the body of the answer to request id, or "" where it is right.
func (a *answer) fault(body []byte, id string) string {
	known := a.forms.Load()
	if known != nil && slices.ContainsFunc(*known, func(f form) bool { return f.matches(body, id) }) {
		return ""
	}
	fields, err := decodeObject(body)
	if err != nil {
		return err.Error()
	}
	if a.protocol == V2 {
		switch got := fields["id"].(type) {
		case nil:
			return "the answer has no id, expected " + strconv.Quote(id)
		case string:
			if got != id {
				return fmt.Sprintf("id is %q, expected %q: the answer of another request", got, id)
			}
		default:
			return fmt.Sprintf("id is %v, expected %q", got, id)
		}
	}
	if fault := a.faultInResults(fields); fault != "" {
		return fault
	}
	if known == nil || len(*known) < maxForms {
		a.learn(body, id)
	}
	return ""
}

// faultInResults says where the results differ from the expected ones, or "" where they do not.
func (a *answer) faultInResults(fields map[string]any) string {
	name := a.protocol.results()
	got, ok := fields[name]
	if !ok {
		return fmt.Sprintf("the answer has no %q", name)
	}
	if a.protocol == V2 {
		return a.compare.tensors(got, a.want)
	}
	return a.compare.values(name, got, a.want)
}

// learn keeps the bytes of a right answer. With an id they can be used only where the id stands once, so that it is
// known to be the one which was compared.
func (a *answer) learn(body []byte, id string) {
	f := form{head: slices.Clone(body)}
	if a.protocol == V2 {
		quoted := []byte(strconv.Quote(id))
		at := bytes.Index(body, quoted)
		if at < 0 || bytes.Count(body, []byte(id)) != 1 {
			return
		}
		f = form{head: f.head[:at+1], tail: f.head[at+1+len(id):], hasID: true}
	}
	a.formsMu.Lock()
	defer a.formsMu.Unlock()
	var forms []form
	if known := a.forms.Load(); known != nil {
		forms = *known
	}
	if len(forms) >= maxForms || slices.ContainsFunc(forms, func(f form) bool { return f.matches(body, id) }) {
		return
	}
	forms = append(slices.Clone(forms), f)
	a.forms.Store(&forms)
}

// decodeObject parses one JSON object, with its numbers as they are written.
func decodeObject(body []byte) (map[string]any, error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var fields map[string]any
	if err := decoder.Decode(&fields); err != nil {
		return nil, fmt.Errorf("the answer is not a JSON object: %w", err)
	}
	if fields == nil {
		return nil, errors.New("the answer is null, not a JSON object")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the answer goes on behind its JSON object")
	}
	return fields, nil
}

// comparison compares results. Its methods return what differs, or "".
type comparison struct {
	tolerance float64 // of max(1, |a|, |b|); 0 is exact
}

// tensors compares the outputs of V2. Their order does not count, and their data may be nested by shape or flat.
func (c comparison) tensors(got, want any) string {
	g, okGot := got.([]any)
	w, okWant := want.([]any)
	if !okGot || !okWant {
		return c.values("outputs", got, want)
	}
	if len(g) != len(w) {
		return fmt.Sprintf("%d outputs, expected %d", len(g), len(w))
	}
	for _, wantOutput := range w {
		tensor, ok := wantOutput.(map[string]any)
		if !ok {
			return "the expected outputs are not objects"
		}
		name, _ := tensor["name"].(string)
		i := slices.IndexFunc(g, func(output any) bool {
			o, _ := output.(map[string]any)
			return o["name"] == any(name)
		})
		if i < 0 {
			return fmt.Sprintf("no output %q", name)
		}
		if fault := c.tensor("output "+name, g[i].(map[string]any), tensor); fault != "" {
			return fault
		}
	}
	return ""
}

func (c comparison) tensor(name string, got, want map[string]any) string {
	if len(got) != len(want) {
		return fmt.Sprintf("%s has %d fields, expected %d", name, len(got), len(want))
	}
	for _, key := range sortedKeys(want) {
		g, ok := got[key]
		if !ok {
			return fmt.Sprintf("%s has no %q", name, key)
		}
		w := want[key]
		if key == "data" {
			g, w = flatten(g), flatten(w)
		}
		if fault := c.values(name+" "+key, g, w); fault != "" {
			return fault
		}
	}
	return ""
}

// flatten is nested data in row-major order; the shape, which is compared too, says how it was nested.
func flatten(v any) any {
	list, ok := v.([]any)
	if !ok {
		return v
	}
	if !slices.ContainsFunc(list, func(v any) bool { _, nested := v.([]any); return nested }) {
		return list
	}
	flat := make([]any, 0, len(list))
	for _, v := range list {
		if inner, ok := flatten(v).([]any); ok {
			flat = append(flat, inner...)
		} else {
			flat = append(flat, v)
		}
	}
	return flat
}

func (c comparison) values(at string, got, want any) string {
	switch w := want.(type) {
	case []any:
		g, ok := got.([]any)
		if !ok {
			break
		}
		if len(g) != len(w) {
			return fmt.Sprintf("%s has %d values, expected %d", at, len(g), len(w))
		}
		for i := range w {
			if c.equalScalars(g[i], w[i]) {
				continue
			}
			if fault := c.values(at+"["+strconv.Itoa(i)+"]", g[i], w[i]); fault != "" {
				return fault
			}
		}
		return ""
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			break
		}
		if len(g) != len(w) {
			return fmt.Sprintf("%s has %d fields, expected %d", at, len(g), len(w))
		}
		for _, key := range sortedKeys(w) {
			inner, ok := g[key]
			if !ok {
				return fmt.Sprintf("%s has no %q", at, key)
			}
			if fault := c.values(at+"."+key, inner, w[key]); fault != "" {
				return fault
			}
		}
		return ""
	default:
		if c.equalScalars(got, want) {
			return ""
		}
	}
	return fmt.Sprintf("%s is %s, expected %s", at, shorten(got), shorten(want))
}

// equalScalars compares numbers, strings, booleans and null; false for arrays and objects.
func (c comparison) equalScalars(got, want any) bool {
	switch w := want.(type) {
	case json.Number:
		g, ok := got.(json.Number)
		return ok && c.equalNumbers(string(g), string(w))
	case string, bool, nil:
		switch got.(type) {
		case string, bool, nil:
			return got == want
		}
	}
	return false
}

func (c comparison) equalNumbers(got, want string) bool {
	if got == want {
		return true
	}
	if isInteger(got) && isInteger(want) {
		return strings.TrimPrefix(got, "-") == "0" && strings.TrimPrefix(want, "-") == "0"
	}
	gf, errGot := strconv.ParseFloat(got, 64)
	wf, errWant := strconv.ParseFloat(want, 64)
	if errGot != nil || errWant != nil {
		return false // beyond float64, and not written alike
	}
	return math.Abs(gf-wf) <= c.tolerance*max(1, math.Abs(gf), math.Abs(wf))
}

// isInteger says whether the JSON number is written without fraction and exponent. Two such that are equal are written
// alike, 0 and -0 apart.
func isInteger(number string) bool { return !strings.ContainsAny(number, ".eE") }

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// maxShown bounds how much of a value is shown in an example, in bytes: enough for a small answer whole.
const maxShown = 512

// shorten is the value as JSON, cut at maxShown.
func shorten(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return cut(text)
}

// cut is the text, cut at maxShown.
func cut(text []byte) string {
	if len(text) <= maxShown {
		return string(text)
	}
	return string(bytes.ToValidUTF8(text[:maxShown], nil)) + "..."
}
