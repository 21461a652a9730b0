package rulestest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"

	"flyball/rules"
	"flyball/rules/source"
)

// ScaleTest expects a decision: that of the last evaluation at or before EvalTime.
type ScaleTest struct {
	EvalTime model.Duration `yaml:"eval_time"`
	Rule     string         `yaml:"rule"`
	Target   string         `yaml:"target"` // kind/name or the name; may be empty where the rule has one target
	Expect   Expectation    `yaml:"expect"`
}

// Expectation is what a decision should be. What it leaves out may be anything.
type Expectation struct {
	Desired *int `yaml:"desired"` // replicas that the decision asks for
	Current *int `yaml:"current"` // and that were asked for before it
	Ready   *int `yaml:"ready"`
	Pending *int `yaml:"pending"`
	Min     *int `yaml:"min"` // as schedules and constraints have it then
	Max     *int `yaml:"max"`

	Action    string    `yaml:"action"` // up, down or hold
	Result    string    `yaml:"result"` // unchanged, applied or error
	Reasons   *[]string `yaml:"reasons"`
	LimitedBy *[]string `yaml:"limited_by"`

	Confidence     *float64       `yaml:"confidence"`        // compared at three digits
	CostUSDPerHour *float64       `yaml:"cost_usd_per_hour"` // of what is asked for, compared at six significant digits
	Variants       map[string]int `yaml:"variants"`          // replicas asked for, by the variant's name
	Signals        map[string]int `yaml:"signals"`           // what each asks for, by its name
}

// lines are the expectation, one value a line, and those of the decision that stand beside them.
func (e *Expectation) lines(d *rules.Decision) (want, got []string) {
	add := func(key, w, g string) { want, got = append(want, key+": "+w), append(got, key+": "+g) }
	for _, n := range []struct {
		key  string
		want *int
		got  int
	}{
		{"desired", e.Desired, d.To},
		{"current", e.Current, d.From},
		{"ready", e.Ready, d.Replicas.Ready},
		{"pending", e.Pending, d.Replicas.Pending},
		{"min", e.Min, d.Replicas.Min},
		{"max", e.Max, d.Replicas.Max},
	} {
		if n.want != nil {
			add(n.key, strconv.Itoa(*n.want), strconv.Itoa(n.got))
		}
	}
	if e.Action != "" {
		add("action", e.Action, string(d.Action))
	}
	if e.Result != "" {
		add("result", e.Result, string(d.Result))
	}
	if e.Reasons != nil {
		add("reasons", list(*e.Reasons), list(words(d.Reasons)))
	}
	if e.LimitedBy != nil {
		add("limited_by", list(*e.LimitedBy), list(words(d.LimitedBy)))
	}
	if e.Confidence != nil {
		add("confidence", fmt.Sprintf("%.3f", *e.Confidence), fmt.Sprintf("%.3f", d.Confidence))
	}
	if e.CostUSDPerHour != nil {
		cost := "not known"
		if d.Cost != nil {
			cost = fmt.Sprintf("%.6g", d.Cost.AfterUSDPerHour)
		}
		add("cost_usd_per_hour", fmt.Sprintf("%.6g", *e.CostUSDPerHour), cost)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Variants)) {
		i := slices.IndexFunc(d.Variants, func(p rules.Placement) bool { return p.Name == name })
		to := "none"
		if i >= 0 {
			to = strconv.Itoa(d.Variants[i].To)
		}
		add("variants."+name, strconv.Itoa(e.Variants[name]), to)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Signals)) {
		i := slices.IndexFunc(d.Signals, func(s rules.SignalRecord) bool { return s.Name == name })
		asks := "none"
		if i >= 0 && d.Signals[i].Proposal != nil {
			asks = strconv.Itoa(*d.Signals[i].Proposal)
		}
		add("signals."+name, strconv.Itoa(e.Signals[name]), asks)
	}
	return want, got
}

// list writes words in one order.
func list(words []string) string {
	words = slices.Clone(words)
	slices.Sort(words)
	return "[" + strings.Join(words, ", ") + "]"
}

// check notes what cannot be right about a scale test.
func (t *ScaleTest) check(d *source.Decoder, path string, scales []*rules.Scale) {
	names := make([]string, len(scales))
	for i, s := range scales {
		names[i] = s.Name
	}
	i := slices.Index(names, t.Rule)
	switch {
	case t.Rule == "":
		d.FaultAt(path, 0, "rule: the name of a scale rule is needed")
	case i < 0:
		d.FaultAt(path+".rule", 0, "no scale rule %q%s", t.Rule, source.DidYouMean(t.Rule, names))
	default:
		t.checkNames(d, path+".expect", scales[i])
	}
	e := &t.Expect
	oneOf(d, path+".expect.action", e.Action, string(rules.Up), string(rules.Down), string(rules.Hold))
	oneOf(d, path+".expect.result", e.Result, string(rules.Unchanged), string(rules.Applied), string(rules.Failed))
	known := words(rules.Reasons())
	for key, l := range map[string]*[]string{"reasons": e.Reasons, "limited_by": e.LimitedBy} {
		if l == nil {
			continue
		}
		for i, word := range *l {
			if !slices.Contains(known, word) {
				d.FaultAt(fmt.Sprintf("%s.expect.%s[%d]", path, key, i), 0, "no reason %q%s", word, source.DidYouMean(word, known))
			}
		}
	}
	if want, _ := e.lines(&rules.Decision{}); len(want) == 0 {
		d.FaultAt(path, 0, "expect: nothing is expected, so the test cannot fail: give desired, action or reasons")
	}
}

// checkNames notes variants and signals that the rule does not have.
func (t *ScaleTest) checkNames(d *source.Decoder, path string, s *rules.Scale) {
	var variants, signals []string
	for _, v := range s.Variants {
		variants = append(variants, v.Name)
	}
	for _, g := range s.Signals {
		signals = append(signals, g.Name)
	}
	for what, expected := range map[string]map[string]int{"variant": t.Expect.Variants, "signal": t.Expect.Signals} {
		known := variants
		if what == "signal" {
			known = signals
		}
		for name := range expected {
			if !slices.Contains(known, name) {
				d.FaultAt(path+"."+what+"s."+name, 0, "rule %q has no %s %q%s", s.Name, what, name, source.DidYouMean(name, known))
			}
		}
	}
}

// decision finds that of the test's target among those of the rule, or says why there is none.
func (t *ScaleTest) decision(all []*rules.Decision) (*rules.Decision, string) {
	var targets []string
	for _, d := range all {
		if _, name, _ := strings.Cut(d.Target, "/"); t.Target == "" && len(all) == 1 || t.Target == d.Target || t.Target == name && name != "" {
			return d, ""
		}
		targets = append(targets, d.Target)
	}
	switch {
	case len(all) == 0:
		return nil, "no decision: the rule has no target yet"
	case t.Target == "":
		return nil, fmt.Sprintf("the rule has %d targets: give target, one of %s", len(all), strings.Join(targets, ", "))
	}
	return nil, fmt.Sprintf("no decision for the target %q; there are those for %s%s", t.Target, strings.Join(targets, ", "), source.DidYouMean(t.Target, targets))
}

func oneOf(d *source.Decoder, path, value string, expected ...string) {
	if value != "" && !slices.Contains(expected, value) {
		d.FaultAt(path, 0, "%q is none of %s%s", value, strings.Join(expected, ", "), source.DidYouMean(value, expected))
	}
}
