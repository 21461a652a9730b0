package rules

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
)

// Schema is the JSON Schema (draft 2020-12) of rule files: every key with what it says, what it may be and what must be there.
// Editors complete and check rule files by it. It is made of the types of this package; schemaKeys adds what those do not say.
// The Reader refuses more: names that nothing has, PromQL with a fault, bounds that contradict each other.
func Schema() map[string]any {
	b := schemaBuilder{definitions: map[string]any{
		"duration": map[string]any{
			"description": "A duration, such as 15s, 5m or 1h30m.",
			"anyOf": []any{
				map[string]any{"type": "string", "pattern": durationPattern},
				map[string]any{"const": 0},
			},
		},
		"text":   map[string]any{"type": []string{"string", "number", "boolean"}},
		"number": map[string]any{"description": "A number, or an expression of the rule's queries.", "type": []string{"string", "number"}},
	}}
	var kinds []any
	for _, t := range []reflect.Type{
		reflect.TypeFor[Record](), reflect.TypeFor[Alert](), reflect.TypeFor[Scale](), reflect.TypeFor[Budget](), reflect.TypeFor[SLO](),
		reflect.TypeFor[Optimize](), reflect.TypeFor[ForecastRule](),
	} {
		kinds = append(kinds, b.of(t))
	}
	b.definitions["Rule"] = map[string]any{"description": "A rule of one kind, which its first key says.", "oneOf": kinds}
	root := b.object(reflect.TypeFor[File]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "flyball rule file"
	root["description"] = "Prometheus's rule file, with rules that decide beside record and alert rules."
	root["$defs"] = b.definitions
	return root
}

const durationPattern = `^(0|([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$`

// schemaKey is what a type does not say of a key.
type schemaKey struct {
	says     string
	required bool
	with     map[string]any // further keywords
}

type schemaBuilder struct {
	definitions map[string]any // by the names of types
}

// of is the schema of a type: of a struct a reference to its definition.
func (b *schemaBuilder) of(t reflect.Type) map[string]any {
	reference := func(name string) map[string]any { return map[string]any{"$ref": "#/$defs/" + name} }
	switch t {
	case reflect.TypeFor[model.Duration]():
		return reference("duration")
	case reflect.TypeFor[Startup]():
		return map[string]any{"anyOf": []any{map[string]any{"const": "auto"}, reference("duration")}}
	case reflect.TypeFor[Seasons]():
		return map[string]any{"anyOf": []any{
			map[string]any{"enum": []any{"auto", "none"}}, map[string]any{"type": "array", "items": reference("duration")},
		}}
	case reflect.TypeFor[Anomalies]():
		if _, known := b.definitions[t.Name()]; !known {
			b.definitions[t.Name()] = b.object(t)
		}
		return map[string]any{"anyOf": []any{map[string]any{"type": "boolean"}, reference(t.Name())}}
	case reflect.TypeFor[Limit]():
		return map[string]any{"type": "number"}
	case reflect.TypeFor[Rule]():
		return reference("Rule")
	}
	switch t.Kind() {
	case reflect.Pointer:
		return b.of(t.Elem())
	case reflect.Slice:
		return map[string]any{"type": "array", "items": b.of(t.Elem())}
	case reflect.Map:
		if t.Elem().Kind() == reflect.String {
			return map[string]any{"type": "object", "additionalProperties": reference("text")}
		}
		return map[string]any{"type": "object", "additionalProperties": b.of(t.Elem())}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int:
		return map[string]any{"type": "integer"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Struct:
		if _, known := b.definitions[t.Name()]; !known {
			b.definitions[t.Name()] = nil // for a type that is within itself
			b.definitions[t.Name()] = b.object(t)
		}
		return reference(t.Name())
	}
	panic(fmt.Sprintf("rules: %s has no schema", t))
}

// object is the schema of a struct.
func (b *schemaBuilder) object(t reflect.Type) map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, key := range yamlKeys(t) {
		property := b.of(key.field.Type)
		k := schemaKeys[t.Name()+"."+key.name]
		property["description"] = k.says
		for keyword, v := range k.with {
			if keyword == "$ref" || keyword == "enum" {
				delete(property, "type")
			}
			property[keyword] = v
		}
		if k.required {
			required = append(required, key.name)
		}
		properties[key.name] = property
	}
	object := map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		slices.Sort(required)
		object["required"] = required
	}
	switch t {
	case reflect.TypeFor[Scale]():
		object["anyOf"] = []any{
			map[string]any{"required": []string{"target", "max"}}, map[string]any{"required": []string{"variants"}},
		}
	case reflect.TypeFor[Query]():
		return map[string]any{"anyOf": []any{map[string]any{"type": []string{"string", "number"}, "description": "PromQL."}, object}}
	}
	return object
}

type yamlKey struct {
	name  string
	field reflect.StructField
}

// yamlKeys are the keys of a struct in a file.
func yamlKeys(t reflect.Type) (keys []yamlKey) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name != "" && name != "-" && f.IsExported() {
			keys = append(keys, yamlKey{name, f})
		}
	}
	return keys
}

func oneOfThese(values ...string) map[string]any { return map[string]any{"enum": values} }

func defined(name string) map[string]any { return map[string]any{"$ref": "#/$defs/" + name} }

func from(least float64) map[string]any { return map[string]any{"minimum": least} }

func above(bound float64) map[string]any { return map[string]any{"exclusiveMinimum": bound} }

func ratio() map[string]any { return map[string]any{"minimum": 0, "maximum": 1} }

func share() map[string]any { return map[string]any{"exclusiveMinimum": 0, "exclusiveMaximum": 1} }
