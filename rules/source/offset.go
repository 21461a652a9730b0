package source

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// At makes an Error at a byte of a text that need not be YAML. An offset outside of the text is brought to its nearest end.
func At(name string, text []byte, offset int, format string, args ...any) *Error {
	offset = min(max(offset, 0), len(text))
	start := bytes.LastIndexByte(text[:offset], '\n') + 1
	line := text[start:]
	if end := bytes.IndexByte(line, '\n'); end >= 0 {
		line = line[:end]
	}
	return &Error{
		File: name, Line: bytes.Count(text[:start], []byte("\n")) + 1, Column: utf8.RuneCount(text[start:offset]) + 1,
		Message: fmt.Sprintf(format, args...),
		text:    strings.TrimRight(strings.ReplaceAll(string(line), "\t", " "), "\r"),
	}
}
