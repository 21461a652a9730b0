package dashboard

import (
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// variableReference is a use of a variable, as Grafana finds one: $name, [[name:format]] or ${name.field:format}.
var variableReference = regexp.MustCompile(`\$(\w+)|\[\[(\w+?)(?::(\w+))?\]\]|\$\{(\w+)(?:\.([^:^}]+))?(?::([^}]+))?\}`)

// use is one place where an expression uses a variable.
type use struct {
	from, to     int // bytes of the expression
	name, format string
	quoted       bool // within a string of PromQL
}

// uses lists the places where an expression uses variables.
func uses(expr string) (found []use) {
	quotes := quoted(expr)
	for _, m := range variableReference.FindAllStringSubmatchIndex(expr, -1) {
		group := func(i int) string {
			if m[2*i] < 0 {
				return ""
			}
			return expr[m[2*i]:m[2*i+1]]
		}
		u := use{from: m[0], to: m[1], name: group(1) + group(2) + group(4), format: group(3) + group(6), quoted: quotes[m[0]]}
		found = append(found, u)
	}
	return found
}

// quoted says of each byte of an expression whether it is within a string.
func quoted(expr string) []bool {
	inside := make([]bool, len(expr))
	var quote byte
	for i := 0; i < len(expr); i++ {
		switch c := expr[i]; {
		case quote != 0 && c == '\\' && quote != '`':
			inside[i] = true
			if i++; i < len(expr) {
				inside[i] = true
			}
		case quote == 0 && (c == '"' || c == '\'' || c == '`'):
			quote = c
		case c == quote:
			quote = 0
		case quote == 0 && c == '#': // a comment
			for i+1 < len(expr) && expr[i+1] != '\n' {
				i++
			}
		default:
			inside[i] = quote != 0
		}
	}
	return inside
}

// expanded is an expression with values in the place of variables, and the way back to where each byte came from.
type expanded struct {
	text   string
	pieces []piece
}

// piece is a part of an expanded expression that came from one part of the expression as it is written.
type piece struct {
	at, from int  // where it begins, expanded and as written
	variable bool // it stands for a variable: all of it is at from
}

// origin is where in the expression as written the byte at i of the expanded one came from.
func (e *expanded) origin(i int) int {
	for _, piece := range slices.Backward(e.pieces) {
		if i >= piece.at {
			if piece.variable {
				return piece.from
			}
			return piece.from + i - piece.at
		}
	}
	return 0
}

// expand replaces each use of a variable for which value has a text.
func expand(expr string, value func(use) (text string, ok bool)) expanded {
	var e expanded
	var b strings.Builder
	done := 0
	for _, u := range uses(expr) {
		text, ok := value(u)
		if !ok {
			continue
		}
		e.pieces = append(e.pieces, piece{at: b.Len(), from: done})
		b.WriteString(expr[done:u.from])
		e.pieces = append(e.pieces, piece{at: b.Len(), from: u.from, variable: true})
		b.WriteString(text)
		done = u.to
	}
	e.pieces = append(e.pieces, piece{at: b.Len(), from: done})
	b.WriteString(expr[done:])
	e.text = b.String()
	return e
}

// Window is the time range that a dashboard is looked at with.
type Window struct {
	Start, End     time.Time
	Step           time.Duration // between the points of a range query: Grafana's $__interval
	ScrapeInterval time.Duration // of the data source, for $__rate_interval
}

// rateInterval is Grafana's: room for four scrapes, and for one more than the step.
func (w Window) rateInterval() time.Duration {
	return max(4*w.ScrapeInterval, w.Step+w.ScrapeInterval)
}

// macro is the value of a variable that Grafana itself has.
func (w Window) macro(name, format string) (text string, ok bool) {
	length := w.End.Sub(w.Start)
	milliseconds := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	switch name {
	case "__rate_interval":
		return duration(w.rateInterval()), true
	case "__rate_interval_ms":
		return milliseconds(w.rateInterval()), true
	case "__interval", "__auto", "interval", "__auto_interval_interval":
		return duration(w.Step), true
	case "__interval_ms":
		return milliseconds(w.Step), true
	case "__range":
		return strconv.FormatInt(max(1, int64(length.Seconds())), 10) + "s", true
	case "__range_s":
		return strconv.FormatInt(int64(length.Seconds()), 10), true
	case "__range_ms":
		return milliseconds(length), true
	case "__from":
		return instant(w.Start, format), true
	case "__to":
		return instant(w.End, format), true
	case "timeFilter", "__timeFilter", "__timezone", "__dashboard", "__name", "__org", "__user":
		return strings.TrimLeft(name, "_"), true
	}
	if strings.HasPrefix(name, "__auto_interval_") {
		return duration(w.Step), true
	}
	return "", false
}

// duration is a duration as PromQL takes it, without fractions.
func duration(d time.Duration) string {
	if d%time.Second == 0 && d > 0 {
		return strconv.FormatInt(int64(d/time.Second), 10) + "s"
	}
	return strconv.FormatInt(max(1, d.Milliseconds()), 10) + "ms"
}

// instant is a time as $__from and $__to give it: in milliseconds, or as the format date says.
func instant(t time.Time, format string) string {
	kind, layout, _ := strings.Cut(format, ":")
	switch {
	case kind != "date":
		return strconv.FormatInt(t.UnixMilli(), 10)
	case layout == "seconds":
		return strconv.FormatInt(t.Unix(), 10)
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// write puts values into an expression as Grafana does: by the format that is asked for, and without one as its Prometheus
// data source does, which makes a regular expression of several values.
func (v *Variable) write(values []string, format string) string {
	mapped := func(f func(string) string) []string {
		out := make([]string, len(values))
		for i, s := range values {
			out[i] = f(s)
		}
		return out
	}
	group := func(texts []string) string {
		if len(texts) == 1 {
			return texts[0]
		}
		return "(" + strings.Join(texts, "|") + ")"
	}
	quote := func(mark, escaped string) func(string) string {
		return func(s string) string { return mark + strings.ReplaceAll(s, mark, escaped) + mark }
	}
	format, argument, _ := strings.Cut(format, ":")
	switch format {
	case "":
		if !v.Multi && !v.IncludeAll {
			return strings.Join(mapped(func(s string) string { return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) }), ",")
		}
		// The regular expression is within a string of PromQL, so its backslashes are escaped once more.
		return group(mapped(func(s string) string { return strings.ReplaceAll(regexp.QuoteMeta(s), `\`, `\\`) }))
	case "regex":
		return group(mapped(regexp.QuoteMeta))
	case "pipe":
		return strings.Join(values, "|")
	case "glob":
		if len(values) == 1 {
			return values[0]
		}
		return "{" + strings.Join(values, ",") + "}"
	case "json":
		var text []byte
		if len(values) == 1 && !v.Multi {
			text, _ = json.Marshal(values[0]) // strings always can be
		} else {
			text, _ = json.Marshal(values)
		}
		return string(text)
	case "singlequote":
		return strings.Join(mapped(quote("'", `\'`)), ",")
	case "doublequote":
		return strings.Join(mapped(quote(`"`, `\"`)), ",")
	case "sqlstring":
		return strings.Join(mapped(quote("'", "''")), ",")
	case "distributed":
		return strings.Join(values, ","+v.Name+"=")
	case "lucene":
		if len(values) == 1 {
			return values[0]
		}
		return "(" + strings.Join(mapped(quote(`"`, `\"`)), " OR ") + ")"
	case "percentencode", "uriencode":
		return url.QueryEscape(strings.Join(values, ","))
	case "queryparam":
		return strings.Join(mapped(func(s string) string { return "var-" + v.Name + "=" + url.QueryEscape(s) }), "&")
	case "text":
		return strings.Join(values, " + ")
	case "join":
		if argument == "" {
			argument = ","
		}
		return strings.Join(values, argument)
	}
	return strings.Join(values, ",") // csv, raw and what Grafana does not know
}

// knownFormat reports whether Grafana has a format of that name.
func knownFormat(format string) bool {
	format, _, _ = strings.Cut(format, ":")
	switch format {
	case "", "csv", "raw", "regex", "pipe", "glob", "json", "singlequote", "doublequote", "sqlstring", "distributed", "lucene",
		"percentencode", "uriencode", "queryparam", "text", "join", "date", "value", "customqueryparam":
		return true
	}
	return false
}
