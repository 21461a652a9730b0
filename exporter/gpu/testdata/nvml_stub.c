/* A stand-in for libnvidia-ml.so.1 with two GPUs, for tests. The word in the file $NVML_STUB_MODE, read at every call,
   says how it behaves: normal, unsupported, lost (GPU 1), hang, crash, empty, nodriver, mismatch. Compiled with
   -DOLD it lacks what an old driver lacks: energy, memory info v2. With -DBROKEN it lacks what every driver has. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int nvmlReturn_t; /* 0 fine, 3 not supported, 9 no driver, 15 GPU is lost, 18 versions differ */
typedef long nvmlDevice_t; /* 1 + index */
typedef struct { unsigned gpu, memory; } utilization;
typedef struct { unsigned long long total, free, used; } memory_v1;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci;

static int mode(const char *want) {
	char word[32] = "normal";
	const char *path = getenv("NVML_STUB_MODE");
	FILE *f = path ? fopen(path, "r") : NULL;
	if (f) {
		if (fscanf(f, "%31s", word) != 1) strcpy(word, "normal");
		fclose(f);
	}
	return strcmp(word, want) == 0;
}

static nvmlReturn_t optional(nvmlDevice_t d) {
	if (mode("unsupported")) return 3;
	if (mode("lost") && d == 2) return 15;
	return 0;
}

nvmlReturn_t nvmlInit_v2(void) { return mode("nodriver") ? 9 : mode("mismatch") ? 18 : 0; }
nvmlReturn_t nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(nvmlReturn_t r) { return r == 15 ? "GPU is lost" : r == 18 ? "Driver/library version mismatch" : r == 9 ? "Driver Not Loaded" : "Not Supported"; }
nvmlReturn_t nvmlSystemGetDriverVersion(char *v, unsigned n) { snprintf(v, n, "570.86.15"); return 0; }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *n) { *n = mode("empty") ? 0 : 2; return 0; }
#ifndef BROKEN
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned i, nvmlDevice_t *d) { *d = 1 + i; return 0; }
#endif
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t d, char *s, unsigned n) { snprintf(s, n, "GPU-00000000-0000-0000-0000-00000000000%ld", d - 1); return 0; }
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t d, char *s, unsigned n) { (void)d; snprintf(s, n, "Stub H100"); return 0; }
nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t d, pci *p) {
	memset(p, 0, sizeof *p);
	snprintf(p->bus_id, sizeof p->bus_id, "00000000:%02lX:00.0", 0x18 + d);
	return 0;
}
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t d, utilization *u) {
	while (mode("hang")) usleep(1000);
	if (mode("crash")) abort();
	u->gpu = 73; u->memory = 41;
	return optional(d);
}
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t d, memory_v1 *m) {
	m->total = 80ull << 30; m->used = 21ull << 30; m->free = 59ull << 30; /* 1 GiB more than v2: the driver's */
	return optional(d);
}
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t d, unsigned *mw) { *mw = 312500; return optional(d); }
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t d, int sensor, unsigned *t) { *t = 56; return sensor ? 2 : optional(d); }
nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t d, int kind, unsigned *mhz) { *mhz = 1980 - 100 * kind; return optional(d); }
#ifndef OLD
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t d, memory_v2 *m) {
	m->total = 80ull << 30; m->reserved = 1ull << 30; m->used = 20ull << 30; m->free = 59ull << 30;
	return optional(d);
}
nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t d, unsigned long long *mj) { *mj = 1234567; return optional(d); }
#endif
