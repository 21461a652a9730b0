package forecast

import (
	"errors"
	"fmt"
	"math"
)

// RegressorEffect says of a regressor what it does.
type RegressorEffect struct {
	Name string
	// Coefficient is by how much the value is higher where the regressor is higher by 1.
	Coefficient float64
	// Used tells that the regressors together have earned their place: the recent error is smaller with them.
	Used bool
	// Error is the recent mean absolute error up to the horizon with all regressors, ErrorWithout the same without any.
	Error, ErrorWithout float64
}

const (
	maxRegressors = 8
	// forget is λ of the recursive least squares: a value counts for half after 693 others.
	forget = 0.999
	// ridge is how far coefficients are from 0 before anything was seen, in standard deviations, and excited bounds what
	// is forgotten of columns that do not move.
	ridge, excited = 1.0, 10.0
	// mostSpread bounds a standardised column, and mostEffect a coefficient, in standard deviations of the values.
	mostSpread, mostEffect = 8.0, 10.0
	// earned is how much smaller the error has to be with the regressors for them to be used, and lost how small it has to
	// stay.
	earned, lost = 0.98, 1.0
	// mostAhead bounds what is known ahead.
	mostAhead = 2 * maxHorizon
)

func checkRegressors(names []string) error {
	var errs []error
	if len(names) > maxRegressors {
		errs = append(errs, fmt.Errorf("%d regressors: %d at most", len(names), maxRegressors))
	}
	seen := map[string]bool{}
	for _, n := range names {
		if n == "" || seen[n] {
			errs = append(errs, fmt.Errorf("regressor %q: each has a name of its own", n))
		}
		seen[n] = true
	}
	return errors.Join(errs...)
}

// regression learns by how much columns move a series, by recursive least squares of what a forecast leaves on what is new
// in the columns: each is compared with its own exponential mean, as the forecast's level is of the values.
type regression struct {
	n            int // columns
	seen         [maxRegressors]float64
	mean, square [maxRegressors]float64 // of the columns
	fixed        bool                   // they are those of a history
	slow         [maxRegressors]float64 // their exponential means, standardised
	begun        [maxRegressors]bool
	beta         [maxRegressors]float64
	p            [maxRegressors][maxRegressors]float64
	ySeen        float64
	yMean, ySqr  float64
}

func newRegression(n int) regression {
	r := regression{n: n}
	for i := range n {
		r.p[i][i] = ridge
	}
	return r
}

// moments takes a value into a mean and a sum of squared differences from it, of the last thousand or so.
func moments(seen, mean, square *float64, v float64) {
	*seen = min(*seen+1, 1/(1-forget))
	d := v - *mean
	*mean += d / *seen
	*square += (d*(v-*mean) - *square) / *seen
}

func (r *regression) sd(i int) float64 { return math.Sqrt(max(r.square[i], 0)) }

// scaled is column i in standard deviations from its mean; 0 where it is missing or never changes.
func (r *regression) scaled(i int, x float64) float64 {
	sd := r.sd(i)
	if !(math.Abs(x) <= limit) || !(sd > 1e-9*math.Abs(r.mean[i])) {
		return 0
	}
	return bounded((x-r.mean[i])/sd, -mostSpread, mostSpread)
}

// effect is what the columns add to the value.
func (r *regression) effect(x []float64) float64 {
	c := 0.0
	for i := range min(len(x), r.n) {
		c += r.beta[i] * r.scaled(i, x[i])
	}
	return c
}

// coefficient is by how much the value rises with column i.
func (r *regression) coefficient(i int) float64 {
	if sd := r.sd(i); sd > 1e-9*math.Abs(r.mean[i]) {
		return r.beta[i] / sd
	}
	return 0
}

// note takes a value and its columns into their means, unless those are of a history.
func (r *regression) note(y float64, x []float64) {
	if y == y {
		moments(&r.ySeen, &r.yMean, &r.ySqr, y)
	}
	if r.fixed {
		return
	}
	for i := range min(len(x), r.n) {
		if math.Abs(x[i]) <= limit {
			moments(&r.seen[i], &r.mean[i], &r.square[i], x[i])
		}
	}
}

// learn takes the error of a forecast with the effect of x, at a value whose level moved by alpha of its errors. A column
// that is missing learns nothing.
func (r *regression) learn(e float64, x []float64, alpha float64) {
	var z, k [maxRegressors]float64
	moves := false
	for i := range min(len(x), r.n) {
		if !(math.Abs(x[i]) <= limit) {
			continue
		}
		v := r.scaled(i, x[i])
		if !r.begun[i] {
			r.begun[i], r.slow[i] = true, v
		}
		z[i] = v - r.slow[i]
		r.slow[i] += alpha * z[i]
		moves = moves || z[i] != 0
	}
	if !moves || e != e {
		return
	}
	d := forget
	for i := range r.n {
		for j := range r.n {
			k[i] += r.p[i][j] * z[j]
		}
		d += k[i] * z[i]
	}
	if !(d > 0) {
		return
	}
	most := mostEffect * math.Sqrt(max(r.ySqr, 0))
	for i := range r.n {
		r.beta[i] = bounded(r.beta[i]+k[i]/d*e, -most, most)
	}
	for i := range r.n {
		for j := i; j < r.n; j++ {
			v := r.p[i][j] - k[i]*k[j]/d
			r.p[i][j], r.p[j][i] = v, v
		}
	}
	trace := 0.0
	for i := range r.n {
		r.p[i][i] = max(r.p[i][i], 0)
		trace += r.p[i][i]
	}
	if trace < excited*float64(r.n)*forget {
		for i := range r.n {
			for j := range r.n {
				r.p[i][j] /= forget
			}
		}
	}
}

// reach is how much of an error the next forecast has: of levels and of autocorrelated errors.
func (p *pool) reach() float64 {
	a := 0.0
	for i := range p.members {
		m := &p.members[i]
		a += m.weight * (m.model.Alpha + m.model.Rho*(1-m.model.Alpha))
	}
	return bounded(a, 0.01, 1)
}
