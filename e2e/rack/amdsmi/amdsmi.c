// A fake of AMD's system management library for machines without its GPUs. It
// answers like the real one of the release that ABI names, from a file.
#include "abi.h"
#include "rack.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { MAX_PARTITIONS = 8 };

// A processor handle points into this table, so that foreign ones are told apart.
static struct processor { int gpu, partition; } processors[MAX_GPUS][MAX_PARTITIONS];
static char sockets[MAX_GPUS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int started;
static struct { int open; uint64_t mask; uint32_t seen; } events[MAX_GPUS];

// noise stands for the lines that the real library prints on its error paths.
static void noise(const char *what) {
    printf("amdsmi: %s\n", what);
    fflush(stdout);
}

// find gives the GPU of a handle as it is now.
static int find(handle h, struct gpu *out, int *partition) {
    if (!started) return NOT_INIT;
    struct processor *p = h, *first = &processors[0][0];
    if (!out || p < first || p >= first + MAX_GPUS * MAX_PARTITIONS) return INVAL;
    struct rack r;
    if (rack_read(&r) || p->gpu >= r.count) {
        noise("the device is gone");
        return NOT_FOUND;
    }
    *out = r.gpu[p->gpu];
    if (out->lost) {
        noise("the device does not answer");
        return API_FAILED;
    }
    if (partition) *partition = p->partition;
    return OK;
}

EXPORT int amdsmi_init(uint64_t flags) {
    struct rack r;
    if (!(flags & 2)) return INVAL;
    if (rack_read(&r)) {
        fprintf(stderr, "Failed to open drm root directory\n");
        return DRIVER_NOT_LOADED;
    }
    if (r.init) return r.init;
    pthread_mutex_lock(&lock);
    for (int g = 0; g < MAX_GPUS; g++)
        for (int p = 0; p < MAX_PARTITIONS; p++) processors[g][p] = (struct processor){g, p};
    memset(events, 0, sizeof events);
    started = 1;
    pthread_mutex_unlock(&lock);
    noise("initialised");
    return OK;
}

EXPORT int amdsmi_shut_down(void) {
    if (!started) return NOT_INIT;
    started = 0;
    return OK;
}

EXPORT int amdsmi_get_lib_version(version_t *v) {
    struct rack r;
    if (!started) return NOT_INIT;
    if (!v || rack_read(&r)) return INVAL;
    uint32_t major = r.major ? r.major : ABI / 100, minor = r.major ? r.minor : ABI % 100;
#if ABI < 2500
    *v = (version_t){major, minor, 1, 0, "fake"};
#elif ABI < 2600
    *v = (version_t){major, major, minor, 0, "fake"};
#else
    *v = (version_t){major, minor, 0, 0, "fake"};
#endif
    return OK;
}

EXPORT int amdsmi_get_socket_handles(uint32_t *count, handle *out) {
    struct rack r;
    if (!started) return NOT_INIT;
    if (!count || rack_read(&r)) return INVAL;
    uint32_t n = (uint32_t)r.count;
    if (out) {
        if (n > *count) n = *count;
        for (uint32_t i = 0; i < n; i++) out[i] = &sockets[i];
    }
    *count = n;
    return OK;
}

EXPORT int amdsmi_get_processor_handles(handle socket, uint32_t *count, handle *out) {
    struct rack r;
    if (!started) return NOT_INIT;
    char *s = socket;
    if (!count || s < sockets || s >= sockets + MAX_GPUS || rack_read(&r)) return INVAL;
    int g = (int)(s - sockets);
    uint32_t n = g < r.count ? r.gpu[g].partitions : 0;
    if (n > MAX_PARTITIONS) n = MAX_PARTITIONS;
    if (out) {
        if (n > *count) n = *count;
        for (uint32_t i = 0; i < n; i++) out[i] = &processors[g][i];
    }
    *count = n;
    return OK;
}

EXPORT int amdsmi_get_processor_type(handle h, int32_t *type) {
    struct gpu g;
    int status = find(h, &g, NULL);
    if (status == OK) *type = 1;
    return status;
}

EXPORT int amdsmi_get_gpu_device_bdf(handle h, uint64_t *bdf) {
    struct gpu g;
    int partition = 0, status = find(h, &g, &partition);
    if (status == OK)
        *bdf = (uint64_t)g.domain << 16 | (uint64_t)g.bus << 8 | g.device << 3 | ((g.function + (unsigned)partition) & 7);
    return status;
}

EXPORT int amdsmi_get_gpu_asic_info(handle h, asic_info_t *info) {
    struct gpu g;
    int status = find(h, &g, NULL);
    if (status != OK) return status;
    memset(info, 0, sizeof *info);
    snprintf(info->market_name, sizeof info->market_name, "%.60s", g.name);
    info->vendor_id = 0x1002;
    snprintf(info->vendor_name, sizeof info->vendor_name, "Advanced Micro Devices, Inc. [AMD/ATI]");
    info->device_id = g.device_id;
#if ABI >= 2407
    info->num_of_compute_units = g.units;
    info->target_graphics_version = g.target;
#endif
    return OK;
}

EXPORT int amdsmi_get_gpu_vram_info(handle h, vram_info_t *info) {
    struct gpu g;
    int status = find(h, &g, NULL);
    if (status != OK) return status;
    memset(info, 0, sizeof *info);
    info->vram_size = g.memory_mib;
    return OK;
}

EXPORT int amdsmi_get_gpu_vram_usage(handle h, vram_usage_t *info) {
    struct gpu g;
    int status = find(h, &g, NULL);
    if (status == OK) *info = (vram_usage_t){.vram_total = (uint32_t)g.memory_mib, .vram_used = g.used_mib};
    return status;
}

EXPORT int amdsmi_get_gpu_activity(handle h, engine_usage_t *info) {
    struct gpu g;
    int status = find(h, &g, NULL);
    if (status == OK) *info = (engine_usage_t){.gfx_activity = g.busy, .umc_activity = g.busy_memory};
    return status;
}

EXPORT int amdsmi_get_power_info(handle h, power_info_t *info) {
    struct gpu g;
    int status = find(h, &g, NULL);
    if (status != OK) return status;
    memset(info, 0, sizeof *info);
    // Newer cards give the current draw, older ones the average.
    if (g.target >= 0x942) {
        info->current_socket_power = g.power;
        info->average_socket_power = 0xffff;
    } else {
        info->average_socket_power = g.power;
    }
#if ABI >= 2502
    info->socket_power = (uint64_t)g.power * 1000000; // in microwatts, for hosts of virtual machines
#endif
    return OK;
}

EXPORT int amdsmi_get_temp_metric(handle h, int32_t sensor, int32_t metric, int64_t *out) {
    struct gpu g;
    int status = find(h, &g, NULL);
    if (status != OK) return status;
    int64_t value[] = {g.edge, g.junction, g.memory_temperature};
    if (metric != 0 || sensor < 0 || sensor > 2 || value[sensor] == 0) return NOT_SUPPORTED;
    *out = value[sensor];
    return OK;
}

EXPORT int amdsmi_get_gpu_total_ecc_count(handle h, error_count_t *out) {
    struct gpu g;
    int status = find(h, &g, NULL);
    if (status == OK) *out = (error_count_t){.correctable_count = g.ce, .uncorrectable_count = g.ue};
    return status;
}

EXPORT int amdsmi_get_gpu_bad_page_info(handle h, uint32_t *count, retired_page_t *out) {
    struct gpu g;
    int status = find(h, &g, NULL);
    if (status != OK) return status;
    uint32_t n = g.bad_pages;
    if (out) {
        if (n > *count) return INSUFFICIENT_SIZE;
        for (uint32_t i = 0; i < n; i++) out[i] = (retired_page_t){(uint64_t)i << 12, 4096, 0};
    }
    *count = n;
    return OK;
}

#if ABI >= 2502
EXPORT int amdsmi_get_gpu_bad_page_threshold(handle h, uint32_t *out) {
    struct gpu g;
    int status = find(h, &g, NULL);
    if (status != OK) return status;
    if (!g.bad_page_limit) return NOT_SUPPORTED;
    *out = g.bad_page_limit;
    return OK;
}
#endif

EXPORT int amdsmi_init_gpu_event_notification(handle h) {
    struct gpu g;
    int status = find(h, &g, NULL);
    if (status != OK) return status;
    int i = ((struct processor *)h)->gpu;
    pthread_mutex_lock(&lock);
    events[i].open = 1;
    events[i].seen = g.sequence;
    pthread_mutex_unlock(&lock);
    return OK;
}

EXPORT int amdsmi_set_gpu_event_notification_mask(handle h, uint64_t mask) {
    struct gpu g;
    int status = find(h, &g, NULL);
    if (status == OK) events[((struct processor *)h)->gpu].mask = mask;
    return status;
}

EXPORT int amdsmi_stop_gpu_event_notification(handle h) {
    struct processor *p = h;
    if (!started) return NOT_INIT;
    events[p->gpu].open = 0;
    return OK;
}

static uint32_t collect(uint32_t room, event_t *out) {
    struct rack r;
    uint32_t n = 0;
    if (rack_read(&r)) return 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < r.count && n < room; i++) {
        struct gpu *g = &r.gpu[i];
        if (!events[i].open || g->sequence == events[i].seen) continue;
        events[i].seen = g->sequence;
        if (g->kind < 1 || g->kind > 63 || !(events[i].mask & (1ull << (g->kind - 1)))) continue;
        memset(&out[n], 0, sizeof out[n]);
        out[n].processor = &processors[i][0];
        out[n].event = g->kind;
        snprintf(out[n].message, sizeof out[n].message, "event %u", g->kind);
        n++;
    }
    pthread_mutex_unlock(&lock);
    return n;
}

EXPORT int amdsmi_get_gpu_event_notification(int timeout_ms, uint32_t *count, event_t *out) {
    if (!started) return NOT_INIT;
    if (!count || !out) return INVAL;
    for (;; timeout_ms -= 5) {
        uint32_t n = collect(*count, out);
        if (n || timeout_ms <= 0 || !started) {
            *count = n;
            return n ? OK : NO_DATA;
        }
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
}
