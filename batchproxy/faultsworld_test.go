//go:build unix

package batchproxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	prom "github.com/prometheus/common/model"

	"flyball/rules/peertest"
)

const (
	// replicaProcess is the environment variable that makes TestReplicaProcess a model server.
	replicaProcess = "BATCHPROXY_REPLICA"
	// idleClients is the one that makes TestIdleClients so many clients of an address, as number@host:port.
	idleClients = "BATCHPROXY_IDLE"
)

// TestReplicaProcess is a process with a model server that echoes, until its input ends.
func TestReplicaProcess(t *testing.T) {
	if os.Getenv(replicaProcess) == "" {
		t.Skip("is started by TestFaults")
	}
	fmt.Println(newModelServer(t).URL)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// TestIdleClients is a process with connections that have had one answer each and are kept, until its input ends.
func TestIdleClients(t *testing.T) {
	number, address, ok := strings.Cut(os.Getenv(idleClients), "@")
	if !ok {
		t.Skip("is started by TestFaults")
	}
	var many int
	if _, err := fmt.Sscan(number, &many); err != nil {
		t.Fatal(err)
	}
	moreFiles(many + 100)
	body := `{"instances":[1]}`
	for range many {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != 200 || string(got) != `{"predictions":[1]}` {
			t.Fatalf("%d %q, %v", answer.StatusCode, got, err)
		}
	}
	fmt.Println("connected")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// moreFiles has this process have so many files open, if it may, and returns how many it may.
func moreFiles(n int) int {
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) == nil && files.Cur < uint64(n) {
		files.Cur, files.Max = uint64(n), max(files.Max, uint64(n))
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files) // root alone above the hard limit
	}
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files)
	return int(min(files.Cur, 1<<20))
}

// child starts this test binary as another program, and returns the first line that it says.
func child(t *testing.T, test, variable, value string) (*os.Process, string) {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^"+test+"$")
	c.Env = append(os.Environ(), variable+"="+value)
	var errs bytes.Buffer
	c.Stderr = &errs
	in, inErr := c.StdinPipe()
	out, outErr := c.StdoutPipe()
	if err := errors.Join(inErr, outErr, c.Start()); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGCONT)
		in.Close()
		_, _ = io.Copy(io.Discard, lines)
		_ = c.Wait() // a killed one has none
	})
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %q, %v\n%s", test, line, err, errs.String())
	}
	return c.Process, strings.TrimSpace(line)
}

// testReplicaProcessStops: of two replicas that are processes one is stopped in the midst of its work, goes on later, and then is
// killed. Each request is answered with its own rows, or with 504 if it was with the one that stopped, which is sent nothing more
// until it goes on.
func testReplicaProcessStops(t *testing.T) {
	one, first := child(t, "TestReplicaProcess", replicaProcess, "1")
	_, second := child(t, "TestReplicaProcess", replicaProcess, "1")
	cfg := oneModel(Upstream{URL: first}, Upstream{URL: second})
	cfg.Models[0].Timeout = prom.Duration(time.Second)
	cfg.Models[0].Batch = BatchConfig{Mode: ModeGreedy, MaxSize: 4}
	cfg.Models[0].Outlier.BaseEject = prom.Duration(500 * time.Millisecond)
	cfg.Models[0].Outlier.LatencyFactor = 0 // a busy machine makes the other look slow, which would then be the one that is out
	f := start(t, cfg, Options{})
	ctx, stop := context.WithCancel(context.Background())
	var answered, late, lost atomic.Int64
	var clients sync.WaitGroup
	for c := range 12 {
		clients.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				got := f.post("/v1/models/m:predict", fmt.Sprintf(`{"instances":["%d/%d"]}`, c, i))
				switch {
				case got.code == 504:
					late.Add(1)
				case got.code == 502:
					lost.Add(1)
				case got.code != 200 || got.body != fmt.Sprintf(`{"predictions":["%d/%d"]}`, c, i):
					t.Errorf("client %d was answered %d %s %v", c, got.code, got.body, got.err)
					return
				default:
					answered.Add(1)
				}
			}
		})
	}
	more := func(what string) {
		t.Helper()
		n := answered.Load()
		until(t, what, func() bool { return answered.Load() > n+300 })
	}
	replica := f.models["m"].picker.replicas[0]
	state := func() (ejected bool, batches int) {
		m := f.models["m"]
		m.mu.Lock()
		defer m.mu.Unlock()
		return replica.outlier.halfOpen, replica.batches
	}
	more("there is load")
	if err := one.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ejections := f.metrics.ejections.WithLabelValues("m", ejectedTimeout)
	until(t, "the one that stopped is ejected", func() bool { return testutil.ToFloat64(ejections) == 1 })
	more("the other sends on")
	if n := late.Load(); n > 4 {
		t.Errorf("%d requests were too late, and 4 were with the one that stopped", n)
	}
	if err := one.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(t, "it serves again", func() bool { ejected, batches := state(); return !ejected && batches > 0 })
	more("both send")
	if err := one.Kill(); err != nil {
		t.Fatal(err)
	}
	more("the other sends on alone")
	stop()
	clients.Wait()
	if n := late.Load() + lost.Load(); n > 12 {
		t.Errorf("%d requests came to nothing", n)
	}
	t.Logf("%d answered, %d too late, %d lost", answered.Load(), late.Load(), lost.Load())
}

// testWrongAnswers: a replica that answers something else than it was asked for costs a retry at most, and gives nobody what is
// another's. What each client gets is what the replica says to that client's request alone.
func testWrongAnswers(t *testing.T) {
	const v1, oip, openAI = "/v1/models/m:predict", "/v2/models/m/infer", "/v1/embeddings"
	tensor := func(id string, rows int, data string) string {
		return fmt.Sprintf(`{"id":%q,"model_name":"m","outputs":[{"name":"y","shape":[%d],"datatype":"INT8","data":[%s]}]}`, id, rows, data)
	}
	own := map[string][2]string{ // requests and the answer to each alone
		v1:     {`{"instances":[%d]}`, `{"predictions":[%d]}`},
		oip:    {`{"id":"client-%[1]d","inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[%[1]d]}]}`, tensor("client-%[1]d", 1, "%[1]d")},
		openAI: {`{"model":"m","input":"%d"}`, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[%d]}]}`},
	}
	for _, tt := range []struct {
		name, path, answer string // to a batch of 7 and 8
		head               string // raw, instead of a right one
		calls              []int  // rows; nil where it is not told
	}{
		{"too few rows", v1, `{"predictions":[7]}`, "", []int{2, 1, 1}},
		{"too many rows", v1, `{"predictions":[7,8,9]}`, "", []int{2, 1, 1}},
		{"no rows", v1, `{"predictions":[]}`, "", []int{2, 1, 1}},
		{"another member", v1, `{"outputs":[7,8]}`, "", []int{2, 1, 1}},
		{"an error with 200", v1, `{"error":"no"}`, "", []int{2, 1, 1}},
		{"cut in its midst", v1, `{"predictions":[7`, "", []int{2, 1, 1}},
		{"not JSON", v1, `<html>`, "", []int{2, 1, 1}},
		{"nothing", v1, ``, "", []int{2, 1, 1}},
		{"too few rows of a tensor", oip, tensor("batch-1", 1, "7"), "", []int{2, 1, 1}},
		{"a shape with more rows than data", oip, tensor("batch-1", 2, "7"), "", []int{2, 1, 1}},
		{"data with more rows than the shape", oip, tensor("batch-1", 2, "7,8,9"), "", []int{2, 1, 1}},
		{"a scalar", oip, strings.Replace(tensor("batch-1", 2, "7,8"), "[2]", "[]", 1), "", []int{2, 1, 1}},
		{"outputs of different rows", oip, strings.Replace(tensor("batch-1", 2, "7,8"), `}]}`, `},{"name":"z","shape":[1],"datatype":"INT8","data":[1]}]}`, 1), "", []int{2, 1, 1}},
		{"the id of one client", oip, tensor("client-8", 2, "7,8"), "", []int{2}},
		{"an id that nobody has", oip, tensor("another", 2, "7,8"), "", []int{2}},
		{"two ids", oip, strings.Replace(tensor("batch-1", 2, "7,8"), `{`, `{"id":"client-7",`, 1), "", []int{2, 1, 1}},
		{"the wrong order of indexes", openAI, `{"object":"list","data":[{"object":"embedding","index":1,"embedding":[8]},{"object":"embedding","index":0,"embedding":[7]}]}`, "", []int{2}},
		{"one index for two", openAI, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[8]},{"object":"embedding","index":0,"embedding":[7]}]}`, "", []int{2, 1, 1}},
		{"an index too far", openAI, `{"object":"list","data":[{"object":"embedding","index":1,"embedding":[8]},{"object":"embedding","index":2,"embedding":[7]}]}`, "", []int{2, 1, 1}},
		{"an index that wraps", openAI, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[7]},{"object":"embedding","index":4294967297,"embedding":[8]}]}`, "", []int{2, 1, 1}},
		{"no index", openAI, `{"object":"list","data":[{"object":"embedding","embedding":[7]},{"object":"embedding","embedding":[8]}]}`, "", []int{2, 1, 1}},
		{"a length too short", v1, `{"predictions":[7,8]}`, "Content-Length: 17\r\n", []int{2, 1, 1}},
		{"a length too long", v1, `{"predictions":[7,8]}`, "Content-Length: 100\r\n", nil},
		{"two lengths", v1, `{"predictions":[7,8]}`, "Content-Length: 21\r\nContent-Length: 20\r\n", nil},
		{"a chunk cut off", v1, "", "Transfer-Encoding: chunked\r\n\r\n15\r\n{\"predictions\":[", nil},
		{"chunks without their end", v1, "", "Transfer-Encoding: chunked\r\n\r\n15\r\n{\"predictions\":[7,8]}\r\n", nil},
		{"headers without end", v1, "", "X: " + strings.Repeat("x", 2<<20) + "\r\n", nil},
		{"headers that are none", v1, "", "nothing\r\n", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newModelServer(t)
			var tried atomic.Int64
			s.before = func(w http.ResponseWriter, _ *http.Request, c call) bool {
				for i := range 2 {
					if n := 7 + i; c.rows == 1 || c.path == openAI {
						if one := fmt.Sprintf(own[c.path][0], n); c.body == one {
							fmt.Fprintf(w, own[c.path][1], n)
							return true
						}
					}
				}
				if tt.head == "" {
					_, _ = io.WriteString(w, tt.answer)
					return true
				}
				if tried.Add(1) > 1 { // the retry is answered
					fmt.Fprint(w, `{"predictions":[7,8]}`)
					return true
				}
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return true
				}
				defer conn.Close()
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%s\r\n%s", tt.head, tt.answer)
				return true
			}
			f := start(t, pairs(Upstream{URL: s.URL}), Options{})
			first := make(chan reply, 1)
			go func() { first <- f.post(tt.path, fmt.Sprintf(own[tt.path][0], 7)) }()
			f.queued(1)
			second := f.post(tt.path, fmt.Sprintf(own[tt.path][0], 8))
			for i, got := range []reply{<-first, second} {
				if got.code != 200 || !sameJSON(t, got.body, fmt.Sprintf(own[tt.path][1], 7+i)) {
					t.Errorf("client %d got %d %s %v", i, got.code, got.body, got.err)
				}
			}
			if tt.path == openAI {
				return // whose rows the test's server does not count
			}
			if rows := s.rows(); tt.calls != nil && !slices.Equal(rows, tt.calls) || len(rows) > 4 {
				t.Errorf("calls of %v rows, want %v", rows, tt.calls)
			}
		})
	}
}

// testUnaskedAnswers: where a replica sends two answers to one request the second is no other request's, and its connection is
// used no more. (One that comes when the next request is on its way already cannot be told from the answer to that: HTTP/1.1 has
// nothing that says which is which.)
func testUnaskedAnswers(t *testing.T) {
	s := newModelServer(t)
	closed := make(chan struct{})
	s.before = func(w http.ResponseWriter, _ *http.Request, c call) bool {
		if !strings.Contains(c.body, "twice") {
			return false
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		defer conn.Close()
		body := strings.Replace(c.body, "instances", "predictions", 1)
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"+"HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{\"predictions\":[\"evil\"]}", len(body), body)
		_, _ = io.Copy(io.Discard, conn)
		closed <- struct{}{}
		return true
	}
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch = BatchConfig{Mode: ModeGreedy, MaxSize: 1}
	f := start(t, cfg, Options{})
	for range 20 {
		want(t, f.post("/v1/models/m:predict", `{"instances":["twice"]}`), 200, `{"predictions":["twice"]}`)
		select {
		case <-closed:
		case <-time.After(20 * time.Second):
			t.Fatal("the connection is kept")
		}
		want(t, f.post("/v1/models/m:predict", `{"instances":["next"]}`), 200, `{"predictions":["next"]}`)
	}
}

// testSlowSenders: clients whose requests do not come on are told to go within the server's limits, hold no replica and keep no
// room, and others are answered meanwhile.
func testSlowSenders(t *testing.T) {
	limits := NewServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if limits.ReadHeaderTimeout <= 0 || limits.ReadTimeout <= 0 || limits.IdleTimeout <= 0 || limits.MaxHeaderBytes <= 0 || limits.WriteTimeout != 0 {
		t.Errorf("a server without limits: %+v", limits)
	}
	s := newModelServer(t)
	p, err := New(oneModel(Upstream{URL: s.URL}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(p)
	server.Config = limits
	server.Config.Handler = p
	server.Config.ReadHeaderTimeout, server.Config.ReadTimeout = limits.ReadHeaderTimeout/20, limits.ReadTimeout/60 // a test has no minute
	server.Start()
	t.Cleanup(server.Close)
	stop := running(p)
	t.Cleanup(func() { _ = stop() })
	f := &front{Proxy: p, t: t, url: server.URL, client: server.Client()}
	var closed, asked atomic.Int64
	var wg sync.WaitGroup
	for i := range 120 {
		begun, piece, code := "POST /v1/models/m:predict HTTP/1.1\r\nHost: m\r\n", "X-A: b\r\n", ""
		switch i % 4 {
		case 1:
			begun, piece, code = begun+"Content-Length: 100000\r\n\r\n{\"instances\":[", "1,", "HTTP/1.1 408 "
		case 2:
			begun, piece, code = begun+"Transfer-Encoding: chunked\r\n\r\n", "2\r\n1,\r\n", "HTTP/1.1 408 "
		case 3:
			begun, piece, code = strings.Replace(begun, ":predict", "/x", 1)+"Content-Length: 10000\r\n\r\n", "x", "HTTP/1.1 408 "
		}
		wg.Go(func() {
			conn, err := net.Dial("tcp", strings.TrimPrefix(server.URL, "http://"))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprint(conn, begun)
			asked.Add(1)
			done := make(chan struct{})
			go func() {
				defer close(done)
				answer := make([]byte, 64)
				n, _ := io.ReadFull(conn, answer[:13])
				if got := string(answer[:n]); got != code {
					t.Errorf("client %d: %q, want %q", i, got, code)
				}
			}()
			for {
				select {
				case <-done:
					closed.Add(1)
					return
				case <-time.After(20 * time.Millisecond): // the pace of the client
					_, _ = io.WriteString(conn, piece) // nobody may be there any more
				}
			}
		})
	}
	until(t, "all have begun", func() bool { return asked.Load() == 120 })
	for closed.Load() < 120 {
		if got := f.post("/v1/models/m:predict", `{"instances":["quick"]}`); got.code != 200 {
			t.Fatalf("beside slow clients: %d %s %v", got.code, got.body, got.err)
		}
	}
	wg.Wait()
	for _, c := range s.seen() {
		if !strings.Contains(c.body, "quick") {
			t.Errorf("a slow client's request is with the replica: %s %q", c.path, c.body)
		}
	}
	until(t, "all room is given back", func() bool { return p.buffers.held.Load() == 0 })
}

// testAnnouncedBodiesLeaveRoom: clients that announce bodies and send nothing do not take the room of one that sends.
func testAnnouncedBodiesLeaveRoom(t *testing.T) {
	cfg := oneModel(Upstream{URL: newModelServer(t).URL})
	cfg.Limits.MaxBody, cfg.Limits.MaxInflightBytes = 1<<20, 4<<20
	f := start(t, cfg, Options{})
	for range 100 { // as many as 64 would do with 64 KiB each
		conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "POST /v1/models/m:predict HTTP/1.1\r\nHost: m\r\nContent-Length: 1000000\r\n\r\n{")
	}
	until(t, "all have asked for room", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.active == 100 && f.buffers.held.Load() >= 100*crowdedGrant
	})
	body := `{"instances":["` + strings.Repeat("x", 200<<10) + `"]}`
	if got := f.post("/v1/models/m:predict", body); got.code != 200 {
		t.Errorf("beside 100 clients that send nothing: %d %.200s", got.code, got.body)
	}
}

// testSlowHTTPTest has slowhttptest try what it knows: slow headers, slow bodies and slow readers. It asks meanwhile whether the
// server is there, and must be told so.
func testSlowHTTPTest(t *testing.T) {
	program := peertest.Binary(t, "slowhttptest")
	f := start(t, oneModel(Upstream{URL: newModelServer(t).URL}), Options{})
	for mode, flags := range map[string][]string{
		"slow headers": {"-H", "-u", f.url + "/v1/models/m:predict", "-t", "POST"},
		"slow bodies":  {"-B", "-u", f.url + "/v1/models/m:predict", "-s", "65536"},
		"slow readers": {"-X", "-u", f.url + "/v1/models/m", "-k", "10", "-n", "1", "-w", "1", "-y", "16", "-z", "8"},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			out, err := exec.CommandContext(t.Context(), program, append(flags, "-c", "500", "-r", "500", "-i", "1", "-l", "4", "-p", "3")...).CombinedOutput()
			if text := string(out); err != nil || !strings.Contains(text, "service available") || strings.Contains(text, "service available:   NO") || strings.Contains(text, "Cannot establish") {
				t.Errorf("%v\n%s", err, text)
			}
			if got := f.post("/v1/models/m:predict", `{"instances":[1]}`); got.code != 200 {
				t.Errorf("after it: %d %s %v", got.code, got.body, got.err)
			}
		})
	}
}

// testIdleConnections: ten thousand connections without a request, of another process, cost a bounded amount of memory, and
// others are answered beside them.
func testIdleConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("opens thousands of connections")
	}
	const many = 10_000
	if may := moreFiles(many + 500); may < many+500 {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%d open files are allowed, and %d are needed: raise the limit (ulimit -n)", may, many+500)
		}
		t.Skipf("%d open files are allowed", may)
	}
	cfg := oneModel(Upstream{URL: newModelServer(t).URL})
	cfg.Models[0].Batch.Mode = ModeGreedy
	f := start(t, cfg, Options{})
	// What is reachable, and stacks: a span that is half empty is not counted, as how full they are depends on what ran before.
	memory := func() int64 {
		runtime.GC() // empties pools into their second halves,
		runtime.GC() // and those
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	bytes, goroutines := memory(), runtime.NumGoroutine()
	_, said := child(t, "TestIdleClients", idleClients, fmt.Sprintf("%d@%s", many, strings.TrimPrefix(f.url, "http://")))
	if said != "connected" {
		t.Fatal(said)
	}
	each := float64(memory()-bytes) / 1024 / float64(many)
	per := float64(runtime.NumGoroutine()-goroutines) / float64(many)
	t.Logf("%d idle connections: %.1f KiB and %.2f goroutines each", many, each, per)
	if each > 32 || per > 2.1 {
		t.Errorf("an idle connection costs %.1f KiB and %.2f goroutines, want 32 and 2 at most", each, per)
	}
	for i := range 50 {
		want(t, f.post("/v1/models/m:predict", fmt.Sprintf(`{"instances":[%d]}`, i)), 200, fmt.Sprintf(`{"predictions":[%d]}`, i))
	}
	until(t, "nothing is held by nobody's request", func() bool {
		s := f.Models()[0]
		return s.Queued+s.Running == 0 && f.buffers.held.Load() == 0
	})
}

// testStreamsOfHTTP2: of the requests that share a connection some are given up, and each of the others gets its own answer.
func testStreamsOfHTTP2(t *testing.T) {
	cfg := oneModel(Upstream{URL: newModelServer(t).URL})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 8, MaxWait: prom.Duration(time.Millisecond)}
	f := start(t, cfg, Options{})
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	var connections atomic.Int64
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		connections.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	f.client = &http.Client{Transport: &http.Transport{Protocols: protocols, DialContext: dial}}
	want(t, f.post("/v1/models/m:predict", `{"instances":[1]}`), 200, `{"predictions":[1]}`) // makes the connection
	var answered atomic.Int64
	var clients sync.WaitGroup
	for c := range 64 {
		clients.Go(func() {
			for i := range 20 {
				path := []string{"/v1/models/m:predict", "/v2/models/m/generate"}[i%2]
				ctx, cancel := context.WithCancel(context.Background())
				if i%5 == 4 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(c)*20*time.Microsecond)
				}
				got := f.send(ctx, "POST", path, fmt.Sprintf(`{"instances":["%d/%d"]}`, c, i))
				gone := ctx.Err() != nil
				cancel()
				switch {
				case got.err != nil && gone:
				case got.err != nil || got.code != 200 || got.body != fmt.Sprintf(`{"predictions":["%d/%d"]}`, c, i):
					t.Errorf("client %d got %d %s %v", c, got.code, got.body, got.err)
				default:
					answered.Add(1)
				}
			}
		})
	}
	clients.Wait()
	if n := connections.Load(); n > 8 || answered.Load() < 64*16 {
		t.Errorf("%d connections, %d answers", n, answered.Load())
	}
	f.running(0)
}

// testCurl has curl ask in each way that it knows, and compares what it is answered.
func testCurl(t *testing.T) {
	program := peertest.Binary(t, "curl")
	f := start(t, oneModel(Upstream{URL: newModelServer(t).URL}), Options{})
	dir := t.TempDir()
	large := filepath.Join(dir, "large.json")
	text := `"` + strings.Repeat("x", 3<<20) + `"`
	if err := os.WriteFile(large, []byte(`{"instances":[`+text+`]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	predict, passed := f.url+"/v1/models/m:predict", f.url+"/v2/models/m/generate"
	small := []string{"-d", `{"instances":["curl"]}`}
	for _, tt := range []struct {
		name    string
		args    []string
		version string
		want    string
	}{
		{"HTTP/1.1", append([]string{"--http1.1", predict}, small...), "1.1", `{"predictions":["curl"]}`},
		{"HTTP/1.0", append([]string{"--http1.0", predict}, small...), "1", `{"predictions":["curl"]}`},
		{"h2c with prior knowledge", append([]string{"--http2-prior-knowledge", predict}, small...), "2", `{"predictions":["curl"]}`},
		{"h2c by an upgrade", append([]string{"--http2", predict}, small...), "1.1", `{"predictions":["curl"]}`},
		{"Expect", append([]string{"--http1.1", "-H", "Expect: 100-continue", "--expect100-timeout", "20", predict}, small...), "1.1", `{"predictions":["curl"]}`},
		{"Expect of what is passed on", append([]string{"--http1.1", "-H", "Expect: 100-continue", "--expect100-timeout", "20", passed}, small...), "1.1", `{"predictions":["curl"]}`},
		{"chunks", append([]string{"--http1.1", "-H", "Transfer-Encoding: chunked", predict}, small...), "1.1", `{"predictions":["curl"]}`},
		{"a large body", []string{"--http1.1", "--expect100-timeout", "20", "--data-binary", "@" + large, predict}, "1.1", `{"predictions":[` + text + `]}`},
		{"a large body by h2c", []string{"--http2-prior-knowledge", "--data-binary", "@" + large, predict}, "2", `{"predictions":[` + text + `]}`},
		{"a large body from a pipe", []string{"--http1.1", "-X", "POST", "-T", large, "-H", "Transfer-Encoding: chunked", predict}, "1.1", `{"predictions":[` + text + `]}`},
		{"two on a connection", []string{"--http1.1", "-d", `{"instances":[1]}`, predict, "--next", "--http1.1", "-s", "-w", "%{http_code} %{http_version}", "-d", `{"instances":[2]}`, predict}, "1.1", `{"predictions":[1]}200 1.1{"predictions":[2]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"-sS", "--max-time", "60", "--noproxy", "*", "-w", "%{http_code} %{http_version}"}, tt.args...)
			out, err := exec.CommandContext(t.Context(), program, args...).Output()
			got := string(out)
			body, tail, _ := cutLast(got, "200 ")
			if err != nil || body != tt.want || !strings.HasPrefix(tail, tt.version) {
				t.Errorf("%v: %.300s, HTTP %q, want %.300s, HTTP/%s", err, got, tail, tt.want, tt.version)
			}
		})
	}
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// wrkChecks has each connection of wrk, one to a thread, send tags that it never repeats, and see that it is answered with the
// last one that it sent.
const wrkChecks = `
local id, n, last = 0, 0, ""
local counter = 1
function setup(thread)
  thread:set("id", counter)
  counter = counter + 1
  threads = threads or {}
  table.insert(threads, thread)
end
function init(args)
  wrong, right, first = 0, 0, ""
  n = 0
end
function request()
  n = n + 1
  last = id .. "/" .. n
  return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, '{"instances":["' .. last .. '"]}')
end
function response(status, headers, body)
  if status == 200 and body == '{"predictions":["' .. last .. '"]}' then
    right = right + 1
  else
    wrong = wrong + 1
    first = status .. " " .. body .. " to " .. last
  end
end
function done(summary, latency, requests)
  local r, w, f = 0, 0, ""
  for _, thread in ipairs(threads) do
    r, w = r + thread:get("right"), w + thread:get("wrong")
    f = f .. thread:get("first")
  end
  local e = summary.errors
  print(string.format('checked {"right":%d,"wrong":%d,"errors":%d,"first":"%s"}', r, w, e.connect + e.read + e.write + e.status + e.timeout, f:gsub('"', "'")))
end
`

// testWrk has wrk send for two seconds from 16 connections, to be batched and to be passed on, and check each answer.
func testWrk(t *testing.T) {
	program := peertest.Binary(t, "wrk")
	s := newModelServer(t)
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch = BatchConfig{Mode: ModeAdaptive, MaxSize: 8, MaxWait: prom.Duration(5 * time.Millisecond)}
	f := start(t, cfg, Options{})
	script := filepath.Join(t.TempDir(), "check.lua")
	if err := os.WriteFile(script, []byte(wrkChecks), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/models/m:predict", "/v2/models/m/generate"} {
		c := exec.CommandContext(t.Context(), program, "--threads=16", "--connections=16", "--duration=2s", "--timeout=10s", "--script="+script, f.url+path)
		c.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Join(filepath.Dir(program), "lib"))
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		_, line, _ := strings.Cut(string(out), "checked ")
		line, _, _ = strings.Cut(line, "\n")
		var checked struct {
			Right, Wrong, Errors int
			First                string
		}
		if err := json.Unmarshal([]byte(line), &checked); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s: %d answers", path, checked.Right)
		if checked.Wrong > 0 || checked.Errors > 0 || checked.Right < 100 {
			t.Errorf("%s: %+v", path, checked)
		}
	}
	merged := slices.ContainsFunc(s.rows(), func(n int) bool { return n > 1 })
	if !merged {
		t.Error("nothing was batched")
	}
}
