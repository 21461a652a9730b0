package main

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// The v1 protocol of TensorFlow Serving and KServe:
//
//	GET  /v1/models                         {"models":["mlp"]}
//	GET  /v1/models/mlp                     {"name":"mlp","ready":true}
//	POST /v1/models/mlp:predict             {"instances":[row,...]} -> {"predictions":[row,...]}
//	POST /v1/models/mlp/versions/1:predict  the same
//
// A row is a tensor without its dimension of the batch, as nested arrays, or {"NAME":tensor,...} where there are several.

func (s *server) v1Models(w http.ResponseWriter, _ *http.Request) {
	b := []byte(`{"models":[`)
	for i, m := range s.models {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, m.name)
	}
	writeJSON(w, http.StatusOK, append(b, "]}"...))
}

// v1Model serves what comes under a model's name. The last segment of the path is the call: NAME, or NAME:VERB, where NAME is
// the model, or its version if the path has versions in it.
func (s *server) v1Model(predict http.HandlerFunc) http.HandlerFunc {
	predict = only(http.MethodPost, predict)
	status := only(http.MethodGet, s.modelReady)
	return func(w http.ResponseWriter, r *http.Request) {
		name, verb, hasVerb := strings.Cut(r.PathValue("call"), ":")
		if r.PathValue("model") == "" {
			r.SetPathValue("model", name)
		} else {
			r.SetPathValue("version", name)
		}
		switch {
		case !hasVerb:
			status(w, r)
		case verb == "predict":
			predict(w, r)
		default:
			writeJSON(w, http.StatusNotFound, errorBody(fmt.Sprintf("call %q is not served here: there is predict", short(verb))))
		}
	}
}

func (s *server) v1Predict(r *http.Request, m *model, body []byte) (reply, error) {
	inputs, n, err := decodeV1(body, m.inputs, s.opts.MaxBatch)
	if err != nil {
		return reply{}, err
	}
	outputs, err := m.run(r.Context(), int64(n), inputs)
	if err != nil {
		return reply{}, err
	}
	text, err := encodeV1(m.outputs, outputs, n)
	return reply{json: text}, err
}

// instances are the rows of a v1 request while they are read, one after the other.
type instances struct {
	ports []port
	rows  [][]int64 // by port: the shape of a row; a size that may be any is that of the first row once it was read
	data  [][]byte  // by port
}

// decodeV1 reads a predict request of 1 to maxBatch rows.
func decodeV1(body []byte, ports []port, maxBatch int) ([]tensor, int, error) {
	d := newDecoder(body)
	in := &instances{ports: ports, rows: make([][]int64, len(ports)), data: make([][]byte, len(ports))}
	for i, p := range ports {
		if p.axis() < 0 {
			return nil, 0, badRequest("input %q is a scalar, which no row of instances has; use /v2", p.name)
		}
		in.rows[i] = p.row()
	}
	given, n := false, 0
	err := d.whole(func(name string) error {
		switch name {
		case "instances":
			given = true
			return d.array(func(int) error {
				if n++; n > maxBatch {
					return d.skip() // only counted, for the fault
				}
				return in.read(d)
			})
		case "signature_name": // there is one signature, whatever it is called
			_, err := d.text()
			return err
		case "parameters":
			return d.object(func(string) error { return d.skip() })
		default:
			return badRequest("body: unknown member %q; there are instances, signature_name and parameters", short(name))
		}
	})
	switch {
	case err != nil:
		return nil, 0, err
	case !given:
		return nil, 0, badRequest("instances: missing; give an array of rows")
	case n == 0:
		return nil, 0, badRequest("instances: empty; give 1 to %d rows", maxBatch)
	case n > maxBatch:
		return nil, 0, tooManyRows(int64(n), maxBatch)
	}
	return in.tensors(n)
}

// read reads one row.
func (in *instances) read(d decoder) error {
	if len(in.ports) == 1 && d.json.PeekKind() != '{' {
		return in.value(d, 0)
	}
	if d.json.PeekKind() != '{' {
		return d.wrongKind("an object with " + names(in.ports))
	}
	seen := make([]bool, len(in.ports))
	err := d.object(func(name string) error {
		i := find(in.ports, name)
		if i < 0 {
			if err := d.skip(); err != nil {
				return err
			}
			return badRequest("%s: no input has this name; there is %s", d.place(), names(in.ports))
		}
		seen[i] = true
		return in.value(d, i)
	})
	if err != nil {
		return err
	}
	if i := slices.Index(seen, false); i >= 0 {
		return badRequest("%s: no %q; give %s", d.place(), in.ports[i].name, names(in.ports))
	}
	return nil
}

// value reads one row's tensor of the input i.
func (in *instances) value(d decoder, i int) error {
	text, err := d.raw()
	if err != nil {
		return err
	}
	in.data[i], err = nested(in.data[i], text, in.ports[i].datatype, in.rows[i], "")
	if err != nil {
		return badRequest("%s%v", d.place(), err)
	}
	return nil
}

// tensors stacks the rows along each input's dimension of the batch.
func (in *instances) tensors(n int) ([]tensor, int, error) {
	out := make([]tensor, len(in.ports))
	for i, p := range in.ports {
		axis := p.axis()
		stacked := slices.Insert(slices.Clone(in.rows[i]), 0, int64(n))
		shape := slices.Insert(slices.Clone(in.rows[i]), axis, int64(n))
		if !p.takes(shape) {
			return nil, 0, badRequest("instances: %d rows; the model takes %d at a time", n, p.dims[axis])
		}
		out[i] = tensor{name: p.name, datatype: p.datatype, shape: shape, data: moveAxis(in.data[i], stacked, p.datatype.size(), 0, axis)}
	}
	return out, n, nil
}

// encodeV1 writes the predictions, one for each of n rows.
func encodeV1(ports []port, outputs []tensor, n int) ([]byte, error) {
	rows := make([][]int64, len(outputs)) // by output: the shape of a row
	data := make([][]byte, len(outputs))
	for i, t := range outputs {
		axis := ports[i].axis()
		if axis < 0 || axis >= len(t.shape) || t.shape[axis] != int64(n) {
			return nil, badRequest("output %q has the shape %s for %d rows, so that no row has an answer of its own; use /v2", t.name, appendShape(nil, t.shape), n)
		}
		rows[i] = slices.Delete(slices.Clone(t.shape), axis, axis+1)
		data[i] = moveAxis(t.data, t.shape, t.datatype.size(), axis, 0)
	}
	b := append(make([]byte, 0, 64+4*size(outputs)), `{"predictions":[`...)
	for r := range n {
		if r > 0 {
			b = append(b, ',')
		}
		for i, t := range outputs {
			if len(outputs) > 1 {
				b = append(b, "{,"[min(i, 1)])
				b = appendString(b, t.name)
				b = append(b, ':')
			}
			var err error
			if b, data[i], err = appendNested(b, data[i], t.datatype, rows[i]); err != nil {
				return nil, outputFault(t.name, err)
			}
		}
		if len(outputs) > 1 {
			b = append(b, '}')
		}
	}
	return append(b, "]}"...), nil
}

func size(tensors []tensor) int {
	n := 0
	for _, t := range tensors {
		n += len(t.data)
	}
	return n
}

// outputFault is the fault of an output that JSON has no form for. It is an answer of 500, since the request was not wrong.
func outputFault(name string, err error) error {
	return &fault{code: http.StatusInternalServerError, text: "output " + strconv.Quote(name) + " has " + err.Error()}
}
