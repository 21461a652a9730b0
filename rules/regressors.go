package rules

import (
	"context"
	"maps"
	"math"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

// regressor is what drives the value of a forecast rule, by its query.
type regressor struct {
	name, query string

	// ahead is for how many steps after now the query can be asked: those that its offsets look back from, and all of them
	// where it reads nothing but the time. Beyond that Prometheus would give the last value for what is still to come.
	ahead int64
}

// regressors are those of the rule in the order of their names.
func (f *ForecastRule) regressors() []regressor {
	most := max(1, int64((f.Horizon+f.Step-1)/f.Step))
	var all []regressor
	for _, name := range sortedKeys(f.Regressors) {
		r := regressor{name: name, query: f.Regressors[name]}
		if parsed, err := promQL.ParseExpr(r.query); err == nil {
			r.ahead = min(most, int64(leastOffset(parsed)/time.Duration(f.Step)))
		}
		all = append(all, r)
	}
	return all
}

// leastOffset is how far all that an expression reads is in the past: the least of its offsets, 0 if one of its selectors has
// none. Where it reads nothing it is without end.
func leastOffset(expr parser.Expr) time.Duration {
	least := time.Duration(math.MaxInt64)
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		offset := selector.OriginalOffset
		if selector.Timestamp != nil || selector.StartOrEnd != 0 { // @ is not of the time that is asked for
			offset = 0
		}
		for _, parent := range path {
			if s, ok := parent.(*parser.SubqueryExpr); ok {
				if s.Timestamp != nil || s.StartOrEnd != 0 {
					offset = 0
				}
				offset += s.OriginalOffset
			}
		}
		least = min(least, max(0, offset))
		return nil
	})
	return least
}

// drive is the values of the regressors at steps in a row. One whose query gives a single series is that of all the forecast's
// series; of several each is that of the series with the same labels.
type drive struct {
	first int64
	of    []map[string][]float64 // of each regressor by the labels of its series
	alone []bool                 // of each whether it has a single series
	known []int64                // of each for how many steps ahead it is known
}

// at appends what drives a series at a step, NaN where it is not known.
func (d *drive) at(to []float64, key string, step int64) []float64 {
	for i := range d.of {
		v := math.NaN()
		if values := d.valuesOf(i, key); step >= d.first && step-d.first < int64(len(values)) {
			v = values[step-d.first]
		}
		to = append(to, v)
	}
	return to
}

// from has the values of each regressor of a series from a step on.
func (d *drive) from(key string, step int64) [][]float64 {
	all := make([][]float64, len(d.of))
	for i := range d.of {
		if values := d.valuesOf(i, key); step >= d.first && step-d.first < int64(len(values)) {
			all[i] = values[step-d.first:]
		}
	}
	return all
}

// ahead is from as far as it is known at the step before.
func (d *drive) ahead(key string, step int64) [][]float64 {
	all := d.from(key, step)
	for i := range all {
		all[i] = all[i][:min(d.known[i], int64(len(all[i])))]
	}
	return all
}

func (d *drive) valuesOf(i int, key string) []float64 {
	if d.alone[i] {
		for _, values := range d.of[i] {
			return values
		}
	}
	return d.of[i][key]
}

// askDrive asks for what drives the value at n steps from first on, and for what is known of that ahead. Of a regressor with several
// series only those of which there is a forecast are kept: a query that nobody aggregated may give thousands.
func (p *Predictor) askDrive(ctx context.Context, first, n int64, forecast func(key string) bool) (drive, error) {
	d := drive{first: first}
	for _, r := range p.regressors {
		of, seen := map[string][]float64{}, map[string]bool{}
		for from := first; from < first+n+r.ahead; from += historyChunk {
			a, err := p.askRange(ctx, r.query, from, min(historyChunk, first+n+r.ahead-from))
			if err != nil {
				return drive{}, err
			}
			for _, s := range a.series {
				seen[s.key] = true
				if !forecast(s.key) && len(seen) > 1 {
					continue
				}
				if of[s.key] == nil {
					of[s.key] = missingValues(n + r.ahead)
				}
				copy(of[s.key][from-first:], s.values)
			}
		}
		for key, values := range of { // a value that is missing ahead is the end of what is known
			end := len(values)
			for end > int(n) && math.IsNaN(values[end-1]) {
				end--
			}
			of[key] = values[:end]
		}
		if len(seen) > 1 {
			maps.DeleteFunc(of, func(key string, _ []float64) bool { return !forecast(key) })
		}
		d.of, d.alone, d.known = append(d.of, of), append(d.alone, len(seen) == 1), append(d.known, r.ahead)
	}
	return d, nil
}

// askDriveOf is askDrive for values that came. If it fails they go without: what is not known has no effect.
func (p *Predictor) askDriveOf(ctx context.Context, a stretch) drive {
	if len(p.regressors) == 0 || a.n == 0 {
		return drive{}
	}
	forecast := map[string]bool{}
	for _, s := range a.series {
		forecast[s.key] = true
	}
	p.mu.Lock()
	for key := range p.tracks {
		forecast[key] = true
	}
	p.mu.Unlock()
	limited, cancel := p.limited(ctx)
	defer cancel()
	d, err := p.askDrive(limited, a.first, a.n, func(key string) bool { return forecast[key] })
	switch {
	case err != nil && ctx.Err() == nil && p.undriven == "":
		p.log.Warn("a regressor of a forecast cannot be asked for; values count as if it had no effect", "err", err)
		p.undriven = err.Error()
	case err == nil && p.undriven != "":
		p.log.Info("the regressors of a forecast are there again")
		p.undriven = ""
	}
	return d
}
