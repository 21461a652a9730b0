// Package gpu reads NVIDIA GPUs through NVML, the library that comes with the driver.
//
// NVML is called in a process of its own, a worker. A call into a library that hangs in the driver, lacks a symbol or
// crashes ends or wedges the process that makes it, and Go cannot recover from that. The worker is this same binary,
// started again with a hidden command, which does nothing but
//
//	err := gpu.Worker(ctx, os.Stdin, os.Stdout)
//
// The [Collector] polls it every 5 s, ends it when it does not answer in time, and starts another. A scrape publishes
// the last snapshot and causes no call into the driver.
//
//	c := gpu.New(gpu.Options{Worker: []string{self, "nvml-worker"}, Logger: logger})
//	go c.Run(ctx)                                   // owned by the caller's errgroup
//	e, err := exporter.New(exporter.Options{}, c)
//
// The series; every one but the first two carries just uuid and gpu (the index), so the rest is joined from
// flyball_gpu_info with * on (uuid) group_left (name):
//
//	flyball_gpu_info{uuid,gpu,vendor,name,driver_version,pci_bus_id}  1
//	flyball_gpu_up{uuid,gpu}                           0 when a GPU seen before cannot be read now
//	flyball_gpu_utilization_ratio                      share of time in which any kernel ran: busy, not full
//	flyball_gpu_memory_bandwidth_utilization_ratio     share of time in which memory was read or written
//	flyball_gpu_memory_{total,used,free}_bytes         used without what the driver reserves, where it tells them apart
//	flyball_gpu_power_watts, flyball_gpu_energy_joules_total
//	flyball_gpu_temperature_celsius{sensor}, flyball_gpu_clock_hertz{domain}
//
// What a GPU does not support has no series; nothing is ever published as 0 for want of a value. A snapshot older than
// three intervals is not published either: then flyball_gpu_up is 0 for every GPU and the rest is gone.
//
// What a machine has and lacks of this, and how long the driver takes for each call, is what [Probe] finds out.
//
// # Machines without a GPU
//
// Without the library or the driver there is one log line, which says where was looked, and no series; it is looked for
// again every 30 s, so that a driver may be installed while flyball runs. With Options.Require, Run returns [ErrNoGPU]
// instead. A library that loads and finds no GPU is a warning and a failed collector: that is what a container with
// half of the driver mounted looks like.
//
// The library is the one of Options.Library; else the one of $FLYBALL_NVML_LIBRARY; else libnvidia-ml.so.1 as the loader
// finds it, where NVIDIA's GPU operator puts it, and where WSL has it.
//
// # Building and running
//
// The binding needs cgo and Linux with glibc. A binary built without it has no GPU series and says so in the log.
//
// The binding leaves NVML's symbols unresolved at link time and counts on lazy binding. A binary linked with -z now, or
// started with LD_BIND_NOW set, therefore ends with "symbol lookup error" before main, parent and worker alike: build
// without -z now (some distributions' hardening flags add it) and keep LD_BIND_NOW out of unit files.
package gpu
