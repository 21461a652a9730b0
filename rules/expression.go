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

// expression is a compiled expr-lang expression over the values of one observation. What it may use is checked when the
// rule is loaded: names, types, and nothing that loops, so that its cost is bounded by its length.
type expression struct {
	text    string
	program *vm.Program
	uses    []string // the queries whose values it needs, sorted
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
		"replicas": 0,  // asked for
		"ready":    0,  // serving
		"pending":  0,  // asked for and not serving yet
		"min":      0,  // of the rule
		"max":      0,  // of the rule
		"hour":     0,  // 0 to 23, UTC
		"weekday":  "", // Monday to Sunday, UTC
		// Seconds since the last applied change; a very large number when there was none.
		"since_change": 0.0, "since_up": 0.0, "since_down": 0.0,
	}
}

// functions that expressions may call. All are of constant cost.
var functions = []string{"abs", "ceil", "floor", "round", "min", "max"}

// reserved are the names that a query cannot have.
var reserved = append([]string{
	"replicas", "ready", "pending", "hour", "weekday", "since_change", "since_up", "since_down", "q", "clamp",
	"true", "false", "nil", "not", "and", "or", "in", "let", "if", "else", "matches", "contains", "startsWith", "endsWith",
}, functions...)

// maxExpressionNodes bounds how long an expression is; the longest in the examples has under 40.
const maxExpressionNodes = 500

func (s *Scale) environment() environment {
	env := fixedEnvironment()
	states := map[string]queryState{}
	for name := range s.Queries {
		env[name] = 0.0
		states[name] = queryState{}
	}
	env["q"] = states
	return env
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
	options := []expr.Option{
		expr.Env(map[string]any(env)),
		expr.MaxNodes(maxExpressionNodes),
		expr.DisableAllBuiltins(),
		expr.Function("clamp", func(args ...any) (any, error) {
			return math.Min(math.Max(number(args[0]), number(args[1])), number(args[2])), nil
		}, new(func(float64, float64, float64) float64)),
	}
	for _, f := range functions {
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
		return &expression{text: text, program: program, uses: slices.Compact(check.uses)}
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
	env   environment
	uses  []string
	asks  map[string]ast.Node // the queries whose state q.NAME is asked, and where
	fault error
}

// Visit implements ast.Visitor.
func (c *checker) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		if _, isQuery := c.env[n.Value].(float64); isQuery && !slices.Contains(reserved, n.Value) {
			c.uses = append(c.uses, n.Value)
		}
	case *ast.BinaryNode:
		if n.Operator == ".." {
			c.refuse(n, "ranges are not allowed")
		}
	case *ast.MemberNode:
		states, ok := c.env["q"].(map[string]queryState)
		name, isName := n.Property.(*ast.StringNode)
		if base, isQ := n.Node.(*ast.IdentifierNode); ok && isQ && base.Value == "q" {
			if !isName {
				c.refuse(n, "q takes the name of a query, as in q.NAME.ok")
			} else if _, known := states[name.Value]; known {
				if c.asks == nil {
					c.asks = map[string]ast.Node{}
				}
				c.asks[name.Value] = n
			} else {
				names := slices.Collect(func(yield func(string) bool) {
					for name := range states {
						if !yield(name) {
							return
						}
					}
				})
				slices.Sort(names)
				c.refuse(n, fmt.Sprintf("q has no query %q%s", name.Value, source.DidYouMean(name.Value, names)))
			}
		}
	case *ast.PredicateNode, *ast.ArrayNode, *ast.MapNode:
		c.refuse(n, "lists, maps and predicates are not allowed")
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

// needs says whether the expression uses one of the queries named.
func (e *expression) needs(query string) bool { return slices.Contains(e.uses, query) }

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
