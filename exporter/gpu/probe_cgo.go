//go:build linux && cgo

package gpu

import "github.com/NVIDIA/go-nvml/pkg/dl"

// lookUp says which of Symbols the library at the path has; nothing where it cannot be loaded. Nothing is called.
func lookUp(path string) (found []Symbol) {
	lib := dl.New(path, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
	if lib.Open() != nil {
		return nil
	}
	for _, name := range Symbols() {
		found = append(found, Symbol{Name: name, Present: lib.Lookup(name) == nil})
	}
	return found
}
