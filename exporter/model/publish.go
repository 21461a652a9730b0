package model

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// metric is a metric that is ready to be written. What it points to is shared with what it is written to: nobody may change it.
type metric struct {
	desc *prometheus.Desc
	m    *dto.Metric
}

func (m metric) Desc() *prometheus.Desc { return m.desc }

func (m metric) Write(out *dto.Metric) error {
	out.Label, out.Gauge, out.Counter, out.Histogram = m.m.Label, m.m.Gauge, m.m.Counter, m.m.Histogram
	return nil
}

// descs are the descriptions of all families, by name.
type descs map[string]*prometheus.Desc

func newDescs() descs {
	d := descs{}
	add := func(name, help string) {
		if d[name] == nil {
			d[name] = prometheus.V2.NewDesc(name, help, prometheus.UnconstrainedLabels(nil), nil)
		}
	}
	for _, f := range fields {
		add(f.family, f.help)
	}
	for _, f := range quantiles {
		add(f.name, f.help)
	}
	for _, f := range others {
		add(f.name, f.help)
	}
	return d
}

// pairs are labels; those with an empty value are left out.
func pairs(namesAndValues ...string) []*dto.LabelPair {
	var all []*dto.LabelPair
	for i := 0; i < len(namesAndValues); i += 2 {
		if namesAndValues[i+1] != "" {
			all = append(all, &dto.LabelPair{Name: &namesAndValues[i], Value: &namesAndValues[i+1]})
		}
	}
	slices.SortFunc(all, func(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return all
}

func (d descs) gauge(name string, v float64, labels []*dto.LabelPair) prometheus.Metric {
	return metric{d[name], &dto.Metric{Label: labels, Gauge: &dto.Gauge{Value: &v}}}
}

func (d descs) counter(name string, v float64, labels []*dto.LabelPair) prometheus.Metric {
	return metric{d[name], &dto.Metric{Label: labels, Counter: &dto.Counter{Value: &v}}}
}

// page is what was found on one page.
type page struct {
	engine   string // empty where the page is of none that is known
	models   []served
	metrics  []prometheus.Metric // the models' series and what was mapped
	fields   []Field
	unmapped []string
	series   int // that were for something
}

// served is a model that a server has.
type served struct{ model, version string }

// Field says where a field is on a page.
type Field struct {
	Field  string   `json:"field"`
	Family string   `json:"family"`           // that it is published as
	Mapped bool     `json:"mapped"`           // it is on the page
	Found  []string `json:"found,omitempty"`  // the metrics that it is from
	Series int      `json:"series,omitempty"` // that are published
	Reason string   `json:"reason,omitempty"` // why it is not there
}

// finish makes of what was taken what is published.
func (r *reading) finish(d descs) *page {
	p := &page{series: r.taken}
	if r.table.engine != nil {
		p.engine = r.table.engine.name
	}
	found := make([]Field, len(fields))
	failed := make([]string, len(fields))
	known := map[served]bool{}
	all := r.best(failed)
	told := map[served]bool{} // models of which the page has the longest time itself
	for _, v := range all {
		if fields[r.table.sources[v.source].at].name == maxField {
			told[served{v.model, v.version}] = true
		}
	}
	for _, v := range all {
		src := &r.table.sources[v.source]
		f := &fields[src.at]
		labels := func(more ...string) []*dto.LabelPair {
			return pairs(append([]string{"model", v.model, "server", r.config.Name, "engine", p.engine, "version", v.version, f.label, v.label}, more...)...)
		}
		if f.name == "request_duration" {
			if longest, from, ok := v.longest(r.now); ok && !told[served{v.model, v.version}] {
				i := fieldIndex(maxField)
				p.metrics = append(p.metrics, d.gauge(fields[i].family, longest, labels()))
				found[i].Mapped, found[i].Series = true, found[i].Series+1
				if text := v.metric(src) + from; !slices.Contains(found[i].Found, text) {
					found[i].Found = append(found[i].Found, text)
				}
			}
		}
		n := len(p.metrics)
		switch f.kind {
		case histogram:
			if h := v.histogram(); h != nil {
				p.metrics = append(p.metrics, metric{d[f.family], &dto.Metric{Label: labels(), Histogram: h}})
			}
			if q := v.beside; q != nil { // which some engines have beside the counters that they stand for
				for _, at := range q.quantiles {
					if to, there := quantiles[f.name]; there && at.of == 1 {
						p.metrics = append(p.metrics, d.gauge(to.name, at.value, labels("quantile", formatFloat(at.at))))
					}
				}
			}
		case counter:
			p.metrics = append(p.metrics, d.counter(f.family, v.number, labels()))
		case amount, ratio:
			p.metrics = append(p.metrics, d.gauge(f.family, v.gauge(src), labels()))
		}
		if n == len(p.metrics) {
			continue
		}
		at := &found[src.at]
		at.Mapped, at.Series = true, at.Series+len(p.metrics)-n
		if text := v.metric(src); !slices.Contains(at.Found, text) {
			at.Found = append(at.Found, text)
		}
		known[served{v.model, v.version}] = true
	}
	for m := range known {
		p.models = append(p.models, m)
	}
	slices.SortFunc(p.models, func(a, b served) int {
		return cmp.Or(cmp.Compare(a.model, b.model), cmp.Compare(a.version, b.version))
	})
	r.describe(p, d, found, failed)
	return p
}

// longest is the longest time of a request, as a summary's quantile 1 or a native histogram have it, and which of them does.
func (v *value) longest(now time.Time) (longest float64, from string, ok bool) {
	if v.beside != nil {
		for _, q := range v.beside.quantiles {
			if q.at == 1 && q.of == 1 {
				return q.value, ", quantile 1", true
			}
		}
	}
	if longest, ok = v.highest(now); ok {
		return longest, ", highest native bucket", true
	}
	return 0, "", false
}

// best are the values that count: of each field and model those of the first source that is there. Of ranks that tell of the
// same requests the one that says most counts, and what is left of different parts is added. In failed comes why others do not
// count, by field.
func (r *reading) best(failed []string) []*value {
	type whose struct {
		at                    int
		model, version, label string
	}
	type part struct {
		whose
		part string
	}
	first := map[whose]int{}
	summary := map[whose]*value{} // the first that has quantiles
	parts := map[part]*value{}
	for _, v := range r.values {
		src := &r.table.sources[v.source]
		if v.page != r.page {
			continue
		}
		if why := v.incomplete(src, r.has); why != "" {
			failed[src.at] = v.metric(src) + ": " + why
			continue
		}
		of := whose{src.at, v.model, v.version, v.label}
		if source, there := first[of]; !there || v.source < source {
			first[of] = v.source
		}
		if s := summary[of]; v.has[quantile] && (s == nil || v.source < s.source) {
			summary[of] = v
		}
		p := part{of, v.part}
		if c := parts[p]; c == nil || v.source < c.source || v.source == c.source && (v.size() > c.size() || v.size() == c.size() && v.rank < c.rank) {
			parts[p] = v
		}
	}
	whole := map[whose]*value{}
	for p, v := range parts {
		if v.source != first[p.whose] {
			continue
		}
		if whole[p.whose] == nil {
			whole[p.whose] = v
			continue
		}
		whole[p.whose] = whole[p.whose].with(v, fields[p.at].kind)
	}
	var all []*value
	for of, v := range whole {
		v.beside = summary[of]
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b *value) int {
		return cmp.Or(cmp.Compare(r.table.sources[a.source].at, r.table.sources[b.source].at), cmp.Compare(a.model, b.model),
			cmp.Compare(a.version, b.version), cmp.Compare(a.label, b.label))
	})
	return all
}

// size is what tells the ranks of one model apart.
func (v *value) size() float64 { return max(v.number, v.count) }

// with is the value of two parts.
func (v *value) with(other *value, k kind) *value {
	both := *v
	both.number, both.sum, both.count = v.number+other.number, v.sum+other.sum, v.count+other.count
	if k == ratio {
		both.number = max(v.number, other.number)
	}
	join := func(a, b []point) []point {
		a = slices.Clone(a)
		for _, p := range b {
			if p.of > 0 {
				a = put(a, p.at, p.value, p.of)
			}
		}
		return a
	}
	both.native, both.natives = nil, 0 // what has parts has none
	both.buckets = join(v.buckets, other.buckets)
	return &both
}

// metric is the metric of the page that a value is from, with what its series must have.
func (v *value) metric(src *placed) string {
	name := ""
	for part, from := range v.from {
		if from == "" || name != "" && part == int(quantile) {
			continue
		}
		if src.as == same || src.as == quantified {
			for _, end := range []string{bucketEnd, sumEnd, countEnd} {
				if fields[src.at].kind == histogram {
					from = strings.TrimSuffix(from, end)
				}
			}
			name = from
			break
		}
		if name != "" {
			name += ", "
		}
		name += from
	}
	return name + selector(src.match)
}

// incomplete says why a value cannot be published; empty where it can.
func (v *value) incomplete(src *placed, has []string) string {
	if len(src.needs) > 0 && !slices.ContainsFunc(has, func(prefix string) bool { return slices.Contains(src.needs, prefix) }) {
		return src.reason
	}
	if v.err != "" {
		return v.err
	}
	switch {
	case src.as == share && !(v.has[sum] && v.has[count] && v.count > 0):
		return "there is no " + src.count + ", or it is 0"
	case src.as == growth && !v.beforeThere:
		return "it takes two readings"
	case src.as == growth && !(v.count > v.before.count && v.sum >= v.before.sum):
		return "there was nothing since the reading before"
	case src.as == share, src.as == growth:
		return ""
	case src.as == pair && (!v.has[sum] || !v.has[count]):
		return "there is only one of it and " + src.count
	case fields[src.at].kind == histogram:
		if v.histogram() == nil && !v.has[quantile] {
			return "it has no count, or one that is no number of events"
		}
		return ""
	case !v.has[whole]:
		return "it has no value"
	case fields[src.at].kind == counter && v.number < 0:
		return "a counter below 0"
	}
	return ""
}

// gauge is the value of a gauge.
func (v *value) gauge(src *placed) float64 {
	switch src.as {
	case share:
		return v.sum / v.count
	case growth:
		return (v.sum - v.before.sum) / (v.count - v.before.count)
	}
	return v.number
}

// histogram is what there is of one: its buckets as the page has them, or +Inf alone. Of several series the bounds that all of
// them have count, and what is below them is right. Nil where there is none.
func (v *value) histogram() *dto.Histogram {
	of := 0
	for _, b := range v.buckets {
		of = max(of, b.of)
	}
	n, there := v.count, v.has[count]
	if last := len(v.buckets) - 1; !there && last >= 0 && math.IsInf(v.buckets[last].at, 1) {
		n, there = v.buckets[last].value, true
	}
	if !there || !whollyCounted(n) {
		return nil
	}
	total := v.sum
	if !v.has[sum] {
		total = math.NaN()
	}
	samples := uint64(n)
	h := &dto.Histogram{SampleCount: &samples, SampleSum: &total}
	for _, b := range v.buckets {
		if b.of != of || math.IsInf(b.at, 1) {
			continue
		}
		if !whollyCounted(b.value) {
			return nil
		}
		bound, below := b.at, uint64(b.value)
		h.Bucket = append(h.Bucket, &dto.Bucket{UpperBound: &bound, CumulativeCount: &below})
	}
	v.addNative(h)
	inf := math.Inf(1)
	h.Bucket = append(h.Bucket, &dto.Bucket{UpperBound: &inf, CumulativeCount: &samples})
	return h
}

// whollyCounted reports whether a number can be one of events.
func whollyCounted(n float64) bool { return n >= 0 && n < 1<<63 }

func formatFloat(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// describe adds what a page says of itself: its models, and which fields it has.
func (r *reading) describe(p *page, d descs, found []Field, failed []string) {
	may := make([]bool, len(fields)) // what this engine may have
	for _, src := range r.table.sources {
		may[src.at] = true
	}
	for i, f := range fields {
		at := found[i]
		at.Field, at.Family = f.name, f.family
		if may[i] {
			v := 0.0
			if at.Mapped {
				v = 1
			}
			p.metrics = append(p.metrics, d.gauge(mappedFamily, v, pairs("server", r.config.Name, "engine", p.engine, "field", f.name)))
		}
		switch {
		case at.Mapped:
		case failed[i] != "":
			at.Reason = failed[i]
		case may[i]:
			at.Reason = "not on the page: " + strings.Join(r.looked(i), ", ")
		case strings.HasPrefix(f.name, "accelerator_"):
			at.Reason = "by mapping only"
		default:
			at.Reason = cmp.Or(p.engine, "this server") + " does not tell it"
		}
		p.fields = append(p.fields, at)
	}
	for _, f := range r.families {
		if f.page == r.page && !f.mapped {
			p.unmapped = append(p.unmapped, f.name)
		}
	}
	slices.Sort(p.unmapped)
	p.metrics = append(p.metrics, d.gauge(unmappedFamily, float64(len(p.unmapped)), pairs("server", r.config.Name)))
}

// looked are the names under which a field was looked for.
func (r *reading) looked(at int) []string {
	var all []string
	for _, src := range r.table.sources {
		if src.at != at {
			continue
		}
		text := src.metric + selector(src.match)
		if src.count != "" {
			text += " with " + src.count
		}
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

// selector writes what a series must have as PromQL does.
func selector(match map[string]string) string {
	if len(match) == 0 {
		return ""
	}
	var all []string
	for name, value := range match {
		op := "="
		if strings.Contains(value, "|") {
			op = "=~"
		}
		all = append(all, name+op+`"`+value+`"`)
	}
	slices.Sort(all)
	return "{" + strings.Join(all, ",") + "}"
}
