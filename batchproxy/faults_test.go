//go:build unix

package batchproxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	prom "github.com/prometheus/common/model"
)

// TestFaults is the table of what a proxy that batches must not get wrong: each test is named after the fault that it excludes,
// and fails where the proxy has it.
func TestFaults(t *testing.T) {
	for _, fault := range []struct {
		name string
		test func(*testing.T)
	}{
		// Of batches.
		{"models mixed in a batch", testTwoModelsInOneWindow},
		{"requests mixed that differ by a header, the query or a parameter", testDifferentRequestsStayApart},
		{"200 on an upstream error", testUpstreamErrorIsNever200},
		{"mates failing with the culprit", testPoisonFailsAlone},
		{"mates failing with a culprit that gets 500", testOnlyTheOffenderFails},
		{"everybody's batches shrinking for one large request", testLargeCulpritShrinksNobody},
		{"integers above 2^53 changed", testNumbersStayAsTheyAre},
		{"integers above 2^53 changed in tensors", testOIPBatch},
		{"numbers changed on their way from JSON to binary", TestBinaryTensors},
		{"batches above the maximum", testNeverMoreThanMaxSize},
		{"cancelled work still run", testClientGone},
		{"mates cancelled with a client that goes", testClientGoesAsItsBatchLeaves},
		{"headers or parameters lost", testHeadersAndMembersArrive},
		{"headers that are given twice judged by the first", testRepeatedHeaders},
		{"who forwarded a request made up by its client", testForwardedHeaders},
		{"unknown fields added", testNothingIsAdded},
		{"a mate's headers in an answer", testNoMatesHeaders},

		// Of who gets what.
		{"answers crossing between clients under cancels, bisects, replica loss and reloads", testStorm},
		{"answers crossing between clients whose tensors go in binary", testBinaryStorm},
		{"splice injection", testSpliceInjection},
		{"duplicate keys", testDuplicateKeys},

		// Of messages on the wire.
		{"requests smuggled", testSmuggling},
		{"requests smuggled in a connection that was upgraded", testUpgradeIsNoTunnel},
		{"bodies cut short taken as whole", testBrokenBodies},
		{"bombs", testBombs},
		{"lanes with long names remembered without end", testLongNamesAreNotKept},
		{"lines of the access log as long as a client likes", testAccessLogLinesAreShort},

		// Of clients that are slow or idle.
		{"slow clients holding replicas or each other up", testSlowSenders},
		{"slow clients taking all room", testAnnouncedBodiesLeaveRoom},
		{"room taken by names of lanes and not counted", testLongNamesTakeRoom},
		{"room taken by what is only announced", testAnnouncedBytesTakeNoRoom},
		{"slow readers holding others up", testSlowReader},
		{"slow readers served without end", testClientThatDoesNotRead},
		{"slowhttptest", testSlowHTTPTest},
		{"10,000 idle connections", testIdleConnections},

		// Of replicas.
		{"backend killed", testReplicaKilledUnderLoad},
		{"backend stopped", testReplicaStops},
		{"backend stopped by a signal and continued", testReplicaProcessStops},
		{"backend resetting in mid-answer", testReplicaResetsInMidAnswer},
		{"backend resetting in mid-stream", testStreamBreaksOff},
		{"backend resetting in mid-stream again and again", testReplicaThatBreaksStreamsIsEjected},
		{"backend dying in an answer told as its end", testAnswerBreaksOff},
		{"backend answering too few rows, too many, or others", testWrongAnswers},
		{"backend answering what cannot be split", testAnswerThatCannotBeSplit},
		{"backend answering twice", testUnaskedAnswers},

		// Of the end.
		{"requests left without an answer at the end of a drain", testNobodyIsForgottenAtTheEnd},
		{"SIGTERM under load", testTermUnderLoad},

		// Clients as they are.
		{"OpenAI's npm client", testOpenAIsOwnClient},
		{"answers crossing between the streams of a connection", testStreamsOfHTTP2},
		{"curl", testCurl},
		{"wrk", testWrk},
	} {
		t.Run(fault.name, fault.test)
	}
}

// pairs is a configuration whose batches leave with two rows and not before.
func pairs(upstreams ...Upstream) Config {
	cfg := oneModel(upstreams...)
	cfg.Models[0].Batch = BatchConfig{MaxSize: 2, MaxWait: prom.Duration(time.Hour)}
	return cfg
}

// testDifferentRequestsStayApart: each pair that differs in one thing goes in two batches, and each of equals in one.
func testDifferentRequestsStayApart(t *testing.T) {
	s := newModelServer(t)
	together := start(t, pairs(Upstream{URL: s.URL}), Options{})
	cfg := pairs(Upstream{URL: s.URL})
	cfg.Models[0].Batch.MaxWait = prom.Duration(100 * time.Millisecond)
	apart := start(t, cfg, Options{})
	const v1, oip = "/v1/models/m:predict", "/v2/models/m/infer"
	tensor := func(more string) string {
		return `{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}]` + more + `}`
	}
	type sent struct {
		path, body string
		header     []string
	}
	for _, tt := range []struct {
		name    string
		x, y    sent
		batches int
	}{
		{"nothing", sent{v1, `{"instances":[1]}`, nil}, sent{v1, `{ "instances" : [2] }`, nil}, 1},
		{"the order of members", sent{v1, `{"instances":[1],"a":1,"b":2}`, nil}, sent{v1, `{"b":2,"instances":[2],"a":1}`, nil}, 1},
		{"a credential", sent{v1, `{"instances":[1]}`, []string{"Authorization", "a"}}, sent{v1, `{"instances":[1]}`, []string{"Authorization", "b"}}, 2},
		{"a credential and none", sent{v1, `{"instances":[1]}`, []string{"Authorization", "a"}}, sent{v1, `{"instances":[1]}`, nil}, 2},
		{"a cookie", sent{v1, `{"instances":[1]}`, []string{"Cookie", "a=1"}}, sent{v1, `{"instances":[1]}`, []string{"Cookie", "a=2"}}, 2},
		{"one header for two", sent{v1, `{"instances":[1]}`, []string{"X-A", "1\nX-B:2"}}, sent{v1, `{"instances":[1]}`, []string{"X-A", "1", "X-B", "2"}}, 2},
		{"the query", sent{v1 + "?a=1", `{"instances":[1]}`, nil}, sent{v1 + "?a=2", `{"instances":[1]}`, nil}, 2},
		{"the query for the path", sent{"/v1/models/m/versions/1%3Fa:predict", `{"instances":[1]}`, nil}, sent{"/v1/models/m/versions/1?a:predict", `{"instances":[1]}`, nil}, 2},
		{"the version", sent{"/v1/models/m/versions/1:predict", `{"instances":[1]}`, nil}, sent{v1, `{"instances":[1]}`, nil}, 2},
		{"a member", sent{v1, `{"instances":[1],"signature_name":"a"}`, nil}, sent{v1, `{"instances":[1],"signature_name":"b"}`, nil}, 2},
		{"a number as it is written", sent{v1, `{"instances":[1],"a":1}`, nil}, sent{v1, `{"instances":[1],"a":1.0}`, nil}, 2},
		{"a parameter", sent{oip, tensor(`,"parameters":{"a":1}`), nil}, sent{oip, tensor(`,"parameters":{"a":2}`), nil}, 2},
		{"outputs", sent{oip, tensor(`,"outputs":[{"name":"y"}]`), nil}, sent{oip, tensor(""), nil}, 2},
		{"ids", sent{oip, tensor(`,"id":"1"`), nil}, sent{oip, tensor(`,"id":"2"`), nil}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(s.seen())
			f := apart
			if tt.batches == 1 {
				f = together // for as long as it takes
			}
			var wg sync.WaitGroup
			for _, r := range []sent{tt.x, tt.y} {
				wg.Go(func() {
					if slices.ContainsFunc(r.header, func(h string) bool { return strings.Contains(h, "\n") }) {
						// No client's library sends this; what is not refused is a value.
						raw := exchange(t, f.url, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: m\r\nConnection: close\r\n%s: %s\r\nContent-Length: %d\r\n\r\n%s", r.path, r.header[0], strings.ReplaceAll(r.header[1], "\n", "\r\n "), len(r.body), r.body), false)
						if !strings.HasPrefix(raw, "HTTP/1.1 200 ") {
							t.Error(raw)
						}
						return
					}
					if got := f.post(r.path, r.body, r.header...); got.code != 200 && got.code != 404 {
						t.Errorf("%s: %d %s", r.path, got.code, got.body)
					}
				})
			}
			wg.Wait()
			if n := len(s.seen()) - before; n != tt.batches {
				t.Errorf("%d batches, want %d: %+v", n, tt.batches, s.seen()[before:])
			}
		})
	}
}

// testUpstreamErrorIsNever200: whatever a replica answers to a batch and to its members, nobody is told that all went well.
func testUpstreamErrorIsNever200(t *testing.T) {
	for code, want := range map[int]int{
		204: 204, 301: 301, 304: 304, 400: 400, 401: 401, 403: 403, 404: 404, 405: 405, 408: 408, 409: 409, 413: 413, 418: 418, 422: 422,
		429: 429, 451: 451, 500: 502, 501: 502, 502: 502, 503: 503, 504: 502, 529: 502, 599: 502,
	} {
		s := newModelServer(t)
		s.before = func(w http.ResponseWriter, _ *http.Request, _ call) bool {
			w.WriteHeader(code)
			if code != 204 && code != 304 {
				_, _ = io.WriteString(w, `{"predictions":[1,2],"error":"no"}`)
			}
			return true
		}
		f := start(t, pairs(Upstream{URL: s.URL}), Options{})
		f.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		for _, got := range f.postAll("/v1/models/m:predict", `{"instances":[1]}`, `{"instances":[2]}`) {
			if got.code != want || got.err != nil {
				t.Errorf("a batch that the replica answers with %d: %d %s %v, want %d", code, got.code, got.body, got.err, want)
			}
		}
		if got := f.post("/v2/models/m/generate", `{}`); got.code != code {
			t.Errorf("what is passed on and answered with %d: %d", code, got.code)
		}
		if code >= 400 {
			if got := f.post("/v1/models/m:predict", `{"instances":[1,2,3]}`); got.code != want { // in chunks
				t.Errorf("one of three rows that the replica answers with %d: %d %s", code, got.code, got.body)
			}
		}
	}
}

// testLargeCulpritShrinksNobody: a replica refuses one request for its size, whoever it comes with. The batches of the others
// stay as large as they were.
func testLargeCulpritShrinksNobody(t *testing.T) {
	s := newModelServer(t)
	s.before = func(w http.ResponseWriter, _ *http.Request, c call) bool {
		if strings.Contains(c.body, "large") {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
		return strings.Contains(c.body, "large")
	}
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch = BatchConfig{MaxSize: 4, MaxWait: prom.Duration(time.Hour)}
	registry := prometheus.NewRegistry()
	f := start(t, cfg, Options{Registerer: registry})
	for i, got := range f.postAll("/v1/models/m:predict", `{"instances":["a"]}`, `{"instances":["b"]}`, `{"instances":["large"]}`, `{"instances":["d"]}`) {
		if want := map[bool]int{true: 413, false: 200}[i == 2]; got.code != want {
			t.Errorf("request %d: %d %s", i, got.code, got.body)
		}
	}
	if n, _ := value(t, registry, `flyball_batchproxy_effective_max_batch{model="m"}`); n != 4 {
		t.Errorf("batches have up to %v rows after it", n)
	}
}

// testNothingIsAdded: what replicas are sent and clients are answered has what the protocol's own has, and no more.
func testNothingIsAdded(t *testing.T) {
	s := newModelServer(t)
	s.before = func(w http.ResponseWriter, r *http.Request, c call) bool {
		return c.path == "/v1/embeddings" && openAIServer(w, r, c)
	}
	for _, tt := range []struct {
		path    string
		bodies  [2]string
		sent    string
		answers [2]string
	}{
		{
			"/v1/models/m:predict",
			[2]string{`{"instances":["a"]}`, `{"instances":["b"]}`},
			`{"instances":["a","b"]}`,
			[2]string{`{"predictions":["a"]}`, `{"predictions":["b"]}`},
		},
		{
			"/v2/models/m/infer",
			[2]string{
				`{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}`,
				`{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[2]}]}`,
			},
			`{"id":"batch-1","inputs":[{"name":"x","datatype":"INT8","shape":[2],"data":[1,2]}]}`,
			[2]string{
				`{"model_name":"m","outputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}`,
				`{"model_name":"m","outputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[2]}]}`,
			},
		},
	} {
		f := start(t, pairs(Upstream{URL: s.URL}), Options{})
		before := len(s.seen())
		first := make(chan reply, 1)
		go func() { first <- f.post(tt.path, tt.bodies[0]) }()
		f.queued(1) // so that the order is known
		want(t, f.post(tt.path, tt.bodies[1]), 200, tt.answers[1])
		want(t, <-first, 200, tt.answers[0])
		calls := s.seen()[before:]
		if len(calls) != 1 || calls[0].body != tt.sent {
			t.Errorf("%s: the replica was sent %+v, want %s", tt.path, calls, tt.sent)
			continue
		}
		for name := range calls[0].header {
			if !slices.Contains([]string{"Content-Type", "Content-Length", "User-Agent"}, name) {
				t.Errorf("%s: the replica was sent the header %s: %s, which nobody gave", tt.path, name, calls[0].header.Get(name))
			}
		}
	}
	f := start(t, pairs(Upstream{URL: s.URL}), Options{})
	for i, got := range f.postAll("/v1/embeddings", `{"model":"m","input":"a"}`, `{"model":"m","input":"bb"}`) {
		members := []string{"data", "model", "object", "usage"}
		if got.code != 200 || !slices.Equal(membersOf(t, got.body), members) {
			t.Errorf("embedding %d: %d %s, want the members %v", i, got.code, got.body, members)
		}
	}
}

// testNoMatesHeaders: what a replica says in headers of a batch is for none of its clients alone, and what one client sends
// in headers about itself is not sent for its mates.
func testNoMatesHeaders(t *testing.T) {
	for _, code := range []int{200, 403, 404} {
		s := newModelServer(t)
		private := []string{"Set-Cookie", "Etag", "X-Request-Id", "Last-Modified", "Location", "X-Session", "Content-Location", "Authentication-Info"}
		s.before = func(w http.ResponseWriter, _ *http.Request, c call) bool {
			for _, name := range private {
				w.Header().Set(name, "of one")
			}
			w.WriteHeader(code)
			if code != 200 {
				_, _ = io.WriteString(w, "{}")
				return true
			}
			fmt.Fprint(w, strings.Replace(c.body, "instances", "predictions", 1))
			return true
		}
		f := start(t, pairs(Upstream{URL: s.URL}), Options{})
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				got := f.post("/v1/models/m:predict", fmt.Sprintf(`{"instances":[%d]}`, i), "X-Request-Id", fmt.Sprint(i), "Traceparent", fmt.Sprint(i),
					"User-Agent", fmt.Sprint(i), "X-Real-Ip", fmt.Sprint(i), "Referer", fmt.Sprint(i), "Baggage", fmt.Sprint(i))
				if got.code != code {
					t.Errorf("%d %s %v", got.code, got.body, got.err)
				}
				for _, name := range private {
					if got.header.Get(name) != "" {
						t.Errorf("%d: a client of a batch got %s: %s", code, name, got.header.Get(name))
					}
				}
			})
		}
		wg.Wait()
		calls := s.seen()
		if len(calls) != 1 || calls[0].rows != 2 {
			t.Fatalf("%+v, want one batch of two", calls)
		}
		for _, name := range []string{"X-Request-Id", "Traceparent", "User-Agent", "X-Real-Ip", "Referer", "Baggage"} {
			if calls[0].header.Get(name) != "" {
				t.Errorf("the batch was sent with one client's %s: %s", name, calls[0].header.Get(name))
			}
		}
	}
}

// testSpliceInjection: text that would end its slot in a batch is refused before it is queued, and text in a string that looks
// like that stays where it is.
func testSpliceInjection(t *testing.T) {
	const v1, oip, openAI = "/v1/models/m:predict", "/v2/models/m/infer", "/v1/embeddings"
	s := newModelServer(t)
	s.before = func(w http.ResponseWriter, r *http.Request, c call) bool {
		return c.path == openAI && openAIServer(w, r, c)
	}
	f := start(t, pairs(Upstream{URL: s.URL}), Options{})
	for _, tt := range []struct{ path, body string }{
		{v1, `{"instances":[1]],"x":[[2]}`},
		{v1, `{"instances":[1]}{"instances":[2]}`},
		{v1, `{"instances":[1]},"instances":[2]}`},
		{v1, `{"instances":[1,]}`},
		{v1, `{"instances":[1 2]}`},
		{v1, `{"instances":["a"b"]}`},
		{v1, "{\"instances\":[\"a\nb\"]}"},
		{v1, "{\"instances\":[\"\xff\"]}"},
		{v1, `{"instances":["\ud800"]}`},
		{v1, `{"instances":[NaN]}`},
		{v1, `{"instances":[1/*]}*/]}`},
		{v1, `{"instances":[01]}`},
		{v1, "{\"instances\":[1]}\x00"},
		{v1, "\xef\xbb\xbf{\"instances\":[1]}"},
		{v1, `{"instances":[1],"a":1]}`},
		{v1, `{"instances":[1],"a":"\"}`},
		{oip, `{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]]}]}`},
		{oip, `{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1,2]}]}`},
		{oip, `{"inputs":[{"name":"x","shape":[2],"datatype":"INT8","data":[1]}]}`},
		{oip, `{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[[1]]}]}`},
		{oip, `{"inputs":[{"name":"x","shape":[-1],"datatype":"INT8","data":[1]}]}`},
		{oip, `{"inputs":[{"name":"x","shape":[1e0],"datatype":"INT8","data":[1]}]}`},
		{oip, `{"id":"a","inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}],"id":"b"}`},
		{openAI, `{"model":"m","input":["a"],"input":["b"]}`},
		{openAI, `{"model":"m","input":["a",1]}`},
		{openAI, `{"model":"m","input":"a"],"b":["c"}`},
	} {
		if got := f.post(tt.path, tt.body); got.code != 400 {
			t.Errorf("%q: %d %s, want 400", tt.body, got.code, got.body)
		}
	}
	if n := len(s.seen()); n != 0 {
		t.Fatalf("the replica was sent %d of these: %+v", n, s.seen())
	}
	for _, text := range []string{`"]],\"x\":[["`, `"\\"`, `"\"]}"`, `"]}{\"instances\":["`, `"\u0022],\u0022"`, `"{[\\\"]}"`, `" "`, `""`} {
		mine := `{"instances":[` + text + `]}`
		replies := f.postAll(v1, mine, `{"instances":["mate"]}`)
		want(t, replies[1], 200, `{"predictions":["mate"]}`)
		if got := replies[0]; got.code != 200 || !sameJSON(t, got.body, `{"predictions":[`+text+`]}`) {
			t.Errorf("%s: %d %s", mine, got.code, got.body)
		}
	}
	// Nor does an answer give a client what is another's.
	for _, answer := range []string{
		`{"predictions":[["a"],["b"]]]}`, `{"predictions":["a","b"],"predictions":["b","a"]}`, `{"predictions":["a"],"x":["b"]}`,
		`{"predictions":["a","b"],"probabilities":[0.1,0.2]}`, `{"predictions":["a","b"]}{}`, `{"predictions":["a","b"`, `{"predictions":"ab"}`,
		`["a","b"]`, `{"predictions":{"a":1,"b":2}}`, ``,
	} {
		s := newModelServer(t)
		s.before = func(w http.ResponseWriter, _ *http.Request, c call) bool {
			if c.rows > 1 {
				_, _ = io.WriteString(w, answer)
			}
			return c.rows > 1
		}
		f := start(t, pairs(Upstream{URL: s.URL}), Options{})
		for i, got := range f.postAll(v1, `{"instances":["a"]}`, `{"instances":["b"]}`) {
			want(t, got, 200, fmt.Sprintf(`{"predictions":[%q]}`, string(rune('a'+i))))
		}
		if diff := cmp.Diff([]int{2, 1, 1}, s.rows()); diff != "" {
			t.Errorf("%s: %s", answer, diff)
		}
	}
}

// testDuplicateKeys: a name that is given twice in an object means one thing to the proxy and may mean another to the replica.
func testDuplicateKeys(t *testing.T) {
	s := newModelServer(t)
	f := start(t, pairs(Upstream{URL: s.URL}), Options{})
	for _, tt := range []struct{ path, body, where string }{
		{"/v1/models/m:predict", `{"instances":[1],"instances":[2]}`, "instances"},
		{"/v1/models/m:predict", `{"instances":[1],"inst\u0061nces":[2]}`, "instances"},
		{"/v1/models/m:predict", `{"instances":[{"a":1,"a":2}]}`, "a"},
		{"/v1/models/m:predict", `{"instances":[{"a":{"b":1,"\u0062":2}}]}`, "b"},
		{"/v1/models/m:predict", `{"instances":[1],"parameters":{"a":1,"a":2}}`, "a"},
		{"/v2/models/m/infer", `{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1],"data":[2]}]}`, "data"},
		{"/v2/models/m/infer", `{"inputs":[{"name":"x","shape":[1],"shape":[2],"datatype":"INT8","data":[1]}]}`, "shape"},
		{"/v2/models/m/infer", `{"inputs":[],"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}`, "inputs"},
		{"/v2/models/m/infer", `{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]},{"name":"\u0078","shape":[1],"datatype":"INT8","data":[1]}]}`, "inputs"},
		{"/v2/models/m/infer", `{"parameters":{"timeout":1,"timeout":2},"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}`, "timeout"},
		{"/v1/embeddings", `{"model":"m","input":"a","model":"n"}`, "model"},
	} {
		got := f.post(tt.path, tt.body)
		if got.code != 400 || !strings.Contains(got.body, tt.where) || !strings.Contains(got.body, "twice") && !strings.Contains(got.body, "two tensors") {
			t.Errorf("%s: %d %s, want 400 that names %s", tt.body, got.code, got.body, tt.where)
		}
	}
	if n := len(s.seen()); n != 0 {
		t.Errorf("the replica was sent %d of these: %+v", n, s.seen())
	}
}

// testLongNamesAreNotKept: what clients put into headers and members is in the names of lanes. Those of lanes that are to be
// remembered though nothing waits in them are short.
func testLongNamesAreNotKept(t *testing.T) {
	now := time.Unix(0, 0)
	b := NewBatcher[int](Rule{Mode: ModeGreedy, MaxSize: 4, Timeout: time.Minute, MaxQueue: 10})
	long := strings.Repeat("x", 100<<10)
	for i := range 2 * maxAlone {
		name := fmt.Appendf(nil, "%s%d", long, i)
		b.Alone(name, now.Add(time.Minute))
		b.Arrive(now, name, 1, 0)
		b.Arrive(now, name, 1, 1)
		out, _ := b.Next(now, false)
		if len(out.Entries) != 1 {
			t.Fatalf("lane %d: a batch of %d requests that should go alone", i, len(out.Entries))
		}
		b.Next(now, false)
	}
	size := 0
	for name := range b.alone {
		size += len(name)
	}
	for name := range b.lanes {
		size += len(name)
	}
	if size > (maxAlone+maxLanes)*maxName {
		t.Errorf("%d bytes of names are kept", size)
	}
	m := &model{}
	for i := range 2 * maxAlone {
		name := fmt.Appendf(nil, "%s%d", long, i)
		if m.goWhole(name); !m.isWhole(name) {
			t.Fatalf("lane %d is not remembered", i)
		}
	}
	size = 0
	for name := range m.wholes {
		size += len(name)
	}
	if size > maxAlone*maxName {
		t.Errorf("%d bytes of names are kept of lanes that go whole", size)
	}
}

// testLongNamesTakeRoom: what is in a lane's name is held twice beside the body, and counts.
func testLongNamesTakeRoom(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Limits.MaxBody, cfg.Limits.MaxInflightBytes = 1<<20, 5<<19
	f := start(t, cfg, Options{})
	body := `{"instances":[1],"parameters":"` + strings.Repeat("x", 800<<10) + `"}`
	first := make(chan reply, 1)
	go func() { first <- f.post("/v1/models/m:predict", body) }()
	<-g.entered
	want(t, f.post("/v1/models/m:predict", `{"instances":["`+strings.Repeat("x", 800<<10)+`"]}`), 429, `{"error":"the requests held have no room for more"}`)
	close(g.open)
	want(t, <-first, 200, `{"predictions":[1]}`)
	until(t, "all room is given back", func() bool { return f.buffers.held.Load() == 0 })
}

// testReplicaThatBreaksStreamsIsEjected: streams that break off speak against a replica as answers to batches do.
func testReplicaThatBreaksStreamsIsEjected(t *testing.T) {
	a, b := newModelServer(t), newModelServer(t)
	a.before = func(w http.ResponseWriter, _ *http.Request, _ call) bool {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: one\n\n")
		_ = http.NewResponseController(w).Flush()
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // RST
		}
		conn.Close()
		return true
	}
	f := start(t, oneModel(Upstream{URL: a.URL}, Upstream{URL: b.URL}), Options{})
	broke := 0
	for range 40 {
		if got := f.post("/v2/models/m/generate_stream", `{}`); got.err != nil {
			broke++
		} else if got.code != 200 || strings.Contains(got.body, "data: one") {
			t.Errorf("a stream that broke off is told as whole: %d %q", got.code, got.body)
		}
	}
	if n := testutil.ToFloat64(f.metrics.ejections.WithLabelValues("m", ejected5xx)); n != 1 || broke != 5 {
		t.Errorf("%d of 40 streams broke off and %g ejections, want 5 and 1", broke, n)
	}
}

// testNobodyIsForgottenAtTheEnd: when a drain is over whoever still waits is told so, those too whom admission would have refused
// when their batch leaves.
func testNobodyIsForgottenAtTheEnd(t *testing.T) {
	s := newModelServer(t)
	g := newGate()
	s.before = g.hold
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch = BatchConfig{Mode: ModeGreedy, MaxSize: 2, SLO: prom.Duration(30 * time.Millisecond)}
	cfg.Drain.Timeout = prom.Duration(50 * time.Millisecond)
	f := start(t, cfg, Options{})
	m := f.models["m"]
	m.mu.Lock() // that a row takes 10 ms
	for range 4 {
		m.batcher.service.add(1, 0.010)
		m.batcher.service.add(2, 0.011)
	}
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 5 { // one is with the replica, and four are two batches
		wg.Go(func() {
			got := f.send(ctx, "POST", "/v1/models/m:predict", `{"instances":[1]}`)
			if got.err != nil || got.code != 503 {
				t.Errorf("a request that the end came upon: %d %s %v", got.code, got.body, got.err)
			}
		})
		if i == 0 {
			<-g.entered
		}
	}
	until(t, "all have come", func() bool { return testutil.ToFloat64(f.metrics.arrivals.WithLabelValues("m", "v1", "normal")) == 5 })
	if err := f.stop(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// testTermUnderLoad: in the delay of a drain and after it each request is answered or told to come again, and each that was taken
// is answered; nothing is cut off.
func testTermUnderLoad(t *testing.T) {
	s := newModelServer(t)
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch.MaxWait = prom.Duration(time.Millisecond)
	cfg.Drain.Delay = prom.Duration(100 * time.Millisecond)
	f := start(t, cfg, Options{})
	var answered, refused [2]int
	var mu sync.Mutex
	var wg sync.WaitGroup
	ended := make(chan struct{})
	for client := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				got := f.post("/v1/models/m:predict", fmt.Sprintf(`{"instances":["%d/%d"]}`, client, i))
				over := 0
				if f.isDraining() {
					over = 1
				}
				mu.Lock()
				switch {
				case got.code == 200 && got.body == fmt.Sprintf(`{"predictions":["%d/%d"]}`, client, i):
					answered[over]++
				case got.code == 503 && got.header.Get("Retry-After") != "" && over == 1:
					refused[over]++
				default:
					t.Errorf("client %d got %d %s %v, and the drain's delay is over: %v", client, got.code, got.body, got.err, over == 1)
				}
				mu.Unlock()
				select {
				case <-ended:
					if got.code == 503 {
						return
					}
				default:
				}
			}
		})
	}
	until(t, "there is load", func() bool { mu.Lock(); defer mu.Unlock(); return answered[0] > 200 })
	if err := f.stop(); err != nil {
		t.Error(err)
	}
	close(ended)
	wg.Wait()
	if refused[1] == 0 {
		t.Error("nobody was refused at the end: there was no load")
	}
}

// TestCancelledPartOfABatch: of a batch that was cut, a part whose clients have all gone is given up, though others had their answers.
func TestCancelledPartOfABatch(t *testing.T) {
	s := newModelServer(t)
	entered, ended := make(chan struct{}), make(chan struct{})
	s.before = func(w http.ResponseWriter, r *http.Request, c call) bool {
		switch {
		case c.rows > 1:
			w.WriteHeader(http.StatusBadRequest)
			return true
		case strings.Contains(c.body, `"held"`):
			close(entered)
			<-r.Context().Done()
			close(ended)
		}
		return false
	}
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.Models[0].Batch.MaxSize, cfg.Models[0].Batch.MaxWait = 2, cfg.Models[0].Timeout
	f := start(t, cfg, Options{})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	first, gone := make(chan reply, 1), make(chan reply, 1)
	go func() { first <- f.post("/v1/models/m:predict", `{"instances":["a"]}`) }()
	f.queued(1)
	go func() { gone <- f.send(ctx, "POST", "/v1/models/m:predict", `{"instances":["held"]}`) }()
	<-entered
	want(t, <-first, 200, `{"predictions":["a"]}`)
	leave()
	<-gone
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the replica still works for a client that has gone")
	}
}
