package rules

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
)

// Metrics are the series of all rules that decide for /metrics: counters of the scale rules, and the samples that the rules
// wrote to the store last.
type Metrics struct {
	decisions     *prometheus.CounterVec
	applied       *prometheus.CounterVec
	journalErrors prometheus.Counter
	stateErrors   prometheus.Counter
	fitted        prometheus.Histogram
	overruns      prometheus.Counter
	unsaved       prometheus.Counter

	mu      sync.Mutex
	scalers map[string]*Scaler // by rule name
	others  []Output
}

// NewMetrics registers the metrics of scale rules.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flyball_scale_decisions_total",
			Help: "Evaluations of a scale rule, by what came out and the first reason.",
		}, []string{"rule", "target", "action", "reason"}),
		applied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flyball_scale_applied_total",
			Help: "Changes of size that a scale rule asked its target for, by direction and result.",
		}, []string{"rule", "target", "direction", "result"}),
		journalErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flyball_scale_journal_errors_total",
			Help: "Decisions that could not be written to the journal.",
		}),
		stateErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flyball_scale_state_errors_total",
			Help: "Times that what scale rules remember besides the journal could not be saved.",
		}),
		unsaved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flyball_forecast_state_errors_total", Help: "Times that what forecast rules know could not be saved.",
		}),
		fitted: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "flyball_forecast_fit_duration_seconds", Help: "How long it took to fit the models of one series of a forecast rule.",
			Buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5},
		}),
		overruns: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flyball_forecast_fit_failures_total", Help: "Fits that took longer than two seconds, or failed: the forecast keeps the models of before.",
		}),
		scalers: map[string]*Scaler{},
	}
	reg.MustRegister(m.decisions, m.applied, m.journalErrors, m.stateErrors, m.fitted, m.overruns, m.unsaved, m)
	return m
}

// Output is a rule that writes series.
type Output interface {
	// Output returns what the last evaluation wrote.
	Output() []Sample
}

// Show makes these the rules whose series there are, scale rules and others. What counted the ones before goes on; the
// series of rules that are gone go with them.
func (m *Metrics) Show(scalers []*Scaler, others ...Output) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.others = others
	gone := m.scalers
	m.scalers = make(map[string]*Scaler, len(scalers))
	for _, s := range scalers {
		m.scalers[s.rule.Name] = s
		if old := gone[s.rule.Name]; old != nil && reflect.DeepEqual(old.rule.Target, s.rule.Target) {
			delete(gone, s.rule.Name)
		}
		if s.rule.ForEach != nil {
			continue // its targets come with the data
		}
		for _, direction := range []Action{Up, Down} {
			for _, result := range []Result{Applied, Failed} {
				m.applied.WithLabelValues(s.rule.Name, s.rule.Key(), string(direction), string(result))
			}
		}
	}
	for name, s := range gone {
		series := prometheus.Labels{"rule": name}
		if s.rule.ForEach == nil {
			series["target"] = s.rule.Key()
		}
		m.decisions.DeletePartialMatch(series)
		m.applied.DeletePartialMatch(series)
	}
}

func (m *Metrics) decided(d *Decision) {
	m.decisions.WithLabelValues(d.Rule, d.Target, string(d.Action), string(d.Reasons[0])).Inc()
	if d.Result == Applied || d.Result == Failed {
		m.applied.WithLabelValues(d.Rule, d.Target, string(d.Action), string(d.Result)).Inc()
	}
}

// help of the series that rules write to the store; /metrics shows their last values for a Prometheus elsewhere.
var help = map[string]string{
	"flyball_budget_limit_usd":                    "The budget's limit for a period.",
	"flyball_budget_spend_usd":                    "What was spent in the period so far.",
	"flyball_budget_forecast_usd":                 "What the period will come to, at the rate of the last day.",
	"flyball_budget_burn_rate":                    "How many times as fast as the limit allows money was spent within the window.",
	"flyball_budget_threshold_reached":            "1 from when the share of the limit is reached until the period ends or it is 5 points below.",
	"flyball_budget_used_up":                      "1 while a threshold that caps is reached.",
	"flyball_budget_cap_usd_per_hour":             "What the replicas of a scale rule may cost while the budget is used up.",
	"flyball_budget_period_end_timestamp_seconds": "When the period ends, in Unix time.",
	skillMetric:                                   "By how much the forecasts' recent error is below that of the last value and of an exponential mean, as a ratio; 0 or less is of no use.",
	armedMetric:                                   "1 while scale rules use the forecast, 0 while it is hardly better than the last value, or not known to be.",
	"flyball_forecast_coverage_ratio":             "How often the value stayed at or below the quantile, at about the lead.",
	"flyball_forecast_model_weight":               "The part that a model has in the forecast.",
	"flyball_forecast_season_seconds":             "Length of a season that the forecast uses.",
	"flyball_forecast_observed_value":             "The last value of the query that is forecast.",
	"flyball_forecast_lead_seconds":               "How far ahead the forecast at the horizon lead is.",
	"flyball_forecast_history_samples":            "Values that the forecast was made from so far.",
	"flyball_forecast_missing_samples_total":      "Steps at which the query had no value.",
	"flyball_forecast_anomaly_score":              "How many standard deviations the last value was off its forecast.",
	"flyball_forecast_anomalies_total":            "Values that were not as forecast, one an incident.",
	"flyball_forecast_last_fit_timestamp_seconds": "When the models were last fitted, in Unix time.",
	recommendedMetric:                             "1 while an optimize rule recommends something.",
	"flyball_scale_current_replicas":              "Replicas asked for.",
	"flyball_scale_ready_replicas":                "Replicas that serve.",
	"flyball_scale_overdue_replicas":              "Replicas that were asked for and do not serve, once the first of them is past the rule's progress deadline.",
	"flyball_scale_desired_replicas":              "Replicas that the rule wants.",
	"flyball_scale_shadow_replicas":               "Replicas that there would be had the rule acted since it began; of rules that only observe.",
	"flyball_scale_min_replicas":                  "The rule's lower bound.",
	"flyball_scale_max_replicas":                  "The rule's upper bound.",
	"flyball_scale_signal_value":                  "Value of a signal.",
	"flyball_scale_signal_proposal_replicas":      "Replicas that a signal asks for.",
	"flyball_scale_signal_armed":                  "1 while a signal's forecast is used, 0 while it is not armed or not there.",
	"flyball_scale_signal_confidence":             "How fresh and complete a signal's data is, from 0 to 1.",
	"flyball_scale_cost_usd_per_hour":             "What the replicas asked for cost, where the rule knows their price.",
	"flyball_scale_blocked":                       "1 while the reason keeps the size from what the signals ask for.",
	"flyball_scale_last_change_timestamp_seconds": "When the size was last changed, in Unix time.",
}

// OutputMetrics are the names of the series that rules which decide write to the store. A store that also scrapes /metrics of the
// same process would have them twice, and leaves them out there.
func OutputMetrics() []string { return slices.Sorted(maps.Keys(help)) }

// Describe implements prometheus.Collector as an unchecked one: which series there are depends on the rules.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	outputs := slices.Clone(m.others)
	for _, s := range m.scalers {
		outputs = append(outputs, s)
	}
	for _, o := range outputs {
		for _, sample := range o.Output() {
			name := sample.Labels.Get(labels.MetricName)
			var names, values []string
			sample.Labels.Range(func(l labels.Label) {
				if l.Name != labels.MetricName {
					names, values = append(names, l.Name), append(values, l.Value)
				}
			})
			kind, text := prometheus.GaugeValue, help[name]
			if strings.HasSuffix(name, "_total") {
				kind = prometheus.CounterValue
			}
			if text == "" {
				text = "What is forecast of a forecast rule's query, by quantile and horizon."
			}
			// A forecast has the labels of its query, which may be none that /metrics can show.
			if metric, err := prometheus.NewConstMetric(prometheus.NewDesc(name, text, names, nil), kind, sample.Value, values...); err == nil {
				ch <- metric
			}
		}
	}
}
