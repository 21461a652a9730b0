// Package pods tells which pod has which GPU, and what it makes of it.
//
// Which container was given which device is asked of the kubelet, by the pod-resources API v1 on its socket, every 10 s:
// there is no way to be told of changes. What a pod makes of a GPU comes from the readings that exporter/gpu has anyway.
// Both are done in the background; a scrape causes neither.
//
//	c := pods.New(pods.Options{Snapshot: gpus.Snapshot, Logger: logger})
//	go c.Run(ctx)                                   // owned by the caller's errgroup
//	e, err := exporter.New(exporter.Options{}, gpus, c)
//
// The series; the names of a pod are joined to any series of a GPU with * on (uuid) group_left (namespace, pod), where the
// GPU is not shared, and where it is, the three of the pod are what to use:
//
//	flyball_gpu_pod_info{uuid,gpu,gi,namespace,pod,container,resource}  1
//	flyball_gpu_pod_sm_utilization_ratio{uuid,gpu,namespace,pod,container}
//	flyball_gpu_pod_memory_bytes                     likewise
//	flyball_gpu_pod_energy_joules_total              likewise
//	flyball_podresources_up                          0 while the kubelet does not answer
//	flyball_podresources_stale_seconds               age of what it told last, which stays meanwhile
//	flyball_podresources_unresolved_devices          see below
//
// A machine without the kubelet's socket is an ordinary machine: one log line, no series, looked for again every 10 s.
// The series of a pod end when the kubelet no longer lists it. gpu, the index, is empty where the GPU is not read.
//
// # Which device is which GPU
//
//	GPU-<uuid>, GPU-<uuid>::N, GPU-<uuid>-N     the GPU; with ::N and -N it is shared, by time or MPS
//	MIG-<uuid>, MIG-<uuid>::N                   the MIG device, whose GPU and gi the reading of the GPUs tells
//	MIG-GPU-<uuid>/gi/ci                        the same, as drivers before 470 named it
//	nvidiaN, nvidiaN/vgpuK, nvidiaN/giG         GKE: the GPU with the number N in /dev, by the driver's procfs
//	0000:05:00.0                                AMD: the GPU at this PCI address
//	gpu-N                                       a claim (DRA) for gpu.nvidia.com: like nvidiaN
//	gpu-N-mig-<profile>-<id>-<start>            likewise: the one MIG device on it with this profile
//
// The CDI name of a claim, k8s.gpu.nvidia.com/claim=<UID>-gpu-N, is read where the kubelet tells no device name.
//
// What cannot be told is counted in flyball_podresources_unresolved_devices, and each is in the log once: a device of a
// claim when several MIG devices of its profile are on the GPU, since neither kubelet nor driver tells which it is (then
// flyball_gpu_pod_info has the GPU, without gi); a MIG device while GPUs are not read; a number without the driver's
// procfs; GPUs passed through to virtual machines; partitions and claims of AMD's drivers. A claim with admin access, as
// monitoring has it, is listed like any other.
//
// # What a pod makes of a GPU
//
// A pod that has a GPU for itself has all that is used of it: utilisation and memory are the GPU's, and no process is
// looked at. One that has MIG devices has theirs, the mean by their size where there are several.
//
// Where several pods have a GPU (time-slicing, MPS, a claim that is shared), the processes on it are looked up: PID to the
// pod's UID by /proc/PID/cgroup, UID to names by the kubelet's directories in /var/log/pods, since the pod-resources API
// has no UIDs. In a container this takes hostPID: true, that directory of the node, and a reading of the GPUs with
// Options.Processes. Without them these pods have no figures; the log says what is missing. container is the one that has
// the GPU, and empty where several containers of the pod have it, since a process is told to a pod alone.
//
// NVML tells no utilisation of processes under MIG: pods that share a MIG device have their memory alone.
//
// # Energy
//
// At every reading the energy that the GPU used since the last one is divided:
//
//	active = energy - idle power * time             at least 0
//	pod    = active * SM utilisation of the pod / SM utilisation of all processes on the GPU
//
// which is 1 for a pod alone on its GPU and, under MIG, is by the SM activity of the instances times their size. This is
// how Kepler divides the dynamic power of a node. The idle power is no pod's, nor is the share of processes outside pods,
// so pods never add up to more than the GPU's own counter, and flyball_gpu_energy_joules_total less their sum is what the
// node would use without them. Idle power is the least that was seen of the GPU while nothing ran on it, unless
// Options.IdleWatts gives it. Until it was seen idle, it is taken for 0: the energy of a GPU that never is goes to its
// pods whole. A share is that of the end of an interval, so a pod that comes or goes within one is wrong by at most
// that. Counters begin at 0 with the pod, and with flyball.
package pods
