package rules

import (
	"fmt"
	"strings"
)

// Bounds of what a file may ask to be parsed. The parsers have none of their own, some take time by the square of what they
// read, and none can be interrupted. Each is well beyond what anybody writes or generates.
const (
	maxPromQLBytes    = 1 << 20
	maxPromQLNesting  = 200
	maxPromQLOperands = 2000
	maxExprBytes      = 16 << 10
	// maxRepeated is how long the regular expressions of one text may be, each counted as often as it repeats a part.
	maxRepeated = 300_000
)

// checkBounds says why a text is refused before it is parsed. PromQL and expr are alike in what matters: brackets, quotes,
// operators.
func checkBounds(text string, maxBytes int) error {
	if len(text) > maxBytes {
		return fmt.Errorf("longer than %d KiB", maxBytes>>10)
	}
	nesting, operators, repeated, matchers := 0, 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '"', '\'', '`':
			end := quoted(text[i:])
			repeated += repetitions(text[i : i+end])
			i += end - 1
		case '#':
			if end := strings.IndexByte(text[i:], '\n'); end >= 0 {
				i += end
			} else {
				i = len(text)
			}
		case '(', '[', '{':
			nesting++
			operators++ // of a range, a call or a selector
			matchers = c == '{'
		case ')', ']', '}':
			nesting = max(0, nesting-1)
			matchers = false
		case '+', '-', '*', '/', '%', '^', '<', '>', '=', '!', '?', ':', '|', '&':
			if !matchers {
				operators++
			}
		case ' ', '\t', '\n':
			if rest := strings.ToLower(text[i+1 : min(len(text), i+5)]); strings.HasPrefix(rest, "or ") || strings.HasPrefix(rest, "and ") || rest == "unle" || rest == "atan" {
				operators++
			}
		}
		switch {
		case nesting > maxPromQLNesting:
			return fmt.Errorf("nested more than %d deep", maxPromQLNesting)
		case operators > maxPromQLOperands:
			return fmt.Errorf("more than %d operators, calls and selectors", maxPromQLOperands)
		case repeated > maxRepeated:
			return fmt.Errorf("regular expressions that repeat too much: more than %d characters, repetitions counted", maxRepeated)
		}
	}
	return nil
}

// quoted is how long the text in quotes is that a text begins with, the quotes included.
func quoted(text string) int {
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && text[0] != '`':
			i++
		case text[i] == text[0]:
			return i + 1
		}
	}
	return len(text)
}

// repetitions are the characters of a regular expression, so many times as its counted repetitions say. RE2 bounds those that
// are within one another to a thousand, and otherwise writes each out.
func repetitions(pattern string) int {
	product := 1
	for i := strings.IndexByte(pattern, '{'); i >= 0 && i < len(pattern); {
		n, most := 0, 0
		for i++; i < len(pattern) && (pattern[i] >= '0' && pattern[i] <= '9' || pattern[i] == ','); i++ {
			if pattern[i] == ',' {
				n = 0
				continue
			}
			n = min(n*10+int(pattern[i]-'0'), 1000)
			most = max(most, n)
		}
		product = min(product*max(most, 1), 1000)
		next := strings.IndexByte(pattern[i:], '{')
		if next < 0 {
			break
		}
		i += next
	}
	return len(pattern) * product
}
