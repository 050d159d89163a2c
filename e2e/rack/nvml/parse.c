// The rack file's parser: sections, "key = value" lines, '#' comments. Unknown
// keys are errors: a typing mistake must not pass for an absent value.
#include "rack.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct key {
    const char *name;
    enum { TEXT, NUMBER, YESNO } kind;
    size_t at, size;
};

#define G(kind, field) {#field, kind, offsetof(struct gpu, field), sizeof(((struct gpu *)0)->field)}
#define M(kind, field) {#field, kind, offsetof(struct mig, field), sizeof(((struct mig *)0)->field)}
#define P(field) {#field, NUMBER, offsetof(struct process, field), sizeof(((struct process *)0)->field)}

static const struct key gpu_keys[] = {
    G(TEXT, uuid), G(TEXT, name), G(TEXT, pci), G(TEXT, serial), G(TEXT, vbios), G(TEXT, brand), G(TEXT, board_part),
    G(TEXT, nvlink_to),
    G(NUMBER, pci_device), G(NUMBER, pci_subsystem), G(NUMBER, minor), G(NUMBER, numa), G(NUMBER, sms),
    G(NUMBER, cores_per_sm), G(NUMBER, memory_mib), G(NUMBER, reserved_mib), G(NUMBER, used_mib), G(NUMBER, bar1_mib), G(NUMBER, bus_bits),
    G(NUMBER, gpu_util), G(NUMBER, mem_util), G(NUMBER, encoder_util), G(NUMBER, decoder_util), G(NUMBER, power_mw),
    G(NUMBER, power_limit_mw), G(NUMBER, power_max_mw), G(NUMBER, power_min_mw), G(NUMBER, energy_mj), G(NUMBER, temperature),
    G(NUMBER, temperature_memory), G(NUMBER, temperature_shutdown), G(NUMBER, temperature_slowdown), G(NUMBER, temperature_max),
    G(NUMBER, sm_clock), G(NUMBER, mem_clock), G(NUMBER, max_sm_clock), G(NUMBER, max_mem_clock), G(NUMBER, clock_reasons),
    G(NUMBER, pstate), G(NUMBER, fan), G(NUMBER, pcie_gen), G(NUMBER, pcie_width), G(NUMBER, pcie_max_gen), G(NUMBER, pcie_max_width),
    G(NUMBER, pcie_replays), G(YESNO, ecc), G(NUMBER, ecc_volatile_ce), G(NUMBER, ecc_volatile_ue), G(NUMBER, ecc_aggregate_ce),
    G(NUMBER, ecc_aggregate_ue), G(YESNO, sram_threshold_exceeded), G(NUMBER, remapped_ce), G(NUMBER, remapped_ue),
    G(YESNO, remap_pending), G(YESNO, remap_failure), G(NUMBER, retired_sbe), G(NUMBER, retired_dbe), G(YESNO, retired_pending),
    G(YESNO, mig_mode), G(YESNO, mig_pending), G(NUMBER, max_mig), G(YESNO, persistence), G(NUMBER, compute_mode), G(NUMBER, nvlinks),
    G(NUMBER, pcie_switch), G(NUMBER, recovery_action), G(NUMBER, event_types), G(YESNO, process_utilization),
};

static const struct key mig_keys[] = {
    M(TEXT, uuid), M(TEXT, name), M(TEXT, profile), M(NUMBER, gi), M(NUMBER, ci), M(NUMBER, sms), M(NUMBER, memory_mib),
    M(NUMBER, used_mib), M(NUMBER, gi_slices), M(NUMBER, ci_slices), M(NUMBER, copy_engines), M(NUMBER, decoders),
};

static const struct key process_keys[] = {P(pid), P(memory_mib), P(sm_util), P(mem_util), P(mps), P(server), P(gi), P(ci)};

static void blank(void *base, const struct key *keys, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (keys[i].kind != TEXT)
            *(long long *)((char *)base + keys[i].at) = ABSENT;
}

static int number(const char *s, long long *out) {
    char *end;
    errno = 0;
    *out = strtoll(s, &end, 0);
    return *s != 0 && *end == 0 && errno == 0;
}

// set stores one value; 0 when the key is unknown or the value does not fit it.
static int set(void *base, const struct key *keys, size_t n, const char *key, const char *value) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(keys[i].name, key) != 0)
            continue;
        char *at = (char *)base + keys[i].at;
        if (keys[i].kind == TEXT) {
            snprintf(at, keys[i].size, "%s", value);
            return 1;
        }
        if (strcmp(value, "N/A") == 0) {
            *(long long *)at = ABSENT;
            return 1;
        }
        if (keys[i].kind == YESNO && (strcmp(value, "yes") == 0 || strcmp(value, "no") == 0)) {
            *(long long *)at = value[0] == 'y';
            return 1;
        }
        return number(value, (long long *)at);
    }
    return 0;
}

// event reads "<seq> <kind> [<data>] [gi=<n> ci=<n>]".
static int event(struct gpu *g, char *text) {
    static const struct {
        const char *name;
        unsigned long long type;
    } kinds[] = {
        {"xid", nvmlEventTypeXidCriticalError}, {"sbe", nvmlEventTypeSingleBitEccError}, {"dbe", nvmlEventTypeDoubleBitEccError},
        {"pstate", nvmlEventTypePState}, {"clock", nvmlEventTypeClock}, {"power", nvmlEventTypePowerSourceChange},
        {"mig", nvmlEventMigConfigChange},
    };
    struct event e = {.gi = 0xFFFFFFFF, .ci = 0xFFFFFFFF};
    char *save = NULL, *word = strtok_r(text, " \t", &save);
    long long n;
    if (word == NULL || !number(word, &n))
        return 0;
    e.seq = (unsigned long long)n;
    if ((word = strtok_r(NULL, " \t", &save)) == NULL)
        return 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].name, word) == 0)
            e.type = kinds[i].type;
    if (e.type == 0)
        return 0;
    while ((word = strtok_r(NULL, " \t", &save)) != NULL) {
        if (sscanf(word, "gi=%u", &e.gi) == 1 || sscanf(word, "ci=%u", &e.ci) == 1)
            continue;
        if (!number(word, &n))
            return 0;
        e.data = (unsigned long long)n;
    }
    if (g->events == MAX_EVENTS) { // the oldest gives way
        memmove(g->event, g->event + 1, sizeof g->event - sizeof *g->event);
        g->events--;
    }
    g->event[g->events++] = e;
    return 1;
}

// fail reads "<call> <return code>".
static int fail(struct fail *fails, int *n, const char *text) {
    int code;
    if (*n == MAX_FAILS || sscanf(text, "%63s %d", fails[*n].call, &code) != 2)
        return 0;
    fails[(*n)++].code = (nvmlReturn_t)code;
    return 1;
}

// profile reads "<NVML profile number> <slices> <instances> <SMs> <MB> <name>".
static int profile(struct gpu *g, const char *text) {
    if (g->profiles == MAX_PROFILES)
        return 0;
    struct profile *p = &g->profile[g->profiles++];
    return sscanf(text, "%u %u %u %u %u %31s", &p->id, &p->slices, &p->count, &p->sms, &p->memory_mb, p->name) == 6;
}

static int flag(const char *value, int *out) {
    *out = strcmp(value, "yes") == 0;
    return *out || strcmp(value, "no") == 0;
}

static int driver_value(struct driver *d, const char *key, const char *value) {
    if (strcmp(key, "version") == 0)
        snprintf(d->version, sizeof d->version, "%s", value);
    else if (strcmp(key, "cuda") == 0)
        snprintf(d->cuda, sizeof d->cuda, "%s", value);
    else if (strcmp(key, "nvml") == 0)
        snprintf(d->nvml, sizeof d->nvml, "%s", value);
    else if (strcmp(key, "loaded") == 0)
        return flag(value, &d->loaded);
    else if (strcmp(key, "mps_starting") == 0 || strcmp(key, "mps_quit_answers") == 0)
        return 1; // for the MPS server
    else if (strcmp(key, "fail") == 0)
        return fail(d->fail, &d->fails, value);
    else
        return 0;
    return 1;
}

static int gpu_value(struct gpu *g, const char *key, char *value) {
    if (strcmp(key, "absent") == 0)
        return flag(value, &g->absent);
    if (strcmp(key, "lost") == 0)
        return flag(value, &g->lost);
    if (strcmp(key, "compute") == 0)
        return sscanf(value, "%d.%d", &g->major, &g->minor_cc) == 2;
    if (strcmp(key, "cpus") == 0 || strcmp(key, "sm_step") == 0)
        return 1; // for the root tree, for the MPS server
    if (strcmp(key, "event") == 0)
        return event(g, value);
    if (strcmp(key, "fail") == 0)
        return fail(g->fail, &g->fails, value);
    if (strcmp(key, "profile") == 0)
        return profile(g, value);
    if (!set(g, gpu_keys, sizeof gpu_keys / sizeof *gpu_keys, key, value))
        return 0;
    return strcmp(key, "pci") != 0 || sscanf(value, "%x:%x:%x.0", &g->domain, &g->bus, &g->device) == 3;
}

static char *trim(char *s) {
    while (isspace((unsigned char)*s))
        s++;
    char *end = s + strlen(s);
    while (end > s && isspace((unsigned char)end[-1]))
        *--end = 0;
    return s;
}

// section opens the part of out that following values go to; 0 when unknown.
static int section(struct rack *out, const char *name) {
    struct gpu *g = out->gpus ? &out->gpu[out->gpus - 1] : NULL;
    if (strcmp(name, "[driver]") == 0)
        return 'd';
    if (strcmp(name, "[gpu]") == 0 && out->gpus < MAX_GPUS) {
        g = &out->gpu[out->gpus++];
        memset(g, 0, sizeof *g);
        blank(g, gpu_keys, sizeof gpu_keys / sizeof *gpu_keys);
        return 'g';
    }
    if (strcmp(name, "[mig]") == 0 && g != NULL && g->migs < MAX_MIG) {
        blank(&g->mig[g->migs++], mig_keys, sizeof mig_keys / sizeof *mig_keys);
        return 'm';
    }
    if (strcmp(name, "[process]") == 0 && g != NULL && g->processes < MAX_PROCESSES) {
        blank(&g->process[g->processes++], process_keys, sizeof process_keys / sizeof *process_keys);
        return 'p';
    }
    return 0;
}

static int value(struct rack *out, int in, const char *key, char *text) {
    struct gpu *g = out->gpus ? &out->gpu[out->gpus - 1] : NULL;
    switch (in) {
    case 'd':
        return driver_value(&out->driver, key, text);
    case 'g':
        return gpu_value(g, key, text);
    case 'm':
        return set(&g->mig[g->migs - 1], mig_keys, sizeof mig_keys / sizeof *mig_keys, key, text);
    case 'p':
        return set(&g->process[g->processes - 1], process_keys, sizeof process_keys / sizeof *process_keys, key, text);
    }
    return 0;
}

// drop_absent removes the GPUs that fell off and numbers the rest.
static void drop_absent(struct rack *r) {
    int kept = 0;
    for (int i = 0; i < r->gpus; i++) {
        if (r->gpu[i].absent)
            continue;
        if (kept != i)
            r->gpu[kept] = r->gpu[i];
        r->gpu[kept].index = (unsigned)kept;
        kept++;
    }
    r->gpus = kept;
}

int rack_parse(const char *path, struct rack *out, char *why, size_t n) {
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        snprintf(why, n, "%s: %s", path, strerror(errno));
        return 0;
    }
    memset(out, 0, sizeof *out);
    out->driver.loaded = 1;
    char line[512], whole[512];
    int in = 0, ok = 1;
    for (int number = 1; ok && fgets(line, sizeof line, f) != NULL; number++) {
        char *hash = strchr(line, '#');
        if (hash != NULL)
            *hash = 0;
        char *s = trim(line), *eq = strchr(s, '=');
        if (*s == 0)
            continue;
        strcpy(whole, s);
        if (*s == '[') {
            ok = (in = section(out, s)) != 0;
        } else if (eq == NULL) {
            ok = 0;
        } else {
            *eq = 0;
            ok = value(out, in, trim(s), trim(eq + 1));
        }
        if (!ok)
            snprintf(why, n, "%s:%d: not understood: %s", path, number, whole);
    }
    fclose(f);
    if (ok)
        drop_absent(out);
    return ok;
}
