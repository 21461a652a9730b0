package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kingpin/v2"

	"flyball/rules/convert"
	"flyball/rules/source"
)

// convertOptions are what is converted, and to where.
type convertOptions struct {
	files     []string
	output    string
	namespace string
	convert   func([]convert.Input, convert.Options) (*convert.Result, error)

	stdin          io.Reader
	stdout, stderr io.Writer
}

func convertHPACommand(app *kingpin.Application, stdout, stderr io.Writer) command {
	c := convertParent(app).Command("hpa", "Write a rule file that observes and decides as HorizontalPodAutoscalers do, of the YAML or JSON that kubectl get hpa -o yaml gives.")
	return convertCommand(c, convert.HPA, stdout, stderr)
}

func convertScaledObjectCommand(app *kingpin.Application, stdout, stderr io.Writer) command {
	c := convertParent(app).Command("scaledobject", "Write a rule file that observes and decides as KEDA's ScaledObjects do, of the YAML or JSON that kubectl get scaledobject -o yaml gives.")
	return convertCommand(c, convert.ScaledObject, stdout, stderr)
}

// convertParent is the command `convert`, made once.
func convertParent(app *kingpin.Application) *kingpin.CmdClause {
	if c := app.GetCommand("convert"); c != nil {
		return c
	}
	return app.Command("convert", "Make rules of what scales already; comments say what could not be carried over.")
}

func convertCommand(c *kingpin.CmdClause, how func([]convert.Input, convert.Options) (*convert.Result, error), stdout, stderr io.Writer) command {
	o := &convertOptions{convert: how, stdin: os.Stdin, stdout: stdout, stderr: stderr}
	c.Arg("file", "Files of one or more objects, or a List; - for standard input.").Required().StringsVar(&o.files)
	c.Flag("output", "The file to write. Default: standard output.").Short('o').StringVar(&o.output)
	c.Flag("namespace", "Of objects that name none.").Short('n').Default("default").StringVar(&o.namespace)
	return command{c.FullCommand(), func(context.Context) error { return o.do() }}
}

func (o *convertOptions) do() error {
	var inputs []convert.Input
	for _, name := range o.files {
		in := convert.Input{Name: name}
		var err error
		if name == "-" {
			in.Name = "standard input"
			in.Text, err = source.ReadFrom(in.Name, o.stdin)
		} else {
			in.Text, err = source.Read(name)
		}
		if err != nil {
			return fmt.Errorf("convert: %w", err)
		}
		inputs = append(inputs, in)
		if at, err := os.Stat(o.output); err == nil && o.output != "" {
			if from, err := os.Stat(name); err == nil && os.SameFile(at, from) {
				return exitError{exitUsage, fmt.Errorf("convert: %s is what is converted: give another place with -o", o.output)}
			}
		}
	}
	r, err := o.convert(inputs, convert.Options{Namespace: o.namespace})
	if _, faults := errors.AsType[source.Errors](err); faults {
		return err
	}
	if err != nil {
		return fmt.Errorf("convert: %w", err)
	}
	if o.output == "" {
		_, err = o.stdout.Write(r.Text)
	} else {
		err = os.WriteFile(o.output, r.Text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("convert: %w", err)
	}
	if r.Left > 0 {
		_, err = fmt.Fprintf(o.stderr, "flyball: convert: %s; %s not carried over: see the comments that say so\n", plural(r.Rules, "rule"), plural(r.Left, "thing"))
	}
	return err
}
