// Memory limits by control group, which came with driver 615. go-nvml's header does not
// have them yet; NVIDIA's API reference does (nvmlSetMemoryLimits_v1_t and
// nvmlGetMemoryLimits_v1_t). They are kept beside the rack file, one line "soft hard
// group" for each time that they were set; the last for a group counts.
#include "rack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct set_limits {
    const char *name_space;
    unsigned long long soft, hard;
};

struct get_limits {
    const char *name_space;
    unsigned long long soft, hard, used;
};

static const int first_driver = 615;

static nvmlReturn_t supported(const char *call) {
    struct driver d;
    nvmlReturn_t r = rack_driver(&d, call);
    if (r != NVML_SUCCESS)
        return r;
    return atoi(d.version) < first_driver ? NVML_ERROR_FUNCTION_NOT_FOUND : NVML_SUCCESS;
}

static void limits_path(const struct gpu *g, char *out, size_t n) {
    const char *rack = getenv("ALIQUOT_RACK");
    snprintf(out, n, "%s.d/%s.limits", rack != NULL ? rack : "", g->uuid);
}

nvmlReturn_t nvmlDeviceSetMemoryLimits_v1(nvmlDevice_t device, struct set_limits *limits) {
    NEED(limits);
    NEED(limits->name_space);
    PHYSICAL(device, v);
    nvmlReturn_t r = supported(__func__);
    if (r != NVML_SUCCESS)
        return r;
    if (geteuid() != 0)
        return NVML_ERROR_NO_PERMISSION;
    struct stat st;
    if (stat(limits->name_space, &st) != 0 || !S_ISDIR(st.st_mode))
        return NVML_ERROR_NOT_FOUND;
    if (limits->soft > limits->hard)
        return NVML_ERROR_INVALID_ARGUMENT;
    char path[4352];
    limits_path(&v.gpu, path, sizeof path);
    FILE *f = fopen(path, "ae");
    if (f == NULL)
        return NVML_ERROR_UNKNOWN;
    fprintf(f, "%llu %llu %s\n", limits->soft, limits->hard, limits->name_space);
    return fclose(f) == 0 ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
}

nvmlReturn_t nvmlDeviceGetMemoryLimits_v1(nvmlDevice_t device, struct get_limits *limits) {
    NEED(limits);
    NEED(limits->name_space);
    PHYSICAL(device, v);
    nvmlReturn_t r = supported(__func__);
    if (r != NVML_SUCCESS)
        return r;
    char path[4352];
    limits_path(&v.gpu, path, sizeof path);
    FILE *f = fopen(path, "re");
    r = NVML_ERROR_NOT_FOUND;
    if (f == NULL)
        return r;
    char group[4096];
    unsigned long long soft, hard;
    while (fscanf(f, "%llu %llu %4095[^\n]\n", &soft, &hard, group) == 3)
        if (strcmp(group, limits->name_space) == 0) {
            limits->soft = soft;
            limits->hard = hard;
            limits->used = 0;
            r = NVML_SUCCESS;
        }
    fclose(f);
    return r;
}
