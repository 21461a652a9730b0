package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"flyball/examples/modelserver/digits"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client calls one server.
type client struct {
	http *http.Client
	url  string
}

// start runs a server on a free port until the test ends.
func start(tb testing.TB, opts options) (*server, client) {
	tb.Helper()
	s, err := newServer(opts)
	if err != nil {
		tb.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, ln) }()
	c := client{http: &http.Client{Transport: &http.Transport{}}, url: "http://" + ln.Addr().String()}
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("Run: %v", err)
		}
		c.http.CloseIdleConnections()
	})
	return s, c
}

// waitReady waits until s serves. A server without a start delay gets there as soon as its goroutine runs.
func waitReady(tb testing.TB, c client) {
	tb.Helper()
	for {
		if code, _ := c.call(tb, http.MethodGet, "/v2/health/ready", ""); code == http.StatusOK {
			return
		}
	}
}

func (c client) call(tb testing.TB, method, path, body string) (code int, answer string) {
	tb.Helper()
	code, answer, err := c.try(method, path, body)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	return code, answer
}

func (c client) try(method, path, body string) (code int, answer string, err error) {
	req, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if got := resp.Header.Get("Content-Type"); err == nil && got != "application/json" {
		err = fmt.Errorf("content type %q", got)
	}
	return resp.StatusCode, string(b), err
}

func heldOut(tb testing.TB) []digits.Image {
	tb.Helper()
	images, err := digits.HeldOut()
	if err != nil {
		tb.Fatal(err)
	}
	return images
}

// row is an image as a JSON array.
func row(image digits.Image) string {
	return "[" + numbers(image) + "]"
}

func numbers(image digits.Image) string {
	parts := make([]string, len(image.Pixels))
	for i, p := range image.Pixels {
		parts[i] = strconv.Itoa(int(p))
	}
	return strings.Join(parts, ",")
}

func bodyV1(images []digits.Image) string {
	rows := make([]string, len(images))
	for i, image := range images {
		rows[i] = row(image)
	}
	return `{"instances":[` + strings.Join(rows, ",") + `]}`
}

// bodyV2 is an infer request with flat data.
func bodyV2(images []digits.Image) string {
	flat := make([]string, len(images))
	for i, image := range images {
		flat[i] = numbers(image)
	}
	return fmt.Sprintf(`{"inputs":[{"name":"pixels","datatype":"FP32","shape":[%d,64],"data":[%s]}]}`, len(images), strings.Join(flat, ","))
}

func TestMetadata(t *testing.T) {
	_, c := start(t, defaultOptions())
	waitReady(t, c)
	const model = `{"name":"digits","versions":["1"],"platform":"go_mlp","inputs":[{"name":"pixels","datatype":"FP32","shape":[-1,64]}],` +
		`"outputs":[{"name":"label","datatype":"INT64","shape":[-1]},{"name":"probabilities","datatype":"FP32","shape":[-1,10]}]}`
	for _, tt := range []struct {
		path string
		code int
		want string
	}{
		{path: "/v2", code: 200, want: `{"name":"modelserver","version":"unknown","extensions":[]}`},
		{path: "/v2/health/live", code: 200, want: `{"live":true}`},
		{path: "/v2/health/ready", code: 200, want: `{"ready":true}`},
		{path: "/v2/models/digits", code: 200, want: model},
		{path: "/v2/models/digits/versions/1", code: 200, want: model},
		{path: "/v2/models/digits/ready", code: 200, want: `{"name":"digits","ready":true}`},
		{path: "/v2/models/digits/versions/1/ready", code: 200, want: `{"name":"digits","ready":true}`},
		{path: "/v2/models/letters", code: 404, want: `{"error":"model \"letters\" is not served here: there is \"digits\""}`},
		{path: "/v2/models/digits/versions/2/ready", code: 404, want: `{"error":"model \"digits\" has no version \"2\": there is \"1\""}`},
		{path: "/v1/models", code: 200, want: `{"models":["digits"]}`},
		{path: "/v1/models/digits", code: 200, want: `{"name":"digits","ready":true}`},
		{path: "/v1/models/digits/versions/1", code: 200, want: `{"name":"digits","ready":true}`},
		{path: "/v1/models/letters", code: 404, want: `{"error":"model \"letters\" is not served here: there is \"digits\""}`},
		{path: "/v1/models/digits:explain", code: 404, want: `{"error":"call \"explain\" is not served here: there is predict"}`},
		{path: "/v1/models/digits:predict", code: 405, want: `{"error":"method GET is not for \"/v1/models/digits:predict\": use POST"}`},
		{path: "/v2/models/digits/infer", code: 405, want: `{"error":"method GET is not for \"/v2/models/digits/infer\": use POST"}`},
		{path: "/v3", code: 404, want: `{"error":"nothing is served at \"/v3\": there are /v1/models, /v2 and /metrics"}`},
	} {
		t.Run(tt.path, func(t *testing.T) {
			code, body := c.call(t, http.MethodGet, tt.path, "")
			if code != tt.code || body != tt.want {
				t.Errorf("%d %s\nwant %d %s", code, body, tt.code, tt.want)
			}
		})
	}
}

// TestBatchEqualsSingle: for each of the 719 images, what a batch says of it is byte for byte what it says alone, in both
// protocols, and it is what the model itself says.
func TestBatchEqualsSingle(t *testing.T) {
	_, c := start(t, defaultOptions())
	waitReady(t, c)
	model, err := digits.Load()
	if err != nil {
		t.Fatal(err)
	}
	images := heldOut(t)

	type v1Answer struct {
		Predictions []json.RawMessage
	}
	type v2Answer struct {
		Outputs []struct {
			Name string
			Data []json.RawMessage
		}
	}
	post := func(path, body string, into any) {
		t.Helper()
		code, answer := c.call(t, http.MethodPost, path, body)
		if code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, code, answer)
		}
		if err := json.Unmarshal([]byte(answer), into); err != nil {
			t.Fatal(err)
		}
	}
	for start := 0; start < len(images); start += 32 {
		batch := images[start:min(start+32, len(images))]
		var v1 v1Answer
		post("/v1/models/digits:predict", bodyV1(batch), &v1)
		var v2 v2Answer
		post("/v2/models/digits/infer", bodyV2(batch), &v2)
		if len(v1.Predictions) != len(batch) || len(v2.Outputs) != 2 ||
			len(v2.Outputs[0].Data) != len(batch) || len(v2.Outputs[1].Data) != 10*len(batch) {
			t.Fatalf("batch of %d: %v, %v", len(batch), v1, v2)
		}
		for i, image := range batch {
			digit, err := model.Classify(image.Floats())
			if err != nil {
				t.Fatal(err)
			}
			var alone v1Answer
			post("/v1/models/digits/versions/1:predict", bodyV1(batch[i:i+1]), &alone)
			if diff := cmp.Diff(string(alone.Predictions[0]), string(v1.Predictions[i])); diff != "" {
				t.Errorf("image %d, v1 (-alone +batch):\n%s", start+i, diff)
			}
			var prediction struct {
				Label         int
				Probabilities [10]float32
			}
			if err := json.Unmarshal(v1.Predictions[i], &prediction); err != nil {
				t.Fatal(err)
			}
			if digits.Digit(prediction) != digit {
				t.Errorf("image %d: answered %v, the model says %v", start+i, prediction, digit)
			}

			var alone2 v2Answer
			post("/v2/models/digits/versions/1/infer", bodyV2(batch[i:i+1]), &alone2)
			if diff := cmp.Diff(alone2.Outputs[0].Data, v2.Outputs[0].Data[i:i+1]); diff != "" {
				t.Errorf("image %d, v2 label (-alone +batch):\n%s", start+i, diff)
			}
			if diff := cmp.Diff(alone2.Outputs[1].Data, v2.Outputs[1].Data[10*i:10*i+10]); diff != "" {
				t.Errorf("image %d, v2 probabilities (-alone +batch):\n%s", start+i, diff)
			}
			var numbers [10]float32
			for j := range numbers {
				if err := json.Unmarshal(alone2.Outputs[1].Data[j], &numbers[j]); err != nil {
					t.Fatal(err)
				}
			}
			if numbers != digit.Probabilities || string(alone2.Outputs[0].Data[0]) != strconv.Itoa(digit.Label) {
				t.Errorf("image %d: v2 answered %s %v, the model says %v", start+i, alone2.Outputs[0].Data[0], numbers, digit)
			}
		}
	}
}

// TestV2Forms: what a request may ask for beyond the plain form, and the exact answer's frame.
func TestV2Forms(t *testing.T) {
	_, c := start(t, defaultOptions())
	waitReady(t, c)
	images := heldOut(t)[:2]
	_, plain := c.call(t, http.MethodPost, "/v2/models/digits/infer", bodyV2(images))
	_, outputs, ok := strings.Cut(plain, `"outputs":`)
	if !ok {
		t.Fatal(plain)
	}
	label, probabilities, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(outputs, "["), "]}"), `,{"name":"probabilities"`)
	if !ok {
		t.Fatal(plain)
	}
	probabilities = `{"name":"probabilities"` + probabilities
	if want := fmt.Sprintf(`{"name":"label","datatype":"INT64","shape":[2],"data":[%d,%d]}`, images[0].Label, images[1].Label); label != want {
		t.Errorf("label %s\nwant  %s", label, want)
	}
	if want := `{"name":"probabilities","datatype":"FP32","shape":[2,10],"data":[`; !strings.HasPrefix(probabilities, want) {
		t.Errorf("probabilities %s", probabilities)
	}

	const head = `{"model_name":"digits","model_version":"1"`
	flat := numbers(images[0]) + "," + numbers(images[1])
	nested := row(images[0]) + "," + row(images[1])
	input := `{"name":"pixels","datatype":"FP32","shape":[2,64],"data":[` + flat + `]}`
	for _, tt := range []struct {
		name, body, want string
	}{
		{name: "flat", body: `{"inputs":[` + input + `]}`, want: head + `,"outputs":[` + label + `,` + probabilities + `]}`},
		{
			name: "nested, members in another order",
			body: `{"inputs":[{"data":[` + nested + `],"shape":[2,64],"parameters":{"a":[1]},"datatype":"FP32","name":"pixels"}]}`,
			want: head + `,"outputs":[` + label + `,` + probabilities + `]}`,
		},
		{name: "id", body: `{"id":"ü\"1","inputs":[` + input + `]}`, want: head + `,"id":"ü\"1","outputs":[` + label + `,` + probabilities + `]}`},
		{name: "empty id", body: `{"id":"","inputs":[` + input + `]}`, want: head + `,"id":"","outputs":[` + label + `,` + probabilities + `]}`},
		{name: "label only", body: `{"inputs":[` + input + `],"outputs":[{"name":"label"}]}`, want: head + `,"outputs":[` + label + `]}`},
		{
			name: "order of the outputs", body: `{"outputs":[{"name":"probabilities","parameters":{"binary_data":false}},{"name":"label"}],"inputs":[` + input + `]}`,
			want: head + `,"outputs":[` + probabilities + `,` + label + `]}`,
		},
		{name: "no outputs named means all", body: `{"outputs":[],"parameters":{},"inputs":[` + input + `]}`, want: head + `,"outputs":[` + label + `,` + probabilities + `]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, body := c.call(t, http.MethodPost, "/v2/models/digits/infer", tt.body)
			if code != http.StatusOK {
				t.Fatalf("%d %s", code, body)
			}
			if diff := cmp.Diff(tt.want, body); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestOtherName: the name of the model is part of every path and answer.
func TestOtherName(t *testing.T) {
	opts := defaultOptions()
	opts.ModelName = "zahlen"
	_, c := start(t, opts)
	waitReady(t, c)
	code, body := c.call(t, http.MethodPost, "/v2/models/zahlen/infer", bodyV2(heldOut(t)[:1]))
	if code != 200 || !strings.HasPrefix(body, `{"model_name":"zahlen",`) {
		t.Errorf("%d %s", code, body)
	}
	if code, body := c.call(t, http.MethodGet, "/v1/models", ""); code != 200 || body != `{"models":["zahlen"]}` {
		t.Errorf("%d %s", code, body)
	}
}

func TestMetrics(t *testing.T) {
	opts := defaultOptions()
	opts.Accelerator = acceleratorCost{Fixed: 1}
	s, c := start(t, opts)
	waitReady(t, c)
	images := heldOut(t)
	c.call(t, http.MethodPost, "/v1/models/digits:predict", bodyV1(images[:3]))
	c.call(t, http.MethodPost, "/v1/models/digits:predict", bodyV1(images[:1]))
	c.call(t, http.MethodPost, "/v2/models/digits/infer", bodyV2(images[:16]))
	c.call(t, http.MethodPost, "/v2/models/digits/infer", "{")
	c.call(t, http.MethodPost, "/v2/models/letters/infer", "{}")

	const want = `
# HELP modelserver_batch_size Images in each batch that was classified.
# TYPE modelserver_batch_size histogram
modelserver_batch_size_bucket{le="1"} 1
modelserver_batch_size_bucket{le="2"} 1
modelserver_batch_size_bucket{le="4"} 2
modelserver_batch_size_bucket{le="8"} 2
modelserver_batch_size_bucket{le="16"} 3
modelserver_batch_size_bucket{le="32"} 3
modelserver_batch_size_bucket{le="64"} 3
modelserver_batch_size_bucket{le="+Inf"} 3
modelserver_batch_size_sum 20
modelserver_batch_size_count 3
# HELP modelserver_images_total Images classified.
# TYPE modelserver_images_total counter
modelserver_images_total 20
# HELP modelserver_requests_running Inference requests being computed; with an emulated accelerator, the one that holds it.
# TYPE modelserver_requests_running gauge
modelserver_requests_running 0
# HELP modelserver_requests_total Inference requests that ended, by protocol (v1, v2) and HTTP status; 499 where the client had gone before its answer.
# TYPE modelserver_requests_total counter
modelserver_requests_total{code="200",protocol="v1"} 2
modelserver_requests_total{code="200",protocol="v2"} 1
modelserver_requests_total{code="400",protocol="v2"} 1
modelserver_requests_total{code="404",protocol="v2"} 1
# HELP modelserver_requests_waiting Inference requests waiting for the emulated accelerator.
# TYPE modelserver_requests_waiting gauge
modelserver_requests_waiting 0
`
	// Over HTTP, as Prometheus sees them.
	if err := testutil.ScrapeAndCompare(c.url+"/metrics", strings.NewReader(want),
		"modelserver_batch_size", "modelserver_images_total", "modelserver_requests_running",
		"modelserver_requests_total", "modelserver_requests_waiting"); err != nil {
		t.Error(err)
	}
	if got := testutil.ToFloat64(s.metrics.deviceBusy); got <= 0 {
		t.Errorf("emulated accelerator busy for %v s, want more than 0", got)
	}

	families, err := s.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
	}
	for _, name := range []string{
		"modelserver_request_duration_seconds", "modelserver_device_busy_seconds_total", "modelserver_build_info",
		"go_goroutines",
	} {
		if !slices.Contains(names, name) {
			t.Errorf("metric %s is missing", name)
		}
	}
	problems, err := testutil.GatherAndLint(s.metrics.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "modelserver_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}
