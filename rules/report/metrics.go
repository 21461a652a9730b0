package report

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// metricSpec is a metric of the report and how to ask for it.
type metricSpec struct {
	name, title, unit string
	lines             []lineSpec
	missing           string // what to say when no line has anything
}

// lineSpec is a line, or one for each value of a label.
type lineSpec struct {
	name    string
	by      string   // the label whose values name the lines
	queries []string // the first that has data is it
}

// bad are the codes of requests that went wrong, those of an slo rule's objective errors: rules.ErrorCodes says why.
const bad = `code=~"429|5..|error"`

// metricSpecs are the metrics in the order of the report. What the client saw comes before what the engine says.
func (m *maker) metricSpecs() []metricSpec {
	both := func(form string) []string {
		return []string{m.fill(strings.ReplaceAll(form, "$from", "flyball_batchproxy")), m.fill(strings.ReplaceAll(form, "$from", "flyball_model"))}
	}
	quantile := func(name, q, metric string) lineSpec {
		return lineSpec{name: name, queries: both("histogram_quantile(" + q + ", sum by (le) (rate($from_" + metric + "_bucket{$model}[$window])))")}
	}
	mean := func(metric string) lineSpec {
		return lineSpec{name: "mean", queries: both("sum(rate($from_" + metric + "_sum{$model}[$window])) / (sum(rate($from_" + metric + "_count{$model}[$window])) > 0)")}
	}
	none := func(names ...string) string { return "no series of " + strings.Join(names, " or ") + " for this model" }
	either := func(metric string) string {
		return none("flyball_batchproxy_"+metric, "flyball_model_"+metric)
	}
	replicas := func(name string, more ...string) lineSpec {
		l := lineSpec{name: name}
		if m.scale != "" {
			l.queries = append(l.queries, m.fill("sum(max by (rule, target) (flyball_scale_"+name+"_replicas{$scale}))"))
		}
		for _, q := range more {
			l.queries = append(l.queries, m.fill(q))
		}
		return l
	}
	capacity := lineSpec{name: "most rows", queries: []string{
		m.fill("max(flyball_batchproxy_effective_max_batch{$model})"), m.fill("max(flyball_model_batch_capacity{$model})"),
	}}
	if m.BatchSize > 0 {
		capacity.queries = []string{"vector(" + strconv.FormatFloat(m.BatchSize, 'g', -1, 64) + ")"}
	}
	all := []metricSpec{
		{"requests", "Requests", "req/s", []lineSpec{
			{name: "arrived", queries: []string{m.fill("sum(rate(flyball_batchproxy_arrivals_total{$model}[$window]))")}},
			{name: "answered", queries: both("sum(rate($from_requests_total{$model}[$window]))")},
		}, either("requests_total")},
		{"latency", "Latency", "s", []lineSpec{
			quantile("p50", "0.5", "request_duration_seconds"), quantile("p95", "0.95", "request_duration_seconds"),
			quantile("p99", "0.99", "request_duration_seconds"), mean("request_duration_seconds"),
		}, either("request_duration_seconds")},
		{"errors", "Errors", "ratio", []lineSpec{
			{name: "share of requests", queries: both("(sum(rate($from_requests_total{$model," + bad + "}[$window])) or 0 * sum(rate($from_requests_total{$model}[$window]))) / (sum(rate($from_requests_total{$model}[$window])) > 0)")},
		}, "no requests, or " + either("requests_total")},
		{"refused", "Refused", "req/s", []lineSpec{
			{by: "reason", queries: []string{m.fill("sum by (reason) (rate(flyball_batchproxy_shed_total{$model}[$window]))")}},
		}, none("flyball_batchproxy_shed_total")},
		{"queue", "Queue time", "s", []lineSpec{quantile("p95", "0.95", "queue_duration_seconds"), mean("queue_duration_seconds")}, either("queue_duration_seconds")},
		{"concurrency", "In flight", "requests", []lineSpec{
			{name: "running", queries: both("sum(avg_over_time($from_requests_running{$model}[$window]))")},
			{name: "waiting", queries: both("sum(avg_over_time($from_requests_waiting{$model}[$window]))")},
		}, either("requests_running")},
		{"batch", "Batch size", "rows", []lineSpec{mean("batch_size"), capacity}, either("batch_size")},
		{"batches", "Batches by why they were sent", "batches/s", []lineSpec{
			{by: "reason", queries: []string{m.fill("sum by (reason) (rate(flyball_batchproxy_batches_total{$model}[$window]))")}},
		}, none("flyball_batchproxy_batches_total")},
		{"replicas", "Replicas", "replicas", []lineSpec{
			replicas("current"), replicas("desired"), replicas("ready", "max(flyball_batchproxy_replicas_ready{$model})"), replicas("min"), replicas("max"),
		}, "no scale rule has this name or target, and there is " + none("flyball_batchproxy_replicas_ready")},
		{"tokens", "Tokens", "tokens/s", []lineSpec{
			{by: "kind", queries: both("sum by (kind) (rate($from_tokens_total{$model}[$window]))")},
		}, either("tokens_total")},
		{"first_token", "Time to first token", "s", []lineSpec{
			quantile("p50", "0.5", "time_to_first_token_seconds"), quantile("p95", "0.95", "time_to_first_token_seconds"),
		}, either("time_to_first_token_seconds")},
		{"inter_token", "Time between tokens", "s", []lineSpec{
			quantile("p50", "0.5", "inter_token_latency_seconds"), quantile("p95", "0.95", "inter_token_latency_seconds"),
		}, either("inter_token_latency_seconds")},
		{"kv_cache", "KV cache used", "ratio", []lineSpec{
			{name: "fullest", queries: []string{m.fill("max(max_over_time(flyball_model_kv_cache_utilization_ratio{$model}[$window]))")}},
			{name: "mean", queries: []string{m.fill("avg(avg_over_time(flyball_model_kv_cache_utilization_ratio{$model}[$window]))")}},
		}, none("flyball_model_kv_cache_utilization_ratio")},
		{"device", "Device busy", "ratio", []lineSpec{
			{name: "mean", queries: []string{
				m.gpu("avg($of)", "avg_over_time(flyball_gpu_utilization_ratio{$gpus}[$window])"),
				m.fill(`avg(rate(modelserver_device_busy_seconds_total{target=~"(.+/)?` + escape(regexpQuote(m.Model)) + `"}[$window]))`),
			}},
		}, m.noGPU("flyball_gpu_utilization_ratio")},
		{"throttling", "Clocks held down", "share of the time", []lineSpec{
			{by: "reason", queries: []string{
				m.gpu("max by (reason) ($of)", "rate(flyball_gpu_clock_event_seconds_total{"+harmless+"$andgpus}[$window])"),
				m.gpu("max by (reason) ($of)", "avg_over_time(flyball_gpu_clock_event_active{"+harmless+"$andgpus}[$window])"),
			}},
		}, m.noGPU("flyball_gpu_clock_event_seconds_total")},
		{"cost", "Cost", "USD/h", []lineSpec{
			{name: "cost", queries: m.costQueries()},
		}, "the scale rule has no price, or there is none: no series of flyball_scale_cost_usd_per_hour or flyball_cost_usd_per_hour"},
	}
	return all
}

// harmless are the reasons for a lower clock that slow nothing down, or that somebody asked for.
const harmless = `reason!~"gpu_idle|applications_clocks_setting|display_clock_setting|sync_boost|none"`

func (m *maker) costQueries() (all []string) {
	if m.scale != "" {
		all = append(all, m.fill("sum(max by (rule, target) (avg_over_time(flyball_scale_cost_usd_per_hour{$scale}[$window])))"))
	}
	return append(all, m.fill("sum(avg_over_time(flyball_cost_usd_per_hour{$model}[$window]))"))
}

// fill puts the matchers and the window in a query.
func (m *maker) fill(form string) string {
	return strings.NewReplacer("$model", "model="+strconv.Quote(m.Model), "$scale", m.scale, "$window", m.window).Replace(form)
}

// gpu is a query over the GPUs of the model: those that the options name, or that the model's own series do.
func (m *maker) gpu(form, each string) string {
	if m.GPUs != "" {
		return m.fill(strings.ReplaceAll(form, "$of", strings.NewReplacer("$gpus", m.GPUs, "$andgpus", ","+m.GPUs).Replace(each)))
	}
	each = strings.NewReplacer("{$gpus}", "", "$andgpus", "").Replace(each)
	return m.fill(strings.ReplaceAll(form, "$of", each+" * on (uuid) group_left () max by (uuid) (flyball_model_gpu_info{$model})"))
}

func (m *maker) noGPU(metric string) string {
	if m.GPUs != "" {
		return "no series of " + metric + "{" + m.GPUs + "}"
	}
	return "nothing says which GPUs serve it (flyball_model_gpu_info), or they have no series of " + metric + `: --gpus names them, as in --gpus='gpu="0"'`
}

// lines asks for the first query that has data.
func (m *maker) lines(ctx context.Context, spec lineSpec) ([]Line, error) {
	for _, q := range spec.queries {
		series, err := m.ask(ctx, q, m.Step)
		if err != nil {
			return nil, err
		}
		var lines []Line
		for _, s := range series {
			l := Line{Name: spec.name, Query: q, Values: m.values(s.Points)}
			if spec.by != "" {
				l.Name = s.Labels[spec.by]
			}
			if !l.empty() {
				lines = append(lines, l)
			}
		}
		if len(lines) > 0 {
			slices.SortFunc(lines, func(a, b Line) int { return strings.Compare(a.Name, b.Name) })
			return lines, nil
		}
	}
	return nil, nil
}

// derive adds what is made of other lines: how full batches are. Lines that never are above zero say nothing where each is
// one of many.
func (m *maker) derive() {
	for i := range m.report.Metrics {
		metric := &m.report.Metrics[i]
		switch metric.Name {
		case "refused", "throttling", "batches":
			if some := slices.DeleteFunc(slices.Clone(metric.Lines), func(l Line) bool { return l.max() <= 0 }); len(some) > 0 {
				metric.Lines = some
			} else if len(metric.Lines) > 0 {
				metric.Lines = metric.Lines[:1]
				metric.Lines[0].Name = "any reason"
			}
		case "batch":
			size, most := metric.line("mean"), metric.line("most rows")
			fill := Metric{Name: "batch_fill", Title: "Batch fill", Unit: "ratio"}
			switch {
			case size == nil:
				fill.NotMeasured = metric.NotMeasured
				metric.Lines = nil
				if metric.NotMeasured == "" {
					metric.NotMeasured = "no series of flyball_batchproxy_batch_size or flyball_model_batch_size for this model"
					fill.NotMeasured = metric.NotMeasured
				}
			case most == nil:
				fill.NotMeasured = "nothing says how many rows a batch may have (flyball_batchproxy_effective_max_batch, flyball_model_batch_capacity): --batch.max-size does"
			default:
				l := Line{Name: "mean", Values: make(Values, len(size.Values))}
				for j := range l.Values {
					l.Values[j] = size.Values[j] / most.Values[j]
				}
				fill.Lines = []Line{l}
			}
			m.report.Metrics = slices.Insert(m.report.Metrics, i+1, fill)
		}
	}
}

// line is the line of a name, nil where there is none.
func (m *Metric) line(name string) *Line {
	for i := range m.Lines {
		if m.Lines[i].Name == name {
			return &m.Lines[i]
		}
	}
	return nil
}

func (l *Line) empty() bool {
	return !slices.ContainsFunc(l.Values, func(v float64) bool { return !math.IsNaN(v) })
}

// sums up a line.
func (l *Line) summary() (least, mean, most, last float64) {
	least, most, last = math.NaN(), math.NaN(), math.NaN()
	n, sum := 0, 0.0
	for _, v := range l.Values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		if n == 0 || v < least {
			least = v
		}
		if n == 0 || v > most {
			most = v
		}
		n, sum, last = n+1, sum+v, v
	}
	return least, sum / float64(n), most, last
}

func (l *Line) max() float64 {
	_, _, most, _ := l.summary()
	return most
}

// prometheusDuration writes a duration as PromQL has it.
func prometheusDuration(d time.Duration) string { return model.Duration(d).String() }

// regexpQuote quotes a text for a regular expression.
func regexpQuote(s string) string { return regexp.QuoteMeta(s) }

// escape escapes what is in a string of PromQL.
func escape(s string) string {
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// figure is a number with as many digits as a reader needs, with its unit.
func figure(v float64, unit string) string {
	switch {
	case math.IsNaN(v):
		return "none"
	case unit == "ratio" || unit == "share of the time":
		return fmt.Sprintf("%.3g %%", v*100)
	case unit == "s":
		return seconds(v)
	case unit == "USD/h":
		return fmt.Sprintf("%.2f", v)
	case math.Abs(v) >= 1000:
		return strconv.FormatFloat(math.Round(v), 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// seconds is a time of a request for a reader.
func seconds(v float64) string {
	switch {
	case v == 0:
		return "0 s"
	case v < 0.001:
		return fmt.Sprintf("%.3g µs", v*1e6)
	case v < 1:
		return fmt.Sprintf("%.3g ms", v*1000)
	}
	return fmt.Sprintf("%.3g s", v)
}
