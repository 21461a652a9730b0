package batchproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"flyball/batchproxy/protocol"
)

// Many a server takes longer to read the numbers of a tensor from JSON than its model takes for them: an image has a megabyte of
// digits. The proxy reads them some five times as fast. So where replicas say that they know the Open Inference Protocol's
// binary tensor extension, they are sent in binary what clients send as JSON. A client sees nothing of it: its answer is in JSON as ever, and what a
// replica refuses in binary is sent to it as the client wrote it.

// What BinaryTensors may be.
const (
	binaryAuto   = "auto"
	binaryAlways = "always"
	binaryNever  = "never"
)

const (
	// binaryFrom is how many numbers a row must have: with fewer there is little to be won. It is told by the shape, which
	// requests that share batches have in common.
	binaryFrom = 256
	// binaryExtension is its name in a server's metadata.
	binaryExtension = "binary_tensor_data"
	// binaryAskTime is how long a replica may take to say whether it does: those that do one thing at a time have other requests.
	binaryAskTime = 10 * time.Second
	// binaryAskAgain is when a replica that does not know it is asked again: it may be another program by then.
	binaryAskAgain = 10 * time.Minute
	// binaryAskSoon is the same for one that gave no answer.
	binaryAskSoon = 5 * time.Second
	// After so many requests one after the other that a replica refused in binary and took as JSON, requests go as JSON for so long, and twice as
	// long each time. One or two may have failed for another reason, which was over then.
	binaryRefusals     = 3
	shortestBinaryRest = time.Minute
	longestBinaryRest  = time.Hour
	// binaryMisses is up to how many requests are not tried where again and again one could not be in binary.
	binaryMisses = 1024
)

// extension is whether a replica knows the binary tensor extension. The model's mutex guards it.
type extension struct {
	known  bool // it says so
	denied bool // it says that it does not
	asking bool
	again  time.Time // when it is to be asked
}

// binaries is what is known of a model's requests in binary, for the holder of its mutex.
type binaries struct {
	misses pause     // requests that could not be in binary
	row    int       // of them, one after the other, that were refused
	rests  int       // one after the other
	until  time.Time // none is in binary before
}

// pause is how many of the next are left out where something fails again and again: one at first, then twice as many each time.
type pause struct{ missed, rest int }

// over reports whether the next one is to be tried.
func (p *pause) over() bool {
	if p.rest == 0 {
		return true
	}
	p.rest--
	return false
}

func (p *pause) miss(most int) {
	p.missed = min(max(2*p.missed, 1), most)
	p.rest = p.missed
}

func (p *pause) hit() { p.missed /= 2 }

// triesBinary reports whether a request is to be sent in binary if that can be, by its headers.
func (m *model) triesBinary(r *http.Request, p protocol.Protocol) bool {
	if _, ok := p.(protocol.OIP); !ok || m.config.BinaryTensors == binaryNever || !m.config.batches(p) || len(r.Header[protocol.HeaderLength]) > 0 ||
		r.ContentLength >= 0 && r.ContentLength < 2*binaryFrom { // a digit and a comma each
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	return m.takesBinary(now, true) && m.binaries.misses.over()
}

// takesBinary reports whether replicas take tensors in binary: one that is well says so, and none that is says no. One that has not said
// yet is taken to be as the others are: it is new, or busy. Where they may be asked, those are of which it is not known. For the holder
// of the mutex.
func (m *model) takesBinary(now time.Time, ask bool) bool {
	if now.Before(m.binaries.until) || m.config.BinaryTensors == binaryNever {
		return false
	}
	if m.config.BinaryTensors == binaryAlways {
		return true
	}
	known, denied := false, false
	for _, r := range m.picker.replicas {
		if !r.healthy(now) {
			continue // and may be gone for good
		}
		known, denied = known || r.extension.known, denied || r.extension.denied
		if ask && !r.extension.known && !r.extension.asking && !m.closed && !now.Before(r.extension.again) {
			r.extension.asking = true
			m.wg.Go(func() {
				known, err := askBinary(m.proxy.base, m.proxy.transport, r.url, http.Header{"User-Agent": {"flyball"}})
				m.knows(r, known, err)
			})
		}
	}
	return known && !denied
}

// askBinary asks a server whether it knows the binary tensor extension, by its metadata. The error is why it gave no answer.
func askBinary(ctx context.Context, transport http.RoundTripper, at *url.URL, header http.Header) (known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, binaryAskTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String()+"/v2", nil)
	if err != nil {
		return false, err
	}
	req.Header = header
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return false, err
	}
	if resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests {
		return false, fmt.Errorf("answered %d", resp.StatusCode)
	}
	var metadata struct {
		Extensions []string `json:"extensions"`
	}
	return resp.StatusCode == http.StatusOK && json.Unmarshal(text, &metadata) == nil && slices.Contains(metadata.Extensions, binaryExtension), nil
}

// knows takes note of what a replica answered.
func (m *model) knows(r *replica, known bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	before := m.takesBinary(now, false)
	x := &r.extension
	x.asking = false
	if err != nil {
		x.again = now.Add(binaryAskSoon)
		return
	}
	x.known, x.denied, x.again = known, !known, now.Add(binaryAskAgain)
	if !before && m.takesBinary(now, false) {
		m.proxy.logger.Info("replicas take tensors in binary: what clients send as JSON goes so", "model", m.config.Name)
	}
}

// inferBinary serves a request in JSON with its tensors in binary. It returns served as false where that cannot be, and refused where its
// replica did not take it: the body is still the caller's then, and is released else.
func (m *model) inferBinary(w http.ResponseWriter, r *http.Request, p protocol.Protocol, d *demand, body *buffer) (code int, own *demand, served, refused bool) {
	req := m.toBinary(w, r, p, d, body)
	if req == nil {
		return 0, d, false, false
	}
	m.proxy.metrics.binary.WithLabelValues(m.config.Name).Inc()
	a := m.result(req)
	if a == nil {
		body.release()
		return req.demand.form.writeGone(w), req.demand, true, false
	}
	defer a.release()
	if refusesBinary(a, body.b) {
		return 0, d, false, true
	}
	body.release()
	if a.code == http.StatusOK {
		m.mu.Lock()
		m.binaries.misses.hit()
		m.binaries.row, m.binaries.rests = 0, 0
		m.mu.Unlock()
	}
	return m.write(w, req.demand.form, a), req.demand, true, false
}

// toBinary is a request as it is queued, with its tensors in binary; nil where it cannot be, or its replica is to find what is wrong with it.
func (m *model) toBinary(w http.ResponseWriter, r *http.Request, p protocol.Protocol, d *demand, body *buffer) *request {
	own := m.proxy.buffers.get()
	message, ok := protocol.OIP{}.ToBinary(own.b, protocol.Message{Body: body.b}, binaryFrom)
	if !ok {
		own.release()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.binaries.misses.miss(binaryMisses)
		return nil
	}
	own.b = message.Body
	parsed, err := p.Parse(message)
	if err != nil || parsed.Items > m.config.Batch.MaxSize || own.reserve(int64(len(own.b)), int64(m.proxy.config.Limits.MaxInflightBytes)) != nil {
		own.release()
		return nil
	}
	terms, err := m.termsOf(time.Now(), r, parsed)
	if err != nil {
		own.release()
		return nil
	}
	binary := *r
	binary.Header = maps.Clone(r.Header)
	setFormat(binary.Header, message.Header)
	binary.ContentLength = int64(len(own.b))
	req, err := m.newRequest(w, &binary, p, d, parsed, terms, own)
	if err != nil {
		own.release()
		return nil
	}
	return req
}

// refusesBinary reports whether an answer to a request in binary may be about that: servers answer so what they cannot read. The body is what
// the client sent, which may want tensors in binary itself.
func refusesBinary(a *answer, body []byte) bool {
	if a.body == nil { // the proxy's own word
		return a.status == http.StatusInternalServerError || a.status == http.StatusNotImplemented
	}
	switch a.code {
	case http.StatusBadRequest, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true
	}
	return (a.header > 0 || len(a.headers[protocol.HeaderLength]) > 0) && !bytes.Contains(body, []byte(`"binary_data`))
}

// refusedBinary takes note of a request that a replica refused in binary, and was then sent as JSON, with this status.
func (m *model) refusedBinary(code int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if code < 200 || code > 299 {
		return // it was wrong either way
	}
	m.proxy.metrics.binaryRefused.WithLabelValues(m.config.Name).Inc()
	now := time.Now()
	if now.Before(m.binaries.until) { // it was under way when that was decided
		return
	}
	if m.binaries.row++; m.binaries.row < binaryRefusals {
		return
	}
	rest := min(shortestBinaryRest<<min(m.binaries.rests, 10), longestBinaryRest)
	m.binaries.row = 0
	m.binaries.rests++
	m.binaries.until = now.Add(rest)
	for _, r := range m.picker.replicas { // one of which may be another program now
		r.extension.known, r.extension.denied, r.extension.again = false, false, m.binaries.until
	}
	m.proxy.logger.Warn("replicas refused in binary what they took as JSON: requests go as JSON for a while", "model", m.config.Name, "for", rest)
}
