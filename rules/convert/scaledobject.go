package convert

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"flyball/rules/source"
)

// scaledObjectSpec is the spec of a ScaledObject of keda.sh/v1alpha1.
type scaledObjectSpec struct {
	ScaleTargetRef        targetRef  `yaml:"scaleTargetRef"`
	PollingInterval       *int       `yaml:"pollingInterval"`
	CooldownPeriod        *int       `yaml:"cooldownPeriod"`
	InitialCooldownPeriod *int       `yaml:"initialCooldownPeriod"`
	IdleReplicaCount      *int       `yaml:"idleReplicaCount"`
	MinReplicaCount       *int       `yaml:"minReplicaCount"`
	MaxReplicaCount       *int       `yaml:"maxReplicaCount"`
	Fallback              *fallback  `yaml:"fallback"`
	Advanced              *advanced  `yaml:"advanced"`
	Triggers              []*trigger `yaml:"triggers"`
}

type fallback struct {
	FailureThreshold int    `yaml:"failureThreshold"`
	Replicas         int    `yaml:"replicas"`
	Behavior         string `yaml:"behavior"`
}

type advanced struct {
	RestoreToOriginalReplicaCount bool       `yaml:"restoreToOriginalReplicaCount"`
	HPA                           *hpaConfig `yaml:"horizontalPodAutoscalerConfig"`
	Modifiers                     *modifiers `yaml:"scalingModifiers"`
}

type hpaConfig struct {
	Name     string    `yaml:"name"`
	Behavior *behavior `yaml:"behavior"`
}

type modifiers struct {
	Formula          string `yaml:"formula"`
	Target           string `yaml:"target"`
	ActivationTarget string `yaml:"activationTarget"`
	MetricType       string `yaml:"metricType"`
}

// Defaults of a ScaledObject.
const (
	kedaPollingInterval = 30  // seconds
	kedaCooldownPeriod  = 300 // seconds
	kedaMaxReplicas     = 100
)

// keda is a ScaledObject that is being converted.
type keda struct {
	*object
	spec     scaledObjectSpec
	rule     *rule
	workload *workload
	polling  int // seconds
	up, down float64
	zero     bool     // the target goes to idle, or to 0, while no trigger is active
	active   []active // when a trigger is
	refused  string   // why it cannot be converted at all
}

// active is when a trigger is: when the value is above a number.
type active struct {
	query string // whose value it is
	expr  string // of the query; empty where the value is made of several
	above float64
}

func (a active) String() string { return a.query + " > " + number(a.above) }

func convertScaledObject(o *object) (*rule, error) {
	k := &keda{object: o, polling: kedaPollingInterval}
	if o.APIVersion != "keda.sh/v1alpha1" {
		o.fault("apiVersion", "apiVersion is %q: expected keda.sh/v1alpha1", o.APIVersion)
		return nil, nil
	}
	if !o.decode(&k.spec) {
		return nil, nil
	}
	r := &rule{interval: say("KEDA's HPA looks as often.")}
	k.rule = r
	ref := &k.spec.ScaleTargetRef
	if ref.APIVersion == "" {
		ref.APIVersion = "apps/v1"
	}
	if ref.Kind == "" {
		ref.Kind = "Deployment"
	}
	target, notes, err := o.target(ref)
	if err != nil {
		return nil, nil // told as a fault of the file
	}
	r.target, r.targetNotes = target, notes
	k.workload = o.workload(ref)
	k.periods()
	k.bounds()
	var b *behavior
	path := "spec.advanced.horizontalPodAutoscalerConfig.behavior"
	if a := k.spec.Advanced; a != nil && a.HPA != nil {
		b = a.HPA.Behavior
	}
	k.up, k.down = o.behavior(r, path, b)
	k.paused()
	k.triggers()
	if k.refused != "" {
		return nil, fmt.Errorf("%s", k.refused)
	}
	k.fallback()
	if k.d.Len() > 0 {
		return nil, nil // told
	}
	k.activation()
	if name := k.spec.ScaleTargetRef.Container; name != "" {
		r.targetNotes = append(r.targetNotes, say("envSourceContainerName (%s): without effect: a rule reads no environment.", name))
	}
	if a := k.spec.Advanced; a != nil && a.HPA != nil && a.HPA.Name != "" {
		r.notes = append(r.notes, say("spec.advanced.horizontalPodAutoscalerConfig.name (%s): without effect: there is no HPA.", a.HPA.Name))
	}
	if a := k.spec.Advanced; a != nil && a.RestoreToOriginalReplicaCount {
		r.notes = append(r.notes, lost("spec.advanced.restoreToOriginalReplicaCount: a rule that is removed leaves the size as it is."))
	}
	return r, nil
}

// periods converts what says how often and how long.
func (k *keda) periods() {
	if p := k.spec.PollingInterval; p != nil {
		k.polling = *p
		if *p < 1 || *p > 86400 {
			k.fault("spec.pollingInterval", "spec.pollingInterval is %d: expected 1 or more", *p)
		}
	}
	k.rule.interval = say("KEDA's HPA looks as often, and KEDA itself each %s (pollingInterval): from 0 the rule starts replicas that much sooner.", seconds(k.polling))
	if p := k.spec.CooldownPeriod; p != nil && (*p < 0 || *p > 86400) {
		k.fault("spec.cooldownPeriod", "spec.cooldownPeriod is %d: expected 0 to 86400", *p)
	}
	if p := k.spec.InitialCooldownPeriod; p != nil && *p > 0 {
		k.rule.notes = append(k.rule.notes, lost("spec.initialCooldownPeriod: KEDA waits %d s after the object was made before it goes to 0; a rule knows no such time.", *p))
	}
}

func (k *keda) cooldown() int {
	if p := k.spec.CooldownPeriod; p != nil {
		return *p
	}
	return kedaCooldownPeriod
}

// bounds converts minReplicaCount, maxReplicaCount and idleReplicaCount.
func (k *keda) bounds() {
	s, r := &k.spec, k.rule
	r.max = kedaMaxReplicas
	said := fmt.Sprintf("spec.maxReplicaCount is not given: %d.", kedaMaxReplicas)
	if s.MaxReplicaCount != nil {
		r.max, said = *s.MaxReplicaCount, "spec.maxReplicaCount as it is."
	}
	if s.MinReplicaCount != nil {
		r.min = *s.MinReplicaCount
		said = "spec.minReplicaCount as it is, " + said
	} else {
		said = "spec.minReplicaCount is not given: 0, " + said
	}
	r.boundNotes = append(r.boundNotes, say("%s", said))
	k.object.bounds("spec.minReplicaCount", "spec.maxReplicaCount", r.min, r.max)
	k.zero = r.min == 0
	if idle := s.IdleReplicaCount; idle != nil {
		if *idle < 0 || *idle >= r.min {
			k.fault("spec.idleReplicaCount", "spec.idleReplicaCount is %d: expected less than minReplicaCount, which is %d", *idle, r.min)
			return
		}
		k.zero = true
		r.boundNotes = append(r.boundNotes, say("spec.idleReplicaCount: %d while no trigger is active; %d is a constraint while one is.", *idle, r.min))
		r.min = *idle
	}
}

// least is how many replicas there are at least while a trigger is active.
func (k *keda) least() int {
	if k.spec.IdleReplicaCount != nil {
		return *k.spec.MinReplicaCount
	}
	return max(k.rule.min, 1)
}

// paused converts the annotations that stop KEDA.
func (k *keda) paused() {
	set := func(key string) bool {
		v, there := k.Meta.Annotations["autoscaling.keda.sh/"+key]
		on, err := strconv.ParseBool(v)
		return there && (on || err != nil)
	}
	notes := &k.rule.notes
	if n, there := k.Meta.Annotations["autoscaling.keda.sh/paused-replicas"]; there {
		*notes = append(*notes, lost("the annotation paused-replicas: KEDA holds the target at %s now. The rule says what would be without.", n))
	} else if set("paused") {
		*notes = append(*notes, lost("the annotation paused: KEDA leaves the target as it is now. The rule says what would be without."))
	}
	for _, p := range []struct {
		keys []string
		to   *direction
		word string
	}{{[]string{"paused-scale-in", "paused-scale-down"}, &k.rule.down, "down"}, {[]string{"paused-scale-out", "paused-scale-up"}, &k.rule.up, "up"}} {
		for _, key := range p.keys {
			if set(key) {
				p.to.selects = "disabled"
				p.to.notes = append(p.to.notes, say("The annotation %s: not %s.", key, p.word))
			}
		}
	}
}

// triggers converts spec.triggers, each as a signal, or as what the formula is made of.
func (k *keda) triggers() {
	if len(k.spec.Triggers) == 0 {
		k.fault("spec.triggers", "spec.triggers: missing: nothing would move the size")
		return
	}
	var m *modifiers
	if a := k.spec.Advanced; a != nil && a.Modifiers != nil && *a.Modifiers != (modifiers{}) {
		m = a.Modifiers
	}
	var resources []int // signals of cpu and memory, by their place
	names := map[string]string{}
	for i, t := range k.spec.Triggers {
		at := fmt.Sprintf("spec.triggers[%d]", i)
		if t == nil {
			k.fault(at, "%s: a trigger needs a type", at)
			continue
		}
		t.at, t.index, t.k = at, i, k
		before := k.d.Len()
		switch t.Type {
		case "":
			k.fault(at, "%s.type: missing", at)
		case "cron":
			t.cron()
		case "cpu", "memory":
			t.resource()
			if k.d.Len() == before {
				resources = append(resources, len(k.rule.signals)-1)
			}
		default:
			d := t.demand()
			if d == nil || k.refused != "" || k.d.Len() > before {
				continue
			}
			t.query(d)
			names[t.Name] = d.name
			if m == nil {
				k.signal(d)
			}
		}
	}
	if k.d.Len() > 0 || k.refused != "" {
		return
	}
	if m != nil {
		k.formula(m, names)
	}
	k.gateResources(resources)
	if len(k.rule.signals) == 0 && k.refused == "" && k.d.Len() == 0 { // schedules alone
		k.rule.queries = append(k.rule.queries, query{name: "demand", expr: "vector(0)", notes: []note{say("No trigger but cron: nothing but the schedule asks for replicas.")}})
		k.rule.signals = append(k.rule.signals, signal{name: "demand", value: "demand", perReplica: 1, tolerance: defaultTolerance})
	}
}

// signal adds that of a trigger.
func (k *keda) signal(d *demand) {
	value := d.name
	if d.value != "" {
		value = fmt.Sprintf(d.value, d.name)
	}
	a := active{query: d.name, expr: d.expr, above: d.activation}
	k.active = append(k.active, a)
	s := signal{name: d.name, value: value, perReplica: d.target, notes: d.signalNotes}
	if d.ratio {
		s.perReplica, s.utilization = 0, 1
		s.value = fmt.Sprintf("%s / %s", value, number(d.target))
		s.notes = append(s.notes, say("metricType Value: the ready replicas times the value, divided by %s.", number(d.target)))
	}
	s.tolerate(k.up, k.down)
	if k.zero && d.activation > 0 {
		s.value = fmt.Sprintf("%s ? %s : 0", a, enclosed(s.value))
		s.notes = append(s.notes, say("%s: what does not activate the trigger counts as none; KEDA's HPA would go by it while another trigger is active.", d.activationKey))
	} else if d.activation > 0 {
		s.notes = append(s.notes, say("%s: without effect, here as in KEDA, where minReplicaCount is not 0.", d.activationKey))
	}
	k.rule.signals = append(k.rule.signals, s)
}

// enclosed is an expression that can stand within another one.
func enclosed(expr string) string {
	if strings.Contains(expr, "?") {
		return "(" + expr + ")"
	}
	return expr
}

// gateResources lets cpu and memory count while another trigger is active, where the target goes to 0: what runs uses some of
// them, and would never go.
func (k *keda) gateResources(signals []int) {
	if !k.zero || len(signals) == 0 {
		return
	}
	if len(k.active) == 0 {
		k.rule.boundNotes = append(k.rule.boundNotes, lost("with cpu and memory alone nothing says when to start again from %d: the rule does not go there, as KEDA refuses it.", k.rule.min))
		k.rule.min = max(k.least(), 1)
		k.zero = false
		return
	}
	conditions := make([]string, len(k.active))
	for i, a := range k.active {
		conditions[i] = a.String()
	}
	for _, i := range signals {
		s := &k.rule.signals[i]
		s.value = fmt.Sprintf("%s ? %s : 0", strings.Join(conditions, " || "), enclosed(s.value))
		s.notes = append(s.notes, say("It counts while another trigger is active: what runs always uses some."))
	}
}

// formula converts scalingModifiers: one value of all triggers. Both sides are expr-lang.
func (k *keda) formula(m *modifiers, queries map[string]string) {
	const at = "spec.advanced.scalingModifiers"
	if m.Formula == "" {
		k.fault(at, "%s.formula: missing", at)
		return
	}
	target, ok := k.positive(at+".target", m.Target)
	if !ok {
		return
	}
	above := 0.0
	if m.ActivationTarget != "" {
		v, err := strconv.ParseFloat(m.ActivationTarget, 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			k.fault(at+".activationTarget", "%s.activationTarget: %q is not a number", at, m.ActivationTarget)
			return
		}
		above = v
	}
	if m.MetricType != "" && m.MetricType != "AverageValue" && m.MetricType != "Value" {
		k.fault(at+".metricType", "%s.metricType is %q: expected AverageValue or Value", at, m.MetricType)
		return
	}
	text := m.Formula
	for _, name := range sortedKeys(queries) { // those that a query cannot have
		if name != "" && name != queries[name] {
			text = regexp.MustCompile(`\b`+regexp.QuoteMeta(name)+`\b`).ReplaceAllLiteralString(text, queries[name])
		}
	}
	var known []string
	for _, q := range k.rule.queries {
		known = append(known, q.name)
	}
	if faults := checkFormula(text, known); faults != nil {
		k.refused = fmt.Sprintf("%s.formula: %s. Expressions of flyball have no lists, and of the functions abs, ceil, floor, round, min, max, clamp and ratio", at, faults[0].message)
		return
	}
	name := k.rule.queryName("formula")
	a := active{query: "(" + text + ")", above: above}
	k.active = append(k.active, a)
	s := signal{name: name, value: text, perReplica: target, notes: []note{say("%s: the formula and the target as they are; both sides are expr-lang.", at)}}
	if m.MetricType == "Value" {
		s.perReplica, s.utilization, s.value = 0, 1, fmt.Sprintf("(%s) / %s", text, number(target))
		s.notes = append(s.notes, say("metricType Value: the ready replicas times the value, divided by %s.", number(target)))
	}
	s.tolerate(k.up, k.down)
	if k.zero && above > 0 {
		s.value = fmt.Sprintf("%s ? (%s) : 0", a, s.value)
		s.notes = append(s.notes, say("activationTarget: a value that does not activate counts as none."))
	}
	if faults := checkFormula(s.value, known); faults != nil {
		k.refused = fmt.Sprintf("%s.formula: %s", at, faults[0].message)
		return
	}
	k.rule.signals = append(k.rule.signals, s)
}

// positive is a number above 0 that stands as a text.
func (k *keda) positive(path, text string) (float64, bool) {
	v, err := strconv.ParseFloat(text, 64)
	switch {
	case text == "":
		k.fault(path, "%s: missing", path)
	case err != nil || math.IsNaN(v) || math.IsInf(v, 0):
		k.fault(path, "%s: %q is not a number", path, text)
	case v <= 0:
		k.fault(path, "%s is %s: expected more than 0", path, text)
	default:
		return v, true
	}
	return 0, false
}

// activation converts when the target goes to 0, or to idleReplicaCount, and comes back.
func (k *keda) activation() {
	if !k.zero {
		if k.spec.CooldownPeriod != nil {
			k.rule.notes = append(k.rule.notes, say("spec.cooldownPeriod: without effect, here as in KEDA, where the target does not go to 0."))
		}
		return
	}
	r, cooldown, least := k.rule, k.cooldown(), k.least()
	if len(r.schedule) == 0 || len(k.active) > 0 {
		r.constraints = append(r.constraints, constraint{cond: "replicas == 0", max: &least, reason: "KEDA starts so many", notes: []note{say("From 0 KEDA starts %d, and its HPA the rest.", least)}})
	}
	if len(k.active) == 0 {
		return
	}
	if cooldown == r.down.window && k.spec.IdleReplicaCount == nil {
		r.down.notes = append(r.down.notes, say("It is spec.cooldownPeriod as well: to 0 once nothing was active for %s.", seconds(cooldown)))
		return
	}
	if cooldown < r.down.window {
		r.notes = append(r.notes, lost("spec.cooldownPeriod: KEDA goes to %d once nothing was active for %s; the rule after %s, for which it waits on every way down.", r.min, seconds(cooldown), seconds(r.down.window)))
	}
	var conditions []string
	for _, a := range k.active {
		cond := a.String()
		if a.expr != "" && cooldown > 0 {
			recent := query{
				name: r.queryName(a.query + "_recent"), expr: fmt.Sprintf("max_over_time((\n%s\n)[%s:%s])", a.expr, seconds(cooldown), seconds(min(k.polling, cooldown))),
				notes: []note{say("spec.cooldownPeriod: the most of the last %s.", seconds(cooldown))},
			}
			if checkQuery(recent.expr) == nil { // a query that ends in a comment has no other form
				r.queries = append(r.queries, recent)
				cond = active{query: recent.name, above: a.above}.String()
			}
		} else if cooldown > r.down.window {
			r.notes = append(r.notes, lost("spec.cooldownPeriod: KEDA goes to %d once the formula was not active for %s; the rule after %s.", r.min, seconds(cooldown), seconds(r.down.window)))
		}
		conditions = append(conditions, cond)
	}
	r.constraints = append(r.constraints, constraint{
		cond: strings.Join(conditions, " || "), min: &least, reason: "a trigger is active, or was",
		notes: []note{say("At least %d while a trigger is active, and for spec.cooldownPeriod (%s) after.", least, seconds(cooldown))},
	})
}

// fallback converts what KEDA does when a trigger fails.
func (k *keda) fallback() {
	f := k.spec.Fallback
	if f == nil {
		return
	}
	const at = "spec.fallback"
	behaviors := []string{"static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"}
	if f.Behavior == "" {
		f.Behavior = behaviors[0]
	}
	switch {
	case f.FailureThreshold < 0 || f.FailureThreshold > 1000:
		k.fault(at+".failureThreshold", "%s.failureThreshold is %d: expected 0 to 1000", at, f.FailureThreshold)
		return
	case f.Replicas < 0 || f.Replicas > mostReplicas:
		k.fault(at+".replicas", "%s.replicas is %d: expected 0 or more", at, f.Replicas)
		return
	case !slices.Contains(behaviors, f.Behavior):
		k.fault(at+".behavior", "%s.behavior is %q: expected %s%s", at, f.Behavior, strings.Join(behaviors, ", "), source.DidYouMean(f.Behavior, behaviors))
		return
	}
	m := &onMissing{down: "fallback", after: max(f.FailureThreshold, 1) * k.polling, fallback: strconv.Itoa(f.Replicas)}
	switch f.Behavior {
	case "currentReplicas":
		m.down, m.fallback = "hold", "replicas"
	case "currentReplicasIfHigher":
		m.down, m.fallback = "hold", fmt.Sprintf("max(replicas, %d)", f.Replicas)
	case "currentReplicasIfLower":
		m.fallback = fmt.Sprintf("min(replicas, %d)", f.Replicas)
	}
	m.notes = append(m.notes, say("%s (%s): after %d failures at pollingInterval. KEDA puts a size in the place of the trigger that fails, and the others can ask for more; so it is here. No answer and old data count as failures here.", at, f.Behavior, f.FailureThreshold))
	if m.down == "fallback" {
		m.notes = append(m.notes, say("As in KEDA this can make the target smaller while data is missing: down: hold keeps it from that."))
	}
	k.rule.missing = m
}
