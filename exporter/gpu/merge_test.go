package gpu

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fill sets every exported field that v has to something.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1, 0)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(1)
	case reflect.Uint64:
		v.SetUint(1)
	case reflect.Float64:
		v.SetFloat(1)
	default:
		panic(v.Kind())
	}
}

// TestMerge: every value of a GPU is of one tier. What was not read holds as it was, what was read and is gone is gone.
func TestMerge(t *testing.T) {
	// The fields of which something is kept where just the fast values, or those and the slow ones, were read. A field
	// that is not here is read every time, or is no reading.
	slow := map[string]bool{
		"MIGMode": true, "PowerLimit": true, "Threshold": true, "FanSpeed": true, "ECC": true, "RemappedRows": true, "RowRemapPending": true,
		"RowRemapFailure": true, "RetiredPages": true, "RecoveryAction": true, "PCIe": true, "NVLink": true, "Instances": true,
	}
	static := map[string]bool{"Vendor": true, "Name": true, "PCIBusID": true, "Serial": true, "VBIOS": true, "Arch": true, "ClockMax": true}
	processes := map[string]bool{"Processes": true, "ProcessesDropped": true}
	var full Device
	fill(reflect.ValueOf(&full).Elem())
	for _, tt := range []struct {
		name string
		read tiers
		kept func(field string) bool
	}{
		{"fast", tierFast, func(f string) bool { return slow[f] || static[f] || processes[f] }},
		{"fast and slow", tierFast | tierSlow, func(f string) bool { return static[f] || processes[f] }},
		{"fast and static", tierFast | tierStatic, func(f string) bool { return slow[f] || processes[f] }},
		{"all", tierFast | tierSlow | tierStatic | tierProcesses, func(string) bool { return false }},
	} {
		got := reflect.ValueOf(merge(full, Device{}, tt.read))
		for i := range got.NumField() {
			field := got.Type().Field(i).Name
			if kept := !got.Field(i).IsZero(); kept != tt.kept(field) {
				t.Errorf("%s were read: %s kept: %v", tt.name, field, kept)
			}
		}
	}
	got := merge(full, Device{PCIe: &PCIe{Transmitted: new(uint64(7))}, Name: "y"}, tierFast)
	if *got.PCIe.Transmitted != 7 || got.PCIe.Received != nil || *got.PCIe.Replays != 1 || got.PCIe.Width["x"] != 1 || got.Name != "y" {
		t.Errorf("PCIe %+v, name %s", got.PCIe, got.Name)
	}
	if diff := cmp.Diff(Device{Index: 3}, merge(Device{}, Device{Index: 3}, tierFast)); diff != "" {
		t.Errorf("merged with nothing (-want +got):\n%s", diff)
	}
}
