package main

import (
	"os"
	"runtime/debug"
)

// frugalPercent is how much may be allocated, in percent of what is in use, before garbage is collected in a process whose
// part is small: the exporter alone and the NVML worker. They keep about 4 MB, most of it what the packages of the whole
// program set up, and with Go's 100 would hold as much again in hand, on every node. At a scrape of 830 series, every 50 ms:
//
//	GOGC   CPU a scrape   anonymous memory, both
//	  25        15.3 ms   21.6 MB
//	  40        10.9 ms   22.6 MB
//	  60         9.2 ms   24.1 MB
//	 100         8.2 ms   28.3 MB
const frugalPercent = 40

// frugal has this process give memory back sooner, unless GOGC says how soon.
func frugal() {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(frugalPercent)
	debug.FreeOSMemory() // what the start left
}
