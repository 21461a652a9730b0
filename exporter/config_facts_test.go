package exporter

import (
	"errors"
	"path/filepath"
	"testing"
)

func TestModelFiles(t *testing.T) {
	abs, err := filepath.Abs("results.json")
	if err != nil {
		t.Fatal(err)
	}
	f := ModelFiles{Files: "models/*.gguf", Accuracy: abs}
	f.SetFilesDirectory("conf")
	if want := (ModelFiles{Files: filepath.Join("conf", "models", "*.gguf"), Accuracy: abs}); f != want {
		t.Errorf("%+v, want %+v", f, want)
	}
	if faults := f.ValidateFiles(); len(faults) > 0 {
		t.Error(faults)
	}
	empty := ModelFiles{}
	empty.SetFilesDirectory("conf")
	if faults := empty.ValidateFiles(); empty != (ModelFiles{}) || len(faults) > 0 {
		t.Errorf("%+v, %v", empty, faults)
	}
	broken := ModelFiles{Files: "models/[a", Accuracy: "a["}
	const want = "files: \"models/[a\" is not a pattern: a [ has no ], or a file's own [ no \\ before it\n" +
		"accuracy: \"a[\" is not a pattern: a [ has no ], or a file's own [ no \\ before it"
	if got := errors.Join(broken.ValidateFiles()...); got == nil || got.Error() != want {
		t.Errorf("%v, want %s", got, want)
	}
}
