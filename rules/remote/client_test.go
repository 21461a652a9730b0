package remote

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"flyball/rules"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var t0 = time.Date(2026, 1, 5, 8, 0, 0, 250e6, time.UTC)

// vector is an answer with these series, each as the labels and value of its JSON.
func vector(series ...string) string {
	return `{"status":"success","data":{"resultType":"vector","result":[` + strings.Join(series, ",") + `]}}`
}

const seven = `{"metric":{"__name__":"up","job":"a"},"value":[1767600000.25,"7"]}`

// serve answers every request by f until the test ends.
func serve(t testing.TB, f http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.URL
}

func answers(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, text)
	}
}

func client(t testing.TB, url string, change ...func(*Config)) *Client {
	t.Helper()
	c := DefaultConfig()
	c.URL = url
	for _, f := range change {
		f(&c)
	}
	client, err := New(c, Options{UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// patient is for answers that a busy machine takes longer for than a query may.
func patient(c *Config) { c.Timeout = model.Duration(5 * time.Minute) }

func told(samples []rules.Sample) string {
	var lines []string
	for _, s := range samples {
		lines = append(lines, fmt.Sprintf("%s %g @%d", s.Labels, s.Value, s.Time.UnixMilli()))
	}
	return strings.Join(lines, "\n")
}

// TestRequest: what is sent is what the API expects, and what the user adds.
func TestRequest(t *testing.T) {
	var got []string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		got = append(got, r.Method+" "+r.URL.Path, r.Form.Encode(), r.Header.Get("X-Scope-OrgID")+" "+r.UserAgent()+" "+r.Header.Get("Idempotency-Key"))
		answers(vector(seven))(w, r)
	})
	c := client(t, url+"/select/0/prometheus/", func(c *Config) {
		c.Headers = map[string]string{"X-Scope-OrgID": "team-a"}
		c.Params = map[string]Values{"dedup": {"true"}, "replicaLabels[]": {"a", "b"}}
	})
	samples, err := c.Query(t.Context(), "up == 7", t0, 45500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{__name__="up", job="a"} 7 @` + fmt.Sprint(t0.UnixMilli()); told(samples) != want {
		t.Errorf("got %s, want %s", told(samples), want)
	}
	want := []string{
		"POST /select/0/prometheus/api/v1/query",
		"dedup=true&lookback_delta=45.5&query=up+%3D%3D+7&replicaLabels%5B%5D=a&replicaLabels%5B%5D=b&time=1767600000.25", "team-a test ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestGetWherePostIsRefused: the first answer decides for all that follow.
func TestGetWherePostIsRefused(t *testing.T) {
	var methods []string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		methods = append(methods, r.Method)
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		if r.URL.Query().Get("query") != "up" {
			t.Errorf("asked %s", r.URL)
		}
		answers(vector(seven))(w, r)
	})
	c := client(t, url)
	for i := range 2 {
		if _, err := c.Query(t.Context(), "up", t0.Add(time.Duration(i)*time.Second), 0); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]string{"POST", "GET", "GET"}, methods); diff != "" {
		t.Error(diff)
	}
}

func TestAnswers(t *testing.T) {
	for _, tt := range []struct{ name, answer, want string }{
		{"one", vector(seven), `{__name__="up", job="a"} 7`},
		{"none", vector(), ""},
		{"no result", `{"status":"success","data":{"resultType":"vector","result":null}}`, ""},
		{"not numbers", vector(`{"metric":{"a":"1"},"value":[0,"NaN"]}`, `{"metric":{"a":"2"},"value":[0,"+Inf"]}`, `{"metric":{"a":"3"},"value":[0,"-Inf"]}`, `{"metric":{},"value":[0,"1e-3"]}`), "{a=\"1\"} NaN\n{a=\"2\"} +Inf\n{a=\"3\"} -Inf\n{} 0.001"},
		{"out of range", vector(`{"metric":{},"value":[0,"1e999"]}`), "{} +Inf"},
		{"scalar", `{"data":{"result":[1435781451.781,"5"],"resultType":"scalar"},"status":"success"}`, "{} 5"},
		{"labels", vector(`{"metric":{"z":"","b":"\u00e9\"\ud83d\ude00","a":"x"},"value":[1,"2"],"more":{"x":[1,true,null,-1.5e+3]}}`), `{a="x", b="é\"😀"} 2`},
		{"about the query", strings.TrimSuffix(vector(seven), "}") + `,"warnings":["PromQL warning: quantile"],"infos":["PromQL info: not a counter"]}`, `{__name__="up", job="a"} 7`},
		{"whole", `{"status":"success","isPartial":false,"data":{"resultType":"vector","result":[` + seven + `]},"stats":{"seriesFetched":"1"}}`, `{__name__="up", job="a"} 7`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			samples, err := client(t, serve(t, answers(tt.answer))).Query(t.Context(), "up", t0, 0)
			if err != nil {
				t.Fatal(err)
			}
			want := ""
			if tt.want != "" {
				stamp := fmt.Sprintf(" @%d", t0.UnixMilli())
				want = strings.ReplaceAll(tt.want, "\n", stamp+"\n") + stamp
			}
			if got := told(samples); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// TestNoAnswer: whatever is not a whole answer is an error that says what to do, and costs a bounded amount of reading.
func TestNoAnswer(t *testing.T) {
	page := func(status int, kind, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}
	}
	large := func(length bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if length {
				w.Header().Set("Content-Length", fmt.Sprint(32<<20))
			}
			_, _ = io.WriteString(w, `{"status":"success","data":{"resultType":"vector","result":[`)
			for i := 0; i < 32<<20; i += 1 << 10 {
				if _, err := fmt.Fprintf(w, `{"metric":{"n":"%d","x":"%s"},"value":[0,"1"]},`, i, strings.Repeat("y", 980)); err != nil {
					return // refused, as it should be
				}
			}
		}
	}
	bomb := bomb(t)
	for _, tt := range []struct {
		name   string
		serve  http.HandlerFunc
		reason reason
		want   string
		bytes  float64 // that may be read at the most
	}{
		{"503", page(503, "text/plain", "upstream is down"), refused, "it answered 503 Service Unavailable", 1e3},
		{"422", page(422, "application/json", `{"status":"error","errorType":"execution","error":"too many samples"}`), refused, "it answered 422 Unprocessable Entity: execution: too many samples", 1e3},
		{"a long error", page(400, "application/json", `{"status":"error","error":"`+strings.Repeat("long ", 1000)+`"}`), refused, strings.Repeat("long ", 40) + "...", 1e4},
		{"an endless error", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<10)); err != nil {
					return
				}
			}
		}, unusable, "it is not JSON", 1e5},
		{"an error with 200", answers(`{"status":"error","errorType":"bad_data","error":"no"}`), refused, "it answered: bad_data: no", 1e3},
		{"no rights", page(401, "text/plain", "no"), refused, "401 Unauthorized: are the credentials right?", 1e3},
		{"no API", page(404, "text/plain", "404 page not found"), refused, "404 Not Found: is the URL right", 1e3},
		{"a login page", page(200, "text/html; charset=utf-8", "<html>"), unusable, "a page for people (text/html)", 1e3},
		{"not JSON", answers("hello"), unusable, `at byte 1: 'h' where '{' is expected`, 1e3},
		{"other JSON", answers(`{"status":"success","data":[]}`), unusable, `'[' where '{' is expected`, 1e3},
		{"no data", answers(`{"status":"success"}`), unusable, `resultType is ""`, 1e3},
		{"no result", answers(`{"status":"success","data":{"resultType":"vector"}}`), unusable, `not that of a query: resultType is "vector"`, 1e3},
		{"two results", answers(`{"status":"success","data":{"resultType":"vector","result":[],"result":[]}}`), unusable, "not that of a query", 1e3},
		{"no status", answers(`{}`), unusable, `its status is ""`, 1e3},
		{"half of it", answers(vector(seven)[:80]), unusable, "it was cut off after 80 bytes", 1e3},
		{"two answers", answers(vector(seven) + vector()), unusable, `'{' behind its end`, 1e3},
		{"cut by length", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			answers(vector(seven)[:80])(w, r)
		}, unusable, "it was cut off after 80 bytes", 1e3},
		{"cut in a chunk", func(w http.ResponseWriter, r *http.Request) {
			answers(vector(seven)[:80])(w, r)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, unusable, "it was cut off after 80 bytes", 1e3},
		{"hung up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, unreachable, "EOF", 0},
		{"a series twice", answers(vector(seven, seven)), unusable, `it has the series {__name__="up", job="a"} twice`, 1e3},
		{"a label twice", answers(vector(`{"metric":{"a":"1","a":"2"},"value":[0,"1"]}`)), unusable, "the label a twice", 1e3},
		{"not a value", answers(vector(`{"metric":{},"value":[0,"many"]}`)), unusable, `"many" is not a value`, 1e3},
		{"no value", answers(vector(`{"metric":{}}`)), unusable, "a series without a value", 1e3},
		{"a range", answers(`{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[0,"1"],[1,"2"]]}]}}`), unusable, "make one value of them", 1e3},
		{"a string", answers(`{"status":"success","data":{"resultType":"string","result":[0,"text"]}}`), unusable, "it gives a string", 1e3},
		{"a histogram", answers(vector(`{"metric":{"a":"b"},"histogram":[0,{"count":"1","buckets":[[0,"1","2","3"]]}]}`)), unusable, `{a="b"} is a native histogram`, 1e3},
		{"partial, Thanos", answers(strings.TrimSuffix(vector(seven), "}") + `,"warnings":["PromQL info: x","receive series from store: deadline exceeded"]}`), partial, "a part of the data only: receive series from store", 1e3},
		{"partial, VictoriaMetrics", answers(`{"status":"success","isPartial":true,"data":{"resultType":"vector","result":[` + seven + `]}}`), partial, "isPartial", 1e3},
		{"32 MB that it tells", large(true), unusable, "larger than 16MiB (max_bytes)", 1e3},
		{"32 MB that it does not tell", large(false), unusable, "more than 10000 series (max_series)", 11 << 20},
		{"32 MB of nothing", func(w http.ResponseWriter, _ *http.Request) {
			for range 32 << 10 {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<10)); err != nil {
					return
				}
			}
		}, unusable, "larger than 16MiB (max_bytes)", 16<<20 + 1},
		{"a bomb of gzip", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb)
		}, unusable, "larger than 16MiB (max_bytes)", 1e5},
		{"not gzip", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			answers(vector())(w, r)
		}, unusable, "not the gzip that it says", 1e3},
		{"another encoding", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "zstd")
			answers(vector())(w, r)
		}, unusable, "compressed by zstd", 1e3},
		{"a long string", answers(vector(`{"metric":{"a":"` + strings.Repeat("x", 1<<20) + `"},"value":[0,"1"]}`)), unusable, "a string of more than 65536 bytes", 1e5},
		{"many labels", answers(vector(`{"metric":{` + strings.Repeat(`"a":"",`, 1000) + `"b":""},"value":[0,"1"]}`)), unusable, "more than 256 labels", 1e5},
		{"deep", answers(`{"x":` + strings.Repeat("[", 1e5)), unusable, "more than 32 levels", 1e5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := client(t, serve(t, tt.serve), patient)
			samples, err := c.Query(t.Context(), "up", t0, 0)
			if err == nil || samples != nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v and %v, want %q", samples, err, tt.want)
			}
			if len(err.Error()) > 500 {
				t.Errorf("a text of %d bytes", len(err.Error()))
			}
			if n := testutil.ToFloat64(c.metrics.failed.WithLabelValues(string(tt.reason))); n != 1 {
				t.Errorf("not counted as %s: %v", tt.reason, err)
			}
			if n := testutil.ToFloat64(c.metrics.bytes); n > tt.bytes {
				t.Errorf("read %g bytes, want at most %g", n, tt.bytes)
			}
		})
	}
}

// bomb is 256 MiB of white space, which JSON allows anywhere, in 256 KiB.
func bomb(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	for range 256 {
		if _, err := z.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestGzip(t *testing.T) {
	c := client(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "gzip" {
			t.Errorf("accepts %q", r.Header.Get("Accept-Encoding"))
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, vector(seven))
		_ = z.Close()
	}))
	if samples, err := c.Query(t.Context(), "up", t0, 0); err != nil || len(samples) != 1 {
		t.Errorf("got %v, %v", samples, err)
	}
}

func TestDown(t *testing.T) {
	s := httptest.NewServer(answers(vector()))
	s.Close()
	c := client(t, s.URL)
	if _, err := c.Query(t.Context(), "up", t0, 0); err == nil || !strings.Contains(err.Error(), "connection refused") ||
		testutil.ToFloat64(c.metrics.failed.WithLabelValues(string(unreachable))) != 1 {
		t.Errorf("got %v", err)
	}
}

func TestSlow(t *testing.T) {
	c := client(t, serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // then the server sees the end of the connection
		<-r.Context().Done()
	}), func(c *Config) { c.Timeout = model.Duration(30 * time.Millisecond) })
	if _, err := c.Query(t.Context(), "up", t0, 0); err == nil || !strings.Contains(err.Error(), "no answer within 30ms") ||
		testutil.ToFloat64(c.metrics.failed.WithLabelValues(string(timeout))) != 1 {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("stopped"))
	if _, err := c.Query(ctx, "up", t0.Add(time.Second), 0); err == nil || !strings.HasSuffix(err.Error(), "stopped") {
		t.Errorf("got %v for the caller's own end", err)
	}
}

// TestRetryAfter: a server that asks for it is left alone, by any query, and asked again after.
func TestRetryAfter(t *testing.T) {
	var asked atomic.Int64
	var after atomic.Value
	after.Store("1")
	c := client(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 1 {
			answers(vector(seven))(w, r)
			return
		}
		w.Header().Set("Retry-After", after.Load().(string))
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	ask := func(expr string) error {
		_, err := c.Query(t.Context(), expr, t0, 0)
		return err
	}
	if err := ask("a"); err == nil || !strings.Contains(err.Error(), "429 Too Many Requests") {
		t.Errorf("got %v", err)
	}
	if err := ask("b"); err == nil || !strings.Contains(err.Error(), "it answered 429 Too Many Requests with Retry-After") || asked.Load() != 1 {
		t.Errorf("got %v after %d requests", err, asked.Load())
	}
	c.deciding.mu.Lock()
	left := time.Until(c.deciding.resume)
	c.deciding.resume = time.Now() // as if the second had passed
	c.deciding.mu.Unlock()
	if left <= 0 || left > time.Second {
		t.Errorf("left alone for %s", left)
	}
	if err := ask("c"); err != nil || asked.Load() != 2 {
		t.Errorf("got %v after %d requests", err, asked.Load())
	}
}

func TestRetryAfterForms(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": 0, "30": 30 * time.Second, "86400": time.Minute, "99999999999": 0, "-5": 0, "soon": 0,
		t0.Add(20 * time.Second).Format(http.TimeFormat): 20*time.Second - 250*time.Millisecond,
		t0.Add(-time.Hour).Format(http.TimeFormat):       0,
		t0.Add(time.Hour).Format(http.TimeFormat):        time.Minute,
	} {
		if got := retryAfter(header, t0); got != want {
			t.Errorf("%q: got %s, want %s", header, got, want)
		}
	}
}

// TestShared: equal queries of one time are asked once, others each for itself; failures are shared too.
func TestShared(t *testing.T) {
	var asked atomic.Int64
	started, release := make(chan struct{}, 100), make(chan struct{})
	c := client(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		started <- struct{}{}
		<-release
		if r.FormValue("query") == "broken" {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		answers(vector(seven))(w, r)
	}))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if samples, err := c.Query(t.Context(), "up", t0, 0); err != nil || len(samples) != 1 {
				t.Errorf("got %v, %v", samples, err)
			}
		})
	}
	<-started
	close(release)
	all.Wait()
	for _, q := range []struct {
		expr string
		at   time.Time
	}{{"up", t0}, {"up", t0.Add(time.Second)}, {"up", t0}, {"broken", t0}, {"broken", t0}} {
		_, _ = c.Query(t.Context(), q.expr, q.at, 0)
	}
	if n, shared := asked.Load(), testutil.ToFloat64(c.metrics.shared); n != 3 || shared != 22 {
		t.Errorf("asked %d times, shared %g, want 3 and 22", n, shared)
	}
}

// TestSharedWithoutTheFirst: who waits for the answer to somebody who is stopped asks for itself.
func TestSharedWithoutTheFirst(t *testing.T) {
	var asked atomic.Int64
	started := make(chan struct{}, 2)
	c := client(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		started <- struct{}{}
		if asked.Add(1) == 1 {
			<-r.Context().Done()
			return
		}
		answers(vector(seven))(w, r)
	}))
	first, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := c.Query(first, "up", t0, 0); err == nil {
			t.Error("the first got an answer")
		}
	})
	<-started
	all.Go(func() {
		if samples, err := c.Query(t.Context(), "up", t0, 0); err != nil || len(samples) != 1 {
			t.Errorf("got %v, %v", samples, err)
		}
	})
	stop()
	all.Wait()
}

// TestMemoIsBounded: what is remembered does not grow with times, queries or series.
func TestMemoIsBounded(t *testing.T) {
	m := newMemo(100)
	ask := func(n int) func() ([]rules.Sample, error) {
		return func() ([]rules.Sample, error) { return make([]rules.Sample, n), nil }
	}
	for i := range 1000 {
		at := t0.Add(time.Duration(i%10) * time.Second)
		if _, _, err := m.do(t.Context(), question{expr: fmt.Sprint(i)}, at, ask(i%30)); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, calls := range m.ticks {
			if len(calls) > maxCalls {
				t.Fatalf("%d calls of one time", len(calls))
			}
			for _, c := range calls {
				n += len(c.samples)
			}
		}
		if len(m.ticks) > maxTicks || n > 100 || n != m.kept {
			t.Fatalf("%d times, %d series, counted %d", len(m.ticks), n, m.kept)
		}
	}
}

// TestConcurrency: no more queries are under way than the server can take beside others.
func TestConcurrency(t *testing.T) {
	var now, most atomic.Int64
	started, release := make(chan struct{}, 100), make(chan struct{})
	c := client(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		started <- struct{}{}
		<-release
		now.Add(-1)
		answers(vector())(w, r)
	}))
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			if _, err := c.Query(t.Context(), fmt.Sprint(i), t0, 0); err != nil {
				t.Error(err)
			}
		})
	}
	for range maxConcurrent {
		<-started
	}
	close(release)
	all.Wait()
	if n := most.Load(); n != maxConcurrent {
		t.Errorf("%d at once, want %d", n, maxConcurrent)
	}
}

// TestIdleConnection: a connection that the server closed while it was idle costs no query; one that it closes on every
// request is not tried again and again.
func TestIdleConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var requests atomic.Int64
	var answering atomic.Bool
	answering.Store(true)
	closed := make(chan struct{}, 10)
	var server sync.WaitGroup
	server.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 64<<10)
			if _, err := conn.Read(buf); err == nil {
				requests.Add(1)
				if answering.Load() {
					body := vector(seven)
					_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
				}
			}
			_ = conn.Close()
			closed <- struct{}{}
		}
	})
	defer server.Wait()
	defer l.Close()
	c := client(t, "http://"+l.Addr().String())
	for i := range 3 {
		if _, err := c.Query(t.Context(), "up", t0.Add(time.Duration(i)*time.Second), 0); err != nil {
			t.Errorf("query %d: %v", i, err)
		}
		<-closed
	}
	answering.Store(false)
	before := requests.Load()
	if _, err := c.Query(t.Context(), "up", t0.Add(time.Hour), 0); err == nil {
		t.Error("an answer from nowhere")
	}
	if n := requests.Load() - before; n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

// TestNaN: a stale marker is a number that is not one, as any other.
func TestNaN(t *testing.T) {
	samples, err := client(t, serve(t, answers(vector(`{"metric":{},"value":[0,"NaN"]}`)))).Query(t.Context(), "x", t0, 0)
	if err != nil || len(samples) != 1 || !math.IsNaN(samples[0].Value) {
		t.Errorf("got %v, %v", samples, err)
	}
}

func TestMetricNames(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	NewMetrics(reg)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}
