package source

import (
	"encoding"
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"gopkg.in/yaml.v3"
)

// Decoder turns a File into values and collects what is wrong with it. It decodes into structs by their yaml tags
// (`yaml:"name"`, `yaml:",inline"`, `yaml:"-"`), pointers, slices, maps with string keys, strings, numbers and booleans,
// *yaml.Node as it is, and types that decode themselves: NodeDecoder, yaml.Unmarshaler, encoding.TextUnmarshaler.
type Decoder struct {
	file   *File
	faults Errors

	within  map[*yaml.Node]bool // the anchors whose aliases are being followed
	aliased int                 // values decoded so far inside of aliases
}

// NodeDecoder is a type that decodes itself and reports its faults to the decoder.
type NodeDecoder interface {
	DecodeNode(d *Decoder, n *yaml.Node, path string)
}

// Shorthand is a struct that may be written as a single value too.
type Shorthand interface {
	// Shorthand returns a pointer to the field that the value is for.
	Shorthand() any
}

// Defaulter is a struct that has values of its own for the keys that a file leaves out. It is called before the struct
// is decoded, so that items of lists and maps have their defaults too.
type Defaulter interface{ SetDefaults() }

// Limits, so that a small file whose aliases refer to each other cannot become a large one: how deep values may nest,
// how many values aliases may stand for, and how many faults are worth telling.
const (
	maxDepth   = 64
	maxAliased = 40_000
	maxFaults  = 200
	maxMessage = 2000 // bytes: it may quote what is wrong
)

// Decoder returns a decoder of the file with no faults yet.
func (f *File) Decoder() *Decoder { return &Decoder{file: f, within: map[*yaml.Node]bool{}} }

// Decode decodes the whole file into what v points to. An empty file leaves v as it is.
func (d *Decoder) Decode(v any) {
	if d.file.root != nil {
		d.DecodeNode(d.file.root, "", v)
	}
}

// DecodeNode decodes one node, which is at path, into what v points to.
func (d *Decoder) DecodeNode(n *yaml.Node, path string, v any) {
	d.value(n, path, reflect.ValueOf(v).Elem(), 0)
}

// Fault notes a fault at a node.
func (d *Decoder) Fault(n *yaml.Node, format string, args ...any) {
	if d.Full() {
		return
	}
	line, column := d.file.place(n, 0)
	d.add(d.file.errorAt(line, column, fmt.Sprintf(format, args...)))
}

// add notes a fault, unless there is one at the same place already: what follows from it helps nobody.
func (d *Decoder) add(e *Error) {
	if len(d.faults) >= maxFaults || e.Line > 0 && slices.ContainsFunc(d.faults, func(o *Error) bool {
		return o.Line == e.Line && o.Column == e.Column
	}) {
		return
	}
	if len(e.Message) > maxMessage {
		e.Message = strings.ToValidUTF8(e.Message[:maxMessage], "") + "..."
	}
	d.faults = append(d.faults, e)
}

// FaultAt notes a fault at a path, offset bytes into its value.
func (d *Decoder) FaultAt(path string, offset int, format string, args ...any) {
	if d.Full() {
		return
	}
	message := fmt.Sprintf(format, args...)
	key, value, whole := d.file.find(path)
	if value == nil {
		d.add(&Error{File: d.file.Name, Message: message})
		return
	}
	n := resolve(value)
	if (!whole || n.Kind != yaml.ScalarNode) && key != nil {
		n = key // a fault of a mapping or a list as a whole is shown at its name
	}
	line, column := d.file.place(n, offset)
	d.add(d.file.errorAt(line, column, message))
}

// Faults notes the faults that a Validate found: an error, perhaps joined by errors.Join, whose every text begins with
// the path of what is at fault, a colon and a space. The paths are below prefix.
func (d *Decoder) Faults(prefix string, err error) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			d.Faults(prefix, e)
		}
		return
	}
	path, message, found := strings.Cut(err.Error(), ": ")
	if !found || strings.ContainsAny(path, " \t\n") {
		d.FaultAt(prefix, 0, "%s", err.Error())
		return
	}
	d.FaultAt(join(prefix, path), 0, "%s: %s", path, message)
}

// Err returns what was found, of type Errors, or nil.
func (d *Decoder) Err() error {
	if len(d.faults) == 0 {
		return nil
	}
	d.faults.sort()
	return d.faults
}

// Full says that no more faults are told: there are very many.
func (d *Decoder) Full() bool { return len(d.faults) >= maxFaults }

// Len is the number of faults so far.
func (d *Decoder) Len() int { return len(d.faults) }

// Has says whether the file has a value at path.
func (d *Decoder) Has(path string) bool {
	_, _, whole := d.file.find(path)
	return whole && d.file.root != nil
}

func join(path, name string) string {
	if path == "" || name == "" || strings.HasPrefix(name, "[") {
		return path + name
	}
	return path + "." + name
}

var (
	nodeType            = reflect.TypeFor[*yaml.Node]()
	textUnmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
	durationType        = reflect.TypeFor[model.Duration]()
)

// oldUnmarshaler is the interface of yaml.v2, which model.Duration and others have; yaml.v3 still calls it.
type oldUnmarshaler interface{ UnmarshalYAML(func(any) error) error }

func (d *Decoder) value(n *yaml.Node, path string, v reflect.Value, depth int) {
	if n.Kind == yaml.AliasNode {
		anchor := n.Alias
		if d.within[anchor] {
			d.Fault(n, "alias *%s is inside of what it stands for", n.Value)
			return
		}
		d.within[anchor] = true
		defer delete(d.within, anchor)
		n = anchor
	}
	if len(d.within) > 0 {
		if d.aliased++; d.aliased >= maxAliased {
			if d.aliased == maxAliased {
				d.Fault(n, "aliases that stand for more than %d values", maxAliased)
			}
			return
		}
	}
	if depth > maxDepth {
		d.Fault(n, "nested more than %d deep", maxDepth)
		return
	}
	if v.Type() == nodeType {
		v.Set(reflect.ValueOf(d.plain(n, depth)))
		return
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(n, path, v.Elem(), depth+1)
		return
	}
	if v.CanAddr() {
		switch target := v.Addr().Interface().(type) {
		case NodeDecoder:
			target.DecodeNode(d, n, path)
			return
		case yaml.Unmarshaler, oldUnmarshaler:
			d.leaf(n, path, v)
			return
		}
		if v.Addr().Type().Implements(textUnmarshalerType) {
			d.leaf(n, path, v)
			return
		}
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // a key without a value is the default
	}
	switch v.Kind() {
	case reflect.Struct:
		if v.CanAddr() {
			if s, ok := reflect.TypeAssert[Defaulter](v.Addr()); ok {
				s.SetDefaults()
			}
			if s, ok := reflect.TypeAssert[Shorthand](v.Addr()); ok && n.Kind == yaml.ScalarNode {
				d.value(n, path, reflect.ValueOf(s.Shorthand()).Elem(), depth+1)
				return
			}
		}
		d.mapping(n, path, v, depth)
	case reflect.Map:
		d.table(n, path, v, depth)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.Fault(n, "%s is %s: expected a list", name(path), describe(n))
			return
		}
		list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, item := range n.Content {
			d.value(item, fmt.Sprintf("%s[%d]", path, i), list.Index(i), depth+1)
		}
		v.Set(list)
	default:
		d.scalar(n, path, v)
	}
}

// plain is a copy of a node that needs nothing outside of it: aliases are replaced by what they stand for.
func (d *Decoder) plain(n *yaml.Node, depth int) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
		d.aliased++
	}
	if depth > maxDepth || d.aliased > maxAliased {
		d.Fault(n, "aliases nested more than %d deep, or that stand for more than %d values", maxDepth, maxAliased)
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	}
	copied := *n
	copied.Anchor, copied.Content = "", make([]*yaml.Node, len(n.Content))
	for i, c := range n.Content {
		if depth > 0 && len(d.within) > 0 {
			d.aliased++
		}
		copied.Content[i] = d.plain(c, depth+1)
	}
	return &copied
}

// mapping decodes into a struct.
func (d *Decoder) mapping(n *yaml.Node, path string, v reflect.Value, depth int) {
	if n.Kind != yaml.MappingNode {
		d.Fault(n, "%s is %s: expected keys and values", name(path), describe(n))
		return
	}
	fields := map[string]reflect.Value{}
	var known []string
	collect(v, fields, &known)
	d.entries(n, path, func(key, value *yaml.Node, path string) {
		field, ok := fields[key.Value]
		if !ok && !d.Full() {
			d.Fault(key, "unknown key %q%s", key.Value, d.hint(key.Value, known))
		}
		if !ok {
			return
		}
		d.value(value, path, field, depth+1)
	})
}

// table decodes into a map with string keys.
func (d *Decoder) table(n *yaml.Node, path string, v reflect.Value, depth int) {
	if n.Kind != yaml.MappingNode {
		d.Fault(n, "%s is %s: expected names and values", name(path), describe(n))
		return
	}
	if v.IsNil() {
		v.Set(reflect.MakeMapWithSize(v.Type(), len(n.Content)/2))
	}
	d.entries(n, path, func(key, value *yaml.Node, path string) {
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(value, path, item, depth+1)
		v.SetMapIndex(reflect.ValueOf(key.Value).Convert(v.Type().Key()), item)
	})
}

// Entries calls f for each entry of a mapping and what it merges, in the order in which they count; faults of the keys are
// told where the mapping is decoded.
func (d *Decoder) Entries(n *yaml.Node, f func(key string, value *yaml.Node)) {
	quiet := &Decoder{file: d.file, within: d.within}
	quiet.entries(n, "", func(key, value *yaml.Node, _ string) { f(key.Value, value) })
}

// entries calls f for each entry of a mapping; a key that comes twice is a fault, the merge key << is followed. A key
// that is null stands for nothing.
func (d *Decoder) entries(n *yaml.Node, path string, f func(key, value *yaml.Node, path string)) {
	seen := map[string]*yaml.Node{}
	d.own(n, seen, func(key, value *yaml.Node) { f(key, value, join(path, key.Value)) })
	d.merged(n, seen, map[*yaml.Node]bool{n: true}, func(key, value *yaml.Node) { f(key, value, join(path, key.Value)) })
}

// own calls f for the entries of a mapping itself that are not seen yet.
func (d *Decoder) own(n *yaml.Node, seen map[string]*yaml.Node, f func(key, value *yaml.Node)) {
	before := maps.Clone(seen)
	for i := 0; i+1 < len(n.Content) && !d.Full(); i += 2 {
		key, value := resolve(n.Content[i]), n.Content[i+1]
		switch {
		case key.Tag == "!!merge":
			continue
		case key.Kind != yaml.ScalarNode:
			d.Fault(n.Content[i], "a key that is not a plain name")
			continue
		case key.Tag == "!!null" || before[key.Value] != nil:
			continue
		}
		if first := seen[key.Value]; first != nil && n.Content[i].Kind == yaml.ScalarNode {
			d.Fault(key, "key %q is given twice, first on line %d", key.Value, first.Line)
			continue
		}
		seen[key.Value] = key
		f(key, value)
	}
}

// merged calls f for the entries that a mapping merges, which may merge others in turn. One that is merged twice adds nothing
// the second time.
func (d *Decoder) merged(n *yaml.Node, seen map[string]*yaml.Node, visited map[*yaml.Node]bool, f func(key, value *yaml.Node)) {
	for _, m := range merges(n) {
		switch {
		case m.Kind != yaml.MappingNode:
			d.Fault(n, "<< takes a mapping")
		case !visited[m]:
			visited[m] = true
			d.own(m, seen, f)
			d.merged(m, seen, visited, f)
		}
	}
}

// leaf decodes by the type's own unmarshaler.
func (d *Decoder) leaf(n *yaml.Node, path string, v reflect.Value) {
	err := n.Decode(v.Addr().Interface())
	if err == nil {
		return
	}
	key := path[strings.LastIndexByte(path, '.')+1:]
	if v.Type() == durationType {
		d.Fault(n, "%s: %q is not a duration: expected one such as 15s, 5m or 1h30m", key, n.Value)
		return
	}
	d.Fault(n, "%s: %q: %s", key, n.Value, plain(err))
}

func (d *Decoder) scalar(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.Fault(n, "%s is %s: expected %s", name(path), describe(n), expected(v.Kind()))
		return
	}
	switch v.Kind() {
	case reflect.String:
		if n.Tag != "!!binary" {
			v.SetString(n.Value)
			return
		}
		text, err := base64.StdEncoding.DecodeString(n.Value)
		if err != nil {
			d.Fault(n, "%s: not base64, which !!binary takes", name(path))
			return
		}
		v.SetString(string(text))
	case reflect.Bool:
		b, err := strconv.ParseBool(n.Value)
		if err != nil || n.Tag != "!!bool" {
			d.Fault(n, "%s: %q is not true or false", name(path), n.Value)
			return
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int64, reflect.Int32:
		var i int64
		if n.Tag != "!!int" || n.Decode(&i) != nil || v.OverflowInt(i) {
			d.Fault(n, "%s: %q is not a whole number", name(path), n.Value)
			return
		}
		v.SetInt(i)
	case reflect.Float64:
		var f float64
		if n.Tag != "!!int" && n.Tag != "!!float" || n.Decode(&f) != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			d.Fault(n, "%s: %q is not a number", name(path), n.Value)
			return
		}
		v.SetFloat(f)
	default:
		panic(fmt.Sprintf("source: cannot decode into %s at %s", v.Type(), path))
	}
}

// hint names the key that was probably meant, or all of them when none is close.
func (d *Decoder) hint(word string, known []string) string {
	if s := DidYouMean(word, known); s != "" {
		return s
	}
	known = slices.Sorted(slices.Values(known))
	return ": expected one of " + strings.Join(known, ", ")
}

// collect lists the fields of a struct by their name in YAML.
func collect(v reflect.Value, fields map[string]reflect.Value, known *[]string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case options == "inline":
			collect(v.Field(i), fields, known)
		case tag == "-" || !f.IsExported():
		case tag == "":
			panic(fmt.Sprintf("source: %s.%s has no yaml tag", v.Type(), f.Name))
		default:
			fields[tag] = v.Field(i)
			*known = append(*known, tag)
		}
	}
}

// plain is an unmarshaler's error without what only a programmer wants to know.
func plain(err error) string {
	text := strings.TrimPrefix(err.Error(), "yaml: unmarshal errors:\n")
	text = strings.TrimSpace(strings.TrimPrefix(text, "yaml: "))
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if _, after, found := strings.Cut(rest, ": "); found {
			text = after
		}
	}
	if strings.HasPrefix(text, "cannot unmarshal ") {
		return "not a value that fits here"
	}
	return text
}

func name(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.Tag == "!!null" {
		return "empty"
	}
	return strconv.Quote(n.Value)
}

func expected(k reflect.Kind) string {
	switch k {
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "a whole number"
	}
	return "a text"
}
