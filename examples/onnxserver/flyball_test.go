package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	prom "github.com/prometheus/common/model"

	"flyball/onnxserver/models"
)

// built is flyball, built once.
var built struct {
	sync.Once
	err error
}

// flyballProgram is the real one, built from the repository that this is in.
func flyballProgram(t testing.TB) string {
	t.Helper()
	file(t, "mlp_128") // makes the folder
	path := filepath.Join(files.dir, "flyball")
	built.Do(func() {
		build := exec.Command("go", "build", "-o", path, "./cmd/flyball")
		build.Dir = "../.."
		if out, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build flyball: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return path
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// launchFlyball starts flyball's proxy before a server of these models, with the defaults for everything else.
func launchFlyball(t testing.TB, upstream client, names ...string) (proxy client, metrics string) {
	t.Helper()
	config := "batchproxy:\n  models:\n"
	for _, name := range names {
		config += fmt.Sprintf("  - {name: %s, upstreams: [{url: %q}]}\n", name, upstream.url)
	}
	path := filepath.Join(t.TempDir(), "flyball.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	proxyAddress, web := freeAddress(t), freeAddress(t)
	p := launch(t, nil, flyballProgram(t), "run", "--role=batchproxy", "--config.file="+path,
		"--web.listen-address="+web, "--batchproxy.listen-address="+proxyAddress)
	proxy = client{http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}, url: "http://" + proxyAddress}
	t.Cleanup(proxy.http.CloseIdleConnections)
	p.eventually(t, "flyball is ready", func() bool {
		code, _, _, err := proxy.send(http.MethodGet, "/v2/models/"+names[0]+"/ready", nil, nil)
		return err == nil && code == 200
	})
	return proxy, "http://" + web
}

// family is one metric of a server.
func family(t testing.TB, url, name string) *dto.MetricFamily {
	t.Helper()
	response, err := http.Get(url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(prom.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	f := families[name]
	if f == nil {
		t.Fatalf("%s has no %s", url, name)
	}
	return f
}

// cpu is how many CPU seconds a server has used.
func cpu(t testing.TB, url string) float64 {
	t.Helper()
	return family(t, url, "process_cpu_seconds_total").GetMetric()[0].GetCounter().GetValue()
}

// histogram gives the count and the sum of one model's histogram.
func histogram(t testing.TB, url, name, served string) (count, sum float64) {
	t.Helper()
	for _, m := range family(t, url, name).GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "model" && l.GetValue() == served {
				count += float64(m.GetHistogram().GetSampleCount())
				sum += m.GetHistogram().GetSampleSum()
			}
		}
	}
	return count, sum
}

// TestBehindFlyball: 64 clients at once through flyball's proxy. Each has a row of its own, so that an answer that belongs to another
// shows, and batches did form, at the proxy and at the model.
func TestBehindFlyball(t *testing.T) {
	_, direct := launchServer(t, "--model="+file(t, "mlp_128"), "--model="+file(t, "mlp_768"))
	proxy, web := launchFlyball(t, direct, "mlp_128", "mlp_768")
	const clients, each = 64, 12
	for _, network := range []*models.Network{models.MLP128(), models.MLP768()} {
		t.Run(network.Name, func(t *testing.T) {
			want := make([][]float64, clients)
			bodies := make([]string, clients)
			for i := range want {
				in := rows(uint64(i), 1, network)
				bodies[i] = bodyV2(t, network, in)
				want[i] = network.Infer(in[0])
			}
			apart := closest(want)
			if apart < 100*tolerance {
				t.Fatalf("two answers are %g apart, too near to be told from one another", apart)
			}
			var wg sync.WaitGroup
			for c := range clients {
				wg.Go(func() {
					for r := range each {
						got, err := proxy.ask(network.Name, bodies[c], 1)
						if err != nil {
							t.Errorf("client %d, request %d: %v", c, r, err)
							return
						}
						if d := distance(want[c], got[0]); d > tolerance {
							t.Errorf("client %d, request %d: %g away from its answer; that of another is %g away", c, r, d, apart)
						}
					}
				})
			}
			wg.Wait()
			batches, items := histogram(t, web, "flyball_batchproxy_batch_size", network.Name)
			runs, ran := histogram(t, direct.url, "onnxserver_batch_size", network.Name)
			t.Logf("%g rows in %g batches, and in %g runs", items, batches, runs)
			if items != clients*each || ran != items {
				t.Errorf("%g rows in the proxy's batches and %g in the runs, want %d", items, ran, clients*each)
			}
			if batches >= items || runs != batches {
				t.Errorf("%g batches, %g runs for %g rows: nothing was batched", batches, runs, items)
			}
		})
	}

	// What the proxy does not merge goes through as it is: binary tensors, metadata and errors.
	for _, tt := range []struct{ name, method, path, head, body string }{
		{name: "metadata", method: http.MethodGet, path: "/v2/models/mlp_128"},
		{name: "fault", method: http.MethodPost, path: "/v2/models/mlp_128/infer", body: `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]}`},
		{
			name: "binary", method: http.MethodPost, path: "/v2/models/mlp_128/infer",
			head: `{"parameters":{"binary_data_output":true},"inputs":[{"name":"x","datatype":"FP32","shape":[1,128],"parameters":{"binary_data_size":512}}]}`,
			body: strings.Repeat("\x00\x00\x80\x3f", 128),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			header := http.Header{}
			if tt.head != "" {
				header.Set("Inference-Header-Content-Length", strconv.Itoa(len(tt.head)))
			}
			wantCode, _, want, err := direct.send(tt.method, tt.path, header, []byte(tt.head+tt.body))
			if err != nil {
				t.Fatal(err)
			}
			code, _, got, err := proxy.send(tt.method, tt.path, header, []byte(tt.head+tt.body))
			if err != nil || code != wantCode || !bytes.Equal(got, want) {
				t.Errorf("%d %v, direct %d (-direct +proxy):\n%s", code, err, wantCode, cmp.Diff(string(want), string(got)))
			}
		})
	}
}

// closest is how near any two answers are to one another.
func closest(answers [][]float64) float64 {
	nearest := distance(answers[0], answers[1])
	for i, a := range answers {
		for _, b := range answers[:i] {
			nearest = min(nearest, distance(a, b))
		}
	}
	return nearest
}

// BenchmarkGain is what the proxy gains with 64 clients, each with one request at a time, on a model where batching pays and on
// one where it does not. Client, proxy and server share the machine; where others do too, the CPU time that each request costs tells
// more than requests/s.
//
//	go test -run '^$' -bench Gain -benchtime 4000x .
func BenchmarkGain(b *testing.B) {
	const clients = 64
	_, direct := launchServer(b, "--model="+file(b, "mlp_768"), "--model="+file(b, "conv_224"))
	proxy, web := launchFlyball(b, direct, "mlp_768", "conv_224")
	for _, network := range []*models.Network{models.MLP768(), models.Conv224()} {
		var bodies [][]byte
		for i := range 16 {
			bodies = append(bodies, []byte(bodyV2(b, network, rows(uint64(i), 1, network))))
		}
		path := "/v2/models/" + network.Name + "/infer"
		for _, way := range []struct {
			name string
			client
		}{{"direct", direct}, {"proxy", proxy}} {
			b.Run(network.Name+"/"+way.name, func(b *testing.B) {
				before, rowsBefore := histogram(b, direct.url, "onnxserver_batch_size", network.Name)
				serverBefore, proxyBefore := cpu(b, direct.url), cpu(b, web)
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for range clients {
					wg.Go(func() {
						for {
							i := int(next.Add(1)) - 1
							if i >= b.N {
								return
							}
							code, _, answer, err := way.send(http.MethodPost, path, nil, bodies[i%len(bodies)])
							if err != nil || code != 200 {
								b.Errorf("%d %v %s", code, err, short(string(answer)))
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				after, rowsAfter := histogram(b, direct.url, "onnxserver_batch_size", network.Name)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
				b.ReportMetric((cpu(b, direct.url)-serverBefore)*1e3/float64(b.N), "server-ms/request")
				b.ReportMetric((cpu(b, web)-proxyBefore)*1e3/float64(b.N), "proxy-ms/request")
				b.ReportMetric((rowsAfter-rowsBefore)/(after-before), "rows/run")
			})
		}
	}
}

// TestCalibrateAsks: flyball measures a model without being given a request, by what the server says that the model takes.
func TestCalibrateAsks(t *testing.T) {
	_, direct := launchServer(t, "--model="+file(t, "mlp_128"), "--model="+file(t, "embedding"))
	for name, want := range map[string]string{
		"mlp_128":   "made up: x FP32 [1,128];",
		"embedding": "made up: ids INT64 [1,5]; scale FP32 [1,1];",
	} {
		out, err := exec.Command(flyballProgram(t), "calibrate", direct.url, "--model="+name, "--open-dimension=5", "--sizes=1,4", "--max-duration=1s").CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v\n%s\nwant %s", name, err, out, want)
		}
	}
}
