package rules

import (
	"context"
	"fmt"
	"math"
	"time"

	"flyball/actuators"
)

// Observation is all that a decision looks at: the target's size and each query's answer, at one time.
type Observation struct {
	At          time.Time
	Replicas    actuators.State
	TargetError string   // why the target could not be observed
	Answers     []Answer // one for each query, sorted by name
}

// Answer is what became of one query.
type Answer struct {
	Name       string   `json:"name"`
	Expr       string   `json:"expr"`
	Value      *float64 `json:"value,omitempty"` // none unless the answer is valid
	AgeSeconds float64  `json:"age_seconds"`     // of the newest sample behind it; 0 when the expression has none
	Series     int      `json:"series"`
	Fault      Reason   `json:"fault,omitempty"`  // why it does not count
	Detail     string   `json:"detail,omitempty"` // the fault in words
	Optional   bool     `json:"optional,omitempty"`
}

// observe asks the store and the actuator. It does not fail: what could not be had is part of the observation.
func (s *Scaler) observe(ctx context.Context, at time.Time) Observation {
	obs := Observation{At: at}
	state, err := s.actuator.Observe(ctx, s.rule.Target)
	if err != nil {
		obs.TargetError = err.Error()
	}
	obs.Replicas = state
	for _, name := range s.rule.names {
		obs.Answers = append(obs.Answers, s.ask(ctx, name, at, state))
	}
	return obs
}

func (s *Scaler) ask(ctx context.Context, name string, at time.Time, state actuators.State) Answer {
	q := s.rule.Queries[name]
	a := Answer{Name: name, Expr: q.Expr, Optional: q.Optional}
	fault := func(r Reason, format string, args ...any) Answer {
		a.Fault, a.Detail = r, fmt.Sprintf(format, args...)
		return a
	}
	samples, err := s.querier.Query(ctx, q.Expr, at)
	if err != nil {
		return fault(MetricMissing, "the query failed: %s", err)
	}
	a.Series = len(samples)
	if a.Series == 0 {
		return fault(MetricMissing, "the query has no answer")
	}
	expected := 1
	if q.expect != nil {
		n, err := q.expect.number(environment{
			"replicas": state.Spec, "ready": state.Ready, "pending": state.Pending, "min": s.rule.Min, "max": s.rule.Max,
		})
		if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
			return fault(MetricMissing, "expect: %q gives no number", q.Expect)
		}
		expected = int(math.Round(n))
	}
	if a.Series < expected {
		return fault(MetricMissing, "%d series of %d expected", a.Series, expected)
	}
	oldest, dated, err := s.dataTime(ctx, q, at)
	switch {
	case err != nil:
		return fault(MetricMissing, "its age could not be asked: %s", err)
	case dated && (math.IsNaN(oldest) || math.IsInf(oldest, 0)):
		return fault(MetricNaN, "its age is %g", oldest)
	case dated && oldest == 0:
		return fault(MetricStale, "its series have ended: the last scrape of them failed")
	case dated:
		age := at.Sub(time.UnixMilli(int64(oldest * 1000)))
		a.AgeSeconds = max(0, age.Seconds())
		if age > time.Duration(q.StaleAfter) {
			return fault(MetricStale, "the newest sample is %s old, stale after %s", round(age), q.StaleAfter)
		}
	}
	value, detail := reduce(q.Reduce, samples)
	switch {
	case detail != "":
		return fault(MetricMissing, "%s", detail)
	case math.IsNaN(value) || math.IsInf(value, 0):
		return fault(MetricNaN, "the value is %g", value)
	}
	a.Value = &value
	return a
}

// dataTime is the time of the oldest data behind a query, in Unix seconds. There is none where every selector is absent:
// then the answer is made of that.
func (s *Scaler) dataTime(ctx context.Context, q *Query, at time.Time) (oldest float64, dated bool, err error) {
	for _, expr := range q.ages {
		times, err := s.querier.Query(ctx, expr, at)
		if err != nil {
			return 0, false, err
		}
		if len(times) != 1 {
			continue
		}
		if t := times[0].Value; !dated || t < oldest || math.IsNaN(t) {
			oldest = t
		}
		dated = true
	}
	return oldest, dated, nil
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

// environment returns the value of each name that expressions may use.
func (o *Observation) environment(rule *Scale, st State) environment {
	env := fixedEnvironment()
	env["replicas"], env["ready"], env["pending"] = o.Replicas.Spec, o.Replicas.Ready, o.Replicas.Pending
	env["min"], env["max"] = rule.Min, rule.Max
	utc := o.At.UTC()
	env["hour"], env["weekday"] = utc.Hour(), utc.Weekday().String()
	env["since_up"], env["since_down"] = since(o.At, st.LastUp), since(o.At, st.LastDown)
	env["since_change"] = min(since(o.At, st.LastUp), since(o.At, st.LastDown))
	states := make(map[string]queryState, len(o.Answers))
	for _, a := range o.Answers {
		states[a.Name] = queryState{OK: a.Fault == "", Age: a.AgeSeconds, N: a.Series}
		if a.Value != nil {
			env[a.Name] = *a.Value
		} else {
			env[a.Name] = 0.0 // never reached: what needs it is not evaluated
		}
	}
	env["q"] = states
	return env
}

// never is what since_* give when there was no change: longer than any window.
const never = 1e9

func since(now, then time.Time) float64 {
	if then.IsZero() {
		return never
	}
	return now.Sub(then).Seconds()
}

// fault returns why an expression cannot be evaluated, or "".
func (o *Observation) fault(e *expression) Reason {
	for _, a := range o.Answers {
		if a.Fault != "" && e.needs(a.Name) {
			return a.Fault
		}
	}
	return ""
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
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
