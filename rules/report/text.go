package report

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteJSON writes the whole report.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// sparkWidth is how many characters a line of the text has.
const sparkWidth = 48

// WriteText writes the report for a terminal: a sparkline for each line, what breached, what was found. It has no colours.
func (r *Report) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }
	line("%s  %s to %s, a point each %s", r.Model, r.Start.Format(time.RFC3339), r.End.Format(time.RFC3339), length(time.Duration(r.Step*float64(time.Second))))
	line("")
	for _, m := range r.Metrics {
		for i, l := range m.Lines {
			title := ""
			if i == 0 {
				title = m.Title
			}
			least, mean, most, last := l.summary()
			f := func(v float64) string { return figure(v, m.Unit) }
			line("%s\t%s\t%s\tmin %s\tmean %s\tmax %s\tlast %s%s", title, l.Name, spark(l.Values, sparkWidth), f(least), f(mean), f(most), f(last), shownUnit(m.Unit))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	var b strings.Builder
	r.textBreaches(&b)
	r.textFindings(&b)
	for _, m := range r.Metrics {
		if m.NotMeasured != "" {
			fmt.Fprintf(&b, "not measured: %s: %s\n", strings.ToLower(m.Title), m.NotMeasured)
		}
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", warning)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shownUnit is the unit after a figure that does not say it itself.
func shownUnit(unit string) string {
	switch unit {
	case "s", "ratio", "share of the time", "replicas":
		return ""
	}
	return " " + unit
}

func (r *Report) textBreaches(b *strings.Builder) {
	b.WriteString("\nBreaches\n")
	n := b.Len()
	for _, o := range r.Breaches.Objectives {
		fmt.Fprintf(b, "  %s\n", o.text(r))
	}
	for _, t := range r.Breaches.Thresholds {
		fmt.Fprintf(b, "  %s\n", t.text(r))
	}
	for _, a := range r.Breaches.Alerts {
		fmt.Fprintf(b, "  %s\n", a.text(r))
	}
	if b.Len() == n {
		b.WriteString("  no alert fired, and no slo rule watches this model\n")
	}
}

func state(breached bool) string {
	if breached {
		return "BREACHED"
	}
	return "kept"
}

func (o *Objective) text(r *Report) string {
	kept := "not measured"
	if o.Kept != nil {
		kept = fmt.Sprintf("%s: %s good, %.3g times the error budget", state(o.Breached), percent(*o.Kept), (1-*o.Kept)/(1-o.Target))
	}
	text := fmt.Sprintf("objective %s %s (%s good)  %s", o.SLO, o.Objective, percent(o.Target), kept)
	if len(o.Over) > 0 {
		text += "  over it " + when(o.Over, r)
	}
	return text
}

// percent is a share near to one, to as many digits as tell it from one.
func percent(share float64) string {
	if share >= 1 {
		return "100 %"
	}
	return fmt.Sprintf("%.*f %%", int(min(max(2, math.Ceil(-math.Log10(max(1-share, 1e-9)))), 6)), share*100)
}

func (t *Threshold) text(r *Report) string {
	text := fmt.Sprintf("threshold %s %s (%s, %s %.6g)  %s", t.SLO, t.Threshold, t.Severity, t.Bound, t.Limit, state(t.Breached))
	if t.Worst == nil {
		return text + ": no value"
	}
	text += fmt.Sprintf(": %s %.6g", map[string]string{"above": "highest", "below": "lowest"}[t.Bound], *t.Worst)
	if len(t.Over) > 0 {
		text += "  beyond it " + when(t.Over, r)
	}
	return text
}

func (a *Alert) text(r *Report) string {
	var labels []string
	for _, name := range slices.Sorted(maps.Keys(a.Labels)) {
		if name != "model" {
			labels = append(labels, fmt.Sprintf("%s=%q", name, a.Labels[name]))
		}
	}
	text := "alert " + a.Name
	if a.Severity != "" {
		text += " (" + a.Severity + ")"
	}
	if len(labels) > 0 {
		text += " " + strings.Join(labels, " ")
	}
	text += "  " + when(a.Fired, r)
	if a.Firing {
		text += ", still firing"
	}
	return text
}

func (r *Report) textFindings(b *strings.Builder) {
	b.WriteString("\nFindings\n")
	var fine, unknown []string
	found := false
	for _, c := range r.Checks {
		switch {
		case c.NotMeasured != "":
			unknown = append(unknown, fmt.Sprintf("  %s: %s\n", c.Name, c.NotMeasured))
			continue
		case c.Finding == nil:
			fine = append(fine, c.Name)
			continue
		}
		found = true
		f := c.Finding
		fmt.Fprintf(b, "  %s  %s: %s  %s\n", f.Severity, c.Name, f.Title, when(f.When, r))
		for _, e := range f.Evidence {
			fmt.Fprintf(b, "    - %s\n", e.Text)
			for _, q := range e.Queries {
				fmt.Fprintf(b, "        %s\n", q)
			}
		}
		fmt.Fprintf(b, "    > %s\n", f.Recommendation)
	}
	if !found {
		b.WriteString("  none\n")
	}
	if len(fine) > 0 {
		fmt.Fprintf(b, "\nLooked for and not found: %s\n", strings.Join(fine, ", "))
	}
	b.WriteString("\n")
	if len(unknown) > 0 {
		fmt.Fprintf(b, "Not looked for, since not measured\n%s\n", strings.Join(unknown, ""))
	}
}

// spark draws values in one line of text, each character the mean of those that it stands for. The lowest bar is zero, or the
// least where that is below it.
func spark(values Values, width int) string {
	const bars = "▁▂▃▄▅▆▇█"
	bar := []rune(bars)
	width = min(width, len(values))
	l := Line{Values: make(Values, width)}
	for i := range l.Values {
		part := Line{Values: values[i*len(values)/width : (i+1)*len(values)/width]}
		_, l.Values[i], _, _ = part.summary()
	}
	least, _, most, _ := l.summary()
	least = min(least, 0)
	out := make([]rune, width)
	for i, v := range l.Values {
		switch {
		case math.IsNaN(v):
			out[i] = ' '
		case most <= least:
			out[i] = bar[0]
		default:
			out[i] = bar[int(math.Round((v-least)/(most-least)*float64(len(bar)-1)))]
		}
	}
	return string(out)
}
