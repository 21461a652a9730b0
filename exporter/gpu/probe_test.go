package gpu

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

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

// TestWhyOptIn: what is published only where it is asked for has that for a reason, whatever the GPUs are.
func TestWhyOptIn(t *testing.T) {
	if why := (Probed{}).Why("flyball_nvml_call_duration_seconds"); !strings.Contains(why, "exporter.gpu.call_durations") {
		t.Errorf("%q", why)
	}
}

// TestMissing: an older version of a symbol is not missing where there is a newer one.
func TestMissing(t *testing.T) {
	p := Probed{Symbols: []Symbol{{"nvmlA", false}, {"nvmlA_v2", true}, {"nvmlB", false}, {"nvmlB_v2", false}, {"nvmlC", true}, {"nvmlD_v3", false}}}
	if got := fmt.Sprint(p.Missing()); got != "[nvmlB nvmlD]" {
		t.Error(got)
	}
}
