package batchproxy

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"flyball/batchproxy/protocol"
)

// sampleText stands for what a model that takes text is sent: about as long as a search query.
const sampleText = "How many replicas does this model need at nine on a Monday?"

const (
	// mostSample bounds the elements of one input of a sample: 256 MB of images would say nothing that fewer do not.
	mostSample = 16 << 20
	// mostMetadata bounds what a server says of a model, in bytes.
	mostMetadata = 4 << 20
)

// sampleInput is an input of a model as its server describes it (the metadata of the Open Inference Protocol).
type sampleInput struct {
	Name     string `json:"name"`
	Datatype string `json:"datatype"`
	Shape    []int  `json:"shape"`
}

func (s sampleInput) String() string {
	return s.Name + " " + s.Datatype + " " + strings.ReplaceAll(fmt.Sprint(s.Shape), " ", ",")
}

var errNoMetadata = errors.New("request: missing, and a server of v1 does not say what its model takes: give the body of one request")

// makeSample makes a request up, with what the server says of the model, and says of what.
func (c *calibrator) makeSample(ctx context.Context) (protocol.Message, []string, error) {
	switch c.opts.Protocol {
	case "openai":
		body, err := json.Marshal(map[string]any{"model": c.opts.Model, "input": []string{sampleText}})
		return protocol.Message{Body: body}, []string{"input, a text"}, err
	case "oip":
		inputs, err := c.metadata(ctx)
		if err != nil {
			return protocol.Message{}, nil, err
		}
		m, err := sampleOf(inputs, c.opts.OpenDimension)
		if err != nil {
			return protocol.Message{}, nil, fmt.Errorf("request: missing, and none can be made up: %w: give the body of one request", err)
		}
		described := make([]string, len(inputs))
		for i, in := range inputs {
			described[i] = in.String()
		}
		return m, described, nil
	}
	return protocol.Message{}, nil, errNoMetadata
}

// metadata asks the server what the model's inputs are.
func (c *calibrator) metadata(ctx context.Context) ([]sampleInput, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	at, err := parseUpstream(c.opts.URL)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	path := "/v2/models/" + url.PathEscape(c.opts.Model)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.JoinPath(path).String(), nil)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	if c.opts.Header != nil {
		req.Header = c.opts.Header.Clone()
	}
	resp, err := c.opts.Transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask for the model's inputs: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, mostMetadata))
	if err != nil {
		return nil, fmt.Errorf("ask for the model's inputs: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("request: missing, and the server does not say what the model takes: GET %s: it answered %d: %s: give the body of one request",
			path, resp.StatusCode, said(text))
	}
	var model struct {
		Inputs []sampleInput `json:"inputs"`
	}
	if err := json.Unmarshal(text, &model); err != nil {
		return nil, fmt.Errorf("ask for the model's inputs: GET %s: %w", path, err)
	}
	return model.Inputs, nil
}

// said is the beginning of an answer, for a message.
func said(text []byte) string {
	return strings.TrimSpace(strings.ToValidUTF8(string(text[:min(len(text), 300)]), ""))
}

// sampleOf is a request of one row, or of as many as the inputs say, with all other dimensions that are open as long as given. The
// inputs' shapes become those that are sent.
func sampleOf(inputs []sampleInput, open int) (protocol.Message, error) {
	if len(inputs) == 0 {
		return protocol.Message{}, errors.New("the server names no input of the model")
	}
	type tensor struct {
		sampleInput
		Parameters map[string]int `json:"parameters,omitempty"`
		Data       []any          `json:"data,omitempty"`
	}
	var tensors []tensor
	var blobs []byte
	for i := range inputs {
		in := &inputs[i]
		if len(in.Shape) == 0 {
			return protocol.Message{}, fmt.Errorf("input %q has no dimension that the rows of a batch could be", in.Name)
		}
		elements := 1
		for j, n := range in.Shape {
			switch {
			case n < 0 && j == 0:
				n = 1
			case n < 0:
				n = open
			}
			in.Shape[j] = n
			if elements *= n; elements < 1 || elements > mostSample {
				return protocol.Message{}, fmt.Errorf("input %s would have no elements, or more than %d", in, mostSample)
			}
		}
		t := tensor{sampleInput: *in}
		if bits, ok := sampleHalf[in.Datatype]; ok { // which JSON has no form for
			t.Parameters = map[string]int{"binary_data_size": 2 * elements}
			for range elements {
				blobs = binary.LittleEndian.AppendUint16(blobs, bits)
			}
		} else {
			t.Data = make([]any, elements)
			for k := range t.Data {
				if t.Data[k] = sampleValue(in.Datatype, k); t.Data[k] == nil {
					return protocol.Message{}, fmt.Errorf("input %s is of a datatype that is not known", in)
				}
			}
		}
		tensors = append(tensors, t)
	}
	body, err := json.Marshal(map[string]any{"inputs": tensors})
	if err != nil {
		return protocol.Message{}, err
	}
	m := protocol.Message{Body: append(body, blobs...)}
	if len(blobs) > 0 {
		m.Header = len(body)
	}
	return m, nil
}

// sampleHalf is 1 in the datatypes of two bytes.
var sampleHalf = map[string]uint16{"FP16": 0x3c00, "BF16": 0x3f80}

// sampleValue is an element of a sample: numbers that are not all alike and small enough for the indexes of any vocabulary, nil for
// a datatype that is not known.
func sampleValue(datatype string, i int) any {
	switch datatype {
	case "FP32", "FP64":
		return float64(i*37%100) / 100
	case "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64":
		return 1 + i%9
	case "BOOL":
		return i%2 == 0
	case "BYTES":
		return sampleText
	}
	return nil
}
