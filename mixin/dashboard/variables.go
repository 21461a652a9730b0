package dashboard

import (
	"regexp"
	"slices"
	"strings"
)

// Variable is a variable of a dashboard.
type Variable struct {
	Name, Label, Type string // Type as in the classic model: query, custom, datasource, interval, ...
	Multi, IncludeAll bool
	AllValue          string   // what All stands for; "" for all values
	Query, Regex      string   // of type query what is asked, of datasource its plugin, of custom the values
	Current           []string // as saved; may be $__all

	source  reference
	refresh string // when it is asked again: 0 never, 1 at load, 2 when the time range changes
	options []string
	query   *value
	asked   *Query // of type query
	at      int
}

// all is how Grafana writes the choice of every value.
const all = "$__all"

// saved are the values that the file itself gives a variable, none where only a data source knows them.
func (v *Variable) saved() []string {
	current := slices.DeleteFunc(slices.Clone(v.Current), func(s string) bool { return s == "" || s == all })
	switch v.Type {
	case "custom", "interval":
		if len(current) > 0 {
			return current
		}
		return v.listed()
	case "constant", "textbox":
		if v.Query != "" {
			return []string{v.Query}
		}
	}
	return current
}

// listed are the values of a custom or interval variable: "a, b, name : value", a comma in a value behind a backslash.
func (v *Variable) listed() (values []string) {
	if v.Query == "" {
		return slices.DeleteFunc(slices.Clone(v.options), func(s string) bool { return s == all })
	}
	text := strings.ReplaceAll(v.Query, `\,`, "\x00")
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(strings.ReplaceAll(part, "\x00", ","))
		if _, value, named := strings.Cut(part, " : "); named && v.Type == "custom" {
			part = strings.TrimSpace(value)
		}
		if part != "" {
			values = append(values, part)
		}
	}
	return values
}

// filter applies the variable's regular expression to the values of a data source: of those that match, what the group
// named value holds, or the first one, or all where there is no group; each once. An expression that Go does not know, as of
// look-ahead, leaves the values as they are.
func (v *Variable) filter(values []string) []string {
	pattern := strings.TrimPrefix(v.Regex, "/")
	if i := strings.LastIndexByte(pattern, '/'); i >= 0 && pattern != v.Regex {
		pattern = pattern[:i]
	}
	if pattern == "" {
		return values
	}
	re, err := regexp.Compile(strings.ReplaceAll(pattern, "(?<", "(?P<"))
	if err != nil {
		return values
	}
	group := max(re.SubexpIndex("value"), min(1, re.NumSubexp()))
	var kept []string
	for _, value := range values {
		m := re.FindStringSubmatch(value)
		if m == nil {
			continue
		}
		if group > 0 {
			value = m[group]
		}
		if !slices.Contains(kept, value) {
			kept = append(kept, value)
		}
	}
	return kept
}

// call is which question a variable asks of Prometheus.
type call struct {
	name  string // label_values, query_result, metrics, label_names; "" for a selector whose series are listed
	label string // of label_values
}

var (
	labelValues = regexp.MustCompile(`^\s*label_values\(\s*(?:(.+?)\s*,\s*)?([a-zA-Z_$][\w${}:.\[\]]*|"[^"]+")\s*\)\s*$`)
	oneArgument = regexp.MustCompile(`^\s*(query_result|metrics|label_names)\((.*)\)\s*$`)
)

// parseCall splits what a variable asks into the question and its expression, and says where that begins.
func parseCall(query string) (c call, expr string, from int) {
	flat := strings.NewReplacer("\n", " ", "\r", " ", "\t", " ").Replace(query)
	if m := labelValues.FindStringSubmatchIndex(flat); m != nil {
		c = call{"label_values", strings.Trim(flat[m[4]:m[5]], `"`)}
		if m[2] < 0 {
			return c, "", m[4]
		}
		return c, query[m[2]:m[3]], m[2]
	}
	if m := oneArgument.FindStringSubmatchIndex(flat); m != nil {
		return call{name: flat[m[2]:m[3]]}, query[m[4]:m[5]], m[4]
	}
	return call{}, query, 0
}

// promQL reports whether the expression of a query is PromQL and not a regular expression or nothing.
func (q *Query) promQL() bool {
	return q.Expr != "" && q.call.name != "metrics" && q.call.name != "label_names"
}
