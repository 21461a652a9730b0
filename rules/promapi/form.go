package promapi

import (
	"net/url"
	"strconv"
	"time"
)

// Form returns the parameters that ask Prometheus's API the same.
func (q Query) Form() url.Values {
	form := url.Values{"query": {q.Expr}, "time": {formTime(q.Time)}}
	return options(form, q.Lookback, q.Limit, q.Stats)
}

// Form returns the parameters that ask Prometheus's API the same.
func (q Range) Form() url.Values {
	form := url.Values{"query": {q.Expr}, "start": {formTime(q.Start)}, "end": {formTime(q.End)}, "step": {formDuration(q.Step)}}
	return options(form, q.Lookback, q.Limit, q.Stats)
}

// Form returns the parameters that ask Prometheus's API the same.
func (q Exemplars) Form() url.Values {
	form := url.Values{"query": {q.Expr}}
	return between(form, q.Start, q.End)
}

// Form returns the parameters that ask Prometheus's API the same.
func (s Selection) Form() url.Values {
	form := url.Values{}
	if len(s.Match) > 0 {
		form["match[]"] = s.Match
	}
	if s.Limit > 0 {
		form.Set("limit", strconv.Itoa(s.Limit))
	}
	return between(form, s.Start, s.End)
}

// Form returns the parameters that ask Prometheus's API the same.
func (f MetadataFilter) Form() url.Values {
	form := url.Values{}
	if f.Metric != "" {
		form.Set("metric", f.Metric)
	}
	if f.Limit >= 0 {
		form.Set("limit", strconv.Itoa(f.Limit))
	}
	if f.LimitPerMetric >= 0 {
		form.Set("limit_per_metric", strconv.Itoa(f.LimitPerMetric))
	}
	return form
}

func options(form url.Values, lookback time.Duration, limit int, stats bool) url.Values {
	if lookback != 0 {
		form.Set("lookback_delta", formDuration(lookback))
	}
	if limit > 0 {
		form.Set("limit", strconv.Itoa(limit))
	}
	if stats {
		form.Set("stats", "all")
	}
	return form
}

// between adds a range of time, as far as it is limited.
func between(form url.Values, start, end time.Time) url.Values {
	if start.After(MinTime) {
		form.Set("start", formTime(start))
	}
	if end.Before(MaxTime) {
		form.Set("end", formTime(end))
	}
	return form
}

func formTime(at time.Time) string { return string(AppendTime(nil, at.UnixMilli())) }

func formDuration(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }
