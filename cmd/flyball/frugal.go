package main

import (
	"os"
	"runtime/debug"
)

// frugalPercent is how much may be allocated, in percent of what is in use, before garbage is collected in a process whose
// part is small: the exporter alone and the NVML worker. They keep about 4 MB, most of it what the packages of the whole
// program set up, and allocate 1 to 2 MB at a scrape; Go's 100 would have them hold as much again in hand, on every node. A
// collection of so little takes 2 ms of CPU.
const frugalPercent = 25

// frugal has this process give memory back sooner, unless GOGC says how soon.
func frugal() {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(frugalPercent)
	debug.FreeOSMemory() // what the start left
}
