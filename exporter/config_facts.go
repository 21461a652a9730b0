package exporter

import (
	"fmt"
	"path/filepath"
)

// ModelFiles is what there is of a model server on the disk: keys of model_servers[].
type ModelFiles struct {
	// Files are those of the model's weights: a file, a folder as Hugging Face's libraries write it, or a pattern; for its size,
	// parameters and precision. Empty where they are not on this machine.
	Files string `yaml:"files"`
	// Accuracy are results of evaluations of it: a file, a folder or a pattern; of lm-evaluation-harness or plain YAML.
	Accuracy string `yaml:"accuracy"`
}

// SetFilesDirectory makes the paths relative to the folder of the configuration file.
func (f *ModelFiles) SetFilesDirectory(dir string) {
	for _, path := range []*string{&f.Files, &f.Accuracy} {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(dir, *path)
		}
	}
}

// ValidateFiles returns all that is wrong, each fault beginning with the field. Files that are not there are none: they may come later.
func (f *ModelFiles) ValidateFiles() []error {
	var faults []error
	for _, field := range []struct{ name, path string }{{"files", f.Files}, {"accuracy", f.Accuracy}} {
		if _, err := filepath.Match(field.path, ""); err != nil {
			faults = append(faults, fmt.Errorf("%s: %q is not a pattern: a [ has no ], or a file's own [ no \\ before it", field.name, field.path))
		}
	}
	return faults
}
