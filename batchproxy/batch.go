package batchproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"flyball/batchproxy/protocol"
)

// request is one client's request from its arrival to its answer. Its body belongs to whoever has the request: the
// queue, then the batch.
type request struct {
	protocol protocol.Protocol
	parsed   *protocol.Request
	body     *buffer
	incoming *http.Request
	key      []byte // of its lane
	demand   *demand
	terms    Terms
	unread   bool            // its body was not checked: it rides alone, with as many rows as a glance shows, or one
	binary   bool            // its tensors came as JSON: what a replica says of it may be about that
	chunk    bool            // of a request with more rows than a batch has; body is all of that one's
	early    *early          // of one that was sent while it came; nil else
	over     chan<- *request // is sent the request when it has its answer, if set; never blocks
	timing                   // belongs to whoever has the request, as the body does
	sent     time.Time       // last left the queue
	willing  bool            // its handler can send it, and spares it two changes of goroutines, if it leaves at once and by itself
	send     func()          // does so then, until it has its answer or is to be sent again
	ride     *ride           // for its spans; nil where there is no tracing

	entry *Entry[*request] // guarded by the model's mutex, as are batch and left
	batch *batch
	left  bool // the client has gone, and quit has taken note

	state  atomic.Int32 // waiting, then either answered or gone
	answer *answer      // set before done is closed
	done   chan struct{}
}

const (
	waiting = iota
	answered
	gone
)

func (r *request) gone() bool { return r.state.Load() == gone }

// answerWith ends the request with an answer, which is dropped where the client has gone.
func (r *request) answerWith(a *answer) {
	if r.state.CompareAndSwap(waiting, answered) {
		r.came(a)
		a.timing = r.timing
		r.answer = a
		close(r.done)
		if r.over != nil {
			r.over <- r
		}
	} else {
		r.came(nil)
		a.release()
	}
	r.body.release()
}

// deliver is answerWith for a request that is with a replica.
func (r *request) deliver(a *answer) {
	r.demand.running.Dec()
	r.together = time.Since(r.sent)
	r.answerWith(a)
}

// batch is requests that go to a replica together. The model's mutex guards it; its members belong to resolve while it
// is in flight.
type batch struct {
	members []*request
	replica *replica
	rows    int             // that the replica counts for it
	reason  string          // why it was sent
	ctx     context.Context // ends when no member is left
	cancel  context.CancelFunc
	alive   int        // members whose clients are there, and have no answer yet
	span    trace.Span // of a trace of its own; nil where it is none

	crowded  bool // how long it takes says nothing of S(n): the replica had others when it was sent, or its rows are not known
	others   int  // that the replica had when it was sent, as it does well with several at once
	answered bool // by the replica, which is free: the answer is being handed out
	heard    bool // there was an answer to it or to a part of it, whatever it says

	attempt int       // how often it may have reached a replica that did not answer
	avoid   *replica  // the one that did not
	failure *failure  // how
	until   time.Time // when to give up sending it again

	culprits int // members that the replica refused for their size alone, too
}

// failure is why a replica gave no answer to a batch.
type failure struct {
	sent       bool // the replica may have seen it
	replica    *replica
	err        error
	code       int           // 429 or 503, which the clients are told; 0 for anything else
	retryAfter time.Duration // with code
	status     int           // of an answer that clients are not given; 0 where there was none
}

// answer is what clients are told after the last attempt. A nil failure is one that the shutdown prevented.
func (f *failure) answer(model string, closed bool) *answer {
	switch {
	case f == nil || closed && errors.Is(f.err, context.Canceled):
		return &answer{code: http.StatusServiceUnavailable, message: "the proxy is shutting down", retryAfter: time.Second}
	case f.code != 0:
		return &answer{code: f.code, message: fmt.Sprintf("model %q: replica %s: %s", model, f.replica.address, f.err), retryAfter: max(f.retryAfter, time.Second)}
	default:
		return &answer{code: http.StatusBadGateway, status: f.status, message: fmt.Sprintf("model %q: replica %s: %s", model, f.replica.address, plainError(f.err))}
	}
}

// resolve gets an answer from the batch's replica for each of these members, and returns those that have none, with the
// reason.
func (m *model) resolve(b *batch, members []*request) ([]*request, *failure) {
	ctx, to := b.ctx, b.replica
	first := len(members) == len(b.members) // rather than a part of a batch that failed
	if !first {
		m.recount(b)
	}
	if members = stillThere(members); len(members) == 0 {
		return nil, nil
	}
	started := time.Now()
	until, patient := m.callUntil(started, members)
	within, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	number := m.number.Add(1)
	spans := m.traceCall(b, members, number, started)
	resp, err := m.call(within, to, members, number, spans)
	took := time.Since(started)
	spans.end(resp, err)
	for _, r := range members {
		r.call, r.upstream = number, took
	}
	m.upstream.Observe(took.Seconds())
	b.heard = b.heard || err == nil
	over, gone := err != nil && within.Err() != nil && ctx.Err() == nil, ctx.Err() != nil
	m.saw(to, resp, err, sighting{first: first, shared: b.crowded, rows: itemsOf(members), began: started, took: took, late: over && patient, gone: gone || over && !patient})
	if err != nil {
		if over && !patient { // which the clients' own goroutines tell them too
			for _, r := range members {
				r.deliver(m.pastDeadline())
			}
			return nil, nil
		}
		return m.unanswered(ctx, within, to, members, err)
	}
	defer resp.body.release()
	if len(members) == 1 && !first && resp.tooLarge() {
		b.culprits++
	}
	switch tooMany := len(members) > 1 && resp.tooLarge(); {
	case tooMany && m.mayBisect(resp.code):
		culprits := b.culprits
		left, failure := m.bisect(b, members)
		if b.culprits == culprits { // or one request was, whatever it came with
			m.tooLarge(members)
		}
		return left, failure
	case resp.code == http.StatusTooManyRequests || resp.code == http.StatusServiceUnavailable:
		after, _ := strconv.Atoi(resp.header.Get("Retry-After"))
		return members, &failure{
			sent: true, replica: to, code: resp.code, retryAfter: time.Duration(min(max(after, 0), 3600)) * time.Second,
			err: fmt.Errorf("answered %d", resp.code),
		}
	case resp.code >= 500:
		f := &failure{sent: true, replica: to, err: fmt.Errorf("answered %d", resp.code), status: resp.code}
		if resp.code != http.StatusInternalServerError || b.attempt == 0 {
			return members, f
		}
		return m.blame(b, members, first, f)
	case len(members) == 1:
		if resp.code != http.StatusOK {
			took = 0
		}
		if !first && resp.code >= 400 && !concernsAll(resp.code) {
			m.poisonedBy(members[0])
		}
		m.answered(b, members, took, first)
		m.deliverWhole(resp, members)
		return nil, nil
	case resp.code == http.StatusOK:
		m.answered(b, members, took, first)
		if err := m.deliverParts(resp, members); err != nil {
			return m.aloneFromNow(b, members, err)
		}
		return nil, nil
	case resp.code < 400:
		return m.aloneFromNow(b, members, fmt.Errorf("the replica answered %d", resp.code))
	case concernsAll(resp.code):
		m.answered(b, members, 0, first)
		m.deliverWhole(resp, members)
		return nil, nil
	default:
		return m.bisect(b, members)
	}
}

// blame deals with members that two calls have answered with 500: some servers say so to a request that is wrong, and
// only that one shall fail. Where the budget is used up all fail.
func (m *model) blame(b *batch, members []*request, first bool, f *failure) ([]*request, *failure) {
	if len(members) == 1 {
		if !first {
			m.poisonedBy(members[0])
		}
		members[0].deliver(f.answer(m.config.Name, false))
		return nil, nil
	}
	m.mu.Lock()
	may := m.budget.take(2)
	m.mu.Unlock()
	if !may {
		return members, f
	}
	return m.bisect(b, members)
}

// mayBisect reports whether a batch that was answered with this status may be cut in two: an error of the server's costs
// of the budget for what is sent again.
func (m *model) mayBisect(code int) bool {
	if code < 500 {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.budget.take(2)
}

// bisect sends the halves of the members.
func (m *model) bisect(b *batch, members []*request) ([]*request, *failure) {
	m.proxy.metrics.bisects.WithLabelValues(m.config.Name).Inc()
	half := len(members) / 2
	return m.each(b, [][]*request{members[:half], members[half:]})
}

// concernsAll reports whether an error is about the path or the rights, which the members of a batch share.
func concernsAll(code int) bool {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
		return true
	}
	return false
}

// recount leaves those members out of a batch that was cut who have their answers: when the others go, nobody is left.
func (m *model) recount(b *batch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b.alive = 0
	for _, r := range b.members {
		if !r.left && r.state.Load() != answered {
			b.alive++
		}
	}
}

// each resolves parts of a batch one after the other, until the replica fails.
func (m *model) each(b *batch, parts [][]*request) ([]*request, *failure) {
	for i, part := range parts {
		left, failure := m.resolve(b, part)
		if failure != nil {
			for _, rest := range parts[i+1:] {
				left = append(slices.Clip(left), rest...)
			}
			return left, failure
		}
	}
	return nil, nil
}

// aloneTime is how long a lane is not batched whose answer could not be split: long enough that the double work does
// not show, short enough to notice a new version of the model.
const aloneTime = time.Minute

// aloneFromNow sends every member by itself, and the lane's next requests too.
func (m *model) aloneFromNow(b *batch, members []*request, why error) ([]*request, *failure) {
	m.proxy.logger.Warn("an answer cannot be split; such requests go alone for a while", "model", m.config.Name, "err", why)
	m.mu.Lock()
	m.batcher.Alone(members[0].key, time.Now().Add(aloneTime))
	m.mu.Unlock()
	m.unanswer(b)
	parts := make([][]*request, len(members))
	for i := range members {
		parts[i] = members[i : i+1]
	}
	return m.each(b, parts)
}

// unanswered sorts out why a call gave no answer.
func (m *model) unanswered(ctx, within context.Context, to *replica, members []*request, err error) ([]*request, *failure) {
	var a answer
	switch {
	case ctx.Err() != nil: // the proxy stops, or nobody is left
		a = answer{code: http.StatusServiceUnavailable, message: "the proxy is shutting down", retryAfter: time.Second}
	case errors.Is(within.Err(), context.DeadlineExceeded):
		a = answer{code: http.StatusGatewayTimeout, message: fmt.Sprintf("model %q: replica %s did not answer within %s", m.config.Name, to.address, m.config.Timeout)}
	case errors.Is(err, errTooLarge):
		a = answer{code: http.StatusBadGateway, message: fmt.Sprintf("model %q: replica %s: %s", m.config.Name, to.address,
			tooLarge("the answer", int64(m.proxy.config.Limits.MaxResponse)))}
	default:
		return members, &failure{sent: !unsent(err), replica: to, err: err}
	}
	for _, r := range members {
		own := a
		r.deliver(&own)
	}
	return nil, nil
}

// deliverWhole gives every member the answer as it is. Where there are several it is without headers that could be for
// one of them.
func (m *model) deliverWhole(resp *response, members []*request) {
	header := resp.header
	if len(members) > 1 {
		header = make(http.Header, 2)
		for _, name := range []string{"Content-Type", "Www-Authenticate", "Allow"} {
			if values, ok := resp.header[name]; ok {
				header[name] = values
			}
		}
	}
	rows := itemsOf(members)
	for _, r := range members {
		resp.body.refs.Add(1)
		r.deliver(&answer{code: resp.code, headers: header, body: resp.body, items: rows})
	}
}

// deliverParts gives each member its part of the answer. Nothing is delivered where there is an error.
func (m *model) deliverParts(resp *response, members []*request) error {
	text, err := resp.message()
	if err != nil {
		return err
	}
	parsed := make([]*protocol.Request, len(members))
	for i, r := range members {
		parsed[i] = r.parsed
	}
	parts, err := members[0].protocol.Split(text, parsed)
	if err != nil {
		return err
	}
	rows := itemsOf(members)
	for i, r := range members {
		own := m.proxy.buffers.get()
		part := parts.AppendText(own.b, i)
		own.b = part.Body
		a := &answer{code: resp.code, body: own, header: part.Header, items: rows, estimated: parts.Estimated()}
		tensors := parts.Tensors(i)
		if whole := len(resp.body.b); shareable(tensors, whole) {
			resp.body.refs.Add(1)
			a.tensors, a.tensorsOf = tensors, resp.body
		} else { // a copy, so that one slow client does not keep the whole
			for _, tensor := range tensors {
				own.b = append(own.b, tensor...)
			}
		}
		r.deliver(a)
	}
	return nil
}

const (
	// worthSharing is from how many bytes on a client's tensors are written from the batch's answer: a copy of less costs
	// some 10 µs.
	worthSharing = 256 << 10
	// mostKept is how many times as much memory as its own part a slow client may keep.
	mostKept = 4
)

// shareable reports whether tensors are to be written from the answer that they are a part of, which has so many bytes.
func shareable(tensors [][]byte, whole int) bool {
	size := 0
	for _, tensor := range tensors {
		size += len(tensor)
	}
	return size >= worthSharing && size*mostKept >= whole
}

// response is what a replica answered.
type response struct {
	code   int
	header http.Header
	body   *buffer
}

// saysTooLarge is in the errors of servers that refuse a batch for its size: Triton's "batch-size must be <= 8", TEI's "batch
// size 64 > maximum allowed batch size 32", CUDA's "out of memory".
var saysTooLarge = regexp.MustCompile(`(?i)out of memory|batch[ -]?(size)?\b[^.\n]{0,60}(too (large|big)|exceed|must be <=|> ?max|larger than)`)

// tooLarge reports whether the replica refused the batch for its size.
func (r *response) tooLarge() bool {
	switch r.code {
	case http.StatusRequestEntityTooLarge:
		return true
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusInternalServerError, http.StatusInsufficientStorage:
		return saysTooLarge.Match(r.body.b[:min(len(r.body.b), 4<<10)])
	}
	return false
}

// message is the answer for a protocol to read. The error says why it cannot be read.
func (r *response) message() (protocol.Message, error) {
	if r.header.Get("Content-Encoding") != "" {
		return protocol.Message{}, errors.New("it is compressed")
	}
	header, raw, err := headerLength(r.header, len(r.body.b))
	if raw {
		err = errors.New("it has no JSON")
	}
	return protocol.Message{Body: r.body.b, Header: header}, err
}

// call sends the members to the replica: one as it is, several merged, as the batch of a number.
func (m *model) call(ctx context.Context, to *replica, members []*request, number uint64, spans *callSpans) (*response, error) {
	first := members[0]
	if len(members) == 1 {
		if resp, all, err := first.early.finish(ctx, to); all {
			return m.take(resp, err)
		}
	}
	body := first.body
	req := m.single(to, first.incoming, int64(len(body.b)))
	if len(members) > 1 || first.chunk {
		parsed := make([]*protocol.Request, len(members))
		for i, r := range members {
			parsed[i] = r.parsed
		}
		body = m.proxy.buffers.get()
		defer body.release()
		merged := first.protocol.Merge(body.b, batchID(number), parsed)
		body.b = merged.Body
		req.Header = sharedHeaders(first.incoming.Header, m.ignore)
		setFormat(req.Header, merged.Header)
		req.ContentLength = int64(len(body.b))
		anonymous(req.Header)
	}
	spans.inject(req.Header)
	req.Body, req.GetBody = body.reader(), func() (io.ReadCloser, error) { return body.reader(), nil }
	return m.take(toReplicas{m}.RoundTrip(req.WithContext(ctx)))
}

// single is a client's request as it goes to a replica by itself, without its body, which has so many bytes.
func (m *model) single(to *replica, incoming *http.Request, size int64) *http.Request {
	header := endToEnd(make(http.Header, len(incoming.Header)+1), incoming.Header)
	deleteForwarded(header)
	anonymous(header)
	at := *to.url
	at.Path = to.url.Path + incoming.URL.Path
	at.RawPath = to.url.EscapedPath() + incoming.URL.EscapedPath()
	at.RawQuery = incoming.URL.RawQuery
	return &http.Request{
		Method: http.MethodPost, URL: &at, Host: at.Host, Header: header, ContentLength: size, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
}

// anonymous keeps the name of Go's client out of the headers.
func anonymous(header http.Header) {
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = []string{""}
	}
}

// take reads what a replica answers.
func (m *model) take(resp *http.Response, err error) (*response, error) {
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out := &response{code: resp.StatusCode, header: resp.Header, body: m.proxy.buffers.get()}
	if err := out.body.readFrom(resp.Body, resp.ContentLength, int64(m.proxy.config.Limits.MaxResponse), 0); err != nil {
		out.body.release()
		return nil, err
	}
	return out, nil
}

// stillThere drops members whose clients have gone.
func stillThere(members []*request) []*request {
	there := members[:0:0]
	for i, r := range members {
		switch {
		case r.gone():
			if there == nil {
				there = append(make([]*request, 0, len(members)), members[:i]...)
			}
			r.deliver(nil)
		case there != nil:
			there = append(there, r)
		}
	}
	if there == nil {
		return members
	}
	return there
}

func itemsOf(members []*request) int {
	n := 0
	for _, r := range members {
		n += r.parsed.Items
	}
	return n
}
