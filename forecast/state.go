package forecast

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"time"
)

// stateVersion is the version of what MarshalBinary writes. Another is refused: a forecaster that is fitted anew from
// history is better than one that misread its past.
const stateVersion = 2

// stateMagic begins a state.
const stateMagic = "flyball forecast"

// MarshalBinary is all that the forecaster knows, options included. What UnmarshalBinary makes of it forecasts the same,
// bit for bit, and marshals to the same bytes. It fails if the location has no name by which it can be loaded.
func (f *Forecaster) MarshalBinary() ([]byte, error) {
	if _, err := time.LoadLocation(f.o.Location.String()); err != nil {
		return nil, fmt.Errorf("location %s: %w", f.o.Location, err)
	}
	c := &codec{writing: true, b: make([]byte, 0, f.size())}
	c.b = append(c.b, stateMagic...)
	f.code(c)
	return binary.LittleEndian.AppendUint32(c.b, crc32.ChecksumIEEE(c.b)), nil
}

// size is about how long the state is.
func (f *Forecaster) size() int {
	n := 1024 + 4*f.capacity
	for i := range f.pool.members {
		m := &f.pool.members[i]
		n += 256 + 8*(len(m.model.season[0])+len(m.model.season[1])+anchors*f.o.Horizon)
	}
	return n
}

// UnmarshalBinary makes the forecaster what MarshalBinary saved. When its events are on is not part of that: a forecaster
// that was made by New keeps the events of its options, with what was learned of those of the same name; any other has the
// events that were saved, which never are. It fails, and changes nothing, if b is not that, whole and of this version.
func (f *Forecaster) UnmarshalBinary(b []byte) error {
	n := len(b) - 4
	if n < len(stateMagic) || string(b[:len(stateMagic)]) != stateMagic {
		return errors.New("not the state of a forecaster")
	}
	if crc32.ChecksumIEEE(b[:n]) != binary.LittleEndian.Uint32(b[n:]) {
		return errors.New("state of a forecaster: damaged or cut short")
	}
	got := Forecaster{o: Options{Step: f.o.Step, Events: f.o.Events}}
	c := &codec{b: b[len(stateMagic):n]}
	got.code(c)
	if c.err == nil && len(c.b) > 0 {
		c.err = fmt.Errorf("%d bytes too many", len(c.b))
	}
	if c.err != nil {
		return fmt.Errorf("state of a forecaster: %w", c.err)
	}
	*f = got
	return nil
}

// code writes or reads the whole state: one list of fields for both, so that they cannot differ.
func (f *Forecaster) code(c *codec) {
	version := int64(stateVersion)
	if c.int(&version); version != stateVersion {
		c.fail(fmt.Errorf("version %d, this is %d", version, stateVersion))
		return
	}
	f.codeOptions(c)
	if c.err != nil {
		return
	}
	for _, v := range []*int64{&f.phase, &f.last, &f.offset, &f.seen, &f.missing, &f.ignored, &f.fitted, &f.nextFit} {
		c.int(v)
	}
	c.bool(&f.begun)
	c.count(&f.stale, jump)
	c.count(&f.gap, math.MaxInt32)
	c.singles(&f.history.values, f.capacity)
	c.count(&f.history.head, f.capacity)
	if c.err == nil && f.history.head >= max(len(f.history.values), 1) {
		c.fail(fmt.Errorf("history starts at %d of %d", f.history.head, len(f.history.values)))
	}
	n := len(f.found)
	c.count(&n, len(f.seasons))
	if !c.writing {
		f.found = make([]Season, n)
	}
	for i := range f.found {
		s := &f.found[i]
		period := int64(s.Period)
		c.int(&period)
		s.Period = time.Duration(period)
		c.bool(&s.Used)
		c.float(&s.Strength)
		c.float(&s.Gain)
		c.string(&s.Reason)
	}
	f.pool.code(c, f.seasons)
	f.codeFactors(c)
}

// codeFactors is what is known of events and regressors.
func (f *Forecaster) codeFactors(c *codec) {
	x := f.extra
	if x == nil || c.err != nil {
		return
	}
	if !c.writing {
		x.calendar.at(f.step, f.phase)
	}
	c.int(&x.prev)
	c.int(&x.seen)
	c.bool(&x.trained)
	c.bool(&x.begun)
	c.float(&x.mean)
	for a, h := range f.pool.heads {
		c.count(&x.at[a], h-1)
		for _, v := range [][]float64{x.factor[a], x.effect[a], x.own[a], x.naive[a], x.smooth[a]} {
			c.fixed(v)
		}
		for _, v := range []*float64{
			&x.live.n[a], &x.live.own[a], &x.live.naive[a], &x.live.smooth[a], &x.with[a], &x.bare[a],
		} {
			c.float(v)
		}
	}
	if x.without == nil {
		return
	}
	c.float(&x.judged)
	c.bool(&x.use)
	c.count(&x.known, mostAhead)
	c.count(&x.assumed, mostAhead)
	c.int(&x.from)
	n := len(x.ahead)
	c.count(&n, len(x.names))
	if !c.writing && n > 0 {
		x.ahead = make([][]float64, n)
	}
	for i := range x.ahead {
		c.floats(&x.ahead[i], mostAhead)
	}
	for i := range x.columns {
		c.singles(&x.columns[i].values, f.capacity)
		c.count(&x.columns[i].head, f.capacity)
		if c.err == nil && (len(x.columns[i].values) != len(f.history.values) || x.columns[i].head != f.history.head) {
			c.fail(fmt.Errorf("regressor %s: %d values where the series has %d", x.names[i], len(x.columns[i].values), len(f.history.values)))
		}
		c.float(&x.last[i])
		c.int(&x.lastAt[i])
	}
	x.reg.code(c)
	x.without.code(c, f.seasons)
}

func (r *regression) code(c *codec) {
	c.bool(&r.fixed)
	for _, v := range []*float64{&r.ySeen, &r.yMean, &r.ySqr} {
		c.float(v)
	}
	for i := range r.n {
		c.bool(&r.begun[i])
		for _, v := range []*float64{&r.seen[i], &r.mean[i], &r.square[i], &r.slow[i], &r.beta[i]} {
			c.float(v)
		}
		c.fixed(r.p[i][:r.n])
	}
}

func (l *lift) code(c *codec) {
	c.bool(&l.known)
	c.bool(&l.open)
	for _, v := range []*float64{&l.prior, &l.sum, &l.weight, &l.faded, &l.over, &l.all, &l.whole, &l.there} {
		c.float(v)
	}
	for _, v := range []*int64{&l.seen, &l.first, &l.n, &l.done} {
		c.int(v)
	}
	c.floats(&l.base, longestOccurrence)
}

// codeEvents are the names of the events and what was learned of each.
func (f *Forecaster) codeEvents(c *codec, own []Event) (events []Event, lifts []lift) {
	n := len(f.o.Events)
	c.count(&n, maxEvents)
	for i := range n {
		var e Event
		var l lift
		if c.writing {
			e, l = f.o.Events[i], f.extra.lifts[i]
		}
		c.string(&e.Name)
		c.float(&e.Lift)
		if l.code(c); c.err != nil {
			return nil, nil
		}
		events, lifts = append(events, e), append(lifts, l)
	}
	if own == nil {
		return events, lifts
	}
	mine := make([]lift, len(own))
	for i, e := range own {
		mine[i] = newLift(e)
		for j := range events {
			if events[j].Name == e.Name {
				l := lifts[j]
				l.prior, l.known = mine[i].prior, mine[i].known
				mine[i] = l
			}
		}
	}
	return own, mine
}

func (f *Forecaster) codeOptions(c *codec) {
	o := f.o
	own := o.Events
	if !c.writing && o.Step > 0 && own == nil {
		own = []Event{}
	}
	events, lifts := f.codeEvents(c, own)
	regressors := len(o.Regressors)
	c.count(&regressors, maxRegressors)
	if !c.writing {
		o = Options{Events: events, Regressors: make([]string, regressors)}
	}
	for i := range o.Regressors {
		c.string(&o.Regressors[i])
	}
	step, n, location := int64(o.Step), len(o.Seasons), ""
	if c.writing {
		location = o.Location.String()
	}
	explicit := o.Seasons != nil
	c.int(&step)
	c.count(&o.Horizon, maxHorizon)
	c.bool(&explicit)
	c.count(&n, maxCandidates)
	if !c.writing && explicit {
		o.Seasons = make([]time.Duration, n)
	}
	for i := range o.Seasons {
		d := int64(o.Seasons[i])
		c.int(&d)
		o.Seasons[i] = time.Duration(d)
	}
	c.floats(&o.Levels, maxLevels)
	c.string(&o.Model)
	c.string(&location)
	c.bool(&o.AllowNegative)
	if c.writing || c.err != nil {
		return
	}
	o.Step = time.Duration(step)
	var err error
	if o.Location, err = time.LoadLocation(location); err != nil {
		c.fail(fmt.Errorf("location %q: %w", location, err))
		return
	}
	made, err := New(o)
	if err != nil {
		c.fail(err)
		return
	}
	*f = *made
	if f.extra != nil {
		f.extra.lifts = lifts
	}
}

func (p *pool) code(c *codec, candidates []int) {
	n := len(p.members)
	c.count(&n, 64)
	if !c.writing {
		p.members = make([]member, n)
	}
	c.bool(&p.started)
	out := int64(p.out)
	c.int(&out)
	p.out = int(min(max(out, -math.MaxInt32), math.MaxInt32))
	for a, h := range p.heads {
		c.count(&p.at[a], h-1)
		c.float(&p.count[a])
		c.fixed(p.combined[a])
		for _, v := range []*float64{
			&p.err[a], &p.live.n[a], &p.live.own[a], &p.live.naive[a], &p.live.smooth[a],
		} {
			c.float(v)
		}
		r := &p.intervals.rows[a]
		c.fixed(r.q)
		c.fixed(r.below)
		c.float(&r.scale)
		c.float(&r.n)
		c.float(&r.live)
	}
	for i := range p.members {
		if p.members[i].code(c, p.heads, candidates); c.err != nil {
			return
		}
	}
}

func (m *member) code(c *codec, heads, candidates []int) {
	c.string(&m.name)
	n := len(m.seasons)
	c.count(&n, 2)
	if !c.writing && n > 0 {
		m.seasons = make([]int, n)
	}
	for i := range m.seasons {
		c.count(&m.seasons[i], maxSeason)
		if c.err == nil && !slices.Contains(candidates, m.seasons[i]) {
			c.fail(fmt.Errorf("season of %d steps: there are %v", m.seasons[i], candidates))
		}
	}
	if c.err == nil && !slices.Contains(Models(), m.name) {
		c.fail(fmt.Errorf("model %q: there are %v", m.name, Models()))
	}
	if c.err != nil {
		return
	}
	c.bool(&m.fitted)
	c.bool(&m.reference)
	c.float(&m.weight)
	for a, h := range heads {
		c.float(&m.err[a])
		if !c.writing {
			m.pending[a] = make([]float64, h)
		}
		c.fixed(m.pending[a])
	}
	s := &m.model
	for _, v := range []*float64{
		&s.Alpha, &s.Beta, &s.Phi, &s.Gamma[0], &s.Gamma[1], &s.Rho, &s.level, &s.slope, &s.residual,
	} {
		c.float(v)
	}
	c.bool(&s.multiplicative)
	c.bool(&s.started)
	for i, n := range m.seasons {
		if !c.writing {
			s.season[i] = make([]float64, n)
		}
		c.fixed(s.season[i])
		c.count(&s.at[i], n-1)
	}
	if !c.writing {
		m.prepare(heads)
	}
}

// codec writes fields to b, or reads them from it. After an error it does nothing.
type codec struct {
	b       []byte
	writing bool
	err     error
}

func (c *codec) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

var errShort = errors.New("cut short")

func (c *codec) word(v uint64) uint64 {
	switch {
	case c.err != nil:
	case c.writing:
		c.b = binary.LittleEndian.AppendUint64(c.b, v)
	case len(c.b) < 8:
		c.fail(errShort)
		return 0
	default:
		v = binary.LittleEndian.Uint64(c.b)
		c.b = c.b[8:]
	}
	return v
}

func (c *codec) int(v *int64)     { *v = int64(c.word(uint64(*v))) }
func (c *codec) float(v *float64) { *v = math.Float64frombits(c.word(math.Float64bits(*v))) }

func (c *codec) bool(v *bool) {
	n := 0
	if *v {
		n = 1
	}
	c.count(&n, 1)
	*v = n == 1
}

// count is a number from 0 to most.
func (c *codec) count(v *int, most int) {
	n := int64(*v)
	c.int(&n)
	if c.err == nil && (n < 0 || n > int64(most)) {
		c.fail(fmt.Errorf("%d where at most %d can be", n, most))
	}
	if c.err != nil {
		n = 0
	}
	*v = int(n)
}

// fixed are floats whose number is known.
func (c *codec) fixed(v []float64) {
	for i := range v {
		c.float(&v[i])
	}
}

// floats are at most most of them.
func (c *codec) floats(v *[]float64, most int) {
	n := len(*v)
	c.count(&n, most)
	if c.err == nil && !c.writing {
		if n > len(c.b)/8 {
			c.fail(errShort)
			return
		}
		*v = slices.Grow((*v)[:0], n)[:n]
	}
	c.fixed(*v)
}

// singles are at most as many as v has room for, in half the space.
func (c *codec) singles(v *[]float32, most int) {
	n := len(*v)
	c.count(&n, most)
	switch {
	case c.err != nil:
	case c.writing:
		for _, x := range *v {
			c.b = binary.LittleEndian.AppendUint32(c.b, math.Float32bits(x))
		}
	case n > len(c.b)/4:
		c.fail(errShort)
	default:
		for i := range n {
			*v = append(*v, math.Float32frombits(binary.LittleEndian.Uint32(c.b[4*i:])))
		}
		c.b = c.b[4*n:]
	}
}

func (c *codec) string(v *string) {
	n := len(*v)
	c.count(&n, 1<<16)
	switch {
	case c.err != nil:
	case c.writing:
		c.b = append(c.b, *v...)
	case n > len(c.b):
		c.fail(errShort)
	default:
		*v = string(c.b[:n])
		c.b = c.b[n:]
	}
}
