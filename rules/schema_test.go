package rules

import (
	"reflect"
	"testing"
)

// TestSchemaKeys: each key of the schema has a description, and nothing else has one.
func TestSchemaKeys(t *testing.T) {
	if Schema() == nil {
		t.Fatal("no schema")
	}
	used := map[string]bool{}
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(at reflect.Type) {
		switch at.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			walk(at.Elem())
		case reflect.Struct:
			if seen[at] {
				return
			}
			seen[at] = true
			for _, key := range yamlKeys(at) {
				name := at.Name() + "." + key.name
				used[name] = true
				if schemaKeys[name].says == "" {
					t.Errorf("%s has no description", name)
				}
				walk(key.field.Type)
			}
		}
	}
	for _, r := range []any{File{}, Record{}, Alert{}, Scale{}, Budget{}, SLO{}, Optimize{}, ForecastRule{}} {
		walk(reflect.TypeOf(r))
	}
	for name := range schemaKeys {
		if !used[name] {
			t.Errorf("%s is no key of a rule file", name)
		}
	}
}
