package exporter

import "reflect"

// Each calls f for every collector that can be switched, in the order of the configuration, with its name and where it
// is switched.
func (c *Collectors) Each(f func(name string, on *bool)) {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		f(v.Type().Field(i).Tag.Get("yaml"), v.Field(i).Addr().Interface().(*bool))
	}
}

// CollectorNames lists every collector that flyball has, switched on or not.
func CollectorNames() []string {
	var names []string
	new(Collectors).Each(func(name string, _ *bool) { names = append(names, name) })
	return names
}
