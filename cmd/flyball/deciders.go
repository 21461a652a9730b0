package main

import "flyball/rules"

// deciders are the evaluators of the rules that decide, in the order of the files.
type deciders struct {
	scalers     []*rules.Scaler
	accountants []*rules.Accountant
	optimizers  []*rules.Optimizer
	predictors  []*rules.Predictor
}

// evaluator returns that of a rule, nil for one that Prometheus's engine evaluates. It is the one of before where the rule
// is as it was, with all that it knows.
func (d *deciders) evaluator(r *rules.Rule, before deciders, o rules.ScalerOptions, f rules.PredictorOptions) rules.Evaluator {
	switch {
	case r.Scale != nil:
		s := kept(before.scalers, r.Scale.Name, func(s *rules.Scaler) bool { return s.Rule().Equal(r.Scale) })
		if s == nil {
			s = rules.NewScaler(r.Scale, o)
		}
		d.scalers = append(d.scalers, s)
		return s
	case r.Budget != nil:
		a := kept(before.accountants, r.Budget.Name, func(a *rules.Accountant) bool { return a.Budget().Equal(r.Budget) })
		if a == nil {
			a = rules.NewAccountant(r.Budget, o.Querier)
		}
		d.accountants = append(d.accountants, a)
		return a
	case r.Forecast != nil:
		p := kept(before.predictors, r.Forecast.Name, func(p *rules.Predictor) bool { return p.Rule().Equal(r.Forecast) })
		if p == nil {
			p = rules.NewPredictor(r.Forecast, f)
		}
		d.predictors = append(d.predictors, p)
		return p
	case r.Optimize != nil:
		p := kept(before.optimizers, r.Optimize.Name, func(p *rules.Optimizer) bool { return p.Rule().Equal(r.Optimize) })
		if p == nil {
			p = rules.NewOptimizer(r.Optimize, o)
		}
		d.optimizers = append(d.optimizers, p)
		return p
	}
	return nil
}

// outputs are those that write series besides the scale rules.
func (d *deciders) outputs() (all []rules.Output) {
	for _, a := range d.accountants {
		all = append(all, a)
	}
	for _, p := range d.optimizers {
		all = append(all, p)
	}
	for _, p := range d.predictors {
		all = append(all, p)
	}
	return all
}

// kept is the evaluator of a name, if it may stay.
func kept[E interface {
	comparable
	rules.Evaluator
}](all []E, name string, same func(E) bool) (none E) {
	for _, e := range all {
		if e.Name() == name && same(e) {
			return e
		}
	}
	return none
}

// release lets go of what rules that are no more had claimed, and ends what is under way for them.
func (d *deciders) release(now deciders) {
	for _, s := range d.scalers {
		if kept(now.scalers, s.Name(), func(o *rules.Scaler) bool { return o == s }) == nil {
			s.Release()
		}
	}
	for _, p := range d.predictors {
		if kept(now.predictors, p.Name(), func(o *rules.Predictor) bool { return o == p }) == nil {
			p.Close()
		}
	}
}
