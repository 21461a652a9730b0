package rules

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"

	"flyball/rules/source"
)

// SLO is what is promised for a model. It stands for Prometheus rules, which Rules gives: the share of bad requests over
// several windows, an alert where it burns the error budget too fast, and plain alerts for thresholds.
type SLO struct {
	Name      string `yaml:"slo"`
	Model     string `yaml:"model"`      // the value of the label model; empty: the name
	Selector  string `yaml:"selector"`   // further matchers of the proxy's metrics, such as job="flyball"
	ScaleRule string `yaml:"scale_rule"` // the scale rule of the model, for what it costs

	// MinRequests is how many requests there must have been within the long window for an alert: one failure of ten is no
	// trend. Without it 100; 0 is none.
	MinRequests float64 `yaml:"min_requests"`

	Objectives []Objective        `yaml:"objectives"`
	Thresholds []MonitorThreshold `yaml:"thresholds"`
	Labels     map[string]string  `yaml:"labels"`      // of the alerts
	Annotation map[string]string  `yaml:"annotations"` // of the alerts, such as a runbook_url
}

// ErrorCodes is a regular expression for the codes of flyball_batchproxy_requests_total that are bad requests: 5xx, in which are
// deadlines that were missed (503 in the queue, 504 with a replica); 429, which is load that was shed; and error, an answer that
// a replica broke off. What a client does itself is none: its own 4xx, and 499, that it went before its answer. Clients that go
// because they wait for too long are seen by the objective latency, which counts them with the time that they waited.
//
// It is the one meaning of an error: of the objective errors, of the mixin's alerts, the page and `flyball report`.
const ErrorCodes = "429|5..|error"

// Objective is a share of requests that must be good.
type Objective struct {
	// Name is errors (ErrorCodes says which) or latency, or any name with bad and total.
	Name   string  `yaml:"name"`
	Target float64 `yaml:"target"` // the share that must be good, such as 0.999

	// Threshold is what a request of the objective latency may take. It must be a bound of the histogram's buckets.
	Threshold model.Duration `yaml:"threshold"`

	// Bad and Total are PromQL for bad requests and all requests a second over $window, instead of the proxy's metrics. Where
	// Bad gives nothing the objective is not measured, and an alert says so: `or 0 * TOTAL` says that nothing is none.
	Bad   string `yaml:"bad"`
	Total string `yaml:"total"`
}

// MonitorThreshold is a bound of a value, beyond which an alert fires. Known without an expression are, each over five minutes:
// throughput, answers with 2xx a second; latency, its 99th percentile in seconds; utilization, how many batches a ready replica
// has in service at a mean, which of one that serves one at a time is the share of the time that it is busy; queue, the requests
// that wait now; and cost, USD an hour, by the scale rule.
type MonitorThreshold struct {
	Name     string         `yaml:"name"` // throughput, latency, utilization, queue or cost, or any name with expr
	Expr     string         `yaml:"expr"`
	Above    *float64       `yaml:"above"`
	Below    *float64       `yaml:"below"`
	For      model.Duration `yaml:"for"`
	Severity string         `yaml:"severity"`
	Unit     string         `yaml:"unit"` // of the value, for the alert's text
}

const (
	windowName      = "$window"
	defaultRequests = 100
)

// burns are the windows of the alerts on a budget of 30 days: both must burn it factor times as fast as it lasts (Google,
// The Site Reliability Workbook, chapter 5).
var burns = []struct {
	long, short string
	factor      float64
	hold        time.Duration
	severity    string
}{
	{"1h", "5m", 14.4, 2 * time.Minute, "critical"},
	{"6h", "30m", 6, 15 * time.Minute, "critical"},
	{"1d", "2h", 3, time.Hour, "warning"},
	{"3d", "6h", 1, 3 * time.Hour, "warning"},
}

// The series that the rules of an SLO record, with the labels slo and model. Those of an objective have the label objective;
// those of a threshold have threshold and severity, and the limit has bound, above or below.
const (
	sloBadRatio  = "slo:bad_requests:ratio_rate" // and the window
	sloRequests  = "slo:requests:rate"           // and the window
	sloObjective = "slo:objective:ratio"         // the share that must be good
	sloValue     = "slo:threshold:value"
	sloLimit     = "slo:threshold:limit"
)

// DefaultSLO returns an SLO with what its file need not name.
func DefaultSLO() *SLO { return &SLO{MinRequests: defaultRequests} }

var objectiveName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]*$`)

func (s *SLO) validate(d *source.Decoder, path string) {
	fault := func(key, format string, args ...any) { d.FaultAt(path+"."+key, 0, format, args...) }
	if s.Name == "" {
		fault("slo", "an SLO needs a name")
	}
	if s.Model == "" {
		s.Model = s.Name
	}
	if s.Selector != "" {
		if _, err := promQL.ParseMetricSelector("{" + s.Selector + "}"); err != nil {
			fault("selector", "selector is %q: expected matchers, such as job=\"flyball\"", s.Selector)
		}
	}
	if s.MinRequests < 0 {
		fault("min_requests", "min_requests is %g: expected 0 or more", s.MinRequests)
	}
	if len(s.Objectives) == 0 && len(s.Thresholds) == 0 {
		fault("slo", "SLO %q has neither objectives nor thresholds", s.Name)
	}
	for i := range s.Objectives {
		s.validateObjective(d, fmt.Sprintf("%s.objectives[%d]", path, i), i)
	}
	for i := range s.Thresholds {
		s.validateThreshold(d, fmt.Sprintf("%s.thresholds[%d]", path, i), i)
	}
	checkLabels(d, path+".labels", s.Labels)
}

func (s *SLO) validateObjective(d *source.Decoder, path string, i int) {
	o := &s.Objectives[i]
	fault := func(key, format string, args ...any) { d.FaultAt(path+"."+key, 0, format, args...) }
	if !objectiveName.MatchString(o.Name) {
		fault("name", "name is %q: expected errors, latency, or letters, digits, _ and -", o.Name)
	}
	if slices.ContainsFunc(s.Objectives[:i], func(b Objective) bool { return b.label() == o.label() }) {
		fault("name", "objective %q is already in this SLO", o.Name)
	}
	if !(o.Target > 0 && o.Target < 1) {
		fault("target", "target is %g: expected the share of good requests, such as 0.999", o.Target)
	} else if burns[len(burns)-1].factor*(1-o.Target) >= 1 {
		fault("target", "target is %g: no alert could ever fire for it", o.Target)
	}
	custom := o.Bad != "" || o.Total != ""
	if custom {
		for key, expr := range map[string]string{"bad": o.Bad, "total": o.Total} {
			if !strings.Contains(expr, windowName) {
				fault(key, "%s needs PromQL over $window, such as sum(rate(failures_total[$window]))", key)
				continue
			}
			checkPromQL(d, path+"."+key, strings.ReplaceAll(expr, windowName, "5m"))
		}
	} else if o.Name != "errors" && o.Name != "latency" {
		fault("name", "objective %q needs bad and total; known without them are errors and latency", o.Name)
	}
	if latency := o.Name == "latency" && !custom; latency && o.Threshold <= 0 {
		fault("name", "threshold: missing: what a request may take, such as 500ms")
	} else if !latency && o.Threshold != 0 {
		fault("threshold", "threshold: it goes with the objective latency")
	}
}

// known are the thresholds that need no expression, each with its unit.
var knownThresholds = map[string]string{"throughput": "requests/s", "latency": "s", "utilization": "batches a replica", "queue": "requests", "cost": "USD/h"}

func (s *SLO) validateThreshold(d *source.Decoder, path string, i int) {
	t := &s.Thresholds[i]
	fault := func(key, format string, args ...any) { d.FaultAt(path+"."+key, 0, format, args...) }
	if !objectiveName.MatchString(t.Name) {
		fault("name", "name is %q: expected %s, or letters, digits, _ and -", t.Name, strings.Join(sortedKeys(knownThresholds), ", "))
	}
	if t.Severity == "" {
		t.Severity = cmp.Or(s.Labels["severity"], "warning")
	}
	if slices.ContainsFunc(s.Thresholds[:i], func(b MonitorThreshold) bool { return b.Name == t.Name && b.Severity == t.Severity }) {
		fault("name", "threshold %q is already in this SLO: one of another severity may be", t.Name)
	}
	if (t.Above == nil) == (t.Below == nil) {
		fault("name", "a threshold needs above or below, one of them")
	}
	_, known := knownThresholds[t.Name]
	switch {
	case t.Expr != "":
		if parsed := checkPromQL(d, path+".expr", t.Expr); parsed != nil && parsed.Type() != parser.ValueTypeVector {
			fault("expr", "expr gives a %s: expected an instant vector, such as avg(busy)", parsed.Type())
		}
	case !known:
		fault("name", "threshold %q needs expr; known without it are %s%s", t.Name, strings.Join(sortedKeys(knownThresholds), ", "),
			source.DidYouMean(t.Name, sortedKeys(knownThresholds)))
	case t.Name == "cost" && s.ScaleRule == "":
		fault("name", "threshold cost needs scale_rule, the scale rule whose replicas cost it, or expr")
	}
	if t.Unit == "" && t.Expr == "" {
		t.Unit = knownThresholds[t.Name]
	}
	if t.For < 0 {
		fault("for", "for is %s: expected 0 or more", t.For)
	}
	if t.For == 0 && !d.Has(path+".for") {
		t.For = model.Duration(5 * time.Minute)
	}
}

// metric selects one of the proxy's metrics of the model.
func (s *SLO) metric(name, more string) string {
	matchers := []string{"model=" + strconv.Quote(s.Model)}
	for _, m := range []string{more, s.Selector} {
		if m != "" {
			matchers = append(matchers, m)
		}
	}
	return "flyball_batchproxy_" + name + "{" + strings.Join(matchers, ",") + "}"
}

// ratio is PromQL for the share of bad requests over a window, and requests is that for all of them.
func (s *SLO) ratio(o *Objective, window string) (ratio, requests string) {
	bad, total := o.Bad, o.Total
	if total == "" {
		total = "sum(rate(" + s.metric("requests_total", "") + "[$window]))"
	}
	switch {
	case bad != "":
	case o.Name == "errors":
		// A model without a failure has no series of failures: none of its requests stand in.
		bad = "(sum(rate(" + s.metric("requests_total", `code=~"`+ErrorCodes+`"`) + "[$window])) or 0 * " + total + ")"
	default:
		total = "sum(rate(" + s.metric("request_duration_seconds_count", "") + "[$window]))"
		bad = "(" + total + " - sum(rate(" + s.metric("request_duration_seconds_bucket", "le=~"+strconv.Quote(bound(time.Duration(o.Threshold)))) + "[$window])))"
	}
	at := func(expr string) string { return strings.ReplaceAll(expr, windowName, window) }
	return operand(at(bad)) + " / (" + operand(at(total)) + " > 0)", at(total)
}

// operand is an expression as it may stand beside any operator.
func operand(expr string) string {
	parsed, err := promQL.ParseExpr(expr)
	if err != nil {
		return expr // it is refused elsewhere
	}
	switch parsed.(type) {
	case *parser.BinaryExpr, *parser.UnaryExpr:
		return "(" + expr + ")"
	}
	return expr
}

// bound matches the label le of a bucket in the forms that Prometheus has had: 1 and 1.0 are the same bound.
func bound(d time.Duration) string {
	text := strconv.FormatFloat(d.Seconds(), 'f', -1, 64)
	pattern := regexp.QuoteMeta(text)
	if !strings.Contains(text, ".") {
		return pattern + `(\.0)?`
	}
	return pattern
}

// objective is the value of the label objective.
func (o *Objective) label() string {
	if o.Threshold > 0 {
		return o.Name + "-" + o.Threshold.String()
	}
	return o.Name
}

// Rules are the record and alert rules that the SLO stands for, in the order of their evaluation.
func (s *SLO) Rules() (all []Rule) {
	for i := range s.Objectives {
		all = append(all, s.records(&s.Objectives[i])...)
	}
	for i := range s.Objectives {
		all = append(all, s.alerts(&s.Objectives[i])...)
	}
	for i := range s.Thresholds {
		t := &s.Thresholds[i]
		own := map[string]string{"slo": s.Name, "model": s.Model, "threshold": t.Name, "severity": t.Severity}
		limit := maps.Clone(own)
		limit["bound"] = t.bound()
		all = append(all,
			Rule{Record: &Record{Name: sloValue, Expr: s.expr(t), Labels: own}},
			Rule{Record: &Record{Name: sloLimit, Expr: "vector(" + exact(t.limit()) + ")", Labels: limit}},
			Rule{Alert: s.thresholdAlert(t)})
	}
	return all
}

// bound is above or below, the side on which the alert fires.
func (t *MonitorThreshold) bound() string {
	if t.Below != nil {
		return "below"
	}
	return "above"
}

func (t *MonitorThreshold) limit() float64 {
	if t.Below != nil {
		return *t.Below
	}
	return *t.Above
}

func (s *SLO) records(o *Objective) (all []Rule) {
	own := map[string]string{"slo": s.Name, "model": s.Model, "objective": o.label()}
	windows := map[string]bool{}
	all = append(all, Rule{Record: &Record{Name: sloObjective, Expr: "vector(" + exact(o.Target) + ")", Labels: own}})
	for _, b := range burns {
		for _, w := range []string{b.short, b.long} {
			if windows[w] {
				continue
			}
			windows[w] = true
			ratio, requests := s.ratio(o, w)
			all = append(all, Rule{Record: &Record{Name: sloBadRatio + w, Expr: ratio, Labels: own}})
			if w == b.long || w == burns[0].short {
				all = append(all, Rule{Record: &Record{Name: sloRequests + w, Expr: requests, Labels: own}})
			}
		}
	}
	return all
}

func (s *SLO) alerts(o *Objective) (all []Rule) {
	of := fmt.Sprintf("{slo=%q,objective=%q}", s.Name, o.label())
	for _, b := range burns {
		limit := b.factor * (1 - o.Target)
		if limit >= 1 {
			continue // it could not fire: less than all requests would be enough
		}
		long, err := model.ParseDuration(b.long)
		if err != nil {
			panic(err) // it is written above
		}
		all = append(all, Rule{Alert: &Alert{
			Name: "FlyballSLOBudgetBurn",
			Expr: fmt.Sprintf("%[1]s%[2]s%[3]s > %[4]s and on () %[1]s%[5]s%[3]s > %[4]s and on () %[6]s%[2]s%[3]s * %[7]g >= %[8]g",
				sloBadRatio, b.long, of, number6(limit), b.short, sloRequests, time.Duration(long).Seconds(), s.MinRequests),
			For:    model.Duration(b.hold),
			Labels: s.labels(b.severity, map[string]string{"slo": s.Name, "model": s.Model, "objective": o.label(), "long": b.long, "short": b.short}),
			Annotations: s.annotations(
				"The error budget is used up faster than it lasts.",
				fmt.Sprintf("SLO %s, %s: {{ $value | humanizePercentage }} of the requests of the last %s were bad, more than %s %%; the objective is %s %% good ones.",
					s.Name, o.label(), b.long, number6(limit*100), number6(o.Target*100)),
			),
		}})
	}
	// Without it an objective whose bad requests nothing counts would look kept for ever.
	why := fmt.Sprintf("no bucket of the histogram at %s: take a threshold that is one of its bounds", o.Threshold)
	switch {
	case o.Bad != "":
		why = "what counts the bad ones gives nothing: mend it, or add `or 0 * ` and the total where nothing is none"
	case o.Name == "errors":
		return all // its bad requests are there as soon as there are any
	}
	return append(all, Rule{Alert: &Alert{
		Name:   "FlyballSLONotMeasured",
		Expr:   fmt.Sprintf("%[1]s5m%[2]s > 0 unless on () %[3]s5m%[2]s", sloRequests, of, sloBadRatio),
		For:    model.Duration(10 * time.Minute),
		Labels: s.labels("warning", map[string]string{"slo": s.Name, "model": s.Model, "objective": o.label()}),
		Annotations: s.annotations("An objective is not measured.",
			fmt.Sprintf("SLO %s, %s: there are requests, and %s.", s.Name, o.label(), why)),
	}})
}

// number6 is a number for a reader, with as many digits as matter.
func number6(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

// exact is a number to the last digit.
func exact(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// expr is PromQL for the value of a threshold.
func (s *SLO) expr(t *MonitorThreshold) string {
	switch {
	case t.Expr != "":
		return t.Expr
	case t.Name == "throughput":
		// A model that has never answered well has no series of that: none of its requests stand in.
		return "sum(rate(" + s.metric("requests_total", `code=~"2.."`) + "[5m])) or 0 * sum(rate(" + s.metric("requests_total", "") + "[5m]))"
	case t.Name == "latency":
		return "histogram_quantile(0.99, sum by (le) (rate(" + s.metric("request_duration_seconds_bucket", "") + "[5m])))"
	case t.Name == "utilization":
		return "sum(rate(" + s.metric("upstream_duration_seconds_sum", "") + "[5m])) / (sum(avg_over_time(" + s.metric("replicas_ready", "") + "[5m])) > 0)"
	case t.Name == "queue":
		return "sum(" + s.metric("requests_waiting", "") + ")"
	}
	return fmt.Sprintf("sum(flyball_scale_cost_usd_per_hour{rule=%q})", s.ScaleRule)
}

func (s *SLO) thresholdAlert(t *MonitorThreshold) *Alert {
	op := map[string]string{"above": ">", "below": "<"}[t.bound()]
	unit := ""
	if t.Unit != "" {
		unit = " " + t.Unit
	}
	limit := exact(t.limit())
	all := s.annotations(
		fmt.Sprintf("The %s of a model is %s its threshold.", t.Name, t.bound()),
		fmt.Sprintf("Model %s: %s is {{ $value | humanize }}%s, %s the threshold of %s%[3]s.", s.Model, t.Name, unit, t.bound(), limit),
	)
	all["value"], all["threshold"] = "{{ $value }}", limit // for programs
	own := s.labels(t.Severity, map[string]string{"slo": s.Name, "model": s.Model, "threshold": t.Name})
	own["severity"] = t.Severity // it is the threshold's own, where that names one
	return &Alert{
		Name:        "FlyballSLOThreshold",
		Expr:        operand(s.expr(t)) + " " + op + " " + limit,
		For:         t.For,
		Labels:      own,
		Annotations: all,
	}
}

// labels are those of an alert: its own before the SLO's.
func (s *SLO) labels(severity string, own map[string]string) map[string]string {
	all := maps.Clone(s.Labels)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, own)
	if _, set := s.Labels["severity"]; !set {
		all["severity"] = severity
	}
	return all
}

func (s *SLO) annotations(summary, description string) map[string]string {
	all := map[string]string{"summary": summary, "description": description}
	maps.Copy(all, s.Annotation)
	return all
}
