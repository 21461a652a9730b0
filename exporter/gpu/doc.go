// Package gpu reads NVIDIA GPUs through NVML, the library that comes with the driver, and where that cannot be opened by
// other ways; see Backends below.
//
// NVML is called in a process of its own, a worker. A call into a library that hangs in the driver, lacks a symbol or
// crashes ends or wedges the process that makes it, and Go cannot recover from that. The worker is this same binary,
// started again with a hidden command, which does nothing but
//
//	err := gpu.Worker(ctx, os.Stdin, os.Stdout)
//
// The [Collector] polls it every 5 s. A scrape publishes the last readings and causes no call into the driver.
//
//	c := gpu.New(gpu.Options{Worker: []string{self, "nvml-worker"}, Logger: logger})
//	go c.Run(ctx)                                   // owned by the caller's errgroup
//	e, err := exporter.New(exporter.Options{}, c)
//
// # A GPU that hangs
//
// The worker sends each GPU as soon as it is read, and announces it before. One that is not read within half of
// Options.Timeout hangs: the worker is killed, and the next one, which starts at once, leaves that GPU out. A GPU over
// which a worker crashed, or ended for a symbol that is missing, is left out when that happens again within 10 minutes.
// Every minute such a GPU is tried in a worker of its own, so that one that still hangs delays no other, and it is read
// again once it answers. Meanwhile it has flyball_gpu_up 0 and none of its values; the others have all of theirs.
//
// A worker in a system call that cannot be interrupted cannot be killed either. It is left behind; a GPU that one is stuck
// on is not tried again before it has ended, and once three are stuck that read no GPU at all, no more are started.
//
// A start may take long: without the persistence daemon NVML initialises each GPU when it is first opened, which takes seconds for
// each. A worker that starts hangs where nothing comes from it for Options.StartTimeout, not where all GPUs together take longer.
//
// The library is opened anew by another worker when the driver was unloaded or replaced. Where the driver was upgraded and its old
// kernel module is still loaded, no worker can open it; that counts as driver_reload too, and the log says once what to do. GPUs are enumerated at every poll
// and known by UUID; their index is that of the last poll.
//
// # How often
//
// Use, memory, power, clocks and bytes are read every Options.Interval; error counts, limits, links, fans and instances of
// MIG every Options.SlowInterval, processes every 15 s; what a GPU is, once by each worker. A value holds until the next
// reading of its kind. A GPU without NVLink is asked about it every Options.SlowInterval only. The driver reports errors (XIDs)
// as they happen; what it reports while there is no worker, between two of them, is not seen.
//
// # Counters
//
// The counters of energy and of bytes over PCIe and NVLink begin at 0 when flyball first sees the GPU. They go on where a
// worker is replaced, where the driver's counter wraps, and where it begins again, because the driver was loaded or the
// GPU reset: then what it has reached since counts. A step that no GPU can make is left out. NVML does not say at how many
// bits its PCIe counters wrap: 32 and 42 are reckoned with, and a counter of 32 bits that goes round more than once between
// two polls is short by those rounds. Errors of the driver are counted from when the GPU was first seen too.
//
// # What is published
//
// [Families] has each with its labels and what it means; names start with flyball_gpu_ unless they are given in full. Every
// series of a GPU has the labels uuid and gpu (the index); what else is known of the GPU is joined from flyball_gpu_info with * on (uuid) group_left (name).
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
//	health         health unhealthy_reason xid_errors_total xid_last_timestamp_seconds
//	the reading    collect_errors_total backend_info flyball_gpus flyball_nvml_worker_up flyball_nvml_worker_restarts_total
//	               flyball_nvml_symbol_missing flyball_nvml_call_duration_seconds
//
// utilization_ratio tells that a kernel ran, not that the GPU was full: where there is sm_active_ratio (Hopper and later),
// that is the better measure. Activity is that between two readings, so there is none at the first, and a slow reading of an
// instance of MIG has the mean over the time since the one before. Processes are read only where asked for: the call is the
// dearest of all, and their series come and go; those with the most memory have series, Options.MaxProcesses of a GPU.
//
// Two more are read only where asked for. With Options.NVLinkPerLink the bytes over NVLink have the number of each link in the label
// link, not all, for GPUs and drivers that count them so; the others keep all. No GPU has both, so sum by (uuid) counts each byte
// once either way. A link that is down has none, and its counter goes on when it is up again. That is up to 36 series in each
// direction for a GPU. With Options.CallDurations the worker measures each call into NVML, and tells of it with its answer:
// flyball_nvml_call_duration_seconds, a native histogram with classic buckets beside it, some 11 series for each of about 40 calls.
// A call that hangs has no duration; flyball_gpu_collect_errors_total tells of it.
//
// nvmlDeviceGetPcieThroughput, which blocks for 20 ms, is never called.
//
// What GPU or driver do not support has no series; nothing is ever published as 0 for want of a value. An odd answer about
// one value that is not vital, an unknown error of NVLink, costs that value alone; a lost GPU costs its own. A reading older than
// three intervals is not published either, with short ones a reading older than one interval, the timeout and 2 s: then
// flyball_gpu_up is 0 and the values are gone.
//
// What a machine has and lacks of this, and how long the driver takes for each call, is what [Probe] finds out.
//
// # Machines without a GPU
//
// Without the library or the driver there is one short log line, which says what was looked for (the places are logged at debug,
// and flyball probe gpu prints them), and no series; it is looked for
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
// # Backends
//
// Options.Backend says how GPUs are read. BackendAuto takes the first way by which there is something: NVML, then nvidia-smi,
// then AMD's driver. A way that is there and fails is not passed over, and where a library is asked for there is no way but
// NVML. Which one it is, is in the log and in
//
//	flyball_gpu_backend_info{backend}  1
//
//	nvml        by the worker: everything
//	nvidia-smi  the command, in $PATH or where drivers put it, started at every poll and ended at the deadline, and never twice
//	            at once: one that cannot be ended is left behind, and none is started before it is gone. Fields that it does
//	            not list are not asked for. There is no energy, NVLink, activity of units, MIG instance nor XID.
//	amdgpu      the files of AMD's driver in sysfs. uuid is unique_id, or the PCI bus id of a GPU without one; the sensor gpu
//	            is what AMD calls edge, memory mem, and junction is the hottest spot. ECC errors are those of all blocks.
//	sim         GPUs that Options.Sim describes: for dashboards, rules and alerts without any. What they show follows from the
//	            description and the time of day alone. vendor is sim, and there is a warning in the log.
//	none        nothing is read
//
// # Building and running
//
// The binding needs cgo and Linux with glibc. A binary built without it reads NVIDIA's GPUs by nvidia-smi, and says so in the
// log.
//
// The binding leaves NVML's symbols unresolved at link time and counts on lazy binding. A binary linked with -z now, or
// started with LD_BIND_NOW set, therefore ends with "symbol lookup error" before main, parent and worker alike: build
// without -z now (some distributions' hardening flags add it) and keep LD_BIND_NOW out of unit files.
package gpu
