package batchproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"flyball/batchproxy/protocol"
)

// CalibrateOptions say which model is measured, and how thoroughly.
type CalibrateOptions struct {
	URL      string // of the server, http or https, without a path of the protocol's
	Model    string // its name
	Protocol string // v1, oip or openai
	// Request is a body of the protocol, in JSON, with one row or more, whose rows batches repeat. Without one it is made up: of the
	// Open Inference Protocol by what the server says of the model's inputs, of OpenAI's a text.
	Request []byte
	// OpenDimension is what a dimension is taken for that the model leaves open, other than that of the rows, where the request is
	// made up: 1 or more.
	OpenDimension int
	// BinaryTensors is as in [ModelConfig]: the server is sent what the proxy would send it.
	BinaryTensors string
	Sizes         []int       // of the batches in rows, ascending
	Header        http.Header // sent with each; may be nil
	// Rounds is how often each size is measured, 3 or more. Within MaxDuration, that is: it ends the rounds.
	Rounds      int
	MaxDuration time.Duration
	Timeout     time.Duration     // of one batch
	Transport   http.RoundTripper // that of the proxy if nil
	// Progress is told after each batch, warm-up included; may be nil.
	Progress func(CalibrateStep)
}

// CalibrateStep is one batch that was measured.
type CalibrateStep struct {
	Round int // 0 is the warm-up
	Size  int // rows
	Took  time.Duration
}

// DefaultCalibrateOptions measure sizes up to 64 in at most a minute.
func DefaultCalibrateOptions() CalibrateOptions {
	return CalibrateOptions{
		Protocol:      "oip",
		OpenDimension: 16, // the words of a short text, or an image that says how the batch grows and not how large images are
		Sizes:         []int{1, 2, 4, 8, 16, 32, 64},
		Rounds:        15, // a median that three accidents do not move
		// The answer is wanted while somebody waits for it, and the server does little else meanwhile.
		MaxDuration: time.Minute,
		Timeout:     30 * time.Second,
	}
}

// Calibration is how long a server takes for batches, and what follows from it.
type Calibration struct {
	Model    string `json:"model"`
	Protocol string `json:"protocol"`
	// Inputs are those of the request that was made up, with the shapes that were sent; empty where one was given.
	Inputs []string `json:"made_up_inputs,omitempty"`
	// Binary says that the tensors went in binary, as the proxy would send them.
	Binary bool               `json:"binary_tensors"`
	Sizes  []CalibrationPoint `json:"sizes"`
	// The fitted time of a batch of n rows is Intercept + Slope*n seconds; Error is the mean of how far off that is, as
	// a part of what was measured.
	Intercept float64 `json:"service_time_intercept_seconds"`
	Slope     float64 `json:"service_time_slope_seconds"`
	Error     float64 `json:"fit_error_ratio"`
	// Refused is the smallest size that the server refused as too large, 0 where it took all; Refusal is what it said.
	Refused int    `json:"refused_size,omitempty"`
	Refusal string `json:"refusal,omitempty"`
	// Pays says whether batching gains 10 % or more, from where on the proxy batches.
	Pays bool `json:"batching_pays"`
	// MaxSize is the smallest size that has 95 % of the rows a second of the best, 1 where batching does not pay, and
	// Capacity the rows a second of a replica then. TargetPerReplica leaves room for queues to stay short.
	MaxSize          int     `json:"max_size"`
	Capacity         float64 `json:"capacity_rows_per_second"`
	TargetPerReplica float64 `json:"target_rows_per_second_per_replica"`
}

// CalibrationPoint is one size.
type CalibrationPoint struct {
	Size    int     `json:"size"`             // rows
	Batches int     `json:"batches"`          // measured
	Seconds float64 `json:"duration_seconds"` // median
	Fitted  float64 `json:"fitted_seconds"`
	Rate    float64 `json:"rows_per_second"`
	Gain    float64 `json:"gain_ratio"` // rows a second by those of the smallest size
}

const (
	// pays is the gain from which on batching is worth the wait; see tuning.
	pays = 1.1
	// nearBest is how much of the most rows a second a smaller size must have to be preferred: it answers sooner.
	nearBest = 0.95
	// targetShare is how much of its capacity a replica is given: at 70 % a batch waits for about one other.
	targetShare = 0.7
	// fewestRounds are measured whatever MaxDuration says, or there is no median.
	fewestRounds = 3
	// warmUpBatches of each size are not counted: servers compile, allocate or tune for each shape.
	warmUpBatches = 2
)

// calibrator is a calibration under way.
type calibrator struct {
	opts     CalibrateOptions
	protocol protocol.Protocol
	url      string
	sample   *protocol.Request
	madeUp   []string // of what, if it was
	binary   bool
	took     [][]float64 // by size, seconds
}

// Calibrate measures how long a server takes for batches of growing size, one at a time, and fits S(n). The sizes take turns, so
// that what else the machine does falls on all of them alike. Sizes above one that the server refuses as too large are left out.
// The error is that of ctx, of the options, or says what the server answered.
func Calibrate(ctx context.Context, opts CalibrateOptions) (*Calibration, error) {
	c := &calibrator{opts: opts}
	if opts.Transport == nil {
		t := newTransport(nil)
		defer t.CloseIdleConnections()
		c.opts.Transport = t
	}
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	out := &Calibration{Model: opts.Model, Protocol: opts.Protocol, Inputs: c.madeUp, Binary: c.binary}
	for i, size := range c.opts.Sizes {
		if err := c.warm(ctx, size); err != nil {
			refused, ok := errors.AsType[*refusedSize](err)
			if !ok || i == 0 {
				return nil, err
			}
			out.Refused, out.Refusal = size, refused.said
			c.opts.Sizes = c.opts.Sizes[:i]
			break
		}
	}
	c.took = make([][]float64, len(c.opts.Sizes))
	for round := 1; round <= max(c.opts.Rounds, fewestRounds); round++ {
		for i, size := range c.opts.Sizes {
			if round > fewestRounds && time.Since(began) >= c.opts.MaxDuration {
				break
			}
			took, err := c.send(ctx, round, size)
			if err != nil {
				return nil, err
			}
			c.took[i] = append(c.took[i], took.Seconds())
		}
	}
	c.conclude(out)
	return out, nil
}

// prepare checks the options and makes the request that batches are made of.
func (c *calibrator) prepare(ctx context.Context) error {
	opts := c.opts
	at, err := parseUpstream(opts.URL)
	if err != nil {
		return fmt.Errorf("url: %w", err)
	}
	name := url.PathEscape(opts.Model)
	switch opts.Protocol {
	case "v1":
		c.protocol, c.url = protocol.V1{}, at.JoinPath("/v1/models", name+":predict").String()
	case "oip":
		c.protocol, c.url = protocol.OIP{}, at.JoinPath("/v2/models", name, "infer").String()
	case "openai":
		c.protocol, c.url = protocol.OpenAI{}, at.JoinPath("/v1/embeddings").String()
	default:
		return fmt.Errorf("protocol: %q is not one whose requests are batched: give v1, oip or openai", opts.Protocol)
	}
	body := protocol.Message{Body: opts.Request}
	if len(opts.Request) == 0 {
		if opts.OpenDimension < 1 {
			return fmt.Errorf("open dimension: %d is not the length of one: give 1 or more", opts.OpenDimension)
		}
		if body, c.madeUp, err = c.makeSample(ctx); err != nil {
			return err
		}
	}
	if c.sample, err = c.protocol.Parse(body); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	if err := c.toBinary(ctx, at, body); err != nil {
		return err
	}
	var sizes []int
	for _, size := range opts.Sizes {
		if size < 1 {
			return fmt.Errorf("sizes: %d is not a number of rows: give 1 or more", size)
		}
		if n := max(size/c.sample.Items, 1) * c.sample.Items; !slices.Contains(sizes, n) { // whole samples
			sizes = append(sizes, n)
		}
	}
	slices.Sort(sizes)
	if len(sizes) < 2 {
		return fmt.Errorf("sizes: a slope takes two or more, and with %d rows in the request there is %d: give larger ones", c.sample.Items, len(sizes))
	}
	c.opts.Sizes = sizes
	return nil
}

// toBinary has the sample's tensors in binary where the proxy would send them so.
func (c *calibrator) toBinary(ctx context.Context, at *url.URL, body protocol.Message) error {
	if c.opts.Protocol != "oip" || c.opts.BinaryTensors == binaryNever {
		return nil
	}
	conversion, ok := protocol.OIP{}.ToBinary(body, binaryFrom)
	if !ok {
		return nil
	}
	inBinary, ok := conversion.Append(nil)
	if !ok {
		return nil
	}
	if c.opts.BinaryTensors != binaryAlways {
		header := http.Header{}
		if c.opts.Header != nil {
			header = c.opts.Header.Clone()
		}
		if known, err := askBinary(ctx, c.opts.Transport, at, header); err != nil || !known {
			return ctx.Err() // what else keeps a server from answering, the measurement finds
		}
	}
	sample, err := c.protocol.Parse(inBinary)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	c.sample, c.binary = sample, true
	return nil
}

// refusedSize is the answer of a server to a batch that is too large for it.
type refusedSize struct {
	size, code int
	said       string
}

func (e *refusedSize) Error() string {
	return fmt.Sprintf("a batch of %d rows is too large: the server answered %d: %s", e.size, e.code, e.said)
}

// warm sends the batches of a size that are not counted.
func (c *calibrator) warm(ctx context.Context, size int) error {
	for range warmUpBatches {
		if _, err := c.send(ctx, 0, size); err != nil {
			return err
		}
	}
	return nil
}

// send sends one batch and returns how long it took.
func (c *calibrator) send(ctx context.Context, round, size int) (time.Duration, error) {
	copies := make([]*protocol.Request, size/c.sample.Items)
	for i := range copies {
		copies[i] = c.sample
	}
	batch := c.protocol.Merge(nil, "calibrate-"+strconv.Itoa(size), copies)
	within, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(within, http.MethodPost, c.url, bytes.NewReader(batch.Body))
	if err != nil {
		return 0, fmt.Errorf("url: %w", err)
	}
	if c.opts.Header != nil {
		req.Header = c.opts.Header.Clone()
	}
	setFormat(req.Header, batch.Header)
	began := time.Now()
	resp, err := c.opts.Transport.RoundTrip(req)
	if err != nil {
		return 0, c.unanswered(ctx, within, size, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, int64(DefaultConfig().Limits.MaxResponse)))
	took := time.Since(began)
	if err != nil {
		return 0, c.unanswered(ctx, within, size, err)
	}
	if resp.StatusCode != http.StatusOK {
		if (&response{code: resp.StatusCode, body: &buffer{b: text}}).tooLarge() {
			return 0, &refusedSize{size, resp.StatusCode, said(text)}
		}
		return 0, fmt.Errorf("a batch of %d rows: the server answered %d: %s", size, resp.StatusCode, said(text))
	}
	if c.opts.Progress != nil {
		c.opts.Progress(CalibrateStep{Round: round, Size: size, Took: took})
	}
	return took, nil
}

func (c *calibrator) unanswered(ctx, within context.Context, size int, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case within.Err() != nil:
		return fmt.Errorf("a batch of %d rows was not answered within %s", size, c.opts.Timeout)
	}
	return fmt.Errorf("a batch of %d rows: %w", size, err)
}

// conclude fits the proxy's own S(n) and says what follows. It is fitted to the lower quartiles: what else the machines do only
// ever adds time, and on one that is busy the medians are those of the noise.
func (c *calibrator) conclude(out *Calibration) {
	fit := newServiceTime(c.opts.Sizes[len(c.opts.Sizes)-1])
	for range warmUps + 1 { // the fit leaves out the first ones, which were not measured here either
		for i, size := range c.opts.Sizes {
			fit.add(size, quantile(c.took[i], 4))
		}
	}
	out.Intercept, out.Slope = fit.b, fit.a
	best := 0.0
	for i, size := range c.opts.Sizes {
		seconds := quantile(c.took[i], 2)
		p := CalibrationPoint{Size: size, Batches: len(c.took[i]), Seconds: seconds, Fitted: fit.at(size), Rate: float64(size) / seconds}
		out.Sizes = append(out.Sizes, p)
		out.Sizes[i].Gain = p.Rate / out.Sizes[0].Rate
		out.Error += max(p.Fitted/seconds-1, 1-p.Fitted/seconds) / float64(len(c.opts.Sizes))
		best = max(best, p.Rate)
	}
	choice := out.Sizes[0]
	if out.Pays = best >= pays*choice.Rate; out.Pays {
		choice = out.Sizes[slices.IndexFunc(out.Sizes, func(p CalibrationPoint) bool { return p.Rate >= nearBest*best })]
	}
	out.MaxSize, out.Capacity, out.TargetPerReplica = choice.Size, choice.Rate, targetShare*choice.Rate
}

// quantile is the value below which 1/part of the values are, of one or more.
func quantile(values []float64, part int) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/part]
}

// WriteText writes the curve as a table and a plot, and the advice.
func (c *Calibration) WriteText(w io.Writer) error {
	var text strings.Builder
	form := ""
	if c.Binary {
		form = ", tensors in binary"
	}
	fmt.Fprintf(&text, "%s (%s%s)\n\n", c.Model, c.Protocol, form)
	fmt.Fprintf(&text, "%6s %8s %12s %12s %12s %7s\n", "rows", "batches", "median", "fitted", "rows/s", "gain")
	most := 1.0
	for _, p := range c.Sizes {
		most = max(most, p.Gain)
	}
	for _, p := range c.Sizes {
		bar := strings.Repeat("█", max(1, int(p.Gain/most*30+0.5)))
		fmt.Fprintf(&text, "%6d %8d %12s %12s %12.1f %6.2fx %s\n", p.Size, p.Batches, milliseconds(p.Seconds), milliseconds(p.Fitted), p.Rate, p.Gain, bar)
	}
	if len(c.Inputs) > 0 {
		fmt.Fprintf(&text, "\nThe request was made up: %s; values may matter, and open dimensions do: give one of your own.\n", strings.Join(c.Inputs, "; "))
	}
	fmt.Fprintf(&text, "\nS(n) = %s + n * %s, %.1f %% off on average\n", milliseconds(c.Intercept), milliseconds(c.Slope), 100*c.Error)
	if c.Refused > 0 {
		fmt.Fprintf(&text, "%d rows were refused as too large: %s\n", c.Refused, c.Refusal)
	}
	if c.Pays {
		fmt.Fprintf(&text, "Batching pays: batch: {max_size: %d}\n", c.MaxSize)
		if c.Refused == 0 && c.MaxSize == c.Sizes[len(c.Sizes)-1].Size {
			text.WriteString("The largest size was the best: try larger ones with --sizes.\n")
		}
	} else {
		fmt.Fprintf(&text, "Batching does not pay here: less than %.0f %% is gained at any size; batch: {mode: off} (adaptive finds that out by itself)\n", 100*(pays-1))
	}
	fmt.Fprintf(&text, "A replica does %.1f rows/s in batches of %d; for a signal in rows/s, target_per_replica: %.4g leaves it %.0f %% idle\n",
		c.Capacity, c.MaxSize, c.TargetPerReplica, 100*(1-targetShare))
	_, err := io.WriteString(w, text.String())
	return err
}

func milliseconds(seconds float64) string {
	return strconv.FormatFloat(1000*seconds, 'f', 3, 64) + " ms"
}
