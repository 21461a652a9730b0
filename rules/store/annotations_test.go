package store

import (
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"flyball/rules"
)

func TestExpandAnnotation(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) {
		o.ExternalURL = "http://flyball.test/x"
		o.ExternalLabels = labels.FromStrings("region", "eu")
	})
	put(t, s, `queue{model="a"}`, t0, 1234)
	d := &rules.Decision{
		Time: t0, Rule: "llm", Target: "process/llm-a", Labels: map[string]string{"model": "a"}, Mode: rules.Act, Action: rules.Up,
		From: 1, To: 3, Reasons: []rules.Reason{rules.AboveTarget, rules.ScaleUpRate}, Text: "load 300 needs 3",
	}
	for text, want := range map[string]string{
		"nothing to fill in": "nothing to fill in",
		"{{ .Target }} {{ .From }}->{{ .To }}: {{ .Reason }}":                        "process/llm-a 1->3: AboveTarget, ScaleUpRate",
		"{{ .Rule }} {{ .Mode }} {{ .Action }}: {{ .Text }}":                         "llm act up: load 300 needs 3",
		"{{ $labels.model }} {{ $labels.rule }} {{ $labels.none }}|{{ $value }}":     "a llm |3",
		"{{ $externalLabels.region }} {{ $externalURL }} {{ externalURL }}":          "eu http://flyball.test/x http://flyball.test/x",
		"{{ with query \"queue\" }}{{ . | first | value | humanize }}{{ end }} wait": "1.234k wait",
		"{{ printf \"queue{model=%q}\" $labels.model | query | first | value }}":     "1234",
	} {
		if got := s.ExpandAnnotation(t.Context(), "summary", text, d); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
		if err := CheckAnnotation(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	if got := s.ExpandAnnotation(t.Context(), "summary", `{{ query "none" | first }}`, d); !strings.HasPrefix(got, "<error expanding template: ") {
		t.Errorf("of what cannot be filled in: %q", got)
	}
	for text, want := range map[string]string{
		"{{ $nope }}":        "undefined variable",
		"{{ .Form }}":        `a decision has no Form (did you mean "From"?)`,
		"{{ .Whatever }}":    "a decision has no Whatever: it has Action, ExternalLabels, ",
		"{{ humanise 3 }}":   `function "humanise" not defined`,
		"{{ if .To }}":       "unexpected EOF",
		"{{ $labels.a.b }} ": "there is no b in string",
	} {
		if err := CheckAnnotation(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}
