package forecast

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// Models are the names of the models that there are.
func Models() []string {
	return []string{
		"naive", "seasonal_naive", "ses", "holt", "holt_damped", "holt_winters", "holt_winters_damped",
		"holt_winters_multiplicative", "ets_ar", "ets_ar_mae", "ets_ar_damped",
	}
}

// kind is what a model's name stands for.
type kind struct {
	spec  Spec // without the seasons
	loss  Loss
	fixed *Params // not fitted
	most  int     // seasons that it takes
	plain string  // what it is without a season; itself if empty
}

func kindOf(name string) kind {
	switch name {
	case "naive":
		return kind{fixed: &Params{Alpha: 1, Phi: 1}}
	case "seasonal_naive":
		return kind{fixed: &Params{Phi: 1, Gamma: [2]float64{1}}, most: 1, plain: "naive"}
	case "ses":
		return kind{}
	case "holt":
		return kind{spec: Spec{Trend: true}}
	case "holt_damped":
		return kind{spec: Spec{Trend: true, Damped: true}}
	case "holt_winters":
		return kind{spec: Spec{Trend: true}, most: 1, plain: "holt"}
	case "holt_winters_damped":
		return kind{spec: Spec{Trend: true, Damped: true}, most: 2, plain: "holt_damped"}
	case "holt_winters_multiplicative":
		return kind{spec: Spec{Trend: true, Multiplicative: true}, most: 1, plain: "holt"}
	case "ets_ar":
		return kind{spec: Spec{AR: true}, most: 2}
	case "ets_ar_damped":
		return kind{spec: Spec{Trend: true, Damped: true, AR: true}, loss: MAE, most: 2}
	default: // ets_ar_mae
		return kind{spec: Spec{AR: true}, loss: MAE, most: 2}
	}
}

// plan is a member to fit.
type plan struct {
	name      string
	seasons   []int
	reference bool
}

// plainMembers are those of a pool that knows no season: with few values what needs no fit.
func plainMembers(many bool) []plan {
	if !many {
		return []plan{{name: "naive"}, {name: "ses"}}
	}
	return []plan{{name: "naive"}, {name: "ses"}, {name: "holt_damped"}, {name: "ets_ar_mae"}}
}

// newPool has the plans as they are before anything was seen.
func (f *Forecaster) newPool(plans []plan) pool {
	p := newPool(&f.o, f.halfLife)
	for _, m := range plans {
		p.add(unfitted(m))
	}
	return p
}

// unfitted is the member with the usual parameters and without seasons: an exponential mean, unless it is naive.
func unfitted(m plan) member {
	k := kindOf(m.name)
	e := member{name: m.name, reference: m.reference, model: Model{Params: Params{Alpha: 0.3, Phi: 1}}}
	if k.plain != "" {
		e.name = k.plain
		k = kindOf(k.plain)
	}
	if k.fixed != nil {
		e.model.Params = *k.fixed
	}
	return e
}

// minSeen is how many values it takes at least to tell a season that was named.
const minSeen = 8

// few is how many values it takes for a fit to be better than the usual parameters.
const few = 30

// early tells of a member that needs no fit, and has two full seasons among so few values.
func (m plan) early(there int) bool {
	return kindOf(m.name).fixed != nil && len(m.seasons) == 1 && there >= 2*m.seasons[0]
}

// Due says whether it is time for Refit: at 30 values, or at two of the shortest season if that is named and shorter, when
// there are two of a season for the first time, and every six hours (a quarter of the shortest season, where seasons are
// named; a day and a half at most), and when more of the regressors is known ahead than before.
func (f *Forecaster) Due() bool {
	if f.explicit && len(f.seasons) > 0 && len(f.found) == 0 && f.seen >= int64(max(2*f.seasons[0], minSeen)) {
		return true
	}
	return f.seen >= few && (int64(len(f.history.values)) >= f.nextFit || f.fitted >= f.refitEvery() || f.extra.surprised())
}

// refitEvery is after how many steps the models are fitted anew.
func (f *Forecaster) refitEvery() int64 {
	return max(1, min(int64(f.halfLife/4), int64(36*time.Hour/f.o.Step)))
}

// Refit looks in the history for seasons and for the parameters of each model, and lets all of them go through it again.
// It takes milliseconds to a tenth of a second. If ctx ends before, it fails and everything stays as it was.
func (f *Forecaster) Refit(ctx context.Context) error {
	if f.extra != nil {
		return f.extra.refit(ctx, f)
	}
	y := f.history.list()
	p, infos, err := f.fitPool(ctx, y, nil)
	if err != nil {
		return err
	}
	p.keep(&f.pool)
	f.pool = p
	f.found = infos
	f.fitted = 0
	f.nextFit = f.whenLarger(len(y))
	return nil
}

// observer lets a pool see the value at i of a history, and returns it as it was taken.
type observer func(p *pool, i int, v float64) float64

// fitPool fits a pool to the steps up to the last one, and says which seasons it has. If observe is nil, the pool sees the
// values as they are.
func (f *Forecaster) fitPool(ctx context.Context, y []float64, observe observer) (p pool, infos []Season, err error) {
	if observe == nil {
		observe = func(p *pool, _ int, v float64) float64 { return p.observe(v) }
	}
	there := 0
	for _, v := range y {
		if v == v {
			there++
		}
	}
	seeks := f.seeks(len(y))
	var used []int
	infos, used = f.findSeasons(y)
	var plans []plan
	if f.o.Model == "auto" {
		plans = plainMembers(there >= few)
		for _, m := range seasonalMembers(used, len(y)) {
			if there >= few || m.early(there) {
				plans = append(plans, m)
			}
		}
	} else {
		plans = f.named(len(y), used)
	}
	members, err := f.fitMembers(ctx, plans, y, seeks, there)
	if err != nil {
		return p, nil, err
	}
	p, taken := f.replay(members, y, seeks, observe)
	if taken != nil {
		// Values far out were drawn in: parameters are to be fitted to what was left of them.
		if members, err = f.fitMembers(ctx, plans, taken, seeks, there); err != nil {
			return p, nil, err
		}
		p, _ = f.replay(members, y, seeks, observe)
	}
	if f.o.Model == "auto" {
		if kept := fits(&p, f.earn(&p, infos, members)); len(kept) < len(members) {
			p, _ = f.replay(kept, y, seeks, observe)
		}
	} else {
		f.asNamed(infos, members)
	}
	return p, infos, nil
}

// whenLarger is how long the history will be when a fit can have more parts than one of n steps.
func (f *Forecaster) whenLarger(n int) int64 {
	next := int64(math.MaxInt64)
	for _, m := range append([]int{few / 2}, f.seasons...) {
		if n < 2*m && 2*m <= f.capacity {
			next = min(next, int64(2*m))
		}
	}
	return next
}

// seasonalMembers are the models for the seasons that were found in n steps. A longer season with few cycles, such as a
// week in three, has one model of its own and is else used together with the shorter one.
func seasonalMembers(used []int, n int) []plan {
	var plans []plan
	for i, m := range used {
		one := []int{m}
		plans = append(plans, plan{name: "seasonal_naive", seasons: one}, plan{name: "ets_ar_damped", seasons: one})
		if i > 0 {
			two := used[i-1 : i+1]
			plans = append(plans, plan{name: "ets_ar_mae", seasons: two}, plan{name: "ets_ar_damped", seasons: two})
			if n < 6*m {
				continue
			}
		}
		plans = append(plans, plan{name: "holt_winters_damped", seasons: one}, plan{name: "ets_ar", seasons: one},
			plan{name: "ets_ar_mae", seasons: one})
	}
	return plans
}

// named is the pool of one model, with the seasons that there are two of: the day if it is among them and the model
// takes one, the two longest if it takes two. Of those that nobody named it has the day, and others if they were found. The
// naive forecast is there to be compared with.
func (f *Forecaster) named(n int, found []int) []plan {
	p := plan{name: f.o.Model}
	k := kindOf(p.name)
	day := int(24 * time.Hour / f.o.Step)
	var have []int
	for _, m := range f.seasons {
		if n >= 2*m && (f.explicit || m == day || slices.Contains(found, m)) {
			have = append(have, m)
		}
	}
	switch {
	case k.most == 0:
	case len(have) == 0:
		if k.plain != "" {
			p.name = k.plain
		}
	case k.most == 1:
		p.seasons = have[len(have)-1:]
		if i := slices.Index(have, day); i >= 0 {
			p.seasons = have[i : i+1]
		}
	default:
		p.seasons = have[max(len(have)-2, 0):]
	}
	plans := []plan{p}
	for _, name := range []string{"naive", "ses"} {
		if p.name != name {
			plans = append(plans, plan{name: name, reference: true})
		}
	}
	return plans
}

func (f *Forecaster) fitMembers(ctx context.Context, plans []plan, y []float64, seeks []seek, there int) ([]member, error) {
	members := make([]member, 0, len(plans))
	for _, m := range plans {
		e, err := f.fitMember(ctx, m, y, seeks, there)
		if err != nil {
			return nil, err
		}
		members = append(members, e)
	}
	return members, nil
}

func (f *Forecaster) fitMember(ctx context.Context, m plan, y []float64, seeks []seek, there int) (member, error) {
	k := kindOf(m.name)
	k.spec.Seasons = m.seasons
	e := member{name: m.name, seasons: m.seasons, reference: m.reference}
	if there < few && !m.early(there) {
		return unfitted(m), nil
	}
	fit, err := newFitter(k.spec, y, seeks, FitOptions{Loss: k.loss, Horizon: f.o.Horizon})
	if err != nil {
		return e, fmt.Errorf("%s: %w", m.name, err)
	}
	p := k.fixed
	if p == nil {
		var last *Params
		for i := range f.pool.members {
			if o := &f.pool.members[i]; o.fitted && o.name == m.name && slices.Equal(o.seasons, m.seasons) {
				last = &o.model.Params
			}
		}
		got, err := fit.fit(ctx, last)
		if err != nil {
			return e, fmt.Errorf("%s: %w", m.name, err)
		}
		p = &got
	}
	e.model, e.fitted = *fit.model(*p), true
	if m.name == "seasonal_naive" {
		e.model.level = 0
		for i := range e.model.season[0] {
			e.model.season[0][i] += fit.level
		}
	}
	return e, nil
}

// worth is how much larger the recent error with a season may be, as a ratio, for its models to stay in the pool. They
// have to be clearly worse to go: an average over models with and without a weak season does better than either, on LLM
// demand by 3 % and on M4's hourly series by 6 % against dropping whatever is not 5 % better, and the weights do the rest.
const worth = 1.25

// earn drops the members with a season that makes the error clearly larger, the longest season first, and says so.
func (f *Forecaster) earn(p *pool, infos []Season, members []member) []member {
	out := make(map[int]bool)
	for i := len(infos) - 1; i >= 0; i-- {
		info := &infos[i]
		if !info.Used {
			continue
		}
		season := int(info.Period / f.o.Step)
		with, without := math.Inf(1), math.Inf(1)
		for k := range p.members {
			m := &p.members[k]
			e := p.mean(&m.err)
			switch {
			case slices.ContainsFunc(m.seasons, func(s int) bool { return out[s] }):
			case slices.Contains(m.seasons, season):
				with = min(with, e)
			default:
				without = min(without, e)
			}
		}
		switch {
		case math.IsInf(with, 1): // no member of the pool has it
			info.Used = false
			info.Reason = fmt.Sprintf("autocorrelation %.2f, and too few values for a model with it", info.Strength)
			continue
		case without > 0:
			info.Gain = 1 - with/without
		}
		info.Reason = fmt.Sprintf("autocorrelation %.2f, error %.3g with it, %.3g without", info.Strength, with, without)
		if with > worth*without {
			out[season] = true
			info.Used = false
		}
	}
	return slices.DeleteFunc(slices.Clone(members), func(m member) bool {
		return slices.ContainsFunc(m.seasons, func(s int) bool { return out[s] })
	})
}

// asNamed says of each season what the model that was named makes of it.
func (f *Forecaster) asNamed(infos []Season, members []member) {
	for i := range infos {
		info := &infos[i]
		season := int(info.Period / f.o.Step)
		if len(f.history.values) < 2*season {
			continue
		}
		has := slices.ContainsFunc(members, func(m member) bool {
			return slices.Contains(m.seasons, season)
		})
		not := ""
		if !has {
			not = "not "
		}
		info.Used, info.Reason = has, fmt.Sprintf("autocorrelation %.2f, %sused by %s", info.Strength, not, members[0].name)
	}
}

// fits drops the members that did worst until the seasons of the others are within maxSeasonal.
func fits(p *pool, members []member) []member {
	room := maxSeasonal
	weight := func(m member) float64 {
		for i := range p.members {
			if o := &p.members[i]; o.name == m.name && slices.Equal(o.seasons, m.seasons) {
				return o.weight
			}
		}
		return 0
	}
	byWeight := slices.Clone(members)
	slices.SortStableFunc(byWeight, func(a, b member) int { return cmp.Compare(weight(b), weight(a)) })
	return slices.DeleteFunc(byWeight, func(m member) bool {
		need := 0
		for _, n := range m.seasons {
			need += n
		}
		if need > room {
			return true
		}
		room -= need
		return false
	})
}

// replay lets the members go through the history. If values were far out, taken is the history as it was taken, else nil.
func (f *Forecaster) replay(members []member, y []float64, seeks []seek, observe observer) (p pool, taken []float64) {
	p = newPool(&f.o, f.halfLife)
	for _, m := range members {
		m.model = m.model.clone() // the start values may be needed again
		p.add(m)
	}
	// The season's start values know the values that they are made of.
	from := 0
	for _, m := range members {
		for _, s := range m.seasons {
			from = max(from, cyclesOf(len(y), s)*s)
		}
	}
	next := 0
	errs := [anchors][]float64{}
	for i, v := range y {
		if next < len(seeks) && seeks[next].index == i {
			p.position(seeks[next].position)
			next++
		}
		if i >= from {
			for a := range p.heads {
				if e := v - p.combined[a][p.at[a]]; e == e {
					errs[a] = append(errs[a], e)
				}
			}
		}
		if got := observe(&p, i, v); got != v && v == v {
			if taken == nil {
				taken = slices.Clone(y)
			}
			taken[i] = got
		}
	}
	for a := range p.heads {
		slices.Sort(errs[a])
		p.intervals.start(a, errs[a])
	}
	return p, taken
}

// seeks are the positions in the seasons of the last n steps.
func (f *Forecaster) seeks(n int) []seek {
	first := f.last - int64(n) + 1
	zone := f.zone(first)
	s := []seek{{0, first + zone}}
	if f.o.Location == time.UTC {
		return s
	}
	for i := range int64(n) {
		if z := f.zone(first + i); z != zone {
			zone = z
			s = append(s, seek{int(i), first + i + z})
		}
	}
	return s
}

// findSeasons tests the candidates.
func (f *Forecaster) findSeasons(y []float64) (infos []Season, used []int) {
	for _, m := range f.seasons {
		info := Season{Period: time.Duration(m) * f.o.Step}
		if len(y) < 2*m {
			info.Reason = fmt.Sprintf("%d steps are less than two of it, %d", len(y), 2*m)
			infos = append(infos, info)
			continue
		}
		info.Strength = strength(y, m)
		if limit := max(0.2, 1.96/math.Sqrt(float64(len(y)-m))); info.Strength <= limit {
			info.Reason = fmt.Sprintf("autocorrelation %.2f, not above %.2f", info.Strength, limit)
		} else {
			info.Used = true
			used = append(used, m)
		}
		infos = append(infos, info)
	}
	return infos, used
}

// strength is the autocorrelation at lag m of what y differs from its moving average over m, with what is far out drawn
// in.
func strength(y []float64, m int) float64 {
	d := make([]float64, len(y))
	sum, n := 0.0, 0.0
	add := func(i int, sign float64) {
		if i >= 0 && i < len(y) && y[i] == y[i] {
			sum += sign * y[i]
			n += sign
		}
	}
	half := m / 2
	for i := range half {
		add(i, 1)
	}
	sorted := make([]float64, 0, len(y))
	for i := range y {
		add(i+half, 1)
		add(i-half-1, -1)
		d[i] = math.NaN()
		if y[i] == y[i] && n > 0 {
			d[i] = y[i] - sum/n
			sorted = append(sorted, d[i])
		}
	}
	if len(sorted) < 4 {
		return 0
	}
	slices.Sort(sorted)
	lo, hi := sorted[len(sorted)/4], sorted[len(sorted)*3/4]
	lo, hi = lo-3*(hi-lo), hi+3*(hi-lo)
	for i := range d {
		d[i] = min(max(d[i], lo), hi)
	}
	var xy, xx float64
	for i, v := range d {
		if v == v {
			xx += v * v
			if i >= m && d[i-m] == d[i-m] {
				xy += v * d[i-m]
			}
		}
	}
	if xx == 0 {
		return 0
	}
	// The first season has no pair: what it lacks is made up for, though not beyond what a correlation can be.
	return min(1, xy/xx*float64(len(d))/float64(len(d)-m))
}
