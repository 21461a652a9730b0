package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promrules "github.com/prometheus/prometheus/rules"
)

// GroupStatus is how a group's last evaluation went.
type GroupStatus struct {
	Name, File     string
	Interval       time.Duration
	LastEvaluation time.Time     // the time that it was evaluated at; zero before the first
	Duration       time.Duration // how long it took
	Rules          []RuleStatus
}

// RuleStatus is how a rule's last evaluation went.
type RuleStatus struct {
	Kind           string // KindRecord, KindAlert or KindEvaluator
	Name           string
	Expr           string // empty for an Evaluator
	Labels         labels.Labels
	Health         string // "unknown" before the first evaluation, then "ok" or "err"
	LastError      string // empty unless Health is "err"
	LastEvaluation time.Time
	Duration       time.Duration
	State          string // of an alert, of all its series the most urgent: "unknown", "inactive", "pending" or "firing"
}

// ActiveAlert is one series of an alert rule.
type ActiveAlert struct {
	State       string // "inactive" (it has ended), "pending" or "firing"
	Labels      labels.Labels
	Annotations labels.Labels
	Value       float64   // of the expression, at the last evaluation at which it held
	ActiveAt    time.Time // since when the expression has held
	FiredAt     time.Time // zero before it fired
	ResolvedAt  time.Time // zero until it has ended
	ValidUntil  time.Time // what to tell Alertmanager for an end that is not known yet
}

func activeAlert(a *promrules.Alert) ActiveAlert {
	return ActiveAlert{
		State: a.State.String(), Labels: a.Labels, Annotations: a.Annotations, Value: a.Value,
		ActiveAt: a.ActiveAt, FiredAt: a.FiredAt, ResolvedAt: a.ResolvedAt, ValidUntil: a.ValidUntil,
	}
}

// retired is a group that was taken away and whose series are to be marked stale at due: after two intervals, so that a
// group or rule that was only renamed has written them anew by then, which keeps them.
type retired struct {
	sweeper *promrules.Group
	at      time.Time // where the markers go: right after the last sample
	due     time.Time
}

// SetGroups makes these groups the ones that are evaluated, all or nothing: with an error, which names every fault, the
// groups of before go on. Groups that did not change go on undisturbed, and keep the Evaluators that they have; a changed
// one finishes the evaluation that is in progress, then the new one takes over the state of its alerts. The series of
// groups and rules that are gone are marked stale.
//
// A group changed when one of its fields or rules did. Evaluators with a String method are compared by it and their
// name, so it must say everything that their answers depend on; others are the same only if they are the same value.
func (s *Store) SetGroups(groups []Group) error {
	s.reload.Lock()
	defer s.reload.Unlock()
	if s.isClosed() {
		return ErrClosed
	}
	p, err := s.prepareGroups(*s.global.Load(), groups, s.route.Load().remote)
	if err != nil {
		return err
	}
	s.changeGroups(p, nil)
	return nil
}

// preparedGroups are groups with everything filled in, and the rules of each.
type preparedGroups struct {
	specs []Group
	rules [][]promrules.Rule
	route *route // of what they query
}

// changeGroups makes prepared groups the ones that are evaluated, and calls stopped, which may be nil, between the last
// evaluation of those that go and the first of those that come; s.reload is held.
func (s *Store) changeGroups(p *preparedGroups, stopped func()) {
	specs, built := p.specs, p.rules
	s.mu.Lock()
	old := map[string]*runner{}
	for _, r := range s.runners {
		old[r.key] = r
	}
	s.mu.Unlock()

	next := make([]*runner, len(specs))
	fresh := map[*runner]*runner{} // each new runner and what it replaces, or nil
	var stopping []*runner
	for i, spec := range specs {
		prev := old[spec.Key()]
		delete(old, spec.Key())
		if prev != nil && prev.spec.equal(spec) {
			next[i] = prev
			continue
		}
		next[i] = s.newRunner(spec, built[i])
		fresh[next[i]] = prev
		if prev != nil {
			stopping = append(stopping, prev)
		}
	}
	gone := slices.Collect(maps.Values(old))
	stopping = append(stopping, gone...)
	for _, r := range stopping { // all at once, each may have an evaluation to finish
		if r.cancel != nil {
			r.cancel()
		}
	}
	for _, r := range stopping {
		r.stop()
	}
	for r, prev := range fresh {
		switch {
		case prev != nil:
			r.adopt(prev)
		case !s.empty:
			r.pending = restoreAfter
		}
		for _, a := range r.group.AlertingRules() {
			a.SetRestored(r.pending == 0)
		}
	}
	for _, r := range gone {
		s.retire(r)
	}
	if stopped != nil {
		stopped()
	}

	s.route.Store(p.route)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runners = next
	if s.groupCtx != nil {
		for r := range fresh {
			r.start(s.groupCtx, &s.groups)
		}
	}
}

// prepareGroups checks every group and makes its rules, and touches nothing else.
func (s *Store) prepareGroups(global Global, groups []Group, remote Elsewhere) (*preparedGroups, error) {
	var errs []error
	p := &preparedGroups{}
	seen := map[string]bool{}
	for _, g := range groups {
		if g.Interval == 0 {
			g.Interval = global.EvaluationInterval
		}
		if err := g.Validate(); err != nil {
			for _, fault := range err.(interface{ Unwrap() []error }).Unwrap() {
				errs = append(errs, fmt.Errorf("group %s: %w", g.Key(), fault))
			}
			continue
		}
		if seen[g.Key()] {
			errs = append(errs, fmt.Errorf("group %s: there are two of this name in one file", g.Key()))
			continue
		}
		seen[g.Key()] = true
		g.external = global.ExternalLabels.String()
		rs, err := s.build(g, global, false)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.specs = append(p.specs, g)
		p.rules = append(p.rules, rs)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var err error
	if p.route, err = newRoute(s.parser, remote, p.specs); err != nil {
		return nil, err
	}
	return p, nil
}

func (s *Store) newRunner(spec Group, built []promrules.Rule) *runner {
	return &runner{
		spec: spec,
		key:  spec.Key(),
		group: promrules.NewGroup(promrules.GroupOptions{
			Name: spec.Name, File: spec.File, Interval: spec.Interval, Limit: spec.Limit, QueryOffset: spec.QueryOffset,
			Rules: built, Opts: s.ruleOptions,
		}),
		metrics: s.metrics,
		logger:  s.logger,
		clock:   s.clock,
		failing: make([]bool, len(built)),
	}
}

// retire arranges for the series of a group that has stopped to be marked stale. Prometheus keeps what the group wrote
// to itself and lets go of it only as the state of another group: one without rules, which then has nothing else to do.
func (s *Store) retire(r *runner) {
	s.metrics.forget(r.key)
	s.forgetGroup(promrules.GroupKey(r.spec.File, r.spec.Name))
	last := r.lastEvaluation()
	if last.IsZero() {
		return
	}
	opts := *s.ruleOptions
	opts.Metrics = promrules.NewGroupMetrics(nil)
	sweeper := promrules.NewGroup(promrules.GroupOptions{
		Name: r.spec.Name, File: r.spec.File, Interval: r.spec.Interval, QueryOffset: r.spec.QueryOffset, Opts: &opts,
	})
	sweeper.CopyState(r.group)
	old := retired{sweeper: sweeper, at: last.Add(time.Millisecond), due: last.Add(2 * r.spec.Interval)}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groupCtx == nil {
		s.retired = append(s.retired, old)
		return
	}
	ctx := s.groupCtx
	s.groups.Go(func() { old.wait(ctx) })
}

// wait sweeps when it is due. At the end of the process it leaves the series as they are, as Prometheus does: the group
// may well be back.
func (o retired) wait(ctx context.Context) {
	timer := time.NewTimer(time.Until(o.due))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		o.sweeper.Eval(context.WithoutCancel(ctx), o.at)
	}
}

// EvalGroups evaluates, one after the other, each group that is due at the time at: that was not evaluated before, or at
// least an interval ago. It runs what Run's own ticker does, so tests and backtests decide like the live product; at must
// not go back between calls. It returns how many groups it evaluated.
func (s *Store) EvalGroups(ctx context.Context, at time.Time) (int, error) {
	if s.isClosed() {
		return 0, ErrClosed
	}
	s.mu.Lock()
	runners := slices.Clone(s.runners)
	var due []retired
	s.retired = slices.DeleteFunc(s.retired, func(o retired) bool {
		if at.Before(o.due) {
			return false
		}
		due = append(due, o)
		return true
	})
	s.mu.Unlock()

	n := 0
	for _, r := range runners {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		if r.due(at) {
			r.iterate(ctx, at)
			n++
		}
	}
	for _, o := range due { // after the groups: what one of them wrote anew stays
		o.sweeper.Eval(ctx, o.at)
	}
	return n, nil
}

// Groups returns the state of each group, in the order in which SetGroups got them.
func (s *Store) Groups() []GroupStatus {
	s.mu.Lock()
	runners := slices.Clone(s.runners)
	s.mu.Unlock()
	all := make([]GroupStatus, 0, len(runners))
	for _, r := range runners {
		g := GroupStatus{
			Name: r.spec.Name, File: r.spec.File, Interval: r.spec.Interval,
			LastEvaluation: r.lastEvaluation(), Duration: r.group.GetEvaluationTime(),
		}
		for _, rule := range r.group.Rules() {
			g.Rules = append(g.Rules, ruleStatus(rule))
		}
		all = append(all, g)
	}
	return all
}

func ruleStatus(rule promrules.Rule) RuleStatus {
	st := RuleStatus{
		Kind: KindEvaluator, Name: rule.Name(), Labels: rule.Labels(), Health: string(rule.Health()),
		LastEvaluation: rule.GetEvaluationTimestamp(), Duration: rule.GetEvaluationDuration(),
	}
	if err := rule.LastError(); err != nil {
		st.LastError = err.Error()
	}
	switch rule := rule.(type) {
	case *promrules.RecordingRule:
		st.Kind, st.Expr = KindRecord, rule.Query().String()
	case *promrules.AlertingRule:
		st.Kind, st.Expr, st.State = KindAlert, rule.Query().String(), rule.State().String()
	}
	return st
}

// Alerts returns the alerts that are pending or firing, those that fire first, then by their labels.
func (s *Store) Alerts() []ActiveAlert {
	s.mu.Lock()
	runners := slices.Clone(s.runners)
	s.mu.Unlock()
	var all []ActiveAlert
	for _, r := range runners {
		for _, rule := range r.group.AlertingRules() {
			for _, a := range rule.ActiveAlerts() {
				all = append(all, activeAlert(a))
			}
		}
	}
	slices.SortFunc(all, func(a, b ActiveAlert) int {
		return cmp.Or(cmp.Compare(a.State, b.State), labels.Compare(a.Labels, b.Labels)) // "firing" before "pending"
	})
	return all
}
