package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flyball/onnxserver/models"
)

// tolerance is how far float32 in some order of adding may be from float64.
const tolerance = 1e-4

// byHand is a network whose answers can be computed on paper: see TestInferByHand of package models.
func byHand() *models.Network {
	return &models.Network{Name: "hand", Input: []int{2}, Layers: []models.Layer{
		{Op: models.Gemm, In: 2, Out: 3, Weights: []float32{1, 2, 3, 4, 5, 6}, Bias: []float32{0.5, 0, -40}},
		{Op: models.Relu},
		{Op: models.Gemm, In: 3, Out: 1, Weights: []float32{1, 10, 100}, Bias: []float32{7}},
	}}
}

// TestByHand: answers that can be computed on paper, whole, over both protocols.
func TestByHand(t *testing.T) {
	_, c := start(t, defaultOptions(), written(t, "hand", byHand().ONNX()),
		written(t, "table", (&models.Embedding{Name: "table", Width: 2, Table: []float32{1, 2, 3, 4, 5, 6}}).ONNX()))
	for _, tt := range []struct{ path, body, want string }{
		{"/v1/models/hand:predict", `{"instances":[[1,2],[0,0]]}`, `{"predictions":[[136.5],[7.5]]}`},
		{"/v1/models/hand/versions/1:predict", `{"signature_name":"any","parameters":{"a":1},"instances":[{"x":[1,2]}]}`, `{"predictions":[[136.5]]}`},
		{
			"/v2/models/hand/infer", `{"id":"a","inputs":[{"name":"x","datatype":"FP32","shape":[2,2],"data":[1,2,0,0]}]}`,
			`{"model_name":"hand","model_version":"1","id":"a","outputs":[{"name":"y","datatype":"FP32","shape":[2,1],"data":[136.5,7.5]}]}`,
		},
		{
			"/v2/models/hand/versions/1/infer", "{\"inputs\":[{\"data\":[ [1 , 2],\n[0,0] ],\"shape\":[2,2],\"datatype\":\"FP32\",\"name\":\"x\"}]}",
			`{"model_name":"hand","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[2,1],"data":[136.5,7.5]}]}`,
		},
		{
			"/v1/models/table:predict", `{"instances":[{"ids":[0,2],"scale":[10]},{"scale":[1],"ids":[1,1]}]}`,
			`{"predictions":[{"mean":[30,40],"largest":2},{"mean":[3,4],"largest":1}]}`,
		},
		{
			"/v2/models/table/infer",
			`{"inputs":[{"name":"scale","datatype":"FP32","shape":[1,1],"data":[10]},{"name":"ids","datatype":"INT64","shape":[1,2],"data":[0,2]}],"outputs":[{"name":"largest"},{"name":"mean"}]}`,
			`{"model_name":"table","model_version":"1","outputs":[{"name":"largest","datatype":"INT64","shape":[1],"data":[2]},{"name":"mean","datatype":"FP32","shape":[1,2],"data":[30,40]}]}`,
		},
	} {
		code, got := c.call(t, http.MethodPost, tt.path, tt.body)
		if diff := cmp.Diff(tt.want, got); code != 200 || diff != "" {
			t.Errorf("%s %s: %d (-want +got):\n%s", tt.path, tt.body, code, diff)
		}
	}
}

// TestAnswers: the models against their computation in float64, and a batch against its rows alone.
func TestAnswers(t *testing.T) {
	small := models.MobileNet("small", 5, 29, 7, 8, 8, 16, 24) // an odd size, and a pair that keeps its size
	_, c := start(t, defaultOptions(), append(modelFiles(t, "mlp_128", "mlp_768", "conv_224"), written(t, "small", small.ONNX()))...)
	for _, tt := range []struct {
		network *models.Network
		sizes   []int
	}{
		{models.MLP128(), []int{1, 2, 3, 64, 256}},
		{models.MLP768(), []int{1, 2, 7, 32}},
		{models.Conv224(), []int{1, 3}},
		{small, []int{1, 2, 9}},
	} {
		for _, n := range tt.sizes {
			t.Run(fmt.Sprintf("%s/%d", tt.network.Name, n), func(t *testing.T) {
				in := rows(uint64(n), n, tt.network)
				batch, err := c.ask(tt.network.Name, bodyV2(t, tt.network, in), n)
				if err != nil {
					t.Fatal(err)
				}
				for i, row := range in {
					if n <= 9 || i%8 == 0 { // the computation here is slow
						if d := distance(tt.network.Infer(row), batch[i]); d > tolerance {
							t.Errorf("row %d is %g away from its computation", i, d)
						}
					}
					alone, err := c.ask(tt.network.Name, bodyV2(t, tt.network, in[i:i+1]), 1)
					if err != nil {
						t.Fatal(err)
					}
					if d := distance(alone[0], batch[i]); d > tolerance/10 {
						t.Errorf("row %d is %g away from its answer alone", i, d)
					}
				}
			})
		}
	}
}

// TestEmbedding: two inputs, of two types, with a second dimension that varies.
func TestEmbedding(t *testing.T) {
	_, c := start(t, defaultOptions(), modelFiles(t, "embedding")...)
	e := models.Pair()
	for _, length := range []int{1, 2, 50} {
		type instance struct {
			IDs   []int64   `json:"ids"`
			Scale []float32 `json:"scale"`
		}
		var batch struct {
			Instances []instance `json:"instances"`
		}
		for i := range 5 {
			in := instance{Scale: []float32{float32(i) - 1.5}}
			for j := range length {
				in.IDs = append(in.IDs, int64(i*211+j*13)%1000)
			}
			batch.Instances = append(batch.Instances, in)
		}
		code, body := c.call(t, http.MethodPost, "/v1/models/embedding:predict", text(t, batch))
		var got struct {
			Predictions []struct {
				Mean    []float64
				Largest int64
			}
		}
		if err := json.Unmarshal([]byte(body), &got); code != 200 || err != nil || len(got.Predictions) != len(batch.Instances) {
			t.Fatalf("%d %s", code, body)
		}
		for i, in := range batch.Instances {
			mean, largest := e.Infer(in.IDs, in.Scale[0])
			if p := got.Predictions[i]; distance(mean, p.Mean) > tolerance || p.Largest != largest {
				t.Errorf("length %d, row %d: %v, want %v and %d", length, i, p, mean, largest)
			}
		}
	}
}

// TestProtocolsAgree: v1, v2 with flat and with nested data, and binary tensors in and out give the same bits.
func TestProtocolsAgree(t *testing.T) {
	_, c := start(t, defaultOptions(), modelFiles(t, "mlp_128")...)
	network := models.MLP128()
	const n = 3
	in := rows(1, n, network)
	blob := float32Bytes(flatten(in))
	type answer struct {
		name string
		bits []byte
	}
	var answers []answer
	add := func(name string, outputs [][]float32) {
		answers = append(answers, answer{name, float32Bytes(flatten(outputs))})
	}

	code, body := c.call(t, http.MethodPost, "/v1/models/mlp_128:predict", `{"instances":`+text(t, in)+`}`)
	var v1 struct{ Predictions [][]float32 }
	if err := json.Unmarshal([]byte(body), &v1); code != 200 || err != nil {
		t.Fatalf("v1: %d %s", code, body)
	}
	add("v1", v1.Predictions)
	for name, data := range map[string]string{"flat": text(t, flatten(in)), "nested": text(t, in)} {
		code, body := c.call(t, http.MethodPost, "/v2/models/mlp_128/infer",
			fmt.Sprintf(`{"inputs":[{"name":"x","datatype":"FP32","shape":[%d,128],"data":%s}]}`, n, data))
		var v2 struct {
			Outputs []struct{ Data []float32 }
		}
		if err := json.Unmarshal([]byte(body), &v2); code != 200 || err != nil {
			t.Fatalf("v2: %d %s", code, body)
		}
		add("v2 "+name, [][]float32{v2.Outputs[0].Data})
	}
	for name, wish := range map[string]string{
		"all": `"parameters":{"binary_data_output":true}`,
		"one": `"outputs":[{"name":"y","parameters":{"binary_data":true}}]`,
	} {
		head := fmt.Sprintf(`{"inputs":[{"name":"x","datatype":"FP32","shape":[%d,128],"parameters":{"binary_data_size":%d}}],%s}`, n, len(blob), wish)
		code, header, body, err := c.send(http.MethodPost, "/v2/models/mlp_128/infer",
			http.Header{"Inference-Header-Content-Length": {strconv.Itoa(len(head))}}, append([]byte(head), blob...))
		if code != 200 || err != nil {
			t.Fatalf("binary: %d %v %s", code, err, body)
		}
		length, err := strconv.Atoi(header.Get("Inference-Header-Content-Length"))
		if err != nil || header.Get("Content-Type") != "application/octet-stream" {
			t.Fatalf("binary: headers %v", header)
		}
		want := `{"model_name":"mlp_128","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[3,10],"parameters":{"binary_data_size":120}}]}`
		if diff := cmp.Diff(want, string(body[:length])); diff != "" {
			t.Errorf("binary (-want +got):\n%s", diff)
		}
		answers = append(answers, answer{"binary " + name, body[length:]})
	}
	for _, a := range answers[1:] {
		if !bytes.Equal(a.bits, answers[0].bits) || len(a.bits) != 4*n*10 {
			t.Errorf("%s differs from %s", a.name, answers[0].name)
		}
	}
}

// TestConcurrentClients: each gets the answer to its own rows, whatever the others ask, and of which model.
func TestConcurrentClients(t *testing.T) {
	opts := defaultOptions()
	opts.Concurrency = 2
	_, c := start(t, opts, append(modelFiles(t, "mlp_128"), written(t, "hand", byHand().ONNX()))...)
	network := models.MLP128()
	var wg sync.WaitGroup
	for client := range 16 {
		wg.Go(func() {
			for i := range 20 {
				n := 1 + (client+i)%5
				in := rows(uint64(client*1000+i), n, network)
				got, err := c.ask("mlp_128", bodyV2(t, network, in), n)
				if err != nil {
					t.Error(err)
					return
				}
				for r, row := range in {
					if d := distance(network.Infer(row), got[r]); d > tolerance {
						t.Errorf("client %d, request %d, row %d: %g away", client, i, r, d)
					}
				}
				x := []float32{float32(client), float32(i)}
				got, err = c.ask("hand", bodyV2(t, byHand(), [][]float32{x}), 1)
				if err != nil || distance(byHand().Infer(x), got[0]) > tolerance {
					t.Errorf("client %d, request %d: %v %v", client, i, got, err)
				}
			}
		})
	}
	wg.Wait()
}

// TestOthersModels: files that others made, by other programs.
func TestOthersModels(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/yalue/onnxruntime_go").Output()
	if err != nil {
		t.Fatal(err)
	}
	served := func(name string) modelFile {
		return modelFile{Name: name, File: filepath.Join(strings.TrimSpace(string(out)), "test_data", name+".onnx")}
	}
	_, c := start(t, defaultOptions(), served("sklearn_randomforest"), served("example_dynamic_axes"), served("example_multitype"), served("example_big_fanout"))
	for _, tt := range []struct {
		path, body, want string
		code             int // 200 where left out
	}{
		{path: "sklearn_randomforest", want: `{"name":"sklearn_randomforest","versions":["1"],"platform":"onnxruntime_onnx","inputs":[{"name":"X","datatype":"FP32","shape":[-1,4]}],"outputs":[{"name":"output_label","datatype":"INT64","shape":[-1]}]}`},
		// Two irises, a setosa and a virginica.
		{path: "/v1/models/sklearn_randomforest:predict", body: `{"instances":[[5.1,3.5,1.4,0.2],[6.3,3.3,6.0,2.5]]}`, want: `{"predictions":[0,2]}`},
		// The sum of each row.
		{path: "/v1/models/example_dynamic_axes:predict", body: `{"instances":[[1,2,3,4,5,6,7,8,9,10],[0,0,0,0,0,0,0,0,0,1]]}`, want: `{"predictions":[55,1]}`},
		// Types of one and eight bytes, without a batch: OutputA is InputB times InputA less 512, OutputB is InputA times 1234.
		{
			path: "example_multitype/infer",
			body: `{"inputs":[{"name":"InputA","datatype":"UINT8","shape":[1,1,1],"data":[3]},{"name":"InputB","datatype":"FP64","shape":[1,2,2],"data":[1,2,3,-4]}]}`,
			want: `{"model_name":"example_multitype","model_version":"1","outputs":[{"name":"OutputA","datatype":"INT16","shape":[1,2,2],"data":[-509,-506,-503,-524]},{"name":"OutputB","datatype":"INT64","shape":[1,1,1],"data":[3702]}]}`,
		},
		{path: "/v1/models/example_big_fanout:predict", body: `{"instances":[[1,2,3,4],[1,2,3,4]]}`, code: 400, want: `{"error":"instances: 2 rows; the model takes 1 at a time"}`},
		{path: "/v1/models/example_big_fanout:predict", body: `{"instances":[[1,2,3,4]]}`, code: 400, want: `{"error":"output \"output\" has the shape [4] for 1 rows, so that no row has an answer of its own; use /v2"}`},
	} {
		method, path := http.MethodPost, tt.path
		if tt.body == "" {
			method = http.MethodGet
		}
		if !strings.HasPrefix(path, "/") {
			path = "/v2/models/" + path
		}
		code, got := c.call(t, method, path, tt.body)
		if diff := cmp.Diff(tt.want, got); diff != "" || code != max(tt.code, 200) {
			t.Errorf("%s: %d (-want +got):\n%s", path, code, diff)
		}
	}
}
