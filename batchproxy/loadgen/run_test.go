package loadgen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func checkGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// TestReport runs a load in which something of most kinds happens, and compares the report with its golden files: the
// names in the JSON are what scripts rely on.
func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := serverFunc(func(ctx context.Context, body []byte) (int, []byte, error) {
			var q question
			if err := json.Unmarshal(body, &q); err != nil {
				return 0, nil, err
			}
			if err := sleep(ctx, 15*time.Millisecond); err != nil {
				return 0, nil, err
			}
			switch q.ID {
			case "bench-test-10":
				return 503, []byte(`{"error":"queue is full"}`), nil
			case "bench-test-30":
				return 200, sumAnswer(q.ID, 6.5), nil
			case "bench-test-40":
				return 0, nil, errors.New("connection reset by peer")
			case "bench-test-50":
				return 0, nil, sleep(ctx, time.Hour)
			case "bench-test-60":
				return 404, []byte("no such model\n"), nil
			}
			answer, err := sum(body)
			return 200, answer, err
		})
		o := testOptions(t, server, 50, 4*time.Second)
		o.URL = "http://user:secret@server.test/base/"
		o.Timeout = 2 * time.Second
		report := mustRun(t, t.Context(), o)

		encoded, err := json.MarshalIndent(report, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		checkGolden(t, "report.json", append(encoded, '\n'))
		var text bytes.Buffer
		if err := report.WriteText(&text); err != nil {
			t.Fatal(err)
		}
		checkGolden(t, "report.txt", text.Bytes())
	})
}

// TestStallIsCharged lets a server stall for one second: each request that was due meanwhile waits for the rest of it.
// A generator that waits for an answer before it sends the next request would see one slow request of a thousand.
func TestStallIsCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stallFrom := time.Now().Add(5 * time.Second)
		stallTo := stallFrom.Add(time.Second)
		server := serverFunc(func(ctx context.Context, body []byte) (int, []byte, error) {
			if now := time.Now(); !now.Before(stallFrom) && now.Before(stallTo) {
				if err := sleep(ctx, stallTo.Sub(now)); err != nil {
					return 0, nil, err
				}
			}
			return answersAfter(time.Millisecond)(ctx, body)
		})
		report := mustRun(t, t.Context(), testOptions(t, server, 100, 10*time.Second))
		if report.Counts.OK != 1000 {
			t.Errorf("ok %d, expected 1000", report.Counts.OK)
		}
		// 100 of 1000 requests wait from 1 s down to 10 ms: the slowest ten more than 0.9 s, the slowest fifty more than 0.5 s.
		l := report.Latency
		for _, q := range []struct {
			name           string
			got, low, high float64
		}{
			{"p50", l.P50, 0.001, 0.0011},
			{"p95", l.P95, 0.49, 0.53},
			{"p99", l.P99, 0.90, 0.92},
			{"max", l.Max, 1.0, 1.01},
		} {
			if q.got < q.low || q.got > q.high {
				t.Errorf("%s is %v s, expected %v to %v", q.name, q.got, q.low, q.high)
			}
		}
	})
}

// TestOwnLagIsCharged has the generator itself come too late, as on a machine without a free core: the first second of
// requests leaves at once. They must be charged from when they were due, and the lag must be said.
func TestOwnLagIsCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := newRun(testOptions(t, answersAfter(time.Millisecond), 100, 2*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		r.start = time.Now().Add(-time.Second)
		if !r.sendAll(t.Context(), t.Context()) {
			t.Fatal("the load was not sent to its end")
		}
		r.answers.Wait()
		report := r.report(r.recorder.whole)
		if report.Counts.OK != 200 {
			t.Errorf("ok %d, expected 200", report.Counts.OK)
		}
		if lag := report.Lag.Max; lag < 1 || lag > 1.01 {
			t.Errorf("largest lag is %v s, expected 1", lag)
		}
		if slowest := report.Latency.Max; slowest < 1 || slowest > 1.01 {
			t.Errorf("slowest answer took %v s from its intended start, expected 1", slowest)
		}
		if p90 := report.Latency.P90; p90 < 0.79 || p90 > 0.83 {
			t.Errorf("p90 is %v s, expected 0.8", p90)
		}
		if len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], "the load generator itself was late: lag p99 980 ms, max 1 s") {
			t.Errorf("warnings %q", report.Warnings)
		}
	})
}

// swapper is the sum model whose answers reach the wrong client: it holds a request until the next one comes, and gives
// each the results of the other.
type swapper struct {
	keepID bool // of the request, so that only the results tell

	mu      sync.Mutex
	waiting chan []byte // takes the results for the request that waits
	first   []byte      // the body of that request
}

func (s *swapper) RoundTrip(r *http.Request) (*http.Response, error) {
	return serverFunc(func(ctx context.Context, body []byte) (int, []byte, error) {
		mine, err := sum(body)
		if err != nil {
			return 0, nil, err
		}
		s.mu.Lock()
		if s.waiting == nil {
			s.waiting, s.first = make(chan []byte, 1), mine
			waiting := s.waiting
			s.mu.Unlock()
			return 200, s.addressed(<-waiting, body), nil
		}
		other := s.first
		s.waiting <- mine
		s.waiting = nil
		s.mu.Unlock()
		return 200, s.addressed(other, body), nil
	}).RoundTrip(r)
}

// addressed is the answer, with the id of the request if it is to be kept.
func (s *swapper) addressed(answer, body []byte) []byte {
	var q, a struct {
		ID string `json:"id"`
	}
	if s.keepID && json.Unmarshal(body, &q) == nil && json.Unmarshal(answer, &a) == nil {
		return bytes.Replace(answer, []byte(a.ID), []byte(q.ID), 1)
	}
	return answer
}

func TestSwappedAnswers(t *testing.T) {
	for _, tt := range []struct {
		name     string
		server   *swapper
		protocol Protocol
		same     bool // both clients ask for the same
		wrong    int64
		reason   string
	}{
		{name: "v2", server: &swapper{}, protocol: V2, wrong: 40, reason: `id is "bench-test-1", expected "bench-test-0": the answer of another request; it is the right answer to payload 1`},
		{name: "v2 equal questions", server: &swapper{}, protocol: V2, same: true, wrong: 40, reason: `id is "bench-test-1", expected "bench-test-0": the answer of another request`},
		{name: "v2 results alone", server: &swapper{keepID: true}, protocol: V2, wrong: 40, reason: `output sum data[0] is 1.5, expected 0.5; it is the right answer to payload 1`},
		{name: "v1", server: &swapper{}, protocol: V1, wrong: 40, reason: `predictions[0] is 1.5, expected 0.5; it is the right answer to payload 1`},
		{name: "v1 equal questions cannot be told apart", server: &swapper{}, protocol: V1, same: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := testOptions(t, tt.server, 20, 2*time.Second)
				o.Requests = sumRequests(t, 4, tt.protocol)
				if tt.same {
					o.Requests = o.Requests[:1]
				}
				report := mustRun(t, t.Context(), o)
				if report.Counts.Wrong != tt.wrong || report.Counts.OK != 40-tt.wrong {
					t.Errorf("counts %+v, expected %d wrong of 40", report.Counts, tt.wrong)
				}
				if tt.reason == "" {
					return
				}
				if len(report.Examples) != 5 {
					t.Fatalf("%d examples, expected 5", len(report.Examples))
				}
				i := 0
				for report.Examples[i].ID != "bench-test-0" {
					i++ // the two answers of a pair come in either order
				}
				if got := report.Examples[i].Reason; got != tt.reason {
					t.Errorf("reason\n got %s\nwant %s", got, tt.reason)
				}
			})
		})
	}
}

func TestKinds(t *testing.T) {
	status := func(code int) serverFunc {
		return func(context.Context, []byte) (int, []byte, error) { return code, []byte("{}"), nil }
	}
	for _, tt := range []struct {
		name   string
		server serverFunc
		want   Counts
		lost   int64
		codes  map[int]int64
	}{
		{name: "ok", server: answersAfter(0), want: Counts{OK: 10}, codes: map[int]int64{200: 10}},
		{name: "empty answer", server: status(200), want: Counts{Wrong: 10}, codes: map[int]int64{200: 10}},
		{name: "429", server: status(429), want: Counts{HTTP429: 10}, codes: map[int]int64{429: 10}},
		{name: "413", server: status(413), want: Counts{HTTP4xx: 10}, codes: map[int]int64{413: 10}},
		{name: "502", server: status(502), want: Counts{HTTP5xx: 10}, codes: map[int]int64{502: 10}},
		{name: "302", server: status(302), want: Counts{HTTPOther: 10}, codes: map[int]int64{302: 10}},
		{name: "timeout", server: answersAfter(time.Hour), want: Counts{Timeout: 10}, lost: 10},
		{
			name: "connection", want: Counts{Connection: 10}, lost: 10,
			server: func(context.Context, []byte) (int, []byte, error) { return 0, nil, errors.New("connection refused") },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				report := mustRun(t, t.Context(), testOptions(t, tt.server, 10, time.Second))
				if diff := cmp.Diff(tt.want, report.Counts); diff != "" {
					t.Errorf("counts (-want +got):\n%s", diff)
				}
				if report.Lost != tt.lost || report.Sent != 10 {
					t.Errorf("sent %d, lost %d, expected 10 and %d", report.Sent, report.Lost, tt.lost)
				}
				if tt.codes == nil {
					tt.codes = map[int]int64{}
				}
				if diff := cmp.Diff(tt.codes, report.Codes); diff != "" {
					t.Errorf("codes (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// serial servers take 20.003 ms in the tests, so that no answer comes at the very moment of an arrival.

// serial answers one request after the other, each in the time d.
func serial(d time.Duration) serverFunc {
	device := make(chan struct{}, 1)
	return func(ctx context.Context, body []byte) (int, []byte, error) {
		select {
		case device <- struct{}{}:
		case <-ctx.Done():
			return 0, nil, ctx.Err()
		}
		defer func() { <-device }()
		return answersAfter(d)(ctx, body)
	}
}

// shedding answers up to limit requests at once, one after the other, and refuses the others.
func shedding(limit int, d time.Duration) serverFunc {
	slots := make(chan struct{}, limit)
	inner := serial(d)
	return func(ctx context.Context, body []byte) (int, []byte, error) {
		select {
		case slots <- struct{}{}:
		default:
			return 429, []byte("{}"), nil
		}
		defer func() { <-slots }()
		return inner(ctx, body)
	}
}

func TestSaturation(t *testing.T) {
	for _, tt := range []struct {
		name     string
		server   func() serverFunc // made in the test's bubble
		inflight int
		timeout  time.Duration
		verdict  string // empty: not saturated
		notSent  int64
	}{
		{name: "fast", server: func() serverFunc { return answersAfter(5 * time.Millisecond) }, inflight: 1024, timeout: time.Minute},
		{name: "slow but steady", server: func() serverFunc { return answersAfter(3 * time.Second) }, inflight: 1024, timeout: time.Minute},
		{
			name: "too slow", server: func() serverFunc { return serial(20 * time.Millisecond) }, inflight: 100_000, timeout: 10 * time.Minute,
			verdict: "saturated: 100 requests/s were offered, 50 answered; latencies grow with the length of the run",
		},
		{
			name: "few in flight", server: func() serverFunc { return serial(20 * time.Millisecond) }, inflight: 100, timeout: time.Minute, notSent: 901,
			verdict: "saturated: 100 requests/s were offered, 50 answered; 901 arrivals were not sent, since 100 requests were waiting for their answers: no latency includes them",
		},
		{
			name: "shedding", server: func() serverFunc { return shedding(4, 20003*time.Microsecond) }, inflight: 1024, timeout: time.Minute,
			verdict: "saturated: 100 requests/s were offered, 50 answered; 997 were refused (429, 503, 504) and 0 timed out",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := testOptions(t, tt.server(), 100, 20*time.Second)
				o.MaxInflight = tt.inflight
				o.Timeout = tt.timeout
				report := mustRun(t, t.Context(), o)
				if report.Offered != 2000 {
					t.Errorf("offered %d, expected 2000", report.Offered)
				}
				if report.Saturated != (tt.verdict != "") || report.Verdict != tt.verdict {
					t.Errorf("saturated %t\n got %q\nwant %q", report.Saturated, report.Verdict, tt.verdict)
				}
				if report.Counts.Saturated != tt.notSent || report.Sent != 2000-tt.notSent {
					t.Errorf("%d not sent, %d sent, expected %d and %d", report.Counts.Saturated, report.Sent, tt.notSent, 2000-tt.notSent)
				}
				if report.MaxInFlight > tt.inflight {
					t.Errorf("%d in flight, at most %d were allowed", report.MaxInFlight, tt.inflight)
				}
			})
		})
	}
}

// TestCancel stops a run after 2 s of 60: what is under way may finish within the grace, and no longer.
func TestCancel(t *testing.T) {
	for _, tt := range []struct {
		name    string
		latency time.Duration
		want    Counts
		end     time.Duration
	}{
		{name: "answers come within the grace", latency: 3 * time.Second, want: Counts{OK: 20}, end: 4900 * time.Millisecond},
		{name: "answers come too late", latency: time.Minute, want: Counts{Cancelled: 20}, end: 7 * time.Second},
		{name: "nothing under way", latency: time.Millisecond, want: Counts{OK: 20}, end: 2 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := testOptions(t, answersAfter(tt.latency), 10, time.Minute)
				o.Timeout = 2 * time.Minute
				ctx, cancel := context.WithTimeout(t.Context(), 1999*time.Millisecond)
				defer cancel()
				start := time.Now()
				report := mustRun(t, ctx, o)
				if took := time.Since(start); (took - tt.end).Abs() > 10*time.Millisecond {
					t.Errorf("the run took %v, expected %v", took, tt.end)
				}
				if diff := cmp.Diff(tt.want, report.Counts); diff != "" {
					t.Errorf("counts (-want +got):\n%s", diff)
				}
				if !report.Interrupted {
					t.Error("the report does not say that the run was interrupted")
				}
				if report.DurationSeconds != 1.999 || report.Lost != tt.want.Cancelled {
					t.Errorf("duration %v s, lost %d", report.DurationSeconds, report.Lost)
				}
			})
		})
	}
}

// TestIntervals checks that the intervals partition the run, in order, even if answers come two intervals later, and
// that the rates of each are its own.
func TestIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		server := serverFunc(func(ctx context.Context, body []byte) (int, []byte, error) {
			latency := 50 * time.Millisecond
			if at := time.Since(start); at >= 10*time.Second && at < 20*time.Second {
				latency = 25 * time.Second
			}
			return answersAfter(latency)(ctx, body)
		})
		trace := Trace{Points: []Point{{0, 10}, {10 * time.Second, 20}, {20 * time.Second, 30}, {30 * time.Second, 40}}}
		o := testOptions(t, server, 0, 0)
		var err error
		if o.Demand, err = trace.Demand(1, 1); err != nil {
			t.Fatal(err)
		}
		o.Timeout = time.Minute
		o.ReportEvery = 10 * time.Second
		var reports []Report
		var published []time.Duration
		o.OnReport = func(r Report) {
			reports = append(reports, r)
			published = append(published, time.Since(start))
		}
		var snapshots []Snapshot
		o.Progress = func(s Snapshot) { snapshots = append(snapshots, s) }
		whole := mustRun(t, t.Context(), o)

		if len(reports) != 4 {
			t.Fatalf("%d interval reports, expected 4", len(reports))
		}
		var offered int64
		for i, r := range reports {
			rate := float64(10 * (i + 1))
			if r.FromSeconds != float64(10*i) || r.DurationSeconds != 10 || r.OfferedRate != rate {
				t.Errorf("interval %d: from %v, for %v s, %v requests/s", i, r.FromSeconds, r.DurationSeconds, r.OfferedRate)
			}
			offered += r.Offered
			slow := i == 1
			if (r.Latency.P50 > 20) != slow {
				t.Errorf("interval %d: p50 %v s", i, r.Latency.P50)
			}
		}
		if offered != whole.Offered || offered != 1000 {
			t.Errorf("intervals offered %d, the whole %d, expected 1000", offered, whole.Offered)
		}
		// Nothing of the second interval is answered in it: its answers come from 35 s to 45 s.
		if got := reports[1].AnsweredRate; got > 0.1 {
			t.Errorf("second interval: %v answered/s, expected none but the last of the first", got)
		}
		if got := reports[3].AnsweredRate; got < 49 || got > 51 {
			t.Errorf("last interval: %v answered/s, expected 40 and half of the 20 of the second", got)
		}
		if published[0] > 12*time.Second || published[1] < 44*time.Second || published[1] > published[2] {
			t.Errorf("reports came at %v", published)
		}
		if n := len(snapshots); n < 44 || n > 47 {
			t.Errorf("%d snapshots, expected one a second", n)
		}
		if got := snapshots[4]; got.Elapsed != 5*time.Second || got.Counts != (Counts{OK: 50}) {
			t.Errorf("after 5 s: %s", got)
		}
	})
}

func TestSnapshotLine(t *testing.T) {
	s := Snapshot{
		Elapsed: 12 * time.Second, Total: 2 * time.Minute, InFlight: 23, Offered: 4825, Answered: 4790,
		Counts: Counts{OK: 4789, Wrong: 1, HTTP429: 7, Timeout: 5},
		P50:    12400 * time.Microsecond, P99: 1480 * time.Millisecond,
	}
	s.ratesSince(Snapshot{Elapsed: 10 * time.Second, Offered: 4025, Answered: 4691})
	want := "  12/120 s  offered 400/s  answered 49.5/s  in flight 23  ok 4789  wrong 1  errors 12  p50 12.4 ms  p99 1.48 s"
	if diff := cmp.Diff(want, s.String()); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
}

func TestUncheckedAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := serverFunc(func(context.Context, []byte) (int, []byte, error) { return 204, nil, nil })
		o := testOptions(t, server, 10, time.Second)
		o.Check = CheckNone
		for i := range o.Requests {
			o.Requests[i].Want = nil
		}
		report := mustRun(t, t.Context(), o)
		if report.Counts.OK != 10 {
			t.Errorf("counts %+v, expected 10 ok", report.Counts)
		}
		if want := "answers were not checked: ok means a status of 2xx"; len(report.Warnings) != 1 || report.Warnings[0] != want {
			t.Errorf("warnings %q, expected %q", report.Warnings, want)
		}
	})
}

func TestOptionFaults(t *testing.T) {
	o := Options{
		URL:         "127.0.0.1:8090",
		Requests:    []Request{{Protocol: "v3"}, {Protocol: V2, Body: []byte("[]")}, {Protocol: V2, Body: []byte(`{"inputs":[]}`)}, {Path: "/x", Protocol: V2, Body: []byte(`{"inputs":[]}`)}},
		Demand:      Constant(-1, time.Second),
		Arrivals:    "bursty",
		Check:       CheckClose,
		Tolerance:   2,
		MaxInflight: 0,
		Grace:       -1,
		RunID:       `a"b`,
		OnReport:    func(Report) {},
	}
	_, err := Run(t.Context(), o)
	want := `load: url: parse "127.0.0.1:8090": first path segment in URL cannot contain colon
requests[0].protocol: "v3" is not a protocol: give v1 or v2
requests[1].body: not a JSON object: json: cannot unmarshal array into Go value of type map[string]json.RawMessage
requests[2].path: "" does not begin with /
requests[3].want: no answer to compare with: ask a server for it with Reference, or set check to none
demand: -1 requests/s from 0s is not a rate that can be sent: give 0 to 1e+06
timeout: 0s is out of range: give a duration above 0 and up to 10m0s, the longest latency recorded
arrivals: "bursty" is unknown: give poisson or uniform
tolerance: 2 is not a part of a value: give 0 to 1
max_inflight: 0 requests cannot make a load: give 1 or more
grace: -1ns is negative: give 0 or more
run_id: "a\"b" has other characters than letters, digits, - and _
report_every: 0s is too short for quantiles to mean something: give 1s or more`
	if diff := cmp.Diff(want, message(err)); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
	o = DefaultOptions()
	o.Check = "maybe"
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), `check: "maybe" is unknown: give one of ["none" "exact" "close"]`) {
		t.Errorf("error %v", err)
	}
	for _, faulty := range []Demand{{}, Constant(0, time.Second), Constant(1e7, time.Second)} {
		if faulty.validate() == nil {
			t.Errorf("demand %+v is accepted", faulty)
		}
	}
}

func TestReference(t *testing.T) {
	requests, err := TensorRequests("sum", "x", V2, [][]float32{{1, 2}, {3, 4}})
	if err != nil {
		t.Fatal(err)
	}
	var asked, busy int
	o := Options{URL: "http://server.test/", Requests: requests, Timeout: time.Second}
	o.Transport = serverFunc(func(ctx context.Context, body []byte) (int, []byte, error) {
		asked++
		if busy++; busy > 1 {
			t.Error("two requests at once")
		}
		defer func() { busy-- }()
		return answersAfter(0)(ctx, body)
	})
	got, err := Reference(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for i, total := range []float64{3, 7} {
		if want := sumAnswer(fmt.Sprintf("reference-%d", i), total); !bytes.Equal(got[i].Want, want) {
			t.Errorf("requests[%d] wants %s, expected %s", i, got[i].Want, want)
		}
	}
	if asked != 2 || requests[0].Want != nil {
		t.Errorf("asked %d times, expected 2; the caller's requests must stay as they are", asked)
	}
	for _, tt := range []struct {
		name, want string
		server     serverFunc
	}{
		{
			name: "status", want: `reference: requests[0]: http://server.test/v2/models/sum/infer: http_5xx: status 500 no model`,
			server: func(context.Context, []byte) (int, []byte, error) { return 500, []byte("no model"), nil },
		},
		{
			name: "no outputs", want: `reference: requests[0]: http://server.test/v2/models/sum/infer: no "outputs" field: protocol v2 asks for one: {"id":"reference-0"}`,
			server: func(context.Context, []byte) (int, []byte, error) { return 200, []byte(`{"id":"reference-0"}`), nil },
		},
		{
			name: "wrong id", want: `reference: requests[0]: http://server.test/v2/models/sum/infer: id is "x", expected "reference-0": the answer of another request`,
			server: func(context.Context, []byte) (int, []byte, error) { return 200, sumAnswer("x", 1), nil },
		},
		{
			name: "connection", want: `reference: requests[0]: http://server.test/v2/models/sum/infer: connection: send request: refused `,
			server: func(context.Context, []byte) (int, []byte, error) { return 0, nil, errors.New("refused") },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o.Transport = tt.server
			if _, err := Reference(t.Context(), o); message(err) != tt.want {
				t.Errorf("error\n got %s\nwant %s", message(err), tt.want)
			}
		})
	}
}

func TestBacklogGrew(t *testing.T) {
	for _, tt := range []struct {
		name          string
		halfway, end  backlogMark
		want, noMarks bool
	}{
		{name: "steady", halfway: backlogMark{1000, 40}, end: backlogMark{2000, 45}},
		{name: "growth within 2 % of the arrivals", halfway: backlogMark{10_000, 0}, end: backlogMark{20_000, 199}},
		{name: "growth beyond 2 %", halfway: backlogMark{10_000, 0}, end: backlogMark{20_000, 201}, want: true},
		{name: "chance of a short run", halfway: backlogMark{400, 14}, end: backlogMark{800, 38}},
		{name: "beyond chance", halfway: backlogMark{400, 14}, end: backlogMark{800, 60}, want: true},
		{name: "few requests", halfway: backlogMark{5, 0}, end: backlogMark{10, 10}},
		{name: "drains", halfway: backlogMark{1000, 400}, end: backlogMark{2000, 0}},
		{name: "stopped before its end", noMarks: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &window{halfway: &tt.halfway, backlog: &tt.end}
			if tt.noMarks {
				w.halfway = nil
			}
			if got := w.backlogGrew(); got != tt.want {
				t.Errorf("backlogGrew() = %t, expected %t", got, tt.want)
			}
		})
	}
}
