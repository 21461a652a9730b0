package remote

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	promconfig "github.com/prometheus/common/config"
	"gopkg.in/yaml.v3"

	"flyball/rules/source"
)

// DecodeNode decodes a mapping in which our own keys stand beside those of Prometheus's http client, and notes every key
// that neither knows.
func (c *Config) DecodeNode(d *source.Decoder, n *yaml.Node, path string) {
	type own Config // without this method
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	var whole *yaml.Node
	d.DecodeNode(n, path, &whole) // aliases filled in
	if whole.Kind != yaml.MappingNode {
		d.Fault(n, "%s: expected keys and values, such as url: http://prometheus:9090", path)
		return
	}
	ours, client := fields(reflect.TypeFor[own]()), fields(reflect.TypeFor[promconfig.HTTPClientConfig]())
	mine := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: whole.Line, Column: whole.Column}
	seen := map[string]bool{}
	for key, value := range entries(whole) {
		_, isOurs := ours[key.Value]
		t, isClient := client[key.Value]
		switch {
		case isOurs:
			mine.Content = append(mine.Content, key, value)
		case !isClient:
			d.Fault(key, "unknown key %q%s", key.Value, source.DidYouMean(key.Value, append(names(ours), names(client)...)))
		case seen[key.Value]:
			d.Fault(key, "key %q is given twice", key.Value)
		default:
			before := d.Len()
			checkKeys(d, value, t)
			if d.Len() == before {
				c.decodeClient(d, key, value)
			}
		}
		seen[key.Value] = true
	}
	d.DecodeNode(mine, path, (*own)(c))
}

// DecodeNode takes one text or a list of them.
func (v *Values) DecodeNode(d *source.Decoder, n *yaml.Node, path string) {
	if n.Kind == yaml.ScalarNode {
		*v = Values{n.Value}
		return
	}
	var list []string
	d.DecodeNode(n, path, &list)
	*v = list
}

// decodeClient decodes one key of Prometheus's http client. Keys come one at a time, so that each fault has its place.
func (c *Config) decodeClient(d *source.Decoder, key, value *yaml.Node) {
	type plain promconfig.HTTPClientConfig // the whole validates itself too early
	one := yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{key, value}}
	if err := one.Decode((*plain)(&c.HTTP)); err != nil {
		// A value may be a password: the library's text would show it.
		text := yamlValue.ReplaceAllString(strings.TrimPrefix(err.Error(), "yaml: "), "")
		text = strings.TrimPrefix(text, "unmarshal errors:\n  ")
		text = yamlLine.ReplaceAllString(text, "")
		if strings.Contains(text, "cannot unmarshal") {
			text = "it is not of the kind that belongs here"
		}
		d.Fault(value, "%s: %s", key.Value, text)
	}
}

var (
	yamlLine  = regexp.MustCompile(`line \d+: `)
	yamlValue = regexp.MustCompile("`[^`]*`")
)

// checkKeys notes the keys below n that the type does not have.
func checkKeys(d *source.Decoder, n *yaml.Node, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.Kind != yaml.MappingNode || t == reflect.TypeFor[promconfig.URL]() {
		return // the decoder says what is wrong with it
	}
	switch t.Kind() {
	case reflect.Map:
		for _, value := range entries(n) {
			checkKeys(d, value, t.Elem())
		}
	case reflect.Struct:
		known := fields(t)
		seen := map[string]bool{}
		for key, value := range entries(n) {
			of, ok := known[key.Value]
			if each, open := known["*"]; !ok && open {
				of, ok = each, true
			}
			switch {
			case !ok:
				d.Fault(key, "unknown key %q%s", key.Value, expected(key.Value, names(known)))
			case seen[key.Value]:
				d.Fault(key, "key %q is given twice", key.Value)
			default:
				checkKeys(d, value, of)
			}
			seen[key.Value] = true
		}
	}
}

// expected names the key that was probably meant, or all of them.
func expected(word string, known []string) string {
	if s := source.DidYouMean(word, known); s != "" {
		return s
	}
	return ": expected one of " + strings.Join(known, ", ")
}

// fields are the YAML keys of a struct and their types; "*" stands for any other where it takes such.
func fields(t reflect.Type) map[string]reflect.Type {
	all := map[string]reflect.Type{}
	for f := range t.Fields() {
		tag, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case options == "inline" && f.Type.Kind() == reflect.Map:
			all["*"] = f.Type.Elem()
		case options == "inline":
			maps.Copy(all, fields(f.Type))
		case tag != "" && tag != "-" && f.IsExported():
			all[tag] = f.Type
		}
	}
	return all
}

func names(fields map[string]reflect.Type) []string {
	var all []string
	for name := range fields {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// entries ranges over a mapping, then over what it merges (<<) and has not itself.
func entries(n *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		has := map[string]bool{}
		var merged []*yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if key.Tag == "!!merge" {
				if value.Kind == yaml.SequenceNode {
					merged = append(merged, value.Content...)
				} else {
					merged = append(merged, value)
				}
				continue
			}
			has[key.Value] = true
			if !yield(key, value) {
				return
			}
		}
		for _, m := range merged {
			for i := 0; i+1 < len(m.Content); i += 2 {
				if key := m.Content[i]; !has[key.Value] {
					has[key.Value] = true
					if !yield(key, m.Content[i+1]) {
						return
					}
				}
			}
		}
	}
}
