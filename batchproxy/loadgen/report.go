package loadgen

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Report says what became of a load, or of an interval of it. A request counts in the interval of its intended start.
// Its JSON is what `flyball bench -o json` prints: times in seconds, rates per second.
type Report struct {
	RunID    string   `json:"run_id"`
	URL      string   `json:"url"`
	Arrivals Arrivals `json:"arrivals"`
	Seed     uint64   `json:"seed"`
	Check    Check    `json:"check"`

	FromSeconds     float64 `json:"from_seconds"`     // of the interval, from the start of the run; 0 for the whole
	DurationSeconds float64 `json:"duration_seconds"` // in which requests were sent, without the wait for the last answers
	Interrupted     bool    `json:"interrupted"`      // the run was stopped before its end

	Offered int64 `json:"offered"` // arrivals: requests that were due
	Sent    int64 `json:"sent"`    // those that were sent: all but the saturated
	Lost    int64 `json:"lost"`    // sent, and no whole answer came: timeout, connection, cancelled

	OfferedRate float64 `json:"offered_requests_per_second"`
	// AnsweredRate counts the answers that came during DurationSeconds, whenever their requests were sent, other than
	// refusals (429, 503, 504).
	AnsweredRate float64 `json:"answered_requests_per_second"`

	Counts Counts        `json:"counts"` // every arrival by what became of it
	Codes  map[int]int64 `json:"codes"`  // whole answers by HTTP status

	Latency Latency `json:"latency"`
	// Lag is by how much the generator was late to send. It is within the latencies, but no fault of the server.
	Lag Lag `json:"lag"`

	MaxInFlight int `json:"max_in_flight"` // of the whole run so far
	// Saturated: the load was more than the server took. Verdict says it in a sentence, and is empty where it was not.
	Saturated bool   `json:"saturated"`
	Verdict   string `json:"verdict"`
	// Warnings say what else a reader must know before trusting the figures.
	Warnings []string `json:"warnings"`
	// Examples are the first five wrong answers and the first of each other kind that is not ok.
	Examples []Example `json:"examples"`
}

// Latency is from the intended start to the last byte of the answer, of the answers with status 2xx and of the
// timeouts, which count with the time that was waited: the true value is larger. Refusals and errors would make a server
// that turns requests away look fast, so they are only counted.
type Latency struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_seconds"`
	P50   float64 `json:"p50_seconds"`
	P90   float64 `json:"p90_seconds"`
	P95   float64 `json:"p95_seconds"`
	P99   float64 `json:"p99_seconds"`
	P999  float64 `json:"p999_seconds"`
	Max   float64 `json:"max_seconds"`
}

// Lag is the lateness of the generator.
type Lag struct {
	P50 float64 `json:"p50_seconds"`
	P99 float64 `json:"p99_seconds"`
	Max float64 `json:"max_seconds"`
}

// Example is one request that went wrong.
type Example struct {
	Kind      Kind    `json:"kind"`
	ID        string  `json:"id"`
	Payload   int     `json:"payload"`    // index in Options.Requests
	AtSeconds float64 `json:"at_seconds"` // intended start, from the start of the run
	Reason    string  `json:"reason"`
	Expected  string  `json:"expected,omitempty"` // results, cut to 512 bytes
	Got       string  `json:"got,omitempty"`      // body, cut to 512 bytes
}

// report makes the report of a window that is over and has no request in flight.
func (r *run) report(w *window) Report {
	r.recorder.mu.Lock()
	defer r.recorder.mu.Unlock()
	report := Report{
		RunID:           r.options.RunID,
		URL:             redacted(r.options.URL),
		Arrivals:        r.options.Arrivals,
		Seed:            r.options.Seed,
		Check:           r.options.Check,
		FromSeconds:     w.from.Seconds(),
		DurationSeconds: (w.to - w.from).Seconds(),
		Offered:         w.counts.Total(),
		Counts:          w.counts,
		Codes:           maps.Clone(w.codes),
		Latency:         latencyOf(w.latency),
		Lag:             Lag{P50: seconds(w.lag, 50), P99: seconds(w.lag, 99), Max: seconds(w.lag, 100)},
		MaxInFlight:     r.recorder.maxInflight,
		Examples:        append([]Example{}, w.examples...),
		Warnings:        []string{},
	}
	report.Sent = report.Offered - w.counts.Saturated
	report.Lost = w.counts.Timeout + w.counts.Connection + w.counts.Cancelled
	if report.DurationSeconds > 0 {
		report.OfferedRate = float64(report.Offered) / report.DurationSeconds
		report.AnsweredRate = float64(w.answered) / report.DurationSeconds
	}
	report.judge(w, r.options.MaxInflight)
	return report
}

// lagHigh is the lag beyond which the generator itself is said to be short of CPU: some ten times what a timer and a
// goroutine switch take on a machine with a core to spare.
const lagHigh = 10 * time.Millisecond

// judge says whether the load was more than the server took, and what else a reader must know.
func (r *Report) judge(w *window, slots int) {
	var signs []string
	if w.backlogGrew() {
		signs = append(signs, "latencies grow with the length of the run")
	}
	if n := w.counts.Saturated; n > 0 {
		signs = append(signs, fmt.Sprintf("%d arrivals were not sent, since %d requests were waiting for their answers: no latency includes them", n, slots))
	}
	refused := r.Codes[http.StatusTooManyRequests] + r.Codes[http.StatusServiceUnavailable] + r.Codes[http.StatusGatewayTimeout]
	if shed := refused + w.counts.Timeout; float64(shed) > saturatedShare*float64(r.Offered) {
		signs = append(signs, fmt.Sprintf("%d were refused (429, 503, 504) and %d timed out", refused, w.counts.Timeout))
	}
	if len(signs) > 0 {
		r.Saturated = true
		r.Verdict = fmt.Sprintf("saturated: %s requests/s were offered, %s answered; %s",
			rate(r.OfferedRate), rate(r.AnsweredRate), strings.Join(signs, "; "))
	}
	if r.Lag.P99 > lagHigh.Seconds() {
		r.Warnings = append(r.Warnings, fmt.Sprintf("the load generator itself was late: lag p99 %s, max %s; the machine is short of CPU, and latencies include this",
			short(r.Lag.P99), short(r.Lag.Max)))
	}
	if r.Check == CheckNone {
		r.Warnings = append(r.Warnings, "answers were not checked: ok means a status of 2xx")
	}
}

// saturatedShare is the part of the offered requests that may be left without an answer before it is called
// saturation: at 98 % answered the others are chance, or the last ones on their way.
const saturatedShare = 0.02

// backlogGrew says whether answers came out more slowly than requests went in over the second half of the window, where
// the load has settled. In a steady state as many are in flight at the end as in the middle, however slow each is; what
// chance does to their number is its square root, and few requests prove nothing.
func (w *window) backlogGrew() bool {
	if w.halfway == nil || w.backlog == nil {
		return false
	}
	growth := float64(w.backlog.inflight - w.halfway.inflight)
	arrivals := float64(w.backlog.arrivals - w.halfway.arrivals)
	chance := 4 * math.Sqrt(float64(w.backlog.inflight+w.halfway.inflight))
	return growth > max(saturatedShare*arrivals, chance, 10)
}

// mixUp says whose answer a wrong one is, if it is that of another payload.
func (r *run) mixUp(payload int, out outcome) string {
	if out.fields == nil {
		return ""
	}
	other := slices.IndexFunc(r.requests, func(p prepared) bool { return p.want.faultInResults(out.fields) == "" })
	if other < 0 || other == payload {
		return ""
	}
	return fmt.Sprintf("; it is the right answer to payload %d", other)
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	return Latency{
		Count: h.TotalCount(),
		Mean:  h.Mean() / 1e6,
		P50:   seconds(h, 50),
		P90:   seconds(h, 90),
		P95:   seconds(h, 95),
		P99:   seconds(h, 99),
		P999:  seconds(h, 99.9),
		Max:   seconds(h, 100),
	}
}

func seconds(h *hdrhistogram.Histogram, percentile float64) float64 {
	return atQuantile(h, percentile).Seconds()
}

// redacted is the URL without its password.
func redacted(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return text
	}
	return u.Redacted()
}
