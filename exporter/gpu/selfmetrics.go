package gpu

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flyball/exporter"
)

// selfFamilies are the families of what is known about the GPUs beside what is read of them: their errors, and how the
// reading goes.
func selfFamilies() []exporter.Family {
	return []exporter.Family{
		xidFamily.Family, xidLastFamily.Family, healthFamily.Family, unhealthyFamily.Family, collectErrorsFamily.Family,
		backendFamily, countFamily, workerUpFamily, restartsFamily, symbolFamily, callFamily,
	}
}

var (
	xidFamily = counter("xid_errors_total",
		"Errors that the driver reported for the GPU (XIDs) since flyball first saw it, by number and by what they call for: app (the application), hardware, nvlink, info. Known bad numbers start at 0.",
		nil, "xid", "class")
	xidLastFamily = gauge("xid_last_timestamp_seconds",
		"When the driver last reported this error (XID) for the GPU, as seconds since 1970. Absent where it has not yet.",
		nil, "xid", "class")
	healthFamily = gauge("health",
		"Whether nothing known speaks against the GPU (1), or one of flyball_gpu_unhealthy_reason does (0).",
		nil)
	unhealthyFamily = gauge("unhealthy_reason",
		"Whether this speaks against the GPU (1) or not (0): lost (it was seen and cannot be read), xid (an XID of class hardware in the last hour), ecc_uncorrected (since the driver was loaded), remap_failure, recovery_action (the driver asks for a reset or a reboot). Absent where it cannot be told.",
		nil, "reason")
	collectErrorsFamily = counter("collect_errors_total",
		"Attempts to read the GPU that came to nothing: timeout (it hung), crash and missing_symbol (the library ended the worker over it), lost (the driver has given it up), gone (not listed any more), error (any other).",
		nil, "reason")
	countFamily = exporter.Family{
		Name: "flyball_gpus", Type: "gauge", Collector: "gpu", Labels: []string{"state"},
		Help: "GPUs that the driver lists now (seen), readable or not, and the most that it listed since flyball started (expected).",
	}
	workerUpFamily = exporter.Family{
		Name: "flyball_nvml_worker_up", Type: "gauge", Collector: "gpu", Labels: []string{},
		Help: "Whether the process that calls NVML runs (1) or is being replaced, or stuck in the driver (0).",
	}
	restartsFamily = exporter.Family{
		Name: "flyball_nvml_worker_restarts_total", Type: "counter", Collector: "gpu", Labels: []string{"reason"},
		Help: "Processes that call NVML which were given up: timeout (a call hung), crash, missing_symbol, driver_reload (the driver was unloaded or replaced), error (NVML does not work).",
	}
	symbolFamily = exporter.Family{
		Name: "flyball_nvml_symbol_missing", Type: "gauge", Collector: "gpu", Labels: []string{"symbol"},
		Help: "Functions of NVML that are used and that the installed driver lacks; always 1. What they would tell is absent.",
	}

	countDesc, workerUpDesc  = desc(countFamily), desc(workerUpFamily)
	restartsDesc, symbolDesc = desc(restartsFamily), desc(symbolFamily)
)

func desc(f exporter.Family) *prometheus.Desc {
	return prometheus.NewDesc(f.Name, f.Help, f.Labels, nil)
}

// stats is what the poller tells about itself.
type stats struct {
	present  bool // there is a driver, or was
	workerUp bool
	restarts map[string]uint64 // by reason
	missing  []string          // symbols, sorted
	seen     int               // GPUs that the driver listed last
	expected int               // the most of them
}

// miss notes symbols that the library lacks.
func (s *stats) miss(symbols ...string) {
	for _, symbol := range symbols {
		i, found := slices.BinarySearch(s.missing, symbol)
		if !found && len(s.missing) < maxSymbols {
			s.missing = slices.Insert(s.missing, i, strings.ToValidUTF8(symbol, "?"))
		}
	}
}

// self returns the metrics of selfFamilies. The devices are those of view.
func (c *Collector) self(devices []Device, now time.Time) []prometheus.Metric {
	var page page
	for i := range devices {
		d := &devices[i]
		g := c.gpus[d.UUID]
		if g == nil {
			continue
		}
		labels := owner(d.UUID, d.Index)
		for _, x := range d.XIDs {
			number, class := strconv.FormatUint(x.Number, 10), xidClass(x.Number)
			page.add(xidFamily, labels, float64(x.Count), number, class)
			if x.Count > 0 {
				page.add(xidLastFamily, labels, float64(x.Last.UnixMilli())/1000, number, class)
			}
		}
		well := true
		for _, j := range judge(d, now) {
			page.add(unhealthyFamily, labels, ratio(j.holds), j.reason)
			well = well && !j.holds
		}
		page.add(healthFamily, labels, ratio(well))
		for _, reason := range collectReasons {
			page.add(collectErrorsFamily, labels, float64(g.errors[reason]), reason)
		}
	}
	list := page.metrics
	add := func(desc *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		list = append(list, prometheus.MustNewConstMetric(desc, kind, v, labels...))
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	if c.stats.expected > 0 {
		add(countDesc, gauge, float64(c.stats.seen), "seen")
		add(countDesc, gauge, float64(c.stats.expected), "expected")
	}
	if c.stats.present && c.backends.mayBe(BackendNVML) {
		add(workerUpDesc, gauge, ratio(c.stats.workerUp))
		for _, reason := range restartReasons {
			add(restartsDesc, counter, float64(c.stats.restarts[reason]), reason)
		}
		list = append(list, c.calls.metrics()...)
		for _, symbol := range c.stats.missing {
			add(symbolDesc, gauge, 1, symbol)
		}
	}
	return list
}
