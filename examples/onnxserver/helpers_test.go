package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"flyball/onnxserver/models"
)

// TestMain runs the tests, or, in a process that a test starts, the server itself.
func TestMain(m *testing.M) {
	if os.Getenv("ONNXSERVER_MAIN") != "" {
		main()
		return
	}
	code := m.Run()
	if files.dir != "" {
		_ = os.RemoveAll(files.dir)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// library is ONNX Runtime's, where .ci/components puts it or FLYBALL_ORT_LIB says. Without it a test is skipped, or fails where
// CI=true.
func library(t testing.TB) string {
	t.Helper()
	path := os.Getenv("FLYBALL_ORT_LIB")
	if path == "" {
		path = "../../.cache/components/libonnxruntime.so.1"
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		reason := fmt.Sprintf("ONNX Runtime is not there (make components gets it by npm, FLYBALL_ORT_LIB says where another is): %v", err)
		if os.Getenv("CI") == "true" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	return path
}

// runtimeOnce: ONNX Runtime is loaded once for a process.
var runtimeOnce struct {
	sync.Once
	err error
}

func loadLibrary(t testing.TB) {
	t.Helper()
	path := library(t)
	runtimeOnce.Do(func() { runtimeOnce.err = loadRuntime(path) })
	if runtimeOnce.err != nil {
		t.Fatal(runtimeOnce.err)
	}
}

// files are the models, written once.
var files struct {
	sync.Once
	dir string
	err error
}

// file is the path of one of models.All.
func file(t testing.TB, name string) string {
	t.Helper()
	files.Do(func() {
		if files.dir, files.err = os.MkdirTemp("", "onnxserver"); files.err != nil {
			return
		}
		for _, m := range models.All() {
			if files.err = os.WriteFile(filepath.Join(files.dir, m.Name+".onnx"), m.ONNX(), 0o600); files.err != nil {
				return
			}
		}
	})
	if files.err != nil {
		t.Fatal(files.err)
	}
	return filepath.Join(files.dir, name+".onnx")
}

// written is a model as a file of its own.
func written(t testing.TB, name string, onnx []byte) modelFile {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".onnx")
	if err := os.WriteFile(path, onnx, 0o600); err != nil {
		t.Fatal(err)
	}
	return modelFile{Name: name, File: path}
}

func modelFiles(t testing.TB, names ...string) []modelFile {
	t.Helper()
	var out []modelFile
	for _, n := range names {
		out = append(out, modelFile{Name: n, File: file(t, n)})
	}
	return out
}

// client asks one server.
type client struct {
	http *http.Client
	url  string
}

// start runs a server of these models until the test ends, and waits until it is ready.
func start(t testing.TB, opts options, served ...modelFile) (*server, client) {
	t.Helper()
	loadLibrary(t)
	opts.Models = served
	if err := opts.validate(); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(opts)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, ln) }()
	c := client{http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, url: "http://" + ln.Addr().String()}
	t.Cleanup(func() {
		c.http.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	eventually(t, "ready", func() bool {
		if len(ended) > 0 {
			t.Fatalf("Run: %v", <-ended)
		}
		code, _ := c.call(t, http.MethodGet, "/v2/health/ready", "")
		return code == 200
	})
	return s, c
}

// eventually polls; the patience only has to tell something from nothing.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func (c client) send(method, path string, header http.Header, body []byte) (int, http.Header, []byte, error) {
	request, err := http.NewRequest(method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	for k, v := range header {
		request.Header[k] = v
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return response.StatusCode, response.Header, answer, err
}

func (c client) call(t testing.TB, method, path, body string) (int, string) {
	t.Helper()
	code, _, answer, err := c.send(method, path, nil, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return code, string(answer)
}

// rows draws n rows of a network.
func rows(seed uint64, n int, network *models.Network) [][]float32 {
	r := rand.New(rand.NewPCG(seed, 7))
	out := make([][]float32, n)
	for i := range out {
		out[i] = make([]float32, network.Rows())
		for j := range out[i] {
			out[i][j] = float32(r.NormFloat64())
		}
	}
	return out
}

func flatten(rows [][]float32) []float32 {
	var out []float32
	for _, r := range rows {
		out = append(out, r...)
	}
	return out
}

func text(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// bodyV2 asks a network over v2, in JSON.
func bodyV2(t testing.TB, network *models.Network, rows [][]float32) string {
	t.Helper()
	shape := append([]int{len(rows)}, network.Input...)
	return fmt.Sprintf(`{"inputs":[{"name":"x","datatype":"FP32","shape":%s,"data":%s}]}`, text(t, shape), text(t, flatten(rows)))
}

// answerV2 is an answer of v2 whose data is JSON.
type answerV2 struct {
	Outputs []struct {
		Name, Datatype string
		Shape          []int
		Data           []float64
	}
}

// ask gives the one output of a network for these rows, a row of numbers each.
func (c client) ask(name, body string, n int) ([][]float64, error) {
	code, _, answer, err := c.send(http.MethodPost, "/v2/models/"+name+"/infer", http.Header{"Content-Type": {"application/json"}}, []byte(body))
	if err != nil {
		return nil, err
	}
	var a answerV2
	if code != 200 || json.Unmarshal(answer, &a) != nil || len(a.Outputs) != 1 {
		return nil, fmt.Errorf("%d %s", code, short(string(answer)))
	}
	o := a.Outputs[0]
	if len(o.Shape) != 2 || o.Shape[0] != n || len(o.Data) != n*o.Shape[1] {
		return nil, fmt.Errorf("shape %v, %d values, for %d rows", o.Shape, len(o.Data), n)
	}
	out := make([][]float64, n)
	for i := range out {
		out[i] = o.Data[i*o.Shape[1] : (i+1)*o.Shape[1]]
	}
	return out, nil
}

// distance is the largest difference of two rows, of the size of what is expected where that is above 1.
func distance(want, got []float64) float64 {
	if len(want) != len(got) {
		return math.Inf(1)
	}
	worst := 0.0
	for i, w := range want {
		worst = max(worst, math.Abs(w-got[i])/max(1, math.Abs(w)))
	}
	return worst
}

func float32Bytes(values []float32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
