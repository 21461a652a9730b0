package model

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"flyball/exporter"
)

// table says for each name of a sample what it is for.
type table struct {
	engine  *engine // nil while it is not known
	sources []placed
	uses    map[string][]use // by name as normal makes it
}

// placed is a source with the place of its field.
type placed struct {
	source
	at     int    // in fields
	factor factor // of scale
	id     string // label with what tells accelerators apart
}

// use is what a sample is for.
type use struct {
	source int // in table.sources
	part   part
}

// part is which part of its source's value a sample is.
type part int

const (
	whole part = iota
	bucket
	sum
	count
	quantile
)

// newTable makes the table of an engine; nil for what is not known yet. What the configuration maps goes before it.
func newTable(e *engine, mapping map[string]exporter.MetricMapping) *table {
	t := &table{engine: e, uses: map[string][]use{}}
	for _, name := range slices.Sorted(maps.Keys(mapping)) {
		m := mapping[name]
		s := source{field: name, metric: m.Metric, match: m.Labels, scale: m.Scale, count: m.Count}
		switch m.Type {
		case "summary":
			s.as = quantified
		case "counter":
			if m.Count != "" {
				s.as = pair
			}
		}
		t.add(s, m.ID)
	}
	if e != nil {
		for _, s := range e.sources {
			if _, ours := mapping[s.field]; !ours {
				t.add(s, "")
			}
		}
	}
	return t
}

func (t *table) add(s source, id string) {
	i := len(t.sources)
	at := fieldIndex(s.field)
	t.sources = append(t.sources, placed{source: s, at: at, factor: newFactor(s.scale), id: id})
	put := func(name string, p part) {
		name = normal(name)
		t.uses[name] = append(t.uses[name], use{i, p})
	}
	switch {
	case s.as == pair, s.as == share, s.as == growth:
		put(s.metric, sum)
		put(s.count, count)
	case s.as == quantified:
		put(s.metric, quantile)
		put(s.metric+sumEnd, sum)
		put(s.metric+countEnd, count)
	case fields[at].kind == histogram:
		put(s.metric+bucketEnd, bucket)
		put(s.metric+sumEnd, sum)
		put(s.metric+countEnd, count)
		put(s.metric, quantile) // some versions have a summary where others have a histogram
	default:
		put(s.metric, whole)
	}
}

// matches reports whether a series is one that the source is about.
func (s *placed) matches(ls labels.Labels) bool {
	for name, want := range s.match {
		got := ls.Get(name)
		if got != want && !slices.Contains(strings.Split(want, "|"), got) {
			return false
		}
	}
	return true
}

// factor is a number to multiply by. Where it is one part of a whole number, dividing by that is exact: 5000 microseconds
// are 0.005 seconds, not 0.0049999999999999.
type factor struct{ times, by float64 }

func newFactor(scale float64) factor {
	scale = cmp.Or(scale, 1)
	if by := math.Round(1 / scale); scale < 1 && math.Abs(by*scale-1) < 1e-9 {
		return factor{1, by}
	}
	return factor{scale, 1}
}

func (f factor) of(v float64) float64 { return v * f.times / f.by }
