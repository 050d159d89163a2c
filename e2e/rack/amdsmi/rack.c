#include "rack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void set(struct rack *r, struct gpu *g, const char *key, const char *value) {
    unsigned long long n = strtoull(value, NULL, 0);
    if (!g) {
        if (!strcmp(key, "init")) r->init = (int)n;
        else if (!strcmp(key, "release")) sscanf(value, "%u.%u", &r->major, &r->minor);
        return;
    }
    if (!strcmp(key, "name")) snprintf(g->name, sizeof g->name, "%s", value);
    else if (!strcmp(key, "device_id")) g->device_id = n;
    else if (!strcmp(key, "units")) g->units = (uint32_t)n;
    else if (!strcmp(key, "target")) g->target = (uint32_t)n;
    else if (!strcmp(key, "memory_mib")) g->memory_mib = n;
    else if (!strcmp(key, "used_mib")) g->used_mib = (uint32_t)n;
    else if (!strcmp(key, "busy")) g->busy = (uint32_t)n;
    else if (!strcmp(key, "busy_memory")) g->busy_memory = (uint32_t)n;
    else if (!strcmp(key, "power")) g->power = (uint32_t)n;
    else if (!strcmp(key, "edge")) g->edge = (int64_t)n;
    else if (!strcmp(key, "junction")) g->junction = (int64_t)n;
    else if (!strcmp(key, "memory_temperature")) g->memory_temperature = (int64_t)n;
    else if (!strcmp(key, "ue")) g->ue = n;
    else if (!strcmp(key, "ce")) g->ce = n;
    else if (!strcmp(key, "bad_pages")) g->bad_pages = (uint32_t)n;
    else if (!strcmp(key, "bad_page_limit")) g->bad_page_limit = (uint32_t)n;
    else if (!strcmp(key, "partitions")) g->partitions = (uint32_t)n;
    else if (!strcmp(key, "event")) sscanf(value, "%u %u", &g->sequence, &g->kind);
    else if (!strcmp(key, "lost")) g->lost = (int)n;
}

int rack_read(struct rack *r) {
    memset(r, 0, sizeof *r);
    const char *path = getenv("ALIQUOT_RACK_AMD");
    FILE *f = path ? fopen(path, "re") : NULL;
    if (!f) return -1;
    char line[512];
    struct gpu *g = NULL;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\r\n")] = 0;
        if (line[0] == '[') {
            g = NULL;
            unsigned domain, bus, device, function;
            if (r->count < MAX_GPUS && sscanf(line, "[%x:%x:%x.%x]", &domain, &bus, &device, &function) == 4) {
                g = &r->gpu[r->count++];
                *g = (struct gpu){.domain = domain, .bus = bus, .device = device, .function = function, .partitions = 1};
            }
            continue;
        }
        char *equals = strstr(line, " = ");
        if (equals) {
            *equals = 0;
            set(r, g, line, equals + 3);
        }
    }
    fclose(f);
    return 0;
}
