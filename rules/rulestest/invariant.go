package rulestest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"

	"flyball/rules"
	"flyball/rules/source"
)

// invariant is an expression that must hold of every decision of the rules that it is for.
type invariant struct {
	text    string
	path    string
	needs   []string // the queries whose value it uses
	program *vm.Program
	of      []string // the rules that it is for
	asked   int      // of how many decisions it was asked
}

// violation is how an invariant fares with the decisions for one target.
type violation struct {
	invariant    *invariant
	times, asked int
	first        time.Duration   // since the start of the test, when it did not hold
	decision     *rules.Decision // of which it did not
	err          error           // why it cannot be evaluated
}

// answerState is what q.NAME gives.
type answerState struct {
	OK  bool    `expr:"ok"`  // the value counts
	Age float64 `expr:"age"` // of its newest sample, in seconds
	N   int     `expr:"n"`   // series in the answer
}

// maxNodes bounds how long an invariant is, as it does for the expressions of rules.
const maxNodes = 500

// invariantFunctions are of constant cost, or bounded by the few reasons of a decision.
var invariantFunctions = []string{"abs", "ceil", "floor", "round", "len"}

// fixedNames are what an invariant may name beside queries.
func fixedNames() map[string]any {
	return map[string]any{
		"desired": 0, "current": 0, "ready": 0, "pending": 0, "min": 0, "max": 0, "action": "", "result": "",
		"reasons": []string{}, "limited_by": []string{}, "confidence": 0.0, "cost": 0.0, "rule": "", "target": "",
		"labels": map[string]string{}, "elapsed": 0.0, "q": map[string]answerState{},
	}
}

// compileInvariant compiles an expression for each scale rule that has the queries that it names.
func compileInvariant(d *source.Decoder, path, text string, scales []*rules.Scale) *invariant {
	names := &namesOf{fixed: fixedNames()}
	all := fixedNames()
	var known []string
	for _, s := range scales {
		for _, name := range queryNames(s) {
			if _, taken := all[name]; !taken {
				all[name] = 0.0
			}
			known = append(known, name)
		}
	}
	if strings.TrimSpace(text) == "" {
		d.FaultAt(path, 0, "an invariant is an expression, such as desired <= max")
		return nil
	}
	program, err := compileFor(text, all, expr.Patch(names))
	if err != nil {
		fault(d, path, text, err, all)
		return nil
	}
	inv := &invariant{text: text, path: path, needs: names.used(), program: program}
	for _, name := range names.states {
		if !slices.Contains(known, name) {
			d.FaultAt(path, 0, "no scale rule has the query %q%s", name, source.DidYouMean(name, known))
			return nil
		}
	}
	queries := slices.Concat(inv.needs, names.states)
	for _, s := range scales {
		own := queryNames(s)
		if !slices.ContainsFunc(queries, func(q string) bool { return !slices.Contains(own, q) }) {
			inv.of = append(inv.of, s.Name)
		}
	}
	if len(inv.of) == 0 {
		why := "there is no scale rule"
		if len(scales) > 0 {
			why = "no scale rule has the queries " + strings.Join(queries, ", ") + " together"
		}
		d.FaultAt(path, 0, "%s: the invariant would never be asked", why)
		return nil
	}
	return inv
}

// queryNames are the queries that the author of a rule wrote.
func queryNames(s *rules.Scale) (names []string) {
	for name := range s.Queries {
		if !strings.Contains(name, "@") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func compileFor(text string, env map[string]any, more ...expr.Option) (*vm.Program, error) {
	options := append([]expr.Option{expr.Env(env), expr.AsBool(), expr.MaxNodes(maxNodes), expr.DisableAllBuiltins()}, more...)
	for _, f := range invariantFunctions {
		options = append(options, expr.EnableBuiltin(f))
	}
	return expr.Compile(text, options...)
}

// fault notes why an expression does not compile.
func fault(d *source.Decoder, path, text string, err error, env map[string]any) {
	message, offset := err.Error(), 0
	if e, ok := errors.AsType[*file.Error](err); ok {
		message = e.Message
		for i := range text {
			if e.From == 0 {
				offset = i
				break
			}
			e.From--
		}
	}
	if name, ok := strings.CutPrefix(message, "unknown name "); ok {
		known := make([]string, 0, len(env))
		for k := range env {
			known = append(known, k)
		}
		slices.Sort(known)
		hint := source.DidYouMean(name, known)
		if hint == "" {
			hint = ": known are " + strings.Join(known, ", ")
		}
		message = fmt.Sprintf("unknown name %q%s", name, hint)
	}
	d.FaultAt(path, offset, "invariant: %s", message)
}

// namesOf collects the queries that an expression names.
type namesOf struct {
	fixed  map[string]any
	values []string // by their value
	states []string // by q.NAME
	own    []string // what it declares itself
}

// used are the queries whose value it uses.
func (v *namesOf) used() []string {
	return slices.DeleteFunc(v.values, func(name string) bool { return slices.Contains(v.own, name) })
}

// Visit implements ast.Visitor.
func (v *namesOf) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		if _, fixed := v.fixed[n.Value]; !fixed && !slices.Contains(v.values, n.Value) && !slices.Contains(invariantFunctions, n.Value) {
			v.values = append(v.values, n.Value)
		}
	case *ast.VariableDeclaratorNode:
		v.own = append(v.own, n.Name)
	case *ast.MemberNode:
		base, ok := n.Node.(*ast.IdentifierNode)
		property, named := n.Property.(*ast.StringNode)
		if ok && named && base.Value == "q" && !slices.Contains(v.states, property.Value) {
			v.states = append(v.states, property.Value)
		}
	}
}

// holds says whether the invariant holds of a decision, and whether it could be asked.
func (inv *invariant) holds(d *rules.Decision, elapsed time.Duration) (holds, asked bool, err error) {
	if !slices.Contains(inv.of, d.Rule) {
		return true, false, nil
	}
	env := map[string]any{
		"desired": d.To, "current": d.From, "ready": d.Replicas.Ready, "pending": d.Replicas.Pending,
		"min": d.Replicas.Min, "max": d.Replicas.Max, "action": string(d.Action), "result": string(d.Result),
		"reasons": words(d.Reasons), "limited_by": words(d.LimitedBy), "confidence": d.Confidence, "cost": math.NaN(),
		"rule": d.Rule, "target": d.Target, "labels": d.Labels, "elapsed": elapsed.Seconds(),
	}
	if d.Cost != nil {
		env["cost"] = d.Cost.AfterUSDPerHour
	}
	states := map[string]answerState{}
	for _, a := range d.Queries {
		states[a.Name] = answerState{a.Fault == "", a.AgeSeconds, a.Series}
		if _, fixed := env[a.Name]; fixed || !slices.Contains(inv.needs, a.Name) {
			continue
		}
		if a.Value == nil {
			return true, false, nil
		}
		env[a.Name] = *a.Value
	}
	env["q"] = states
	for _, name := range inv.needs {
		if _, there := env[name]; !there {
			return true, false, nil // a decision that observed nothing
		}
	}
	v, err := expr.Run(inv.program, env)
	if err != nil {
		if e, ok := errors.AsType[*file.Error](err); ok {
			err = errors.New(e.Message)
		}
		return false, true, err
	}
	b, _ := v.(bool)
	return b, true, nil
}

func words(reasons []rules.Reason) []string {
	out := make([]string, len(reasons))
	for i, r := range reasons {
		out[i] = string(r)
	}
	return out
}
