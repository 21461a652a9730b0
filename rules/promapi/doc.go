// Package promapi is the vocabulary of Prometheus's HTTP API: what may be asked (Query, Range, Exemplars, Selection,
// RuleFilter, TargetFilter, MetadataFilter), what is answered (Result) and what may go wrong (Error). Package store answers,
// cmd/flyball/web puts it on HTTP, package remote asks a Prometheus elsewhere; none knows the others.
//
// An answer is asked for, written and closed:
//
//	result, err := s.QueryInstant(ctx, promapi.Query{Expr: "up", Time: time.Now()})
//	if err != nil {
//		return err // an *Error says what kind
//	}
//	defer result.Close()
//	w := bufio.NewWriter(out)
//	result.Data.WriteJSON(w)
//	return w.Flush()
//
// Data writes itself piece by piece, so that an answer of any size costs one buffer, and its bytes are those that
// Prometheus writes: timestamps in seconds with up to three decimals, values as text, NaN and Inf among them.
package promapi
