// Package report says how a model has done over some time: its metrics, what breached and when, and what is to be found in
// them, each finding with its evidence, the PromQL that shows it, and what to change.
//
//	r, err := report.Make(ctx, source, report.Options{Model: "digits", Start: start, End: end, Step: 5 * time.Minute})
//	err = r.WriteText(os.Stdout)   // or WriteJSON, or WriteHTML
//
// A [Source] answers PromQL; who has one, be it a running flyball or any Prometheus, is not known here. All that is judged is
// a series: what no series shows is said to be not measured, and never guessed. What the client saw, which the batching
// proxy measures, is taken before what the engine says.
package report
