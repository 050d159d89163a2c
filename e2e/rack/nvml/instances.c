// GPU and compute instances behind MIG devices, as tools ask for a MIG device's
// profile. Their handles live as long as the process.
#include "rack.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

// go-nvml's header names the second version by the first one's name.
#undef nvmlComputeInstanceGetInfo

struct instance {
    nvmlDevice_t device;
    long long gi, ci; // ci is ABSENT for a GPU instance
    struct instance *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct instance *instances;

static struct instance *instance(nvmlDevice_t device, long long gi, long long ci) {
    pthread_mutex_lock(&lock);
    struct instance *i = instances;
    while (i != NULL && (i->device.handle != device.handle || i->gi != gi || i->ci != ci))
        i = i->next;
    if (i == NULL && (i = calloc(1, sizeof *i)) != NULL) {
        *i = (struct instance){device, gi, ci, instances};
        instances = i;
    }
    pthread_mutex_unlock(&lock);
    return i;
}

// find looks up a MIG device of a GPU by its instances; any compute instance for ABSENT.
static const struct mig *find(const struct gpu *g, long long gi, long long ci) {
    for (int m = 0; m < g->migs; m++)
        if (g->mig[m].gi == gi && (ci == ABSENT || g->mig[m].ci == ci))
            return &g->mig[m];
    return NULL;
}

static nvmlReturn_t behind(const struct instance *i, struct view *v, const struct mig **out, const char *call) {
    if (i == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t r = rack_look(i->device, v, call);
    if (r != NVML_SUCCESS)
        return r;
    *out = find(&v->gpu, i->gi, i->ci);
    return *out == NULL ? NVML_ERROR_NOT_FOUND : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *out) {
    NEED(out);
    PHYSICAL(device, v);
    if (find(&v.gpu, id, ABSENT) == NULL)
        return NVML_ERROR_NOT_FOUND;
    out->handle = (void *)instance(device, id, ABSENT);
    return out->handle == NULL ? NVML_ERROR_MEMORY : NVML_SUCCESS;
}

nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t gpuInstance, nvmlGpuInstanceInfo_t *info) {
    NEED(info);
    const struct instance *i = (const void *)gpuInstance.handle;
    struct view v;
    const struct mig *m;
    nvmlReturn_t r = behind(i, &v, &m, __func__);
    if (r != NVML_SUCCESS)
        return r;
    // "2c.3g.71gb" is a compute instance of a GPU instance "3g.71gb".
    const char *dot = strchr(m->profile, '.'), *name = dot != NULL && dot[-1] == 'c' ? dot + 1 : m->profile;
    *info = (nvmlGpuInstanceInfo_t){.device = i->device, .id = (unsigned)i->gi};
    info->placement.size = m->gi_slices == ABSENT ? 0 : (unsigned)m->gi_slices;
    for (int p = 0; p < v.gpu.profiles; p++)
        if (strcmp(v.gpu.profile[p].name, name) == 0)
            info->profileId = rack_shown(v.gpu.profile[p].id);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t gpuInstance, unsigned int id, nvmlComputeInstance_t *out) {
    NEED(out);
    const struct instance *i = (const void *)gpuInstance.handle;
    struct view v;
    const struct mig *m;
    nvmlReturn_t r = behind(i, &v, &m, __func__);
    if (r != NVML_SUCCESS)
        return r;
    if (find(&v.gpu, i->gi, id) == NULL)
        return NVML_ERROR_NOT_FOUND;
    out->handle = (void *)instance(i->device, i->gi, id);
    return out->handle == NULL ? NVML_ERROR_MEMORY : NVML_SUCCESS;
}

nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t computeInstance, nvmlComputeInstanceInfo_t *info) {
    NEED(info);
    const struct instance *i = (const void *)computeInstance.handle;
    struct view v;
    const struct mig *m;
    nvmlReturn_t r = behind(i, &v, &m, __func__);
    if (r != NVML_SUCCESS)
        return r;
    // By number of slices: NVML_COMPUTE_INSTANCE_PROFILE_*_SLICE.
    static const unsigned profiles[] = {0, 0, 1, 2, 3, 0, 6, 4, 5};
    long long slices = m->ci_slices == ABSENT ? 0 : m->ci_slices;
    *info = (nvmlComputeInstanceInfo_t){.device = i->device, .id = (unsigned)i->ci,
                                        .profileId = slices >= 0 && slices < 9 ? profiles[slices] : 0};
    info->gpuInstance.handle = (void *)instance(i->device, i->gi, ABSENT);
    info->placement.size = (unsigned)slices;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlComputeInstanceGetInfo(nvmlComputeInstance_t computeInstance, nvmlComputeInstanceInfo_t *info) {
    return nvmlComputeInstanceGetInfo_v2(computeInstance, info);
}
