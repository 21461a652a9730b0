package store

import (
	"cmp"
	"maps"
	"net"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/scrape"

	"flyball/rules/promapi"
)

// embeddedVersion is the module version of the embedded Prometheus where the program does not know it of itself. A test
// compares it with go.mod.
const embeddedVersion = "v0.315.0"

type apiTargets struct {
	Active       []apiTarget        `json:"activeTargets"`
	Dropped      []apiDroppedTarget `json:"droppedTargets"`
	DroppedCount map[string]int     `json:"droppedTargetCounts"`
}

type apiTarget struct {
	DiscoveredLabels   labels.Labels `json:"discoveredLabels"`
	Labels             labels.Labels `json:"labels"`
	Pool               string        `json:"scrapePool"`
	URL                string        `json:"scrapeUrl"`
	GlobalURL          string        `json:"globalUrl"`
	LastError          string        `json:"lastError"`
	LastScrape         time.Time     `json:"lastScrape"`
	LastScrapeDuration float64       `json:"lastScrapeDuration"`
	Health             string        `json:"health"`
	Interval           string        `json:"scrapeInterval"`
	Timeout            string        `json:"scrapeTimeout"`
}

type apiDroppedTarget struct {
	DiscoveredLabels labels.Labels `json:"discoveredLabels"`
	Pool             string        `json:"scrapePool"`
}

// ListTargets lists what is scraped, and what relabelling dropped.
func (s *Store) ListTargets(f promapi.TargetFilter) *promapi.Result {
	answer := apiTargets{Active: []apiTarget{}, Dropped: []apiDroppedTarget{}}
	b := labels.NewBuilder(labels.EmptyLabels())
	if f.Active {
		for pool, t := range targetsOf(s.scraper.scrapes.TargetsActive(), f.Pool) {
			answer.Active = append(answer.Active, s.apiTarget(pool, t, b))
		}
	}
	if f.Dropped {
		answer.DroppedCount = s.scraper.scrapes.TargetsDroppedCounts()
		for pool, t := range targetsOf(s.scraper.scrapes.TargetsDropped(), f.Pool) {
			answer.Dropped = append(answer.Dropped, apiDroppedTarget{DiscoveredLabels: t.DiscoveredLabels(b), Pool: pool})
		}
	}
	return &promapi.Result{Data: promapi.JSON(answer)}
}

// targetsOf ranges over the targets of one pool, or of all in the order of their names.
func targetsOf(all map[string][]*scrape.Target, pool string) func(yield func(string, *scrape.Target) bool) {
	return func(yield func(string, *scrape.Target) bool) {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if pool != "" && name != pool {
				continue
			}
			for _, t := range all[name] {
				if !yield(name, t) {
					return
				}
			}
		}
	}
}

func (s *Store) apiTarget(pool string, t *scrape.Target, b *labels.Builder) apiTarget {
	shown := apiTarget{
		DiscoveredLabels: t.DiscoveredLabels(b), Labels: t.Labels(b), Pool: pool, URL: t.URL().String(),
		GlobalURL:  globalURL(t.URL(), s.ruleOptions.ExternalURL).String(),
		LastScrape: t.LastScrape(), LastScrapeDuration: t.LastScrapeDuration().Seconds(), Health: string(t.Health()),
		Interval: t.GetValue(model.ScrapeIntervalLabel), Timeout: t.GetValue(model.ScrapeTimeoutLabel),
	}
	if err := t.LastError(); err != nil {
		shown.LastError = err.Error()
	}
	return shown
}

// globalURL is a target's address for a reader elsewhere: what this machine calls localhost, the reader reaches under the
// name that external, flyball's own address for its users, has.
func globalURL(u, external *url.URL) *url.URL {
	if external.Host == "" || !slices.Contains([]string{"127.0.0.1", "localhost", "::1"}, u.Hostname()) {
		return u
	}
	global := *u
	switch {
	case u.Port() == external.Port(): // ourselves
		global.Scheme, global.Host = external.Scheme, external.Host
	case u.Port() != "":
		global.Host = net.JoinHostPort(external.Hostname(), u.Port())
	default:
		global.Host = external.Hostname()
	}
	return &global
}

type apiMetadata struct {
	Type string `json:"type"`
	Unit string `json:"unit"`
	Help string `json:"help"`
}

// ListMetadata lists what the present targets say of their metrics, each variant once.
func (s *Store) ListMetadata(f promapi.MetadataFilter) *promapi.Result {
	found := map[string][]apiMetadata{}
	add := func(m scrape.MetricMetadata) {
		known := found[m.MetricFamily]
		md := apiMetadata{Type: string(m.Type), Unit: m.Unit, Help: m.Help}
		if f.LimitPerMetric > 0 && len(known) >= f.LimitPerMetric || slices.Contains(known, md) {
			return
		}
		found[m.MetricFamily] = append(known, md)
	}
	for _, t := range targetsOf(s.scraper.scrapes.TargetsActive(), "") {
		if f.Metric != "" {
			if m, ok := t.GetMetadata(f.Metric); ok {
				add(m)
			}
			continue
		}
		for _, m := range t.ListMetadata() {
			add(m)
		}
	}
	answer := map[string][]apiMetadata{}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if f.Limit >= 0 && len(answer) >= f.Limit { // 0 is a limit here, in Prometheus too
			break
		}
		answer[name] = found[name]
	}
	return &promapi.Result{Data: promapi.JSON(answer)}
}

// PrometheusVersion returns the version of the embedded Prometheus, such as 3.15.0. Its modules are numbered by another
// rule: 3.15.0 is v0.315.0.
func PrometheusVersion() string {
	version := embeddedVersion
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/prometheus/prometheus" {
				version = m.Version
			}
		}
	}
	return productVersion(version)
}

// productVersion is v0.315.0 read as 3.15.0; anything else as it is, without the v.
func productVersion(module string) string {
	text := strings.TrimPrefix(module, "v")
	part := strings.SplitN(text, ".", 3)
	if len(part) != 3 || part[0] != "0" {
		return cmp.Or(text, "unknown")
	}
	minor, err := strconv.Atoi(part[1])
	if err != nil || minor < 300 {
		return text
	}
	return strconv.Itoa(minor/100) + "." + strconv.Itoa(minor%100) + "." + part[2]
}
