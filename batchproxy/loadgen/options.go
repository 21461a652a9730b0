package loadgen

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Options say what a run sends, where, how fast, and how it judges the answers. Start from DefaultOptions.
type Options struct {
	URL      string    // of the server, such as http://127.0.0.1:8090; the path of each request is appended
	Requests []Request // sent in turn
	Demand   Demand    // how many a second, and for how long
	Arrivals Arrivals  // how they lie around the demanded rate
	Seed     uint64    // of the arrivals: the same seed plans the same times

	Check     Check   // how answers are compared with Request.Want
	Tolerance float64 // of CheckClose, as a part of max(1, |a|, |b|)

	// MaxInflight bounds the requests that wait for their answers. An arrival beyond is counted as saturated and not sent.
	MaxInflight int
	// Timeout of one request, from when it was sent to the last byte of its answer.
	Timeout time.Duration
	// Grace is how long answers are waited for after the context was cancelled.
	Grace time.Duration

	// RunID is part of each request's id, bench-RUNID-N. Empty: a random one.
	RunID string
	// Header is sent with each request, for authentication or a priority.
	Header http.Header
	// Transport sends the requests. It must be safe for concurrent use and end a request when its context ends.
	// Nil: NewTransport(MaxInflight), with its connections closed at the end.
	Transport http.RoundTripper

	// Progress, if set, is called every second of the run.
	Progress func(Snapshot)
	// OnReport, if set, is called with the report of each interval of length ReportEvery (a second or more), in order,
	// once each request that was due in it has its outcome. Progress and OnReport are called by one goroutine: neither overlaps, and one
	// that blocks delays the other but not the load.
	OnReport    func(Report)
	ReportEvery time.Duration
}

// DefaultOptions are the options that need no thought. URL, Requests and Demand are for the caller to set.
func DefaultOptions() Options {
	return Options{
		Arrivals: Poisson, // what independent clients do
		Seed:     1,       // so that two runs compare alike unless asked otherwise
		Check:    CheckExact,
		// 1e-5 is some hundred times what rounding to float32 leaves open, and far below what changes a classification.
		Tolerance: 1e-5,
		// At 400 requests/s, 1024 are 2.5 s of arrivals: a server that far behind will not catch up, and more would only
		// wait in its queue. It is also about what a process may open in sockets by default, at some 30 KiB each.
		MaxInflight: 1024,
		// Ten seconds is longer than any client of an online model waits, and short enough to end a run soon.
		Timeout: 10 * time.Second,
		// Five seconds let a batch that is on its way come back, and do not try the patience of whoever pressed Ctrl-C.
		Grace: 5 * time.Second,
	}
}

// NewTransport is a transport for a load of maxInflight requests at once: each keeps its connection for the next one,
// answers are not compressed, and proxies of the environment are not used, so that what is measured is the server.
func NewTransport(maxInflight int) *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		MaxIdleConnsPerHost: maxInflight,
		IdleConnTimeout:     90 * time.Second, // as http.DefaultTransport: longer than any lull of a load
		DisableCompression:  true,
	}
}

// Validate joins all faults of the options; the text of each begins with the option.
func (o Options) Validate() error {
	errs := []error{validateURL(o.URL), o.validateRequests(), o.Demand.validate(), validateTimeout(o.Timeout)}
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.Arrivals != Poisson && o.Arrivals != Uniform {
		fault("arrivals: %q is unknown: give %s or %s", o.Arrivals, Poisson, Uniform)
	}
	if !slices.Contains(Checks(), o.Check) {
		fault("check: %q is unknown: give one of %q", o.Check, Checks())
	}
	if o.Check == CheckClose && !(o.Tolerance >= 0 && o.Tolerance < 1) {
		fault("tolerance: %v is not a part of a value: give 0 to 1", o.Tolerance)
	}
	if o.MaxInflight < 1 {
		fault("max_inflight: %d requests cannot make a load: give 1 or more", o.MaxInflight)
	}
	if o.Grace < 0 {
		fault("grace: %v is negative: give 0 or more", o.Grace)
	}
	if strings.ContainsFunc(o.RunID, func(r rune) bool { return !isPlain(r) }) {
		fault("run_id: %q has other characters than letters, digits, - and _", o.RunID)
	}
	if o.OnReport != nil && o.ReportEvery < time.Second {
		fault("report_every: %v is too short for quantiles to mean something: give 1s or more", o.ReportEvery)
	}
	return errors.Join(errs...)
}

// isPlain says whether the character stands for itself in JSON, in a log and in a header.
func isPlain(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

func validateURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return fmt.Errorf("url: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("url: %q is not the address of a server: give http://HOST:PORT or https://HOST:PORT", text)
	}
	return nil
}

func validateTimeout(d time.Duration) error {
	if d <= 0 || d > maxLatency {
		return fmt.Errorf("timeout: %v is out of range: give a duration above 0 and up to %v, the longest latency recorded", d, maxLatency)
	}
	return nil
}

func (o Options) validateRequests() error {
	if len(o.Requests) == 0 {
		return errors.New("requests: none to send: give one or more")
	}
	if validateURL(o.URL) != nil {
		o.URL = "http://server" // its fault is told once, not with each request
	}
	var errs []error
	for i, r := range o.Requests {
		if _, err := o.prepareRequest(r); err != nil {
			errs = append(errs, fmt.Errorf("requests[%d].%w", i, err))
		}
	}
	return errors.Join(errs...)
}

// checked says whether answers are compared.
func (o Options) checked() bool { return o.Check != CheckNone }

// prepared is a request made ready to be sent many times. It is shared and not changed.
type prepared struct {
	url    *url.URL
	header http.Header
	body   splicedBody
	want   *answer // nil: any will do
}

// prepareRequest makes a request ready for the load. Its errors begin with the field of the request.
func (o Options) prepareRequest(r Request) (prepared, error) {
	p, err := o.prepareUnchecked(r)
	if err != nil || !o.checked() {
		return p, err
	}
	if r.Want == nil {
		return prepared{}, fmt.Errorf("want: no answer to compare with: ask a server for it with Reference, or set check to %s", CheckNone)
	}
	tolerance := 0.0
	if o.Check == CheckClose {
		tolerance = o.Tolerance
	}
	if p.want, err = newAnswer(r.Protocol, r.Want, tolerance); err != nil {
		return prepared{}, fmt.Errorf("want: %w", err)
	}
	return p, nil
}

// prepareUnchecked makes a request ready whose answer is not compared.
func (o Options) prepareUnchecked(r Request) (prepared, error) {
	if err := r.Protocol.validate(); err != nil {
		return prepared{}, fmt.Errorf("protocol: %w", err)
	}
	body, err := splitBody(r)
	if err != nil {
		return prepared{}, fmt.Errorf("body: %w", err)
	}
	if !strings.HasPrefix(r.Path, "/") {
		return prepared{}, fmt.Errorf("path: %q does not begin with /", r.Path)
	}
	u, err := url.Parse(strings.TrimSuffix(o.URL, "/") + r.Path)
	if err != nil {
		return prepared{}, fmt.Errorf("path: %w", err)
	}
	header := http.Header{"User-Agent": {"flyball-bench"}}
	for name, values := range o.Header {
		header[http.CanonicalHeaderKey(name)] = slices.Clone(values)
	}
	header.Set("Content-Type", "application/json")
	return prepared{url: u, header: header, body: body}, nil
}

// maxLatency is the longest latency that is told apart; what took longer counts as this.
const maxLatency = 10 * time.Minute

// microseconds rounds a latency up to what the histograms hold.
func microseconds(d time.Duration) int64 {
	us := math.Ceil(float64(d) / float64(time.Microsecond))
	return int64(min(max(us, 1), float64(maxLatency/time.Microsecond)))
}
