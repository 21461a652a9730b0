package dashboard

import (
	"cmp"
	"strings"
)

// readClassic reads the model that Grafana had before schema v2, with panels in rows (before 2017), in nested rows or in
// one list.
func (d *Dashboard) readClassic() {
	for _, in := range d.root.get("__inputs").list() {
		if in.get("type").string() == "datasource" {
			d.inputs[in.get("name").string()] = in.get("pluginId").string()
		}
	}
	for _, v := range d.root.get("templating", "list").list() {
		d.addVariable(v, classicVariable(v))
	}
	d.askVariables()
	for _, v := range d.root.get("annotations", "list").list() {
		if v.get("builtIn").is("1") || v.get("builtIn").is("true") {
			continue
		}
		expr := v.get("expr")
		if expr == nil {
			expr = v.get("target", "expr")
		}
		d.addAnnotation(v.get("name").string(), readReference(v.get("datasource")), expr)
	}
	for _, row := range d.root.get("rows").list() {
		for _, p := range row.get("panels").list() {
			d.addClassicPanel(p)
		}
	}
	for _, p := range d.root.get("panels").list() {
		d.addClassicPanel(p)
	}
}

func (d *Dashboard) addClassicPanel(v *value) {
	kind := v.get("type").string()
	if kind == "row" {
		for _, inner := range v.get("panels").list() {
			d.addClassicPanel(inner)
		}
		return
	}
	p := &Panel{
		Title: v.get("title").string(), Description: v.get("description").string(), Type: kind,
		source: readReference(v.get("datasource")), units: units(v.get("fieldConfig")), at: v.place(),
	}
	if title := v.get("title"); title != nil {
		p.at = title.at
	}
	if v.get("libraryPanel") != nil {
		p.library = true
		d.Library++
	}
	d.Panels = append(d.Panels, p)
	for _, t := range v.get("targets").list() {
		own := readReference(t.get("datasource"))
		if own.empty() {
			own = p.source
		}
		d.addTarget(p, target{
			source: own, expr: t.get("expr"), ref: t.get("refId").string(),
			instant: t.get("instant").is("true") && !t.get("range").is("true"), hidden: t.get("hide").is("true"),
		})
	}
}

func classicVariable(v *value) *Variable {
	variable := &Variable{
		Name: v.get("name").string(), Label: v.get("label").string(), Type: v.get("type").string(),
		Multi: v.get("multi").is("true"), IncludeAll: v.get("includeAll").is("true"), AllValue: v.get("allValue").string(),
		Regex: v.get("regex").string(), Current: v.get("current", "value").strings(),
		refresh: cmp.Or(textOf(v.get("refresh")), "0"), source: readReference(v.get("datasource")), at: v.place(),
		query: v.get("query"),
	}
	if inner := v.get("query", "query"); inner != nil { // {query: "label_values(...)", refId: ...}
		variable.query = inner
	}
	variable.Query = variable.query.string()
	for _, o := range v.get("options").list() {
		variable.options = append(variable.options, o.get("value").strings()...)
	}
	return variable
}

// units are those of the fields of a panel, the default one first.
func units(fields *value) (found []string) {
	if unit := fields.get("defaults", "unit").string(); unit != "" {
		found = append(found, unit)
	}
	for _, o := range fields.get("overrides").list() {
		for _, p := range o.get("properties").list() {
			if p.get("id").string() == "unit" {
				found = append(found, p.get("value").string())
			}
		}
	}
	return found
}

func textOf(v *value) string {
	if v == nil {
		return ""
	}
	return v.text
}

// target is a query of a panel in either schema.
type target struct {
	source          reference
	expr            *value
	ref             string
	instant, hidden bool
}

// lokiTarget is a query of Loki, for the one rule about those.
type lokiTarget struct {
	target
	panel *Panel
}

func (d *Dashboard) addTarget(p *Panel, t target) {
	index := p.Targets
	p.Targets++
	if p.Type == "logs" && d.plugin(t.source) == "" { // a Prometheus has none
		t.source.kind = "loki"
	}
	if strings.Contains(d.plugin(t.source), "loki") {
		d.loki = append(d.loki, lokiTarget{t, p})
	}
	if !d.speaksPromQL(t.source, t.expr.string() != "") || t.expr.string() == "" {
		return
	}
	d.Queries = append(d.Queries, &Query{
		Kind: PanelQuery, Name: p.Title, Ref: t.ref, Expr: t.expr.string(), Instant: t.instant, Hidden: t.hidden,
		panel: p, index: index, at: t.expr,
	})
}

func (d *Dashboard) addAnnotation(name string, source reference, expr *value) {
	if !d.speaksPromQL(source, expr.string() != "") || expr.string() == "" {
		return
	}
	d.Queries = append(d.Queries, &Query{Kind: AnnotationQuery, Name: name, Expr: expr.string(), at: expr})
}

// addVariable adds a variable; askVariables adds its query once all are known, the data source among them.
func (d *Dashboard) addVariable(at *value, v *Variable) {
	if name := at.get("name"); name != nil {
		v.at = name.at
	}
	d.Variables = append(d.Variables, v)
}

func (d *Dashboard) askVariables() {
	for _, v := range d.Variables {
		if v.Type != "query" || !d.speaksPromQL(v.source, v.Query != "") || v.Query == "" {
			continue
		}
		q := &Query{Kind: VariableQuery, Name: v.Name, at: v.query, Instant: true}
		q.call, q.Expr, q.from = parseCall(v.Query)
		v.asked = q
		d.Queries = append(d.Queries, q)
	}
}
