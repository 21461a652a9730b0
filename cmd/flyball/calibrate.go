package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/alecthomas/kingpin/v2"
	"golang.org/x/term"

	"flyball/batchproxy"
)

type calibrateOptions struct {
	measure                batchproxy.CalibrateOptions
	request, sizes, format string
	headers                []string
}

func calibrateCommand(app *kingpin.Application, stdout, stderr io.Writer) command {
	c := app.Command("calibrate", "Measure how long a live model server takes for batches of growing size, one at a time, and say whether batching pays, up to which size, and what a replica can do. Give it a replica that nobody else uses.")
	o := calibrateOptions{measure: batchproxy.DefaultCalibrateOptions()}
	var sizes []string
	for _, n := range o.measure.Sizes {
		sizes = append(sizes, strconv.Itoa(n))
	}
	c.Arg("url", "Of the model server itself, not of a proxy before it.").Required().StringVar(&o.measure.URL)
	c.Flag("model", "Name of the model.").Required().StringVar(&o.measure.Model)
	c.Flag("protocol", "v1, oip (Open Inference Protocol v2) or openai (embeddings).").Default(o.measure.Protocol).EnumVar(&o.measure.Protocol, "v1", "oip", "openai")
	c.Flag("request", "File with the body of one request, in JSON, whose rows the batches repeat; - for standard input. Without it one is made up: by what the server says of the model's inputs (oip), or of a text (openai); v1 has no way to ask.").StringVar(&o.request)
	c.Flag("open-dimension", "What a dimension that the model leaves open is taken for, other than that of the rows, in a request that is made up.").Default(strconv.Itoa(o.measure.OpenDimension)).IntVar(&o.measure.OpenDimension)
	c.Flag("binary-tensors", "Whether tensors go in binary (oip), as the proxy's binary_tensors: auto, where the server says that it knows that, always or never.").Default("auto").EnumVar(&o.measure.BinaryTensors, "auto", "always", "never")
	c.Flag("sizes", "Rows in the batches, with commas.").Default(strings.Join(sizes, ",")).StringVar(&o.sizes)
	c.Flag("max-duration", "Of the measurement; each size is measured three times whatever it is.").Default(o.measure.MaxDuration.String()).DurationVar(&o.measure.MaxDuration)
	c.Flag("timeout", "Of one batch.").Default(o.measure.Timeout.String()).DurationVar(&o.measure.Timeout)
	c.Flag("header", "NAME:VALUE sent with each request; repeatable.").StringsVar(&o.headers)
	c.Flag("output", "Format: text or json.").Short('o').Default("text").EnumVar(&o.format, "text", "json")
	return command{c.FullCommand(), func(ctx context.Context) error { return o.run(ctx, stdout, stderr) }}
}

func (o *calibrateOptions) run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	o.measure.Sizes = nil
	for text := range strings.SplitSeq(o.sizes, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 {
			return exitError{exitUsage, fmt.Errorf("--sizes has %q: expected numbers of rows, such as 1,2,4,8", text)}
		}
		o.measure.Sizes = append(o.measure.Sizes, n)
	}
	o.measure.Header = http.Header{}
	for _, h := range o.headers {
		name, value, found := strings.Cut(h, ":")
		if !found || strings.TrimSpace(name) == "" {
			return exitError{exitUsage, fmt.Errorf("--header is %q: expected NAME:VALUE", h)}
		}
		o.measure.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	switch o.request {
	case "":
		if o.measure.Protocol == "v1" {
			return exitError{exitUsage, errors.New("--request is missing: a server of v1 does not say what its model takes, so give a file with the body of one request")}
		}
		if o.measure.OpenDimension < 1 {
			return exitError{exitUsage, fmt.Errorf("--open-dimension is %d: expected 1 or more", o.measure.OpenDimension)}
		}
	case "-":
		o.measure.Request, err = io.ReadAll(os.Stdin)
	default:
		o.measure.Request, err = os.ReadFile(o.request)
	}
	if err == nil && o.request != "" && len(o.measure.Request) == 0 {
		err = errors.New("empty: give the body of one request")
	}
	if err != nil {
		return fmt.Errorf("--request: %w", err)
	}
	terminal := term.IsTerminal(int(os.Stderr.Fd())) && stderr == io.Writer(os.Stderr)
	if terminal {
		o.measure.Progress = func(s batchproxy.CalibrateStep) {
			fmt.Fprintf(stderr, "\r\033[Kround %d of %d   %d rows   %s", s.Round, o.measure.Rounds, s.Size, s.Took)
		}
	}
	found, err := batchproxy.Calibrate(ctx, o.measure)
	if terminal {
		fmt.Fprint(stderr, "\r\033[K")
	}
	switch {
	case errors.Is(err, context.Canceled):
		return exitError{exitFailed, errors.New("calibrate: interrupted")}
	case err != nil:
		return fmt.Errorf("calibrate %s: %w", o.measure.URL, err)
	case o.format == "json":
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(found)
	}
	return found.WriteText(stdout)
}
