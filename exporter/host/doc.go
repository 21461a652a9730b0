// Package host reads the machine that flyball runs on: CPU, memory, load, network, disks, pressure. It is there so that
// rules and dashboards have the basics on a machine without node_exporter; it is no replacement for one.
//
//	c, err := host.New(host.Options{})
//	e, err := exporter.New(exporter.Options{}, c)
//
// The series, all from procfs and sysfs, with the meaning that node_exporter's have:
//
//	flyball_node_cpu_seconds_total{mode}            summed over the CPUs
//	flyball_node_cpus                               CPUs online
//	flyball_node_memory_{total,available,used}_bytes  used is total less available
//	flyball_node_load1, _load5, _load15
//	flyball_node_network_{receive,transmit}_bytes_total{device}
//	flyball_node_disk_{read,written}_bytes_total{device}
//	flyball_node_pressure_waiting_seconds_total{resource}
//	flyball_node_boot_time_seconds
//
// There is no ratio of CPU use, because one that is right depends on the window that is asked about:
//
//	1 - sum by (instance) (rate(flyball_node_cpu_seconds_total{mode=~"idle|iowait"}[1m])) / on (instance) flyball_node_cpus
//
// The machine is what is seen: inside a container with limits these are the node's figures, not the container's, except
// for the network, which is that of the container's namespace. What a kernel does not have (pressure before 4.20, disks
// in a sandbox) has no series. On other systems than Linux there is nothing to read ([exporter.ErrNoData]).
package host
