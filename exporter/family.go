package exporter

// Family is what the reference page says of one family of metrics: each package below this one lists its own in a
// function Families.
type Family struct {
	Name      string   // such as flyball_gpu_power_watts, which ends in its unit
	Help      string   // what it tells, in a sentence or two: the HELP line of the exposition
	Type      string   // gauge, counter, histogram or summary
	Labels    []string // in the order in which they are explained; none is nil
	Collector string   // the collector's name, as --collector.NAME and flyball_collector_success{collector} have it
}
