package source

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// File is one YAML document and the text that it came from.
type File struct {
	Name  string
	lines []string
	shown map[int]string // lines as errors show them, by their number
	root  *yaml.Node     // the document's content; nil for an empty file
	more  *Error         // where a second document begins, of a file that may have one
}

// yaml.v3 gives the place of a syntax error only in its text.
var syntaxError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// maxBytes bounds a file; 10,000 scale rules are some 5 MB.
const maxBytes = 16 << 20

// Read reads a file that a person wrote, and refuses one that is too large to be that.
func Read(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadFrom(name, f)
}

// ReadFrom reads what Read does of a file from a stream of that name.
func ReadFrom(name string, r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err == nil && len(text) > maxBytes {
		err = fmt.Errorf("read %s: larger than %d MiB", name, maxBytes>>20)
	}
	return text, err
}

// Parse reads one YAML document. The error is of type Errors; an empty file is no error. A second document in the same
// file would be ignored by YAML decoders, so it is a fault here.
func Parse(name string, text []byte) (*File, error) {
	f, err := ParseFirst(name, text)
	if err != nil {
		return nil, err
	}
	if f.more != nil {
		return nil, Errors{f.more}
	}
	return f, nil
}

// ParseFirst reads the first YAML document of a text and passes over what follows it, as Prometheus does with rule files;
// More says where that is. The error is of type Errors; an empty file is no error.
func ParseFirst(name string, text []byte) (*File, error) {
	text = unicodeText(text)
	f := &File{Name: name, lines: strings.Split(string(text), "\n")}
	if line, column, why := tooMuch(text); line > 0 {
		return nil, Errors{f.errorAt(line, column, why)}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document yaml.Node
	switch err := decode(decoder, &document); {
	case errors.Is(err, io.EOF):
		return f, nil
	case err != nil:
		return nil, Errors{f.fault(text, err)}
	}
	if len(document.Content) > 0 {
		f.root = document.Content[0]
	}
	var second yaml.Node
	switch err := decode(decoder, &second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		f.more = f.fault(text, err)
	default:
		f.more = f.errorAt(second.Line, 1, "a second YAML document: put it in a file of its own")
	}
	return f, nil
}

// maxDocuments bounds how many documents one text has.
const maxDocuments = 10_000

// ParseAll reads all YAML documents of a text, as kubectl does; those without content are left out. The error is of type
// Errors.
func ParseAll(name string, text []byte) (all []*File, err error) {
	text = unicodeText(text)
	whole := &File{Name: name, lines: strings.Split(string(text), "\n")}
	if line, column, why := tooMuch(text); line > 0 {
		return nil, Errors{whole.errorAt(line, column, why)}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var document yaml.Node
		switch err := decode(decoder, &document); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, Errors{whole.fault(text, err)}
		case len(all) == maxDocuments:
			return nil, Errors{whole.errorAt(document.Line, 1, fmt.Sprintf("more than %d documents", maxDocuments))}
		}
		if len(document.Content) > 0 && document.Content[0].Tag != "!!null" {
			all = append(all, &File{Name: name, lines: whole.lines, root: document.Content[0]})
		}
	}
}

// Line is that of the value at a path, or of what is nearest to it; 0 for an empty file.
func (f *File) Line(path string) int {
	key, value, _ := f.find(path)
	switch {
	case key != nil:
		return key.Line
	case value != nil:
		return value.Line
	}
	return 0
}

// More says where ParseFirst stopped reading, as an Errors; nil where there was nothing left.
func (f *File) More() error {
	if f.more == nil {
		return nil
	}
	return Errors{f.more}
}

// DropNull takes the items that are null out of the lists that are found by following the keys from the top, through each
// item of a list on the way: Prometheus reads a list as if they were not there.
func (f *File) DropNull(keys ...string) {
	if f.root != nil {
		dropNull(resolve(f.root), keys)
	}
}

func dropNull(n *yaml.Node, keys []string) {
	if n.Kind == yaml.SequenceNode {
		n.Content = slices.DeleteFunc(n.Content, func(item *yaml.Node) bool { return resolve(item).Tag == "!!null" })
		for _, item := range n.Content {
			if item = resolve(item); len(keys) > 0 && item.Kind == yaml.MappingNode {
				dropNull(item, keys)
			}
		}
		return
	}
	if len(keys) == 0 {
		return
	}
	if _, value := entry(n, keys[0]); value != nil && resolve(value).Kind == yaml.SequenceNode {
		dropNull(resolve(value), keys[1:])
	}
}

// Plain is a copy of the document, comments included, in which aliases and merges are replaced by what they stand for; nil
// for an empty file. The document must have been decoded without a fault: that bounds how large it becomes.
func (f *File) Plain() *yaml.Node {
	if f.root == nil {
		return nil
	}
	return plainCopy(f.root)
}

func plainCopy(n *yaml.Node) *yaml.Node {
	n = resolve(n)
	copied := *n
	copied.Anchor, copied.Alias, copied.Content = "", nil, nil
	switch { // what the library does not write back as it was
	case n.Style&yaml.FoldedStyle != 0:
		copied.Style = n.Style&^yaml.FoldedStyle | yaml.LiteralStyle
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		copied.Value, copied.Style = "null", 0
	}
	if n.Kind != yaml.MappingNode {
		for _, item := range n.Content {
			copied.Content = append(copied.Content, plainCopy(item))
		}
		return &copied
	}
	written := map[string]bool{}
	add := func(m *yaml.Node) {
		for i := 0; i+1 < len(m.Content); i += 2 {
			if key := resolve(m.Content[i]); key.Tag != "!!merge" && key.Tag != "!!null" && !written[key.Value] {
				written[key.Value] = true
				copied.Content = append(copied.Content, plainCopy(key), plainCopy(m.Content[i+1]))
			}
		}
	}
	visited := map[*yaml.Node]bool{n: true}
	var follow func(m *yaml.Node)
	follow = func(m *yaml.Node) {
		add(m)
		for _, merged := range merges(m) {
			if !visited[merged] {
				visited[merged] = true
				follow(merged)
			}
		}
	}
	follow(n)
	return &copied
}

// fault is an error of the YAML library at its place.
func (f *File) fault(text []byte, err error) *Error {
	if !utf8.Valid(text) {
		line, column := invalidUTF8(text)
		return f.errorAt(line, column, "not valid UTF-8")
	}
	return f.syntax(err)
}

// unicodeText is a text in UTF-8 without a byte order mark: YAML may be in UTF-16 as well.
func unicodeText(text []byte) []byte {
	if rest, marked := bytes.CutPrefix(text, []byte("\xef\xbb\xbf")); marked {
		return rest
	}
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(text, []byte("\xff\xfe")):
		order = binary.LittleEndian
	case bytes.HasPrefix(text, []byte("\xfe\xff")):
		order = binary.BigEndian
	default:
		return text
	}
	if len(text)%2 != 0 {
		return text // which is no text at all
	}
	units := make([]uint16, 0, len(text)/2-1)
	for i := 2; i < len(text); i += 2 {
		units = append(units, order.Uint16(text[i:]))
	}
	return []byte(string(utf16.Decode(units)))
}

// maxNesting bounds brackets, and dashes in a row, for the YAML library, which takes time by the square of them. Nothing that
// is decoded is deeper than maxDepth, and brackets in texts are few and closed.
const maxNesting = 1000

// maxLine bounds a line: the library reads a number of a megabyte in all the ways in which there are numbers. No line that
// anybody wrote comes near it; a text that is longer goes over several.
const maxLine = 64 << 10

// tooMuch returns where a text is nested too deeply, as far as its brackets and dashes say, or has too long a line.
func tooMuch(text []byte) (line, column int, why string) {
	line, start, depth, dashes := 1, 0, 0, 0
	for i, c := range text {
		if i == start && bytes.HasPrefix(bytes.TrimLeft(text[i:], " "), []byte("- ")) {
			depth = 0 // an item of a list in lines, which cannot be within brackets: those before it were in texts
		}
		switch c {
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(0, depth-1)
		case '\n':
			line, start = line+1, i+1
		}
		switch c {
		case '-', '?', ':':
			dashes++
		case ' ', '\t':
		default:
			dashes = 0
		}
		switch {
		case depth > maxNesting || dashes > maxNesting:
			return line, i - start + 1, fmt.Sprintf("nested more than %d deep", maxNesting)
		case i-start > maxLine:
			return line, 1, fmt.Sprintf("a line of more than %d KiB", maxLine>>10)
		}
	}
	return 0, 0, ""
}

// decode turns a panic of the YAML library, which has had some on input that nobody wrote by hand, into an error.
func decode(d *yaml.Decoder, node *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: %v", r)
		}
	}()
	return d.Decode(node)
}

func (f *File) syntax(err error) *Error {
	m := syntaxError.FindStringSubmatch(strings.SplitN(err.Error(), "\n", 2)[0])
	if m == nil {
		return &Error{File: f.Name, Message: "YAML: " + err.Error()}
	}
	line, _ := strconv.Atoi(m[1])
	return f.errorAt(max(line, 1), f.indent(max(line, 1))+1, "YAML: "+m[2])
}

func (f *File) errorAt(line, column int, message string) *Error {
	// YAML also breaks lines at characters that no editor does; such a place is shown at the end.
	line = min(line, len(f.lines))
	e := &Error{File: f.Name, Line: line, Column: column, Message: message}
	if line >= 1 && line <= len(f.lines) {
		e.text, e.cut = around(f.show(line), column-1)
	}
	return e
}

// show is a line as errors show it: without secrets, which are looked for in all of it, once.
func (f *File) show(line int) string {
	text, known := f.shown[line]
	if !known {
		text = masked(strings.TrimRight(strings.ReplaceAll(f.lines[line-1], "\t", " "), "\r"))
		if f.shown == nil {
			f.shown = map[int]string{}
		}
		f.shown[line] = text
	}
	return text
}

// around is the part of a very long line that an error may show, and how many characters are cut off before it.
func around(line string, column int) (text string, cut int) {
	const most = 4 * shown
	if len(line) <= 2*most {
		return line, 0
	}
	from, to, n := 0, len(line), 0
	for i := range line {
		if n == column-most {
			from, cut = i, n
		}
		if n == column+most {
			to = i
			break
		}
		n++
	}
	return line[from:to], cut
}

// indent is the number of spaces that a line, counted from 1, begins with.
func (f *File) indent(line int) int {
	if line < 1 || line > len(f.lines) {
		return 0
	}
	text := f.lines[line-1]
	return len(text) - len(strings.TrimLeft(text, " "))
}

// place returns the line and column of the byte at offset within the value of a scalar.
func (f *File) place(n *yaml.Node, offset int) (line, column int) {
	line, column = n.Line, n.Column
	value := n.Value
	if n.Kind != yaml.ScalarNode || offset <= 0 || offset > len(value) {
		offset = 0
	}
	switch n.Style &^ yaml.TaggedStyle {
	case yaml.LiteralStyle, yaml.FoldedStyle:
		// The node is where its indicator is; the text begins on the next line that is not blank, whose indentation is
		// stripped from all of them. A folded line break is one space in the value, so it counts the same.
		line++
		for line < len(f.lines) && strings.TrimSpace(f.lines[line-1]) == "" {
			line++
		}
		column = f.indent(line) + 1
	case yaml.SingleQuotedStyle, yaml.DoubleQuotedStyle:
		column++
	}
	first, indent := column-1, column-1
	for line <= len(f.lines) {
		text := strings.TrimRight(f.lines[line-1], "\r")
		start := min(first, len(text))
		if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 && line != n.Line {
			start = f.indent(line) // a flow scalar over several lines: each is stripped
		}
		rest := len(text) - start
		if offset <= rest || line == len(f.lines) {
			at := min(start+offset, len(text))
			return line, utf8.RuneCountInString(text[:at]) + 1
		}
		offset -= rest + 1
		line, first = line+1, indent
	}
	return n.Line, n.Column
}

// find follows a path as far as the file goes and returns the value it names and, for a mapping's entry, the key. whole
// says whether all of the path was there.
func (f *File) find(path string) (key, value *yaml.Node, whole bool) {
	value = f.root
	for rest := path; rest != "" && value != nil; {
		value = resolve(value)
		var step string
		if strings.HasPrefix(rest, "[") {
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				return key, value, false
			}
			step, rest = rest[1:end], strings.TrimPrefix(rest[end+1:], ".")
			i, err := strconv.Atoi(step)
			if err != nil || value.Kind != yaml.SequenceNode || i < 0 || i >= len(value.Content) {
				return key, value, false
			}
			key, value = nil, value.Content[i]
			continue
		}
		end := strings.IndexByte(rest, '[')
		if end < 0 {
			end = len(rest)
		}
		k, v := entry(value, rest[:end])
		for k == nil && strings.Contains(rest[:end], ".") { // a key may have dots itself, so the longest comes first
			end = strings.LastIndexByte(rest[:end], '.')
			k, v = entry(value, rest[:end])
		}
		if k == nil {
			return key, value, false
		}
		key, value, rest = k, v, strings.TrimPrefix(rest[end:], ".")
	}
	return key, value, true
}

// entry returns the key and the value of a mapping's entry, nil when there is none. Its own entries come before those that
// it merges (<<).
func entry(mapping *yaml.Node, name string) (key, value *yaml.Node) {
	return entryWithin(mapping, name, map[*yaml.Node]bool{})
}

func entryWithin(mapping *yaml.Node, name string, visited map[*yaml.Node]bool) (key, value *yaml.Node) {
	if mapping.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if resolve(mapping.Content[i]).Value == name {
			return mapping.Content[i], mapping.Content[i+1]
		}
	}
	for _, merged := range merges(mapping) {
		if visited[merged] {
			continue
		}
		visited[merged] = true
		if key, value := entryWithin(merged, name, visited); key != nil {
			return key, value
		}
	}
	return nil, nil
}

// merges are the values that a mapping merges, in the order in which they count.
func merges(mapping *yaml.Node) (merged []*yaml.Node) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Tag != "!!merge" {
			continue
		}
		value := resolve(mapping.Content[i+1])
		if value.Kind != yaml.SequenceNode {
			merged = append(merged, value)
			continue
		}
		for _, item := range value.Content {
			merged = append(merged, resolve(item))
		}
	}
	return merged
}

func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func invalidUTF8(text []byte) (line, column int) {
	line, column = 1, 1
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r == utf8.RuneError && size == 1 {
			break
		}
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
		text = text[size:]
	}
	return line, column
}
