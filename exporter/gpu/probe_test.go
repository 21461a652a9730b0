package gpu

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"testing"
)

// TestProbeSymbols: every symbol that the binding looks up is in the list that a probe goes through.
func TestProbeSymbols(t *testing.T) {
	files, err := filepath.Glob("nvml_*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"(nvml[A-Z]\w*)"`).FindAllSubmatch(text, -1) {
			if symbol := string(m[1]); !slices.Contains(Symbols(), symbol) {
				t.Errorf("%s looks up %s, which Symbols has not", name, symbol)
			}
		}
	}
	if !slices.IsSorted(Symbols()) {
		t.Error("Symbols is not sorted")
	}
}

// TestProbeArguments: a probe makes every call of a device.
func TestProbeArguments(t *testing.T) {
	methods := reflect.TypeFor[device]()
	for i := range methods.NumMethod() {
		m := methods.Method(i)
		given := probeArguments[m.Name]
		if len(given) != m.Type.NumIn() {
			t.Errorf("%s takes %d arguments, probeArguments has %d for it", m.Name, m.Type.NumIn(), len(given))
			continue
		}
		for j, a := range given {
			if want := m.Type.In(j); reflect.TypeOf(a) != want {
				t.Errorf("%s: argument %d is %T, want %s", m.Name, j, a, want)
			}
		}
		if m.Type.NumOut() == 0 || m.Type.Out(m.Type.NumOut()-1) != reflect.TypeFor[error]() {
			t.Errorf("%s returns no error last", m.Name)
		}
	}
}

// TestMissing: an older version of a symbol is not missing where there is a newer one.
func TestMissing(t *testing.T) {
	p := Probed{Symbols: []Symbol{{"nvmlA", false}, {"nvmlA_v2", true}, {"nvmlB", false}, {"nvmlB_v2", false}, {"nvmlC", true}, {"nvmlD_v3", false}}}
	if got := fmt.Sprint(p.Missing()); got != "[nvmlB nvmlD]" {
		t.Error(got)
	}
}
