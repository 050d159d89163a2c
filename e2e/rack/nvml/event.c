// Event sets. A test raises an event by adding a line with a higher sequence
// number to the GPU in the rack file; every set delivers what was added after
// its registration, once.
#include "rack.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LOOK_EVERY_MS = 20 };

struct watch {
    char uuid[96];
    nvmlDevice_t device;
    unsigned long long types, seq;
};

struct nvmlEventSet_st {
    pthread_mutex_t lock;
    int watches;
    struct watch watch[MAX_GPUS];
};

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
    struct driver d;
    NEED(set);
    nvmlReturn_t r = rack_driver(&d, __func__);
    if (r != NVML_SUCCESS)
        return r;
    set->handle = calloc(1, sizeof *set->handle);
    if (set->handle == NULL)
        return NVML_ERROR_MEMORY;
    pthread_mutex_init(&set->handle->lock, NULL);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    NEED(set.handle);
    free(set.handle);
    return NVML_SUCCESS;
}

// supported is every event of the data-centre GPUs of driver 5xx unless the rack
// says otherwise with event_types.
static unsigned long long supported(const struct gpu *g) {
    if (g->event_types != ABSENT)
        return (unsigned long long)g->event_types;
    unsigned long long types = nvmlEventTypeXidCriticalError | nvmlEventTypePState | nvmlEventTypeClock;
    if (g->ecc == 1)
        types |= nvmlEventTypeSingleBitEccError | nvmlEventTypeDoubleBitEccError;
    if (g->mig_mode != ABSENT)
        types |= nvmlEventMigConfigChange;
    return types;
}

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *eventTypes) {
    NEED(eventTypes);
    PHYSICAL(device, v);
    *eventTypes = supported(&v.gpu);
    return NVML_SUCCESS;
}

static unsigned long long newest(const struct gpu *g) {
    unsigned long long seq = 0;
    for (int i = 0; i < g->events; i++)
        if (g->event[i].seq > seq)
            seq = g->event[i].seq;
    return seq;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long eventTypes, nvmlEventSet_t set) {
    NEED(set.handle);
    PHYSICAL(device, v);
    if (eventTypes & ~supported(&v.gpu))
        return NVML_ERROR_NOT_SUPPORTED;
    struct nvmlEventSet_st *s = set.handle;
    nvmlReturn_t r = NVML_SUCCESS;
    pthread_mutex_lock(&s->lock);
    int i = 0;
    while (i < s->watches && strcmp(s->watch[i].uuid, v.gpu.uuid) != 0)
        i++;
    if (i == MAX_GPUS) {
        r = NVML_ERROR_INSUFFICIENT_RESOURCES;
    } else if (i == s->watches) {
        struct watch *w = &s->watch[s->watches++];
        *w = (struct watch){.device = device, .types = eventTypes, .seq = newest(&v.gpu)};
        snprintf(w->uuid, sizeof w->uuid, "%s", v.gpu.uuid);
    } else {
        s->watch[i].types |= eventTypes;
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

// take finds the oldest undelivered event of one watched GPU.
static int take(struct watch *w, const struct gpu *g, nvmlEventData_t *data) {
    const struct event *best = NULL;
    for (int i = 0; i < g->events; i++) {
        const struct event *e = &g->event[i];
        if (e->seq > w->seq && (e->type & w->types) && (best == NULL || e->seq < best->seq))
            best = e;
    }
    if (best == NULL)
        return 0;
    w->seq = best->seq;
    *data = (nvmlEventData_t){.device = w->device, .eventType = best->type, .eventData = best->data, .gpuInstanceId = best->gi,
                              .computeInstanceId = best->ci};
    return 1;
}

// poll returns NVML_ERROR_TIMEOUT when nothing is there to tell.
static nvmlReturn_t poll_set(struct nvmlEventSet_st *s, nvmlEventData_t *data) {
    nvmlReturn_t r = NVML_ERROR_TIMEOUT;
    struct gpu *g = malloc(sizeof *g);
    if (g == NULL)
        return NVML_ERROR_MEMORY;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < s->watches && r != NVML_SUCCESS; i++) {
        nvmlReturn_t one = rack_events(s->watch[i].uuid, g);
        if (one == NVML_SUCCESS && take(&s->watch[i], g, data))
            r = NVML_SUCCESS;
        else if (one != NVML_SUCCESS)
            r = one;
        else if (g->lost)
            r = NVML_ERROR_GPU_IS_LOST;
    }
    pthread_mutex_unlock(&s->lock);
    free(g);
    return r;
}

static long long milliseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeoutms) {
    struct driver d;
    NEED(set.handle);
    NEED(data);
    nvmlReturn_t r = rack_driver(&d, __func__);
    if (r != NVML_SUCCESS)
        return r;
    long long end = milliseconds() + timeoutms;
    for (;;) {
        r = poll_set(set.handle, data);
        long long left = end - milliseconds();
        if (r != NVML_ERROR_TIMEOUT || left <= 0)
            return r;
        if (left > LOOK_EVERY_MS)
            left = LOOK_EVERY_MS;
        nanosleep(&(struct timespec){.tv_nsec = left * 1000000}, NULL);
    }
}

nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeoutms) {
    return nvmlEventSetWait_v2(set, data, timeoutms);
}
