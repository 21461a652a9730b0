//go:build !linux || !cgo

package gpu

// lookUp finds nothing: there is no binding to NVML in this binary.
func lookUp(string) []Symbol { return nil }
