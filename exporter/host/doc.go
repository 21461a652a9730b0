// Package host reads the machine that flyball runs on (CPU, memory, load, network, disks, file systems, pressure) and
// what its own cgroup lets it have. It is there so that rules and dashboards have the basics on a machine without
// node_exporter; it is no replacement for one.
//
//	c, err := host.New(host.Options{})
//	e, err := exporter.New(exporter.Options{}, c)
//
// The series, all from procfs and sysfs, with the meaning that node_exporter's have:
//
//	flyball_node_cpu_seconds_total{mode}            summed over the CPUs
//	flyball_node_cpus                               CPUs online
//	flyball_node_memory_{total,available,used}_bytes  used is total less available
//	flyball_node_swap_{total,used}_bytes
//	flyball_node_load1, _load5, _load15
//	flyball_node_network_{receive,transmit}_{bytes,errors,drops}_total{device}
//	flyball_node_disk_{read,written}_bytes_total{device}
//	flyball_node_pressure_waiting_seconds_total{resource}
//	flyball_node_boot_time_seconds
//	flyball_node_filesystem_{size,free,available}_bytes{device,fstype,mountpoint}
//	flyball_node_filesystem_{read_only,error}{device,fstype,mountpoint}
//	flyball_node_cgroup_cpu_limit_cores, _cpu_seconds_total, _cpu_throttled_seconds_total
//	flyball_node_cgroup_memory_{limit,used}_bytes, flyball_node_cgroup_oom_kills_total
//
// There is no ratio of CPU use, because one that is right depends on the window that is asked about:
//
//	1 - sum by (instance) (rate(flyball_node_cpu_seconds_total{mode=~"idle|iowait"}[1m])) / on (instance) flyball_node_cpus
//
// The machine is what is seen: inside a container with limits these are the node's figures, not the container's, except
// for the network, which is that of the container's namespace, and the file systems, which are those that the container
// sees, unless Options has where the machine's own are mounted. What the container may have are the cgroup's series, of
// version 1 and 2: limits are the tightest of its own cgroup and those above it that can be seen, and absent where there is
// none. What a kernel does not have (pressure before 4.20, disks in a sandbox) has no series. On other systems than Linux
// there is nothing to read ([exporter.ErrNoData]).
//
// File systems are those that node_exporter shows by default. One that hangs (NFS whose server is gone) or refuses has
// flyball_node_filesystem_error 1 and no sizes: it costs the first scrape half a second and no later one anything, and is
// asked again when it has answered. That is no failure of the collector, for there are file systems that only root may ask.
package host
