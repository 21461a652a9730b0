package exporter

import (
	"fmt"
	"path/filepath"
)

// Textfile is where other programs leave metrics in files.
type Textfile struct {
	Directory string `yaml:"directory"` // its files *.prom are published; empty for none
}

func (t Textfile) validate() error {
	if t.Directory != "" && !filepath.IsAbs(t.Directory) {
		return fmt.Errorf("textfile.directory: %q depends on where flyball is started: give an absolute path, such as /var/lib/node_exporter/textfile", t.Directory)
	}
	return nil
}
