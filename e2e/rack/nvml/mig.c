// MIG: mode, devices, instances and profiles.
#include "rack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *currentMode, unsigned int *pendingMode) {
    NEED(currentMode);
    NEED(pendingMode);
    PHYSICAL(device, v);
    PRESENT(v.gpu.mig_mode);
    *currentMode = (unsigned)v.gpu.mig_mode;
    *pendingMode = v.gpu.mig_pending == ABSENT ? *currentMode : (unsigned)v.gpu.mig_pending;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count) {
    NEED(count);
    PHYSICAL(device, v);
    *count = v.gpu.mig_mode == ABSENT ? 0 : v.gpu.max_mig == ABSENT ? 7 : (unsigned)v.gpu.max_mig;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *migDevice) {
    NEED(migDevice);
    PHYSICAL(device, v);
    PRESENT(v.gpu.mig_mode);
    if (v.gpu.mig_mode != 1 || index >= (unsigned)v.gpu.migs)
        return NVML_ERROR_NOT_FOUND;
    return rack_handle(v.gpu.mig[index].uuid, migDevice);
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *isMigDevice) {
    NEED(isMigDevice);
    LOOK(device, v);
    *isMigDevice = (unsigned)v.is_mig;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t migDevice, nvmlDevice_t *device) {
    NEED(device);
    LOOK(migDevice, v);
    return v.is_mig ? rack_handle(v.gpu.uuid, device) : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id) {
    NEED(id);
    LOOK(device, v);
    if (!v.is_mig)
        return NVML_ERROR_NOT_SUPPORTED;
    *id = (unsigned)v.mig.gi;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id) {
    NEED(id);
    LOOK(device, v);
    if (!v.is_mig)
        return NVML_ERROR_NOT_SUPPORTED;
    *id = (unsigned)v.mig.ci;
    return NVML_SUCCESS;
}

static unsigned count_of(long long v) { return v == ABSENT ? 0 : (unsigned)v; }

// The header: "only supports MIG device handles".
nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes) {
    NEED(attributes);
    LOOK(device, v);
    if (!v.is_mig)
        return NVML_ERROR_NOT_SUPPORTED;
    *attributes = (nvmlDeviceAttributes_t){
        .multiprocessorCount = count_of(v.mig.sms),
        .sharedCopyEngineCount = count_of(v.mig.copy_engines),
        .sharedDecoderCount = count_of(v.mig.decoders),
        .gpuInstanceSliceCount = count_of(v.mig.gi_slices),
        .computeInstanceSliceCount = count_of(v.mig.ci_slices),
        .memorySizeMB = count_of(v.mig.memory_mib),
    };
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes) {
    return nvmlDeviceGetAttributes_v2(device, attributes);
}

// The profile numbers that nvidia-smi shows, by NVML's profile.
unsigned rack_shown(unsigned profile) {
    static const unsigned numbers[] = {19, 14, 9, 5, 0, 0, 0, 20, 0, 15};
    return profile < sizeof numbers / sizeof *numbers ? numbers[profile] : 0;
}

// profile fills info with one GPU instance profile of the GPU's rack section.
static nvmlReturn_t profile(nvmlDevice_t device, unsigned id, struct profile *out, const char *call) {
    struct view v;
    nvmlReturn_t r = rack_look(device, &v, call);
    if (r != NVML_SUCCESS)
        return r;
    if (v.is_mig)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (id >= NVML_GPU_INSTANCE_PROFILE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < v.gpu.profiles; i++) {
        if (v.gpu.profile[i].id != id)
            continue;
        *out = v.gpu.profile[i];
        return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, unsigned int id, nvmlGpuInstanceProfileInfo_t *info) {
    struct profile p;
    NEED(info);
    nvmlReturn_t r = profile(device, id, &p, __func__);
    if (r == NVML_SUCCESS)
        *info = (nvmlGpuInstanceProfileInfo_t){.id = rack_shown(id), .sliceCount = p.slices, .instanceCount = p.count,
                                               .multiprocessorCount = p.sms, .copyEngineCount = p.slices, .memorySizeMB = p.memory_mb};
    return r;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t device, unsigned int id, nvmlGpuInstanceProfileInfo_v2_t *info) {
    struct profile p;
    NEED(info);
    if (info->version == nvmlGpuInstanceProfileInfo_v3) {
        nvmlGpuInstanceProfileInfo_v3_t *v3 = (nvmlGpuInstanceProfileInfo_v3_t *)info;
        nvmlReturn_t r = profile(device, id, &p, __func__);
        if (r != NVML_SUCCESS)
            return r;
        *v3 = (nvmlGpuInstanceProfileInfo_v3_t){.version = nvmlGpuInstanceProfileInfo_v3, .id = rack_shown(id), .sliceCount = p.slices,
                                                .instanceCount = p.count, .multiprocessorCount = p.sms, .copyEngineCount = p.slices,
                                                .memorySizeMB = p.memory_mb};
        return snprintf(v3->name, sizeof v3->name, "MIG %s", p.name) > 0 ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
    }
    if (info->version != nvmlGpuInstanceProfileInfo_v2)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlReturn_t r = profile(device, id, &p, __func__);
    if (r != NVML_SUCCESS)
        return r;
    *info = (nvmlGpuInstanceProfileInfo_v2_t){.version = nvmlGpuInstanceProfileInfo_v2, .id = rack_shown(id), .sliceCount = p.slices,
                                              .instanceCount = p.count, .multiprocessorCount = p.sms, .copyEngineCount = p.slices,
                                              .memorySizeMB = p.memory_mb};
    snprintf(info->name, sizeof info->name, "MIG %s", p.name);
    return NVML_SUCCESS;
}
