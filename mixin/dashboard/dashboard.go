package dashboard

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"flyball/rules/source"
)

// Dashboard is a dashboard as far as its queries go.
type Dashboard struct {
	File, Title string
	Schema      string // classic, v1 (classic, wrapped as a Kubernetes object) or v2
	Panels      []*Panel
	Variables   []*Variable
	Queries     []*Query       // of Prometheus data sources, in the order of the file
	Skipped     map[string]int // queries of other data sources, by type
	Library     int            // library panels: their queries are not in the file

	text     []byte
	root     *value // the classic dashboard or the spec of one of schema v2
	editable bool
	loki     []lokiTarget
	inputs   map[string]string // data sources to be chosen at import, by name: their plugin
}

// Panel is a panel, or an element of schema v2.
type Panel struct {
	Title, Description, Type string
	Targets                  int // queries of any data source

	source  reference
	units   []string
	library bool
	at      int
}

// Kinds of queries.
const (
	PanelQuery      = "panel"
	VariableQuery   = "variable"
	AnnotationQuery = "annotation"
)

// Query is one query of a Prometheus data source.
type Query struct {
	Kind    string // PanelQuery, VariableQuery or AnnotationQuery
	Name    string // of the panel, the variable or the annotation
	Ref     string // which query of the panel, such as A
	Expr    string // as it is written; of a variable, the expression within label_values(...) and the like
	Instant bool   // asked at one time, not over a range
	Hidden  bool   // not drawn, and so not asked

	panel *Panel
	index int // which target of the panel
	call  call
	at    *value // the string that holds it
	from  int    // where in that string Expr begins
}

// In says where the query is, for messages.
func (q *Query) In() string {
	text := fmt.Sprintf("%s %q", q.Kind, q.Name)
	if q.Ref != "" {
		text += ", query " + q.Ref
	}
	return text
}

// Read reads a dashboard. The error is of type source.Errors.
func Read(name string, text []byte) (*Dashboard, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // browsers, which import dashboards, read over it
	root, offset, err := parseJSON(text)
	if err != nil {
		return nil, source.Errors{source.At(name, text, offset, "JSON: %s", err)}
	}
	d := &Dashboard{File: name, Schema: "classic", Skipped: map[string]int{}, text: text, inputs: map[string]string{}}
	if inner := root.get("dashboard"); inner != nil && inner.fields != nil && root.get("panels") == nil { // as the API answers
		root = inner
	}
	if kind := root.get("apiVersion").string(); kind != "" && root.get("spec") != nil {
		d.Schema = "v1"
		if root.get("spec", "elements") != nil || strings.Contains(kind, "/v2") {
			d.Schema = "v2"
		}
		root = root.get("spec")
	} else if root.get("elements") != nil && root.get("layout") != nil {
		d.Schema = "v2"
	}
	if root.fields == nil || root.get("panels") == nil && root.get("rows") == nil && root.get("elements") == nil && root.get("templating") == nil {
		return nil, source.Errors{source.At(name, text, root.place(), "not a Grafana dashboard: there are no panels, rows or elements in it")}
	}
	d.root = root
	d.Title = cmp.Or(root.get("title").string(), "untitled")
	d.editable = !root.get("editable").is("false")
	if d.Schema == "v2" {
		d.readV2()
	} else {
		d.readClassic()
	}
	return d, nil
}

// fault is a finding at a byte of a query's expression.
func (d *Dashboard) fault(q *Query, offset int, rule, format string, args ...any) Finding {
	at := q.at.offset(d.text, q.from+offset)
	return d.finding(at, q, rule, format, args...)
}

func (d *Dashboard) finding(at int, q *Query, rule, format string, args ...any) Finding {
	f := Finding{Rule: rule, Severity: Fault, target: -1}
	message := fmt.Sprintf(format, args...)
	if q != nil {
		f.In = q.In()
		if q.panel != nil {
			f.panel, f.target = q.Name, q.index
		}
		message = f.In + ": " + message
	}
	f.Error = source.At(d.File, d.text, at, "%s", message)
	return f
}

// reference is a data source as dashboards name one: by plugin, by name or identifier, or by a variable.
type reference struct{ kind, name string }

func readReference(v *value) reference {
	if v.string() != "" {
		return reference{name: v.string()}
	}
	return reference{kind: v.get("type").string(), name: cmp.Or(v.get("uid").string(), v.get("name").string())}
}

func (r reference) empty() bool { return r == reference{} }

// mixed is a panel whose queries each have a data source of their own.
func (r reference) mixed() bool {
	return r.name == "-- Mixed --" || r.kind == "mixed" || r.kind == "datasource" && r.name == "-- Mixed --"
}

// plugin is the type of the data source, "" if the dashboard leaves that open.
func (d *Dashboard) plugin(r reference) string {
	if r.kind != "" && !strings.HasPrefix(r.kind, "$") {
		return r.kind
	}
	name := strings.Trim(r.name, "${}[]")
	if before, _, found := strings.Cut(name, ":"); found {
		name = before
	}
	if plugin, ok := d.inputs[name]; ok {
		return plugin
	}
	for _, v := range d.Variables {
		if v.Type == "datasource" && v.Name == name {
			return v.Query
		}
	}
	if strings.HasPrefix(r.name, "-- ") {
		return "datasource"
	}
	return ""
}

// prometheus are the data sources that speak PromQL and Prometheus's API.
var prometheus = []string{"prometheus", "grafana-amazonprometheus-datasource", "grafana-azureprometheus-datasource"}

// speaksPromQL reports whether a query is for a Prometheus, and counts it where it is not. What the dashboard leaves open
// is taken for one if it has an expression: that is where Grafana sends such queries by default.
func (d *Dashboard) speaksPromQL(r reference, hasExpr bool) bool {
	plugin := d.plugin(r)
	if plugin == "" {
		switch name := strings.ToLower(r.name); {
		case strings.Contains(name, "loki"):
			plugin = "loki"
		case hasExpr:
			return true
		default:
			plugin = "unknown"
		}
	}
	if slices.Contains(prometheus, plugin) {
		return true
	}
	d.Skipped[plugin]++
	return false
}

// SkippedText says which queries were not looked at, such as "3 loki, 1 cloudwatch", or "".
func (d *Dashboard) SkippedText() string {
	var parts []string
	for _, plugin := range slices.Sorted(maps.Keys(d.Skipped)) {
		parts = append(parts, fmt.Sprintf("%d %s", d.Skipped[plugin], plugin))
	}
	return strings.Join(parts, ", ")
}
