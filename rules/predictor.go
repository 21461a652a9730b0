package rules

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"flyball/forecast"
)

// Point is one value of a series at one time.
type Point struct {
	Time  time.Time
	Value float64
}

// Series is one series of the answer to a range query, its points in order of time; it has none where there was no value.
type Series struct {
	Labels labels.Labels
	Points []Point
}

// RangeQuerier answers a PromQL query at each step from start to end, both of them included.
type RangeQuerier interface {
	QueryRange(ctx context.Context, expr string, start, end time.Time, step time.Duration) ([]Series, error)
}

// Predictor evaluates one forecast rule: it takes the query's value at each step, one forecaster for each series of it, and
// writes what comes next. It implements Evaluator.
//
// Values are those of whole steps of Unix time, whenever the group is evaluated: what is between two of them is not asked
// for. What takes long, which is to load the history and to fit models, is done by Workers beside the evaluations, on
// copies of the forecasters; until it is done forecasts come from what there is.
type Predictor struct {
	rule       *ForecastRule
	opts       PredictorOptions
	log        *slog.Logger
	step       int64 // ms
	day        int64 // steps that are recent to a forecaster
	keeps      int64 // steps of history that a forecaster keeps, of those that the rule has
	regressors []regressor

	smear time.Duration // half of the widest range in the query: by so much its value is late

	// Of the evaluation, which is one at a time.
	opened   bool   // what was saved has been looked for
	failing  string // why the last query failed, "" when it did not
	undriven string // the same of the regressors
	lead     time.Duration
	most     int64 // missed steps that one evaluation asks for: fewer after a query that failed

	mu       sync.Mutex // guards what follows
	started  bool       // a step was asked for
	next     int64      // the step whose value is asked for next
	tracks   map[string]*track
	history  *history
	crowded  error // of the last step, which had too many series; nil: it had not
	closed   bool
	leadFrom string // what the lead is made of, in words
	leads    time.Duration
	at       time.Time // of the last evaluation
	err      string    // what it failed with
	output   []Sample
}

// PredictorOptions are what a Predictor works with. Querier and Metrics are required.
type PredictorOptions struct {
	Querier interface {
		Querier
		RangeQuerier
	}
	Metrics *Metrics
	Log     *slog.Logger // nil: no logs

	// Timeout is how long the queries of an evaluation may take: once for the value and once for what drives it. 0: as long as
	// Querier lets them. Those of the history are not bounded by it.
	Timeout time.Duration

	// Workers do what takes long. nil: it is done within the evaluation, which is for tests at virtual time.
	Workers *Workers

	// Directory is where states are saved and looked for; empty: nowhere.
	Directory string

	// Startup is how long a start takes at most of the targets whose scale rules use a forecast, in the words of where that
	// is from. nil, or 0: it is not known.
	Startup func(forecast string) (longest time.Duration, from string)
}

const (
	// defaultSeries is how many series a forecast has at most: each takes up to 100 KB and a refit of a tenth of a second
	// every six hours.
	defaultSeries = 100
	maxSeries     = 1000

	// catchUp is how many missed steps one evaluation asks for.
	catchUp = 1000

	// scored is how many horizons' worth of forecasts must have been compared with what came before they can be relied on.
	scored = 10
)

// NewPredictor returns the evaluator of a forecast rule that Reader has validated.
func NewPredictor(rule *ForecastRule, o PredictorOptions) *Predictor {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Predictor{
		rule: rule, opts: o, log: o.Log.With("forecast", rule.Name), step: time.Duration(rule.Step).Milliseconds(),
		day:    max(24, min(int64(24*time.Hour/time.Duration(rule.Step)), 2880)),
		tracks: map[string]*track{}, history: &history{}, regressors: rule.regressors(), most: catchUp,
	}
	if !rule.Seasons.Auto && len(rule.Seasons.Lengths) > 0 {
		p.day = max(24, min(int64(slices.Min(rule.Seasons.Lengths)/time.Duration(rule.Step)), 2880))
	}
	f, err := p.forecaster()
	if err != nil {
		panic(fmt.Sprintf("rules: forecast %s: %v", rule.Name, err)) // it was validated
	}
	p.keeps = min(int64(time.Duration(rule.History)/time.Duration(rule.Step)), int64(f.Capacity()))
	if parsed, err := promQL.ParseExpr(rule.Query); err == nil {
		p.smear = widestRange(parsed) / 2
	}
	return p
}

// options are those of a forecaster of the rule.
func (f *ForecastRule) options() (forecast.Options, error) {
	o := forecast.Options{
		Step: time.Duration(f.Step), Horizon: int((f.Horizon + f.Step - 1) / f.Step), Levels: f.Levels, Model: f.Model,
		Events: ForecastEvents(f.Events), Regressors: sortedKeys(f.Regressors),
	}
	if !f.Seasons.Auto {
		o.Seasons = append([]time.Duration{}, f.Seasons.Lengths...)
	}
	var err error
	o.Location, err = time.LoadLocation(f.Timezone)
	return o, err
}

func (p *Predictor) forecaster() (*forecast.Forecaster, error) {
	o, err := p.rule.options()
	if err != nil {
		return nil, err
	}
	return forecast.New(o)
}

// revive is a forecaster as it was when its state was taken; the calendar of the rule is no part of that.
func (p *Predictor) revive(state []byte) (*forecast.Forecaster, error) {
	f, err := p.forecaster()
	if err != nil {
		return nil, err
	}
	return f, f.UnmarshalBinary(state)
}

// widestRange is that of an expression's selectors and subqueries.
func widestRange(expr parser.Expr) (widest time.Duration) {
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.MatrixSelector:
			widest = max(widest, n.Range)
		case *parser.SubqueryExpr:
			widest = max(widest, n.Range)
		}
		return nil
	})
	return widest
}

// Name returns the metric that the forecast is written as.
func (p *Predictor) Name() string { return p.rule.Name }

// Rule returns the rule.
func (p *Predictor) Rule() *ForecastRule { return p.rule }

// Writes returns the metrics that Eval gives.
func (p *Predictor) Writes() []string { return append(OutputMetrics(), p.rule.Name) }

// Output implements Output.
func (p *Predictor) Output() []Sample {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output
}

// Close says that the rule is evaluated no more: what is under way for it is not taken in.
func (p *Predictor) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
}

// Eval implements Evaluator. A query that fails is asked again at the next evaluation, with the steps that were missed;
// meanwhile what there is forecasts, until the last value is a horizon old. So it is with a series that is gone.
func (p *Predictor) Eval(ctx context.Context, at time.Time) ([]Sample, error) {
	out, err := p.eval(ctx, at)
	if err != nil {
		err = fmt.Errorf("forecast %s: %w", p.rule.Name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.err, p.output = at, "", out
	if err != nil {
		p.err = err.Error()
	}
	return out, err
}

func (p *Predictor) eval(ctx context.Context, at time.Time) ([]Sample, error) {
	p.open(at)
	p.loadHistory(ctx, at)
	values, err := p.ask(ctx, at)
	if err != nil {
		p.most = max(p.most/4, 1)
		if ctx.Err() != nil {
			return nil, err
		}
		if err.Error() != p.failing {
			p.log.Warn("the query of a forecast failed; what was seen before forecasts meanwhile", "err", err)
		}
		p.failing = err.Error()
		if !p.fresh(at) {
			return nil, err
		}
	} else {
		if p.failing != "" {
			p.log.Info("the query of a forecast is answered again")
		}
		p.failing = ""
		p.most = min(2*p.most, catchUp)
		driven := p.askDriveOf(ctx, values)
		p.mu.Lock()
		if err = p.take(values, driven); err == nil {
			err = p.crowded
		}
		p.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
	p.refit(ctx, at)
	lead, from := p.findLead()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leads, p.leadFrom = lead, from
	return p.samples(at, lead), nil
}

// fresh says whether a value was seen within the horizon.
func (p *Predictor) fresh(at time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.tracks {
		if t.fresh(p, at) {
			return true
		}
	}
	return false
}

// time is that of a step, and stepOf the last step at or before a time.
func (p *Predictor) time(step int64) time.Time { return time.UnixMilli(step * p.step).UTC() }

func (p *Predictor) stepOf(at time.Time) int64 {
	ms := at.UnixMilli()
	return (ms - ((ms%p.step)+p.step)%p.step) / p.step
}

// stretch is the values of some steps in a row.
type stretch struct {
	first, n int64
	series   []stretchSeries
}

// stretchSeries has one value for each step, NaN where it is missing.
type stretchSeries struct {
	key    string
	labels labels.Labels
	values []float64
}

// ask asks for the steps that have come since the last evaluation: for one as it is, and for more, which were missed, by a
// range query.
func (p *Predictor) ask(ctx context.Context, at time.Time) (stretch, error) {
	now := p.stepOf(at)
	p.mu.Lock()
	switch {
	case !p.started:
		p.next = now
	case now < p.next-2: // the clock was set back, and what was seen of times to come is no past
		p.next = now
		p.history = &history{}
	case now-p.next > p.keeps: // away for so long that nothing of before is left
		p.next = now
		p.history = &history{}
	}
	p.started = true
	first := p.next
	p.mu.Unlock()
	n := min(now-first+1, p.most)
	if n <= 0 {
		return stretch{}, nil
	}
	ctx, cancel := p.limited(ctx)
	defer cancel()
	if n > 1 {
		return p.askRange(ctx, p.rule.Query, first, n)
	}
	samples, err := p.opts.Querier.Query(ctx, p.rule.Query, p.time(first), 0)
	if err != nil {
		return stretch{}, err
	}
	a := stretch{first: first, n: 1}
	for _, s := range samples {
		key, ls := identity(s.Labels)
		a.series = append(a.series, stretchSeries{key, ls, []float64{s.Value}})
	}
	return a, a.distinct()
}

// limited is the context of the queries of an evaluation, which is not to keep the rules after it waiting.
func (p *Predictor) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if p.opts.Timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, p.opts.Timeout)
}

// askRange asks for n steps from first on.
func (p *Predictor) askRange(ctx context.Context, query string, first, n int64) (stretch, error) {
	series, err := p.opts.Querier.QueryRange(ctx, query, p.time(first), p.time(first+n-1), time.Duration(p.rule.Step))
	if err != nil {
		return stretch{}, err
	}
	a := stretch{first: first, n: n}
	for _, s := range series {
		key, ls := identity(s.Labels)
		one := stretchSeries{key, ls, missingValues(n)}
		for _, point := range s.Points {
			if i := p.stepOf(point.Time) - first; i >= 0 && i < n {
				one.values[i] = point.Value
			}
		}
		a.series = append(a.series, one)
	}
	return a, a.distinct()
}

func missingValues(n int64) []float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = math.NaN()
	}
	return values
}

// identity is a series without its name and the labels that a forecast sets itself.
func identity(ls labels.Labels) (string, labels.Labels) {
	ls = labels.NewBuilder(ls).Del(model.MetricNameLabel, "quantile", "horizon", "forecast").Labels()
	return string(ls.Bytes(nil)), ls
}

// distinct says which series differ by nothing that a forecast of them could keep.
func (a *stretch) distinct() error {
	seen := make(map[string]bool, len(a.series))
	for _, s := range a.series {
		if seen[s.key] {
			return fmt.Errorf("the query gives two series that are both %s but for their names, or for quantile, horizon or forecast: aggregate them", s.labels)
		}
		seen[s.key] = true
	}
	return nil
}

// take gives each forecaster the values that were asked for, with what drives them; p.mu is held. Steps count as asked for even where they have
// more series than there may be, so that what was too much is not asked for again.
func (p *Predictor) take(a stretch, driven drive) error {
	if a.n == 0 {
		return nil
	}
	p.next = a.first + a.n
	now := p.next - 1
	for key, t := range p.tracks {
		if now-t.heard > p.rule.historySteps() {
			delete(p.tracks, key)
		}
	}
	var fresh []stretchSeries
	there := make(map[string]*stretchSeries, len(a.series))
	for i := range a.series {
		s := &a.series[i]
		there[s.key] = s
		if p.tracks[s.key] == nil {
			fresh = append(fresh, *s)
		}
	}
	if room := p.rule.Limit - len(p.tracks); len(fresh) > room {
		p.forget(there, len(fresh)-room)
	}
	for _, s := range fresh {
		if len(p.tracks) >= p.rule.Limit {
			break
		}
		t, err := p.newTrack(s.labels)
		if err != nil {
			return err
		}
		p.tracks[s.key] = t
	}
	for _, key := range sortedKeys(p.tracks) { // in an order, for the logs
		t, s := p.tracks[key], there[key]
		for i := range a.n {
			y := math.NaN()
			if s != nil {
				y = s.values[i]
			}
			t.take(p, a.first+i, y, driven.at(nil, key, a.first+i))
		}
		t.f.Ahead(driven.ahead(key, p.next))
		t.refresh(p)
	}
	p.crowded = nil
	if len(there) > p.rule.Limit {
		p.crowded = fmt.Errorf("the query gives %d series, more than limit, which is %d: aggregate them, or raise the limit", len(there), p.rule.Limit)
	}
	return nil
}

// historySteps is for how many steps a series may be gone.
func (f *ForecastRule) historySteps() int64 { return int64(f.History / f.Step) }

// forget drops n of the series that are not there now, those that were gone first.
func (p *Predictor) forget(there map[string]*stretchSeries, n int) {
	var gone []string
	for _, key := range sortedKeys(p.tracks) {
		if there[key] == nil {
			gone = append(gone, key)
		}
	}
	slices.SortStableFunc(gone, func(a, b string) int { return int(p.tracks[a].heard - p.tracks[b].heard) })
	for _, key := range gone[:min(n, len(gone))] {
		delete(p.tracks, key)
	}
}

// findLead is how long before a replica is ready it must be asked for, and what that is made of.
func (p *Predictor) findLead() (time.Duration, string) {
	if given, err := model.ParseDuration(p.rule.Lead); err == nil {
		return time.Duration(given), "as the rule gives it"
	}
	lead, from := time.Duration(0), ""
	if p.opts.Startup != nil {
		lead, from = p.opts.Startup(p.rule.Name)
	}
	if lead <= 0 {
		lead, from = defaultStartup, fmt.Sprintf("%s, since no scale rule says how long a start takes", model.Duration(defaultStartup))
	}
	if p.smear > 0 {
		lead, from = lead+p.smear, fmt.Sprintf("%s, and %s by which the query's range is late", from, model.Duration(p.smear))
	}
	if lead != p.lead {
		p.lead = lead
		log := p.log.Info
		if lead > time.Duration(p.rule.Horizon) {
			log = p.log.Warn
		}
		log("a forecast's lead", "lead", lead, "from", from, "horizon", p.rule.Horizon)
	}
	return lead, from
}

// LongestStartup is how long a start takes at most of the targets whose scale rules use a forecast, and where that is from; 0
// where none does. A rule's own startup wins over what was measured, and over two minutes before three starts were.
func LongestStartup(scalers []*Scaler, forecast string) (longest time.Duration, from string) {
	for _, s := range scalers {
		if !s.rule.usesForecast(forecast) {
			continue
		}
		took, how := s.startup()
		if took > longest {
			longest, from = took, fmt.Sprintf("%s, which a start of %s takes %s", round(took), s.rule.Name, how)
		}
	}
	return longest, from
}

func (s *Scale) usesForecast(name string) bool {
	return slices.ContainsFunc(s.Signals, func(g Signal) bool { return g.Forecast == name })
}

// startup is how long a start takes of the slowest of the rule's targets.
func (s *Scaler) startup() (longest time.Duration, how string) {
	if !s.rule.Startup.Auto {
		return s.rule.Startup.Given, "as the rule gives it"
	}
	s.mu.Lock()
	all := slices.Clone(s.order)
	s.mu.Unlock()
	for _, i := range all {
		i.mu.Lock()
		took := i.state.measured(s.rule.Startup)
		i.mu.Unlock()
		longest = max(longest, took)
	}
	if longest > 0 {
		return longest, "as measured"
	}
	return s.rule.Startup.Given, "until three were measured"
}

// horizonLabel is the value of the label horizon for the rule's own.
func (f *ForecastRule) horizonLabel() string { return f.Horizon.String() }

const leadLabel = "lead"

// samples are what an evaluation writes; p.mu is held.
func (p *Predictor) samples(at time.Time, lead time.Duration) (out []Sample) {
	far := max(lead, time.Duration(p.rule.Horizon))
	keys := sortedKeys(p.tracks)
	out = make([]Sample, 0, len(p.output)+16)
	b := labels.NewBuilder(labels.EmptyLabels())
	for _, key := range keys {
		t := p.tracks[key]
		if !t.begun || !t.fresh(p, at) {
			continue
		}
		t.reach(p, at.Add(far))
		add := func(name string, v float64, more ...string) {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return
			}
			b.Reset(t.labels)
			b.Set(model.MetricNameLabel, name)
			for i := 0; i+1 < len(more); i += 2 {
				if own := t.labels.Get(more[i]); own != "" { // as Prometheus does with what a target has itself
					b.Set("exported_"+more[i], own)
				}
				b.Set(more[i], more[i+1])
			}
			out = append(out, Sample{Labels: b.Labels(), Value: v, Time: at})
		}
		for i, level := range p.rule.Levels {
			q := levelText(level)
			add(p.rule.Name, t.quantile(p, at.Add(lead), i), "quantile", q, "horizon", leadLabel)
			add(p.rule.Name, t.quantile(p, at.Add(time.Duration(p.rule.Horizon)), i), "quantile", q, "horizon", p.rule.horizonLabel())
		}
		name := p.rule.Name
		if t.isScored(p) {
			add(skillMetric, t.skill, "forecast", name)
		}
		armed := 0.0
		if t.armed {
			armed = 1
		}
		add(armedMetric, armed, "forecast", name)
		if n := len(t.recent); n > 0 {
			add("flyball_forecast_observed_value", t.recent[n-1], "forecast", name)
		}
		add("flyball_forecast_lead_seconds", lead.Seconds(), "forecast", name)
		add("flyball_forecast_history_samples", float64(t.explained.Values), "forecast", name)
		add("flyball_forecast_missing_samples_total", float64(t.missing), "forecast", name)
		for i, level := range p.rule.Levels {
			if c := t.coverage[i]; !math.IsNaN(c) {
				add("flyball_forecast_coverage_ratio", c, "forecast", name, "quantile", levelText(level))
			}
		}
		for _, m := range t.explained.Members {
			if m.Weight > 0 {
				add("flyball_forecast_model_weight", m.Weight, "forecast", name, "model", m.Name)
			}
		}
		for _, s := range t.explained.Seasons {
			if s.Used {
				add("flyball_forecast_season_seconds", s.Period.Seconds(), "forecast", name, "season", model.Duration(s.Period).String())
			}
		}
		if !t.fitted.IsZero() {
			add("flyball_forecast_last_fit_timestamp_seconds", float64(t.fitted.UnixMilli())/1000, "forecast", name)
		}
		if p.rule.Anomalies.Enabled {
			add("flyball_forecast_anomaly_score", t.score, "forecast", name)
			for _, kind := range forecast.Kinds() {
				add("flyball_forecast_anomalies_total", float64(t.anomalies[kind]), "forecast", name, "kind", string(kind))
			}
		}
	}
	return out
}

const (
	armedMetric = "flyball_forecast_armed"
	skillMetric = "flyball_forecast_skill_ratio"
)

func levelText(level float64) string { return figureExact(level) }
