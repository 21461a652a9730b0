// Command bench measures flyball's exporter beside node_exporter, both scraped in turn in one run, and holds it to what
// it promises. flyball runs as --role=exporter on a stand-in for NVML with eight GPUs, compiled from the tests' C file.
//
//	make bench-exporter                      # three minutes; exit 3, of which make makes 2, where a promise is missed
//	bin/bench-exporter --scrapes=50 -o json
//
// CPU is that of flyball and its NVML worker together, of the scheduler's own accounting. What a scrape costs is what the
// processes used while they were scraped, less what they use anyway; to that comes what they use anyway in the 15 s that
// Prometheus leaves between two scrapes: flyball reads the GPUs three times in those, node_exporter does nothing.
// Memory is anonymous memory (RssAnon), the most that was seen: the pages of a program's file are shared and can be dropped.
//
// Scrapes are those of Prometheus: its Accept header, gzip, one connection. The machine should do nothing else.
package main
