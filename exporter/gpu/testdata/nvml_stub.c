/* A stand-in for libnvidia-ml.so.1, for tests: what an H100 tells, but for what no GPU has all of at once (fans, retired
   pages). It is steered by the environment of the process that opens it; files are read at every call, so that a test can
   change its mind:

   NVML_STUB_GPUS   how many GPUs there are: 2, at most 16
   NVML_STUB_MODE   a file with a word and maybe the index of a GPU, else it is meant for all:
        normal, unsupported (nothing but what every GPU has), odd (an unknown error of what is not vital),
        lost [1], hang, freeze (even the UUID is not told), crash (abort), segv, reload (the driver was replaced),
        nodriver (at init), mismatch (at init, and then of every GPU), empty (no GPU), count N (as many GPUs), mig (instances on a GPU), pcie
        (no NVLink), vm (no NVLink, no fans and no retired pages, and more that is not supported: an H200 that a virtual machine was given),
        nvlink5 (bytes by link alone), nvlinksum (bytes of all links alone),
        nvlinkodd (an unknown error of those of a link)
   NVML_STUB_NVLINK a file with a number: bytes, or KiB before nvlink5, that the first link has sent; the next sent twice as
                    many, and so on, and each received ten times what it sent
   NVML_STUB_ATTACH_MS  milliseconds that it takes to get hold of a GPU for the first time
   NVML_STUB_PCIE   a file with two numbers: the raw counters of bytes sent and received, of 32 bits where they fit
   NVML_STUB_XIDS   a file with lines "gpu xid [gi ci]", which is removed once it was reported
   NVML_STUB_PID    the PID of one process on GPU 0; without it that is one that cannot be
   NVML_STUB_CALLS  a file that grows by a byte at every call about a GPU

   Compiled with -DOLD it lacks what a driver of 2018 lacks, with -DBROKEN what every driver has. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int nvmlReturn_t;
enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9, TIMEOUT = 10, LOST = 15, MISMATCH = 18, UNKNOWN = 999 };

typedef struct device { int gpu, mig; } *nvmlDevice_t; /* mig: 1 + index, 0 for the GPU itself */
typedef struct { unsigned gpu, memory; } utilization;
typedef struct { unsigned long long total, free, used; } memory_v1;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci;
typedef struct { unsigned field, scope; long long time, latency; int type; nvmlReturn_t ret; union { double d; unsigned u; unsigned long long ull; int i; unsigned short us; } value; } field_value;
typedef struct { unsigned version, supported; } gpm_support;
typedef struct sample { int gpu, gi; long n; } *gpm_sample;
typedef struct { unsigned id; nvmlReturn_t ret; double value; char *info[3]; } gpm_metric;
typedef struct { unsigned version, n; gpm_sample older, newer; gpm_metric metrics[477]; } gpm_metrics;
typedef struct { unsigned pid; unsigned long long memory; unsigned gi, ci; } process;
typedef struct { unsigned pid; unsigned long long time; unsigned sm, mem, enc, dec; } process_use;
typedef struct { unsigned sms, ce, dec, enc, jpeg, ofa, gi_slices, ci_slices; unsigned long long mib; } attributes;
typedef struct { nvmlDevice_t device; unsigned long long type, data; unsigned gi, ci; } event;

enum { MOST = 16, LINKS = 18 };
static struct device gpus[MOST];

struct mode { char word[32]; int gpu; }; /* gpu: -1 for all */

static struct mode now(void) {
	struct mode m = {"normal", -1};
	const char *path = getenv("NVML_STUB_MODE");
	FILE *f = path ? fopen(path, "r") : NULL;
	if (f) {
		if (fscanf(f, "%31s %d", m.word, &m.gpu) < 1) strcpy(m.word, "normal");
		fclose(f);
	}
	return m;
}

static int is(struct mode m, const char *word, int gpu) {
	return strcmp(m.word, word) == 0 && (m.gpu < 0 || gpu < 0 || m.gpu == gpu);
}

static int mode(const char *word) { return is(now(), word, -1); }

static void called(void) {
	const char *path = getenv("NVML_STUB_CALLS");
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
	if (fd < 0) return;
	if (write(fd, ".", 1) != 1) abort();
	close(fd);
}

/* vital is the answer to a call about what every GPU tells. */
static nvmlReturn_t vital(nvmlDevice_t d) {
	called();
	struct mode m = now();
	while (is(m, "hang", d->gpu) || is(m, "freeze", d->gpu)) {
		usleep(1000);
		m = now();
	}
	if (is(m, "crash", d->gpu)) abort();
	if (is(m, "segv", d->gpu)) *(volatile int *)8 = 0;
	if (is(m, "reload", d->gpu) || is(m, "mismatch", d->gpu)) return MISMATCH;
	if (is(m, "lost", d->gpu) && d->gpu == (m.gpu < 0 ? 1 : m.gpu)) return LOST;
	return is(m, "unsupported", d->gpu) ? UNSUPPORTED : OK;
}

/* extra is the answer to a call about something else. */
static nvmlReturn_t extra(nvmlDevice_t d) {
	nvmlReturn_t r = vital(d);
	return r == OK && is(now(), "odd", d->gpu) ? UNKNOWN : r;
}

static nvmlReturn_t identity(nvmlDevice_t d) {
	called();
	while (is(now(), "freeze", d->gpu)) usleep(1000);
	return OK;
}

nvmlReturn_t nvmlInit_v2(void) { return mode("nodriver") ? NO_DRIVER : mode("mismatch") ? MISMATCH : OK; }
nvmlReturn_t nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(nvmlReturn_t r) {
	switch (r) {
	case INVALID: return "Invalid Argument";
	case UNSUPPORTED: return "Not Supported";
	case NOT_FOUND: return "Not Found";
	case NO_DRIVER: return "Driver Not Loaded";
	case LOST: return "GPU is lost";
	case MISMATCH: return "Driver/library version mismatch";
	}
	return "Unknown Error";
}
nvmlReturn_t nvmlSystemGetDriverVersion(char *v, unsigned n) { snprintf(v, n, "570.86.15"); return OK; }
nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *v) { *v = 12080; return OK; }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *n) {
	struct mode m = now();
	const char *set = getenv("NVML_STUB_GPUS");
	*n = set ? atoi(set) : 2;
	if (is(m, "empty", -1)) *n = 0;
	if (strcmp(m.word, "count") == 0 && m.gpu >= 0) *n = m.gpu;
	if (*n > MOST) *n = MOST;
	return OK;
}
#ifndef BROKEN
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned i, nvmlDevice_t *d) {
	unsigned n;
	nvmlDeviceGetCount_v2(&n);
	if (i >= n) return INVALID;
	static int attached[MOST];
	const char *ms = getenv("NVML_STUB_ATTACH_MS");
	if (ms && !attached[i]) usleep(1000 * atoi(ms));
	attached[i] = 1;
	gpus[i].gpu = i;
	*d = &gpus[i];
	return OK;
}
#endif
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t d, char *s, unsigned n) {
	if (d->mig) snprintf(s, n, "MIG-00000000-0000-0000-0000-0000000%02d%03d", d->gpu, d->mig - 1);
	else snprintf(s, n, "GPU-00000000-0000-0000-0000-%012d", d->gpu);
	return identity(d);
}
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t d, char *s, unsigned n) {
	snprintf(s, n, d->mig == 0 ? "Stub H100" : d->mig == 1 ? "Stub H100 MIG 1g.10gb" : "Stub H100 MIG 1c.3g.40gb");
	return OK;
}
nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t d, pci *p) {
	memset(p, 0, sizeof *p);
	snprintf(p->bus_id, sizeof p->bus_id, "00000000:%02X:00.0", 0x19 + d->gpu);
	return OK;
}
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t d, utilization *u) {
	u->gpu = 73; u->memory = 41;
	return is(now(), "mig", d->gpu) ? UNSUPPORTED : vital(d);
}
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t d, memory_v1 *m) {
	m->total = 80ull << 30; m->used = 21ull << 30; m->free = 59ull << 30; /* 1 GiB more than v2: the driver's */
	return vital(d);
}
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t d, unsigned *mw) { *mw = 312500; return vital(d); }
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t d, int sensor, unsigned *t) { *t = 56; return sensor ? INVALID : vital(d); }
nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t d, int kind, unsigned *mhz) { *mhz = 1980 - 100 * kind; return vital(d); }
nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t d, int kind, unsigned *mhz) { *mhz = 2600 - 100 * kind; return extra(d); }
nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t d, char *s, unsigned n) { snprintf(s, n, "16530210000%02d", d->gpu); return extra(d); }
nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t d, char *s, unsigned n) { snprintf(s, n, "96.00.74.00.01"); return extra(d); }
nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t d, unsigned *u, unsigned *us) { *u = 12; *us = 167000; return extra(d); }
nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t d, unsigned *u, unsigned *us) { *u = 34; *us = 167000; return extra(d); }
nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t d, unsigned *mw) { *mw = 650000; return extra(d); }
nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t d, unsigned *mw) { *mw = 700000; return extra(d); }
nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t d, unsigned *low, unsigned *high) { *low = 200000; *high = 700000; return extra(d); }
nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t d, int kind, unsigned *t) {
	*t = kind == 0 ? 92 : kind == 1 ? 89 : kind == 3 ? 87 : 0; /* shutdown, slowdown, max of the GPU */
	return extra(d);
}
nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t d, int *p) { *p = 0; return extra(d); }
nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t d, int uncorrected, int aggregate, unsigned long long *n) {
	*n = (uncorrected ? 1 : 5) + (aggregate ? 10 : 0);
	return extra(d);
}
nvmlReturn_t nvmlDeviceGetPcieReplayCounter(nvmlDevice_t d, unsigned *n) { *n = 4; return extra(d); }
nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t d, unsigned *n) { *n = 4; return extra(d); }
nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t d, unsigned *n) { *n = 5; return extra(d); }
nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t d, unsigned *n) { *n = 8; return extra(d); }
nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t d, unsigned *n) { *n = 16; return extra(d); }
nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t d, int cause, unsigned *n, unsigned long long *pages) {
	if (is(now(), "vm", d->gpu)) return UNSUPPORTED;
	nvmlReturn_t r = extra(d);
	unsigned have = cause ? 1 : 3;
	if (r != OK) return r;
	if (*n < have) { *n = have; return TOO_SMALL; }
	for (*n = 0; *n < have; ++*n) pages[*n] = 0x1000ull * *n;
	return OK;
}
nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t d, int *pending) { *pending = 1; return is(now(), "vm", d->gpu) ? UNSUPPORTED : extra(d); }
/* idle, a software power cap and a software thermal slowdown; and a bit of the future */
static nvmlReturn_t reasons(nvmlDevice_t d, unsigned long long *mask) { *mask = 0x1000000000000025ull; return extra(d); }
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t d, unsigned long long *mask) { return reasons(d, mask); }

#ifndef OLD
nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *v) { return nvmlSystemGetCudaDriverVersion(v); }
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t d, memory_v2 *m) {
	int share = d->mig ? 8 : 1;
	m->total = (80ull << 30) / share; m->reserved = (1ull << 30) / share; m->used = (20ull << 30) / share; m->free = (59ull << 30) / share;
	return vital(d);
}
nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t d, unsigned long long *mj) { *mj = 1234567; return vital(d); }
nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t d, unsigned *a) { *a = 9; return extra(d); }
nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t d, unsigned long long *mask) { return reasons(d, mask); }
nvmlReturn_t nvmlDeviceGetNumFans(nvmlDevice_t d, unsigned *n) { *n = is(now(), "vm", d->gpu) ? 0 : 2; return extra(d); }
nvmlReturn_t nvmlDeviceGetFanSpeed_v2(nvmlDevice_t d, unsigned fan, unsigned *percent) {
	*percent = 30 + 10 * fan;
	return fan < 2 && !is(now(), "vm", d->gpu) ? extra(d) : INVALID;
}
nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t d, unsigned *cor, unsigned *unc, unsigned *pending, unsigned *failure) {
	*cor = 6; *unc = 2; *pending = 1; *failure = 0;
	return extra(d);
}
nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t d, unsigned link, int *up) {
	if (is(now(), "pcie", d->gpu) || is(now(), "vm", d->gpu)) return UNSUPPORTED;
	*up = link != 17;
	return link < LINKS ? extra(d) : INVALID;
}
nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t d, unsigned link, int kind, unsigned long long *n) {
	if (is(now(), "pcie", d->gpu) || is(now(), "vm", d->gpu)) return UNSUPPORTED;
	*n = kind; /* 2 and 3: CRC errors of flits and data */
	return link < LINKS ? extra(d) : INVALID;
}

static void set(field_value *v, unsigned long long n) {
	v->type = n >> 32 ? 3 : 1;
	if (v->type == 3) v->value.ull = n;
	else v->value.u = n;
}
nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t d, int n, field_value *values) {
	nvmlReturn_t answer = vital(d);
	struct mode m = now();
	unsigned long long sent = 0;
	int vm = is(m, "vm", d->gpu), links = !is(m, "pcie", d->gpu) && !vm, sum = is(m, "nvlinksum", d->gpu), five = is(m, "nvlink5", d->gpu);
	unsigned long long tx = 1000000 + d->gpu, rx = 2000000 + d->gpu;
	const char *path = getenv("NVML_STUB_PCIE");
	FILE *f = path ? fopen(path, "r") : NULL;
	if (answer != OK && answer != UNSUPPORTED) return answer;
	if (f) {
		if (fscanf(f, "%llu %llu", &tx, &rx) != 2) tx = rx = 0;
		fclose(f);
	}
	path = getenv("NVML_STUB_NVLINK");
	f = path ? fopen(path, "r") : NULL;
	if (f) {
		if (fscanf(f, "%llu", &sent) != 1) sent = 0;
		fclose(f);
	}
	for (field_value *v = values; v < values + n; v++) {
		int all = v->scope == ~0u, one = v->scope < LINKS;
		v->ret = answer == OK && is(m, "odd", d->gpu) ? UNKNOWN : answer;
		if (v->ret != OK) continue;
		switch (v->field) {
		case 74: set(v, 1500000000); break; /* nanoseconds under a power cap */
		case 76: set(v, 0); break;
		case 269: set(v, 8000000000); break;
		case 270: set(v, 250000000); break;
		case 271: set(v, 0); break;
		case 82: set(v, 61); break;
		case 38: case 45: case 52: case 59: v->ret = vm ? UNSUPPORTED : INVALID; break; /* sums of errors */
		case 91: if (vm) v->ret = UNSUPPORTED; else set(v, links ? LINKS : 0); break;
		case 138: case 139: /* KiB */
			if (all && links && !five) set(v, v->field == 138 ? 5ull << 30 : 6ull << 30);
			else if (one && is(m, "nvlinkodd", d->gpu)) v->ret = UNKNOWN;
			else if (one && v->scope != 17 && links && !five && !sum) set(v, (v->scope + 1) * sent * (v->field == 138 ? 1 : 10));
			else v->ret = UNSUPPORTED;
			break;
		case 202: case 204:
			if (one && links && five) set(v, path ? (v->scope + 1) * sent * (v->field == 202 ? 1 : 10) : v->field == 202 ? 1000 : 2000);
			else v->ret = vm ? UNSUPPORTED : INVALID;
			break;
		case 161: case 162: /* of one link */
			if (one && links && !five) set(v, v->field - 160);
			else v->ret = UNSUPPORTED;
			break;
		case 215:
			if (one && links && five) set(v, 3);
			else v->ret = INVALID;
			break;
		case 197: set(v, tx); break;
		case 198: set(v, rx); break;
		case 230: v->type = 5; v->value.i = d->gpu == 1; break;
		default: v->ret = INVALID;
		}
	}
	return OK;
}

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t d, gpm_support *s) { s->supported = 1; return extra(d); }
nvmlReturn_t nvmlGpmSampleAlloc(gpm_sample *s) { *s = calloc(1, sizeof **s); return OK; }
nvmlReturn_t nvmlGpmSampleFree(gpm_sample s) { free(s); return OK; }
static nvmlReturn_t sample(nvmlDevice_t d, int gi, gpm_sample s) {
	static long n;
	s->gpu = d->gpu; s->gi = gi; s->n = ++n;
	return extra(d);
}
nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t d, gpm_sample s) { return sample(d, 0, s); }
nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t d, unsigned gi, gpm_sample s) { return sample(d, gi, s); }
nvmlReturn_t nvmlGpmMetricsGet(gpm_metrics *g) {
	if (g->version != 1 || g->older->gpu != g->newer->gpu || g->older->gi != g->newer->gi || g->older->n == 0 || g->older->n >= g->newer->n) return INVALID;
	for (gpm_metric *m = g->metrics; m < g->metrics + g->n; m++) {
		m->ret = OK;
		switch (m->id) {
		case 1: m->value = 72.5; break;
		case 2: m->value = 61; break;
		case 3: m->value = 38; break;
		case 5: m->value = 47; break;
		case 10: m->value = 52; break;
		case 11: m->value = 1; break;
		case 12: m->value = 12; break;
		case 13: m->value = 3; break;
		default: m->ret = UNSUPPORTED;
		}
	}
	return OK;
}

static struct device migs[MOST][3];
static const int gi_of[3] = {1, 2, 2}, ci_of[3] = {0, 0, 1};
nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t d, unsigned *current, unsigned *pending) {
	*current = *pending = is(now(), "mig", d->gpu);
	return extra(d);
}
nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t d, unsigned *n) { *n = 7; return extra(d); }
nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t d, unsigned i, nvmlDevice_t *mig) {
	if (i == 1 || i > 3) return NOT_FOUND; /* a gap, and the end */
	i -= i > 1;
	migs[d->gpu][i].gpu = d->gpu;
	migs[d->gpu][i].mig = 1 + i;
	*mig = &migs[d->gpu][i];
	return extra(d);
}
nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t d, unsigned *id) { *id = d->mig ? gi_of[d->mig - 1] : 0; return d->mig ? extra(d) : UNSUPPORTED; }
nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t d, unsigned *id) { *id = d->mig ? ci_of[d->mig - 1] : 0; return d->mig ? extra(d) : UNSUPPORTED; }
nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t d, attributes *a) {
	memset(a, 0, sizeof *a);
	a->gi_slices = d->mig == 1 ? 1 : 3; a->ci_slices = 1; a->mib = d->mig == 1 ? 9984 : 40448;
	return d->mig ? extra(d) : UNSUPPORTED;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t d, unsigned *n, process *p) {
	nvmlReturn_t r = extra(d);
	unsigned have = d->gpu == 0 ? 2 : 0;
	const char *pid = getenv("NVML_STUB_PID");
	if (r != OK) return r;
	if (*n < have) { *n = have; return TOO_SMALL; }
	*n = have;
	if (have) {
		p[0] = (process){pid ? atoi(pid) : 5000000, 6ull << 30, ~0u, ~0u}; /* more than a PID can be */
		p[1] = (process){5000001, ~0ull, is(now(), "mig", 0) ? 2 : ~0u, ~0u};
	}
	return OK;
}
nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t d, process_use *u, unsigned *n, unsigned long long since) {
	static unsigned long long time = 1000;
	nvmlReturn_t r = is(now(), "mig", d->gpu) ? UNSUPPORTED : extra(d);
	const char *pid = getenv("NVML_STUB_PID");
	if (r != OK) return r;
	if (d->gpu != 0) return NOT_FOUND;
	if (since > time) return INVALID;
	if (*n < 1) { *n = 1; return TOO_SMALL; }
	*n = 1;
	*u = (process_use){pid ? atoi(pid) : 5000000, ++time, 64, 30, 0, 0};
	return OK;
}

static struct { int gpu; unsigned long long xid; unsigned gi, ci; } queue[64];
static int queued;
nvmlReturn_t nvmlEventSetCreate(void **set) { *set = &queue; return OK; }
nvmlReturn_t nvmlEventSetFree(void *set) { (void)set; return OK; }
nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t d, unsigned long long types, void *set) {
	(void)set;
	return types == 8 ? extra(d) : INVALID;
}
nvmlReturn_t nvmlEventSetWait_v2(void *set, event *e, unsigned ms) {
	(void)set;
	const char *path = getenv("NVML_STUB_XIDS");
	for (unsigned waited = 0, pause;; waited += pause) {
		FILE *f = path && queued == 0 ? fopen(path, "r") : NULL;
		if (f) {
			char line[128];
			unlink(path);
			while (queued < 64 && fgets(line, sizeof line, f)) {
				queue[queued].gi = queue[queued].ci = ~0u;
				if (sscanf(line, "%d %llu %u %u", &queue[queued].gpu, &queue[queued].xid, &queue[queued].gi, &queue[queued].ci) >= 2) queued++;
			}
			fclose(f);
		}
		if (queued > 0) {
			gpus[queue[0].gpu].gpu = queue[0].gpu;
			*e = (event){&gpus[queue[0].gpu], 8, queue[0].xid, queue[0].gi, queue[0].ci};
			memmove(queue, queue + 1, --queued * sizeof *queue);
			return OK;
		}
		if (waited >= ms) return TIMEOUT;
		pause = ms - waited; /* the driver wakes nobody before there is something */
		if (path && pause > 10) pause = 10;
		usleep(pause * 1000);
	}
}
#endif
