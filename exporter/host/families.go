package host

import (
	"github.com/prometheus/client_golang/prometheus"

	"flyball/exporter"
)

// family is a family with its description.
type family struct {
	exporter.Family
	desc *prometheus.Desc
}

// node is the family flyball_node_<name>.
func node(kind, name, help string, labels ...string) family {
	f := exporter.Family{Name: "flyball_node_" + name, Help: help, Type: kind, Labels: labels, Collector: "host"}
	return family{f, f.Desc()}
}

func gauge(name, help string, labels ...string) family { return node("gauge", name, help, labels...) }

func counter(name, help string, labels ...string) family {
	return node("counter", name, help, labels...)
}

var (
	cpuSeconds = counter("cpu_seconds_total", "Time that the CPUs spent in each mode, summed over the CPUs.", "mode")
	cpus       = gauge("cpus", "CPUs online.")
	bootTime   = gauge("boot_time_seconds", "When the machine was started, in seconds since the epoch.")

	memoryTotal     = gauge("memory_total_bytes", "Memory that the kernel can use.")
	memoryAvailable = gauge("memory_available_bytes", "Memory that can be given out without swapping, as the kernel estimates it.")
	memoryUsed      = gauge("memory_used_bytes", "Memory that is not available: total less available.")
	swapTotal       = gauge("swap_total_bytes", "Room for memory that is swapped out.")
	swapUsed        = gauge("swap_used_bytes", "Memory that is swapped out.")

	load1  = gauge("load1", "Average number of tasks that ran or waited, over 1 minute.")
	load5  = gauge("load5", "Average number of tasks that ran or waited, over 5 minutes.")
	load15 = gauge("load15", "Average number of tasks that ran or waited, over 15 minutes.")

	networkReceived       = counter("network_receive_bytes_total", "Bytes that came in by the network device.", "device")
	networkTransmitted    = counter("network_transmit_bytes_total", "Bytes that went out by the network device.", "device")
	networkReceiveErrors  = counter("network_receive_errors_total", "Packets that came in by the network device damaged.", "device")
	networkTransmitErrors = counter("network_transmit_errors_total", "Packets that the network device could not send.", "device")
	networkReceiveDrops   = counter("network_receive_drops_total", "Packets that came in by the network device and were thrown away for want of room.", "device")
	networkTransmitDrops  = counter("network_transmit_drops_total", "Packets that were to go out by the network device and were thrown away for want of room.", "device")

	diskRead    = counter("disk_read_bytes_total", "Bytes read from the disk.", "device")
	diskWritten = counter("disk_written_bytes_total", "Bytes written to the disk.", "device")

	pressureWaiting = counter("pressure_waiting_seconds_total", "Time in which at least one task waited for the resource.", "resource")

	filesystemSize      = gauge("filesystem_size_bytes", "Size of the file system.", "device", "fstype", "mountpoint")
	filesystemFree      = gauge("filesystem_free_bytes", "Room that is free on the file system, with what only root may use.", "device", "fstype", "mountpoint")
	filesystemAvailable = gauge("filesystem_available_bytes", "Room on the file system for users who are not root.", "device", "fstype", "mountpoint")
	filesystemReadOnly  = gauge("filesystem_read_only", "Whether the file system cannot be written to (1) or can (0).", "device", "fstype", "mountpoint")
	filesystemError     = gauge("filesystem_error", "Whether the file system could not be asked for its size (1), or could (0): it hangs, as NFS does when its server is gone, or refuses.", "device", "fstype", "mountpoint")

	cgroupCPULimit    = gauge("cgroup_cpu_limit_cores", "CPUs' worth of time that flyball's own cgroup and those above it let it have; absent where they set no limit.")
	cgroupCPUSeconds  = counter("cgroup_cpu_seconds_total", "CPU time that flyball's own cgroup used: flyball, its workers and what shares its container.")
	cgroupThrottled   = counter("cgroup_cpu_throttled_seconds_total", "Time in which flyball's own cgroup had used up its CPU limit and was kept from running.")
	cgroupMemoryLimit = gauge("cgroup_memory_limit_bytes", "Memory that flyball's own cgroup and those above it let it have before the kernel ends something in it; absent where they set no limit.")
	cgroupMemory      = gauge("cgroup_memory_used_bytes", "Memory that is charged to flyball's own cgroup, the cache of its files included.")
	cgroupOOMKills    = counter("cgroup_oom_kills_total", "Processes in flyball's own cgroup that the kernel killed for want of memory.")
)

// Families are all that the collector publishes.
func Families() []exporter.Family {
	var list []exporter.Family
	for _, f := range []family{
		cpuSeconds, cpus, bootTime,
		memoryTotal, memoryAvailable, memoryUsed, swapTotal, swapUsed,
		load1, load5, load15,
		networkReceived, networkTransmitted, networkReceiveErrors, networkTransmitErrors, networkReceiveDrops, networkTransmitDrops,
		diskRead, diskWritten, pressureWaiting,
		filesystemSize, filesystemFree, filesystemAvailable, filesystemReadOnly, filesystemError,
		cgroupCPULimit, cgroupCPUSeconds, cgroupThrottled, cgroupMemoryLimit, cgroupMemory, cgroupOOMKills,
	} {
		list = append(list, f.Family)
	}
	return list
}
