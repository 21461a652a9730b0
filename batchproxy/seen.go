package batchproxy

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// batchIDHeader tells a client which batch its request was in. The replica is sent the same id, where the protocol
	// has a place for it.
	batchIDHeader = "X-Flyball-Batch-Id"
	// timingHeader tells a client, in milliseconds, where the time went; browsers and tracing tools read it (W3C).
	timingHeader = "Server-Timing"
	// requestIDHeader names a request across the systems that it goes through.
	requestIDHeader = "X-Request-Id"
	traceHeader     = "Traceparent" // W3C
	stateHeader     = "Tracestate"
)

// timing is where the time of a request went. The zero value is a request that was never sent.
type timing struct {
	call     uint64        // number of the batch, from 1
	queued   time.Duration // waited to be sent, the last time
	upstream time.Duration // took the replica for the batch, the last time
	together time.Duration // from leaving the queue to the answer, with what was sent again
}

// batchID is the id of a batch by its number.
func batchID(number uint64) string { return "batch-" + strconv.FormatUint(number, 10) }

// write sets the headers that tell of it.
func (t *timing) write(header http.Header) {
	if t.call == 0 {
		return
	}
	text := make([]byte, 0, 96)
	text = strconv.AppendUint(append(text, "batch-"...), t.call, 10)
	id := len(text)
	text = appendDuration(append(text, "queue"...), t.queued)
	text = appendDuration(append(text, ", upstream"...), t.upstream)
	text = appendDuration(append(text, ", batch"...), t.together)
	all := string(text) // of which both are parts
	header[batchIDHeader] = []string{all[:id]}
	addTiming(header, all[id:])
}

func appendDuration(text []byte, d time.Duration) []byte {
	return strconv.AppendFloat(append(text, ";dur="...), float64(d)/float64(time.Millisecond), 'f', 3, 64)
}

// addTiming adds to what the replica itself says of its time, in a list that may be another client's too.
func addTiming(header http.Header, text string) {
	theirs := header[timingHeader]
	header[timingHeader] = append(slices.Clip(theirs), text)
}

// sampledTrace is the id of the trace that a request is part of, if that is recorded (traceparent, W3C), else empty.
func sampledTrace(header http.Header) string {
	values := header[traceHeader]
	if len(values) != 1 {
		return ""
	}
	// 00-<32 hex digits>-<16>-<2>; later versions may go on with a dash.
	v := values[0]
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' || len(v) > 55 && (v[:2] == "00" || v[55] != '-') || !lowerHex(v[:2]) || v[:2] == "ff" {
		return ""
	}
	trace, span, flags := v[3:35], v[36:52], v[53:55]
	if !lowerHex(trace) || !lowerHex(span) || !lowerHex(flags) || strings.Trim(trace, "0") == "" || strings.Trim(span, "0") == "" {
		return ""
	}
	if n, err := strconv.ParseUint(flags, 16, 8); err != nil || n&1 == 0 {
		return ""
	}
	return trace
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// account is what is known of one request, gathered for its line in the access log. It stands in place of the client's
// writer, and is there only where there is such a log.
type account struct {
	http.ResponseWriter
	request  *http.Request
	start    time.Time
	in       atomic.Int64 // bytes of the body that were read; a transport reads in a goroutine of its own
	out      int64
	status   int    // that was written
	code     int    // that is counted; 0 where it was not, or the answer broke off
	broke    bool   // the answer broke off
	id       string // X-Request-Id
	model    string
	protocol string
	class    string
	tenant   string
	timing
	rows int // in its batch
}

// accountOf is the account behind a writer, nil where none is kept.
func accountOf(w http.ResponseWriter) *account {
	a, _ := w.(*account)
	return a
}

// newAccount opens the account of a request, which gets an id if it has none.
func newAccount(w http.ResponseWriter, r *http.Request, start time.Time) *account {
	a := &account{ResponseWriter: w, request: r, start: start}
	if a.id = r.Header.Get(requestIDHeader); a.id == "" {
		a.id = newRequestID()
		r.Header.Set(requestIDHeader, a.id)
	}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &countedBody{r.Body, &a.in}
	}
	return a
}

// newRequestID is a random UUID (version 4), which is what other proxies make.
func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never an error
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// WriteHeader implements http.ResponseWriter.
func (a *account) WriteHeader(code int) {
	if code >= http.StatusOK && a.status == 0 {
		a.status = code
		if h := a.Header(); h[requestIDHeader] == nil { // the replica may have answered with it
			h[requestIDHeader] = []string{a.id}
		}
	}
	a.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (a *account) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	n, err := a.ResponseWriter.Write(p)
	a.out += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController find what else the writer can do.
func (a *account) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// line is the request's line in the access log.
func (a *account) line(now time.Time) accessLine {
	r := a.request
	l := accessLine{
		Time: a.start.UTC().Format("2006-01-02T15:04:05.000Z"), Client: r.RemoteAddr, Method: short(r.Method), Path: shortPath(r.URL.EscapedPath()),
		Model: a.model, Protocol: a.protocol, Status: a.status, BytesIn: a.in.Load(), BytesOut: a.out,
		Duration: inSeconds(now.Sub(a.start)), Queue: inSeconds(a.queued), Upstream: inSeconds(a.upstream), BatchSize: a.rows,
		Class: a.class, Tenant: short(a.tenant), TraceID: sampledTrace(r.Header), RequestID: short(a.id), UserAgent: short(r.UserAgent()),
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		l.Client = host
	}
	if a.code != 0 {
		l.Status = a.code
	}
	if a.call != 0 {
		l.BatchID = batchID(a.call)
	}
	if a.broke {
		l.Error = "the answer broke off"
	}
	return l
}

// short bounds what a client may have put into a line of the log.
func short(s string) string { return s[:min(len(s), 256)] }

// shortPath is short for what is rarely long and of use.
func shortPath(s string) string { return s[:min(len(s), 1024)] }

// inSeconds rounds to microseconds, which is as exact as it is of use.
func inSeconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond).Microseconds()) / 1e6
}

// countedBody counts the bytes of a request's body.
type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// accessLine is a line of the access log. It has no bodies, queries or credentials.
type accessLine struct {
	Time      string  `json:"time"` // of arrival
	Client    string  `json:"client"`
	Method    string  `json:"method"`
	Path      string  `json:"path"`
	Model     string  `json:"model,omitempty"`
	Protocol  string  `json:"protocol,omitempty"`
	Status    int     `json:"status"`
	Error     string  `json:"error,omitempty"`
	BytesIn   int64   `json:"bytes_in"`
	BytesOut  int64   `json:"bytes_out"`
	Duration  float64 `json:"duration_seconds"`
	Queue     float64 `json:"queue_seconds"`
	Upstream  float64 `json:"upstream_seconds"`
	BatchID   string  `json:"batch_id,omitempty"`
	BatchSize int     `json:"batch_size,omitempty"`
	Class     string  `json:"class,omitempty"`
	Tenant    string  `json:"tenant,omitempty"`
	TraceID   string  `json:"trace_id,omitempty"`
	RequestID string  `json:"request_id"`
	UserAgent string  `json:"user_agent,omitempty"`
}

// logged closes a request's account with its line.
func (p *Proxy) logged(a *account) {
	if a.status == 0 && a.code == 0 && !a.broke { // the server writes 200 where a handler wrote nothing, unless it panics
		a.broke = true
	}
	p.access.add(a.line(time.Now()))
}

// ReopenAccessLog closes the file of the access log and opens it again by its path, so that it can have been moved away; it
// does nothing where there is no such file.
func (p *Proxy) ReopenAccessLog() {
	if p.access != nil {
		p.access.reopen()
	}
}

// runAccessLog writes the access log, and returns what ends that: when all lines are written, or after a bound.
func (p *Proxy) runAccessLog() (end func()) {
	if p.access == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		p.access.run(ctx)
	}()
	return func() {
		cancel()
		timer := time.NewTimer(lastLines)
		defer timer.Stop()
		select {
		case <-over:
		case <-timer.C:
			p.logger.Warn("the access log could not be written in time", "path", p.access.path)
		}
	}
}
