package web

import (
	"errors"
	"fmt"
	"html"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/rules"
)

// TestForecasts: the overview lists what is wrong first, then what a scale rule waits for; a filter leaves what the rule uses.
func TestForecasts(t *testing.T) {
	rows := func(page string) (all []string) {
		_, rest, _ := strings.Cut(page, `data-testid="forecasts"`)
		_, rest, _ = strings.Cut(rest, "<tbody>")
		rest, _, _ = strings.Cut(rest, "</tbody>")
		for row := range strings.SplitSeq(rest, "<tr ") {
			if text := strings.Join(strings.Fields(regexp.MustCompile("<[^>]*>").ReplaceAllString(row, " ")), " "); text != "" {
				all = append(all, html.UnescapeString(text[strings.Index(text, ">")+1:]))
			}
		}
		return all
	}
	broken := " broken_demand no values yet digits forecast broken_demand: the query gives 240 series, more than limit, which is 100: aggregate them, or raise the limit"
	digits := " digits_demand model=digits armed 26 % ets_ar 2h 4m30s 299 360 p90 88 % digits its error is 0.74 times that of the last value"
	for url, want := range map[string][]string{
		"/": {
			broken,
			" all_demand model=digits not armed – 4m30s 299 360 p90 – 12 of its forecasts have been compared with what came: 300 are needed",
			" all_demand model=llama not armed −20 % ets_ar 2h 4m30s 299 360 p90 – its error is 1.2 times that of the last value: it is of no use",
			digits,
		},
		"/?rule=digits":  {broken, digits},
		"/?rule=llama":   nil,
		"/?model=digits": {broken, digits},
	} {
		page := get(t, fullPage(), url).Body.String()
		if diff := cmp.Diff(want, rows(page)); diff != "" {
			t.Errorf("%s:\n%s", url, diff)
		}
		if !strings.Contains(page, `<a href="#forecasts" class="bad"><b>1 of 4</b> forecasts armed</a>`) {
			t.Errorf("%s: no tile of the forecasts", url)
		}
	}
	for _, link := range []string{`href="/forecasts/digits_demand"`, `href="/forecasts/all_demand?series=%7Bmodel%3D%22llama%22%7D"`} {
		if !strings.Contains(get(t, fullPage(), "/").Body.String(), link) {
			t.Errorf("no link %s", link)
		}
	}
	p := fullPage()
	p.Forecasts = func() (all []rules.ForecastStatus) {
		for i := range 40 {
			all = append(all, rules.ForecastStatus{Name: fmt.Sprintf("f%02d", i)})
		}
		return all
	}
	if page := get(t, p, "/").Body.String(); len(rows(page)) != forecastsShown || !strings.Contains(page, "The first 30 of 40 series") {
		t.Errorf("%d rows of 40", len(rows(page)))
	}
	p.Forecasts = func() []rules.ForecastStatus { return nil }
	if page := get(t, p, "/").Body.String(); strings.Contains(page, "s-forecasts") || strings.Contains(page, "armed") {
		t.Error("a word of forecasts where there is no rule of one")
	}
}

// TestForecastWaits: a forecast that a scale rule would use, and that is not armed, is before those that nobody waits for.
func TestForecastWaits(t *testing.T) {
	all := forecastsAt(noon)[:2]
	for i, want := range []string{"all_demand", "digits_demand"} {
		all[1].Series[0].Armed = i == 0
		if got := forecastRows(all, fullStatus().Rules)[0].Rule.Name; got != want {
			t.Errorf("first %s, want %s", got, want)
		}
	}
}

func TestForecastPage(t *testing.T) {
	for _, tt := range []struct {
		url  string
		code int
		want []string
		not  []string
	}{
		{"/forecasts/digits_demand", 200, []string{
			`data-testid="armed">armed</b>`, "<b>26 %</b> better than the last value", `<a href="/?rule=digits">digits</a>`, "2m30s by which the query's range is late",
			"p10 <b>280</b>, p50 <b>320</b>, p90 <b>360</b> <span class=\"dim\">in 4m30s</span>", "1200 values, 3 missing", "1180 of 1440 steps", "40 min ago", "error 26% below",
			`<th scope="row">p90</th><td class="num">90 %</td><td class="num">88 %</td>`, "autocorrelation 0.81", "level shift", "spike at", "901, 7.25 standard deviations off",
			`data-past="digits_demand{horizon="lead",model="digits"} offset 4m30s"`, `data-query="sum by (model) (rate(requests_total[5m]))"`, `data-range="21600"`,
			`class="num">–</td><td class="num">405</td><td class="num">445</td><td class="num">485</td>`, "to come", `content="5"`,
		}, []string{`data-testid="series"`}},
		{"/forecasts/digits_demand?range=1h&refresh=off", 200, []string{`data-range="3600"`, `href="/forecasts/digits_demand?range=6h&amp;refresh=off"`, "refresh every 5 s"}, []string{"http-equiv"}},
		{"/forecasts/all_demand", 200, []string{
			`data-testid="series"`, `>{model="digits"}</a>`, `model="digits"} offset`, "no scale rule: one does with a signal", "300 are needed", "None are looked for", "None are fitted yet",
			"<b>–</b> better", `data-testid="armed">not armed</b>`,
		}, nil},
		{`/forecasts/all_demand?series=%7Bmodel%3D%22llama%22%7D`, 200, []string{`model="llama"} offset`, `data-soft aria-current="true">{model="llama"}</a>`, "<b>−20 %</b> better", "it is of no use"}, nil},
		{"/forecasts/all_demand?series=x", 200, []string{`series: all_demand has no series x: there is {model="digits"}, {model="llama"}`}, nil},
		{"/forecasts/broken_demand", 200, []string{"the query gives 240 series", "No values yet"}, []string{"data-past"}},
		{"/forecasts/digit_demand", 404, []string{`no forecast is called "digit_demand": there is all_demand, digits_demand, broken_demand`}, nil},
		{"/forecasts/digits_demand?range=5x", 400, []string{"expected a duration from 1m to 31d"}, nil},
	} {
		w := get(t, fullPage(), tt.url)
		page := html.UnescapeString(w.Body.String())
		if w.Code != tt.code {
			t.Errorf("%s: %d, want %d", tt.url, w.Code, tt.code)
		}
		for _, want := range tt.want {
			if !strings.Contains(page, strings.ReplaceAll(want, "&amp;", "&")) {
				t.Errorf("%s: no %s", tt.url, want)
			}
		}
		for _, not := range tt.not {
			if strings.Contains(page, not) {
				t.Errorf("%s: %q is there", tt.url, not)
			}
		}
		if inline := regexp.MustCompile(`<script(>| [^s])|<style| style="| on[a-z]+="|javascript:`).FindString(page); inline != "" {
			t.Errorf("%s: %q, which the security policy forbids", tt.url, inline)
		}
	}
	p := fullPage()
	p.Queries = &waves{err: errors.New("no store")}
	if page := get(t, p, "/forecasts/digits_demand").Body.String(); !strings.Contains(page, "The chart has no data: no store") || !strings.Contains(page, "to come") {
		t.Error("what is to come is not shown where the store does not answer")
	}
	p.Queries = nil
	if w := get(t, p, "/forecasts/digits_demand"); w.Code != http.StatusOK || strings.Contains(w.Body.String(), "data-past") {
		t.Errorf("without a store: %d", w.Code)
	}
	p.Forecasts = nil
	if w := get(t, p, "/forecasts/digits_demand"); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "role rules") {
		t.Errorf("without forecasts: %d %s", w.Code, w.Body)
	}
}

// TestForecastEscaping: labels and texts of a forecast come from outside.
func TestForecastEscaping(t *testing.T) {
	const evil = `"><script>alert('x')</script><img src=x onerror=alert(1)>`
	p := fullPage()
	p.Forecasts = func() []rules.ForecastStatus {
		f := forecastsAt(noon)[1]
		f.Query, f.Lead, f.Error, f.HistoryError = evil, evil, evil, evil
		s := &f.Series[0]
		s.Labels, s.Reason, s.ArmedText = map[string]string{"model": evil, "a.b": evil}, evil, evil
		s.Weights[0].Model, s.Seasons[0].Reason, s.LastAnomaly.Kind, s.Anomalies = evil, evil, evil, map[string]int64{evil: 1}
		return []rules.ForecastStatus{f, forecastsAt(noon)[0]}
	}
	for _, url := range []string{"/", "/forecasts/digits_demand", "/forecasts/%3Cscript%3E", "/forecasts/all_demand?series=%3Cscript%3E"} {
		page := get(t, p, url).Body.String()
		for _, bad := range []string{"<script>", "<img", `"javascript:`} {
			if at := strings.Index(page, bad); at >= 0 {
				t.Errorf("%s: %q on the page: ...%s", url, bad, page[max(0, at-100):at+50])
			}
		}
	}
	if got, want := pastForecasts(&rules.ForecastStatus{Name: "f", LeadSeconds: 4.5}, &rules.ForecastSeries{Labels: map[string]string{"a.b": `x"y`, "c": "d"}}),
		`f{horizon="lead","a.b"="x\"y",c="d"} offset 4s500ms`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestChartTimes(t *testing.T) {
	for _, tt := range []struct {
		horizon, asked time.Duration
		shown          time.Duration
		offered        []time.Duration
	}{
		{10 * time.Second, 0, 5 * time.Minute, []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour}},
		{30 * time.Minute, 0, 6 * time.Hour, []time.Duration{6 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, maxRange}},
		{30 * time.Minute, 2 * time.Hour, 2 * time.Hour, []time.Duration{6 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, maxRange, 2 * time.Hour}},
		{14 * 24 * time.Hour, 0, maxRange, []time.Duration{maxRange}},
	} {
		offered, shown := chartTimes(tt.horizon, tt.asked)
		if diff := cmp.Diff(tt.offered, offered); diff != "" || shown != tt.shown {
			t.Errorf("%s: %s, want %s\n%s", tt.horizon, shown, tt.shown, diff)
		}
	}
}
