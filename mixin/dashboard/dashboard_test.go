package dashboard

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flyball/rules/source"
)

func read(t *testing.T, name string) *Dashboard {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	d, err := Read(name, text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// texts are findings without the caret.
func texts(findings []Finding) (all []string) {
	for _, f := range findings {
		all = append(all, fmt.Sprintf("%s [%s]", f.Error.Error(), f.Rule))
	}
	return all
}

// TestReadOdd: a byte order mark is read over, and the log lines of a panel are not asked of a Prometheus even where the data
// source has a name only.
func TestReadOdd(t *testing.T) {
	const text = `{"title": "Odd", "panels": [null, {"type": "logs", "title": "Log", "datasource": "Logs", "targets": [{"refId": "A", "expr": "{app=\"x\"} |= \"e\""}]},
  {"type": "stat", "title": "Up", "datasource": "Main", "targets": [null, {"refId": "A", "expr": "sum(up"}]}]}`
	d, err := Read("odd.json", []byte("\ufeff"+text))
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Skipped["loki"]; got != 1 || len(d.Queries) != 1 {
		t.Errorf("%d queries of loki and %d of Prometheus, expected one each", got, len(d.Queries))
	}
	if diff := cmp.Diff([]string{`odd.json:2:105: panel "Up", query A: PromQL: unclosed left parenthesis [promql]`}, texts(d.Check())); diff != "" {
		t.Error(diff)
	}
}

// TestRead: panels in rows, in collapsed rows, in elements; queries by their data source.
func TestRead(t *testing.T) {
	for _, tt := range []struct {
		file, schema    string
		panels, library int
		skipped         string
		queries         []string
	}{
		{"old.json", "classic", 2, 0, "", []string{
			`variable "node": node_load1`, `panel "Load", query A: node_load1{instance=~"$node"}`,
		}},
		{"mixed.json", "classic", 4, 1, "1 __expr__, 1 cloudwatch, 3 loki", []string{
			`variable "zone": max by (zone) (up)`, `annotation "Deployments": changes(build_info[$__interval])`,
			`panel "Inside", query A: rate(a_total{zone=~"$zone"}[$__rate_interval])`, `panel "Mixed", query A: up`,
		}},
		{"v1.json", "v1", 1, 0, "", []string{`panel "Up", query A: sum(up`}},
		{"v2alpha1.json", "v2", 1, 0, "", []string{`variable "job": up`, `panel "Up", query A: up{job=~"$job"}`}},
		{"v2.json", "v2", 2, 1, "1 loki", []string{
			`variable "job": up`, `annotation "Restarts": changes(start_time[5m]) > 0`, `panel "Rate", query A: sum(rate(x_total[5m])`,
		}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			d := read(t, tt.file)
			var queries []string
			for _, q := range d.Queries {
				queries = append(queries, q.In()+": "+q.Expr)
			}
			if diff := cmp.Diff(tt.queries, queries); diff != "" {
				t.Error(diff)
			}
			if d.Schema != tt.schema || len(d.Panels) != tt.panels || d.Library != tt.library || d.SkippedText() != tt.skipped {
				t.Errorf("schema %s, %d panels, %d of them in libraries, skipped %s", d.Schema, len(d.Panels), d.Library, d.SkippedText())
			}
		})
	}
	t.Run("as the API answers", func(t *testing.T) {
		d, err := Read("x", []byte(`{"meta": {}, "dashboard": {"title": "T", "panels": []}}`))
		if err != nil || d.Title != "T" {
			t.Errorf("%+v, %v", d, err)
		}
	})
	for text, want := range map[string]string{
		"{\n  \"panels\": [}\n":  "x:2:14: JSON: invalid character '}' looking for beginning of value",
		`{"groups": []}`:         "x:1:1: not a Grafana dashboard: there are no panels, rows or elements in it",
		``:                       "x:1:1: JSON: unexpected end of JSON input",
		`[1]`:                    "x:1:1: not a Grafana dashboard: there are no panels, rows or elements in it",
		`{"panels": []} {"a":1}`: "x:1:16: JSON: invalid character '{' after top-level value",
	} {
		_, err := Read("x", []byte(text))
		faults, ok := err.(source.Errors) //nolint:errorlint // documented as this type
		if !ok || len(faults) != 1 || faults[0].Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// TestRealDashboard: another project's dashboard, as its users have it, parses and is understood.
func TestRealDashboard(t *testing.T) {
	d := read(t, "traefik.json")
	if faults := d.Check(); len(faults) > 0 {
		t.Errorf("%q", texts(faults))
	}
	if len(d.Panels) != 14 || len(d.Queries) != 16 || len(d.Variables) != 4 || len(d.Skipped) != 0 {
		t.Errorf("%d panels, %d queries, %d variables, skipped %v", len(d.Panels), len(d.Queries), len(d.Variables), d.Skipped)
	}
}

// dash makes a dashboard of one query, with three variables that only a Prometheus has values of.
func dash(t *testing.T, expr string) *Dashboard {
	t.Helper()
	text := fmt.Sprintf(`{"title": "T", "panels": [
  {"type": "timeseries", "title": "P", "targets": [{"refId": "A", "expr": %q}]}],
 "templating": {"list": [
  {"name": "job", "type": "query", "query": "label_values(up, job)", "multi": true},
  {"name": "what", "type": "query", "query": "label_values(up, job)"},
  {"name": "rate", "type": "interval", "query": "1m,5m,1h"},
  {"name": "top", "type": "custom", "query": "five : 5, ten : 10"},
  {"name": "fixed", "type": "constant", "query": "node"}]}}`, expr)
	d, err := Read("d.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestCheck: what is wrong, and where in the file it is.
func TestCheck(t *testing.T) {
	for _, tt := range []struct{ name, expr, want string }{
		{"plain", `up`, ""},
		{"macros", `rate(a[$__rate_interval]) + rate(a[${__interval}]) + increase(a[$__range]) * $__range_s / $__interval_ms + $__from`, ""},
		{"every way to write a variable", `a{j=~"$job", k=~"${job}", l=~"[[job]]", m=~"${job:regex}", n=~"[[job:pipe]]"}`, ""},
		{"a name", `sum by ($what) (rate(${fixed}_seconds_total[$rate]))`, ""},
		{"a metric", `$what{job="x"}`, ""},
		{"a duration nobody knows", `rate(a[$what])`, ""},
		{"a number", `topk($top, a) > $what`, ""},
		{"a number nobody knows", `topk($what, a)`, ""},
		{"an operator", `a $what 5`, ""},
		{"groups of a regular expression", `label_replace(a, "x", "$1-${1}", "y", "(.*)")`, ""},
		{"new functions and modifiers", `limitk(2, a) + sum(rate(a[5m] smoothed))`, ""},
		{"not closed", `sum(rate(a[5m])`, `d.json:2:91: panel "P", query A: PromQL: unclosed left parenthesis [promql]`},
		{"behind a variable", `sum(rate(a[$rate]) by (b`, `d.json:2:95: panel "P", query A: PromQL: unexpected <by> in aggregation [promql]`},
		{"behind an escape", `sum(a{b="c"}) by`, `d.json:2:94: panel "P", query A: PromQL: unexpected end of input in grouping opts, expected "(" [promql]`},
		{"no such variable", `a{j=~"$jbo"}`, `d.json:2:83: panel "P", query A: no variable "jbo" in this dashboard (did you mean "job"?) [variable]`},
		{"no such format", `a{j=~"${job:regexp}"}`, `d.json:2:83: panel "P", query A: no format "regexp" of variables (did you mean "regex"?) [variable]`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Join(texts(dash(t, tt.expr).Check()), "\n"); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
	t.Run("every line of a query has its place", func(t *testing.T) {
		d := dash(t, "sum(\n\t\"x\u00e9\U0001F600\" + \n  a[5m)")
		f := d.Check()
		if len(f) != 1 {
			t.Fatalf("%q", texts(f))
		}
		// The caret is under the fault although the text before it has escapes for line breaks, tabs and an emoji.
		lines := strings.Split(f[0].Show(), "\n")
		if at := strings.IndexByte(lines[2], '^'); !strings.HasPrefix(string([]rune(lines[1])[at:]), ")") {
			t.Errorf("%s", f[0].Show())
		}
	})
	t.Run("the other schemas", func(t *testing.T) {
		got := append(texts(read(t, "v1.json").Check()), texts(read(t, "v2.json").Check())...)
		want := []string{
			`v1.json:7:146: panel "Up", query A: PromQL: unclosed left parenthesis [promql]`,
			`v2.json:16:213: panel "Rate", query A: PromQL: unclosed left parenthesis [promql]`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestOffset: the place of each byte of a string is where it is written, whatever escapes come before.
func TestOffset(t *testing.T) {
	for _, tt := range []struct {
		text, find string
		at         int
	}{
		{`{"k": "abc"}`, "c", 9},
		{`{"k": "a\"c"}`, "c", 10},
		{`{"k": "\u00e9\u20ac\ud83d\ude00c"}`, "c", 31},
		{`{"k": "é€c"}`, "c", 12},
		{`{"k": "\ud83dc"}`, "c", 13}, // half of a pair
		{`{"k": "\\\n\tc"}`, "c", 13},
	} {
		v, _, err := parseJSON([]byte(tt.text))
		if err != nil {
			t.Fatal(err)
		}
		k := v.get("k")
		if got := k.offset([]byte(tt.text), strings.Index(k.text, tt.find)); got != tt.at || tt.text[got:got+1] != tt.find {
			t.Errorf("%s: %d, want %d", tt.text, got, tt.at)
		}
	}
}

// FuzzRead: nothing that is given for a dashboard makes the reader fail otherwise than by an error, and every finding is at
// a place in the file.
func FuzzRead(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.json")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"panels":[{"targets":[{"expr":"\ud83d a{"}]}],"templating":{"list":[{"name":"a","type":"query","query":"label_values($a,b)"}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := Read("f", text)
		if err != nil {
			return
		}
		lines := strings.Count(string(text), "\n") + 1
		for _, finding := range append(d.Check(), d.Lint(nil)...) {
			if finding.Line < 1 || finding.Line > lines || finding.Column < 1 || finding.Message == "" {
				t.Errorf("%+v", finding.Error)
			}
		}
	})
}
