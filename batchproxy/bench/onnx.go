package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"

	"flyball/batchproxy/loadgen"
)

// The models that examples/onnxserver serves here.
const (
	modelMLP  = "MLP"
	modelConv = "convolution"
)

// onnxLibrary names ONNX Runtime's shared library to examples/onnxserver.
const onnxLibrary = "FLYBALL_ORT_LIB"

// onnxClients are the clients at once of the scene: one, a few, and two batches full.
var onnxClients = []int{1, 8, 64}

// onnxRate is the name of a model's table.
func onnxRate(name string) string { return "onnx/" + name }

// onnxModel is one of them, and its file.
type onnxModel struct{ name, file string }

// onnx is the closed loop against real models, of those that batch and of direct: what does not batch is as direct is. Where the
// server or the models are not there, it says so.
func (b *bench) onnx(ctx context.Context) error {
	for _, m := range b.onnxModels {
		missing := ""
		for _, path := range []string{b.onnxserver, m.file} {
			if _, err := os.Stat(path); err != nil {
				missing = path
				break
			}
		}
		if missing != "" {
			b.note("the ONNX %s is left out: there is no %s", m.name, missing)
			continue
		}
		if err := b.onnxOf(ctx, m); err != nil {
			return err
		}
		b.children.stop()
	}
	return nil
}

func (b *bench) onnxOf(ctx context.Context, m onnxModel) error {
	b.figures.table(onnxRate(m.name), "closed loop, ONNX "+m.name+": requests/s")
	address, err := freeAddress()
	if err != nil {
		return err
	}
	server, err := b.children.run(ctx, "onnxserver", address, b.onnxserver, "--web.listen-address="+address, "--model="+model+"="+m.file)
	if err != nil {
		return err
	}
	body, err := tensorOf(ctx, server.url)
	if err != nil {
		return fmt.Errorf("ONNX %s: %w", m.name, err)
	}
	script, err := b.wrk.script("onnx-"+m.name, body)
	if err != nil {
		return err
	}
	all, err := b.before(ctx, server.url, func(c contender) bool { return c.batches || c.name == direct })
	if err != nil {
		return err
	}
	path := loadgen.V2.Path(model)
	longer := *b
	longer.duration *= 3 // a real model takes tens of milliseconds for a row of an image, and 64 clients wait in line
	return inTurns(b, b.rounds, "onnx "+m.name, b.settings.onnx, clients, all, always, func(t turn, n int) error {
		l, err := longer.loop(ctx, t.contender.url+path, script, n)
		if err != nil {
			return err
		}
		b.faults += l.faults
		b.figures.add(onnxRate(m.name), t.contender.name, t.load, l.rate())
		b.say(t, "%.0f requests/s, p50 %v", l.rate(), l.p50)
		return nil
	})
}

// tensorOf is the body of a request of one row, made of what the server says of its model.
func tensorOf(ctx context.Context, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v2/models/"+model, nil)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	return rowOf(text)
}

// rowOf is the body of a request of one row for a model with this metadata: of small numbers that differ.
func rowOf(metadata []byte) ([]byte, error) {
	type tensor struct {
		Name     string    `json:"name"`
		Datatype string    `json:"datatype"`
		Shape    []int     `json:"shape"`
		Data     []float64 `json:"data,omitempty"`
	}
	var described, request struct {
		Inputs []tensor `json:"inputs"`
	}
	if err := json.Unmarshal(metadata, &described); err != nil {
		return nil, fmt.Errorf("metadata: %w: %.200s", err, metadata)
	}
	if len(described.Inputs) == 0 {
		return nil, fmt.Errorf("metadata: no inputs: %.200s", metadata)
	}
	for _, input := range described.Inputs {
		if input.Datatype != "FP32" || len(input.Shape) == 0 {
			return nil, fmt.Errorf("metadata: input %s is %s of shape %v: only FP32 with a batch dimension is sent", input.Name, input.Datatype, input.Shape)
		}
		row := input
		row.Shape = slices.Clone(input.Shape)
		row.Shape[0] = 1
		size := 1
		for i, n := range row.Shape {
			if n < 1 {
				return nil, fmt.Errorf("metadata: input %s has more than one dimension that is open: %v (%d)", input.Name, input.Shape, i)
			}
			size *= n
		}
		for i := range size {
			row.Data = append(row.Data, float64(i%13-6)/8)
		}
		request.Inputs = append(request.Inputs, row)
	}
	return json.Marshal(request)
}
