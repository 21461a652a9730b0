package dashboard

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql/parser"

	"flyball/rules/source"
)

// Severities of findings.
const (
	Fault   = "error"   // it does not work
	Style   = "lint"    // it works, and breaks a rule of style
	Warning = "warning" // a rule of style that the .lint file takes less seriously
)

// Rules that are not dashboard-linter's.
const (
	RulePromQL   = "promql"   // a query does not parse
	RuleVariable = "variable" // a variable that the dashboard does not have
	RuleNoData   = "no-data"  // a query that a Prometheus has no series for
	RuleQuery    = "query"    // a query that a Prometheus refuses
)

// Finding is one thing that is wrong with a dashboard.
type Finding struct {
	Rule     string `json:"rule"`
	Severity string `json:"severity"`
	In       string `json:"in,omitempty"` // the panel, variable or annotation, and its query
	*source.Error

	panel  string // its title
	target int    // which query of the panel, from 0; -1 for the panel itself
}

// Check reports what does not parse, and variables that do not exist.
func (d *Dashboard) Check() (findings []Finding) {
	for _, q := range d.Queries {
		findings = append(findings, d.checkVariables(q)...)
		if !q.promQL() {
			continue
		}
		if _, err := d.parse(q); err != nil {
			findings = append(findings, d.fault(q, err.at, RulePromQL, "PromQL: %s", err.message))
		}
	}
	return findings
}

// checkVariables finds names that neither the dashboard nor Grafana has. $1 in a replacement and $ at the end of a regular
// expression are none.
func (d *Dashboard) checkVariables(q *Query) (findings []Finding) {
	for _, u := range uses(q.Expr) {
		_, builtIn := offline.macro(u.name, u.format)
		switch {
		case d.variable(u.name) == nil && !builtIn && !strings.HasPrefix(u.name, "__") && !digits.MatchString(u.name):
			findings = append(findings, d.fault(q, u.from, RuleVariable, "no variable %q in this dashboard%s", u.name, source.DidYouMean(u.name, d.variableNames())))
		case !knownFormat(u.format):
			findings = append(findings, d.fault(q, u.from, RuleVariable, "no format %q of variables%s", u.format,
				source.DidYouMean(u.format, []string{"csv", "raw", "regex", "pipe", "glob", "json", "singlequote", "doublequote", "distributed", "text", "date"})))
		}
	}
	return findings
}

var digits = regexp.MustCompile(`^\d+$`)

func (d *Dashboard) variable(name string) *Variable {
	for _, v := range d.Variables {
		if v.Name == name {
			return v
		}
	}
	return nil
}

func (d *Dashboard) variableNames() (names []string) {
	for _, v := range d.Variables {
		names = append(names, v.Name)
	}
	return names
}

// offline is the time range of queries that are only parsed. The step gives a $__rate_interval that nobody writes by hand,
// so that the linter knows it again.
var offline = Window{Start: time.Unix(0, 0), End: time.Unix(3600, 0), Step: 7919 * time.Second, ScrapeInterval: 15 * time.Second}

// syntax parses what others wrote: all of PromQL, experimental functions too.
var syntax = parser.NewParser(parser.Options{EnableExperimentalFunctions: true, ExperimentalDurationExpr: true, EnableExtendedRangeSelectors: true, EnableBinopFillModifiers: true})

// parseFault is why an expression does not parse, and where in it as it is written.
type parseFault struct {
	at      int
	message string
}

// parsed is an expression with stand-ins for variables outside of strings. Within strings variables are left as they are.
type parsed struct {
	expanded
	expr parser.Expr
}

// parse parses an expression whose variables have no values yet. Where the file has none, what a variable stands for
// follows from where it is: a name, a number, a duration or an operator; the first that parses is taken.
func (d *Dashboard) parse(q *Query) (*parsed, *parseFault) {
	var unknown []string // variables to find a stand-in for
	saved := map[string]string{}
	for _, u := range uses(q.Expr) {
		v := d.variable(u.name)
		if u.quoted || v == nil || slices.Contains(unknown, u.name) {
			continue
		}
		unknown = append(unknown, u.name)
		if values := v.saved(); len(values) > 0 {
			saved[u.name] = values[0]
		}
	}
	// Of the attempts that fail, the one that came furthest has the right stand-ins up to there.
	var furthest *parseFault
	try := func(standIn func(name string) (string, bool)) *parsed {
		p, err := parseAs(q.Expr, standIn)
		if err != nil && (furthest == nil || err.at > furthest.at) {
			furthest = err
		}
		return p
	}
	if len(saved) > 0 || len(unknown) == 0 {
		p := try(func(name string) (string, bool) {
			if text, ok := saved[name]; ok {
				return text, true
			}
			return standIns[0], slices.Contains(unknown, name)
		})
		if p != nil || len(unknown) == 0 {
			return p, furthest
		}
	}
	if len(unknown) > maxUnknown {
		unknown = unknown[:maxUnknown]
	}
	choice := make([]int, len(unknown))
	for {
		if p := try(func(name string) (string, bool) {
			if i := slices.Index(unknown, name); i >= 0 {
				return standIns[choice[i]], true
			}
			return standIns[0], d.variable(name) != nil
		}); p != nil {
			return p, nil
		}
		i := 0
		for ; i < len(choice); i++ { // the next choice, as a counter counts
			if choice[i]++; choice[i] < len(standIns) {
				break
			}
			choice[i] = 0
		}
		if i == len(choice) {
			return nil, furthest
		}
	}
}

// standIns are what a variable outside of a string may stand for: a name, a duration, a number, a comparison and a
// matcher.
var standIns = []string{"x", "5m", "1", ">", `x="y"`}

// maxUnknown bounds the search at 5 to the power of that.
const maxUnknown = 4

func parseAs(expr string, standIn func(name string) (string, bool)) (*parsed, *parseFault) {
	e := expand(expr, func(u use) (string, bool) {
		if u.quoted {
			return "", false
		}
		if text, ok := standIn(u.name); ok {
			return text, true
		}
		return offline.macro(u.name, u.format)
	})
	tree, err := syntax.ParseExpr(e.text)
	if err == nil {
		return &parsed{e, tree}, nil
	}
	//nolint:errorlint // the parser returns this very type, never wrapped
	if faults, ok := err.(parser.ParseErrors); ok && len(faults) > 0 {
		return nil, &parseFault{e.origin(int(faults[0].PositionRange.Start)), fmt.Sprint(faults[0].Err)}
	}
	return nil, &parseFault{0, err.Error()}
}
