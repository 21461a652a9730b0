package source

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAt(t *testing.T) {
	text := []byte("one\n\ttwö three\r\nfour")
	for _, tt := range []struct {
		name   string
		offset int
		want   string
	}{
		{"first byte", 0, "f:1:1: x\n    1 | one\n      | ^"},
		{"behind a rune of two bytes and a tab", 10, "f:2:6: x\n    2 |  twö three\n      |      ^"},
		{"last byte", 20, "f:3:4: x\n    3 | four\n      |    ^"},
		{"behind the end", 99, "f:3:5: x\n    3 | four\n      |     ^"},
		{"before the beginning", -1, "f:1:1: x\n    1 | one\n      | ^"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, At("f", text, tt.offset, "%s", "x").Show()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
