package main

import (
	"fmt"
	"strings"
	"time"
)

// Cost is what one contender costs. Times are in seconds, of CPU where it says so.
type Cost struct {
	Series         int     `json:"series"`
	Processes      int     `json:"processes"`
	P50            float64 `json:"scrape_p50_seconds"`
	P99            float64 `json:"scrape_p99_seconds"`
	CPUPerScrape   float64 `json:"cpu_per_scrape_seconds"` // with what is used in the 15 s between two
	CPUPerSeries   float64 `json:"cpu_per_series_seconds"` // of one scrape
	RestingCPU     float64 `json:"resting_cpu_ratio"`      // of a core, when nobody scrapes
	AnonymousBytes int64   `json:"anonymous_bytes"`        // all processes together
}

// Hung is what was seen while all GPUs hung.
type Hung struct {
	Noticed   float64 `json:"noticed_seconds"` // from then until flyball_gpu_up is 0
	P50       float64 `json:"scrape_p50_seconds"`
	P99       float64 `json:"scrape_p99_seconds"`
	Lost      int     `json:"lost_families"` // not of GPUs
	Recovered float64 `json:"recovered_seconds"`
}

// Gate is a promise and what became of it.
type Gate struct {
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Limit float64 `json:"limit"`
	Held  bool    `json:"held"`
}

// Report is the outcome of a run.
type Report struct {
	Started      time.Time `json:"started"`
	Machine      string    `json:"machine"`
	Scrapes      int       `json:"scrapes"`
	NodeExporter Cost      `json:"node_exporter"`
	Flyball      Cost      `json:"flyball"`
	Hung         Hung      `json:"hung"`
	Respawn      float64   `json:"respawn_seconds"`
	Gates        []Gate    `json:"gates"`
}

// judge holds the figures against what is promised.
func (r *Report) judge() {
	gate := func(what string, value, limit float64) {
		r.Gates = append(r.Gates, Gate{what, value, limit, value <= limit}) // NaN holds nothing
	}
	gate("CPU per series and scrape, flyball to node_exporter", r.Flyball.CPUPerSeries/r.NodeExporter.CPUPerSeries, 1)
	gate("anonymous memory of flyball and its worker, MB", float64(r.Flyball.AnonymousBytes)/1e6, 25)
	gate("all GPUs hang: ms that 99 of 100 scrapes take", r.Hung.P99*1e3, 100)
	gate("all GPUs hang: families lost that are not of GPUs", float64(r.Hung.Lost), 0)
}

// text is the report for a person.
func (r *Report) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d scrapes of each in turn\n\n%-42s %14s %14s\n", r.Machine, r.Scrapes, "", "node_exporter", "flyball")
	row := func(what, format string, node, flyball any) {
		fmt.Fprintf(&b, "%-42s %14s %14s\n", what, fmt.Sprintf(format, node), fmt.Sprintf(format, flyball))
	}
	n, f := r.NodeExporter, r.Flyball
	row("series", "%d", n.Series, f.Series)
	row("processes", "%d", n.Processes, f.Processes)
	row("scrape p50, ms", "%.2f", n.P50*1e3, f.P50*1e3)
	row("scrape p99, ms", "%.2f", n.P99*1e3, f.P99*1e3)
	row("CPU a scrape, ms (one every 15 s)", "%.2f", n.CPUPerScrape*1e3, f.CPUPerScrape*1e3)
	row("CPU a series and scrape, us", "%.2f", n.CPUPerSeries*1e6, f.CPUPerSeries*1e6)
	row("CPU at rest, % of a core", "%.3f", n.RestingCPU*100, f.RestingCPU*100)
	row("anonymous memory, MB", "%.1f", float64(n.AnonymousBytes)/1e6, float64(f.AnonymousBytes)/1e6)
	fmt.Fprintf(&b, "\nall GPUs hang: flyball_gpu_up 0 after %.1f s, scrape p50 %.2f ms, p99 %.2f ms, read again %.1f s after they work\n", r.Hung.Noticed, r.Hung.P50*1e3, r.Hung.P99*1e3, r.Hung.Recovered)
	fmt.Fprintf(&b, "a killed worker is replaced after %.1f s\n\ngates\n", r.Respawn)
	for _, g := range r.Gates {
		verdict := "held"
		if !g.Held {
			verdict = "MISSED"
		}
		fmt.Fprintf(&b, "  %-7s %-55s %7.2f  at most %g\n", verdict, g.What, g.Value, g.Limit)
	}
	return b.String()
}

// families are the names on a page that are not of GPUs.
func families(p page) map[string]bool {
	names := map[string]bool{}
	for _, line := range p {
		name := line[:strings.IndexAny(line+" ", "{ ")]
		if !strings.HasPrefix(name, "flyball_gpu_") {
			names[name] = true
		}
	}
	return names
}
