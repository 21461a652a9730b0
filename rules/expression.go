package rules

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"

	"flyball/rules/source"
)

// expression is a compiled expr-lang expression over the values of one observation. expr-lang can neither be stopped nor
// told how many steps it may take, so what it may use is checked when the rule is loaded: names, types, and nothing that
// loops but a few predicates over the series of a query, of which there are at most maxElements, and none within another.
// So its cost is bounded by its length.
type expression struct {
	text    string
	program *vm.Program
	uses    []string // the queries whose values it needs, sorted
	through []string // the queries whose series it goes through
	names   []string // all that it names of its environment
}

type resultKind int

const (
	numberResult resultKind = iota
	boolResult
)

// queryState is what q.NAME gives: it exists whether or not the query has a valid answer.
type queryState struct {
	OK  bool    `expr:"ok"`  // the value counts
	Age float64 `expr:"age"` // of its newest sample, in seconds
	N   int     `expr:"n"`   // series in the answer
}

// environment is a value for each name that expressions may use.
type environment map[string]any

// fixed are the names that every rule's expressions have beside its queries.
func fixedEnvironment() environment {
	return environment{
		"replicas": 0,   // asked for
		"ready":    0,   // serving
		"pending":  0,   // asked for and not serving yet
		"min":      0,   // of the rule
		"max":      0,   // of the rule
		"hour":     0,   // 0 to 23, UTC
		"weekday":  "",  // Monday to Sunday, UTC
		"now":      0.0, // in Unix seconds
		// Seconds since the last applied change; a very large number when there was none.
		"since_change": 0.0, "since_up": 0.0, "since_down": 0.0,
		"labels": map[string]string{}, // of the target, by for_each
		"window": func(_, _ string) (bool, error) { return false, nil },
	}
}

// functions that expressions may call. All are of constant cost.
var functions = []string{"abs", "ceil", "floor", "round", "len"}

// min and max are both the rule's bounds and functions, so a call of one is made a call of these.
const (
	minFunction = "least"
	maxFunction = "greatest"
)

func extreme(of func(a, b float64) float64) func(args ...any) (any, error) {
	return func(args ...any) (any, error) {
		v := number(args[0])
		for _, a := range args[1:] {
			v = of(v, number(a))
		}
		return v, nil
	}
}

// predicates go through the series of a query.
var predicates = []string{"all", "any", "none", "one", "count", "sum"}

// maxPredicates bounds how often an expression may do so.
const maxPredicates = 4

// reserved are the names that a query cannot have.
var reserved = append([]string{
	"replicas", "ready", "pending", "hour", "weekday", "now", "since_change", "since_up", "since_down", "q", "series", "labels",
	"clamp", "ratio", "window", "min", "max", minFunction, maxFunction, "all", "any", "none", "one", "count", "sum",
	"true", "false", "nil", "not", "and", "or", "in", "let", "if", "else", "matches", "contains", "startsWith", "endsWith",
}, functions...)

// IsQueryName says whether a query can have the name, by which expressions use its value.
func IsQueryName(name string) bool {
	return queryName.MatchString(name) && !slices.Contains(reserved, name)
}

// maxExpressionNodes bounds how long an expression is; the longest in the examples has under 40.
const maxExpressionNodes = 500

func (s *Scale) environment() environment {
	env := fixedEnvironment()
	states, series := map[string]queryState{}, map[string][]element{}
	for name := range s.Queries {
		env[name] = 0.0
		states[name] = queryState{}
		series[name] = nil
	}
	env["q"], env["series"] = states, series
	env["window"] = func(days, zone string) (bool, error) { // called with each that an expression names
		w, err := parseWindow(days, zone)
		if s.windows == nil {
			s.windows = map[[2]string]window{}
		}
		s.windows[[2]string{days, zone}] = w
		return false, err
	}
	return env
}

// note finds what the rule's expressions name of an observation, so that each decision looks up no more than that.
func (s *Scale) note() {
	s.named = map[string]bool{}
	add := func(e *expression) {
		if e != nil {
			for _, name := range e.names {
				s.named[name] = true
			}
		}
	}
	add(s.price)
	for i := range s.Signals {
		add(s.Signals[i].value)
		add(s.Signals[i].service)
		if s.Signals[i].Panic != nil {
			add(s.Signals[i].Panic.value)
		}
	}
	for i := range s.When {
		add(s.When[i].condition)
	}
	for i := range s.Constraints {
		add(s.Constraints[i].condition)
	}
	for i := range s.Variants {
		add(s.Variants[i].price)
	}
}

// goesThrough says that an expression of the rule goes through the series of a query.
func (s *Scale) goesThrough(query string) bool {
	through := func(e *expression) bool { return e != nil && slices.Contains(e.through, query) }
	return slices.ContainsFunc(s.Signals, func(g Signal) bool {
		return through(g.value) || through(g.service) || g.Panic != nil && through(g.Panic.value)
	}) || slices.ContainsFunc(s.When, func(w Step) bool { return through(w.condition) }) ||
		slices.ContainsFunc(s.Constraints, func(c Constraint) bool { return through(c.condition) })
}

// expectEnvironment is what `expect` may use: it is evaluated before the queries are.
func expectEnvironment() environment {
	return environment{"replicas": 0, "ready": 0, "pending": 0, "min": 0, "max": 0}
}

// compile checks and compiles an expression and notes its faults where they are.
func compile(d *source.Decoder, path, text string, env environment, kind resultKind) *expression {
	if strings.TrimSpace(text) == "" {
		d.FaultAt(path, 0, "%s: an expression is needed", last(path))
		return nil
	}
	if err := checkBounds(text, maxExprBytes); err != nil {
		d.FaultAt(path, 0, "%s: %s", last(path), err)
		return nil
	}
	options := []expr.Option{
		expr.Env(map[string]any(env)),
		expr.MaxNodes(maxExpressionNodes),
		expr.DisableAllBuiltins(),
		expr.Function("clamp", func(args ...any) (any, error) {
			return math.Min(math.Max(number(args[0]), number(args[1])), number(args[2])), nil
		}, new(func(float64, float64, float64) float64)),
		// ratio(v, t) is v/t, and 0 where t is.
		expr.Function("ratio", func(args ...any) (any, error) {
			if t := number(args[1]); t != 0 {
				return number(args[0]) / t, nil
			}
			return 0.0, nil
		}, new(func(float64, float64) float64)),
		expr.Function(minFunction, extreme(math.Min), new(func(float64, ...any) float64)),
		expr.Function(maxFunction, extreme(math.Max), new(func(float64, ...any) float64)),
	}
	for _, f := range slices.Concat(functions, predicates) {
		options = append(options, expr.EnableBuiltin(f))
	}
	if kind == boolResult {
		options = append(options, expr.AsBool())
	} else {
		options = append(options, expr.AsFloat64())
	}
	check := &checker{env: env}
	options = append(options, expr.Patch(check))
	program, err := expr.Compile(text, options...)
	if err == nil && check.fault == nil {
		check.guarded()
	}
	if err == nil && check.fault != nil {
		err = check.fault
	}
	if err == nil {
		slices.Sort(check.uses)
		return &expression{text: text, program: program, uses: slices.Compact(check.uses), through: check.through, names: check.names}
	}
	message, offset := err.Error(), 0
	if e, ok := errors.AsType[*file.Error](err); ok {
		message, offset = e.Message, byteOffset(text, e.From)
	}
	if name, ok := strings.CutPrefix(message, "unknown name "); ok {
		known := slices.Collect(func(yield func(string) bool) {
			for name := range env {
				if !yield(name) {
					return
				}
			}
		})
		slices.Sort(known)
		message = fmt.Sprintf("unknown name %q", name)
		if hint := source.DidYouMean(name, known); hint != "" {
			message += hint
		} else {
			message += ": known are " + strings.Join(known, ", ")
		}
	}
	d.FaultAt(path, offset, "%s: %s", last(path), message)
	return nil
}

// checker looks at the parsed expression: which queries it needs, and that it has nothing that loops or that a query
// cannot have.
type checker struct {
	env     environment
	uses    []string
	through []string
	names   []string
	asks    map[string]ast.Node // the queries whose state q.NAME is asked, and where
	looped  int                 // predicates so far
	fault   error
}

// Visit implements ast.Visitor.
func (c *checker) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		c.names = append(c.names, n.Value)
		if _, isQuery := c.env[n.Value].(float64); isQuery && !slices.Contains(reserved, n.Value) {
			c.uses = append(c.uses, n.Value)
		}
	case *ast.BinaryNode:
		if n.Operator == ".." {
			c.refuse(n, "ranges are not allowed")
		}
		if _, constant := n.Right.(*ast.StringNode); n.Operator == "matches" && !constant {
			c.refuse(n, "matches takes a text: an expression that comes with the data has no bounds")
		}
	case *ast.MemberNode:
		base, named := n.Node.(*ast.IdentifierNode)
		if !named {
			return
		}
		switch base.Value {
		case "q":
			states, _ := c.env["q"].(map[string]queryState)
			if name, known := member(c, n, "q", states); known {
				if c.asks == nil {
					c.asks = map[string]ast.Node{}
				}
				c.asks[name] = n
			}
		case "series":
			series, _ := c.env["series"].(map[string][]element)
			if name, known := member(c, n, "series", series); known {
				c.uses, c.through = append(c.uses, name), append(c.through, name)
			}
		}
	case *ast.BuiltinNode:
		if slices.Contains(predicates, n.Name) {
			c.predicate(n)
		}
	case *ast.CallNode:
		callee, ok := n.Callee.(*ast.IdentifierNode)
		switch {
		case !ok:
		case callee.Value == "window":
			c.window(n)
		case callee.Value == "min":
			callee.Value = minFunction
		case callee.Value == "max":
			callee.Value = maxFunction
		}
	case *ast.ArrayNode, *ast.MapNode, *ast.SliceNode:
		c.refuse(n, "lists and maps are not allowed")
	}
}

// member is the query that a member of q or series names.
func member[V any](c *checker, n *ast.MemberNode, of string, known map[string]V) (name string, ok bool) {
	property, isName := n.Property.(*ast.StringNode)
	if !isName {
		c.refuse(n, fmt.Sprintf("%s takes the name of a query, as in %[1]s.NAME", of))
		return "", false
	}
	if _, ok = known[property.Value]; !ok {
		c.refuse(n, fmt.Sprintf("%s has no query %q%s", of, property.Value, source.DidYouMean(property.Value, sortedKeys(known))))
	}
	return property.Value, ok
}

// predicate refuses one over anything but the series of a query, one within another, and more than a few.
func (c *checker) predicate(n *ast.BuiltinNode) {
	list, ok := n.Arguments[0].(*ast.MemberNode)
	if ok {
		base, named := list.Node.(*ast.IdentifierNode)
		ok = named && base.Value == "series"
	}
	switch {
	case !ok:
		c.refuse(n, fmt.Sprintf("%s goes through the series of a query, as in %[1]s(series.NAME, .value > 1)", n.Name))
	case len(n.Arguments) > 1 && loops(n.Arguments[1]):
		c.refuse(n, n.Name+" has a predicate within its own, whose cost nothing bounds")
	}
	if c.looped++; c.looped > maxPredicates {
		c.refuse(n, fmt.Sprintf("more than %d predicates", maxPredicates))
	}
}

// loops says that something within a node goes through a list.
func loops(node ast.Node) bool {
	return ast.Find(node, func(n ast.Node) bool {
		b, ok := n.(*ast.BuiltinNode)
		return ok && slices.Contains(predicates, b.Name)
	}) != nil
}

// window checks the arguments of window(days, zone), which must be known when the rule is loaded.
func (c *checker) window(n *ast.CallNode) {
	for _, a := range n.Arguments {
		if _, ok := a.(*ast.StringNode); !ok {
			c.refuse(n, "window takes two texts, as in window('Mon-Fri 08:00-18:00', 'Europe/Berlin')")
			return
		}
	}
	if len(n.Arguments) == 2 {
		register, _ := c.env["window"].(func(days, zone string) (bool, error))
		if _, err := register(n.Arguments[0].(*ast.StringNode).Value, n.Arguments[1].(*ast.StringNode).Value); err != nil {
			c.refuse(n, err.Error())
		}
	}
}

// guarded refuses an expression that asks whether a query has an answer and uses the answer as well. It would never be
// evaluated while there is none, so the question would never be answered no: that takes two steps or signals.
func (c *checker) guarded() {
	for name, node := range c.asks {
		if slices.Contains(c.uses, name) {
			c.refuse(node, fmt.Sprintf("q.%s stands beside %[1]s, without which the expression is not evaluated: write two `when` steps, one that asks q.%[1]s.ok and one that uses %[1]s", name))
		}
	}
}

func (c *checker) refuse(n ast.Node, message string) {
	if c.fault == nil {
		c.fault = &file.Error{Location: n.Location(), Message: message}
	}
}

// number runs an expression for a number, which is NaN or infinite when the expression makes it so.
func (e *expression) number(env environment) (float64, error) {
	v, err := expr.Run(e.program, map[string]any(env))
	if err != nil {
		return 0, plainExprError(err)
	}
	return number(v), nil
}

func (e *expression) bool(env environment) (bool, error) {
	v, err := expr.Run(e.program, map[string]any(env))
	if err != nil {
		return false, plainExprError(err)
	}
	b, _ := v.(bool)
	return b, nil
}

// needs says whether the expression uses the value or the series of a query.
func (e *expression) needs(query string) bool { return e != nil && slices.Contains(e.uses, query) }

func plainExprError(err error) error {
	if e, ok := errors.AsType[*file.Error](err); ok {
		return errors.New(e.Message)
	}
	return err
}

func number(v any) float64 {
	switch x := v.(type) {
	case float64:
		return x
	case int:
		return float64(x)
	}
	return math.NaN()
}

// byteOffset is the offset in bytes of the rune at index.
func byteOffset(text string, index int) int {
	for i := range text {
		if index == 0 {
			return i
		}
		index--
	}
	return len(text)
}
