package rules

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"gopkg.in/yaml.v3"

	"flyball/actuators"
	"flyball/rules/source"
)

// Modes of a scale rule.
const (
	Observe = "observe" // decide and record, change nothing
	Act     = "act"     // change the target, where the command line enables acting
)

// Scale is a rule that decides how many replicas a target should have.
type Scale struct {
	Name     string            `yaml:"scale"`
	Target   actuators.Target  `yaml:"target"`
	Mode     string            `yaml:"mode"`
	Min      int               `yaml:"min"`
	Max      int               `yaml:"max"`
	Startup  model.Duration    `yaml:"startup"` // from the decision to a replica that is ready
	Queries  map[string]*Query `yaml:"queries"`
	Signals  []Signal          `yaml:"signals"`
	When     []Step            `yaml:"when"`
	Combine  string            `yaml:"combine"`
	Behavior Behavior          `yaml:"behavior"`

	names []string // of Queries, sorted
}

// Query is one named PromQL query of a scale rule.
type Query struct {
	Expr string `yaml:"expr"`

	// Reduce makes one value of the answer: single (more than one series is an error), sum, max, min or avg.
	Reduce string `yaml:"reduce"`

	// StaleAfter is the age of the newest sample from which the value no longer counts.
	StaleAfter model.Duration `yaml:"stale_after"`

	// Expect is how many series the answer must have, as a number or an expression of replicas, ready, pending, min
	// and max. Fewer are MetricMissing. Empty: at least one.
	Expect string `yaml:"expect"`

	// Optional says that the rule may go down without this query.
	Optional bool `yaml:"optional"`

	parsed parser.Expr // of Expr
	ages   string      // PromQL for the time of the data behind it, "" when it has none
	expect *expression // of Expect
}

// Signal is a demand that replicas share: the rule wants value/target_per_replica of them, rounded up.
type Signal struct {
	Name             string  `yaml:"name"`
	Value            string  `yaml:"value"` // the name of a query, or an expression of them
	TargetPerReplica float64 `yaml:"target_per_replica"`

	// Tolerance is how far value may be from the target of the replicas that there are, as a ratio, before the
	// signal asks for another size.
	Tolerance *float64 `yaml:"tolerance"`

	value *expression
}

// Step changes the number of replicas by so much while a condition holds.
type Step struct {
	If     string         `yaml:"if"`
	Do     string         `yaml:"do"`  // +2, +25%, -1, -25%, =3 or hold
	For    model.Duration `yaml:"for"` // the condition must have held for this long
	Reason string         `yaml:"reason"`

	condition *expression
	do        stepDo
}

// Behavior bounds how fast a rule may go, each way.
type Behavior struct {
	Up   Direction `yaml:"up"`
	Down Direction `yaml:"down"`
}

// Direction bounds how fast a rule may go one way.
type Direction struct {
	// Window is the time over which recommendations are stabilized: going down waits for the highest of the window, going
	// up for the lowest.
	Window *model.Duration `yaml:"window"`

	// Policies bound the change within a period; the one that allows most counts. None: not bounded.
	Policies []Policy `yaml:"policies"`

	// Cooldown is the time after an applied change in this direction in which there is no other.
	Cooldown model.Duration `yaml:"cooldown"`
}

// Policy allows a change of so many replicas, or of so many percent of what there was at its start, in each period.
type Policy struct {
	Replicas int            `yaml:"replicas"`
	Percent  float64        `yaml:"percent"`
	Period   model.Duration `yaml:"period"`
}

// Defaults of a scale rule, each with its reason.
const (
	// The HPA's tolerance: less makes noise move replicas.
	defaultTolerance = 0.1
	// GPUs take minutes to come back, so down waits for the highest demand of five minutes, as the HPA does.
	defaultDownWindow = model.Duration(5 * time.Minute)
	// Long enough for most model servers to load their weights; a rule that knows better says so.
	defaultStartup = model.Duration(2 * time.Minute)
)

// DefaultScale returns a scale rule with the defaults that its file need not name: mode observe; up at once and by at
// most 100 % or 4 replicas a minute, so that a wrong signal cannot order a fleet; down by at most 25 % or 1 a minute.
func DefaultScale() *Scale {
	return &Scale{
		Mode:    Observe,
		Min:     1,
		Startup: defaultStartup,
		Combine: "max",
		Behavior: Behavior{
			Up: Direction{Policies: []Policy{
				{Percent: 100, Period: model.Duration(time.Minute)},
				{Replicas: 4, Period: model.Duration(time.Minute)},
			}},
			Down: Direction{Policies: []Policy{
				{Percent: 25, Period: model.Duration(time.Minute)},
				{Replicas: 1, Period: model.Duration(time.Minute)},
			}},
		},
	}
}

// Equal says whether two rules that Reader has read decide alike. What they were traced through counts too: a recording rule
// that changed makes the age of a query another one.
func (s *Scale) Equal(o *Scale) bool {
	a, aQueries := s.plain()
	b, bQueries := o.plain()
	return reflect.DeepEqual(a, b) && reflect.DeepEqual(aQueries, bQueries)
}

// plain is the rule without what was compiled of it.
func (s *Scale) plain() (Scale, map[string]Query) {
	rule, queries := *s, make(map[string]Query, len(s.Queries))
	for name, q := range s.Queries {
		plain := *q
		plain.parsed, plain.expect = nil, nil
		queries[name] = plain
	}
	rule.Queries = nil
	rule.Signals, rule.When = slices.Clone(s.Signals), slices.Clone(s.When)
	for i := range rule.Signals {
		rule.Signals[i].value = nil
	}
	for i := range rule.When {
		rule.When[i].condition = nil
	}
	return rule, queries
}

// DecodeNode takes a query as its PromQL alone or as a mapping.
func (q *Query) DecodeNode(d *source.Decoder, n *yaml.Node, path string) {
	if n.Kind == yaml.ScalarNode {
		q.Expr = n.Value
		return
	}
	type plain Query // without this method
	d.DecodeNode(n, path, (*plain)(q))
}

var (
	queryName  = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]*$`)
	reductions = []string{"single", "sum", "max", "min", "avg"}
)

func (s *Scale) validate(d *source.Decoder, path string, interval, scrape time.Duration) {
	fault := func(key, format string, args ...any) { d.FaultAt(path+"."+key, 0, format, args...) }
	if s.Name == "" {
		fault("scale", "a scale rule needs a name")
	}
	switch {
	case s.Target == (actuators.Target{}):
		fault("target", "target: missing: give kind and name of what is scaled")
	case s.Target.Kind == "":
		fault("target.kind", "target.kind: missing")
	case s.Target.Name == "":
		fault("target.name", "target.name: missing")
	}
	if s.Mode != Observe && s.Mode != Act {
		fault("mode", "mode is %q: expected observe or act", s.Mode)
	}
	if s.Min < 0 {
		fault("min", "min is %d: expected 0 or more", s.Min)
	}
	switch {
	case !d.Has(path + ".max"):
		fault("max", "max: missing: a scale rule needs an upper bound")
	case s.Max < 1:
		fault("max", "max is %d: expected 1 or more", s.Max)
	case s.Min > s.Max:
		fault("min", "min is %d, above max, which is %d", s.Min, s.Max)
	}
	if s.Startup <= 0 {
		fault("startup", "startup is %s: expected more than 0", s.Startup)
	}
	if s.Combine != "max" {
		fault("combine", "combine is %q: this version knows max", s.Combine)
	}
	s.validateQueries(d, path, interval, scrape)
	if len(s.Signals) == 0 && len(s.When) == 0 {
		fault("scale", "scale %q has neither signals nor when: nothing would move it", s.Name)
	}
	s.validateSignals(d, path)
	s.validateSteps(d, path)
	s.Behavior.Up.validate(d, path+".behavior.up", 0)
	s.Behavior.Down.validate(d, path+".behavior.down", defaultDownWindow)
}

func (s *Scale) validateQueries(d *source.Decoder, path string, interval, scrape time.Duration) {
	if len(s.Queries) == 0 {
		d.FaultAt(path+".scale", 0, "scale %q has no queries", s.Name)
	}
	for name, q := range s.Queries {
		at := path + ".queries." + name
		exprAt := at
		if d.Has(at + ".expr") {
			exprAt += ".expr"
		}
		if q == nil {
			q = &Query{}
			s.Queries[name] = q
		}
		switch {
		case !queryName.MatchString(name):
			d.FaultAt(at, 0, "%q cannot name a query: expected letters, digits and _, a letter first", name)
		case slices.Contains(reserved, name):
			d.FaultAt(at, 0, "%q cannot name a query: it has a meaning in expressions", name)
		}
		if parsed := checkPromQL(d, exprAt, q.Expr); parsed != nil {
			q.parsed = parsed
			if t := parsed.Type(); t != "vector" && t != "scalar" {
				d.FaultAt(exprAt, 0, "PromQL: a query must give an instant vector or a scalar, this gives a %s", t)
			}
		}
		if q.Reduce == "" {
			q.Reduce = "single"
		}
		if !slices.Contains(reductions, q.Reduce) {
			d.FaultAt(at+".reduce", 0, "reduce is %q: expected one of %s%s", q.Reduce, strings.Join(reductions, ", "),
				source.DidYouMean(q.Reduce, reductions))
		}
		if q.StaleAfter < 0 {
			d.FaultAt(at+".stale_after", 0, "stale_after is %s: expected more than 0", q.StaleAfter)
		}
		if q.StaleAfter == 0 {
			// Two evaluations may come between two scrapes, and a scrape may be late by one interval.
			q.StaleAfter = model.Duration(2*interval + scrape)
		}
		if q.Expect != "" {
			q.expect = compile(d, at+".expect", q.Expect, expectEnvironment(), numberResult)
		}
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
}

func (s *Scale) validateSignals(d *source.Decoder, path string) {
	names := map[string]bool{}
	for i := range s.Signals {
		signal := &s.Signals[i]
		at := fmt.Sprintf("%s.signals[%d]", path, i)
		switch {
		case signal.Name == "":
			d.FaultAt(at, 0, "a signal needs a name")
		case names[signal.Name]:
			d.FaultAt(at+".name", 0, "signal %q is already in this rule", signal.Name)
		}
		names[signal.Name] = true
		signal.value = compile(d, at+".value", signal.Value, s.environment(), numberResult)
		if signal.TargetPerReplica <= 0 {
			if d.Has(at + ".target_per_replica") {
				d.FaultAt(at+".target_per_replica", 0, "target_per_replica is %g: expected more than 0", signal.TargetPerReplica)
			} else {
				d.FaultAt(at, 0, "target_per_replica: missing: how much of %s one replica serves", signal.Name)
			}
		}
		if signal.Tolerance == nil {
			tolerance := defaultTolerance
			signal.Tolerance = &tolerance
		}
		if *signal.Tolerance < 0 || *signal.Tolerance >= 1 {
			d.FaultAt(at+".tolerance", 0, "tolerance is %g: expected a ratio from 0 to less than 1", *signal.Tolerance)
		}
	}
}

func (s *Scale) validateSteps(d *source.Decoder, path string) {
	for i := range s.When {
		step := &s.When[i]
		at := fmt.Sprintf("%s.when[%d]", path, i)
		step.condition = compile(d, at+".if", step.If, s.environment(), boolResult)
		do, err := parseDo(step.Do)
		if err != nil {
			d.FaultAt(at+".do", 0, "do: %s", err)
		}
		step.do = do
		if do.set && do.replicas < s.Min {
			d.FaultAt(at+".do", 0, "do is %q, below min, which is %d", step.Do, s.Min)
		}
		if do.set && s.Max > 0 && do.replicas > s.Max {
			d.FaultAt(at+".do", 0, "do is %q, above max, which is %d", step.Do, s.Max)
		}
		if step.For < 0 {
			d.FaultAt(at+".for", 0, "for is %s: expected 0 or more", step.For)
		}
	}
}

func (dir *Direction) validate(d *source.Decoder, path string, window model.Duration) {
	if dir.Window == nil {
		dir.Window = &window
	}
	if *dir.Window < 0 {
		d.FaultAt(path+".window", 0, "window is %s: expected 0 or more", *dir.Window)
	}
	if dir.Cooldown < 0 {
		d.FaultAt(path+".cooldown", 0, "cooldown is %s: expected 0 or more", dir.Cooldown)
	}
	for i, p := range dir.Policies {
		at := fmt.Sprintf("%s.policies[%d]", path, i)
		if (p.Replicas == 0) == (p.Percent == 0) {
			d.FaultAt(at, 0, "a policy needs replicas or percent, one of them, above 0")
		}
		if p.Replicas < 0 || p.Percent < 0 {
			d.FaultAt(at, 0, "a policy allows a change of more than 0")
		}
		if p.Period <= 0 {
			d.FaultAt(at, 0, "a policy needs a period above 0")
		}
	}
}

// stepDo is a parsed `do`.
type stepDo struct {
	hold     bool
	set      bool // = rather than + or -
	replicas int  // signed unless set
	percent  float64
}

var doForm = regexp.MustCompile(`^([+=-])(\d{1,6})(%?)$`)

func parseDo(do string) (stepDo, error) {
	if do == "hold" {
		return stepDo{hold: true}, nil
	}
	m := doForm.FindStringSubmatch(do)
	if m == nil || m[1] == "=" && m[3] == "%" {
		return stepDo{}, fmt.Errorf("%q: expected +2, +25%%, -1, -25%%, =3 or hold", do)
	}
	n, err := strconv.Atoi(m[2])
	if err != nil {
		return stepDo{}, fmt.Errorf("%q: %w", do, err)
	}
	if n == 0 && m[1] != "=" {
		return stepDo{}, fmt.Errorf("%q changes nothing: for that there is hold", do)
	}
	if m[1] == "-" {
		n = -n
	}
	if m[3] == "%" {
		return stepDo{percent: float64(n)}, nil
	}
	return stepDo{set: m[1] == "=", replicas: n}, nil
}

// from is the size that the step asks for when there are current replicas. A percentage moves by at least one replica.
func (do stepDo) from(current int) int {
	switch {
	case do.hold:
		return current
	case do.set:
		return do.replicas
	case do.percent > 0:
		return current + max(1, int(math.Ceil(float64(current)*do.percent/100)))
	case do.percent < 0:
		return max(0, current-max(1, int(math.Floor(float64(current)*-do.percent/100))))
	}
	return max(0, current+do.replicas)
}
