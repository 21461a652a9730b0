package batchproxy

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// generates reports whether a request is for a language model's text: those answers are measured.
func generates(r *http.Request) bool {
	if r.Method != http.MethodPost {
		return false
	}
	for _, end := range []string{"/completions", "/v1/responses", "/generate", "/generate_stream"} { // chat/completions too
		if strings.HasSuffix(r.URL.Path, end) {
			return true
		}
	}
	return false
}

// meter measures the text that a model generates by the bytes of the answer as they pass. It keeps no more than the event that is
// under way, and of a large one the beginning and the end. It is used by one goroutine.
type meter struct {
	series *generation
	start  time.Time // when the request came
	stream bool      // of events, not one JSON text

	text  text
	cr    bool // the last byte was a carriage return, which ends a line alone or with a line feed
	data  bool // the line is of the event's data
	line  int  // bytes of the line so far
	name  [6]byte
	named bool // the event has data

	last   time.Time     // of the last text; zero before the first
	first  time.Duration // from the request to the first text; 0 before
	chunks int           // events with text
	usage  usage
	finish string
}

// text is what is kept of an event's data, or of an answer.
type text struct{ b []byte }

// What is kept of a large event: the text is at its beginning, and what was used at its end.
const (
	keepHead = 4 << 10
	keepTail = 4 << 10
)

func (t *text) add(p []byte) {
	for len(p) > 0 {
		n := min(len(p), keepHead+3*keepTail-len(t.b))
		t.b = append(t.b, p[:n]...)
		p = p[n:]
		if len(t.b) == keepHead+3*keepTail {
			t.b[keepHead] = 0 // in no JSON text: what is on its two sides does not belong together
			copy(t.b[keepHead+1:], t.b[len(t.b)-keepTail:])
			t.b = t.b[:keepHead+1+keepTail]
		}
	}
}

// usage is how many tokens there were, -1 where the answer does not say.
type usage struct{ prompt, completion int64 }

// newMeter returns a meter for an answer with these headers, nil for one that says nothing.
func newMeter(series *generation, start time.Time, code int, header http.Header) *meter {
	if code != http.StatusOK || header.Get("Content-Encoding") != "" {
		return nil
	}
	m := &meter{series: series, start: start, usage: usage{-1, -1}}
	kind, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case "text/event-stream":
		m.stream = true
	case "application/json":
	default:
		return nil
	}
	return m
}

// pass takes note of bytes that were sent to the client at a time.
func (m *meter) pass(now time.Time, p []byte) {
	if !m.stream {
		m.text.add(p)
		return
	}
	for len(p) > 0 {
		if m.cr {
			m.cr = false
			if p[0] == '\n' {
				p = p[1:]
				continue
			}
		}
		end := lineEnd(p)
		if end < 0 {
			m.part(p)
			return
		}
		m.part(p[:end])
		m.endLine(now)
		m.cr = p[end] == '\r'
		p = p[end+1:]
	}
}

// lineEnd is where the first line ends, -1 if none does.
func lineEnd(p []byte) int {
	feed := bytes.IndexByte(p, '\n')
	before := p
	if feed >= 0 {
		before = p[:feed]
	}
	if i := bytes.IndexByte(before, '\r'); i >= 0 {
		return i
	}
	return feed
}

// part takes a part of a line.
func (m *meter) part(p []byte) {
	const field = "data:"
	for len(p) > 0 && m.line < len(field) {
		m.name[m.line] = p[0]
		m.line++
		p = p[1:]
		if m.line == len(field) && string(m.name[:m.line]) == field {
			m.data = true
			if m.named {
				m.text.add([]byte{'\n'}) // between the lines of one event's data
			}
			m.named = true
		}
	}
	m.line += len(p)
	if m.data {
		m.text.add(p)
	}
}

// endLine ends a line, and with an empty one the event.
func (m *meter) endLine(now time.Time) {
	empty := m.line == 0
	m.line, m.data = 0, false
	if !empty {
		return
	}
	if m.named {
		m.event(now)
	}
	m.named = false
	m.text.b = m.text.b[:0]
}

// event takes note of an event that is complete.
func (m *meter) event(now time.Time) {
	b := m.text.b
	m.note(b)
	if !hasText(b) {
		return
	}
	m.chunks++
	if m.last.IsZero() {
		m.first = now.Sub(m.start)
		m.series.firstToken.Observe(m.first.Seconds())
	} else {
		m.series.interToken.Observe(now.Sub(m.last).Seconds())
	}
	m.last = now
}

// note reads what was used and why the model stopped, where a text says so.
func (m *meter) note(b []byte) {
	if u, ok := usageIn(b); ok {
		m.usage = u
	}
	if f := finishIn(b); f != "" {
		m.finish = f
	}
}

// end counts the answer, which is complete unless it is said to have been broken off or not taken.
func (m *meter) end(broken, gone bool) {
	if !m.stream {
		m.note(m.text.b)
	}
	finish := m.finish
	switch {
	case gone:
		finish = "cancelled"
	case broken:
		finish = "error"
	case finish == "":
		finish = "none"
	}
	m.series.finished(finish)
	if m.usage.prompt >= 0 {
		m.series.tokens("prompt", "usage", m.usage.prompt)
	}
	switch {
	case m.usage.completion >= 0:
		m.series.tokens("completion", "usage", m.usage.completion)
	case m.chunks > 0:
		m.series.tokens("completion", "chunks", int64(m.chunks))
	}
}

// textMembers are the members that hold generated text in the events of OpenAI's chat and completions, of its responses, of
// reasoning models, of tools that are called, of TGI and of Triton.
var textMembers = [...]string{`"content"`, `"text"`, `"delta"`, `"reasoning_content"`, `"reasoning"`, `"arguments"`, `"text_output"`}

// hasText reports whether an event has text that the model generated: one with the role alone, or what was used, has none.
func hasText(b []byte) bool {
	// Of responses, only deltas: the whole text comes again when it is done.
	if kind := memberText(b, `"type"`); bytes.HasPrefix(kind, []byte("response.")) && !bytes.HasSuffix(kind, []byte(".delta")) {
		return false
	}
	for _, member := range textMembers {
		if len(memberText(b, member)) > 0 {
			return true
		}
	}
	return false
}

// memberText is the beginning of the value of the first member of this name, in quotes, whose value is a string that is not
// empty; nil where there is none. A name inside of a string is not found: its quotes are escaped.
func memberText(b []byte, name string) []byte {
	for {
		rest, ok := member(b, name)
		if !ok {
			return nil
		}
		if len(rest) > 1 && rest[0] == '"' && rest[1] != '"' {
			value, _, _ := bytes.Cut(rest[1:], []byte{'"'})
			return value
		}
		b = rest
	}
}

// member is what follows the colon of the first member of this name, in quotes.
func member(b []byte, name string) (rest []byte, ok bool) {
	for {
		i := bytes.Index(b, []byte(name))
		if i < 0 {
			return nil, false
		}
		b = bytes.TrimLeft(b[i+len(name):], " \t\r\n")
		if len(b) > 0 && b[0] == ':' {
			return bytes.TrimLeft(b[1:], " \t\r\n"), true
		}
	}
}

// usageIn is the last usage in a text.
func usageIn(b []byte) (usage, bool) {
	for end := len(b); ; {
		i := bytes.LastIndex(b[:end], []byte(`"usage"`))
		if i < 0 {
			break
		}
		end = i
		rest, ok := member(b[i:], `"usage"`)
		if !ok || len(rest) == 0 || rest[0] != '{' {
			continue
		}
		var in struct {
			Prompt     *int64 `json:"prompt_tokens"`
			Completion *int64 `json:"completion_tokens"`
			Input      *int64 `json:"input_tokens"` // of responses
			Output     *int64 `json:"output_tokens"`
		}
		if json.NewDecoder(bytes.NewReader(rest)).Decode(&in) != nil {
			continue
		}
		u := usage{count(in.Prompt, in.Input), count(in.Completion, in.Output)}
		if u.prompt >= 0 || u.completion >= 0 {
			return u, true
		}
	}
	rest, ok := member(b, `"generated_tokens"`) // TGI's details
	if !ok {
		return usage{}, false
	}
	u := usage{-1, number(rest)}
	if rest, ok := member(b, `"input_length"`); ok {
		u.prompt = number(rest)
	}
	return u, u.completion >= 0
}

// most is the largest number of tokens that is believed: counters are floats, and a wrong one cannot be taken back.
const most = 1 << 32

func count(either ...*int64) int64 {
	for _, n := range either {
		if n != nil && *n >= 0 && *n <= most {
			return *n
		}
	}
	return -1
}

// number is the natural number that a text begins with, -1 without one.
func number(b []byte) int64 {
	digits := 0
	for digits < len(b) && b[digits] >= '0' && b[digits] <= '9' {
		digits++
	}
	value, err := strconv.ParseInt(string(b[:min(digits, 20)]), 10, 64)
	if err != nil {
		return -1
	}
	return count(&value)
}

// Finishes are the ways in which a generation ends, the label finish of flyball_batchproxy_generations_total: what the model
// server says, in OpenAI's words, other for a word that is not one of them, none where it says nothing; cancelled where the client
// went first, and error where the replica's answer broke off.
func Finishes() []string {
	return []string{"stop", "length", "tool_calls", "content_filter", "other", "none", "cancelled", "error"}
}

// finishIn is why the model stopped, empty where a text does not say.
func finishIn(b []byte) string {
	switch word := string(memberText(b, `"finish_reason"`)); word {
	case "":
		switch string(memberText(b, `"type"`)) {
		case "response.completed":
			return "stop"
		case "response.incomplete":
			return "length"
		}
		if string(memberText(b, `"object"`)) == "response" { // one that is not streamed
			switch string(memberText(b, `"status"`)) {
			case "completed":
				return "stop"
			case "incomplete":
				return "length"
			}
		}
		return ""
	case "stop", "eos_token", "stop_sequence": // the last two are TGI's
		return "stop"
	case "length", "max_tokens":
		return "length"
	case "tool_calls", "function_call":
		return "tool_calls"
	case "content_filter":
		return word
	default:
		return "other"
	}
}
