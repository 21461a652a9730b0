package main

import (
	"net/http"
	"slices"
	"strconv"
)

// The Open Inference Protocol, version 2, over HTTP, with its binary tensor extension (binary.go):
//
//	GET  /v2                               what the server is
//	GET  /v2/health/live, /v2/health/ready 200, or 503 while it starts and while it shuts down
//	GET  /v2/models/mlp[/versions/1]       the model's inputs and outputs
//	GET  /v2/models/mlp[/versions/1]/ready
//	POST /v2/models/mlp[/versions/1]/infer

const modelVersion = "1" // an ONNX file has none that means anything

// inferRequest is what a v2 infer request asks for.
type inferRequest struct {
	id      *string // comes back in the answer; nil where none was given
	inputs  []tensor
	rows    int64
	outputs []wantedOutput // in the order of the answer
}

// wantedOutput is an output that is asked for.
type wantedOutput struct {
	index  int // among the model's
	binary bool
}

func (s *server) v2Server(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, []byte(`{"name":"onnxserver","version":`+quote(s.opts.Version)+`,"extensions":["binary_tensor_data"]}`))
}

func (s *server) v2Live(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, []byte(`{"live":true}`))
}

func (s *server) v2Ready(w http.ResponseWriter, _ *http.Request) {
	ready := s.ready()
	writeJSON(w, readyCode(ready), []byte(`{"ready":`+strconv.FormatBool(ready)+`}`))
}

// modelReady says whether a model is ready, in both protocols.
func (s *server) modelReady(w http.ResponseWriter, r *http.Request) {
	m, err := s.model(r)
	if err != nil {
		s.writeFault(w, err)
		return
	}
	ready := s.ready()
	writeJSON(w, readyCode(ready), []byte(`{"name":`+quote(m.name)+`,"ready":`+strconv.FormatBool(ready)+`}`))
}

func (s *server) v2Model(w http.ResponseWriter, r *http.Request) {
	m, err := s.model(r)
	if err == nil && s.loading() {
		err = m.isLoading()
	}
	if err != nil {
		s.writeFault(w, err)
		return
	}
	b := []byte(`{"name":` + quote(m.name) + `,"versions":["` + modelVersion + `"],"platform":"onnxruntime_onnx","inputs":`)
	b = appendPorts(b, m.inputs)
	b = append(b, `,"outputs":`...)
	writeJSON(w, http.StatusOK, append(appendPorts(b, m.outputs), '}'))
}

func appendPorts(b []byte, ports []port) []byte {
	b = append(b, '[')
	for i, p := range ports {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":`...)
		b = appendString(b, p.name)
		b = append(b, `,"datatype":"`+string(p.datatype)+`","shape":`...)
		b = append(appendShape(b, p.dims), '}')
	}
	return append(b, ']')
}

func (s *server) v2Infer(r *http.Request, m *model, body []byte) (reply, error) {
	text, blobs, err := splitBinary(r.Header, body)
	if err != nil {
		return reply{}, err
	}
	req, err := decodeV2(text, blobs, m.inputs, m.outputs, s.opts.MaxBatch)
	if err != nil {
		return reply{}, err
	}
	outputs, err := m.run(r.Context(), req.rows, req.inputs)
	if err != nil {
		return reply{}, err
	}
	return encodeV2(m.name, req, outputs)
}

// decodeV2 reads an infer request: text is its JSON, and blobs are the bytes that follow it, of the inputs that are binary. The
// inputs that it returns are in the order of the ports, and their batch has at most maxBatch rows.
func decodeV2(text, blobs []byte, inputs, outputs []port, maxBatch int) (inferRequest, error) {
	d := newDecoder(text)
	var req inferRequest
	given := make([]bool, len(inputs))
	req.inputs = make([]tensor, len(inputs))
	binaryOutput := false            // unless an output says otherwise
	var outputBinary []*bool         // by wanted output: what it says
	rest := &blobReader{left: blobs} // of the inputs that are still to come
	err := d.whole(func(name string) error {
		switch name {
		case "id":
			id, err := d.text()
			req.id = &id
			return err
		case "parameters":
			return d.parameters(map[string]func() error{
				"binary_data_output": func() (err error) { binaryOutput, err = d.boolean(); return err },
			})
		case "inputs":
			return d.array(func(int) error {
				i, t, err := d.input(inputs, rest, maxBatch)
				switch {
				case err != nil:
					return err
				case given[i]:
					return badRequest("%s.name: %q comes twice", d.place(), inputs[i].name)
				}
				given[i], req.inputs[i] = true, t
				return nil
			})
		case "outputs":
			return d.array(func(int) error {
				i, binary, err := d.output(outputs)
				switch {
				case err != nil:
					return err
				case slices.ContainsFunc(req.outputs, func(o wantedOutput) bool { return o.index == i }):
					return badRequest("%s.name: %q comes twice", d.place(), outputs[i].name)
				}
				req.outputs = append(req.outputs, wantedOutput{index: i})
				outputBinary = append(outputBinary, binary)
				return nil
			})
		default:
			return badRequest("body: unknown member %q; there are id, parameters, inputs and outputs", short(name))
		}
	})
	if err != nil {
		return inferRequest{}, err
	}
	if i := slices.Index(given, false); i >= 0 {
		return inferRequest{}, badRequest("inputs: no %q; the model takes %s", inputs[i].name, names(inputs))
	}
	if n := len(rest.left); n > 0 {
		return inferRequest{}, badRequest("body: %d bytes follow the last binary input; give as many as the binary_data_size of all inputs", n)
	}
	if req.rows, err = rowsOf(inputs, req.inputs); err != nil {
		return inferRequest{}, err
	}
	if len(req.outputs) == 0 {
		for i := range outputs {
			req.outputs = append(req.outputs, wantedOutput{index: i})
		}
		outputBinary = make([]*bool, len(outputs))
	}
	for i, own := range outputBinary {
		req.outputs[i].binary = binaryOutput
		if own != nil {
			req.outputs[i].binary = *own
		}
	}
	return req, nil
}

// input reads one input, its members in any order, and gives its place among the ports.
func (d decoder) input(ports []port, blobs *blobReader, maxBatch int) (int, tensor, error) {
	var name, dt string
	var shape []int64
	var data []byte
	var blobSize int64 // 0 where the data is JSON
	err := d.object(func(member string) (err error) {
		switch member {
		case "name":
			name, err = d.text()
		case "datatype":
			dt, err = d.text()
		case "shape":
			shape = []int64{}
			err = d.array(func(int) error {
				size, err := d.size()
				shape = append(shape, size)
				return err
			})
		case "data":
			if d.json.PeekKind() != '[' {
				return d.wrongKind("an array")
			}
			data, err = d.raw()
			data = slices.Clone(data) // the datatype and the shape may come later
		case "parameters":
			err = d.parameters(map[string]func() error{
				"binary_data_size": func() (err error) { blobSize, err = d.size(); return err },
			})
		default:
			if err := d.skip(); err != nil {
				return err
			}
			return badRequest("%s: there is no such member; there are name, datatype, shape, parameters and data", d.place())
		}
		return err
	})
	if err != nil {
		return 0, tensor{}, err
	}
	at := d.place()
	i := find(ports, name)
	if i < 0 {
		return 0, tensor{}, badRequest("%s.name: %q; the model takes %s", at, short(name), names(ports))
	}
	p := ports[i]
	elements, fits := count(shape)
	switch {
	case dt != string(p.datatype):
		return 0, tensor{}, badRequest("%s.datatype: %q; %q is %s", at, short(dt), p.name, p.datatype)
	case !p.takes(shape):
		return 0, tensor{}, badRequest("%s.shape: %s; %q is %s", at, short(string(appendShape(nil, shape))), p.name, p.shapeText())
	case p.axis() >= 0 && p.dims[p.axis()] == -1 && shape[p.axis()] > int64(maxBatch):
		return 0, tensor{}, tooManyRows(shape[p.axis()], maxBatch)
	case !fits:
		return 0, tensor{}, badRequest("%s.shape: %s has more than 2147483647 elements", at, short(string(appendShape(nil, shape))))
	case data != nil && blobSize > 0:
		return 0, tensor{}, badRequest("%s: data and binary_data_size; give one of them", at)
	case data == nil && blobSize == 0:
		return 0, tensor{}, badRequest("%s.data: missing; give %d values, or their binary_data_size", at, elements)
	}
	t := tensor{name: p.name, datatype: p.datatype, shape: shape}
	if data == nil {
		t.data, err = blobs.next(p.datatype, blobSize, elements, at)
	} else {
		t.data, err = flat(nil, data, p.datatype, shape, at+".data")
	}
	return i, t, err
}

// output reads one of the outputs that are asked for: its place among the ports, and whether it is to be binary, nil where it
// does not say.
func (d decoder) output(ports []port) (int, *bool, error) {
	var name string
	var binary *bool
	err := d.object(func(member string) (err error) {
		switch member {
		case "name":
			name, err = d.text()
		case "parameters":
			err = d.parameters(map[string]func() error{
				"binary_data": func() error {
					wanted, err := d.boolean()
					binary = &wanted
					return err
				},
			})
		default:
			if err := d.skip(); err != nil {
				return err
			}
			return badRequest("%s: there is no such member; there are name and parameters", d.place())
		}
		return err
	})
	if err != nil {
		return 0, nil, err
	}
	i := find(ports, name)
	if i < 0 {
		return 0, nil, badRequest("%s.name: %q; the model gives %s", d.place(), short(name), names(ports))
	}
	return i, binary, nil
}

// parameters reads an object of parameters, by known those that are known. Others change nothing, except for the extensions that
// would put data elsewhere or ask for another answer: those are faults.
func (d decoder) parameters(known map[string]func() error) error {
	return d.object(func(name string) error {
		if read, ok := known[name]; ok {
			return read()
		}
		if err := d.skip(); err != nil {
			return err
		}
		switch name {
		case "shared_memory_region", "classification", "sequence_id":
			return badRequest("%s: this extension is not offered; leave it out", d.place())
		}
		return nil
	})
}

func encodeV2(model string, req inferRequest, outputs []tensor) (reply, error) {
	b := make([]byte, 0, 256+4*size(outputs))
	b = append(b, `{"model_name":`...)
	b = appendString(b, model)
	b = append(b, `,"model_version":"`+modelVersion+`"`...)
	if req.id != nil {
		b = append(b, `,"id":`...)
		b = appendString(b, *req.id)
	}
	b = append(b, `,"outputs":[`...)
	var answer reply
	for i, wanted := range req.outputs {
		if i > 0 {
			b = append(b, ',')
		}
		t := outputs[wanted.index]
		b = append(b, `{"name":`...)
		b = appendString(b, t.name)
		b = append(b, `,"datatype":"`+string(t.datatype)+`","shape":`...)
		b = appendShape(b, t.shape)
		if wanted.binary {
			b = append(b, `,"parameters":{"binary_data_size":`...)
			b = strconv.AppendInt(b, int64(len(t.data)), 10)
			b = append(b, "}}"...)
			answer.blobs = append(answer.blobs, t.data)
			continue
		}
		b = append(b, `,"data":`...)
		elements, _ := count(t.shape)
		var err error
		if b, _, err = appendNested(b, t.data, t.datatype, []int64{elements}); err != nil {
			return reply{}, outputFault(t.name, err)
		}
		b = append(b, '}')
	}
	answer.json = append(b, "]}"...)
	return answer, nil
}
