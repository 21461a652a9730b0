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
	// A replica that does not know it, or gave no answer, is asked again after binaryAskSoon, then after twice as long each time: it may
	// not have come up yet, or be another program some day.
	binaryAskSoon = 5 * time.Second
	binaryAskLate = 10 * time.Minute
	// A replica that refuses so many requests one after the other in binary that are then taken as JSON is taken not to know it for so long, and
	// twice as long each time. One or two may have failed for another reason, which was over then.
	binaryRefusals     = 3
	shortestBinaryRest = time.Minute
	longestBinaryRest  = time.Hour
	// binaryMisses is up to how many large requests are not tried where again and again one could not be in binary: those can be sent early.
	binaryMisses = 8
)

// extension is whether a replica knows the binary tensor extension. The model's mutex guards it.
type extension struct {
	known   bool // it says so
	denied  bool // it says that it does not, or refused what it said that it takes
	asking  bool
	asked   int       // times without a yes
	again   time.Time // when it may be asked, and is no longer taken to have denied it if it refused
	refused int       // requests, one after the other
	rests   int       // after such refusals, without a success between them
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
	for _, name := range []string{"Content-Digest", "Repr-Digest", "Digest", "Content-Md5", "Signature", "X-Amz-Content-Sha256"} {
		if len(r.Header[name]) > 0 { // it is of the body as it is
			return false
		}
	}
	if connection := r.Header["Connection"]; listed(connection, protocol.HeaderLength) || listed(connection, "Content-Type") {
		return false // they would not be passed on
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.takesBinary(time.Now(), true) && (r.ContentLength < earlyFrom || m.noBinary.over())
}

// takesBinary reports whether replicas take tensors in binary: one that is well says so, and none that is says no. One that has not said
// yet is taken to be as the others are: it is new, or busy. Where they may be asked, those are of which it is not known. For the holder
// of the mutex.
func (m *model) takesBinary(now time.Time, ask bool) bool {
	if m.config.BinaryTensors == binaryNever {
		return false
	}
	always := m.config.BinaryTensors == binaryAlways
	known, denied := always, false
	for _, r := range m.picker.replicas {
		x := &r.extension
		if r.draining || !r.healthy(now) {
			continue // and may be gone for good
		}
		known = known || x.known
		if due := !now.Before(x.again); always {
			denied = denied || x.denied && !due
		} else {
			denied = denied || x.denied
			if ask && due && !x.known && !x.asking && !m.closed {
				x.asking = true
				m.wg.Go(func() {
					known, err := askBinary(m.proxy.base, m.proxy.transport, r.url, http.Header{"User-Agent": {"flyball"}})
					m.knows(r, known, err)
				})
			}
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
	const most = 64 << 10
	text, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return false, err
	}
	if len(text) > most {
		return false, fmt.Errorf("metadata of more than %d bytes", most)
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
	x.again = now.Add(min(binaryAskSoon<<min(x.asked, 10), binaryAskLate))
	x.asked++
	if err != nil {
		return
	}
	if x.known, x.denied = known, !known; known {
		x.asked, x.refused = 0, 0
	}
	if !before && m.takesBinary(now, false) {
		m.proxy.logger.Info("replicas take tensors in binary: what clients send as JSON goes so", "model", m.config.Name)
	}
}

// inferBinary serves a request in JSON, which came at a time, with its tensors in binary. It returns served as false where that cannot be; and refused,
// the request as it was sent, where a replica did not take it so. The body is still the caller's then, and is released else.
func (m *model) inferBinary(w http.ResponseWriter, r *http.Request, p protocol.Protocol, d *demand, body *buffer, came time.Time) (code int, own *demand, served bool, refused *request) {
	req := m.toBinary(w, r, p, d, body, came)
	if req == nil {
		return 0, d, false, nil
	}
	m.proxy.metrics.binary.WithLabelValues(m.config.Name).Inc()
	longer := req.incoming.ContentLength > int64(len(body.b))
	a := m.result(req)
	if a == nil {
		body.release()
		return req.demand.form.writeGone(w), req.demand, true, nil
	}
	defer a.release()
	if refusesBinary(a, body.b, longer) && m.mayResend(a) {
		return 0, d, false, req
	}
	body.release()
	if a.code == http.StatusOK {
		m.tookBinary(req)
	}
	return m.write(w, req.demand.form, a), req.demand, true, nil
}

// mayResend reports whether a request that was refused in binary may be sent as JSON: what failed on the replica's side costs of the budget for what is
// sent again.
func (m *model) mayResend(a *answer) bool {
	if a.status == 0 {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.budget.take(1)
}

// toBinary is a request as it is queued, with its tensors in binary; nil where it cannot be, or its replica is to find what is wrong with it.
func (m *model) toBinary(w http.ResponseWriter, r *http.Request, p protocol.Protocol, d *demand, body *buffer, came time.Time) *request {
	own := m.proxy.buffers.get()
	req := m.inBinary(w, r, p, d, body, own, came)
	if req == nil {
		own.release()
	}
	if len(body.b) >= earlyFrom {
		m.mu.Lock()
		defer m.mu.Unlock()
		if req == nil {
			m.noBinary.miss(binaryMisses)
		} else {
			m.noBinary.hit()
		}
	}
	return req
}

// inBinary is toBinary with a buffer for what the request becomes, which is the request's if it is one.
func (m *model) inBinary(w http.ResponseWriter, r *http.Request, p protocol.Protocol, d *demand, body, own *buffer, came time.Time) *request {
	conversion, ok := protocol.OIP{}.ToBinary(protocol.Message{Body: body.b}, binaryFrom)
	// Half of the room is for requests as they come: none is turned away because others are held twice.
	if !ok || own.reserve(int64(conversion.Size()), int64(m.proxy.config.Limits.MaxInflightBytes)/2) != nil {
		return nil
	}
	message, ok := conversion.Append(own.b)
	if !ok {
		return nil
	}
	own.b = message.Body
	parsed, err := p.Parse(message)
	if err != nil || parsed.Items > m.config.Batch.MaxSize {
		return nil
	}
	terms, err := m.termsOf(came, r, parsed)
	if err != nil {
		return nil
	}
	binary := *r
	binary.Header = maps.Clone(r.Header)
	setFormat(binary.Header, message.Header)
	binary.ContentLength = int64(len(own.b))
	req, err := m.newRequest(w, &binary, p, d, parsed, terms, own)
	if err != nil {
		return nil
	}
	req.binary = true
	return req
}

// refusesBinary reports whether an answer to a request in binary may be about that: servers answer so what they cannot read, and a limit may have room for
// it as JSON alone, where it is longer in binary. The body is what the client sent, which may want tensors in binary itself.
func refusesBinary(a *answer, body []byte, longer bool) bool {
	if a.body == nil { // the proxy's own word
		return a.status == http.StatusInternalServerError || a.status == http.StatusNotImplemented
	}
	switch a.code {
	case http.StatusBadRequest, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true
	case http.StatusRequestEntityTooLarge:
		return longer
	}
	return (a.header > 0 || len(a.headers[protocol.HeaderLength]) > 0) && !bytes.Contains(body, []byte(`"binary_data`))
}

// tookBinary takes note of a request that a replica took in binary.
func (m *model) tookBinary(req *request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if req.batch != nil {
		req.batch.replica.extension.refused, req.batch.replica.extension.rests = 0, 0
	}
}

// refusedBinary takes note of a request that a replica refused in binary, and was then sent as JSON, with this status.
func (m *model) refusedBinary(req *request, code int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if code < 200 || code > 299 || req.batch == nil {
		return // it was wrong either way
	}
	m.proxy.metrics.binaryRefused.WithLabelValues(m.config.Name).Inc()
	now := time.Now()
	x := &req.batch.replica.extension
	if x.denied && now.Before(x.again) { // it was under way when that was decided
		return
	}
	if x.refused++; x.refused < binaryRefusals {
		return
	}
	rest := min(shortestBinaryRest<<min(x.rests, 10), longestBinaryRest)
	*x = extension{denied: true, again: now.Add(rest), rests: x.rests + 1}
	m.proxy.logger.Warn("a replica refused in binary what was taken as JSON: requests go as JSON for a while", "model", m.config.Name,
		"replica", req.batch.replica.address, "for", rest)
}
