package rules

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"flyball/actuators"
)

// Observation is all that a decision looks at: the target's size and each query's answer, at one time.
type Observation struct {
	At     time.Time
	Target string            // kind/name; empty: the rule's
	Labels map[string]string // of the target, by the rule's for_each

	Replicas    actuators.State   // with variants in units of capacity
	Variants    []actuators.State // in the order of the rule's
	TargetError string            // why the target could not be observed
	Answers     []Answer          // one for each query, sorted by name
	Caps        []Cap             // of the budgets that apply and are used up, sorted by name

	from *int // the size that a decision starts from where that is not the one that is observed: of a shadow
}

// Cap is what a budget that is used up leaves a rule.
type Cap struct {
	Budget     string
	Hard       bool
	USDPerHour float64 // that the rule's replicas may cost; only of a hard cap
	Floor      int     // replicas that they may be all the same
	Fault      Reason  // why that is not known
}

// Answer is what became of one query.
type Answer struct {
	Name       string   `json:"name"`
	Expr       string   `json:"expr"`
	Value      *float64 `json:"value,omitempty"` // none unless the answer is valid or partial
	AgeSeconds float64  `json:"age_seconds"`     // of the newest sample behind it; 0 when the expression has none
	Series     int      `json:"series"`
	Confidence float64  `json:"confidence"`        // how fresh and complete it is, from 0 to 1
	Fault      Reason   `json:"fault,omitempty"`   // why it does not count
	Detail     string   `json:"detail,omitempty"`  // the fault in words
	Partial    bool     `json:"partial,omitempty"` // series are missing, so the value can ask for more and not for less
	Optional   bool     `json:"optional,omitempty"`
	Block      bool     `json:"block,omitempty"` // without it nothing moves

	elements []element // of its series, where an expression goes through them
}

// element is one series of an answer, for expressions.
type element struct {
	Labels map[string]string `expr:"labels"`
	Value  float64           `expr:"value"`
}

// hidden says that the author of the rule did not write the query.
func (a *Answer) hidden() bool { return strings.Contains(a.Name, "@") }

// Absent says that the answer is of a forecast that says nothing of itself, such as one that something else writes: nobody
// asked for it.
func (a *Answer) Absent() bool {
	return a.Fault != "" && (strings.HasSuffix(a.Name, armedSuffix) || strings.HasSuffix(a.Name, skillSuffix))
}

// What the names of the queries end with by which a signal knows whether its forecast is armed.
const (
	armedSuffix = "@armed"
	skillSuffix = "@skill"
)

// reply is what the store said to one query, for all targets of the rule.
type reply struct {
	samples []Sample
	err     error
	ages    [][]Sample // the times of the data behind it
	ageErr  error
}

// ask asks each query of the rule, and how old the data behind it is.
func (s *Scaler) ask(ctx context.Context, at time.Time) map[string]reply {
	replies := make(map[string]reply, len(s.rule.names))
	for _, name := range s.rule.names {
		q := s.rule.Queries[name]
		var r reply
		querier := s.opts.Querier
		if s.opts.Ask != nil {
			querier = s.opts.Ask(name)
		}
		// What has been silent for longer than it may be is left out: series of replicas that are gone.
		r.samples, r.err = querier.Query(ctx, q.Expr, at, time.Duration(q.StaleAfter))
		if r.err == nil {
			for _, expr := range q.ages {
				times, err := querier.Query(ctx, expr, at, 0)
				if err != nil {
					r.ageErr = err
					break
				}
				r.ages = append(r.ages, times)
			}
		}
		replies[name] = r
	}
	return replies
}

// answer is what a reply is worth to one target.
func (s *Scaler) answer(name string, r reply, at time.Time, state actuators.State) Answer {
	q := s.rule.Queries[name]
	a := Answer{Name: name, Expr: q.Expr, Optional: q.Optional, Block: q.OnMissing == missingBlock}
	fault := func(r Reason, format string, args ...any) Answer {
		a.Fault, a.Detail = r, fmt.Sprintf(format, args...)
		return a
	}
	if behind := s.opts.Memory.behind(at); behind > 0 {
		return fault(MetricStale, "the clock was set back: for %s what is stored of this time is from before", round(behind))
	}
	if r.err != nil {
		return fault(MetricMissing, "the query failed: %s", r.err)
	}
	if r.ageErr != nil {
		return fault(MetricMissing, "its age could not be asked: %s", r.ageErr)
	}
	a.Series = len(r.samples)
	oldest, dated := dataTime(r.ages)
	age := time.Duration(0)
	switch {
	case dated && (math.IsNaN(oldest) || math.IsInf(oldest, 0)):
		return fault(MetricNaN, "its age is %g", oldest)
	case dated && oldest == 0:
		return fault(MetricStale, "its series have ended: the last scrape of them failed")
	case dated:
		age = max(0, at.Sub(time.UnixMilli(int64(oldest*1000))))
		a.AgeSeconds = age.Seconds()
		if age > time.Duration(q.StaleAfter) {
			return fault(MetricStale, "the newest sample is %s old, stale after %s", round(age), q.StaleAfter)
		}
	}
	if a.Series == 0 {
		return fault(MetricMissing, "the query has no answer")
	}
	expected := 1
	if q.expect != nil {
		n, err := q.expect.number(sizesOf(s.rule, state))
		if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
			return fault(MetricMissing, "expect: %q gives no number", q.Expect)
		}
		expected = int(math.Round(n))
	}
	value, detail := reduce(q.Reduce, r.samples)
	switch {
	case detail != "":
		return fault(MetricMissing, "%s", detail)
	case math.IsNaN(value) || math.IsInf(value, 0):
		return fault(MetricNaN, "the value is %g", value)
	}
	a.Value = &value
	a.Confidence = s.rule.fresh(age, time.Duration(q.StaleAfter)) * math.Min(1, float64(a.Series)/float64(max(expected, 1)))
	if s.rule.goesThrough(name) {
		if len(r.samples) > maxElements {
			a.Value = nil
			return fault(MetricMissing, "%d series are more than the %d that an expression goes through", len(r.samples), maxElements)
		}
		for _, sample := range r.samples {
			if math.IsNaN(sample.Value) || math.IsInf(sample.Value, 0) {
				a.Value = nil
				return fault(MetricNaN, "the value of %s is %g", sample.Labels, sample.Value)
			}
			a.elements = append(a.elements, element{sample.Labels.Map(), sample.Value})
		}
	}
	if a.Series < expected {
		a.Partial = true
		return fault(MetricMissing, "%d series of %d expected", a.Series, expected)
	}
	return a
}

// fresh is how sure data of an age is: entirely, as long as it is no older than an evaluation and a scrape that came right
// after one another in the worst order, and not at all from where it is stale.
func (s *Scale) fresh(age, stale time.Duration) float64 {
	normal := s.interval + s.scrape
	if age <= normal || stale <= normal {
		return 1
	}
	return max(0, 1-float64(age-normal)/float64(stale-normal))
}

// dataTime is the time of the oldest data behind a query, in Unix seconds. There is none where every selector is absent:
// then the answer is made of that.
func dataTime(ages [][]Sample) (oldest float64, dated bool) {
	for _, times := range ages {
		for _, sample := range times {
			if t := sample.Value; !dated || t < oldest || math.IsNaN(t) {
				oldest = t
			}
			dated = true
		}
	}
	return oldest, dated
}

func reduce(how string, samples []Sample) (value float64, fault string) {
	if how == "single" {
		if len(samples) > 1 {
			return 0, fmt.Sprintf("%d series where one was expected, %s and %s: aggregate, or set reduce",
				len(samples), samples[0].Labels, samples[1].Labels)
		}
		return samples[0].Value, ""
	}
	value = samples[0].Value
	for _, s := range samples[1:] {
		switch how {
		case "sum", "avg":
			value += s.Value
		case "max":
			value = math.Max(value, s.Value)
		case "min":
			value = math.Min(value, s.Value)
		}
	}
	if how == "avg" {
		value /= float64(len(samples))
	}
	return value, ""
}

// target is what the decision is for, as kind/name.
func (o *Observation) target(rule *Scale) string {
	if o.Target != "" {
		return o.Target
	}
	return rule.Key()
}

// Key names what the rule decides for, as kind/name: its target, or itself where it has variants. Of a rule with for_each it
// is the template of the names.
func (s *Scale) Key() string {
	if len(s.Variants) > 0 {
		return "variants/" + s.Name
	}
	return s.Target.String()
}

// sizes are what expressions know before any query is answered.
func (o *Observation) sizes(rule *Scale) environment { return sizesOf(rule, o.Replicas) }

func sizesOf(rule *Scale, state actuators.State) environment {
	return environment{
		"replicas": state.Spec, "ready": state.Ready, "pending": state.Pending, "min": rule.Min, "max": rule.Max,
	}
}

// environment returns the value of each name that the rule's expressions use.
func (o *Observation) environment(rule *Scale, st State) environment {
	env := make(environment, len(rule.named))
	for name := range rule.named {
		if v := o.named(name, rule, st); v != nil {
			env[name] = v
		}
	}
	return env
}

// named is the value of one name, nil for that of a function.
func (o *Observation) named(name string, rule *Scale, st State) any {
	switch name {
	case "replicas":
		return o.Replicas.Spec
	case "ready":
		return o.Replicas.Ready
	case "pending":
		return o.Replicas.Pending
	case "min":
		return rule.Min
	case "max":
		return rule.Max
	case "hour":
		return o.At.UTC().Hour()
	case "weekday":
		return o.At.UTC().Weekday().String()
	case "now":
		return float64(o.At.UnixMilli()) / 1000
	case "since_up":
		return since(o.At, st.LastUp)
	case "since_down":
		return since(o.At, st.LastDown)
	case "since_change":
		return min(since(o.At, st.LastUp), since(o.At, st.LastDown))
	case "labels":
		return o.Labels
	case "window":
		return func(days, zone string) (bool, error) {
			w, known := rule.windows[[2]string{days, zone}]
			return known && w.holds(o.At.In(w.zone)), nil
		}
	case "q":
		states := make(map[string]queryState, len(o.Answers))
		for i := range o.Answers {
			a := &o.Answers[i]
			states[a.Name] = queryState{OK: a.Fault == "", Age: a.AgeSeconds, N: a.Series}
		}
		return states
	case "series":
		series := map[string][]element{}
		for i := range o.Answers {
			if a := &o.Answers[i]; a.elements != nil {
				series[a.Name] = a.elements
			}
		}
		return series
	}
	for i := range o.Answers {
		if a := &o.Answers[i]; a.Name == name {
			if a.Value == nil {
				return 0.0 // never reached: what needs it is not evaluated
			}
			return *a.Value
		}
	}
	return nil
}

// never is what since_* give when there was no change: longer than any window.
const never = 1e9

func since(now, then time.Time) float64 {
	if then.IsZero() {
		return never
	}
	return now.Sub(then).Seconds()
}

// answer returns the one of a query.
func (o *Observation) answer(name string) Answer {
	i, found := slices.BinarySearchFunc(o.Answers, name, func(a Answer, name string) int { return strings.Compare(a.Name, name) })
	if !found {
		return Answer{Name: name, Fault: MetricMissing, Detail: "it was not asked"}
	}
	return o.Answers[i]
}

// fault returns why an expression cannot be evaluated, or "".
func (o *Observation) fault(e *expression) Reason {
	for i := range o.Answers {
		if a := &o.Answers[i]; a.Fault != "" && e.needs(a.Name) {
			return a.Fault
		}
	}
	return ""
}

// quality returns why the expressions cannot be evaluated for a signal, whether they can in part, and how sure the data is
// that they need.
func (o *Observation) quality(expressions ...*expression) (fault Reason, partial bool, confidence float64) {
	confidence = 1
	for _, e := range expressions {
		if e == nil {
			continue
		}
		for i := range o.Answers {
			a := &o.Answers[i]
			if !e.needs(a.Name) {
				continue
			}
			if a.Fault != "" && !a.Partial {
				return a.Fault, false, 0
			}
			partial = partial || a.Partial
			confidence = min(confidence, a.Confidence)
		}
	}
	return "", partial, confidence
}

// optional says that all that keeps the expressions from being evaluated may be missing.
func (o *Observation) optional(expressions ...*expression) bool {
	optional := false
	for _, e := range expressions {
		for i := range o.Answers {
			if a := &o.Answers[i]; e != nil && a.Fault != "" && e.needs(a.Name) {
				if !a.Optional {
					return false
				}
				optional = true
			}
		}
	}
	return optional
}

func round(d time.Duration) string {
	if d > 10*time.Second {
		return d.Round(time.Second).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// figure is a number as a person would write it: three significant digits, and no fraction from 100 on.
func figure(v float64) string {
	if a := math.Abs(v); a >= 100 && a < 1e7 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
