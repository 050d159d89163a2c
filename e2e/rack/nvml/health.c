// Health and live readings: temperature, power, clocks, ECC, retired memory.
#include "rack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define READING(function, type, field)                                                                                         \
    nvmlReturn_t function(nvmlDevice_t device, type *out) {                                                                    \
        NEED(out);                                                                                                             \
        PHYSICAL(device, v);                                                                                                   \
        PRESENT(v.gpu.field);                                                                                                  \
        *out = (type)v.gpu.field;                                                                                              \
        return NVML_SUCCESS;                                                                                                   \
    }

READING(nvmlDeviceGetPowerUsage, unsigned int, power_mw)
READING(nvmlDeviceGetEnforcedPowerLimit, unsigned int, power_limit_mw)
READING(nvmlDeviceGetPowerManagementLimit, unsigned int, power_limit_mw)
READING(nvmlDeviceGetPowerManagementDefaultLimit, unsigned int, power_limit_mw)
READING(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, energy_mj)
READING(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, clock_reasons)
READING(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, clock_reasons)
READING(nvmlDeviceGetPerformanceState, nvmlPstates_t, pstate)
READING(nvmlDeviceGetPowerState, nvmlPstates_t, pstate)
READING(nvmlDeviceGetFanSpeed, unsigned int, fan)
READING(nvmlDeviceGetMaxPcieLinkGeneration, unsigned int, pcie_max_gen)
READING(nvmlDeviceGetMaxPcieLinkWidth, unsigned int, pcie_max_width)
READING(nvmlDeviceGetCurrPcieLinkGeneration, unsigned int, pcie_gen)
READING(nvmlDeviceGetCurrPcieLinkWidth, unsigned int, pcie_width)
READING(nvmlDeviceGetPcieReplayCounter, unsigned int, pcie_replays)
READING(nvmlDeviceGetRetiredPagesPendingStatus, nvmlEnableState_t, retired_pending)

nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int *minLimit, unsigned int *maxLimit) {
    NEED(minLimit);
    NEED(maxLimit);
    PHYSICAL(device, v);
    PRESENT(v.gpu.power_min_mw);
    PRESENT(v.gpu.power_max_mw);
    *minLimit = (unsigned)v.gpu.power_min_mw;
    *maxLimit = (unsigned)v.gpu.power_max_mw;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensorType, unsigned int *temp) {
    NEED(temp);
    PHYSICAL(device, v);
    if (sensorType != NVML_TEMPERATURE_GPU)
        return NVML_ERROR_INVALID_ARGUMENT;
    PRESENT(v.gpu.temperature);
    *temp = (unsigned)v.gpu.temperature;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature) {
    unsigned degrees;
    NEED(temperature);
    if (temperature->version != nvmlTemperature_v1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlReturn_t r = nvmlDeviceGetTemperature(device, temperature->sensorType, &degrees);
    if (r == NVML_SUCCESS)
        temperature->temperature = (int)degrees;
    return r;
}

nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, nvmlTemperatureThresholds_t thresholdType, unsigned int *temp) {
    NEED(temp);
    PHYSICAL(device, v);
    long long value = ABSENT;
    if (thresholdType == NVML_TEMPERATURE_THRESHOLD_SHUTDOWN)
        value = v.gpu.temperature_shutdown;
    else if (thresholdType == NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
        value = v.gpu.temperature_slowdown;
    else if (thresholdType == NVML_TEMPERATURE_THRESHOLD_GPU_MAX)
        value = v.gpu.temperature_max;
    PRESENT(value);
    *temp = (unsigned)value;
    return NVML_SUCCESS;
}

static nvmlReturn_t clock_of(nvmlClockType_t type, long long sm, long long mem, unsigned *out) {
    NEED(out);
    if (type > NVML_CLOCK_VIDEO)
        return NVML_ERROR_INVALID_ARGUMENT;
    long long value = type == NVML_CLOCK_MEM ? mem : sm;
    PRESENT(value);
    *out = (unsigned)value;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock) {
    PHYSICAL(device, v);
    return clock_of(type, v.gpu.sm_clock, v.gpu.mem_clock, clock);
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock) {
    PHYSICAL(device, v);
    return clock_of(type, v.gpu.max_sm_clock, v.gpu.max_mem_clock, clock);
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending) {
    NEED(current);
    NEED(pending);
    PHYSICAL(device, v);
    PRESENT(v.gpu.ecc);
    *current = *pending = (nvmlEnableState_t)v.gpu.ecc;
    return NVML_SUCCESS;
}

static nvmlReturn_t ecc_count(const struct gpu *g, int uncorrected, int aggregate, unsigned long long *out) {
    if (g->ecc != 1)
        return NVML_ERROR_NOT_SUPPORTED;
    long long value = uncorrected ? (aggregate ? g->ecc_aggregate_ue : g->ecc_volatile_ue)
                                  : (aggregate ? g->ecc_aggregate_ce : g->ecc_volatile_ce);
    *out = value == ABSENT ? 0 : (unsigned long long)value;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t errorType, nvmlEccCounterType_t counterType,
                                         unsigned long long *eccCounts) {
    NEED(eccCounts);
    if (errorType >= NVML_MEMORY_ERROR_TYPE_COUNT || counterType >= NVML_ECC_COUNTER_TYPE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    PHYSICAL(device, v);
    return ecc_count(&v.gpu, errorType == NVML_MEMORY_ERROR_TYPE_UNCORRECTED, counterType == NVML_AGGREGATE_ECC, eccCounts);
}

// All errors of the rack are DRAM errors; the other locations count none.
nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, nvmlMemoryErrorType_t errorType, nvmlEccCounterType_t counterType,
                                             nvmlMemoryLocation_t locationType, unsigned long long *count) {
    nvmlReturn_t r = nvmlDeviceGetTotalEccErrors(device, errorType, counterType, count);
    if (r == NVML_SUCCESS && locationType != NVML_MEMORY_LOCATION_DRAM)
        *count = 0;
    return r;
}

nvmlReturn_t nvmlDeviceGetSramEccErrorStatus(nvmlDevice_t device, nvmlEccSramErrorStatus_t *status) {
    NEED(status);
    if (status->version != nvmlEccSramErrorStatus_v1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    PHYSICAL(device, v);
    if (v.gpu.ecc != 1 || v.gpu.major < 8)
        return NVML_ERROR_NOT_SUPPORTED;
    memset(status, 0, sizeof *status);
    status->version = nvmlEccSramErrorStatus_v1;
    status->bThresholdExceeded = v.gpu.sram_threshold_exceeded == 1;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrRows, unsigned int *uncRows, unsigned int *isPending,
                                       unsigned int *failureOccurred) {
    NEED(corrRows);
    NEED(uncRows);
    NEED(isPending);
    NEED(failureOccurred);
    PHYSICAL(device, v);
    PRESENT(v.gpu.remapped_ce);
    *corrRows = (unsigned)v.gpu.remapped_ce;
    *uncRows = v.gpu.remapped_ue == ABSENT ? 0 : (unsigned)v.gpu.remapped_ue;
    *isPending = v.gpu.remap_pending == 1;
    *failureOccurred = v.gpu.remap_failure == 1;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, nvmlPageRetirementCause_t cause, unsigned int *pageCount,
                                          unsigned long long *addresses, unsigned long long *timestamps) {
    NEED(pageCount);
    PHYSICAL(device, v);
    long long n = cause == NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR ? v.gpu.retired_dbe : v.gpu.retired_sbe;
    PRESENT(n);
    unsigned room = *pageCount;
    *pageCount = (unsigned)n;
    if (room < (unsigned)n)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < (unsigned)n && addresses != NULL; i++) {
        addresses[i] = 0x1000ULL * (i + 1);
        if (timestamps != NULL)
            timestamps[i] = 0;
    }
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, nvmlPageRetirementCause_t cause, unsigned int *pageCount,
                                       unsigned long long *addresses) {
    return nvmlDeviceGetRetiredPages_v2(device, cause, pageCount, addresses, NULL);
}

// The one thing that programs change: the mode that was set lies beside the rack
// file, in <rack>.d/<uuid>.mode, and beats the rack's own.
static void mode_path(const struct gpu *g, char *out, size_t n) {
    const char *rack = getenv("ALIQUOT_RACK");
    snprintf(out, n, "%s.d/%s.mode", rack != NULL ? rack : "", g->uuid);
}

nvmlReturn_t nvmlDeviceSetComputeMode(nvmlDevice_t device, nvmlComputeMode_t mode) {
    PHYSICAL(device, v);
    if (mode >= NVML_COMPUTEMODE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (mode == NVML_COMPUTEMODE_EXCLUSIVE_THREAD || v.gpu.mig_mode == 1)
        return NVML_ERROR_NOT_SUPPORTED;
    if (geteuid() != 0)
        return NVML_ERROR_NO_PERMISSION;
    char path[4352];
    mode_path(&v.gpu, path, sizeof path);
    FILE *f = fopen(path, "we");
    if (f == NULL)
        return NVML_ERROR_UNKNOWN;
    fprintf(f, "%d\n", (int)mode);
    return fclose(f) == 0 ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
}

nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, nvmlComputeMode_t *mode) {
    NEED(mode);
    PHYSICAL(device, v);
    PRESENT(v.gpu.compute_mode);
    long long value = v.gpu.compute_mode;
    char path[4352];
    mode_path(&v.gpu, path, sizeof path);
    FILE *f = fopen(path, "re");
    if (f != NULL) {
        long long set;
        if (fscanf(f, "%lld", &set) == 1)
            value = set;
        fclose(f);
    }
    *mode = (nvmlComputeMode_t)value;
    return NVML_SUCCESS;
}

static long long field(const struct gpu *g, unsigned id) {
    switch (id) {
    case NVML_FI_DEV_ECC_CURRENT: return g->ecc;
    case NVML_FI_DEV_ECC_SBE_VOL_TOTAL: return g->ecc_volatile_ce;
    case NVML_FI_DEV_ECC_DBE_VOL_TOTAL: return g->ecc_volatile_ue;
    case NVML_FI_DEV_ECC_SBE_AGG_TOTAL: return g->ecc_aggregate_ce;
    case NVML_FI_DEV_ECC_DBE_AGG_TOTAL: return g->ecc_aggregate_ue;
    case NVML_FI_DEV_RETIRED_SBE: return g->retired_sbe;
    case NVML_FI_DEV_RETIRED_DBE: return g->retired_dbe;
    case NVML_FI_DEV_RETIRED_PENDING: return g->retired_pending;
    case NVML_FI_DEV_MEMORY_TEMP: return g->temperature_memory;
    case NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: return g->energy_mj;
    case NVML_FI_DEV_NVLINK_LINK_COUNT: return g->nvlinks;
    case NVML_FI_DEV_REMAPPED_COR: return g->remapped_ce;
    case NVML_FI_DEV_REMAPPED_UNC: return g->remapped_ue;
    case NVML_FI_DEV_REMAPPED_PENDING: return g->remap_pending;
    case NVML_FI_DEV_REMAPPED_FAILURE: return g->remap_failure;
    case NVML_FI_DEV_POWER_INSTANT: return g->power_mw;
    case NVML_FI_DEV_POWER_CURRENT_LIMIT: return g->power_limit_mw;
    case NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: return g->recovery_action;
    default: return ABSENT;
    }
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int valuesCount, nvmlFieldValue_t *values) {
    NEED(values);
    PHYSICAL(device, v);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (int i = 0; i < valuesCount; i++) {
        long long value = field(&v.gpu, values[i].fieldId);
        values[i].timestamp = (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000;
        values[i].latencyUsec = 0;
        values[i].nvmlReturn = value == ABSENT ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
        values[i].valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
        values[i].value.ullVal = value == ABSENT ? 0 : (unsigned long long)value;
    }
    return NVML_SUCCESS;
}
