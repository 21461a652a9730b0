package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"testing"
)

func TestProc(t *testing.T) {
	self := []int{os.Getpid()}
	before, err := cpuTime(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := resetPeak(self); err != nil {
		t.Fatal(err)
	}
	low, err := peakMemory(self)
	if err != nil {
		t.Fatal(err)
	}
	hold(64 << 20)
	after, err := cpuTime(self)
	if err != nil {
		t.Fatal(err)
	}
	high, err := peakMemory(self)
	if err != nil {
		t.Fatal(err)
	}
	if after <= before {
		t.Errorf("%v of processor time before and %v after work", before, after)
	}
	if high < low+60<<20 {
		t.Errorf("peaks of %d and, with 64 MiB more, %d bytes", low, high)
	}
	debug.FreeOSMemory()
	if err := resetPeak(self); err != nil {
		t.Fatal(err)
	}
	if again, err := peakMemory(self); err != nil || again > high-30<<20 {
		t.Errorf("a peak of %d bytes, %v, of %d before those 64 MiB were given back", again, err, high)
	}
	if all := withChildren(os.Getppid()); len(all) < 2 || all[0] != os.Getppid() {
		t.Errorf("this process is none of %v, which are its parent and that one's children", all)
	}
	const none = 1 << 22 // the kernel gives out no number as high
	if _, err := cpuTime([]int{none}); err == nil {
		t.Error("a process that is not there has used processor time")
	}
	if _, err := peakMemory([]int{none}); err == nil {
		t.Error("a process that is not there has memory")
	}
}

// hold takes so many bytes of memory, writes each, and keeps none.
func hold(size int) {
	held := make([]byte, size)
	for i := range held {
		held[i] = byte(i)
	}
	runtime.KeepAlive(held)
}
