//go:build !linux || !cgo

package gpu

import "runtime"

// open finds no library. The collector starts no worker in this build; this is for one that is started by hand.
func open(opening) (library, string, error) {
	return nil, "", &absentError{tried: []string{unbound()}}
}

// unbound says why this binary cannot call NVML.
func unbound() string {
	if runtime.GOOS != "linux" {
		return "the binding to NVML is for Linux only"
	}
	return "this binary was built without cgo, which the binding to NVML needs"
}
