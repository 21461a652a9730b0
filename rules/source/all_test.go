package source

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestParseAll: every document is read, each fault is told where it is in the whole text, and what is empty is no document.
func TestParseAll(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{"# nothing\n", ""},
		{"a: 1\n", "1: a=1"},
		{"---\na: 1\n---\n# nothing\n---\n\n---\na: 2\n...\n", "2: a=1\n8: a=2"},
		{"--- {a: 1}\n--- {a: x}\n", "1: a=1\nf:2:9: a: \"x\" is not a whole number"},
		{"{\n\t\"a\": 1\n}\n", "1: a=1"},
		{"a: 1\n---\na: [\n", "f:3:1: YAML: did not find expected node content"},
		{"\ufeffa: |\n  x\n  ---\n  y\n", "f:2:3: a: \"x\\n---\\ny\\n\" is not a whole number"},
		{strings.Repeat("---\na: 1\n", maxDocuments+1), fmt.Sprintf("f:%d:1: more than %d documents", 2*maxDocuments+1, maxDocuments)},
	} {
		var got []string
		all, err := ParseAll("f", []byte(tt.text))
		if err != nil {
			got = append(got, err.(Errors)[0].Error()) //nolint:errorlint,forcetypeassert // as promised
		}
		for _, f := range all {
			var v struct {
				A int `yaml:"a"`
			}
			d := f.Decoder()
			d.Decode(&v)
			if err := d.Err(); err != nil {
				got = append(got, err.(Errors)[0].Error()) //nolint:errorlint,forcetypeassert // as promised
				continue
			}
			got = append(got, fmt.Sprintf("%d: a=%d", f.Line(""), v.A))
		}
		if diff := cmp.Diff(tt.want, strings.Join(got, "\n")); diff != "" {
			t.Errorf("%.60q: %s", tt.text, diff)
		}
	}
}
