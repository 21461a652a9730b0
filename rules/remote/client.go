package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"

	"flyball/rules"
)

var _ rules.Querier = (*Client)(nil)

const (
	// maxConcurrent is how many queries are under way at once: Prometheus answers 20 at a time by default, and flyball is
	// one of those who ask.
	maxConcurrent = 8

	// maxRetryAfter bounds for how long a server may ask to be left alone: less than the window of going down.
	maxRetryAfter = time.Minute

	// maxErrorBody is how much of an error's page is read.
	maxErrorBody = 64 << 10
)

// Options are what a Client works with besides its configuration. All may be left out.
type Options struct {
	Metrics   *Metrics
	Log       *slog.Logger
	UserAgent string
}

// Client asks one Prometheus. Its methods may be called from many goroutines at once.
type Client struct {
	config  Config
	base    *url.URL
	http    *http.Client
	memo    *memo
	metrics *Metrics
	log     *slog.Logger
	agent   string
	secrets *secrets

	deciding lane // of what rules ask
	reading  lane // of what people and dashboards ask, who keep no rule waiting

	mu  sync.Mutex // guards what follows
	get bool       // POST is not allowed
}

// New returns a client of the Prometheus that the configuration, which must be for one elsewhere, names. It reads the
// files of tls_config, and asks nothing yet. Faults of the configuration begin with the path of their key.
func New(c Config, o Options) (*Client, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if !c.Remote() {
		return nil, errors.New("url: it is embedded: there is nothing to ask elsewhere")
	}
	base, err := parseURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	if c.Timeout == 0 {
		c.Timeout = model.Duration(DefaultTimeout)
	}
	client, err := promconfig.NewClientFromConfig(c.HTTP, "remote")
	if err != nil {
		return nil, withoutPath(err)
	}
	if c.HTTP.FollowRedirects {
		client.CheckRedirect = sameServer
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(prometheus.NewRegistry())
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{
		config: c, base: base, http: client, memo: newMemo(c.MaxSeries),
		metrics: o.Metrics, log: o.Log, agent: o.UserAgent, secrets: secretsOf(&c),
		deciding: newLane(maxConcurrent), reading: newLane(maxForwards),
	}, nil
}

// Close lets go of idle connections. Queries under way are answered.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Query implements rules.Querier: a sample for each series, each with Time at. The slice is shared with others who ask
// the same, so it must not be changed. The lookback goes along as Prometheus's parameter lookback_delta; a server that does
// not know it looks back as far as it always does.
func (c *Client) Query(ctx context.Context, expr string, at time.Time, lookback time.Duration) ([]rules.Sample, error) {
	q := question{expr, lookback}
	at = at.Truncate(time.Millisecond).UTC() // Prometheus's resolution
	samples, shared, err := c.memo.do(ctx, q, at, func() ([]rules.Sample, error) { return c.ask(ctx, q, at) })
	if shared {
		c.metrics.shared.Inc()
	}
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", brief(expr), err)
	}
	return samples, nil
}

// ask sends a query when there is a turn, and counts what becomes of it.
func (c *Client) ask(ctx context.Context, q question, at time.Time) ([]rules.Sample, error) {
	limit := time.Duration(c.config.Timeout)
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	samples, err := c.turn(limited, q, at)
	switch {
	case err == nil:
		c.metrics.last.SetToCurrentTime()
		return samples, nil
	case ctx.Err() != nil: // the caller's own end
		return nil, context.Cause(ctx)
	case limited.Err() != nil:
		err = &failure{timeout, fmt.Errorf("no answer within %s", limit)}
	}
	why := unreachable
	if f, ok := errors.AsType[*failure](err); ok {
		why = f.reason
	}
	c.metrics.failed.WithLabelValues(string(why)).Inc()
	return nil, fmt.Errorf("%s://%s: %s", c.base.Scheme, c.base.Host, c.secrets.Replace(err.Error()))
}

func (c *Client) turn(ctx context.Context, q question, at time.Time) (samples []rules.Sample, err error) {
	leave, err := c.deciding.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	form := url.Values{"query": {q.expr}, "time": {formatTime(at)}}
	if q.lookback > 0 {
		form.Set("lookback_delta", strconv.FormatFloat(q.lookback.Seconds(), 'f', -1, 64))
	}
	err = c.exchange(ctx, "query", form, func(response *http.Response) (err error) {
		if response.StatusCode/100 != 2 {
			return &failure{refused, c.refusal(response)}
		}
		samples, err = c.read(response, at)
		return err
	})
	return samples, err
}

// exchange sends a question, and once more by GET where the server does not know POST, and has take read the answer.
func (c *Client) exchange(ctx context.Context, path string, form url.Values, take func(*http.Response) error) error {
	sent := url.Values{}
	maps.Copy(sent, form)
	for name, values := range c.config.Params {
		if _, given := sent[name]; !given {
			sent[name] = values
		}
	}
	c.mu.Lock()
	get := c.get || onlyGet(path)
	c.mu.Unlock()
	status, err := c.send(ctx, get, path, sent, take)
	if !get && (status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented) {
		c.mu.Lock()
		c.get = true
		c.mu.Unlock()
		_, err = c.send(ctx, true, path, sent, take)
	}
	return err
}

// send makes one request. The status is 0 where there is no answer.
func (c *Client) send(ctx context.Context, get bool, path string, form url.Values, take func(*http.Response) error) (status int, err error) {
	code, start := "error", time.Now()
	defer func() {
		c.metrics.requests.WithLabelValues(code).Inc()
		c.metrics.duration.Observe(time.Since(start).Seconds())
	}()
	request, err := c.request(ctx, get, path, form)
	if err != nil {
		return 0, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // the URL has the query, where it was a GET
		}
		return 0, err
	}
	defer response.Body.Close() // an answer that was not read to its end costs the connection
	code = strconv.Itoa(response.StatusCode)
	c.secrets.sent(response.Request.Header) // the request as it went out, with what was read from files
	return response.StatusCode, take(response)
}

func (c *Client) request(ctx context.Context, get bool, path string, form url.Values) (*http.Request, error) {
	u := c.base.JoinPath("api/v1", path)
	method, body := http.MethodPost, io.Reader(strings.NewReader(form.Encode()))
	if get {
		method, body, u.RawQuery = http.MethodGet, nil, form.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if !get {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		// Not sent, but it tells the transport that a connection which turns out to have been closed while it was idle
		// costs no query: it takes another one.
		request.Header["Idempotency-Key"] = nil
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Accept-Encoding", "gzip")
	if c.agent != "" {
		request.Header.Set("User-Agent", c.agent)
	}
	for name, value := range c.config.Headers {
		request.Header.Set(name, value)
	}
	request.Header.Set(hop, "1")
	return request, nil
}

// sameServer follows a redirect only where it was sent from: elsewhere it would take the query, and a tenant's header or
// credentials with it. A POST that becomes a GET has lost its query.
func sameServer(next *http.Request, via []*http.Request) error {
	first := via[0]
	to := url.URL{Scheme: next.URL.Scheme, Host: next.URL.Host, Path: next.URL.Path} // the rest may hold a token
	switch {
	case len(via) >= 10:
		return &failure{refused, errors.New("it redirects in a circle")}
	case next.URL.Scheme != first.URL.Scheme || next.URL.Host != first.URL.Host:
		return &failure{refused, fmt.Errorf("it redirects to %s, where nothing is sent: if that is the right one, give its URL", to.String())}
	case next.Method != first.Method:
		return &failure{refused, fmt.Errorf("it redirects to %s, which loses the query: give the URL that needs no redirect", to.String())}
	}
	return nil
}

// refusal is what an answer other than 2xx says to a rule.
func (c *Client) refusal(response *http.Response) error {
	c.deciding.rest(response)
	if kind, text := c.told(response); text != "" {
		return fmt.Errorf("it answered %s: %s", statusText(response), apiError(kind, text))
	}
	return errors.New(meaning(response))
}

// told is the error that an answer has in the form of Prometheus's API, if it has one.
func (c *Client) told(response *http.Response) (kind, text string) {
	body, err := c.body(response, maxErrorBody)
	if err != nil {
		return "", ""
	}
	read, err := io.ReadAll(body)
	var told struct{ Status, ErrorType, Error string }
	if err != nil || response.StatusCode/100 == 3 || json.Unmarshal(bytes.TrimSpace(read), &told) != nil {
		return "", ""
	}
	return told.ErrorType, told.Error
}

func statusText(response *http.Response) string {
	return fmt.Sprintf("%d %s", response.StatusCode, http.StatusText(response.StatusCode))
}

// meaning is what an answer says by its status alone.
func meaning(response *http.Response) string {
	status := statusText(response)
	switch {
	case response.StatusCode/100 == 3:
		to := "elsewhere"
		if u, err := response.Location(); err == nil {
			to = (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String() // the rest may hold a token
		}
		return fmt.Sprintf("it redirects to %s (%s): if that is the right one, give its URL", to, status)
	case response.StatusCode == http.StatusUnauthorized, response.StatusCode == http.StatusForbidden:
		return "it answered " + status + ": are the credentials right?"
	case response.StatusCode == http.StatusNotFound:
		return "it answered " + status + ": is the URL right, with its path prefix and without /api/v1?"
	}
	return "it answered " + status
}

func apiError(kind, text string) string {
	if kind == "" {
		return brief(text)
	}
	return brief(kind) + ": " + brief(text)
}
