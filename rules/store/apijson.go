package store

import (
	"bufio"
	"encoding/json"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/stats"

	"flyball/rules/promapi"
)

// queryData is the answer to a query. promql's own types know how to write themselves, but through encoding/json, which
// checks and copies each point several times.
type queryData struct {
	value parser.Value
	stats stats.QueryStats // nil: not asked for
}

// WriteJSON implements promapi.Data.
func (d queryData) WriteJSON(w *bufio.Writer) {
	_, _ = w.WriteString(`{"resultType":"` + string(d.value.Type()) + `","result":`)
	switch v := d.value.(type) {
	case promql.Matrix:
		_ = w.WriteByte('[')
		for i, series := range v {
			writeSeries(w, i > 0, series)
		}
		_ = w.WriteByte(']')
	case promql.Vector:
		_ = w.WriteByte('[')
		for i := range v {
			_, _ = w.Write(appendSample(w.AvailableBuffer(), i > 0, &v[i]))
		}
		_ = w.WriteByte(']')
	case promql.Scalar:
		_, _ = w.Write(appendPoint(w.AvailableBuffer(), v.T, v.V))
	case promql.String:
		b := append(promapi.AppendTime(append(w.AvailableBuffer(), '['), v.T), ',')
		_, _ = w.Write(append(promapi.AppendString(b, v.V), ']'))
	}
	if d.stats != nil {
		b, err := json.Marshal(d.stats)
		if err == nil {
			_, _ = w.WriteString(`,"stats":`)
			_, _ = w.Write(b)
		}
	}
	_ = w.WriteByte('}')
}

func writeSeries(w *bufio.Writer, more bool, s promql.Series) {
	b := w.AvailableBuffer()
	if more {
		b = append(b, ',')
	}
	_, _ = w.Write(appendLabels(append(b, `{"metric":`...), s.Metric))
	for i, p := range s.Floats {
		b := w.AvailableBuffer()
		if i == 0 {
			b = append(b, `,"values":[`...)
		} else {
			b = append(b, ',')
		}
		_, _ = w.Write(appendPoint(b, p.T, p.F))
	}
	if len(s.Floats) > 0 {
		_ = w.WriteByte(']')
	}
	for i, p := range s.Histograms {
		b := w.AvailableBuffer()
		if i == 0 {
			b = append(b, `,"histograms":[`...)
		} else {
			b = append(b, ',')
		}
		_, _ = w.Write(appendHistogramPoint(b, p.T, p.H))
	}
	if len(s.Histograms) > 0 {
		_ = w.WriteByte(']')
	}
	_ = w.WriteByte('}')
}

func appendSample(b []byte, more bool, s *promql.Sample) []byte {
	if more {
		b = append(b, ',')
	}
	b = appendLabels(append(b, `{"metric":`...), s.Metric)
	if s.H != nil {
		b = appendHistogramPoint(append(b, `,"histogram":`...), s.T, s.H)
	} else {
		b = appendPoint(append(b, `,"value":`...), s.T, s.F)
	}
	return append(b, '}')
}

func appendPoint(b []byte, t int64, v float64) []byte {
	b = append(promapi.AppendTime(append(b, '['), t), ',')
	return append(promapi.AppendValue(b, v), ']')
}

func appendLabels(b []byte, ls labels.Labels) []byte {
	b = append(b, '{')
	first := true
	ls.Range(func(l labels.Label) {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(promapi.AppendString(b, l.Name), ':')
		b = promapi.AppendString(b, l.Value)
	})
	return append(b, '}')
}

// appendHistogramPoint appends a time and a native histogram. Of a bucket: which of its bounds are part of it (0: the
// upper, 1: the lower, 2: neither, 3: both), the bounds, the count.
func appendHistogramPoint(b []byte, t int64, h *histogram.FloatHistogram) []byte {
	b = append(promapi.AppendTime(append(b, '['), t), `,{"count":`...)
	b = append(promapi.AppendValue(b, h.Count), `,"sum":`...)
	b = promapi.AppendValue(b, h.Sum)
	open := false
	for it := h.AllBucketIterator(); it.Next(); {
		bucket := it.At()
		if bucket.Count == 0 {
			continue
		}
		bounds := byte('2')
		switch {
		case bucket.LowerInclusive && bucket.UpperInclusive:
			bounds = '3'
		case bucket.LowerInclusive:
			bounds = '1'
		case bucket.UpperInclusive:
			bounds = '0'
		}
		if open {
			b = append(b, ',')
		} else {
			b = append(b, `,"buckets":[`...)
			open = true
		}
		b = append(b, '[', bounds, ',')
		b = append(promapi.AppendValue(b, bucket.Lower), ',')
		b = append(promapi.AppendValue(b, bucket.Upper), ',')
		b = append(promapi.AppendValue(b, bucket.Count), ']')
	}
	if open {
		b = append(b, ']')
	}
	return append(b, '}', ']')
}

// labelSets is the answer to a question for series.
type labelSets []labels.Labels

// WriteJSON implements promapi.Data.
func (l labelSets) WriteJSON(w *bufio.Writer) {
	_ = w.WriteByte('[')
	for i, ls := range l {
		b := w.AvailableBuffer()
		if i > 0 {
			b = append(b, ',')
		}
		_, _ = w.Write(appendLabels(b, ls))
	}
	_ = w.WriteByte(']')
}
