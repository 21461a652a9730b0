package convert

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/prometheus/common/model"
)

// note is a comment about a field of the original.
type note struct {
	text string
	lost bool // it could not be carried over
}

func say(format string, args ...any) note { return note{text: fmt.Sprintf(format, args...)} }

// lost is a note about what could not be carried over.
func lost(format string, args ...any) note {
	return note{text: "NOT CARRIED OVER: " + fmt.Sprintf(format, args...), lost: true}
}

// rule is a scale rule and what there is to say about it.
type rule struct {
	title, origin, group string
	notes                []note // about the whole
	interval             note   // why it is evaluated that often

	name        string
	target      string
	targetNotes []note

	min, max    int
	boundNotes  []note
	queries     []query
	signals     []signal
	constraints []constraint
	schedule    []schedule
	up, down    direction
	missing     *onMissing
}

type query struct {
	name, expr string
	optional   bool
	notes      []note
}

// signal is one of a scale rule. Of perReplica and utilization one is set.
type signal struct {
	name, value             string
	perReplica, utilization float64
	tolerance               float64
	notes                   []note
}

// tolerate gives the signal the tolerances of the HPA, as ratios. Where they differ the value is taken for what is meant while
// it is within the wider one, for a signal has one tolerance.
func (s *signal) tolerate(up, down float64) {
	s.tolerance = min(up, down)
	if up == down && up < 1 {
		return
	}
	if s.tolerance >= 1 {
		s.tolerance = 0
	}
	meant := number(s.utilization)
	times := func(share float64) string { return number(s.utilization * share) }
	if s.perReplica > 0 {
		meant = number(s.perReplica) + " * replicas"
		times = func(share float64) string { return number(s.perReplica*share) + " * replicas" }
	}
	v := s.value
	if !identifier.MatchString(v) {
		v = "(" + v + ")"
	}
	var within []string
	if up > s.tolerance {
		within = append(within, fmt.Sprintf("%s > %s && %s <= %s", v, meant, v, times(1+up)))
	}
	if down > s.tolerance {
		within = append(within, fmt.Sprintf("%s < %s && %s >= %s", v, meant, v, times(max(1-down, 0))))
	}
	s.value = fmt.Sprintf("%s ? %s : %s", strings.Join(within, " || "), meant, v)
	s.notes = append(s.notes, say("tolerance: %s up and %s down: within the wider one the value is taken for the target.", number(up), number(down)))
}

var identifier = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]*$`)

type constraint struct {
	cond     string
	min, max *int
	reason   string
	notes    []note
}

type schedule struct {
	cron, until, tz string
	min             int
	notes           []note
}

type direction struct {
	window   int // seconds
	policies []policy
	selects  string
	notes    []note
}

type policy struct {
	replicas int
	percent  int
	period   int // seconds
}

type onMissing struct {
	down, fallback string
	after          int // seconds
	notes          []note
}

// staleAfter is for how long a query of a converted rule may have no new sample: an HPA goes on by what Prometheus still
// answers, for five minutes; four scrapes of 30 s, which is what kubelets and kube-state-metrics often have, are enough to be
// sure that one was not merely lost.
const staleAfter = "2m"

// writer writes YAML with comments.
type writer struct {
	strings.Builder
	lost int
}

// width is that of a comment.
const width = 118

// comment writes notes at an indentation, each beginning a line.
func (w *writer) comment(indent int, notes ...note) {
	margin := strings.Repeat(" ", indent) + "# "
	for _, n := range notes {
		if n.lost {
			w.lost++
		}
		column := 0
		for word := range strings.FieldsSeq(clean(n.text)) {
			switch {
			case column == 0:
				w.WriteString(margin)
				column = len(margin)
			case column+1+len(word) > width:
				w.WriteString("\n" + margin + "  ")
				column = len(margin) + 2
			default:
				w.WriteByte(' ')
				column++
			}
			w.WriteString(word)
			column += len(word)
		}
		if column > 0 {
			w.WriteByte('\n')
		}
	}
}

func (w *writer) line(indent int, format string, args ...any) {
	w.WriteString(strings.Repeat(" ", indent))
	fmt.Fprintf(w, format, args...)
	w.WriteByte('\n')
}

// clean is a text without what would end a comment.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, text)
}

var plain = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_./-]*$`)

// quote is a text as a YAML scalar that is that text.
func quote(text string) string {
	switch strings.ToLower(text) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n", ".inf", ".nan":
		return "'" + text + "'"
	}
	if plain.MatchString(text) {
		return text
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			quoted, err := json.Marshal(text)
			if err != nil {
				panic(fmt.Sprintf("convert: quote %q: %v", text, err)) // a string always can be
			}
			return string(quoted)
		}
	}
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func seconds(n int) string { return model.Duration(int64(n) * 1e9).String() }

// block writes a key with a text of several lines, if it can be written as one.
func (w *writer) block(indent int, key, text string) {
	text = strings.TrimRight(text, " \n")
	lines := strings.Split(text, "\n")
	printable := func(r rune) bool { return unicode.IsPrint(r) || r == '\n' }
	if len(lines) == 1 || strings.TrimSpace(lines[0]) == "" || lines[0] != strings.TrimLeft(lines[0], " ") || strings.IndexFunc(text, func(r rune) bool { return !printable(r) }) >= 0 {
		w.line(indent, "%s: %s", key, quote(text))
		return
	}
	w.line(indent, "%s: |-", key)
	for _, l := range lines {
		if strings.TrimSpace(l) == "" {
			w.WriteByte('\n')
			continue
		}
		w.line(indent+2, "%s", strings.TrimRight(l, " "))
	}
}

// write makes the rule file.
func (c *converter) write(inputs []Input) *Result {
	w := &writer{}
	w.comment(0, c.preamble(names(inputs))...)
	w.comment(0, c.skipped...)
	w.line(0, "groups:")
	for _, r := range c.rules {
		r.write(w)
	}
	return &Result{Text: []byte(w.String()), Rules: len(c.rules), Left: w.lost}
}

// preamble says what holds for every rule.
func (c *converter) preamble(inputs string) []note {
	who := "the HPA"
	notes := []note{say("What each %s in %s does, as a rule that observes: it decides, records and changes nothing.", c.kind, inputs)}
	if c.kind == scaledObjectKind {
		who = "KEDA and its HPA"
	}
	notes = append(notes,
		say("Decisions are those of %s: the same ratio, tolerance, windows and policies. What differs whatever the object says:", who),
		say("- Data that is missing, or older than %s, makes nothing smaller; %s would go on by what Prometheus still answers for 5m.", staleAfter, who),
		say("- Nothing goes down while replicas that were asked for are not ready, for up to twice the measured startup."),
		say("- Values are as exact as Prometheus has them: the HPA cuts utilization to whole percents and other values to thousandths, and leaves the cpu of a pod out until 5m after its start unless it is ready."),
	)
	if c.kind == hpaKind {
		notes = append(notes, say("- A target at 0 replicas is brought to min; the HPA takes 0 for being switched off, and leaves it."))
	}
	return append(notes, say("To let a rule act, remove the %s, set mode: act and start with --act.enabled. Two that act fight.", c.kind))
}

func (r *rule) write(w *writer) {
	w.line(0, "")
	w.comment(0, say("%s, %s", r.title, r.origin))
	w.comment(0, r.notes...)
	w.line(0, "- name: %s", quote(r.group))
	w.comment(2, r.interval)
	w.line(2, "interval: 15s")
	w.line(2, "rules:")
	w.line(2, "- scale: %s", quote(r.name))
	w.comment(4, r.targetNotes...)
	w.line(4, "target: {kind: kubernetes, name: %s}", quote(r.target))
	w.line(4, "mode: observe")
	w.comment(4, r.boundNotes...)
	w.line(4, "min: %d", r.min)
	w.line(4, "max: %d", r.max)
	w.line(4, "startup: auto")
	w.line(4, "queries:")
	for _, q := range r.queries {
		w.comment(6, q.notes...)
		w.line(6, "%s:", q.name)
		w.block(8, "expr", q.expr)
		w.line(8, "stale_after: %s", staleAfter)
		if q.optional {
			w.line(8, "optional: true")
		}
	}
	w.line(4, "signals:")
	for _, s := range r.signals {
		w.comment(4, s.notes...)
		sized := "target_per_replica: " + number(s.perReplica)
		if s.utilization > 0 {
			sized = "utilization: " + number(s.utilization)
		}
		w.line(4, "- {name: %s, value: %s, %s, tolerance: %s}", s.name, quote(s.value), sized, number(s.tolerance))
	}
	if len(r.constraints) > 0 {
		w.line(4, "constraints:")
	}
	for _, c := range r.constraints {
		w.comment(4, c.notes...)
		bound := ""
		if c.min != nil {
			bound += fmt.Sprintf(", min: %d", *c.min)
		}
		if c.max != nil {
			bound += fmt.Sprintf(", max: %d", *c.max)
		}
		w.line(4, "- {if: %s%s, reason: %s}", quote(c.cond), bound, quote(c.reason))
	}
	if len(r.schedule) > 0 {
		w.line(4, "schedule:")
	}
	for _, s := range r.schedule {
		w.comment(4, s.notes...)
		w.line(4, "- {cron: %s, until: %s, tz: %s, min: %d}", quote(s.cron), quote(s.until), quote(s.tz), s.min)
	}
	w.line(4, "behavior:")
	r.up.write(w, "up")
	r.down.write(w, "down")
	w.comment(4, say("The HPA does not count how often the size turns round: so many turns are never reached."))
	w.line(4, "flap_budget: {reversals: 1000, window: 30m}")
	if m := r.missing; m != nil {
		w.comment(4, m.notes...)
		w.line(4, "on_missing: {up: allow, down: %s, after: %s, fallback: %s}", m.down, seconds(m.after), quote(m.fallback))
	}
}

func (d *direction) write(w *writer, key string) {
	w.comment(6, d.notes...)
	w.line(6, "%s:", key)
	w.line(8, "window: %s", seconds(d.window))
	policies := make([]string, len(d.policies))
	for i, p := range d.policies {
		policies[i] = fmt.Sprintf("{replicas: %d, period: %s}", p.replicas, seconds(p.period))
		if p.percent > 0 {
			policies[i] = fmt.Sprintf("{percent: %d, period: %s}", p.percent, seconds(p.period))
		}
	}
	w.line(8, "policies: [%s]", strings.Join(policies, ", "))
	if d.selects != "max" {
		w.line(8, "select_policy: %s", d.selects)
	}
}
