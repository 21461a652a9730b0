package report

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Severities of a Finding.
const (
	Critical = "critical" // requests are refused
	Warning  = "warning"  // requests wait, or much money goes for nothing
	Info     = "info"
)

// Check is something that was looked for.
type Check struct {
	Name string `json:"name"`

	// NotMeasured says why it could not be looked for; empty where it was.
	NotMeasured string   `json:"not_measured,omitempty"`
	Finding     *Finding `json:"finding,omitempty"` // nil: there is none of it
}

// Finding is something that is not as it should be.
type Finding struct {
	Severity       string     `json:"severity"`
	Title          string     `json:"title"`
	When           []Span     `json:"when"`
	Evidence       []Evidence `json:"evidence"`
	Recommendation string     `json:"recommendation"`
	Keys           []string   `json:"keys"` // of files, and flags, that the recommendation names
}

// Evidence is a fact and the PromQL that shows it.
type Evidence struct {
	Text    string   `json:"text"`
	Queries []string `json:"queries"`
}

// What counts as a finding, each bound where healthy servers stay clear of it.
const (
	busyShare     = 0.95 // of a device: above it nothing is left for the next request
	queueShare    = 0.5  // of a request's time: more of it is spent waiting than being served
	queueSeconds  = 0.1  // of the 95th percentile: below it nobody minds, and it is what batching itself takes
	fillShare     = 0.5  // of a batch
	kvShare       = 0.95 // from about here engines preempt requests, or leave them waiting
	throttleShare = 0.1  // of the time
	idleRate      = 0.01 // of the highest rate: nearly nothing
	idleCost      = 0.1  // of what was spent
	idleWarning   = 0.25
	slowerBy      = 1.5              // times the usual latency
	sustained     = 10 * time.Minute // what is shorter passes by itself
	sustainedPart = 6                // but a sixth of a report of less than an hour
	shortStart    = 2                // points: what is seen at one alone may be a scrape that was late
)

// fineSizes are the sizes of the model's targets, closer than the report's steps.
type fineSizes struct {
	current, ready []Series // by target
}

func (m *maker) currentQuery() string {
	return m.fill("max by (rule, target) (flyball_scale_current_replicas{$scale})")
}

func (m *maker) readyQuery() string {
	return m.fill("max by (rule, target) (flyball_scale_ready_replicas{$scale})")
}

func (m *maker) sizeWork(f *fineSizes) []func(context.Context) error {
	if m.scale == "" {
		return nil
	}
	return []func(context.Context) error{
		func(ctx context.Context) (err error) {
			f.current, err = m.ask(ctx, m.currentQuery(), m.fine)
			return err
		},
		func(ctx context.Context) (err error) { f.ready, err = m.ask(ctx, m.readyQuery(), m.fine); return err },
	}
}

// check looks for all that there is to look for, in the order in which one asks: what is broken, what is in the way, what
// costs too much.
func (m *maker) check(sizes *fineSizes) []Check {
	return []Check{
		m.queueing(), m.saturated(), m.kvCache(), m.throttling(), m.batches(), m.coldStarts(sizes), m.flapping(sizes), m.idle(),
	}
}

// line is one of a metric; nil where there is none.
func (m *maker) line(metric, name string) *Line { return m.metrics[metric].line(name) }

// value is that of a line at a point; NaN where there is neither.
func (l *Line) value(i int) float64 {
	if l == nil {
		return math.NaN()
	}
	return l.Values[i]
}

// least is how long something must last.
func (m *maker) least() time.Duration {
	return max(min(sustained, m.End.Sub(m.Start)/sustainedPart), 2*m.Step)
}

// lasting are the times in which a condition held for long enough.
func (m *maker) lasting(holds func(i int) bool) []Span {
	var times []time.Time
	for i, t := range m.report.Times {
		if holds(i) {
			times = append(times, t)
		}
	}
	return slices.DeleteFunc(m.spans(times, m.Step), func(s Span) bool { return s.Length() < m.least() })
}

// within are the values of a line in some times.
func (m *maker) within(l *Line, spans []Span) *Line {
	in := Line{Values: make(Values, len(m.report.Times))}
	for i, t := range m.report.Times {
		in.Values[i] = math.NaN()
		if l != nil && slices.ContainsFunc(spans, func(s Span) bool { return t.After(s.Start) && !t.After(s.End) }) {
			in.Values[i] = l.Values[i]
		}
	}
	return &in
}

func (m *maker) mean(l *Line, spans []Span) float64 {
	_, mean, _, _ := m.within(l, spans).summary()
	return mean
}

func (m *maker) most(l *Line, spans []Span) float64 { return m.within(l, spans).max() }

// when is some times in words.
func when(spans []Span, r *Report) string {
	const most = 3
	var parts []string
	for _, s := range spans[:min(len(spans), most)] {
		parts = append(parts, clock(s.Start, r.Start, r.End)+" to "+clock(s.End, r.Start, r.End))
	}
	text := strings.Join(parts, ", ")
	if len(spans) > most {
		text += fmt.Sprintf(" and %d times more", len(spans)-most)
	}
	if len(spans) > 1 {
		text += ", " + length(total(spans)) + " in all"
	}
	return text
}

// length is a duration for a reader.
func length(d time.Duration) string {
	if d >= time.Minute {
		d = d.Round(time.Second)
	}
	return prometheusDuration(d.Round(time.Millisecond))
}

// mostly says that a condition held at half of the points or more.
func (m *maker) mostly(spans []Span, holds func(i int) bool) bool {
	l := Line{Values: make(Values, len(m.report.Times))}
	for i := range l.Values {
		if holds(i) {
			l.Values[i] = 1
		}
	}
	return m.mean(&l, spans) >= 0.5
}

// sizing is what to change so that a replica has less to do.
func (m *maker) sizing(spans []Span) (string, []string) {
	desired, limit := m.line("replicas", "desired"), m.line("replicas", "max")
	switch {
	case m.scale == "" || desired == nil:
		return "More replicas serve it sooner: give it a `scale` rule, with `target_per_replica` at what one serves in time.", []string{"scale", "signals[].target_per_replica"}
	case limit != nil && m.mostly(spans, func(i int) bool { return desired.value(i) >= limit.value(i) }):
		return fmt.Sprintf("It had all the replicas that it may have: raise `max` of the scale rule %s, now %s.", m.rule, figure(m.most(limit, spans), "")), []string{"max"}
	}
	return fmt.Sprintf("It could have had more replicas (%s of %s): lower `target_per_replica` of the signals of the scale rule %s, or size by `service_rate` and `wait`.",
			figure(m.most(desired, spans), ""), figure(m.most(limit, spans), ""), m.rule),
		[]string{"signals[].target_per_replica", "signals[].service_rate", "signals[].wait"}
}

func missing(name, why string) Check { return Check{Name: name, NotMeasured: why} }

func (m *maker) queueing() Check {
	const name = "queueing"
	waits, takes, p95 := m.line("queue", "mean"), m.line("latency", "mean"), m.line("queue", "p95")
	if waits == nil {
		return missing(name, m.metrics["queue"].NotMeasured)
	}
	if takes == nil {
		return missing(name, m.metrics["latency"].NotMeasured)
	}
	slow := func(i int) bool {
		if p95 != nil && !math.IsNaN(p95.value(i)) {
			return p95.value(i) >= queueSeconds
		}
		return waits.value(i) >= queueSeconds // of an engine that counts sums alone
	}
	spans := m.lasting(func(i int) bool { return waits.value(i) >= queueShare*takes.value(i) && slow(i) })
	if len(spans) == 0 {
		return Check{Name: name}
	}
	f := &Finding{Severity: Warning, Title: "Requests wait longer than they are served", When: spans}
	text := fmt.Sprintf("%s of a request's time was waiting: %s of %s on average", figure(m.mean(waits, spans)/m.mean(takes, spans), "ratio"), seconds(m.mean(waits, spans)), seconds(m.mean(takes, spans)))
	queries := []string{waits.Query, takes.Query}
	if p95 != nil {
		text += fmt.Sprintf(", and up to %s for one in twenty", seconds(m.most(p95, spans)))
		queries = append(queries, p95.Query)
	}
	f.add(text, queries...)
	if l := m.line("concurrency", "waiting"); l != nil {
		f.add(fmt.Sprintf("up to %s requests waited at once", figure(m.most(l, spans), "requests")), l.Query)
	}
	for _, l := range m.metrics["refused"].Lines {
		if n := m.mean(&l, spans) * total(spans).Seconds(); n >= 1 {
			f.Severity = Critical
			f.add(fmt.Sprintf("%.0f requests were refused: %s", n, l.Name), l.Query)
		}
	}
	f.Recommendation, f.Keys = m.sizing(spans)
	return Check{Name: name, Finding: f}
}

func (f *Finding) add(text string, queries ...string) {
	f.Evidence = append(f.Evidence, Evidence{text, slices.DeleteFunc(queries, func(q string) bool { return q == "" })})
}

func (m *maker) saturated() Check {
	const name = "saturated-device"
	busy := m.line("device", "mean")
	if busy == nil {
		return missing(name, m.metrics["device"].NotMeasured)
	}
	spans := m.lasting(func(i int) bool { return busy.value(i) >= busyShare })
	if len(spans) == 0 {
		return Check{Name: name}
	}
	f := &Finding{Severity: Warning, Title: "The device has nothing left to give", When: spans}
	text := fmt.Sprintf("busy for %s of the time on average", figure(m.mean(busy, spans), "ratio"))
	if strings.Contains(busy.Query, "flyball_gpu_utilization_ratio") {
		text += " (any kernel counts as busy, however small)"
	}
	f.add(text, busy.Query)
	if l := m.line("latency", "p95"); l != nil {
		f.add(fmt.Sprintf("one request in twenty took %s or more in that time, over the whole report %s", seconds(m.mean(l, spans)), seconds(m.mean(l, []Span{{m.Start, m.End}}))), l.Query)
	}
	f.Recommendation, f.Keys = m.sizing(spans)
	return Check{Name: name, Finding: f}
}

func (m *maker) kvCache() Check {
	const name = "kv-cache-full"
	used := m.line("kv_cache", "fullest")
	if used == nil {
		return missing(name, m.metrics["kv_cache"].NotMeasured)
	}
	spans := m.lasting(func(i int) bool { return used.value(i) >= kvShare })
	if len(spans) == 0 {
		return Check{Name: name}
	}
	f := &Finding{Severity: Warning, Title: "The KV cache is full", When: spans}
	f.add(fmt.Sprintf("the fullest replica used %s of it on average", figure(m.mean(used, spans), "ratio")), used.Query)
	if l := m.line("kv_cache", "mean"); l != nil {
		f.add("all replicas "+figure(m.mean(l, spans), "ratio"), l.Query)
	}
	size := "a signal of the scale rule that sizes by it keeps it free (`utilization: 0.8`)"
	if m.scale == "" {
		size = "a `scale` rule with a signal that sizes by it keeps it free (`utilization: 0.8`)"
	}
	f.Recommendation = "More memory for it in the engine, such as vLLM's --gpu-memory-utilization or --kv-cache-dtype=fp8, or fewer sequences at once (--max-num-seqs); " + size + "."
	f.Keys = []string{"signals[].utilization", "--gpu-memory-utilization", "--kv-cache-dtype", "--max-num-seqs"}
	return Check{Name: name, Finding: f}
}

func (m *maker) throttling() Check {
	const name = "throttling"
	metric := m.metrics["throttling"]
	if len(metric.Lines) == 0 {
		return missing(name, metric.NotMeasured)
	}
	spans := m.lasting(func(i int) bool {
		return slices.ContainsFunc(metric.Lines, func(l Line) bool { return l.value(i) >= throttleShare })
	})
	if len(spans) == 0 {
		return Check{Name: name}
	}
	f := &Finding{Severity: Info, Title: "GPUs run slower than they could", When: spans}
	power := true
	for _, l := range metric.Lines {
		if m.most(&l, spans) < throttleShare {
			continue
		}
		f.add(fmt.Sprintf("%s held the clocks down for %s of the time, up to %s", l.Name, figure(m.mean(&l, spans), "ratio"), figure(m.most(&l, spans), "ratio")), l.Query)
		power = power && l.Name == "sw_power_cap"
	}
	f.Recommendation, f.Keys = "The power limit is reached: raise it (nvidia-smi --power-limit), or count on the lower speed in `target_per_replica`.", []string{"--power-limit", "signals[].target_per_replica"}
	if !power {
		f.Severity = Warning
		f.Recommendation = "See to the cooling and the power supply of the node; until then `target_per_replica` should be that of the slower clocks, or the limit lower (nvidia-smi --power-limit)."
	}
	return Check{Name: name, Finding: f}
}

func (m *maker) batches() Check {
	const name = "batches-not-filling"
	fill, size := m.line("batch_fill", "mean"), m.line("batch", "mean")
	if fill == nil {
		return missing(name, m.metrics["batch_fill"].NotMeasured)
	}
	running, waiting, ready, most := m.line("concurrency", "running"), m.line("concurrency", "waiting"), m.line("replicas", "ready"), m.line("batch", "most rows")
	if running == nil {
		return missing(name, m.metrics["concurrency"].NotMeasured)
	}
	if ready == nil {
		return missing(name, "how many replicas are ready: "+m.metrics["replicas"].NotMeasured)
	}
	flight := func(i int) float64 {
		n := running.value(i)
		if w := waiting.value(i); !math.IsNaN(w) {
			n += w
		}
		return n / max(ready.value(i), 1)
	}
	// Small batches are as they should be where there are few requests. Here there were enough for a full one.
	spans := m.lasting(func(i int) bool { return fill.value(i) < fillShare && flight(i) >= most.value(i) })
	if len(spans) == 0 {
		return Check{Name: name}
	}
	f := &Finding{Severity: Warning, Title: "Batches are not filled though there are requests for them", When: spans}
	f.add(fmt.Sprintf("%s rows in a batch on average, of %s", figure(m.mean(size, spans), ""), figure(m.most(most, spans), "")), size.Query, most.Query)
	perReplica := Line{Values: make(Values, len(m.report.Times))}
	for i := range perReplica.Values {
		perReplica.Values[i] = flight(i)
	}
	text, queries := figure(m.mean(&perReplica, spans), "")+" requests in flight for each replica", []string{running.Query, ready.Query}
	if waiting != nil {
		queries = append(queries, waiting.Query)
	}
	f.add(text, queries...)
	var sum float64
	for _, l := range m.metrics["batches"].Lines {
		sum += m.mean(&l, spans)
	}
	for _, l := range m.metrics["batches"].Lines {
		if share := m.mean(&l, spans) / sum; share >= 0.1 {
			f.add(fmt.Sprintf("%s of the batches were sent because of %s", figure(share, "ratio"), l.Name), l.Query)
		}
	}
	if strings.Contains(size.Query, "flyball_batchproxy") {
		f.Recommendation = "Let requests wait a little longer (`batchproxy.models[].batch.max_wait`); where they do already, they differ in what could change the answer: name headers that do not in `batch.ignore_headers`."
		f.Keys = []string{"batchproxy.models[].batch.max_wait", "batchproxy.models[].batch.ignore_headers"}
	} else {
		f.Recommendation = "Let the engine take more at once, such as vLLM's --max-num-seqs or Triton's max_queue_delay_microseconds, or put the batching proxy before it (`batchproxy.models`)."
		f.Keys = []string{"--max-num-seqs", "max_queue_delay_microseconds", "batchproxy.models"}
	}
	return Check{Name: name, Finding: f}
}

func (m *maker) coldStarts(sizes *fineSizes) Check {
	const name = "cold-starts"
	if len(sizes.current) == 0 || len(sizes.ready) == 0 {
		return missing(name, "no scale rule of this model has told its replicas")
	}
	latency := cmp.Or(m.line("latency", "p95"), m.line("latency", "mean"))
	if latency == nil {
		return missing(name, m.metrics["latency"].NotMeasured)
	}
	// Replicas that were asked for and not ready, and times with none at all, over all targets.
	current, ready := sum(sizes.current), sum(sizes.ready)
	var starting, none []time.Time
	for _, s := range sizes.current {
		for _, p := range s.Points {
			if r, known := ready[p.Time.UnixMilli()]; known && current[p.Time.UnixMilli()] > r {
				starting = append(starting, p.Time)
				if r == 0 {
					none = append(none, p.Time)
				}
			}
		}
	}
	slices.SortFunc(starting, time.Time.Compare)
	slices.SortFunc(none, time.Time.Compare)
	long := func(s Span) bool { return s.Length() < shortStart*m.fine }
	starts, empty := slices.DeleteFunc(m.spans(starting, m.fine), long), slices.DeleteFunc(m.spans(none, m.fine), long)
	if len(starts) == 0 {
		return Check{Name: name}
	}
	touches := func(spans []Span, i int) bool {
		t := m.report.Times[i]
		return slices.ContainsFunc(spans, func(s Span) bool { return s.Start.Before(t) && s.End.After(t.Add(-m.Step)) })
	}
	usual := Line{Values: make(Values, 0, len(m.report.Times))}
	var slow []Span
	var worst, sent float64
	for i := range m.report.Times {
		if v := latency.value(i); !touches(starts, i) && !math.IsNaN(v) {
			usual.Values = append(usual.Values, v)
		}
	}
	typical := median(usual.Values)
	arrived := cmp.Or(m.line("requests", "arrived"), m.line("requests", "answered"))
	var empties []Span
	for i, t := range m.report.Times {
		if touches(empty, i) && arrived.value(i) > 0 {
			empties = append(empties, Span{t.Add(-m.Step), t})
			sent += arrived.value(i)
		}
		if touches(starts, i) && latency.value(i) >= slowerBy*typical {
			slow = append(slow, Span{t.Add(-m.Step), t})
			worst = max(worst, latency.value(i))
		}
	}
	if len(slow) == 0 && len(empties) == 0 {
		if math.IsNaN(typical) {
			return missing(name, "replicas were starting all the time: there is no other to compare with")
		}
		return Check{Name: name}
	}
	hurt := append(slices.Clone(slow), empties...)
	starts = slices.DeleteFunc(starts, func(s Span) bool {
		return !slices.ContainsFunc(hurt, func(h Span) bool { return s.Start.Before(h.End) && s.End.After(h.Start) })
	})
	longest := slices.MaxFunc(starts, func(a, b Span) int { return cmp.Compare(a.Length(), b.Length()) })
	f := &Finding{Severity: Info, Title: "Requests wait for replicas to start", When: starts}
	f.add(fmt.Sprintf("replicas were asked for and not ready %s, the longest for %s", times(len(starts)), length(longest.Length())), m.currentQuery(), m.readyQuery())
	if len(slow) > 0 {
		f.add(fmt.Sprintf("latency (%s) was up to %s then, usually %s", latency.Name, seconds(worst), seconds(typical)), latency.Query)
		if worst >= 2*slowerBy*typical {
			f.Severity = Warning
		}
	}
	if len(empties) > 0 {
		f.Severity = Warning
		f.add(fmt.Sprintf("requests came, %s a second, while no replica was ready", figure(sent/float64(len(empties)), "")), arrived.Query, m.readyQuery())
	}
	f.Recommendation = fmt.Sprintf("Start them before they are needed: a signal of the scale rule %s with a `forecast` or a `schedule`, or a higher `min` (now %s); say what a start takes in `startup: %s`.",
		m.rule, figure(m.most(m.line("replicas", "min"), []Span{{m.Start, m.End}}), ""), length(longest.Length()))
	f.Keys = []string{"signals[].forecast", "schedule", "min", "startup"}
	return Check{Name: name, Finding: f}
}

// sum adds series by their time in milliseconds.
func sum(all []Series) map[int64]float64 {
	out := map[int64]float64{}
	for _, s := range all {
		for _, p := range s.Points {
			out[p.Time.UnixMilli()] += p.Value
		}
	}
	return out
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func (m *maker) flapping(sizes *fineSizes) Check {
	const name = "flapping"
	if len(sizes.current) == 0 {
		return missing(name, "no scale rule of this model has told its replicas")
	}
	var f *Finding
	for _, s := range sizes.current {
		turns := reversals(s.Points)
		var spans []Span
		in := map[int64]bool{}
		for i := m.Reversals; i < len(turns); i++ { // more of them than the budget, within the window
			first := turns[i-m.Reversals].Time
			if turns[i].Time.Sub(first) > m.Window {
				continue
			}
			for _, t := range turns[i-m.Reversals : i+1] {
				in[t.Time.UnixMilli()] = true
			}
			if n := len(spans); n > 0 && !first.After(spans[n-1].End) {
				spans[n-1].End = turns[i].Time.In(m.End.Location())
				continue
			}
			spans = append(spans, Span{first.In(m.End.Location()), turns[i].Time.In(m.End.Location())})
		}
		if len(spans) == 0 {
			continue
		}
		if f == nil {
			f = &Finding{Severity: Warning, Title: "The size goes up and down again"}
		}
		var path []string
		for _, t := range turns {
			if in[t.Time.UnixMilli()] && len(path) < 8 {
				path = append(path, figure(t.Value, ""))
			}
		}
		f.When = append(f.When, spans...)
		f.add(fmt.Sprintf("%s turned round %s (to %s%s), where %d in %s are usual", s.Labels["target"], times(len(in)), strings.Join(path, ", "), map[bool]string{true: ", ..."}[len(in) > len(path)], m.Reversals, prometheusDuration(m.Window)),
			m.fill("changes(flyball_scale_current_replicas{$scale}["+prometheusDuration(m.Window)+"])"), m.currentQuery())
	}
	if f == nil {
		return Check{Name: name}
	}
	f.Recommendation = fmt.Sprintf("Let the scale rule %s come down later (`behavior.down.window`), change less for little (`signals[].tolerance`), or hold it by its `flap_budget`.", m.rule)
	f.Keys = []string{"behavior.down.window", "signals[].tolerance", "flap_budget"}
	return Check{Name: name, Finding: f}
}

// reversals are the points at which a size changed against the direction of its last change.
func reversals(points []Point) (turns []Point) {
	direction := 0
	for i := 1; i < len(points); i++ {
		d := cmp.Compare(points[i].Value, points[i-1].Value)
		if d == 0 {
			continue
		}
		if direction != 0 && d != direction {
			turns = append(turns, points[i])
		}
		direction = d
	}
	return turns
}

func (m *maker) idle() Check {
	const name = "idle-cost"
	cost, rate := m.line("cost", "cost"), cmp.Or(m.line("requests", "arrived"), m.line("requests", "answered"))
	if cost == nil {
		return missing(name, m.metrics["cost"].NotMeasured+"; `price` of the scale rule says what a replica costs")
	}
	if rate == nil {
		return missing(name, m.metrics["requests"].NotMeasured)
	}
	peak := rate.max()
	spans := m.lasting(func(i int) bool {
		return cost.value(i) > 0 && (rate.value(i) == 0 || rate.value(i) < idleRate*peak)
	})
	whole := []Span{{m.Start, m.End}}
	spent, idle := m.spent(cost, whole), m.spent(cost, spans)
	if idle < idleCost*spent || idle == 0 {
		return Check{Name: name}
	}
	f := &Finding{Severity: Info, Title: "Money is spent while nobody asks", When: spans}
	if idle >= idleWarning*spent {
		f.Severity = Warning
	}
	f.add(fmt.Sprintf("%.2f of %.2f USD (%s) went in %s with next to no requests", idle, spent, figure(idle/spent, "ratio"), length(total(spans))), cost.Query, rate.Query)
	least := m.line("replicas", "min")
	switch {
	case m.scale == "":
		f.Recommendation, f.Keys = "Let it get smaller when nobody asks: a `scale` rule with `min: 0`, or with a `schedule`.", []string{"scale", "min", "schedule"}
	case least != nil && m.most(least, spans) > 0:
		f.add(fmt.Sprintf("the scale rule %s keeps at least %s", m.rule, figure(m.most(least, spans), "")), least.Query)
		f.Recommendation, f.Keys = fmt.Sprintf("Let the scale rule %s go lower: `min: 0`, or a `schedule` for the hours of the day.", m.rule), []string{"min", "schedule"}
	default:
		f.Recommendation, f.Keys = fmt.Sprintf("Let the scale rule %s come down sooner: `behavior.down.window` and `behavior.down.cooldown`.", m.rule), []string{"behavior.down.window", "behavior.down.cooldown"}
	}
	return Check{Name: name, Finding: f}
}

// spent is what some times cost, in USD.
func (m *maker) spent(cost *Line, spans []Span) (usd float64) {
	for _, v := range m.within(cost, spans).Values {
		if !math.IsNaN(v) {
			usd += v * m.Step.Hours()
		}
	}
	return usd
}
