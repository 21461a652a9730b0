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
// # What is published
//
// [Families] has each with its labels and what it means; names start with flyball_gpu_. Every series has the labels uuid
// and gpu (the index); what else is known of the GPU is joined from flyball_gpu_info with * on (uuid) group_left (name).
//
//	what it is     info up
//	use            utilization_ratio memory_bandwidth_utilization_ratio encoder_utilization_ratio decoder_utilization_ratio
//	memory         memory_total_bytes memory_used_bytes memory_free_bytes memory_reserved_bytes
//	power          power_watts power_limit_watts energy_joules_total
//	heat, clocks   temperature_celsius temperature_threshold_celsius fan_speed_ratio clock_hertz clock_max_hertz pstate
//	why it is slow clock_event_active clock_event_seconds_total
//	errors         ecc_errors_total remapped_rows_total row_remap_pending row_remap_failure retired_pages recovery_action
//	PCIe           pcie_tx_bytes_total pcie_rx_bytes_total pcie_replay_total pcie_link_generation pcie_link_width
//	NVLink         nvlink_tx_bytes_total nvlink_rx_bytes_total nvlink_errors_total nvlink_up
//	activity       graphics_active_ratio sm_active_ratio tensor_active_ratio dram_active_ratio fp16_active_ratio
//	               fp32_active_ratio fp64_active_ratio sm_occupancy_ratio
//	MIG            mig_info mig_memory_total_bytes mig_memory_used_bytes mig_memory_free_bytes mig_memory_reserved_bytes
//	               mig_sm_active_ratio mig_tensor_active_ratio mig_dram_active_ratio
//	processes      process_memory_bytes process_sm_utilization_ratio process_dropped
//
// utilization_ratio tells that a kernel ran, not that the GPU was full: where there is sm_active_ratio (Hopper and later),
// that is the better measure. Activity is that between two readings, so there is none at the first, and a slow reading of an
// instance of MIG has the mean over the time since the one before. Processes are read only where asked for: the call is the
// dearest of all, and their series come and go.
//
// The driver tells bytes over PCIe by counters that wrap, energy since it was loaded, and the seconds of clock events in
// nanoseconds. nvmlDeviceGetPcieThroughput, which blocks for 20 ms, is never called.
//
// What GPU or driver do not support has no series; nothing is ever published as 0 for want of a value. An odd answer about
// one value that is not vital, an unknown error of NVLink, costs that value alone; a lost GPU costs its own. A snapshot older than
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
// # Old drivers
//
// Every function of NVML is looked up before it is called the first time, as calling one that is not there ends the
// process. [Symbols] lists them. What a missing one would tell is read by the older way, or is absent.
//
// # Building and running
//
// The binding needs cgo and Linux with glibc. A binary built without it has no GPU series and says so in the log.
//
// The binding leaves NVML's symbols unresolved at link time and counts on lazy binding. A binary linked with -z now, or
// started with LD_BIND_NOW set, therefore ends with "symbol lookup error" before main, parent and worker alike: build
// without -z now (some distributions' hardening flags add it) and keep LD_BIND_NOW out of unit files.
package gpu
