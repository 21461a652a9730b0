package batchproxy

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// tensorServer speaks the Open Inference Protocol with the binary tensor extension, in FP32 and INT64, and answers each input as an output, in
// JSON unless the request wants it in binary.
type tensorServer struct {
	*httptest.Server
	metadata string // the answer to GET /v2; 404 where it is empty
	// refuse returns the status with which a request is refused, 0 where it is not.
	refuse func(inBinary bool, text string) int
	always bool // it answers in binary whatever is asked

	mu     sync.Mutex
	asked  int      // for its metadata
	binary []bool   // of each request
	rows   []int    // of each request
	texts  []string // the JSON of each request
}

const knowsBinary = `{"name":"s","version":"1","extensions":["classification","binary_tensor_data"]}`

func newTensorServer(t testing.TB, metadata string) *tensorServer {
	s := &tensorServer{metadata: metadata}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *tensorServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2" {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.asked++; s.metadata == "" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, s.metadata)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	text, blobs := body, []byte(nil)
	length := r.Header.Get("Inference-Header-Content-Length")
	if length != "" {
		n, err := strconv.Atoi(length)
		if err != nil || n > len(body) {
			http.Error(w, `{"error":"no such length"}`, http.StatusBadRequest)
			return
		}
		text, blobs = body[:n], body[n:]
	}
	type tensor struct {
		Name       string         `json:"name"`
		Shape      []int          `json:"shape"`
		Datatype   string         `json:"datatype"`
		Data       []json.Number  `json:"data,omitempty"`
		Parameters map[string]any `json:"parameters,omitempty"`
	}
	var in struct {
		Inputs     []tensor
		Parameters struct {
			Binary bool `json:"binary_data_output"`
		}
	}
	if err := json.Unmarshal(text, &in); err != nil || len(in.Inputs) == 0 {
		http.Error(w, fmt.Sprintf(`{"error":%q}`, err), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.binary, s.rows, s.texts = append(s.binary, length != ""), append(s.rows, in.Inputs[0].Shape[0]), append(s.texts, string(text))
	s.mu.Unlock()
	if s.refuse != nil {
		if code := s.refuse(length != "", string(text)); code != 0 {
			w.WriteHeader(code)
			fmt.Fprintf(w, `{"error":"refused, in binary: %t"}`, length != "")
			return
		}
	}
	var raw []byte
	for i := range in.Inputs {
		x := &in.Inputs[i]
		elements := 1
		for _, d := range x.Shape {
			elements *= d
		}
		if size, ok := x.Parameters["binary_data_size"]; ok {
			each := map[string]int{"FP32": 4, "INT64": 8}[x.Datatype]
			if size != float64(elements*each) || len(blobs) < elements*each {
				http.Error(w, `{"error":"another size"}`, http.StatusBadRequest)
				return
			}
			for range elements {
				if each == 4 {
					x.Data = append(x.Data, json.Number(strconv.FormatFloat(float64(math.Float32frombits(binary.LittleEndian.Uint32(blobs))), 'g', -1, 32)))
				} else {
					x.Data = append(x.Data, json.Number(strconv.FormatInt(int64(binary.LittleEndian.Uint64(blobs)), 10)))
				}
				blobs = blobs[each:]
			}
			delete(x.Parameters, "binary_data_size")
		}
		if len(x.Data) != elements {
			http.Error(w, `{"error":"another number of elements"}`, http.StatusBadRequest)
			return
		}
		if x.Datatype == "FP32" {
			for j, n := range x.Data {
				f, _ := strconv.ParseFloat(string(n), 32)
				x.Data[j] = json.Number(strconv.FormatFloat(f, 'g', -1, 32))
			}
		}
		if s.always || in.Parameters.Binary {
			for _, n := range x.Data {
				f, _ := strconv.ParseFloat(string(n), 32)
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(f)))
			}
			x.Data, x.Parameters = nil, map[string]any{"binary_data_size": len(raw)}
		}
	}
	head, _ := json.Marshal(map[string]any{"model_name": "m", "outputs": in.Inputs})
	if raw != nil {
		w.Header().Set("Inference-Header-Content-Length", strconv.Itoa(len(head)))
	}
	_, _ = w.Write(append(head, raw...))
}

// forms are what its requests were: b in binary, j in JSON, with the rows of each.
func (s *tensorServer) forms() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for i, b := range s.binary {
		out = append(out, map[bool]string{true: "b", false: "j"}[b]+strconv.Itoa(s.rows[i]))
	}
	return strings.Join(out, " ")
}

const inferPath = "/v2/models/m/infer"

// vector is a request of so many rows of binaryFrom numbers, which begin with a number of its own.
func vector(datatype, first string, rows int, more string) string {
	data := strings.Repeat(",0", binaryFrom-1)
	return fmt.Sprintf(`{%s"inputs":[{"name":"x","shape":[%d,%d],"datatype":%q,"data":[%s]}]}`, more, rows, binaryFrom, datatype,
		strings.TrimSuffix(strings.Repeat(first+data+",", rows), ","))
}
