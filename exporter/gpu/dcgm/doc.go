// Package dcgm serves what is known of the GPUs under the names of NVIDIA's dcgm-exporter, for the dashboards, alerts and
// autoscalers that were written for those. It is a page of its own beside our own metrics, which say the same in base units:
//
//	mux.Handle("GET /metrics/dcgm", dcgm.Handler(dcgm.Options{GPUs: collector, Hostname: node}))
//
// Nothing is read for it: it shows the last snapshot that a gpu.Collector took, and no DCGM is needed.
//
// # What is the same
//
// Names, types, units and labels are those of dcgm-exporter at revision 7ad58324b4447b64dc3dedf946b889b648b7f476: the names
// and types of etc/default-counters.csv, those that are commented out there included where we have the value, the labels of
// internal/pkg/rendermetrics/render_metrics.go.
//
//	DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-...",pci_bus_id="00000000:19:00.0",device="nvidia0",modelName="NVIDIA H100",
//	    Hostname="node-1",DCGM_FI_DRIVER_VERSION="570.86.15",namespace="ml",pod="llama-0",container="vllm"} 73
//
// Percentages are 0 to 100 and MiB and MHz are whole numbers, as DCGM has them; energy is in millijoules. The text format
// is the only one, as there: OpenMetrics would append _total to the names of counters.
//
// A GPU that is divided by MIG has one series for each GPU instance, with GPU_I_PROFILE and GPU_I_ID. Memory and activity
// are the instance's own; what only the GPU as a whole has (temperature, power, clocks, XID) is repeated for each of them,
// as dcgm-exporter repeats it. Sums over instances therefore need max by (gpu) first, which is what its dashboard does.
//
// # What is not
//
// DCGM_FI_PROF_* are activities that the GPU measures (GPM: Hopper and later). They are never made of the utilisation, so
// that they are absent on older GPUs, where DCGM has other means. DCGM_FI_PROF_PCIE_*_BYTES, DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL
// (rates, whatever their names say: take rate() of our counters) and DCGM_FI_DEV_VGPU_LICENSE_STATUS are absent.
//
// DCGM_FI_DEV_XID_ERRORS is the number of the last XID error since flyball first saw the GPU, 0 before the first one.
// DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION likewise begins where flyball began.
//
// A GPU that several pods share has no pod labels: none of its values is that of one of them.
//
// A GPU that cannot be read has no series, and so have GPUs that are not NVIDIA's.
package dcgm
