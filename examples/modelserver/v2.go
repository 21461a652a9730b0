package main

import (
	"net/http"
	"slices"
	"strconv"

	"flyball/examples/modelserver/digits"
)

// The Open Inference Protocol, version 2, as JSON over HTTP:
//
//	GET  /v2                                  what the server is
//	GET  /v2/health/live, /v2/health/ready    200, or 503 while it starts and while it shuts down
//	GET  /v2/models/digits[/versions/1]       the model's inputs and outputs
//	GET  /v2/models/digits[/versions/1]/ready
//	POST /v2/models/digits[/versions/1]/infer
//
// Its binary tensor extension is not offered.

const (
	modelVersion = "1" // of the weights

	inputPixels         = "pixels"
	outputLabel         = "label"
	outputProbabilities = "probabilities"
)

// inferRequest is what a v2 infer request asks for.
type inferRequest struct {
	id      *string   // comes back in the answer; nil where none was given
	pixels  []float32 // n x 64
	outputs []string  // names, in the order of the answer
}

func (s *server) v2Server(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, []byte(`{"name":"modelserver","version":`+quote(s.opts.Version)+`,"extensions":[]}`))
}

func (s *server) v2Live(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, []byte(`{"live":true}`))
}

func (s *server) v2Ready(w http.ResponseWriter, _ *http.Request) {
	ready := s.ready()
	writeJSON(w, readyCode(ready), []byte(`{"ready":`+strconv.FormatBool(ready)+`}`))
}

func (s *server) v2ModelReady(w http.ResponseWriter, r *http.Request) {
	if err := s.checkModel(r); err != nil {
		s.writeFault(w, err)
		return
	}
	ready := s.ready()
	writeJSON(w, readyCode(ready), []byte(`{"name":`+quote(s.opts.ModelName)+`,"ready":`+strconv.FormatBool(ready)+`}`))
}

func (s *server) v2Model(w http.ResponseWriter, r *http.Request) {
	if err := s.checkModel(r); err != nil {
		s.writeFault(w, err)
		return
	}
	writeJSON(w, http.StatusOK, []byte(`{"name":`+quote(s.opts.ModelName)+`,"versions":["`+modelVersion+`"],"platform":"go_mlp",`+
		`"inputs":[{"name":"pixels","datatype":"FP32","shape":[-1,64]}],`+
		`"outputs":[{"name":"label","datatype":"INT64","shape":[-1]},{"name":"probabilities","datatype":"FP32","shape":[-1,10]}]}`))
}

func (s *server) v2Infer(r *http.Request, body []byte) ([]byte, error) {
	if r.Header.Get("Inference-Header-Content-Length") != "" {
		return nil, noBinary("header Inference-Header-Content-Length")
	}
	req, err := decodeV2(body, s.opts.MaxBatch)
	if err != nil {
		return nil, err
	}
	out, err := s.classify(r.Context(), req.pixels)
	if err != nil {
		return nil, err
	}
	return encodeV2(s.opts.ModelName, req, out), nil
}

// decodeV2 reads an infer request. The pixels that it returns are n x 64 values from 0 to 16, n from 1 to maxBatch.
func decodeV2(body []byte, maxBatch int) (inferRequest, error) {
	d := newDecoder(body)
	var req inferRequest
	inputs := 0
	err := d.whole(func(name string) error {
		switch name {
		case "id":
			id, err := d.text()
			req.id = &id
			return err
		case "parameters":
			return d.parameters()
		case "inputs":
			return d.array(func(i int) (err error) {
				if inputs++; i > 0 {
					return d.skip() // only counted, for the fault
				}
				req.pixels, err = d.pixelTensor(maxBatch)
				return err
			})
		case "outputs":
			return d.array(func(int) error {
				output, err := d.outputName(req.outputs)
				req.outputs = append(req.outputs, output)
				return err
			})
		default:
			return badRequest("body: unknown member %q; there are id, parameters, inputs and outputs", short(name))
		}
	})
	if err != nil {
		return inferRequest{}, err
	}
	if inputs != 1 {
		return inferRequest{}, badRequest("inputs: %d tensors; give one, named %q", inputs, inputPixels)
	}
	if len(req.outputs) == 0 {
		req.outputs = []string{outputLabel, outputProbabilities}
	}
	return req, nil
}

// pixelTensor reads the one input: {"name":"pixels","datatype":"FP32","shape":[n,64],"data":...}, its members in any order, its
// data flat or as n arrays of 64.
func (d decoder) pixelTensor(maxBatch int) ([]float32, error) {
	var name, datatype string
	var shape []int64
	var pixels []float32
	hasData := false
	err := d.object(func(member string) (err error) {
		switch member {
		case "name":
			name, err = d.text()
		case "datatype":
			datatype, err = d.text()
		case "shape":
			err = d.array(func(int) error {
				size, err := d.dimension()
				shape = append(shape, size)
				return err
			})
		case "data":
			hasData = true
			pixels, err = d.pixelData()
		case "parameters":
			err = d.parameters()
		default:
			err = badRequest("inputs[0]: unknown member %q; there are name, datatype, shape, parameters and data", short(member))
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case name != inputPixels:
		return nil, badRequest("inputs[0].name: %q; give %q", short(name), inputPixels)
	case datatype != "FP32":
		return nil, badRequest(`inputs[0].datatype: %q; give "FP32"`, short(datatype))
	case len(shape) != 2 || shape[1] != digits.PixelCount:
		return nil, badRequest("inputs[0].shape: %s; give [n,%d]", short(string(appendShape(nil, shape))), digits.PixelCount)
	case shape[0] > int64(maxBatch):
		return nil, tooManyImages(shape[0], maxBatch)
	case !hasData:
		return nil, badRequest("inputs[0].data: missing; give %d values", shape[0]*shape[1])
	case int64(len(pixels)) != shape[0]*shape[1]:
		return nil, badRequest("inputs[0].data: %d values; the shape %s has %d", len(pixels), appendShape(nil, shape), shape[0]*shape[1])
	}
	return pixels, nil
}

// dimension reads one number of a shape.
func (d decoder) dimension() (int64, error) {
	if d.json.PeekKind() != '0' {
		return 0, d.wrongKind("a whole number of 1 or more")
	}
	value, err := d.json.ReadValue()
	if err != nil {
		return 0, syntaxFault(err)
	}
	size, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || size < 1 {
		return 0, badRequest("%s: %s; give a whole number of 1 or more", d.place(), short(string(value)))
	}
	return size, nil
}

// pixelData reads the data of the input: numbers, or arrays of 64 numbers.
func (d decoder) pixelData() ([]float32, error) {
	var pixels []float32
	nested := false
	err := d.array(func(i int) (err error) {
		if i == 0 {
			nested = d.json.PeekKind() == '['
		}
		if nested {
			pixels, err = d.image(pixels)
			return err
		}
		v, err := d.pixel()
		pixels = append(pixels, v)
		return err
	})
	return pixels, err
}

// outputName reads one of the outputs that are asked for; before are those that came earlier.
func (d decoder) outputName(before []string) (string, error) {
	var name string
	err := d.object(func(member string) (err error) {
		switch member {
		case "name":
			name, err = d.text()
		case "parameters":
			err = d.parameters()
		default:
			err = badRequest("outputs[%d]: unknown member %q; there are name and parameters", len(before), short(member))
		}
		return err
	})
	switch {
	case err != nil:
		return "", err
	case name != outputLabel && name != outputProbabilities:
		return "", badRequest("outputs[%d].name: %q; there are %q and %q", len(before), short(name), outputLabel, outputProbabilities)
	case slices.Contains(before, name):
		return "", badRequest("outputs[%d].name: %q comes twice", len(before), name)
	}
	return name, nil
}

// parameters reads an object of parameters. The model has none, so they change nothing; only a wish for binary tensors is a
// fault, since the answer would not be what was asked for.
func (d decoder) parameters() error {
	return d.object(func(name string) error {
		kind := d.json.PeekKind()
		if err := d.skip(); err != nil {
			return err
		}
		switch name {
		case "binary_data", "binary_data_output":
			if kind == 't' {
				return noBinary(d.place())
			}
		case "binary_data_size":
			return noBinary(d.place())
		}
		return nil
	})
}

func noBinary(place string) error {
	return badRequest("%s: binary tensors are not offered; send and take data as JSON", place)
}

func encodeV2(model string, req inferRequest, out []digits.Digit) []byte {
	n := int64(len(out))
	b := make([]byte, 0, 256+160*len(out)) // some 150 bytes an image
	b = append(b, `{"model_name":`...)
	b = appendString(b, model)
	b = append(b, `,"model_version":"`+modelVersion+`"`...)
	if req.id != nil {
		b = append(b, `,"id":`...)
		b = appendString(b, *req.id)
	}
	b = append(b, `,"outputs":[`...)
	for i, name := range req.outputs {
		if i > 0 {
			b = append(b, ',')
		}
		switch name {
		case outputLabel:
			b = append(b, `{"name":"label","datatype":"INT64","shape":`...)
			b = appendShape(b, []int64{n})
			b = append(b, `,"data":[`...)
			for j, digit := range out {
				if j > 0 {
					b = append(b, ',')
				}
				b = strconv.AppendInt(b, int64(digit.Label), 10)
			}
		case outputProbabilities:
			b = append(b, `{"name":"probabilities","datatype":"FP32","shape":`...)
			b = appendShape(b, []int64{n, digits.ClassCount})
			b = append(b, `,"data":[`...)
			for j := range out {
				if j > 0 {
					b = append(b, ',')
				}
				b = appendProbabilities(b, &out[j])
			}
		}
		b = append(b, "]}"...)
	}
	return append(b, "]}"...)
}

func appendShape(b []byte, shape []int64) []byte {
	b = append(b, '[')
	for i, size := range shape {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, size, 10)
	}
	return append(b, ']')
}
