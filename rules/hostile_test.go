package rules

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// hostile are files that somebody wrote to take time or memory. Each is refused, or is as cheap as a file may be.
func hostile() map[string]string {
	promQL := func(text string) string { return rule("sum(rate(requests_total[1m]))", "'"+text+"'") }
	value := func(text string) string { return rule("value: demand", "value: '"+text+"'") }
	condition := func(text string) string {
		return rule("    signals:", "    when:\n    - {if: '"+text+"', do: hold}\n    signals:")
	}
	alert := func(text string) string {
		return "groups:\n- name: g\n  rules:\n  - alert: A\n    expr: '" + text + "'\n"
	}
	times := strings.Repeat
	bomb := "groups:\n- name: g\n  labels: &a0 {x: y}\n"
	laughs := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 12; i++ {
		laughs += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(times(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	var many strings.Builder
	many.WriteString("groups:\n- name: g\n  rules:\n")
	for i := range 5000 {
		fmt.Fprintf(&many, "  - {sacle: r%d}\n", i)
	}
	return map[string]string{
		"brackets":                    "groups: " + times("[", 100_000),
		"brackets that close":         "groups: " + times("[", 9_000) + times("]", 9_000),
		"mappings":                    "groups: " + times("{a: ", 50_000),
		"sequences in sequences":      "groups: " + times("- ", 50_000) + "a",
		"blocks":                      deepBlocks(1500),
		"billion laughs":              laughs,
		"an alias of an alias":        bomb + "  rules: [" + strings.TrimSuffix(times("*a0, ", 50_000), ", ") + "]\n",
		"an alias within itself":      "groups: &a [*a, *a]\n",
		"a key of a megabyte":         "groups:\n- name: g\n  " + times("k", 1<<20) + ": 1\n",
		"a name of a megabyte":        rule("digits\n    target", times("k", 1<<20)+"\n    target"),
		"a query name of a megabyte":  rule("demand: sum", times("k", 1<<20)+": sum"),
		"a number of a megabyte":      rule("max: 8", "max: "+times("9", 1<<20)),
		"a huge number":               rule("max: 8", "max: 1e400"),
		"a huge capacity":             rule("max: 8", "max: 9223372036854775807"),
		"a duration of a megabyte":    rule("- name: serving", "- name: serving\n  interval: "+times("9", 1<<20)+"s"),
		"a step of a megabyte":        rule("    signals:", "    when:\n    - {if: demand > 1, do: '+"+times("9", 1<<20)+"'}\n    signals:"),
		"a cron of a megabyte":        rule("max: 8", "max: 8\n    schedule: [{cron: '"+times("1,", 1<<19)+"1 * * * *', for: 1h, min: 2}]"),
		"many wrong rules":            many.String(),
		"many keys":                   "groups:\n- name: g\n" + times("  kk: 1\n", 50_000),
		"PromQL parentheses":          promQL(times("(", 100_000) + "up" + times(")", 100_000)),
		"PromQL open parentheses":     promQL(times("(", 100_000)),
		"PromQL signs":                promQL(times("-", 100_000) + "up"),
		"PromQL sums":                 promQL("up" + times(" + up", 20_000)),
		"PromQL powers":               promQL("2" + times("^2", 50_000)),
		"PromQL functions":            promQL(times("abs(", 20_000) + "up" + times(")", 20_000)),
		"PromQL subqueries":           promQL("up" + times("[1m:1s]", 20_000)),
		"PromQL in an alert":          alert(times("(", 100_000) + "up" + times(")", 100_000)),
		"PromQL of a megabyte":        promQL("up{job=\"" + times("x", 1<<20) + "\"}"),
		"a regular expression":        promQL(`up{job=~"(a+)+$"}`),
		"nested repetitions":          promQL(`up{job=~"((((a{0,9}){0,9}){0,9}){0,9}){0,9}"}`),
		"large repetitions":           promQL(`up{job=~"` + times("(abcdefghij){1000}", 300) + `"}`),
		"long repetitions":            promQL(`up{job=~"(` + times("abcdefgh|", 400) + `x){1000}"}`),
		"many regular expressions":    promQL("up" + times(` or up{job=~"a{999}"}`, 900)),
		"alternatives":                promQL(`up{job=~"` + times("(a|b)", 20_000) + `"}`),
		"expr parentheses":            value(times("(", 100_000) + "demand" + times(")", 100_000)),
		"expr open parentheses":       value(times("(", 100_000)),
		"expr signs":                  value(times("- ", 100_000) + "demand"),
		"expr nots":                   condition(times("!", 100_000) + "true"),
		"expr sums":                   value("demand" + times(" + demand", 50_000)),
		"expr conditions":             value(times("demand > 1 ? 1 : ", 20_000) + "2"),
		"expr members":                value("q" + times(".demand", 50_000)),
		"expr indexes":                value(times("demand[", 50_000) + "0" + times("]", 50_000)),
		"expr calls":                  value(times("abs(", 50_000) + "demand" + times(")", 50_000)),
		"expr lists":                  value("len(" + times("[", 50_000) + times("]", 50_000) + ")"),
		"expr variables":              value(times("let a = 1; ", 20_000) + "a"),
		"nested reduce":               value("let a = 1..3000; reduce(a, #acc + reduce(a, #acc + reduce(a, #acc+1, 0), 0), 0)"),
		"nested predicates":           value(times("sum(series.demand, ", 200) + ".value" + times(")", 200)),
		"many predicates":             value("0.0" + times(" + sum(series.demand, .value)", 60)),
		"a range":                     value("count(1..1000000000, # > 1)"),
		"a repeated text":             condition(`len(repeat("x", 1000000000)) > 1`),
		"expr regular expression":     condition(`weekday matches "(a+)+$"`),
		"expr repetitions":            condition(`weekday matches "` + times("(abcdefghij){1000}", 200) + `"`),
		"expr expression of a label":  condition(`weekday matches labels.pattern`),
		"expr text of a megabyte":     condition(`weekday == "` + times("x", 1<<20) + `"`),
		"expr name of a megabyte":     value(times("x", 1<<20)),
		"expr number of a megabyte":   value(times("9", 1<<20)),
		"a template that goes round":  rule("name: digits}", `name: '{{ define "a" }}{{ template "a" }}{{ template "a" }}{{ end }}{{ template "a" }}{{ $labels.x }}'}`+"\n    for_each: {by: [x]}"),
		"a template that is wide":     rule("name: digits}", `name: '{{ printf "%900000d%900000d%900000d" 1 2 3 }}{{ $labels.x }}'}`+"\n    for_each: {by: [x]}"),
		"a template of a megabyte":    rule("name: digits}", "name: '"+times("{{ $labels.x }}", 1<<16)+"'}\n    for_each: {by: [x]}"),
		"a selector in a record loop": "groups:\n- name: g\n  rules:\n" + loop(12) + rule()[len("groups:\n- name: serving\n  rules:\n"):],
	}
}

// deepBlocks is YAML nested by indentation.
func deepBlocks(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

// loop is recording rules each of which reads all others several times: ages are traced through them.
func loop(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "  - {record: 'r%d', expr: '", i)
		for j := range n {
			fmt.Fprintf(&b, "r%d + ", j)
		}
		b.WriteString("requests_total'}\n")
	}
	return strings.Replace(b.String(), "record: 'r0'", "record: 'requests_total'", 1)
}

// cost is what a file takes to be read: time and all that was allocated meanwhile.
func cost(text string) (took time.Duration, allocated uint64, err error) {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	_, err = (&Reader{Defaults: testDefaults}).Parse("rules.yml", []byte(text))
	if err != nil {
		_ = err.Error()
	}
	took = time.Since(start)
	runtime.ReadMemStats(&after)
	return took, after.TotalAlloc - before.TotalAlloc, err
}

// TestHostileFiles: none takes more memory than 64 MB, all that is allocated counted, nor longer than so many times a file
// of 400 rules, which takes some 40 ms on an idle machine.
func TestHostileFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes time")
	}
	var base strings.Builder
	base.WriteString("groups:\n- name: g\n  rules:\n")
	for i := range 400 {
		one := rule("scale: digits", fmt.Sprintf("scale: r%d", i), "name: digits", fmt.Sprintf("name: r%d", i))
		base.WriteString(one[len("groups:\n- name: serving\n  rules:\n"):])
	}
	for name, text := range hostile() {
		t.Run(name, func(t *testing.T) {
			var took, usual time.Duration
			for try := range 5 { // a machine that others use has its moments, which both of them see
				var err error
				if usual, _, err = cost(base.String()); err != nil {
					t.Fatal(err)
				}
				again, allocated, err := cost(text)
				if allocated > 64<<20 {
					t.Fatalf("%d MB allocated, error %.200v", allocated>>20, err)
				}
				if err != nil && len(err.Error()) > 256<<10 {
					t.Fatalf("an error of %d KB", len(err.Error())>>10)
				}
				if took = again; took < 5*usual {
					return
				}
				t.Logf("try %d: %s, error %.200v", try, took, err)
			}
			t.Errorf("%s, where a file of 400 rules takes %s", took, usual)
		})
	}
}
