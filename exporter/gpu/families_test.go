package gpu

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestFamilies holds the names, which dashboards and alerts elsewhere count on, and that the package's documentation has
// each of them.
func TestFamilies(t *testing.T) {
	var list strings.Builder
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range Families() {
		fmt.Fprintf(&list, "%s %s{%s}\n", f.Type, f.Name, strings.Join(f.Labels, ","))
		if !slices.Contains(strings.Fields(string(doc)), strings.TrimPrefix(f.Name, "flyball_gpu_")) {
			t.Errorf("doc.go does not list %s", f.Name)
		}
		if !strings.HasSuffix(f.Help, ".") || f.Help == "" || f.Collector != "gpu" {
			t.Errorf("%+v: give it a sentence and its collector", f)
		}
	}
	golden(t, "families.txt", list.String())
}
