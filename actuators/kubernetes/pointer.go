package kubernetes

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// pointer is a JSON pointer (RFC 6901), one of whose steps may name an element of a list by a field of its own.
type pointer []step

// step is one step of a pointer.
type step struct {
	field string // of an object; empty where key is not
	key   string // the field that an element of a list is known by
}

// parsePointer reads a pointer; an empty text is none.
func parsePointer(text string) (pointer, error) {
	if text == "" {
		return nil, nil
	}
	if !strings.HasPrefix(text, "/") {
		return nil, fmt.Errorf("%q is not a JSON pointer: give one that begins with '/', such as /spec/replicas", text)
	}
	var p pointer
	for s := range strings.SplitSeq(text[1:], "/") {
		s = strings.NewReplacer("~1", "/", "~0", "~").Replace(s)
		switch {
		case s == "":
			return nil, fmt.Errorf("%q has an empty step", text)
		case strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}") && len(s) > 2:
			if p.key() != "" {
				return nil, fmt.Errorf("%q names elements of two lists: one is all that a target's name has room for", text)
			}
			p = append(p, step{key: s[1 : len(s)-1]})
		default:
			p = append(p, step{field: s})
		}
	}
	if p[len(p)-1].key != "" || p[0].key != "" {
		return nil, fmt.Errorf("%q: {%s} has to be between fields, as in /spec/groups/{name}/replicas", text, p.key())
	}
	return p, nil
}

// key is the field by which the pointer knows an element of a list; empty where it needs none.
func (p pointer) key() string {
	for _, s := range p {
		if s.key != "" {
			return s.key
		}
	}
	return ""
}

// place is where a pointer leads in one object.
type place struct {
	path  string // a JSON pointer of RFC 6901
	guard string // that of the field that tells the element of a list; empty where there is none
	value any    // nil where there is nothing
}

// find follows a pointer through an object. part is the value by which an element of a list is known.
func (p pointer) find(object any, part string) (place, error) {
	at := place{value: object}
	for _, s := range p {
		if s.key == "" {
			at.path += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(s.field)
			fields, _ := at.value.(map[string]any)
			at.value = fields[s.field]
			continue
		}
		list, _ := at.value.([]any)
		found := -1
		var known []string
		for i, element := range list {
			fields, _ := element.(map[string]any)
			name, _ := fields[s.key].(string)
			known = append(known, name)
			if name == part {
				found = i
			}
		}
		if found < 0 {
			return place{}, fmt.Errorf("%s has no %s %q: it has %s", at.path, s.key, part, orNone(known))
		}
		at.path += "/" + strconv.Itoa(found)
		at.guard, at.value = at.path+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(s.key), list[found]
	}
	return at, nil
}

// replicas reads a place as a number of replicas; ok is false where there is nothing.
func (p place) replicas() (n int, ok bool, err error) {
	switch v := p.value.(type) {
	case nil:
		return 0, false, nil
	case int64:
		if v >= 0 && v <= math.MaxInt32 {
			return int(v), true, nil
		}
	case float64:
		if v >= 0 && v <= math.MaxInt32 && v == math.Trunc(v) {
			return int(v), true, nil
		}
	}
	return 0, false, fmt.Errorf("%s is %v, which is no number of replicas", p.path, p.value)
}
