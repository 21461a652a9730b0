package source

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is one fault in a file.
type Error struct {
	File    string `json:"file"`
	Line    int    `json:"line"`   // from 1; 0 when the fault is not at a place in the text
	Column  int    `json:"column"` // in characters, from 1
	Message string `json:"message"`

	text string // the line it is on, or what of it is around the column
	cut  int    // characters of the line before it
}

// Error returns file:line:column: message, without the caret.
func (e *Error) Error() string {
	switch {
	case e.File == "":
		return e.Message
	case e.Line == 0:
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Show returns the error with the line that it is on and a caret under the place.
func (e *Error) Show() string {
	if e.Line == 0 || strings.TrimSpace(e.text) == "" {
		return e.Error()
	}
	text, column := window(masked(e.text), max(e.Column-1-e.cut, 0))
	margin := fmt.Sprintf("%5d | ", e.Line)
	return fmt.Sprintf("%s\n%s%s\n%s| %s^", e.Error(), margin, text, strings.Repeat(" ", len(margin)-2), strings.Repeat(" ", column))
}

// secret is a key whose value nobody should see, by Prometheus's names, a URL with a user, a password or a query, or the headers of
// requests, of which any may be a credential.
var secret = regexp.MustCompile(`(?i)\b(?:password|credentials|bearer_token|client_secret|client_certificate_key|secret_key|secrets)["']?\s*:\s*(\[[^\]]*\]?|"[^"]*"?|'[^']*'?|[^,}\s]+)|://[^/\s:@]*:([^@\s/]+)@|://([^/\s:@]+)@|[\w/]?[?&][\w.~-]+=([^&#\s"',}]+)|[\w/]\?([\w%][^&#\s"',}]*)|\bheaders["']?\s*:\s*\{([^}]*)|\bauthorization["']?\s*:\s*([^\s{][^,}]*)`)

// masked hides secrets in a line that is shown, character by character, so that the caret stays where it belongs.
func masked(line string) string {
	if !mayHide(line) {
		return line // most lines, without the cost of an expression
	}
	found := secret.FindAllStringSubmatchIndex(line, -1)
	for _, m := range slices.Backward(found) {
		group := 2
		for m[group] < 0 {
			group += 2
		}
		from, to := m[group], m[group+1]
		line = line[:from] + strings.Repeat("*", utf8.RuneCountInString(line[from:to])) + line[to:]
	}
	return line
}

// mayHide says that a line may have a secret: that it has one of the words, or a URL or what was meant as one.
func mayHide(line string) bool {
	if strings.Contains(line, "://") {
		return true
	}
	lower := strings.ToLower(line)
	return slices.ContainsFunc([]string{"password", "credentials", "bearer_token", "client_secret", "client_certificate_key", "secret_key", "secrets", "headers", "authorization", "url"}, func(word string) bool {
		return strings.Contains(lower, word)
	})
}

// shown is how many characters of a line are shown at the most, before and behind the place.
const shown = 100

// window cuts a long line to what is around a column, and replaces what a terminal would take for a command.
func window(line string, column int) (string, int) {
	runes := []rune(line)
	from, to := max(0, column-shown), min(len(runes), column+shown)
	from = min(from, to)
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, string(runes[from:to]))
	column -= from
	if from > 0 {
		text, column = "..."+text, column+3
	}
	if to < len(runes) {
		text += "..."
	}
	return text, column
}

// Errors are the faults of one or more files.
type Errors []*Error

// Error returns every fault with its caret, and their count.
func (es Errors) Error() string {
	var b strings.Builder
	files := map[string]bool{}
	for _, e := range es {
		b.WriteString(e.Show())
		b.WriteByte('\n')
		if e.File != "" {
			files[e.File] = true
		}
	}
	b.WriteString(count(len(es), "error"))
	if len(files) > 0 {
		b.WriteString(" in " + count(len(files), "file"))
	}
	return b.String()
}

// Join makes one of the errors of several files, in their order. Errors that are not about a place in a file are kept with
// their text. It returns nil when there is none.
func Join(errs ...error) error {
	var all Errors
	for _, err := range errs {
		var es Errors
		switch {
		case err == nil:
		case errors.As(err, &es):
			all = append(all, es...)
		default:
			all = append(all, &Error{Message: err.Error()})
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

func (es Errors) sort() {
	slices.SortStableFunc(es, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
