// Initialisation, versions and error texts.
#include "rack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

nvmlReturn_t nvmlInit_v2(void) { return rack_init(__func__); }
nvmlReturn_t nvmlInit(void) { return rack_init("nvmlInit_v2"); }
nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    return rack_init("nvmlInit_v2");
}
nvmlReturn_t nvmlShutdown(void) { return rack_shutdown(); }

const char *nvmlErrorString(nvmlReturn_t result) {
    switch (result) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_INSUFFICIENT_POWER: return "Insufficient External Power";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT: return "Timeout";
    case NVML_ERROR_IRQ_ISSUE: return "Interrupt Request Issue";
    case NVML_ERROR_LIBRARY_NOT_FOUND: return "NVML Shared Library Not Found";
    case NVML_ERROR_FUNCTION_NOT_FOUND: return "Function Not Found";
    case NVML_ERROR_CORRUPTED_INFOROM: return "Corrupted infoROM";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_RESET_REQUIRED: return "GPU requires reset";
    case NVML_ERROR_OPERATING_SYSTEM: return "GPU access blocked by the operating system";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    case NVML_ERROR_IN_USE: return "In use by another client";
    case NVML_ERROR_MEMORY: return "Insufficient memory";
    case NVML_ERROR_NO_DATA: return "No data";
    case NVML_ERROR_INSUFFICIENT_RESOURCES: return "Insufficient resources";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
    case NVML_ERROR_NOT_READY: return "System is not ready";
    default: return "Unknown Error";
    }
}

static nvmlReturn_t version_text(char *out, unsigned length, size_t at, const char *call) {
    struct driver d;
    NEED(out);
    nvmlReturn_t r = rack_driver(&d, call);
    return r != NVML_SUCCESS ? r : rack_text(out, length, (char *)&d + at);
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    return version_text(version, length, offsetof(struct driver, version), __func__);
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
    return version_text(version, length, offsetof(struct driver, nvml), __func__);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *cudaDriverVersion) {
    struct driver d;
    int major, minor;
    NEED(cudaDriverVersion);
    nvmlReturn_t r = rack_driver(&d, __func__);
    if (r != NVML_SUCCESS)
        return r;
    if (sscanf(d.cuda, "%d.%d", &major, &minor) != 2)
        return NVML_ERROR_LIBRARY_NOT_FOUND; // libcuda is not there
    *cudaDriverVersion = major * 1000 + minor * 10;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *cudaDriverVersion) { return nvmlSystemGetCudaDriverVersion_v2(cudaDriverVersion); }

nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length) {
    struct driver d;
    NEED(name);
    nvmlReturn_t r = rack_driver(&d, __func__);
    if (r != NVML_SUCCESS)
        return r;
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return NVML_ERROR_NOT_FOUND;
    size_t n = fread(line, 1, sizeof line - 1, f);
    fclose(f);
    line[n] = 0;
    return rack_text(name, length, line);
}
