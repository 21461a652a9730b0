package dashboard

import "cmp"

// readV2 reads the spec of schema v2: panels are elements by name, and where they are does not matter here. Queries of
// v2alpha1 have their plugin as kind, those of later versions as group.
func (d *Dashboard) readV2() {
	for _, v := range d.root.get("variables").list() {
		d.addVariable(v.get("spec"), v2Variable(v))
	}
	d.askVariables()
	for _, v := range d.root.get("annotations").list() {
		spec := v.get("spec")
		if spec.get("builtIn").is("true") {
			continue
		}
		q := spec.get("query")
		expr := q.get("spec", "expr")
		if expr == nil {
			expr = spec.get("legacyOptions", "expr")
		}
		d.addAnnotation(spec.get("name").string(), v2Reference(q, spec.get("datasource")), expr)
	}
	elements := d.root.get("elements")
	if elements == nil {
		return
	}
	for _, key := range elements.keys {
		d.addElement(elements.fields[key])
	}
}

func (d *Dashboard) addElement(v *value) {
	spec := v.get("spec")
	viz := spec.get("vizConfig")
	p := &Panel{
		Title: spec.get("title").string(), Description: spec.get("description").string(),
		Type: cmp.Or(viz.get("group").string(), viz.get("kind").string()), units: units(viz.get("spec", "fieldConfig")), at: v.place(),
	}
	if title := spec.get("title"); title != nil {
		p.at = title.at
	}
	if v.get("kind").string() == "LibraryPanel" {
		p.library = true
		d.Library++
	}
	d.Panels = append(d.Panels, p)
	for _, item := range spec.get("data", "spec", "queries").list() {
		item = item.get("spec")
		q := item.get("query")
		source := v2Reference(q, item.get("datasource"))
		if p.source.empty() {
			p.source = source
		}
		d.addTarget(p, target{
			source: source, expr: q.get("spec", "expr"), ref: item.get("refId").string(),
			instant: q.get("spec", "instant").is("true") && !q.get("spec", "range").is("true"), hidden: item.get("hidden").is("true"),
		})
	}
}

// v2Reference is the data source of a query: named by the query itself, or beside it in v2alpha1.
func v2Reference(query, beside *value) reference {
	r := readReference(query.get("datasource"))
	if r.empty() {
		r = readReference(beside)
	}
	if kind := query.get("kind").string(); kind != "" && kind != "DataQuery" {
		r.kind = cmp.Or(r.kind, kind)
	}
	r.kind = cmp.Or(r.kind, query.get("group").string())
	return r
}

// v2Types are the types of variables by their kind.
var v2Types = map[string]string{
	"QueryVariable": "query", "CustomVariable": "custom", "ConstantVariable": "constant", "TextVariable": "textbox",
	"IntervalVariable": "interval", "DatasourceVariable": "datasource", "AdhocVariable": "adhoc", "GroupByVariable": "groupby",
	"SwitchVariable": "switch",
}

// v2Refresh are the numbers that the classic model has for when a variable is asked again.
var v2Refresh = map[string]string{"never": "0", "onDashboardLoad": "1", "onTimeRangeChanged": "2"}

func v2Variable(v *value) *Variable {
	spec := v.get("spec")
	variable := &Variable{
		Name: spec.get("name").string(), Label: spec.get("label").string(), Type: v2Types[v.get("kind").string()],
		Multi: spec.get("multi").is("true"), IncludeAll: spec.get("includeAll").is("true"), AllValue: spec.get("allValue").string(),
		Regex: spec.get("regex").string(), Current: spec.get("current", "value").strings(),
		refresh: v2Refresh[spec.get("refresh").string()], at: v.place(),
	}
	q := spec.get("query")
	variable.query = q
	if q != nil && q.fields != nil {
		variable.source = v2Reference(q, spec.get("datasource"))
		variable.query = q.get("spec", "query")
		if variable.query == nil {
			variable.query = q.get("spec", "__legacyStringValue")
		}
	}
	variable.Query = variable.query.string()
	if variable.Type == "datasource" {
		variable.Query = cmp.Or(spec.get("pluginId").string(), variable.Query)
	}
	for _, o := range spec.get("options").list() {
		variable.options = append(variable.options, o.get("value").strings()...)
	}
	return variable
}
