// What runs on a GPU: processes, memory in use, utilisation.
#include "rack.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_LISTED = MAX_PROCESSES + MAX_HOLDERS };

static long long or_zero(long long v) { return v == ABSENT ? 0 : v; }

static int on_mig(const struct view *v, const struct process *p) {
    return !v->is_mig || (p->gi == v->mig.gi && p->ci == v->mig.ci);
}

// everyone lists the processes of the rack file and the declared ones that use
// the handle's GPU or MIG device.
static int everyone(const struct view *v, struct process *out) {
    struct process all[MAX_LISTED];
    int n = v->gpu.processes, kept = 0;
    memcpy(all, v->gpu.process, sizeof *all * (size_t)n);
    n += rack_holders(&v->gpu, all + n, MAX_HOLDERS);
    for (int i = 0; i < n; i++)
        if (on_mig(v, &all[i]))
            out[kept++] = all[i];
    return kept;
}

static unsigned long long used_bytes(const struct view *v) {
    struct process all[MAX_LISTED];
    int n = everyone(v, all);
    long long mib = or_zero(v->is_mig ? v->mig.used_mib : v->gpu.used_mib);
    for (int i = 0; i < n; i++)
        mib += or_zero(all[i].memory_mib);
    return (unsigned long long)mib << 20;
}

static void memory(const struct view *v, unsigned long long *total, unsigned long long *reserved, unsigned long long *used) {
    *total = (unsigned long long)or_zero(v->is_mig ? v->mig.memory_mib : v->gpu.memory_mib) << 20;
    *reserved = v->is_mig ? 0 : (unsigned long long)or_zero(v->gpu.reserved_mib) << 20;
    *used = used_bytes(v);
    if (*used + *reserved > *total)
        *used = *total - *reserved;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *out) {
    unsigned long long reserved;
    NEED(out);
    LOOK(device, v);
    memory(&v, &out->total, &reserved, &out->used);
    out->used += reserved; // version 1 counts what the driver keeps as used
    out->free = out->total - out->used;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *out) {
    NEED(out);
    if (out->version != nvmlMemory_v2)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    LOOK(device, v);
    memory(&v, &out->total, &out->reserved, &out->used);
    out->free = out->total - out->reserved - out->used;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *out) {
    NEED(out);
    PHYSICAL(device, v);
    if (v.gpu.mig_mode == 1)
        return NVML_ERROR_NOT_SUPPORTED; // N/A in every capture with MIG on
    PRESENT(v.gpu.gpu_util);
    struct process all[MAX_LISTED];
    int n = everyone(&v, all);
    long long sm = v.gpu.gpu_util, mem = or_zero(v.gpu.mem_util);
    for (int i = 0; i < n; i++) {
        sm += or_zero(all[i].sm_util);
        mem += or_zero(all[i].mem_util);
    }
    out->gpu = sm > 100 ? 100 : (unsigned)sm;
    out->memory = mem > 100 ? 100 : (unsigned)mem;
    return NVML_SUCCESS;
}

static nvmlReturn_t engine(long long value, unsigned *out, unsigned *period) {
    NEED(out);
    PRESENT(value);
    *out = (unsigned)value;
    if (period != NULL)
        *period = 167000;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t device, unsigned int *utilization, unsigned int *samplingPeriodUs) {
    PHYSICAL(device, v);
    return engine(v.gpu.encoder_util, utilization, samplingPeriodUs);
}

nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t device, unsigned int *utilization, unsigned int *samplingPeriodUs) {
    PHYSICAL(device, v);
    return engine(v.gpu.decoder_util, utilization, samplingPeriodUs);
}

static unsigned instance(long long id) { return id == ABSENT ? 0xFFFFFFFF : (unsigned)id; }

static unsigned long long process_bytes(const struct process *p) {
    return p->memory_mib == ABSENT ? (unsigned long long)NVML_VALUE_NOT_AVAILABLE : (unsigned long long)p->memory_mib << 20;
}

// listed copies the compute processes of a handle; only_mps keeps MPS clients.
static nvmlReturn_t listed(nvmlDevice_t device, int only_mps, struct process *out, int *n, const char *call) {
    struct view v;
    nvmlReturn_t r = rack_look(device, &v, call);
    if (r != NVML_SUCCESS)
        return r;
    struct process all[MAX_LISTED];
    int count = everyone(&v, all), kept = 0;
    for (int i = 0; i < count; i++)
        if (!only_mps || all[i].mps == 1)
            out[kept++] = all[i];
    *n = kept;
    return NVML_SUCCESS;
}

static nvmlReturn_t list(nvmlDevice_t device, int only_mps, unsigned *count, nvmlProcessInfo_t *out, const char *call) {
    struct process all[MAX_LISTED];
    int n = 0;
    NEED(count);
    nvmlReturn_t r = listed(device, only_mps, all, &n, call);
    if (r != NVML_SUCCESS)
        return r;
    unsigned room = *count;
    *count = (unsigned)n;
    if (room < (unsigned)n)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    if (n > 0)
        NEED(out);
    for (int i = 0; i < n; i++)
        out[i] = (nvmlProcessInfo_t){(unsigned)all[i].pid, process_bytes(&all[i]), instance(all[i].gi), instance(all[i].ci)};
    return NVML_SUCCESS;
}

static nvmlReturn_t list_v1(nvmlDevice_t device, int only_mps, unsigned *count, nvmlProcessInfo_v1_t *out, const char *call) {
    nvmlProcessInfo_t wide[MAX_LISTED];
    NEED(count);
    unsigned n = *count < MAX_LISTED ? *count : MAX_LISTED;
    nvmlReturn_t r = list(device, only_mps, &n, wide, call);
    *count = n;
    for (unsigned i = 0; r == NVML_SUCCESS && i < n; i++)
        out[i] = (nvmlProcessInfo_v1_t){wide[i].pid, wide[i].usedGpuMemory};
    return r;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_t *infos) {
    return list(device, 0, infoCount, infos, __func__);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v2_t *infos) {
    return list(device, 0, infoCount, infos, __func__);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v1_t *infos) {
    return list_v1(device, 0, infoCount, infos, __func__);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_t *infos) {
    return list(device, 1, infoCount, infos, __func__);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v2_t *infos) {
    return list(device, 1, infoCount, infos, __func__);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v1_t *infos) {
    return list_v1(device, 1, infoCount, infos, __func__);
}

static nvmlReturn_t no_processes(nvmlDevice_t device, unsigned *count) {
    NEED(count);
    LOOK(device, v);
    *count = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_t *infos) {
    (void)infos;
    return no_processes(device, infoCount);
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *utilization,
                                             unsigned int *processSamplesCount, unsigned long long lastSeenTimeStamp) {
    NEED(processSamplesCount);
    PHYSICAL(device, v);
    if (v.gpu.process_utilization == 0 || v.gpu.mig_mode == 1)
        return NVML_ERROR_NOT_SUPPORTED;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    unsigned long long stamp = (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000;
    struct process all[MAX_LISTED];
    int n = everyone(&v, all);
    unsigned room = *processSamplesCount, kept = 0;
    if (utilization == NULL || room < (unsigned)n) {
        *processSamplesCount = (unsigned)(n > 0 ? n : 1);
        return NVML_ERROR_INSUFFICIENT_SIZE;
    }
    for (int i = 0; i < n && stamp > lastSeenTimeStamp; i++) {
        if (all[i].sm_util == ABSENT || all[i].server == 1)
            continue;
        utilization[kept++] = (nvmlProcessUtilizationSample_t){
            .pid = (unsigned)all[i].pid, .timeStamp = stamp, .smUtil = (unsigned)all[i].sm_util, .memUtil = (unsigned)or_zero(all[i].mem_util)};
    }
    *processSamplesCount = kept;
    return kept > 0 ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}
