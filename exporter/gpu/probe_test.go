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

// TestWhyOptIn: what is published only where it is asked for has that for a reason, whatever the GPUs are, and what comes of
// something that happens has that.
func TestWhyOptIn(t *testing.T) {
	all := Probed{Symbols: []Symbol{{"nvmlA", true}}}
	for _, tt := range []struct {
		of           Probed
		family, want string
	}{
		{family: "flyball_nvml_call_duration_seconds", want: "exporter.gpu.call_durations"},
		{family: "flyball_gpu_process_memory_bytes", want: "exporter.gpu.processes"},
		{family: "flyball_gpu_process_sm_utilization_ratio", want: "exporter.gpu.processes"},
		{family: "flyball_gpu_process_dropped", want: "exporter.gpu.processes"},
		{family: "flyball_gpu_xid_last_timestamp_seconds", want: "no error"},
		{of: all, family: "flyball_nvml_symbol_missing", want: "every symbol"},
	} {
		if why := tt.of.Why(tt.family); !strings.Contains(why, tt.want) {
			t.Errorf("%s: %q, want %q in it", tt.family, why, tt.want)
		}
	}
	if why := (Probed{}).Why("flyball_nvml_symbol_missing"); why != "" {
		t.Errorf("symbols that nobody looked for: %q", why)
	}
}

// TestFamilyCalls: what is read of a GPU has the calls that tell why it is absent, and they are calls that are made.
func TestFamilyCalls(t *testing.T) {
	methods := reflect.TypeFor[device]()
	for _, f := range readFamilies() {
		calls := familyCalls[strings.TrimPrefix(f.Name, "flyball_gpu_")]
		if len(calls) == 0 && whyOfState[f.Name] == "" && f.Name != infoFamily.Name && f.Name != upFamily.Name {
			t.Errorf("%s: no calls", f.Name)
		}
		for _, call := range calls {
			if _, ok := methods.MethodByName(call); !ok {
				t.Errorf("%s: no call %s", f.Name, call)
			}
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
