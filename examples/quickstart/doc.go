// Command quickstart closes the loop on one machine: it runs flyball with the configuration beside it, and a day of real
// demand in two minutes against it. `make run` builds and starts it; Ctrl-C ends everything.
//
// It is only a parent: `flyball run` does the work, `flyball bench` is the load, and a model server without the emulated
// accelerator tells the right answers beforehand, one image at a time.
package main
