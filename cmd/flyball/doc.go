// Command flyball measures model servers, merges their requests into batches, and decides and carries out how many
// replicas they have. README.md is where a user starts; here is where a reader of the code does.
//
// Every package below is a part with a configuration of its own, and none of them knows another one: they meet here.
//
//	main.go     the command line: one file a command (run, check, explain, report, bench), exit codes, did-you-mean
//	config.go   the configuration file, composed of the parts' own, read with every fault at its place
//	kinds.go    the one list of the kinds of actuators
//	app.go      builds each part from those above it, runs them in order and stops them in the other
//	sensors.go  the collectors that read in the background
//	exporter.go the exporter's flags, and /metrics
//	elsewhere.go, keda.go   what something else scales, and the external scaler that KEDA asks
//	modelservers.go, probemodels.go   the model servers that the exporter reads: /probe, and the command that reads them once
//	server.go   the page, /metrics, /debug/batcher and the API, which read what the parts say of themselves
//	listeners.go, webconfig.go    the addresses, systemd's sockets, TLS and passwords
//	lifecycle.go, profiles.go     health, reload and quit by HTTP, systemd's notifications; pprof on loopback
//	gpus.go     the collector of GPUs, and the file that describes simulated ones
//	completion.go, man.go, help.go   what helps at a prompt, made from the command line itself
//	web/        the page and the API
//
// Three hidden commands are for flyball itself: supervise holds one replica (actuators/process), nvml-worker makes the NVML
// calls (exporter/gpu), nvml-probe those of probe gpu. All are this binary, started again, and end when their parent's pipe closes.
package main
