// Package model reads the metrics of model servers and publishes them in one schema, whatever the engine and its version.
//
//	c, err := model.New(config.ModelServers, model.Options{GPUs: gpus, Logger: logger})
//	go c.Run(ctx)                                   // owned by the caller's errgroup
//	e, err := exporter.New(exporter.Options{}, c)
//
// Each server is read at its own interval, whether anybody scrapes or not, and a scrape publishes what was read last. A page
// is parsed in blocks of 64 KiB with a limit on its bytes, its series and its time; one that is too large, cut off, garbage or
// late costs that server its series until the next page and nobody else anything. The reason is in the log, once.
//
// The series of a model carry model, server and engine, and version where the engine has one:
//
//	flyball_model_request_duration_seconds         histogram; +Inf alone where the engine only counts
//	flyball_model_request_duration_max_seconds     of the last minute, where the page has it exactly or has native histograms
//	flyball_model_queue_duration_seconds           likewise
//	flyball_model_network_duration_seconds{phase}  of flyball's own proxy
//	flyball_model_time_to_first_token_seconds, flyball_model_inter_token_latency_seconds
//	flyball_model_requests_total{code}, flyball_model_tokens_total{kind}, flyball_model_preemptions_total
//	flyball_model_requests_running, flyball_model_requests_waiting, flyball_model_kv_cache_utilization_ratio
//	flyball_model_batch_size, flyball_model_batch_size_mean, flyball_model_batch_capacity, flyball_model_iteration_tokens
//
// and those of a server:
//
//	flyball_model_up{server}                       0: its page could not be read, and it has no other series
//	flyball_model_last_scrape_timestamp_seconds{server}
//	flyball_model_scrape_mapped{server,engine,field}, flyball_model_scrape_unmapped_families{server}
//	flyball_model_info{model,server,engine,version}, flyball_model_gpu_info{model,server,uuid}
//	flyball_model_process_cpu_seconds_total, flyball_model_process_resident_memory_bytes
//
// # What is made of a page
//
// Counters and the buckets of histograms are passed on as they are: a restart of the server remains visible to rate(), and
// buckets keep their bounds, so that quantiles can be computed over the replicas of one engine, not over two. Only the unit is
// changed. A native histogram, which only servers in Go have, stands beside the classic one. Of the series of one model, such as those of several engines or reasons to finish, counters, counts and requests are
// added and of ratios the largest counts. Ranks of one engine that tell of the same requests are not added: the one that says
// most counts.
//
// Nothing is made up. Counters of a duration and of requests become a histogram of the +Inf bucket alone: its average is right,
// and histogram_quantile gives NaN. A summary's quantiles go to a gauge of their own,
// flyball_model_request_duration_quantile_seconds{quantile}. What an engine does not tell has no series, and
// flyball_model_scrape_mapped 0 where a version of it does.
//
// Some metrics look like what they are not, and are left out: Triton's time to the first response, a chunk, is one to the first
// token only where an LLM streams; TGI's mean time per token has the prefill in it; TorchServe's QueueTime is that of the last
// request.
//
// # A server that is not known
//
// engine: custom, or any engine, takes a mapping: for a field, the metric, the labels that a series must have, and the factor
// to its unit.
//
//	mapping:
//	  running: {metric: busy_slots}
//	  request_duration: {metric: infer_time_us_total, type: counter, count: infer_total, scale: 1e-6}
//	  accelerator_duty_cycle: {metric: duty_cycle_percent, id_label: chip, scale: 0.01}
//
// # Processes and GPUs
//
// Of a server on this machine, the process that listens on its port is found in procfs, with its children; that takes the
// right to look at the files of another user's processes (CAP_SYS_PTRACE), and the host's PIDs in a container. CPU time,
// memory and, with gpus: auto, the GPUs that any of them uses are the model's.
package model
