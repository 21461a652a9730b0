package rules

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules/source"
)

// Budget is a rule that watches what is spent, and keeps the scale rules that it applies to within what is left.
type Budget struct {
	Name string `yaml:"budget"`

	// Spend is PromQL for USD spent, in which $elapsed is a duration: how much was spent in it up to the evaluation, such
	// as increase(flyball_cost_usd_total[$elapsed]).
	Spend string `yaml:"spend"`

	Limit  float64 `yaml:"limit"`  // USD a period
	Period string  `yaml:"period"` // day, week or month by the calendar, or a duration that rolls along, such as 30d
	TZ     string  `yaml:"tz"`     // where days begin: a name of the IANA time zone database; empty: UTC

	Thresholds []Threshold `yaml:"thresholds"`

	AppliesTo []string `yaml:"applies_to"` // scale rules
	Policy    string   `yaml:"policy"`     // soft: say so; hard: cap them
	SLOFloor  int      `yaml:"slo_floor"`  // replicas below which no cap goes

	Labels map[string]string `yaml:"labels"` // of its alerts

	period time.Duration // that rolls along, or 0
	zone   *time.Location
}

// Threshold is a share of the limit at which something happens, once in a period.
type Threshold struct {
	At         float64 `yaml:"at"`
	Forecasted bool    `yaml:"forecasted"` // of what the period will come to, rather than of what is spent
	Alert      string  `yaml:"alert"`      // the alert that fires from there on
	Severity   string  `yaml:"severity"`
	Action     string  `yaml:"action"` // cap: the budget counts as used up
}

// Policies of a budget.
const (
	softPolicy = "soft"
	hardPolicy = "hard"
)

const (
	// hysteresis is how far, as a share of the limit, the value must fall below a threshold before it can be reached again.
	hysteresis = 0.05
	// forecastWindow is what the forecast goes by: a day has its peak and its trough in it.
	forecastWindow = 24 * time.Hour
	// reachedWindow is how far back a budget that starts looks for what was reached in its period.
	reachedWindow = 7 * 24 * time.Hour
	elapsedName   = "$elapsed"
)

// burnWindows are those of the burn rate, of the two pairs that alerts on budgets look at (Google, The Site Reliability
// Workbook, chapter 5).
var burnWindows = []time.Duration{5 * time.Minute, 30 * time.Minute, time.Hour, 6 * time.Hour}

// DefaultBudget returns a budget with what its file need not name.
func DefaultBudget() *Budget { return &Budget{Period: "month", Policy: softPolicy} }

func (b *Budget) validate(d *source.Decoder, path string) {
	fault := func(key, format string, args ...any) { d.FaultAt(path+"."+key, 0, format, args...) }
	if b.Name == "" {
		fault("budget", "a budget needs a name")
	}
	if b.Spend == "" {
		fault("spend", "spend: missing: PromQL for the USD spent in $elapsed")
	} else if checkPromQL(d, path+".spend", b.spend(time.Hour)) != nil && !strings.Contains(b.Spend, elapsedName) {
		fault("spend", "spend has no $elapsed: it must say what was spent in that time, such as increase(flyball_cost_usd_total[$elapsed])")
	}
	if !(b.Limit > 0) || math.IsInf(b.Limit, 0) {
		fault("limit", "limit is %g: expected USD above 0", b.Limit)
	}
	if !slices.Contains([]string{"day", "week", "month"}, b.Period) {
		period, err := model.ParseDuration(b.Period)
		if b.period = time.Duration(period); err != nil || b.period < time.Hour {
			fault("period", "period is %q: expected day, week or month, or a duration of an hour or more that rolls along, such as 30d", b.Period)
		}
	}
	zone, err := time.LoadLocation(b.TZ)
	if err != nil || b.TZ == "Local" {
		fault("tz", "tz is %q: expected the name of a time zone, such as Europe/Berlin", b.TZ)
		zone = time.UTC
	}
	b.zone = zone
	oneOf(d, path+".policy", b.Policy, softPolicy, hardPolicy)
	if b.SLOFloor < 0 {
		fault("slo_floor", "slo_floor is %d: expected 0 or more", b.SLOFloor)
	}
	caps := false
	for i := range b.Thresholds {
		t := &b.Thresholds[i]
		at := fmt.Sprintf("thresholds[%d]", i)
		if !(t.At > 0) || t.At > 100 {
			fault(at+".at", "at is %g: expected a share of the limit, such as 0.8", t.At)
		}
		if t.Action != "" && t.Action != "cap" {
			fault(at+".action", "action is %q: expected cap", t.Action)
		}
		caps = caps || t.Action == "cap"
		if t.Severity == "" {
			t.Severity = "warning"
			if t.At >= 1 && !t.Forecasted {
				t.Severity = "critical"
			}
		}
		if first := slices.IndexFunc(b.Thresholds, func(o Threshold) bool {
			return o.At == t.At && o.Forecasted == t.Forecasted && o.Alert == t.Alert && o.Action == t.Action
		}); first < i {
			fault(at, "thresholds[%d] is the same", first)
		}
	}
	switch {
	case b.Policy == hardPolicy && !caps:
		fault("policy", "policy is hard, and no threshold has action: cap")
	case b.Policy == hardPolicy && len(b.AppliesTo) == 0:
		fault("policy", "policy is hard, and applies_to names no scale rule")
	}
	checkLabels(d, path+".labels", b.Labels)
}

// spend is the query for what was spent in a time.
func (b *Budget) spend(elapsed time.Duration) string {
	return strings.ReplaceAll(b.Spend, elapsedName, model.Duration(elapsed.Truncate(time.Second)).String())
}

// span is the period that a time is in.
func (b *Budget) span(at time.Time) (start, end time.Time) {
	if b.period > 0 {
		return at.Add(-b.period), at
	}
	at = at.In(b.zone)
	y, m, day := at.Date()
	switch b.Period {
	case "day":
		return time.Date(y, m, day, 0, 0, 0, 0, b.zone), time.Date(y, m, day+1, 0, 0, 0, 0, b.zone)
	case "week":
		day -= (int(at.Weekday()) + 6) % 7 // it begins on Monday
		return time.Date(y, m, day, 0, 0, 0, 0, b.zone), time.Date(y, m, day+7, 0, 0, 0, 0, b.zone)
	}
	return time.Date(y, m, 1, 0, 0, 0, 0, b.zone), time.Date(y, m+1, 1, 0, 0, 0, 0, b.zone)
}

// kind is the value of the label type of a threshold's series.
func (t *Threshold) kind() string {
	if t.Forecasted {
		return "forecast"
	}
	return "actual"
}

func (t *Threshold) at() string { return strconv.FormatFloat(t.At, 'f', -1, 64) }

// Alerts are the alert rules of the budget's thresholds. They follow it in its group.
func (b *Budget) Alerts() (alerts []*Alert) {
	for i := range b.Thresholds {
		t := &b.Thresholds[i]
		if t.Alert == "" {
			continue
		}
		all := map[string]string{"severity": t.Severity}
		maps.Copy(all, b.Labels)
		what := "has been spent"
		if t.Forecasted {
			what = "will have been spent at the end of the period, at the rate of the last day"
		}
		alerts = append(alerts, &Alert{
			Name:   t.Alert,
			Expr:   fmt.Sprintf(`flyball_budget_threshold_reached{budget=%q,at=%q,type=%q} == 1`, b.Name, t.at(), t.kind()),
			Labels: all,
			Annotations: map[string]string{
				"summary": fmt.Sprintf("Budget %s is at %g %% of its limit", b.Name, 100*t.At),
				"description": fmt.Sprintf(`%g %% of the %s USD of budget %s %s: {{ with query "flyball_budget_spend_usd{budget='%[3]s'}" }}{{ . | first | value | printf "%%.2f" }}{{ end }} USD so far.`,
					100*t.At, figure(b.Limit), b.Name, what),
			},
		})
	}
	return alerts
}

// Equal says whether two budgets that Reader has read are the same.
func (b *Budget) Equal(o *Budget) bool {
	x, y := *b, *o
	x.zone, y.zone = nil, nil // by its name, which is in TZ
	return reflect.DeepEqual(x, y)
}

// caps says that reaching a threshold caps the scale rules.
func (b *Budget) caps() bool {
	return slices.ContainsFunc(b.Thresholds, func(t Threshold) bool { return t.Action == "cap" })
}

// Accountant evaluates one budget rule. It implements Evaluator.
type Accountant struct {
	budget  *Budget
	querier Querier

	began   bool            // it has looked up what was reached before
	start   time.Time       // of the period that reached is of
	reached map[string]bool // thresholds, by at and type

	mu     sync.Mutex // guards output
	output []Sample
}

// NewAccountant returns the evaluator of a budget that Reader has validated.
func NewAccountant(b *Budget, q Querier) *Accountant {
	return &Accountant{budget: b, querier: q, reached: map[string]bool{}}
}

// Name returns the budget's name.
func (a *Accountant) Name() string { return a.budget.Name }

// Budget returns the rule.
func (a *Accountant) Budget() *Budget { return a.budget }

// Writes returns the metrics that Eval gives.
func (a *Accountant) Writes() []string { return OutputMetrics() }

// Output implements Output.
func (a *Accountant) Output() []Sample {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.output
}

// BudgetStatus is how a budget stood at its last evaluation. All figures are NaN where it could not be evaluated.
type BudgetStatus struct {
	LimitUSD, SpendUSD, ForecastUSD float64
	UsedUp                          bool // a threshold that caps is reached
	PeriodEnd                       time.Time
}

// Status returns how the budget stands.
func (a *Accountant) Status() BudgetStatus {
	s := BudgetStatus{LimitUSD: a.budget.Limit, SpendUSD: math.NaN(), ForecastUSD: math.NaN()}
	for _, sample := range a.Output() {
		switch sample.Labels.Get(labels.MetricName) {
		case "flyball_budget_spend_usd":
			s.SpendUSD = sample.Value
		case "flyball_budget_forecast_usd":
			s.ForecastUSD = sample.Value
		case "flyball_budget_used_up":
			s.UsedUp = sample.Value == 1
		case "flyball_budget_period_end_timestamp_seconds":
			s.PeriodEnd = time.Unix(int64(sample.Value), 0).UTC()
		}
	}
	return s
}

// Eval implements Evaluator. Without a number for what is spent nothing is written: a budget that is not known is neither
// kept nor exceeded.
func (a *Accountant) Eval(ctx context.Context, at time.Time) ([]Sample, error) {
	out, err := a.eval(ctx, at)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.output = out
	return out, err
}

func (a *Accountant) eval(ctx context.Context, at time.Time) ([]Sample, error) {
	b := a.budget
	start, end := b.span(at)
	elapsed := max(at.Sub(start), time.Second)
	spend, err := a.spend(ctx, at, elapsed)
	if err != nil {
		return nil, fmt.Errorf("budget %s: %w", b.Name, err)
	}
	var out []Sample
	add := func(name string, v float64, more ...string) {
		pairs := append([]string{labels.MetricName, name, "budget", b.Name}, more...)
		out = append(out, Sample{Labels: labels.FromStrings(pairs...), Value: v, Time: at})
	}
	window := min(elapsed, forecastWindow)
	recent, err := a.spend(ctx, at, window)
	if err != nil {
		return nil, fmt.Errorf("budget %s: %w", b.Name, err)
	}
	perHour := recent / window.Hours()
	forecast := spend + perHour*end.Sub(at).Hours()
	if b.period > 0 {
		forecast = perHour * b.period.Hours()
	}
	add("flyball_budget_limit_usd", b.Limit)
	add("flyball_budget_spend_usd", spend)
	add("flyball_budget_forecast_usd", forecast)
	add("flyball_budget_period_end_timestamp_seconds", float64(end.Unix()))
	for _, w := range burnWindows {
		if w > elapsed {
			continue
		}
		burnt, err := a.spend(ctx, at, w)
		if err != nil {
			return nil, fmt.Errorf("budget %s: %w", b.Name, err)
		}
		add("flyball_budget_burn_rate", burnt/(b.Limit*w.Hours()/end.Sub(start).Hours()), "window", model.Duration(w).String())
	}
	usedUp, err := a.thresholds(ctx, at, start, elapsed, spend, forecast, add)
	if err != nil {
		return nil, fmt.Errorf("budget %s: %w", b.Name, err)
	}
	if !b.caps() {
		return out, nil
	}
	if !usedUp {
		add("flyball_budget_used_up", 0)
		return out, nil
	}
	add("flyball_budget_used_up", 1)
	if b.Policy != hardPolicy {
		return out, nil
	}
	shares, err := a.shares(ctx, at, max(0, b.Limit-spend)/left(b, at, end).Hours(), perHour)
	if err != nil {
		return nil, fmt.Errorf("budget %s: %w", b.Name, err)
	}
	for i, rule := range b.AppliesTo {
		add("flyball_budget_cap_usd_per_hour", shares[i], "rule", rule)
	}
	return out, nil
}

// left is how long the budget must last.
func left(b *Budget, at, end time.Time) time.Duration {
	if b.period > 0 {
		return b.period
	}
	return max(end.Sub(at), time.Second)
}

// spend is what was spent in a time up to at.
func (a *Accountant) spend(ctx context.Context, at time.Time, elapsed time.Duration) (float64, error) {
	samples, err := a.querier.Query(ctx, a.budget.spend(elapsed), at, 0)
	switch {
	case err != nil:
		return 0, err
	case len(samples) == 0:
		return 0, errors.New("spend has no answer: what was spent is not known")
	case len(samples) > 1:
		return 0, fmt.Errorf("spend has %d series, %s and %s: aggregate, such as sum(...)", len(samples), samples[0].Labels, samples[1].Labels)
	}
	if v := samples[0].Value; !math.IsNaN(v) && !math.IsInf(v, 0) {
		return v, nil
	}
	return 0, fmt.Errorf("spend is %g", samples[0].Value)
}

// thresholds says which are reached. One stays so until the period ends, or until the value has fallen well below it.
func (a *Accountant) thresholds(ctx context.Context, at, start time.Time, elapsed time.Duration, spend, forecast float64, add func(string, float64, ...string)) (usedUp bool, err error) {
	b := a.budget
	key := func(t *Threshold) string { return t.at() + "/" + t.kind() }
	if !a.began {
		// By its series over a time rather than their last values: it may have been away for longer than those are looked back for.
		samples, err := a.querier.Query(ctx, fmt.Sprintf("last_over_time(flyball_budget_threshold_reached{budget=%q}[%s])", b.Name, model.Duration(min(elapsed, reachedWindow).Truncate(time.Second))), at, 0)
		if err != nil {
			return false, err
		}
		for _, s := range samples {
			a.reached[s.Labels.Get("at")+"/"+s.Labels.Get("type")] = s.Value == 1
		}
		a.began, a.start = true, start
	}
	if b.period == 0 && !a.start.Equal(start) {
		clear(a.reached)
	}
	a.start = start
	told := map[string]bool{}
	for i := range b.Thresholds {
		t := &b.Thresholds[i]
		value := spend
		if t.Forecasted {
			value = forecast
		}
		need := t.At * b.Limit
		if a.reached[key(t)] {
			need -= hysteresis * b.Limit
		}
		reached := value >= need
		a.reached[key(t)] = reached
		usedUp = usedUp || reached && t.Action == "cap"
		if told[key(t)] {
			continue
		}
		told[key(t)] = true
		v := 0.0
		if reached {
			v = 1
		}
		add("flyball_budget_threshold_reached", v, "at", t.at(), "type", t.kind())
	}
	return usedUp, nil
}

// shares divide what may be spent an hour among the scale rules, in proportion to what they cost now, after what is spent
// on anything else. Rules whose costs are not known share alike.
func (a *Accountant) shares(ctx context.Context, at time.Time, allowed, spentPerHour float64) ([]float64, error) {
	b := a.budget
	costs, sum := make([]float64, len(b.AppliesTo)), 0.0
	for i, rule := range b.AppliesTo {
		samples, err := a.querier.Query(ctx, fmt.Sprintf("sum(flyball_scale_cost_usd_per_hour{rule=%q})", rule), at, 0)
		if err != nil {
			return nil, err
		}
		if len(samples) == 1 && samples[0].Value > 0 {
			costs[i] = samples[0].Value
			sum += costs[i]
		}
	}
	allowed = max(0, allowed-max(0, spentPerHour-sum))
	for i := range costs {
		if sum > 0 {
			costs[i] *= allowed / sum
		} else {
			costs[i] = allowed / float64(len(costs))
		}
	}
	return costs, nil
}

// capRule is a budget as a scale rule that it applies to sees it.
type capRule struct {
	Budget string
	Hard   bool
	Floor  int
}

// caps asks which of the budgets that apply are used up, and what they leave.
func (s *Scaler) caps(ctx context.Context, at time.Time) (caps []Cap) {
	for _, b := range s.rule.caps {
		c := Cap{Budget: b.Budget, Hard: b.Hard, Floor: b.Floor}
		one := func(format string, args ...any) (float64, bool) {
			samples, err := s.opts.Querier.Query(ctx, fmt.Sprintf(format, args...), at, 0)
			if err != nil || len(samples) != 1 || math.IsNaN(samples[0].Value) {
				return 0, false
			}
			return samples[0].Value, true
		}
		used, known := one(`flyball_budget_used_up{budget=%q}`, b.Budget)
		switch {
		case !known:
			c.Fault = MetricMissing
		case used == 0:
			continue
		case b.Hard:
			if c.USDPerHour, known = one(`flyball_budget_cap_usd_per_hour{budget=%q,rule=%q}`, b.Budget, s.rule.Name); !known {
				c.Fault = MetricMissing
			}
		}
		caps = append(caps, c)
	}
	return caps
}
