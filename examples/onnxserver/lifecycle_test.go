package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"flyball/onnxserver/models"
)

// process is a program that runs beside the test.
type process struct {
	cmd   *exec.Cmd
	log   *syncBuffer
	ended chan error // has what Wait returned
}

// launch starts a program, which is killed when the test ends.
func launch(t testing.TB, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(program, args...), log: &syncBuffer{}, ended: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.Env = append(os.Environ(), env...)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		p.ended <- p.cmd.Wait()
		close(over)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-over
		if t.Failed() {
			t.Logf("the output of %s:\n%s", program, p.log)
		}
	})
	return p
}

// launchServer starts this server as a process of its own and waits until it is ready.
func launchServer(t testing.TB, args ...string) (*process, client) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := launch(t, []string{"ONNXSERVER_MAIN=1", "FLYBALL_ORT_LIB=" + library(t)}, program,
		append([]string{"--web.listen-address=127.0.0.1:0"}, args...)...)
	address := regexp.MustCompile(`msg=listening address=(\S+)`)
	p.eventually(t, "it is ready", func() bool { return strings.Contains(p.log.String(), "msg=ready") })
	c := client{
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}},
		url:  "http://" + address.FindStringSubmatch(p.log.String())[1],
	}
	t.Cleanup(c.http.CloseIdleConnections)
	return p, c
}

// eventually waits for what a process does, and fails at once when it ends.
func (p *process) eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	eventually(t, what, func() bool {
		if len(p.ended) > 0 && !holds() {
			t.Fatalf("the process ended before %s", what)
		}
		return holds()
	})
}

// TestSIGTERM: a request whose body is still coming when the signal does is answered, new connections are not taken, and the
// process ends with 0.
func TestSIGTERM(t *testing.T) {
	p, c := launchServer(t, "--model=m="+file(t, "mlp_128"), "--shutdown-timeout=1m")
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	network := models.MLP128()
	in := rows(1, 1, network)
	body := bodyV2(t, network, in)
	fmt.Fprintf(conn, "POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", len(body))
	answers := bufio.NewReader(conn)
	first, err := http.ReadResponse(answers, nil)
	if err != nil || first.StatusCode != http.StatusContinue { // the server reads the body: the request is in flight
		t.Fatalf("%v %v", first, err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.eventually(t, "it takes no more connections", func() bool {
		another, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
		if err != nil {
			return true
		}
		_ = another.Close()
		return false
	})
	if _, err := io.WriteString(conn, body); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if response.StatusCode != 200 || err != nil || !strings.Contains(string(answer), `"shape":[1,10]`) {
		t.Errorf("%d %s %v", response.StatusCode, answer, err)
	}
	if err := <-p.ended; err != nil {
		t.Errorf("the process ended with %v", err)
	}
	if !strings.Contains(p.log.String(), "msg=stopped") {
		t.Error("it did not say that it stopped")
	}
}

// TestExitCodes: 2 for a wrong command line, 1 where it cannot serve.
func TestExitCodes(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"--help", 0, "usage: onnxserver"},
		{"--threads=x", 2, "onnxserver: "},
		{"--model=none.onnx --ort.library=nowhere.so", 1, "onnxserver: ONNX Runtime: "},
	} {
		cmd := exec.Command(program, strings.Fields(tt.args)...)
		cmd.Env = append(os.Environ(), "ONNXSERVER_MAIN=1")
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != tt.code || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s: exit %d, %s", tt.args, code, out)
		}
	}
}

// TestOneAtATime: a model behaves as a device: while a run has it the others wait in line, and who leaves the line costs nothing.
func TestOneAtATime(t *testing.T) {
	s, c := start(t, defaultOptions(), written(t, "hand", byHand().ONNX()))
	m := s.models[0]
	if err := m.slots.Acquire(t.Context(), 1); err != nil { // as a run that goes on
		t.Fatal(err)
	}
	type answer struct {
		code int
		body string
		err  error
	}
	answers := make(chan answer, 2)
	post := func(ctx context.Context) {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/v1/models/hand:predict", strings.NewReader(`{"instances":[[1,2],[0,0]]}`))
		if err != nil {
			answers <- answer{err: err}
			return
		}
		response, err := c.http.Do(request)
		if err != nil {
			answers <- answer{err: err}
			return
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		answers <- answer{response.StatusCode, string(body), err}
	}
	leaving, leave := context.WithCancel(t.Context())
	defer leave()
	go post(t.Context())
	go post(leaving)
	waiting := func(n float64) func() bool { return func() bool { return testutil.ToFloat64(m.metrics.waiting) == n } }
	eventually(t, "two wait", waiting(2))
	leave()
	if a := <-answers; a.err == nil {
		t.Fatalf("an answer for nobody: %+v", a)
	}
	eventually(t, "one waits", waiting(1))
	eventually(t, "the one that left is counted", func() bool {
		return testutil.ToFloat64(s.metrics.requests.WithLabelValues("hand", "v1", "499")) == 1
	})
	m.slots.Release(1)
	if a := <-answers; a.err != nil || a.body != `{"predictions":[[136.5],[7.5]]}` {
		t.Fatalf("%+v", a)
	}
	eventually(t, "it is counted", func() bool {
		return testutil.ToFloat64(s.metrics.requests.WithLabelValues("hand", "v1", "200")) == 1
	})
	if n := testutil.ToFloat64(m.metrics.rows); n != 2 {
		t.Errorf("%v rows, want 2", n)
	}
	if busy := testutil.ToFloat64(m.metrics.busy); busy <= 0 {
		t.Errorf("busy for %v s", busy)
	}
	_, text := c.call(t, http.MethodGet, "/metrics", "")
	for _, want := range []string{
		`onnxserver_batch_size_bucket{model="hand",le="1"} 0`, `onnxserver_batch_size_bucket{model="hand",le="2"} 1`,
		`onnxserver_request_duration_seconds_count{model="hand"} 2`, `onnxserver_requests_running{model="hand"} 0`,
		`onnxserver_requests_total{code="200",model="hand",protocol="v2"} 0`, "onnxserver_build_info",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

// TestNotReadyOnceStopped: who asks while it ends, on a connection that is still open, hears that it is not ready.
func TestNotReadyOnceStopped(t *testing.T) {
	var s *server
	t.Run("ready until it is told to stop", func(t *testing.T) { s, _ = start(t, defaultOptions(), written(t, "hand", byHand().ONNX())) })
	if s == nil {
		t.Skip("no server: see above")
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/health/ready", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("ready: %d, want 503", w.Code)
	}
}
