package dashboard

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestWrite: each format writes values as Grafana's documentation of variable formats shows them, and no format at all as
// its Prometheus data source does.
func TestWrite(t *testing.T) {
	one, several := []string{"a.b"}, []string{"a.b", "c|d"}
	for _, tt := range []struct {
		format, one, several string
	}{
		{"", `a\\.b`, `(a\\.b|c\\|d)`},
		{"regex", `a\.b`, `(a\.b|c\|d)`},
		{"pipe", `a.b`, `a.b|c|d`},
		{"csv", `a.b`, `a.b,c|d`},
		{"raw", `a.b`, `a.b,c|d`},
		{"glob", `a.b`, `{a.b,c|d}`},
		{"json", `["a.b"]`, `["a.b","c|d"]`},
		{"singlequote", `'a.b'`, `'a.b','c|d'`},
		{"doublequote", `"a.b"`, `"a.b","c|d"`},
		{"sqlstring", `'a.b'`, `'a.b','c|d'`},
		{"distributed", `a.b`, `a.b,v=c|d`},
		{"lucene", `a.b`, `("a.b" OR "c|d")`},
		{"percentencode", `a.b`, `a.b%2Cc%7Cd`},
		{"queryparam", `var-v=a.b`, `var-v=a.b&var-v=c%7Cd`},
		{"text", `a.b`, `a.b + c|d`},
		{"join:;", `a.b`, `a.b;c|d`},
	} {
		v := &Variable{Name: "v", Multi: true}
		if got := v.write(one, tt.format); got != tt.one {
			t.Errorf("%q: one value: %s, want %s", tt.format, got, tt.one)
		}
		if got := v.write(several, tt.format); got != tt.several {
			t.Errorf("%q: several values: %s, want %s", tt.format, got, tt.several)
		}
	}
	if got := (&Variable{}).write([]string{`a.b"c\`}, ""); got != `a.b\"c\\` {
		t.Errorf("a variable of one value: %s", got)
	}
}

// TestMacros: the figures of Grafana's documentation of $__rate_interval: four scrapes at the least, a scrape more than the
// step otherwise.
func TestMacros(t *testing.T) {
	start := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	w := Window{Start: start, End: start.Add(6 * time.Hour), Step: 30 * time.Second, ScrapeInterval: 15 * time.Second}
	for text, want := range map[string]string{
		"$__rate_interval": "60s", "${__interval}": "30s", "$__interval_ms": "30000", "$__range": "21600s", "[[__range_s]]": "21600",
		"$__range_ms": "21600000", "$__from": "1795338000000", "${__to:date:seconds}": "1795359600", "${__from:date}": "2026-11-22T09:00:00.000Z",
		"$__rate_interval_ms": "60000", "$__nothing": "$__nothing", "$1": "$1", "$": "$", "$__auto": "30s",
	} {
		got := expand(text, func(u use) (string, bool) { return w.macro(u.name, u.format) })
		if got.text != want {
			t.Errorf("%s: %s, want %s", text, got.text, want)
		}
	}
	w.Step = 5 * time.Minute
	if got := w.rateInterval(); got != 315*time.Second {
		t.Errorf("rate interval %s", got)
	}
	if got := duration(500 * time.Millisecond); got != "500ms" {
		t.Errorf("half a second: %s", got)
	}
}

func TestParseCall(t *testing.T) {
	for query, want := range map[string]struct {
		call
		expr string
	}{
		`label_values(up, job)`:                                 {call{"label_values", "job"}, "up"},
		`label_values(up{a=~"$b, c", d="x"}, job)`:              {call{"label_values", "job"}, `up{a=~"$b, c", d="x"}`},
		`label_values(job)`:                                     {call{"label_values", "job"}, ""},
		" label_values(\n  up{a=\"b\"},\n  instance\n) ":        {call{"label_values", "instance"}, `up{a="b"}`},
		`label_values(up, $label)`:                              {call{"label_values", "$label"}, "up"},
		`label_values({__name__="x.y"}, "k8s.pod")`:             {call{"label_values", "k8s.pod"}, `{__name__="x.y"}`},
		`query_result(topk(5, sum by (a) (rate(b[$__range]))))`: {call{name: "query_result"}, `topk(5, sum by (a) (rate(b[$__range])))`},
		`metrics(node_.*)`:                                      {call{name: "metrics"}, `node_.*`},
		`label_names()`:                                         {call{name: "label_names"}, ``},
		`up{job="x"}`:                                           {call{}, `up{job="x"}`},
	} {
		c, expr, from := parseCall(query)
		if c != want.call || expr != want.expr || expr != "" && !strings.HasPrefix(query[from:], expr) {
			t.Errorf("%s: %+v %q at %d", query, c, expr, from)
		}
	}
}

func TestFilter(t *testing.T) {
	values := []string{`up{instance="a:1",job="x"} 1`, `up{instance="b:1",job="x"} 1`, `down{}`}
	for pattern, want := range map[string][]string{
		"":                             values,
		`/instance="(.+?)"/`:           {"a:1", "b:1"},
		`job="(.+?)"`:                  {"x"},
		`/^down/`:                      {"down{}"},
		`/(?<text>up).*="(?<value>x)/`: {"x"},
		`/(?!no)such/`:                 values,
		`/nothing/`:                    nil,
	} {
		v := Variable{Regex: pattern}
		got := v.filter(values)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", pattern, diff)
		}
	}
}

func TestSaved(t *testing.T) {
	for _, tt := range []struct {
		v    Variable
		want []string
	}{
		{Variable{Type: "custom", Query: `one : 1, two\, three , 4`}, []string{"1", "two, three", "4"}},
		{Variable{Type: "custom", Query: `1,2`, Current: []string{"2"}}, []string{"2"}},
		{Variable{Type: "interval", Query: `1m,5m`}, []string{"1m", "5m"}},
		{Variable{Type: "constant", Query: `x`}, []string{"x"}},
		{Variable{Type: "query", Query: `label_values(x)`, Current: []string{"$__all"}}, nil},
		{Variable{Type: "custom", options: []string{"$__all", "a"}}, []string{"a"}},
	} {
		got := tt.v.saved()
		if strings.Join(got, "|") != strings.Join(tt.want, "|") {
			t.Errorf("%+v: %q, want %q", tt.v, got, tt.want)
		}
	}
}

// FuzzExpand: what is not a variable stays as it is, and the way back from each byte leads to where it came from.
func FuzzExpand(f *testing.F) {
	for _, seed := range []string{`rate(a{b=~"$job"}[$__rate_interval])`, "[[a]] ${a:regex} $a$a \xff é", `'$a\'' # "$a`, `${a.b:c}`} {
		f.Add(seed, "value")
	}
	f.Fuzz(func(t *testing.T, expr, value string) {
		e := expand(expr, func(u use) (string, bool) { return value, u.name == "a" })
		if !regexp.MustCompile(`\$|\[\[`).MatchString(expr) && e.text != expr {
			t.Errorf("%q became %q", expr, e.text)
		}
		// The expression again, of what is not a variable, in order.
		last := 0
		for i := range len(e.text) {
			from := e.origin(i)
			if from < last || from > len(expr) {
				t.Fatalf("byte %d of %q came from %d of %q, after %d", i, e.text, from, expr, last)
			}
			last = from
		}
		for _, p := range e.pieces {
			if !p.variable && p.from < len(expr) && p.at < len(e.text) && len(value) > 0 && e.text[p.at] != expr[p.from] && e.text[p.at] != value[0] {
				t.Errorf("%q at %d is not %q at %d", e.text, p.at, expr, p.from)
			}
		}
		if len(quoted(expr)) != len(expr) {
			t.Error("quoted is not as long as the expression")
		}
	})
}
