// Package rules decides. It reads rule files, observes by PromQL what they name, decides how many replicas a target
// should have, has an actuator change it, and says why.
//
// Deciding is split in two. A [Scaler] observes: it asks a [Querier] and an actuator, and makes an [Observation] in which
// each value has its age, its count and, when it cannot be trusted, the reason. [Decide] is pure: from a rule, an
// observation and a [State] it makes a [Decision] and the next State, without a clock, I/O or goroutines, so that what
// runs in production can be tested, replayed and explained.
//
//	f, err := (&rules.Reader{Defaults: ...}).ReadFile("rules/llm.yml")
//	s := rules.NewScaler(f.Groups[0].Rules[0].Scale, rules.ScalerOptions{Querier: store, Actuators: kinds, Journal: j, ...})
//	samples, err := s.Eval(ctx, now)   // one evaluation: what a group does at each tick
//	fmt.Println(s.Last().Text)
//
// A [Predictor] evaluates a forecast rule: it gives each series of a query to a forecaster of package forecast, writes what comes
// next, and says whether scale rules should rely on it. [Workers] load histories and fit models beside the evaluations,
// [ForecastStates] keeps what is known over a restart.
//
// The package fails static: data that is missing, stale or not a number never makes a target smaller, and nothing is
// changed that could not be written to the journal first. What it remembers is a [Memory]: changes come back from the journal
// after a restart, the rest from a [Snapshot]. It knows neither the exporter nor the proxy: all it sees are
// series. Subpackages: source (YAML with positions), journal (decisions on disk), store (the embedded Prometheus),
// remote (a Prometheus elsewhere), rulestest (tests of rule files), report (how a model did).
package rules
