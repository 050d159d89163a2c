// Calls that every GPU of a data centre answers alike: no display, no accounting, no
// graphics, no chassis units, no excluded GPUs.
#include "rack.h"

// go-nvml's header names newer versions by the old names.
#undef nvmlDeviceGetGraphicsRunningProcesses

static nvmlReturn_t constant(nvmlDevice_t device, nvmlEnableState_t *out, nvmlEnableState_t value, const char *call) {
    struct view v;
    NEED(out);
    nvmlReturn_t r = rack_look(device, &v, call);
    if (r != NVML_SUCCESS)
        return r;
    if (v.is_mig)
        return NVML_ERROR_NOT_SUPPORTED;
    *out = value;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t device, nvmlEnableState_t *display) {
    return constant(device, display, NVML_FEATURE_DISABLED, __func__);
}

nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t device, nvmlEnableState_t *active) {
    return constant(device, active, NVML_FEATURE_DISABLED, __func__);
}

nvmlReturn_t nvmlDeviceGetAccountingMode(nvmlDevice_t device, nvmlEnableState_t *mode) {
    return constant(device, mode, NVML_FEATURE_DISABLED, __func__);
}

nvmlReturn_t nvmlDeviceGetPowerManagementMode(nvmlDevice_t device, nvmlEnableState_t *mode) {
    return constant(device, mode, NVML_FEATURE_ENABLED, __func__);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_v1_t *infos) {
    (void)infos;
    NEED(count);
    LOOK(device, v);
    *count = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_v2_t *infos) {
    (void)infos;
    NEED(count);
    LOOK(device, v);
    *count = 0;
    return NVML_SUCCESS;
}

// GPM came with Hopper; the rack has no samples to take.
nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support) {
    NEED(support);
    LOOK(device, v);
    if (support->version != NVML_GPM_SUPPORT_VERSION)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    support->isSupportedDevice = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlUnitGetCount(unsigned int *count) {
    NEED(count);
    struct driver d;
    nvmlReturn_t r = rack_driver(&d, __func__);
    if (r == NVML_SUCCESS)
        *count = 0;
    return r;
}

nvmlReturn_t nvmlGetExcludedDeviceCount(unsigned int *count) {
    NEED(count);
    *count = 0;
    return NVML_SUCCESS;
}
