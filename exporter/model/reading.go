package model

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	native "github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"flyball/exporter"
)

// reading takes the samples of a page, and those of the next. What was found out about a series stays until a page has it no
// more, so that a page like the one before costs a look-up for each line.
type reading struct {
	config *exporter.ModelServer
	table  *table

	page     uint64             // counts pages
	now      time.Time          // when this one came
	names    map[string]*name   // by name on the page
	families map[string]*seen   // of the page, by name
	series   map[string]*series // those that are for something, by their text
	values   map[key]*value
	taken    int      // series of this page
	own      bool     // the page has a name of the table's engine
	backend  *engine  // whose names it has beside; nil for none
	has      []string // prefixes of source.needs that are on the page
	family   string   // of the last line that tells a type
	ls       labels.Labels
}

// name is a name of samples.
type name struct {
	known   string // as normal makes it
	page    uint64 // that had it last
	uses    []use
	engine  *engine // whose it is; nil for none
	family  *seen   // nil where it is not counted
	present string  // the prefix of source.needs that it has
}

// seen is a family of the page.
type seen struct {
	name   string
	page   uint64
	mapped bool
}

// series is a series of the page that is for something.
type series struct {
	page uint64
	adds []add
}

// add is what a series' value is added to.
type add struct {
	value *value
	use   use
	at    float64 // the bound of the bucket, in the field's unit, or the quantile
}

// key is what a value is of.
type key struct {
	source         int
	model, version string
	label          string // the value of the field's own label
	part           string // of those that tell of different requests, of which ranks there are
	rank           string // of those that tell of the same
}

// value is what came together of one source for one model.
type value struct {
	key
	page uint64               // that it is of
	from [quantile + 1]string // the metrics of the page that its parts are from
	err  string               // why it cannot be published

	number       float64
	sum, count   float64
	has          [quantile + 1]bool
	buckets      []point
	quantiles    []point
	before       struct{ sum, count float64 } // of the page before, where it was complete
	beforeThere  bool
	native       *native.FloatHistogram // all of natives together; nil where there are none
	nativeBefore *native.FloatHistogram // that of the page before
	peaks        [peakSlots]peak
	natives      int    // series that have a native histogram
	counts       int    // series that have a count
	beside       *value // where the quantiles are; nil where there are none
}

// point is a bucket or a quantile.
type point struct {
	at    float64
	value float64
	of    int // series that have it
}

// maxNames is how many names are kept of a page that are not for anything: it bounds memory, and nothing that is published
// depends on it but flyball_model_scrape_unmapped_families, which then stays at that.
const maxNames = 10_000

func newReading(config *exporter.ModelServer) *reading {
	r := &reading{config: config}
	r.reset()
	return r
}

// reset forgets all.
func (r *reading) reset() {
	var e *engine
	if r.config.Engine != "auto" {
		e = engineNamed(r.config.Engine)
	}
	r.table = newTable(e, r.config.Mapping)
	r.names, r.families, r.series, r.values = map[string]*name{}, map[string]*seen{}, map[string]*series{}, map[key]*value{}
}

// begin begins a page.
func (r *reading) begin() {
	r.page++
	r.taken, r.family, r.own, r.backend, r.now = 0, "", false, nil, time.Now()
	r.has = r.has[:0]
}

// take takes one sample: the text of its series, with its name first, and a value.
func (r *reading) take(p textparse.Parser, text []byte, v float64) error {
	raw := nameIn(text)
	n := r.names[string(raw)]
	if n == nil {
		n = r.newName(string(raw))
	}
	if n.page != r.page {
		if err := r.meet(n); err != nil {
			return err
		}
	}
	if len(n.uses) == 0 {
		return nil
	}
	s := r.series[string(text)]
	if s == nil {
		if len(r.series) >= 2*r.config.MaxSeries { // those of the page before are still there
			return r.tooMany()
		}
		s = &series{}
		if err := r.place(p, string(raw), n, s); err != nil {
			return err
		}
		r.series[string(text)] = s
	}
	if s.page == r.page {
		return nil // twice on one page: the first counts
	}
	s.page = r.page
	if len(s.adds) == 0 {
		return nil
	}
	if r.taken++; r.taken > r.config.MaxSeries {
		return r.tooMany()
	}
	for i := range s.adds {
		s.adds[i].value.add(r, &s.adds[i], v)
	}
	return nil
}

func (r *reading) tooMany() error {
	return fmt.Errorf("the page has more than %d series that are for something (max_series)", r.config.MaxSeries)
}

// nameIn is the name at the beginning of a series' text.
func nameIn(text []byte) []byte {
	for i, c := range text {
		if c == '{' || c == ' ' || c == '\t' || c == 0xff { // the last is what textparse puts there for protobuf
			return text[:i]
		}
	}
	return text
}

func (r *reading) newName(raw string) *name {
	n := &name{known: normal(raw)}
	n.engine = engineOf(n.known)
	r.look(n)
	if len(r.names) < maxNames {
		r.names[raw] = n
		n.family = r.newFamily(raw)
	}
	return n
}

// look looks a name up in the table.
func (r *reading) look(n *name) {
	n.uses = r.table.uses[n.known]
	for i := range r.table.sources {
		for _, prefix := range r.table.sources[i].needs {
			if strings.HasPrefix(n.known, prefix) {
				n.present = prefix
			}
		}
	}
}

// newFamily is the family that a name is of; nil for one that is not counted.
func (r *reading) newFamily(raw string) *seen {
	family := raw
	if end, found := strings.CutPrefix(raw, r.family); found && r.family != "" {
		switch end {
		case "", bucketEnd, sumEnd, countEnd, "_total", "_created", "_info":
			family = r.family
		}
	}
	if strings.HasSuffix(raw, "_created") {
		return nil
	}
	for _, prefix := range runtimes {
		if strings.HasPrefix(family, prefix) {
			return nil
		}
	}
	f := r.families[family]
	if f == nil {
		f = &seen{name: family}
		r.families[family] = f
	}
	return f
}

// meet notes that a page has a name.
func (r *reading) meet(n *name) error {
	n.page = r.page
	if n.engine != nil && r.config.Engine == "auto" {
		switch {
		case r.table.engine == nil:
			r.table = newTable(n.engine, r.config.Mapping) // what is mapped stays where it is, and all else has the engine's names
			r.look(n)
			r.own = true
		case r.table.engine == n.engine:
			r.own = true
		case n.engine.name == r.table.engine.backend:
			r.backend = n.engine
		case r.table.engine.name == n.engine.backend: // it is on the page of that one
			r.reset()
			r.table = newTable(n.engine, r.config.Mapping)
			return errOther
		case !r.own: // else it is a page of both, such as Triton's with a backend of vLLM
			from := r.table.engine.name
			r.reset()
			return fmt.Errorf("the page was one of %s before and is one of %s now: it is read from the next time on", from, n.engine.name)
		}
	}
	if n.present != "" {
		r.has = append(r.has, n.present)
	}
	if n.family != nil {
		n.family.page = r.page
		n.family.mapped = n.family.mapped || len(n.uses) > 0
	}
	return nil
}

// errOther says that the page turned out to be one of another engine than its first lines: what it has is taken when it is read again.
var errOther = errors.New("the page is one of another engine than its first lines")

// place finds what a series is for.
func (r *reading) place(p textparse.Parser, raw string, n *name, s *series) error {
	p.Labels(&r.ls)
	for _, u := range n.uses {
		src := &r.table.sources[u.source]
		if !src.matches(r.ls) {
			continue
		}
		a := add{use: u}
		text := ""
		switch u.part {
		case bucket:
			text = r.ls.Get(labels.BucketLabel)
		case quantile:
			text = r.ls.Get("quantile")
			if text == "" {
				continue // another type than is known of it
			}
		}
		if u.part == bucket || u.part == quantile {
			at, err := strconv.ParseFloat(text, 64)
			if err != nil || math.IsNaN(at) || u.part == quantile && (at < 0 || at > 1) {
				return fmt.Errorf("%s: %q is not a bound", raw, text)
			}
			a.at = at
			if u.part == bucket {
				a.at = src.factor.of(at)
			}
		}
		a.value = r.valueOf(u.source, src)
		switch from := &a.value.from[u.part]; *from {
		case "":
			*from = raw
		case raw:
		default:
			continue // the same under another name: Ray has every counter with _total and without
		}
		s.adds = append(s.adds, a)
	}
	return nil
}

// valueOf is the value that the series of r.ls is of.
func (r *reading) valueOf(source int, src *placed) *value {
	k := r.keyOf(source, src)
	v := r.values[k]
	if v == nil {
		v = &value{key: k}
		r.values[k] = v
	}
	return v
}

// keyOf says what the series of r.ls is of.
func (r *reading) keyOf(i int, src *placed) key {
	k := key{source: i, model: r.config.Model}
	e := r.table.engine
	if k.model == "" && r.config.Label != "" {
		k.model = r.ls.Get(r.config.Label)
	}
	if e != nil {
		for _, label := range e.model {
			if k.model == "" && r.config.Label == "" {
				k.model = r.ls.Get(label)
			}
		}
		if e.version != "" {
			k.version = r.ls.Get(e.version)
		}
		for _, label := range e.ranks {
			if rank := r.ls.Get(label); rank != "" {
				k.rank += rank + "\xff"
			}
		}
		for _, label := range e.parts {
			k.part += r.ls.Get(label) + "\xff"
		}
	}
	if k.model == "" {
		k.model = r.config.Name
	}
	switch f := &fields[src.at]; {
	case src.id != "":
		k.label = r.ls.Get(src.id)
	case src.label != "":
		k.label = r.ls.Get(src.label)
	case f.value != "":
		k.label = f.value
	default:
		k.label = src.value
	}
	return k
}

// add adds what a series has on this page.
func (v *value) add(r *reading, a *add, number float64) {
	src := &r.table.sources[a.use.source]
	v.begin(r)
	if math.IsNaN(number) {
		if a.use.part != quantile { // of a summary without a request lately, which is no fault
			v.err = "its value is NaN"
		}
		return
	}
	first := !v.has[a.use.part]
	v.has[a.use.part] = true
	switch a.use.part {
	case whole:
		number = src.factor.of(number)
		if fields[src.at].kind == ratio && !first {
			number = max(number, v.number)
		} else if !first {
			number += v.number
		}
		v.number = number
	case sum:
		v.sum += src.factor.of(number)
	case count:
		v.count += number
		v.counts++
	case bucket:
		v.buckets = put(v.buckets, a.at, number, 1)
	case quantile:
		v.quantiles = put(v.quantiles, a.at, src.factor.of(number), 1)
	}
}

// begin begins a page.
func (v *value) begin(r *reading) {
	if v.page == r.page {
		return
	}
	v.beforeThere = v.page == r.page-1 && v.has[sum] && v.has[count]
	v.before.sum, v.before.count = v.sum, v.count
	v.number, v.sum, v.count, v.has = 0, 0, 0, [quantile + 1]bool{}
	for i := range v.buckets {
		v.buckets[i].value, v.buckets[i].of = 0, 0
	}
	for i := range v.quantiles {
		v.quantiles[i].value, v.quantiles[i].of = 0, 0
	}
	v.nativeBefore = nil
	if v.page == r.page-1 && v.wholeNative() {
		v.nativeBefore = v.native
	}
	v.page, v.err = r.page, ""
	v.native, v.natives, v.counts = nil, 0, 0
}

// put adds to the point at a bound. There are some twenty of a histogram, and they come in their order.
func put(points []point, at, number float64, of int) []point {
	i := 0
	for i < len(points) && points[i].at < at {
		i++
	}
	if i == len(points) || points[i].at != at {
		points = append(points, point{})
		copy(points[i+1:], points[i:])
		points[i] = point{at: at}
	}
	points[i].value += number
	points[i].of += of
	return points
}

// end forgets what the page had no more.
func (r *reading) end() {
	for text, n := range r.names {
		if n.page != r.page {
			delete(r.names, text)
		}
	}
	for text, s := range r.series {
		if s.page != r.page {
			delete(r.series, text)
		}
	}
	before := len(r.values)
	for k, v := range r.values {
		if v.page != r.page {
			delete(r.values, k)
		}
	}
	if len(r.values) < before {
		clear(r.series) // one that was for nothing beside a value may be that value now
	}
	for text, f := range r.families {
		if f.page != r.page {
			delete(r.families, text)
		}
	}
}
