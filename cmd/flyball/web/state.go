package web

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/common/model"
)

// state is what the query string says of the page: a link to it shows the same to others. Zero fields stand for the
// defaults, which links leave out.
type state struct {
	Rule, Model, Decision string
	Range                 time.Duration // of the charts
	Refresh               time.Duration // 0: off
}

const (
	defaultRange   = time.Hour
	maxRange       = 31 * 24 * time.Hour
	defaultRefresh = 5 * time.Second
	maxParameter   = 256 // bytes: names are shorter
)

// readState reads the query string. What cannot be used is left at its default and told.
func readState(r *http.Request) (st state, faults []string) {
	st = state{Range: defaultRange, Refresh: defaultRefresh}
	q := r.URL.Query()
	for _, p := range []struct {
		name string
		to   *string
	}{{"rule", &st.Rule}, {"model", &st.Model}, {"decision", &st.Decision}} {
		if text := q.Get(p.name); len(text) > maxParameter {
			faults = append(faults, fmt.Sprintf("%s: %d bytes long: expected a name of at most %d", p.name, len(text), maxParameter))
		} else {
			*p.to = text
		}
	}
	if text := q.Get("range"); text != "" {
		d, err := model.ParseDuration(text)
		if at := time.Duration(d); err != nil || at < time.Minute || at > maxRange {
			faults = append(faults, fmt.Sprintf("range: %q: expected a duration from 1m to 31d, such as 15m, 1h or 7d", line(text, 40)))
		} else {
			st.Range = at
		}
	}
	switch text := q.Get("refresh"); text {
	case "":
	case "off":
		st.Refresh = 0
	default:
		d, err := model.ParseDuration(text)
		if at := time.Duration(d); err != nil || at < time.Second || at > time.Hour {
			faults = append(faults, fmt.Sprintf("refresh: %q: expected off, or a duration from 1s to 1h, such as 10s", line(text, 40)))
		} else {
			st.Refresh = at.Truncate(time.Second)
		}
	}
	return st, faults
}

// Query is the state as a query string, without the question mark.
func (st state) Query() string {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("rule", st.Rule)
	set("model", st.Model)
	set("decision", st.Decision)
	if st.Range != defaultRange {
		set("range", model.Duration(st.Range).String())
	}
	switch st.Refresh {
	case defaultRefresh:
	case 0:
		set("refresh", "off")
	default:
		set("refresh", model.Duration(st.Refresh).String())
	}
	return q.Encode()
}

func (st state) link() string {
	if q := st.Query(); q != "" {
		return "/?" + q
	}
	return "/"
}

// ForRule, ForModel, ForDecision, ForRange and ForRefresh are links to the page in another state.
func (st state) ForRule(name string) string { st.Rule, st.Decision = name, ""; return st.link() }

// ForModel is the page of one model, or of all of them.
func (st state) ForModel(name string) string { st.Model, st.Decision = name, ""; return st.link() }

// ForDecision is the page with that decision open.
func (st state) ForDecision(id string) string { st.Decision = id; return st.link() }

// ForRange is the page with charts over another time.
func (st state) ForRange(d time.Duration) string { st.Range = d; return st.link() }

// ForRefresh is the page that refreshes that often, or never.
func (st state) ForRefresh(d time.Duration) string { st.Refresh = d; return st.link() }

// RangeText and RefreshText are durations as a person would write them.
func (st state) RangeText() string { return model.Duration(st.Range).String() }

// RefreshSeconds is how often the page is asked for again, 0 for never.
func (st state) RefreshSeconds() int { return int(st.Refresh / time.Second) }

// RangeSeconds is the time that the charts show.
func (st state) RangeSeconds() int { return int(st.Range / time.Second) }

// Ranges are those that the page offers.
func (st state) Ranges() []state {
	var all []state
	known := false
	for _, d := range []time.Duration{15 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour} {
		known = known || d == st.Range
		all = append(all, state{Range: d})
	}
	if !known {
		all = append(all, state{Range: st.Range})
	}
	return all
}
