package rules

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	rule      *Scale
	opts      ScalerOptions
	log       *slog.Logger
	mu        sync.Mutex           // guards what follows
	instances map[string]*instance // one for each target, by its key
	order     []*instance          // the same, by key
	named     map[string]*instance // those of for_each by the values of their labels
	evaluated clockReading         // of the last evaluation; used by one at a time
}

// instance is one target of a rule, or all the variants that are its target together.
type instance struct {
	key    string            // kind/name, or the rule's where it has variants
	target actuators.Target  // where there are no variants
	labels map[string]string // by for_each
	values string            // the same in one text
	seen   time.Time         // when a series last named it

	*remembered // of the target
}

// ScalerOptions are what a Scaler works with. The first six are required.
type ScalerOptions struct {
	Querier   Querier
	Actuators map[string]actuators.Actuator // by their kind
	Journal   Journal
	Metrics   *Metrics
	Log       *slog.Logger // nil: no logs
	Memory    *Memory      // what is known of the targets; the rules of a process share one
	Acting    bool         // acting is enabled on the command line; the rule must say act as well
	Brake     *Brake       // stops acting at once; nil: nothing does
	Limit     *RateLimit   // of changes over all targets, shared by the rules of a process; nil: none

	// Parallel is how many targets of a rule for many are observed, decided for and changed at the same time, in an order that is
	// not given. 0: one after the other.
	Parallel int

	// Leads says whether this process is the one that acts, of several that could; the others decide as it does, follow its
	// changes as theirs, and are ready to take its place. nil: it is.
	Leads func() bool

	// May says on which targets acting is allowed. nil: on all.
	May func(actuators.Target) bool

	// Claim says why a target that for_each finds may not be scaled by the rule, such as that another rule does. nil: any may.
	Claim func(rule *Scale, target actuators.Target) error

	// Expand fills in an annotation of a decision, as of an alert with the value: with Prometheus's functions. nil: as it is.
	Expand func(ctx context.Context, name, text string, d *Decision) string

	// Decided is told of each decision once it counts, whether or not it changed anything; it must not block. nil: nobody is.
	Decided func(d *Decision)

	// Ask gives the Querier of one of the rule's queries, by its name: for tests in which one fails. nil: Querier, for all.
	Ask func(query string) Querier

	// Clock is time that passes evenly, whatever is done to the machine's clock. With it, a clock that jumps by more than an
	// interval moves what the rule remembers along, so that windows and cooldowns last as long as they should. One that is
	// set back finds what was stored of that time before, and nothing newer can be told from it: until it has caught up no
	// query has a valid answer. nil: time is what evaluations say it is.
	Clock func() time.Duration
}

// clockReading is a time by the wall and by a clock that passes evenly.
type clockReading struct {
	wall time.Time
	even time.Duration
}

// NewScaler returns the evaluator of a rule that Reader has validated. It is not seen in metrics before [Metrics.Show].
func NewScaler(rule *Scale, o ScalerOptions) *Scaler {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Scaler{rule: rule, opts: o, log: log.With("rule", rule.Name), instances: map[string]*instance{}, named: map[string]*instance{}}
	if rule.ForEach == nil {
		s.add(&instance{key: rule.Key(), target: rule.Target})
		targets, _ := rule.Targets()
		for _, t := range targets { // no other file may name them, but for_each may come across one
			r := o.Memory.of(t.String())
			r.mu.Lock()
			r.owner = rule.Name
			r.mu.Unlock()
		}
	}
	return s
}

// add makes a target one of the rule's; s.mu is held, or s is not shared yet.
func (s *Scaler) add(i *instance) {
	i.remembered = s.opts.Memory.of(i.key)
	s.instances[i.key] = i
	at, _ := slices.BinarySearchFunc(s.order, i.key, func(o *instance, key string) int { return strings.Compare(o.key, key) })
	s.order = slices.Insert(s.order, at, i)
}

// Name returns the rule's name.
func (s *Scaler) Name() string { return s.rule.Name }

// Rule returns the rule.
func (s *Scaler) Rule() *Scale { return s.rule }

// Writes returns the metrics that Eval gives, for a store that must know which series are its own.
func (s *Scaler) Writes() []string { return OutputMetrics() }

// Acts says whether decisions are carried out: of a rule for many targets, for those on which acting is allowed.
func (s *Scaler) Acts() bool {
	if s.rule.ForEach != nil {
		return s.opts.Acting && s.rule.Mode == Act
	}
	return s.actsOn(s.order[0])
}

// Last returns the last decision, nil before the first; of a rule for many targets, that of the first by name.
func (s *Scaler) Last() *Decision {
	if all := s.Decisions(); len(all) > 0 {
		return all[0]
	}
	return nil
}

// Decisions returns the last decision for each target, by the targets' names. They are whole: every input and every stage.
func (s *Scaler) Decisions() []*Decision {
	s.mu.Lock()
	all := slices.Clone(s.order)
	s.mu.Unlock()
	var last []*Decision
	for _, i := range all {
		i.mu.Lock()
		if i.last != nil {
			last = append(last, i.last)
		}
		i.mu.Unlock()
	}
	return last
}

// Decision returns the last decision for one of the rule's targets, by its key: [Scale.Key] or, of for_each, kind/name. It is
// nil before the first since the process began, and that of another rule where a reload has only just given it the target.
func (s *Scaler) Decision(key string) *Decision {
	s.mu.Lock()
	i := s.instances[key]
	s.mu.Unlock()
	if i == nil {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.last
}

// Scales says whether a target is one of the rule's.
func (s *Scaler) Scales(t actuators.Target) bool {
	if s.rule.ForEach == nil {
		targets, _ := s.rule.Targets()
		return slices.Contains(targets, t)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.instances[t.String()] != nil
}

// Eval implements Evaluator. A failure to act is part of the decision, not an error: the rule did its work. The error is
// for what keeps decisions from being recorded, or targets from being found; then nothing is changed.
func (s *Scaler) Eval(ctx context.Context, at time.Time) ([]Sample, error) {
	s.keepTime(at)
	replies := s.ask(ctx, at)
	caps := s.caps(ctx, at)
	targets, err := s.targets(ctx, at, replies)
	if err != nil {
		return nil, fmt.Errorf("scale %s: %w", s.rule.Name, err)
	}
	samples, errs := make([][]Sample, len(targets)), make([]error, len(targets))
	var stopping atomic.Bool
	inParallel(s.opts.Parallel, len(targets), func(n int) {
		if ctx.Err() != nil { // half an observation decides nothing
			stopping.Store(true)
			return
		}
		t := targets[n]
		samples[n], errs[n] = s.evaluate(ctx, at, t.instance, s.observe(ctx, at, t, caps))
	})
	if stopping.Load() {
		return nil, fmt.Errorf("scale %s: %w", s.rule.Name, ctx.Err())
	}
	return slices.Concat(samples...), errors.Join(errs...)
}

// keepTime moves what is remembered along with a clock that has jumped.
func (s *Scaler) keepTime(at time.Time) {
	if s.opts.Clock == nil {
		return
	}
	now := clockReading{at, s.opts.Clock()}
	before := s.evaluated
	s.evaluated = now
	if before.wall.IsZero() {
		return
	}
	jump := now.wall.Sub(before.wall) - (now.even - before.even)
	if jump.Abs() <= max(2*s.rule.interval, 2*time.Second) {
		return
	}
	if jump < 0 {
		s.opts.Memory.setBack(before.wall)
	}
	s.log.Warn("the clock was set; windows and cooldowns go on for as long as they had left", "by", jump.Round(time.Second))
	s.mu.Lock()
	all := slices.Clone(s.order)
	for _, i := range all {
		i.seen = i.seen.Add(jump)
	}
	s.mu.Unlock()
	for _, i := range all {
		i.mu.Lock()
		i.state = i.state.shifted(jump)
		if i.shadow != nil {
			i.shadow = &shadowState{i.shadow.shifted(jump), i.shadow.variants}
		}
		i.mu.Unlock()
	}
}

// observe looks at a target. It does not fail: what could not be had is part of the observation.
func (s *Scaler) observe(ctx context.Context, at time.Time, t asked, caps []Cap) Observation {
	obs := Observation{At: at, Target: t.key, Labels: t.labels, Caps: caps}
	see := func(target actuators.Target) actuators.State {
		actuator := s.opts.Actuators[target.Kind]
		if actuator == nil {
			obs.TargetError = fmt.Sprintf("there is no actuator of the kind %s here", target.Kind)
			return actuators.State{}
		}
		state, err := actuator.Observe(ctx, target)
		if err != nil {
			obs.TargetError = err.Error()
		}
		return state
	}
	if len(s.rule.Variants) == 0 {
		obs.Replicas = see(t.target)
	}
	for _, v := range s.rule.Variants {
		state := see(v.Target)
		obs.Variants = append(obs.Variants, state)
		obs.Replicas.Spec += state.Spec * v.Capacity
		obs.Replicas.Ready += state.Ready * v.Capacity
		obs.Replicas.Pending += state.Pending * v.Capacity
	}
	obs.Answers = s.answers(t.replies, at, obs.Replicas)
	return obs
}

// answers are the rule's replies as they count for one target.
func (s *Scaler) answers(replies map[string]reply, at time.Time, state actuators.State) []Answer {
	all := make([]Answer, 0, len(s.rule.names))
	for _, name := range s.rule.names {
		all = append(all, s.answer(name, replies[name], at, state))
	}
	return all
}

// evaluate decides for one target, carries it out and records it.
func (s *Scaler) evaluate(ctx context.Context, at time.Time, i *instance, obs Observation) ([]Sample, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("scale %s: %w", s.rule.Name, err)
	}
	unsettled := s.settle(ctx, i, obs)
	i.mu.Lock()
	state, shadow, recorded := i.state, i.shadow, i.recorded
	i.mu.Unlock()

	d, next := Decide(s.rule, obs, s.noticed(i, obs, state))
	if s.actsOn(i) {
		shadow = nil
	} else {
		d.Shadow, shadow = s.rule.shadow(obs, shadow, next)
	}
	err := s.carryOut(ctx, i, &d, obs)
	if d.Result == Applied {
		next = next.Applied(at, d.From, d.To)
	}
	switch {
	case err != nil || d.Result == Applied || d.Result == Failed:
	case d.SameAs(recorded):
		d.Annotations = recorded.Annotations
	default:
		if err = s.record(ctx, i, &d); err != nil {
			d.Result, d.Error = Unrecorded, err.Error()
		}
		s.tellHeld(ctx, i, &d)
	}
	if obs.TargetError == "" && d.Result != Applied {
		next.Replicas, next.Known = d.Replicas.Spec, true
	}
	s.opts.Metrics.decided(&d)

	i.mu.Lock()
	i.observed = i.observed || obs.TargetError == ""
	output := s.samples(&d, next, i.observed)
	i.state, i.shadow, i.last, i.output = next, shadow, &d, output
	s.opts.Memory.keep(i.remembered, &d)
	i.mu.Unlock()
	if s.opts.Decided != nil {
		s.opts.Decided(&d)
	}
	return output, errors.Join(unsettled, err)
}

// carryOut applies a decision that changes the size, if the rule may. It is in the journal before the target is asked, so
// that a cooldown survives whatever ends the process, and again with its result; what cannot be written is not applied.
func (s *Scaler) carryOut(ctx context.Context, i *instance, d *Decision, obs Observation) error {
	if !d.changes() {
		return nil
	}
	if !s.actsOn(i) {
		d.Result = Observed
		d.because(DryRun)
		s.rehearse(ctx, i, d, obs)
		return nil
	}
	if reason, words := s.stopped(i, d, obs); reason != "" {
		d.Result = Observed
		d.because(reason)
		d.LimitedBy = append(d.LimitedBy, reason)
		d.Text += ", " + words
		return nil
	}
	d.Result = Applying
	if err := s.record(ctx, i, d); err != nil {
		d.Result, d.Error = Unrecorded, err.Error()
		return err
	}
	var err error
	asked := d.To
	if len(d.Variants) > 0 {
		err = s.applyVariants(ctx, d)
	} else {
		err = s.apply(ctx, i.target, d, obs.Replicas.Version)
	}
	if err != nil {
		s.log.Error("change refused", "target", d.Target, "from", d.From, "to", asked, "err", err)
	}
	i.mu.Lock()
	if i.unsettled = nil; d.Unanswered != nil {
		unsettled := *d
		i.unsettled = &unsettled
	}
	i.mu.Unlock()
	return s.record(ctx, i, d)
}

// settle finds out what became of a change whose answer was lost on the way, or came too late: the target may have taken it, as
// its size tells when it is next seen. Then it counts as any other, from when it was asked for, and the journal says so.
func (s *Scaler) settle(ctx context.Context, i *instance, obs Observation) error {
	i.mu.Lock()
	d := i.unsettled
	i.mu.Unlock()
	if d == nil || obs.TargetError != "" {
		return nil
	}
	known := d.From
	if d.Result == Applied { // in part
		known = d.To
	}
	settled := *d
	settled.Unanswered = nil
	is := s.became(&settled, known, *d.Unanswered, obs)
	taken := is != known
	if taken {
		settled.Result, settled.To = Applied, is
		settled.Text += fmt.Sprintf(", to %d: the target took what it had answered with an error", is)
	}
	i.mu.Lock()
	i.unsettled = nil
	i.state = i.state.instead(d.Time, d.From, is) // in the place of what the journal made it be
	i.mu.Unlock()
	if taken {
		s.log.Warn("a change that ended in an error was carried out all the same", "target", d.Target, "from", d.From, "to", is, "decision", d.ID)
	}
	if settled.Result == Failed {
		return nil // as the journal has it: what is decided next finds the size as it was
	}
	return s.record(ctx, i, &settled)
}

// rehearse has a target check a change that is not carried out; that it would refuse it is the decision's error. The same
// change is not asked about at each evaluation.
func (s *Scaler) rehearse(ctx context.Context, i *instance, d *Decision, obs Observation) {
	if len(d.Variants) > 0 {
		return // they may each be changed in part, one after the other
	}
	i.mu.Lock()
	last := i.recorded
	i.mu.Unlock()
	if last != nil && last.Result == Observed && last.From == d.From && last.To == d.To {
		d.Error = last.Error
		return
	}
	actuator := s.opts.Actuators[i.target.Kind]
	if actuator == nil {
		return
	}
	if _, err := actuator.Apply(ctx, i.target, actuators.Change{
		From: d.From, To: d.To, IfVersion: obs.Replicas.Version, DecisionID: d.ID, Reason: d.ReasonText(), DryRun: true,
	}); err != nil {
		d.Error = "dry run: " + err.Error()
	}
}

// apply changes one target.
func (s *Scaler) apply(ctx context.Context, target actuators.Target, d *Decision, version string) error {
	receipt, err := s.change(ctx, target, actuators.Change{
		From: d.From, To: d.To, IfVersion: version, DecisionID: d.ID, Reason: d.ReasonText(),
	})
	if err != nil {
		d.Result = Failed
		d.refused(err)
		return err
	}
	d.Result, d.To = Applied, receipt.Spec
	return nil
}

// became is the size that a change led to whose answer was lost, in whole or in part; it was known to have led to another. The
// variants of the decision are then as they became.
func (s *Scaler) became(d *Decision, known, asked int, obs Observation) int {
	if len(d.Variants) == 0 {
		if is := obs.Replicas.Spec; direction(known, is) == direction(known, asked) {
			return is
		}
		return known
	}
	d.Variants = slices.Clone(d.Variants)
	for n := range d.Variants {
		v := &d.Variants[n]
		i := slices.IndexFunc(s.rule.Variants, func(o Variant) bool { return o.Target.String() == v.Target })
		if v.Unanswered != nil && i >= 0 && obs.Variants[i].Spec == *v.Unanswered {
			known += (*v.Unanswered - v.To) * v.Capacity
			v.To = *v.Unanswered
		}
		v.Unanswered = nil
	}
	return known
}

// change asks a target for another size, if this process still is the one to: writing to the journal takes a moment.
func (s *Scaler) change(ctx context.Context, target actuators.Target, c actuators.Change) (actuators.Receipt, error) {
	if !s.leads() {
		return actuators.Receipt{}, fmt.Errorf("%w: another flyball leads", actuators.ErrRefused)
	}
	return s.opts.Actuators[target.Kind].Apply(ctx, target, c)
}

// applyVariants changes each variant that is to have another size: those that grow first, so that capacity is there before
// any goes. Where one refuses, the others are changed all the same, but none made smaller where one did not grow.
func (s *Scaler) applyVariants(ctx context.Context, d *Decision) error {
	var errs []error
	d.Variants = slices.Clone(d.Variants) // the journal's stays as it was recorded
	changed, short := false, false
	apply := func(v *Placement) {
		receipt, err := s.change(ctx, v.variant.Target, actuators.Change{
			From: v.From, To: v.To, IfVersion: v.state.Version, DecisionID: d.ID + "/" + v.Name, Reason: d.ReasonText(),
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", v.Name, err))
			short = short || v.To > v.From
			asked := v.To
			if v.To = v.From; d.refused(err) {
				v.Unanswered = &asked
			}
			return
		}
		changed, v.To = true, receipt.Spec
	}
	for _, grow := range []bool{true, false} {
		for n := range d.Variants {
			v := &d.Variants[n]
			switch {
			case v.To == v.From || (v.To > v.From) != grow:
			case !grow && short:
				v.To = v.From
			default:
				apply(v)
			}
		}
	}
	err := errors.Join(errs...)
	d.To, d.Result = capacityOf(d.Variants), Applied
	if err != nil {
		d.Error = err.Error()
		if !changed {
			d.Result = Failed
		} else {
			d.Action = direction(d.From, d.To) // in part it may be another way
		}
	}
	return err
}

// refused notes that a target refused a change, and says whether it may have taken it all the same.
func (d *Decision) refused(err error) (unanswered bool) {
	d.Error = err.Error()
	if errors.Is(err, actuators.ErrConflict) {
		d.because(ExternalChange)
		return false
	}
	if errors.Is(err, actuators.ErrOwned) {
		d.because(OwnedByHPA)
		return false
	}
	d.because(ActuatorError)
	for _, no := range []error{actuators.ErrOutOfRange, actuators.ErrUnknownTarget, actuators.ErrRefused} {
		if errors.Is(err, no) {
			return false
		}
	}
	to := d.To
	d.Unanswered = &to
	return true
}

// changes says that the decision asks for another size of something.
func (d *Decision) changes() bool {
	return d.Action != Hold || slices.ContainsFunc(d.Variants, func(v Placement) bool { return v.From != v.To })
}

// stopped says what keeps a change from being carried out now, if something does.
func (s *Scaler) stopped(i *instance, d *Decision, obs Observation) (r Reason, words string) {
	if !s.leads() {
		return NotLeader, "another flyball leads"
	}
	for _, state := range append(obs.Variants, obs.Replicas) {
		if state.Paused != "" {
			return Paused, "paused by " + state.Paused
		}
	}
	if s.opts.Brake != nil {
		if words := s.opts.Brake.stopped(d.Time, s.keys(i)...); words != "" {
			return Paused, words
		}
	}
	if s.opts.Limit == nil || s.opts.Limit.take(d.Time, d.To > d.From) {
		return "", ""
	}
	if r = ScaleUpRate; d.To < d.From {
		r = ScaleDownRate
	}
	return r, fmt.Sprintf("the limit of %d changes a minute over all targets is reached", s.opts.Limit.perMinute)
}

// tellHeld has people told, where the target is, of a size that is held for a reason which somebody may have to look into; not of
// those that pass by themselves, and by one flyball of several alone.
func (s *Scaler) tellHeld(ctx context.Context, i *instance, d *Decision) {
	if len(s.rule.Variants) > 0 || !s.actsOn(i) || !s.leads() {
		return
	}
	teller, ok := s.opts.Actuators[i.target.Kind].(actuators.Teller)
	held := slices.IndexFunc(d.Reasons, Reason.lasts)
	if ok && held >= 0 {
		teller.TellHeld(ctx, i.target, string(d.Reasons[held]), fmt.Sprintf("held at %d replicas: %s", d.Replicas.Spec, d.Text))
	}
}

func (s *Scaler) leads() bool { return s.opts.Leads == nil || s.opts.Leads() }

// noticed returns the state with a change of the size that was not this process's own. One by the process that leads counts as
// a change of the rule. Any other is somebody's who may know better: the windows begin anew with the size that was found.
func (s *Scaler) noticed(i *instance, obs Observation, st State) State {
	if !s.actsOn(i) || obs.TargetError != "" || !st.Known || st.evaluated.IsZero() || obs.Replicas.Spec == st.Replicas {
		return st
	}
	if !s.leads() {
		return st.Applied(obs.At, st.Replicas, obs.Replicas.Spec)
	}
	st.unsure, st.foreign = true, true
	return st
}

// keys are the names by which a target can be paused: with variants those of each, and that of all of them.
func (s *Scaler) keys(i *instance) []string {
	all := []string{i.key}
	for _, v := range s.rule.Variants {
		all = append(all, v.Target.String())
	}
	return all
}

// Keys are the names of the targets that the rule has now, by which each can be paused.
func (s *Scaler) Keys() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.order {
		if s.rule.ForEach == nil || i.values != "" {
			all = append(all, s.keys(i)...)
		}
	}
	return all
}

// actsOn says whether decisions for a target are carried out.
func (s *Scaler) actsOn(i *instance) bool {
	if !s.opts.Acting || s.rule.Mode != Act {
		return false
	}
	if s.opts.May == nil {
		return true
	}
	if len(s.rule.Variants) == 0 {
		return s.opts.May(i.target)
	}
	return !slices.ContainsFunc(s.rule.Variants, func(v Variant) bool { return !s.opts.May(v.Target) })
}

func (s *Scaler) record(ctx context.Context, i *instance, d *Decision) error {
	if s.opts.Expand != nil && len(s.rule.Annotations) > 0 {
		d.Annotations = make(map[string]string, len(s.rule.Annotations))
		for name, text := range s.rule.Annotations {
			d.Annotations[name] = s.opts.Expand(ctx, name, text, d)
		}
	}
	if err := s.opts.Journal.Append(d); err != nil {
		s.opts.Metrics.journalErrors.Inc()
		return fmt.Errorf("scale %s: record decision: %w", s.rule.Name, err)
	}
	stored := *d
	i.mu.Lock()
	i.recorded = &stored
	i.mu.Unlock()
	return nil
}

// Restore brings targets of a kind that have no size of their own after a restart back to the size that the journal
// remembers, or to the initial one of that name when it remembers none. It returns the decisions, of which there are none
// when there was nothing to do. A target that refuses the size is part of the decision; the next evaluation finds it at the
// size that it has. Targets of for_each are not known before the first evaluation, which restores them.
func (s *Scaler) Restore(ctx context.Context, at time.Time, kind string, initial func(name string) int) (decisions []*Decision, err error) {
	s.mu.Lock()
	all := slices.Clone(s.order)
	s.mu.Unlock()
	var errs []error
	for _, i := range all {
		targets, bounds := []actuators.Target{i.target}, [][2]int{{s.rule.Min, s.rule.Max}}
		if len(s.rule.Variants) > 0 {
			targets, bounds = nil, nil
			for _, v := range s.rule.Variants {
				targets, bounds = append(targets, v.Target), append(bounds, [2]int{v.Min, v.Max})
			}
		}
		for n, target := range targets {
			if target.Kind != kind {
				continue
			}
			d, err := s.restore(ctx, at, i, target, bounds[n], initial(target.Name))
			errs = append(errs, err)
			if d != nil {
				decisions = append(decisions, d)
			}
		}
	}
	return decisions, errors.Join(errs...)
}

func (s *Scaler) restore(ctx context.Context, at time.Time, i *instance, target actuators.Target, bounds [2]int, initial int) (*Decision, error) {
	state, err := s.opts.Actuators[target.Kind].Observe(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("scale %s: restore: %w", s.rule.Name, err)
	}
	own := s.opts.Memory.of(target.String()) // of a variant what is remembered is its own
	own.mu.Lock()
	remembered, known := own.state.Replicas, own.state.Known
	own.mu.Unlock()
	if !state.Fresh {
		return nil, nil
	}
	d := &Decision{
		Time: at, Rule: s.rule.Name, Target: target.String(), Labels: i.labels, Mode: s.rule.Mode, Action: Up, To: initial,
		Replicas: Replicas{Min: bounds[0], Max: bounds[1]}, Result: Applied, Start: true,
		Text: "the size to start with", Reasons: []Reason{MinReplicas},
	}
	if known {
		d.To, d.Text, d.Reasons = remembered, "the size of before the restart", []Reason{Restored}
	}
	if bounded := min(max(d.To, bounds[0]), bounds[1]); bounded != d.To {
		d.To, d.Text = bounded, fmt.Sprintf("%s, %d, within min and max", d.Text, d.To)
	}
	if d.To == 0 {
		return nil, nil
	}
	d.ID = decisionID(d.Rule, d.Target, at, 0, d.To)
	if _, err := s.opts.Actuators[target.Kind].Apply(ctx, target, actuators.Change{
		To: d.To, IfVersion: state.Version, DecisionID: d.ID, Reason: d.ReasonText(),
	}); err != nil {
		d.Result, d.Error = Failed, err.Error()
		d.because(ActuatorError)
		s.log.Error("restore refused", "target", target, "replicas", d.To, "err", err)
		return d, s.record(ctx, i, d)
	}
	own.mu.Lock()
	own.state.Replicas, own.state.Known = d.To, true // not Applied: a restart is no change, so no cooldown begins with it
	own.mu.Unlock()
	return d, s.record(ctx, i, d)
}

// samples are what a decision writes to the store. Before a target was first observed nothing is known to be desired: what reads
// that, such as an HPA, would go by a size that is a guess, or 0.
func (s *Scaler) samples(d *Decision, st State, known bool) []Sample {
	out := make([]Sample, 0, 8+3*len(d.Signals)+5*len(d.Variants))
	b := labels.NewScratchBuilder(6)
	add := func(target, name string, v float64, more ...string) {
		b.Reset()
		b.Add(labels.MetricName, name)
		b.Add("rule", d.Rule)
		b.Add("target", target)
		for i := 0; i+1 < len(more); i += 2 {
			b.Add(more[i], more[i+1])
		}
		b.Sort()
		out = append(out, Sample{Labels: b.Labels(), Value: v, Time: d.Time})
	}
	observed := !slices.Contains(d.Reasons, ActuatorError) || d.Result == Failed || d.Result == Applied // else the target could not be
	sizes := func(target string, current, ready, desired, least, most int) {
		if observed {
			add(target, "flyball_scale_current_replicas", float64(current))
			add(target, "flyball_scale_ready_replicas", float64(ready))
		}
		if known {
			add(target, "flyball_scale_desired_replicas", float64(desired))
		}
		add(target, "flyball_scale_min_replicas", float64(least))
		add(target, "flyball_scale_max_replicas", float64(most))
	}
	if len(s.rule.Variants) == 0 {
		sizes(d.Target, d.Replicas.Spec, d.Replicas.Ready, d.To, d.Replicas.Min, d.Replicas.Max)
	}
	for _, v := range d.Variants {
		sizes(v.Target, v.From, v.Ready, v.To, v.variant.Min, v.variant.Max)
	}
	if observed {
		add(d.Target, "flyball_scale_overdue_replicas", float64(d.Replicas.Overdue))
	}
	for i, r := range d.Signals {
		if forecast := s.rule.Signals[i].Forecast; forecast != "" {
			armed := 0.0
			if r.Proposal != nil {
				armed = 1
			}
			add(d.Target, "flyball_scale_signal_armed", armed, "signal", r.Name, "forecast", forecast)
		}
		if r.Value != nil {
			add(d.Target, "flyball_scale_signal_value", *r.Value, "signal", r.Name)
		}
		if r.Proposal != nil {
			add(d.Target, "flyball_scale_signal_proposal_replicas", float64(*r.Proposal), "signal", r.Name)
		}
		add(d.Target, "flyball_scale_signal_confidence", r.Confidence, "signal", r.Name)
	}
	if d.Shadow != nil {
		add(d.Target, "flyball_scale_shadow_replicas", float64(d.Shadow.To))
	}
	if d.Cost != nil {
		add(d.Target, "flyball_scale_cost_usd_per_hour", d.Cost.AfterUSDPerHour)
	}
	for _, r := range d.LimitedBy {
		add(d.Target, "flyball_scale_blocked", 1, "reason", string(r))
	}
	if change := latest(st.LastUp, st.LastDown); !change.IsZero() {
		add(d.Target, "flyball_scale_last_change_timestamp_seconds", float64(change.UnixMilli())/1000)
	}
	return out
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Output implements Output.
func (s *Scaler) Output() (all []Sample) {
	s.mu.Lock()
	order := slices.Clone(s.order)
	s.mu.Unlock()
	for _, i := range order {
		i.mu.Lock()
		all = append(all, i.output...)
		i.mu.Unlock()
	}
	return all
}
