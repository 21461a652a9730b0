package rules

import (
	"errors"
	"reflect"
	"regexp"
	"slices"
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
	Name     string           `yaml:"scale"`
	Target   actuators.Target `yaml:"target"`
	ForEach  *ForEach         `yaml:"for_each"` // the target's name is then a template
	Mode     string           `yaml:"mode"`
	Min      int              `yaml:"min"`
	Max      int              `yaml:"max"`
	Startup  Startup          `yaml:"startup"` // from the decision to a replica that is ready
	Progress Progress         `yaml:"progress"`

	// Variants are what a rule without a target fills and drains by price. Sizes of such a rule are in units of capacity.
	Variants []Variant `yaml:"variants"`
	Cost     Cost      `yaml:"cost"`
	Price    string    `yaml:"price"` // USD an hour of one replica: a number or an expression of queries

	Queries       map[string]*Query `yaml:"queries"`
	Signals       []Signal          `yaml:"signals"`
	When          []Step            `yaml:"when"`
	Combine       string            `yaml:"combine"`
	Constraints   []Constraint      `yaml:"constraints"`
	Schedule      []Schedule        `yaml:"schedule"`
	MinConfidence MinConfidence     `yaml:"min_confidence"`
	Behavior      Behavior          `yaml:"behavior"`
	FlapBudget    FlapBudget        `yaml:"flap_budget"`
	OnMissing     OnMissing         `yaml:"on_missing"`
	Annotations   map[string]string `yaml:"annotations"` // templates, as those of alerts; of a Decision

	names    []string        // of Queries, sorted
	named    map[string]bool // what its expressions name
	interval time.Duration   // of its group
	scrape   time.Duration   // of what it reads
	price    *expression
	windows  map[[2]string]window // that its expressions name, by days and zone
	caps     []capRule            // of the budget rules that apply to it, sorted by name
}

// ForEach makes one rule decide for many targets: each query is asked once, and its answer is split by labels. A series
// without any of the labels counts for every target.
type ForEach struct {
	By []string `yaml:"by"` // the labels whose values name a target

	// Query gives a series for each target that there is. Empty: every set of labels in the answers of the queries of the
	// signals is one.
	Query string `yaml:"query"`

	// Limit is how many targets there may be; more are an error, and nothing is decided.
	Limit int `yaml:"limit"`

	// Forget is for how long a target that no series names any more is still held at its size.
	Forget model.Duration `yaml:"forget"`
}

// Query is one named PromQL query of a scale rule.
type Query struct {
	Expr string `yaml:"expr"`

	// Reduce makes one value of the answer: single (more than one series is an error), sum, max, min or avg.
	Reduce string `yaml:"reduce"`

	// StaleAfter is the age of the newest sample from which the value no longer counts. Series that have been silent for
	// longer are left out of the answer.
	StaleAfter model.Duration `yaml:"stale_after"`

	// Expect is how many series the answer must have, as a number or an expression of replicas, ready, pending, min
	// and max. With fewer the value may still ask for more replicas, and never for fewer. Empty: at least one.
	Expect string `yaml:"expect"`

	// OnMissing is what a query without a valid answer keeps the rule from: hold (the default) from going down, block from
	// going either way, ignore from nothing.
	OnMissing string `yaml:"on_missing"`

	// Optional is the same as OnMissing: ignore.
	Optional bool `yaml:"optional"`

	forecast string // of which it asks, where nobody wrote it

	parsed parser.Expr // of Expr
	ages   []string    // PromQL for the time of the data behind it, of which the oldest counts; none when it has none
	expect *expression // of Expect
}

// Values of Query.OnMissing.
const (
	missingHold   = "hold"
	missingBlock  = "block"
	missingIgnore = "ignore"
)

// Signal is a demand that replicas share. It asks for a size in one of four ways: by target_per_replica, by service_rate
// and wait, by utilization, or by a forecast of what target_per_replica divides.
type Signal struct {
	Name  string `yaml:"name"`
	Value string `yaml:"value"` // the name of a query, or an expression of them

	// TargetPerReplica is how much of the value one replica serves: value/target replicas, rounded up.
	TargetPerReplica float64 `yaml:"target_per_replica"`

	// ServiceRate is how much of the value, then an arrival rate, one replica completes in a second: a number, or an
	// expression of queries. The size is the smallest at which a request waits longer than Wait with a probability of at
	// most 1-Goal, by Erlang C.
	ServiceRate string         `yaml:"service_rate"`
	Wait        model.Duration `yaml:"wait"`
	Goal        float64        `yaml:"goal"` // share of requests that wait no longer than Wait; 0: 0.99
	Concurrency int            `yaml:"concurrency"`

	// Utilization is the share of a replica that should be busy, where the value is the mean share that is: ready
	// replicas times value/utilization, rounded up. A value that cannot exceed 1 says little once it is near it.
	Utilization float64 `yaml:"utilization"`

	// Forecast is the metric of a forecast, and Quantile which of its quantiles to be ready for, at the horizon "lead".
	Forecast string  `yaml:"forecast"`
	Quantile float64 `yaml:"quantile"`

	// Weight counts where the rule combines by weight, and in the rule's confidence. 0: 1.
	Weight float64 `yaml:"weight"`

	// Tolerance is how far value may be from the target of the replicas that there are, as a ratio, before the
	// signal asks for another size.
	Tolerance *float64 `yaml:"tolerance"`

	// Role is "" for a signal like any other, or floor for one that only keeps the size from being smaller.
	Role string `yaml:"role"`

	Panic *Panic `yaml:"panic"`

	value   *expression
	service *expression
	query   string // of a forecast, among the rule's queries
	armed   string // whether it is armed, and by how much it is better than the last value
	skill   string
}

// floor is the role of a signal that only raises.
const floorRole = "floor"

// Panic raises the size at once when a value over a short time asks for so many times the replicas that are ready, and
// keeps it from falling until a minute after it last did (Knative's panic mode).
type Panic struct {
	// Window is the short time: each range in the queries of the signal's value is cut to it.
	Window model.Duration `yaml:"window"`

	// Value is the value over the short time, instead of Window: an expression of queries.
	Value string `yaml:"value"`

	// Threshold is from how many times the ready replicas on it is a panic. 0: 2.
	Threshold float64 `yaml:"threshold"`

	value *expression
	short map[string]string // by the name of a query, that of its short form
}

// panicLasts is for how long a panic goes on after the threshold was last reached: Knative's stable window.
const panicLasts = time.Minute

// Step changes the number of replicas by so much while a condition holds.
type Step struct {
	If       string         `yaml:"if"`
	Do       string         `yaml:"do"`  // +2, +25%, -1, -25%, =3 or hold
	For      model.Duration `yaml:"for"` // the condition must have held for this long
	Priority int            `yaml:"priority"`
	Reason   string         `yaml:"reason"`

	condition *expression
	do        stepDo
}

// Constraint bounds the size while a condition holds, whatever signals and steps ask for. Where its condition cannot be
// evaluated it holds as it last did.
type Constraint struct {
	If     string `yaml:"if"`
	Min    *int   `yaml:"min"`
	Max    *int   `yaml:"max"`
	Reason string `yaml:"reason"`

	condition *expression
}

// MinConfidence is how sure the signals must be for a change: the mean of their confidence by weight, from 0 to 1.
type MinConfidence struct {
	Up   float64 `yaml:"up"`
	Down float64 `yaml:"down"`
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

	// Policies bound the change within a period. None: not bounded.
	Policies []Policy `yaml:"policies"`

	// SelectPolicy says which of several policies counts: max, the one that allows most (the default), or min, the one that
	// allows least. With disabled the size does not go this way, but for min, max, schedules and constraints.
	SelectPolicy string `yaml:"select_policy"`

	// Cooldown is the time after an applied change in this direction in which there is no other.
	Cooldown model.Duration `yaml:"cooldown"`
}

// Values of Direction.SelectPolicy, as the HPA has them.
const (
	selectMax      = "max"
	selectMin      = "min"
	selectDisabled = "disabled"
)

// MaxPeriod is the longest cooldown, period of a policy and window of a flap budget: for so long the journal knows every
// change of a target, and longer than a day nobody waits.
const MaxPeriod = 24 * time.Hour

// Policy allows a change of so many replicas, or of so many percent of what there was at its start, in each period.
type Policy struct {
	Replicas int            `yaml:"replicas"`
	Percent  float64        `yaml:"percent"`
	Period   model.Duration `yaml:"period"`
}

// FlapBudget is how often the size may turn round within a window. A change down that would leave no turn for the way
// back up is not made; a change up is never kept back by it.
type FlapBudget struct {
	Reversals int            `yaml:"reversals"`
	Window    model.Duration `yaml:"window"`
}

// OnMissing is what happens while a query that the rule needs has no valid answer.
type OnMissing struct {
	// Up is allow, where signals that are valid may still raise the size, or hold.
	Up string `yaml:"up"`

	// Down is hold, where the fallback can only raise the size, or fallback, where it may also lower it. Nothing else
	// makes a target smaller on data that is missing.
	Down string `yaml:"down"`

	// After is for how long it must have been missing before the size becomes Fallback, an expression of replicas, ready,
	// pending, min and max for a number of replicas. It stays until the data has been valid for three evaluations.
	After    model.Duration `yaml:"after"`
	Fallback string         `yaml:"fallback"`

	fallback *expression
}

// goodAgain is for how many evaluations in a row data must be valid before a fallback ends.
const goodAgain = 3

// Defaults of a scale rule, each with its reason.
const (
	// The HPA's tolerance: less makes noise move replicas.
	defaultTolerance = 0.1
	// GPUs take minutes to come back, so down waits for the highest demand of five minutes, as the HPA does.
	defaultDownWindow = model.Duration(5 * time.Minute)
	// Long enough for most model servers to load their weights; a rule that knows better says so.
	defaultStartup = 2 * time.Minute
	// The share of requests that should not wait longer than a signal's wait.
	defaultGoal = 0.99
	// Knative's: twice the load that the replicas are for.
	defaultPanicThreshold = 2
	// A fleet, and a label of a metric that nobody bounded.
	defaultTargets = 1000
	// Longer than a deployment of what names the targets takes.
	defaultForget = model.Duration(time.Hour)
)

// DefaultScale returns a scale rule with the defaults that its file need not name: mode observe; up at once and by at
// most 100 % or 4 replicas a minute, so that a wrong signal cannot order a fleet; down by at most 25 % or 1 a minute.
func DefaultScale() *Scale {
	return &Scale{
		Mode:     Observe,
		Min:      1,
		Startup:  Startup{Given: defaultStartup},
		Progress: Progress{Retry: defaultRetry},
		Combine:  combineMax,
		// A third of the signals is enough to add what may be needed; to remove it takes nearly all.
		MinConfidence: MinConfidence{Up: 0.3, Down: 0.8},
		// One way back in a quarter of an hour: more often, and starts cost more than they serve.
		FlapBudget: FlapBudget{Reversals: 2, Window: model.Duration(30 * time.Minute)},
		OnMissing:  OnMissing{Up: missingAllow, Down: missingHold},
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

// Ways to combine what signals and steps ask for.
const (
	combineMax      = "max"
	combineWeighted = "weighted"
	combinePriority = "priority"
)

// missingAllow is OnMissing.Up where valid signals may still raise the size.
const missingAllow = "allow"

// Startup is how long it takes from a decision to a replica that is ready: as given, or as measured, of which it is the
// 90th percentile of the last twenty starts, and two minutes before there were three.
type Startup struct {
	Auto  bool
	Given time.Duration
}

// UnmarshalText takes auto or a duration.
func (s *Startup) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*s = Startup{Auto: true, Given: defaultStartup}
		return nil
	}
	d, err := model.ParseDuration(string(text))
	if err != nil {
		return errors.New("expected auto, or a duration such as 90s or 4m")
	}
	*s = Startup{Given: time.Duration(d)}
	return nil
}

// String is the form that UnmarshalText takes.
func (s Startup) String() string {
	if s.Auto {
		return "auto"
	}
	return model.Duration(s.Given).String()
}

// Interval is that of the rule's group: how often it is evaluated.
func (s *Scale) Interval() time.Duration { return s.interval }

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
	rule.Queries, rule.price, rule.OnMissing.fallback, rule.windows = nil, nil, nil, nil
	rule.Signals, rule.When, rule.Constraints = slices.Clone(s.Signals), slices.Clone(s.When), slices.Clone(s.Constraints)
	rule.Variants, rule.Schedule = slices.Clone(s.Variants), slices.Clone(s.Schedule)
	for i := range rule.Signals {
		signal := &rule.Signals[i]
		signal.value, signal.service = nil, nil
		if signal.Panic != nil {
			p := *signal.Panic
			p.value = nil
			signal.Panic = &p
		}
	}
	for i := range rule.When {
		rule.When[i].condition = nil
	}
	for i := range rule.Constraints {
		rule.Constraints[i].condition = nil
	}
	for i := range rule.Variants {
		rule.Variants[i].price = nil
	}
	for i := range rule.Schedule {
		rule.Schedule[i].start, rule.Schedule[i].end, rule.Schedule[i].zone = nil, nil, nil
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
