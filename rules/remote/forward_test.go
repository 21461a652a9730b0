package remote

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"

	"flyball/rules/promapi"
)

// forwarded is the answer to a question as text: its data, warnings and infos, or its type and error.
func forwarded(r *promapi.Result, err error) string {
	if err != nil {
		return string(promapi.TypeOf(err)) + ": " + err.Error()
	}
	defer r.Close()
	if r.Data == nil {
		return "nothing"
	}
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	r.Data.WriteJSON(w)
	_ = w.Flush()
	for _, text := range append(r.Warnings, r.Infos...) {
		b.WriteString(" " + text)
	}
	return b.String()
}

// TestForwardRequest: what is asked there is what was asked here, by the method that the path takes, with what the
// configuration adds, and marked as having come from here.
func TestForwardRequest(t *testing.T) {
	var got string
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		got = r.Method + " " + r.URL.EscapedPath() + " " + r.Form.Encode() + " " + r.Header.Get("X-Scope-OrgID")
		if !Asked(r.Header) {
			t.Errorf("not marked: %v", r.Header)
		}
		answers(`{"status":"success","data":[]}`)(w, r)
	})
	c := client(t, base+"/prometheus", func(c *Config) {
		c.Headers = map[string]string{"X-Scope-OrgID": "team-a"}
		c.Params = map[string]Values{"dedup": {"true"}, "step": {"9"}}
	})
	for _, tt := range []struct{ path, form, want string }{
		{"query_range", "query=up&step=15", "POST /prometheus/api/v1/query_range dedup=true&query=up&step=15 team-a"},
		{"series", "match[]=a&match[]=b", "POST /prometheus/api/v1/series dedup=true&match%5B%5D=a&match%5B%5D=b&step=9 team-a"},
		{"label/a%2Fb/values", "", "GET /prometheus/api/v1/label/a%2Fb/values dedup=true&step=9 team-a"},
		{"metadata", "limit=1", "GET /prometheus/api/v1/metadata dedup=true&limit=1&step=9 team-a"},
	} {
		form, err := url.ParseQuery(tt.form)
		if err != nil {
			t.Fatal(err)
		}
		if answer := forwarded(c.Forward(t.Context(), tt.path, form)); answer != "[]" || got != tt.want {
			t.Errorf("%s: %s\ngot  %s\nwant %s", tt.path, answer, got, tt.want)
		}
	}
	if Asked(http.Header{"User-Agent": {"curl"}}) {
		t.Error("a request of another's is taken for a client's")
	}
}

// TestForwardAnswers: an answer comes through as it is; what is none has the type, and so the status, that Prometheus has.
func TestForwardAnswers(t *testing.T) {
	status := func(code int, kind, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(code)
			_, _ = io.WriteString(w, text)
		}
	}
	apiError := func(code int, kind string) http.HandlerFunc {
		return status(code, "application/json", `{"status":"error","errorType":"`+kind+`","error":"why, hunter2"}`)
	}
	const limit = 1 << 20
	for _, tt := range []struct {
		name  string
		serve http.HandlerFunc
		want  string // HOST stands for the server's address
	}{
		{"data of any kind", answers("\n{\"data\": {\"b\":[1, 2e3,\"\\u00e9\"],\"a\":null} ,\"status\":\"success\",\"more\":{}}"), ` {"b":[1, 2e3,"\u00e9"],"a":null}`},
		{"null", answers(`{"status":"success","data":null}`), "null"},
		{"warnings", answers(`{"status":"success","data":7,"warnings":["store hunter2 is down"],"infos":["PromQL info: x"]}`), "7 store <secret> is down PromQL info: x"},
		{"many warnings", answers(`{"status":"success","data":7,"warnings":[` + strings.Repeat(`"w",`, 1000) + `"w"]}`), "7" + strings.Repeat(" w", maxTold)},
		{"no warnings", answers(`{"status":"success","data":7,"warnings":null}`), "7"},
		{"a part of it", answers(`{"status":"success","isPartial":true,"data":7}`), "7 isPartial is set: some storage nodes did not answer"},
		{"no content", status(204, "", ""), "nothing"},

		{"bad data", apiError(400, "bad_data"), "bad_data: why, <secret>"},
		{"cannot be carried out", apiError(422, "execution"), "execution: why, <secret>"},
		{"timeout", apiError(503, "timeout"), "timeout: why, <secret>"},
		{"canceled", apiError(503, "canceled"), "canceled: why, <secret>"},
		{"internal", apiError(500, "internal"), "internal: why, <secret>"},
		{"not found", apiError(404, "not_found"), "not_found: why, <secret>"},
		{"VictoriaMetrics", apiError(422, "422"), "execution: why, <secret>"},
		{"VictoriaMetrics, 400", apiError(400, "400"), "bad_data: why, <secret>"},
		{"Mimir", apiError(429, "too_many_requests"), "unavailable: why, <secret>"},
		{"an error with 200", apiError(200, "execution"), "execution: why, <secret>"},

		{"401", status(401, "text/plain", "no"), "unavailable: HOST: it answered 401 Unauthorized: are the credentials right?"},
		{"404", status(404, "text/plain", "404 page not found"), "unavailable: HOST: it answered 404 Not Found: is the URL right, with its path prefix and without /api/v1?"},
		{"502", status(502, "text/html", "<html>"), "unavailable: HOST: it answered 502 Bad Gateway"},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://other.invalid/login?token=x", http.StatusFound)
		}, "unavailable: HOST: it redirects to http://other.invalid/login, where nothing is sent: if that is the right one, give its URL"},
		{"a login page", status(200, "text/html", "<html>"), "unavailable: HOST: it answered with a page for people (text/html): is the URL that of the API, and are the credentials right?"},
		{"no JSON", answers("hello"), "unavailable: HOST: its answer cannot be used: it is not JSON as the API gives it, at byte 1: 'h' where '{' is expected"},
		{"half of it", answers(`{"status":"success","data":[1,`), "unavailable: HOST: its answer cannot be used: it was cut off after 30 bytes"},
		{"cut by length", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			answers(`{"status":"success","data":[1,`)(w, r)
		}, "unavailable: HOST: its answer was cut off after 30 bytes"},
		{"two answers", answers(`{"status":"success","data":1}{}`), "unavailable: HOST: its answer cannot be used: it is not JSON as the API gives it, at byte 29: '{' behind its end"},
		{"no data", answers(`{"status":"success"}`), "unavailable: HOST: its answer cannot be used: it has no data"},
		{"no status", answers(`{"data":1}`), `unavailable: HOST: its answer cannot be used: its status is "": expected success or error`},
		{"32 MB", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"status":"success","data":[`)
			for range 32 << 10 {
				if _, err := w.Write(bytes.Repeat([]byte("1,"), 512)); err != nil {
					return
				}
			}
		}, "execution: HOST: its answer is larger than 1MiB (max_bytes): aggregate, or select fewer series"},
		{"32 MB that it tells", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", fmt.Sprint(32<<20)) }, "execution: HOST: its answer is larger than 1MiB (max_bytes): aggregate, or select fewer series"},
		{"a bomb", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			for range 64 {
				_, _ = z.Write(bytes.Repeat([]byte(" "), 1<<20))
			}
			_ = z.Close()
		}, "execution: HOST: its answer is larger than 1MiB (max_bytes): aggregate, or select fewer series"},
		{"deep", answers(`{"status":"success","data":` + strings.Repeat("[", 1e5)), "unavailable: HOST: its answer cannot be used: it is not JSON as the API gives it, at byte 59: more than 32 levels"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := serve(t, tt.serve)
			c := client(t, base, patient, func(c *Config) {
				c.MaxBytes, c.Headers = limit, map[string]string{"X-Token": "hunter2"}
			})
			got := forwarded(c.Forward(t.Context(), "query", url.Values{"query": {"up"}}))
			if diff := cmp.Diff(strings.ReplaceAll(tt.want, "HOST", base), got); diff != "" {
				t.Error(diff)
			}
			// What people ask says nothing of how rules fare.
			for _, r := range []reason{unreachable, timeout, refused, unusable, partial, waiting} {
				if n := testutil.ToFloat64(c.metrics.failed.WithLabelValues(string(r))); n != 0 {
					t.Errorf("%g failed queries of rules: %s", n, r)
				}
			}
			if len(c.reading.turns) != 0 {
				t.Error("a turn was not given back")
			}
		})
	}
}

// TestForwardLanes: people and dashboards wait for each other and keep no rule waiting; each lane rests when it is told to.
func TestForwardLanes(t *testing.T) {
	release := make(chan struct{})
	var once sync.Once
	end := func() { once.Do(func() { close(release) }) }
	defer end()
	begun := make(chan struct{}, 100)
	c := client(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.FormValue("query") {
		case "slow":
			begun <- struct{}{}
			<-release
		case "busy":
			w.Header().Set("Retry-After", "1000")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		answers(vector(seven))(w, r)
	}), func(c *Config) { c.Timeout = model.Duration(time.Minute) })
	ask := func(ctx context.Context, expr string) string {
		return forwarded(c.Forward(ctx, "query", url.Values{"query": {expr}}))
	}
	var all sync.WaitGroup
	for range maxForwards {
		all.Go(func() {
			if got := ask(t.Context(), "slow"); !strings.Contains(got, `"up"`) {
				t.Error(got)
			}
		})
	}
	for range maxForwards {
		<-begun
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if got := ask(short, "up"); !strings.HasPrefix(got, "timeout: http://") || !strings.HasSuffix(got, "no answer within the time that the client gives it") {
		t.Errorf("with all turns taken: %s", got)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if got := ask(gone, "up"); got != "canceled: context canceled" {
		t.Errorf("after the client has left: %s", got)
	}
	if _, err := c.Query(t.Context(), "up", t0, 0); err != nil {
		t.Errorf("a rule: %v", err)
	}
	end()
	all.Wait()

	// An answer holds its turn until it is closed.
	var held []*promapi.Result
	for range maxForwards {
		r, err := c.Forward(t.Context(), "query", url.Values{"query": {"up"}})
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, r)
	}
	if len(c.reading.turns) != maxForwards {
		t.Errorf("%d turns are taken", len(c.reading.turns))
	}
	for _, r := range held {
		r.Close()
		r.Close() // does nothing
	}
	if len(c.reading.turns) != 0 {
		t.Errorf("%d turns are taken after all", len(c.reading.turns))
	}

	if got := ask(t.Context(), "busy"); !strings.HasSuffix(got, "it answered 429 Too Many Requests") {
		t.Error(got)
	}
	if got := ask(t.Context(), "up"); !strings.HasPrefix(got, "unavailable: ") || !strings.Contains(got, "not asked for another") {
		t.Errorf("after Retry-After: %s", got)
	}
	if _, err := c.Query(t.Context(), "up", t0.Add(time.Second), 0); err != nil {
		t.Errorf("a rule, after people were told to wait: %v", err)
	}
	c.reading.mu.Lock()
	c.reading.resume = time.Time{}
	c.reading.mu.Unlock()
	if _, err := c.Query(t.Context(), "busy", t0, 0); err == nil {
		t.Error("an answer")
	}
	if got := ask(t.Context(), "up"); !strings.Contains(got, "not asked for another") {
		t.Errorf("after a rule was told to wait: %s", got)
	}
}

// TestForwardTime: a graph may take longer than a rule's query.
func TestForwardTime(t *testing.T) {
	c := client(t, serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}), func(c *Config) { c.Timeout = model.Duration(time.Millisecond) })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan string, 1)
	go func() { ended <- forwarded(c.Forward(ctx, "query", url.Values{"query": {"up"}})) }()
	if _, err := c.Query(t.Context(), "up", t0, 0); err == nil || !strings.Contains(err.Error(), "no answer within 1ms") {
		t.Errorf("a rule: %v", err)
	}
	select {
	case got := <-ended:
		t.Errorf("it ended with %s", got)
	default:
	}
	cancel()
	if got := <-ended; got != "canceled: context canceled" {
		t.Error(got)
	}
}

// FuzzOpen: what is taken apart is JSON, and its data are what encoding/json finds.
func FuzzOpen(f *testing.F) {
	for _, text := range []string{vector(seven), `{"status":"success","data":[1,{"a":"\ud83d\ude00"}],"warnings":["a"],"infos":null}`, `{"data" : -1.5e3 ,"status":"success"}`, `{"status":"error","error":"x"}`, `{`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := open(text)
		if err != nil {
			return
		}
		var whole map[string]json.RawMessage
		if err := json.Unmarshal(text, &whole); err != nil {
			t.Fatalf("it is not JSON: %v", err)
		}
		if want, got := bytes.TrimSpace(whole["data"]), bytes.TrimSpace(r.Data.(promapi.Raw)); !bytes.Equal(want, got) {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}
