package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"flyball/rules"
)

// exportParent is the command `export`, made once.
func exportParent(app *kingpin.Application) *kingpin.CmdClause {
	if c := app.GetCommand("export"); c != nil {
		return c
	}
	return app.Command("export", "Write rule files, or what is known of them, for other programs.")
}

func exportRulesCommand(app *kingpin.Application, stdout io.Writer) command {
	c := exportParent(app).Command("rules", "Write rule files as Prometheus and promtool take them: record and alert rules, and those that slo and budget rules stand for.")
	paths := c.Arg("file", "Rule files.").Required().Strings()
	output := c.Flag("output", "The file to write; of several rule files the folder, for one of the same name each. Default: standard output.").Short('o').String()
	return command{c.FullCommand(), func(context.Context) error { return exportRules(stdout, *paths, *output) }}
}

func exportRules(stdout io.Writer, paths []string, output string) error {
	folder := len(paths) > 1
	if at, err := os.Stat(output); err == nil && at.IsDir() {
		folder = true
	}
	if folder && output == "" {
		return exitError{exitUsage, errors.New("export rules: several files do not go into one: give their folder with -o")}
	}
	reader := newRuleReader(rules.Defaults{EvaluationInterval: 15 * time.Second, ScrapeInterval: 15 * time.Second})
	for _, path := range paths {
		f, err := reader.ReadFile(path)
		if err != nil {
			return err
		}
		text, err := reader.Export(f)
		if err != nil {
			return err
		}
		to := output
		if folder {
			to = filepath.Join(output, filepath.Base(path))
		}
		if err := writeExport(stdout, path, to, text); err != nil {
			return fmt.Errorf("export rules: %w", err)
		}
	}
	return nil
}

func exportSchemaCommand(app *kingpin.Application, stdout io.Writer) command {
	c := exportParent(app).Command("schema", "Write the JSON Schema of rule files, by which editors complete and check them: yaml-language-server takes it with a first line of # yaml-language-server: $schema=FILE.")
	output := c.Flag("output", "The file to write. Default: standard output.").Short('o').String()
	return command{c.FullCommand(), func(context.Context) error { return exportSchema(stdout, *output) }}
}

func exportSchema(stdout io.Writer, output string) error {
	text, err := json.MarshalIndent(rules.Schema(), "", "  ")
	if err != nil {
		return fmt.Errorf("export schema: %w", err)
	}
	text = append(text, '\n')
	if output == "" {
		_, err := stdout.Write(text)
		return err
	}
	if err := os.WriteFile(output, text, 0o644); err != nil {
		return fmt.Errorf("export schema: %w", err)
	}
	return nil
}

// writeExport writes one file, and never over the one that it was made of.
func writeExport(stdout io.Writer, from, to string, text []byte) error {
	if to == "" {
		_, err := stdout.Write(text)
		return err
	}
	source, err := os.Stat(from)
	if err != nil {
		return err
	}
	if at, err := os.Stat(to); err == nil && os.SameFile(source, at) {
		return fmt.Errorf("%s is the rule file itself: give another place with -o", to)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o644)
}
