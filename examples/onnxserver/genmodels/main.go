// Genmodels writes the models of package models as ONNX files. The same version writes the same bytes.
//
//	go run ./genmodels DIR
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"flyball/onnxserver/models"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "genmodels:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("give the folder to write to")
	}
	if err := os.MkdirAll(args[0], 0o755); err != nil {
		return err
	}
	for _, m := range models.All() {
		path, data := filepath.Join(args[0], m.Name+".onnx"), m.ONNX()
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
		fmt.Printf("%s\t%.1f MB\n", path, float64(len(data))/1e6)
	}
	return nil
}
