package rules

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"flyball/actuators"
)

// Journal keeps decisions.
type Journal interface {
	// Append writes a decision so that it survives the process.
	Append(d *Decision) error
}

// Scaler evaluates one scale rule: it observes, decides, acts if it may, and records. It implements Evaluator.
type Scaler struct {
	rule     *Scale
	querier  Querier
	actuator actuators.Actuator
	journal  Journal
	metrics  *Metrics
	log      *slog.Logger
	acting   bool
	brake    *Brake

	*remembered // of the target
}

// ScalerOptions are what a Scaler works with. All but Log and Brake are required.
type ScalerOptions struct {
	Querier  Querier
	Actuator actuators.Actuator
	Journal  Journal
	Metrics  *Metrics
	Log      *slog.Logger // nil: no logs
	Memory   *Memory      // what is known of the target; the rules of a process share one
	Acting   bool         // acting is enabled on the command line; the rule must say act as well
	Brake    *Brake       // stops acting at once; nil: nothing does
}

// NewScaler returns the evaluator of a rule that Reader has validated. It is not seen in metrics before [Metrics.Show].
func NewScaler(rule *Scale, o ScalerOptions) *Scaler {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Scaler{
		rule: rule, querier: o.Querier, actuator: o.Actuator, journal: o.Journal, metrics: o.Metrics, acting: o.Acting,
		log: log.With("rule", rule.Name, "target", rule.Target.String()), brake: o.Brake,
		remembered: o.Memory.of(rule.Target.String()),
	}
	return s
}

// Name returns the rule's name.
func (s *Scaler) Name() string { return s.rule.Name }

// Rule returns the rule.
func (s *Scaler) Rule() *Scale { return s.rule }

// Acts says whether decisions are carried out.
func (s *Scaler) Acts() bool { return s.acting && s.rule.Mode == Act }

// Last returns the last decision, nil before the first.
func (s *Scaler) Last() *Decision {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// Eval implements Evaluator. A failure to act is part of the decision, not an error: the rule did its work. The error is
// for what keeps decisions from being recorded; then nothing is changed.
func (s *Scaler) Eval(ctx context.Context, at time.Time) ([]Sample, error) {
	obs := s.observe(ctx, at)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("scale %s: %w", s.rule.Name, err) // stopping: half an observation decides nothing
	}
	s.mu.Lock()
	state, recorded := s.state, s.recorded
	s.mu.Unlock()

	d, next := Decide(s.rule, obs, state)
	err := s.carryOut(ctx, &d, obs.Replicas.Version)
	if d.Result == Applied {
		next = next.Applied(at, d.From, d.To)
	}
	if err == nil && d.Result != Applied && d.Result != Failed && !d.SameAs(recorded) {
		err = s.record(&d)
	}
	if obs.TargetError == "" && d.Result != Applied {
		next.Replicas, next.Known = d.Replicas.Spec, true
	}
	s.metrics.decided(&d)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.last, s.output = next, &d, s.samples(&d, next)
	return s.output, err
}

// carryOut applies a decision that changes the size, if the rule may. It is in the journal before the target is asked, so
// that a cooldown survives whatever ends the process, and again with its result; what cannot be written is not applied.
func (s *Scaler) carryOut(ctx context.Context, d *Decision, version string) error {
	if d.Action == Hold {
		return nil
	}
	if !s.Acts() {
		d.Result = Observed
		d.because(DryRun)
		return nil
	}
	if freeze, frozen := s.frozen(); frozen {
		d.Result = Observed
		d.because(Paused)
		d.LimitedBy = append(d.LimitedBy, Paused)
		d.Text += ", frozen by " + freeze.By
		return nil
	}
	d.Result = Applying
	if err := s.record(d); err != nil {
		d.Result, d.Error = Unrecorded, err.Error()
		return err
	}
	receipt, err := s.actuator.Apply(ctx, s.rule.Target, actuators.Change{
		From: d.From, To: d.To, IfVersion: version, DecisionID: d.ID, Reason: d.ReasonText(),
	})
	switch {
	case errors.Is(err, actuators.ErrConflict):
		d.Result, d.Error = Failed, err.Error()
		d.because(ExternalChange)
	case err != nil:
		d.Result, d.Error = Failed, err.Error()
		d.because(ActuatorError)
	default:
		d.Result, d.To = Applied, receipt.Spec
	}
	if err != nil {
		s.log.Error("change refused", "from", d.From, "to", d.To, "err", err)
	}
	return s.record(d)
}

func (s *Scaler) frozen() (Freeze, bool) {
	if s.brake == nil {
		return Freeze{}, false
	}
	return s.brake.Frozen()
}

func (s *Scaler) record(d *Decision) error {
	if err := s.journal.Append(d); err != nil {
		s.metrics.journalErrors.Inc()
		return fmt.Errorf("scale %s: record decision: %w", s.rule.Name, err)
	}
	stored := *d
	s.mu.Lock()
	s.recorded = &stored
	s.mu.Unlock()
	return nil
}

// Restore brings a target that has no size of its own after a restart back to the size that the journal remembers, or to
// initial when it remembers none. It returns the decision, nil when there was nothing to do. A target that refuses the
// size is part of the decision; the next evaluation finds it at the size that it has.
func (s *Scaler) Restore(ctx context.Context, at time.Time, initial int) (*Decision, error) {
	state, err := s.actuator.Observe(ctx, s.rule.Target)
	if err != nil {
		return nil, fmt.Errorf("scale %s: restore: %w", s.rule.Name, err)
	}
	s.mu.Lock()
	remembered, known := s.state.Replicas, s.state.Known
	s.mu.Unlock()
	if !state.Fresh {
		return nil, nil
	}
	d := &Decision{
		Time: at, Rule: s.rule.Name, Target: s.rule.Target.String(), Mode: s.rule.Mode, Action: Up, To: initial,
		Replicas: Replicas{Min: s.rule.Min, Max: s.rule.Max}, Result: Applied, Start: true,
		Text: "the size to start with", Reasons: []Reason{MinReplicas},
	}
	if known {
		d.To, d.Text, d.Reasons = remembered, "the size of before the restart", []Reason{Restored}
	}
	if bounded := min(max(d.To, s.rule.Min), s.rule.Max); bounded != d.To {
		d.To, d.Text = bounded, fmt.Sprintf("%s, %d, within min and max", d.Text, d.To)
	}
	if d.To == 0 {
		return nil, nil
	}
	d.ID = decisionID(d.Rule, d.Target, at, 0, d.To)
	if _, err := s.actuator.Apply(ctx, s.rule.Target, actuators.Change{
		To: d.To, IfVersion: state.Version, DecisionID: d.ID, Reason: d.ReasonText(),
	}); err != nil {
		d.Result, d.Error = Failed, err.Error()
		d.because(ActuatorError)
		s.log.Error("restore refused", "replicas", d.To, "err", err)
		return d, s.record(d)
	}
	s.mu.Lock()
	s.state.Replicas, s.state.Known = d.To, true // not Applied: a restart is no change, so no cooldown begins with it
	s.mu.Unlock()
	return d, s.record(d)
}

// samples are what a decision writes to the store.
func (s *Scaler) samples(d *Decision, st State) []Sample {
	base := []string{"rule", d.Rule, "target", d.Target}
	var out []Sample
	add := func(name string, v float64, more ...string) {
		pairs := append([]string{labels.MetricName, name}, base...)
		out = append(out, Sample{Labels: labels.FromStrings(append(pairs, more...)...), Value: v, Time: d.Time})
	}
	if !slices.Contains(d.Reasons, ActuatorError) || d.Result == Failed { // else the target could not be observed
		add("flyball_scale_current_replicas", float64(d.Replicas.Spec))
		add("flyball_scale_ready_replicas", float64(d.Replicas.Ready))
	}
	add("flyball_scale_desired_replicas", float64(d.To))
	add("flyball_scale_min_replicas", float64(d.Replicas.Min))
	add("flyball_scale_max_replicas", float64(d.Replicas.Max))
	for _, r := range d.Signals {
		if r.Value != nil {
			add("flyball_scale_signal_value", *r.Value, "signal", r.Name)
		}
		if r.Proposal != nil {
			add("flyball_scale_signal_proposal_replicas", float64(*r.Proposal), "signal", r.Name)
		}
	}
	for _, r := range d.LimitedBy {
		add("flyball_scale_blocked", 1, "reason", string(r))
	}
	if change := latest(st.LastUp, st.LastDown); !change.IsZero() {
		add("flyball_scale_last_change_timestamp_seconds", float64(change.UnixMilli())/1000)
	}
	return out
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
