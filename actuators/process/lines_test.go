package process

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestLines(t *testing.T) {
	long := strings.Repeat("x", 3*maxLine)
	for _, tt := range []struct {
		name   string
		writes []string
		want   []string
		last   string
	}{
		{name: "nothing"},
		{name: "one", writes: []string{"a\n"}, want: []string{"a"}, last: "a"},
		{name: "pieces", writes: []string{"a", "b\nc", "\n"}, want: []string{"ab", "c"}, last: "c"},
		{name: "no end", writes: []string{"a\nb"}, want: []string{"a", "b"}, last: "b"},
		{name: "blank", writes: []string{"a\n\n \r\n"}, want: []string{"a"}, last: "a"},
		{name: "carriage return", writes: []string{"a\r\n"}, want: []string{"a"}, last: "a"},
		{name: "long", writes: []string{long + "\nb\n"}, want: []string{long[:maxLine], "b"}, last: "b"},
		{name: "long in pieces", writes: []string{long, long, "\n"}, want: []string{long[:maxLine]}, last: long[:maxLine]},
		{name: "not UTF-8", writes: []string{"a\xff\n"}, want: []string{"a\uFFFD"}, last: "a\uFFFD"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			l := lines{emit: func(line string) { got = append(got, line) }}
			for _, s := range tt.writes {
				if n, err := l.Write([]byte(s)); n != len(s) || err != nil {
					t.Errorf("wrote %d, %v; want %d", n, err, len(s))
				}
			}
			if last := l.last(); last != tt.last {
				t.Errorf("last %q, want %q", last, tt.last)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb\r\n\n"), []byte("c"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		l := lines{emit: func(line string) {
			// A byte that is not UTF-8 becomes three.
			if len(line) > 3*maxLine || strings.Contains(line, "\n") || !utf8.ValidString(line) {
				t.Errorf("bad line %q", line)
			}
		}}
		l.Write(a)
		l.Write(b)
		l.last()
	})
}
