package main

import (
	"os"
	"runtime"
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

// headroom is how much more may be allocated before garbage is collected in the proxy alone. It keeps about 5 MB, so that with
// Go's 100 percent it would collect every few hundred requests, and each time go through what the packages of the whole program
// set up. Requests of 1 kB that pass through, of 32 clients on two cores, medians of 6 turns:
//
//	headroom   CPU a request   anonymous memory
//	      0           75.7 µs            20.7 MB
//	  16 MB           67.4 µs            38.8 MB
//	  32 MB           63.3 µs            55.6 MB
//	  64 MB           67.6 µs            88.5 MB
const headroom = 32 << 20

// roomy has garbage collected later until release is called, unless GOGC or GOMEMLIMIT says when. It is not a higher percentage, of
// which a proxy that holds much would take that much more. What it holds instead is never written to and so takes no memory by
// itself, but does count in go_memstats_heap_alloc_bytes.
func roomy() (release func()) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	untouched := make([]byte, headroom)
	return func() { runtime.KeepAlive(untouched) }
}
