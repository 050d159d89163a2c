// Holds the rack in memory, re-reads it when the file changes, and maps NVML
// handles to GPUs.
#include "rack.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

// Handles live as long as the process, as NVML users expect of them; a GPU that
// comes back after it fell off has its old handle.
struct nvmlDevice_st {
    char uuid[96];
    struct nvmlDevice_st *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct rack *now;
static struct stat seen;
static int users;
static struct nvmlDevice_st *handles;

static int same(const struct stat *a, const struct stat *b) {
    return a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

// refresh re-reads a changed file. A file that cannot be read or understood is
// named on standard error once and the last good rack stays.
static int refresh(void) {
    const char *path = getenv("ALIQUOT_RACK");
    struct stat st;
    if (path == NULL || *path == 0) {
        fprintf(stderr, "fake NVML: ALIQUOT_RACK names no rack file\n");
        return 0;
    }
    if (stat(path, &st) != 0)
        return now != NULL;
    if (now != NULL && same(&st, &seen))
        return 1;
    seen = st;
    char why[768];
    struct rack *fresh = malloc(sizeof *fresh);
    if (fresh == NULL || !rack_parse(path, fresh, why, sizeof why)) {
        fprintf(stderr, "fake NVML: %s\n", fresh == NULL ? "out of memory" : why);
        free(fresh);
        return now != NULL;
    }
    free(now);
    now = fresh;
    return 1;
}

static nvmlReturn_t failing(const struct fail *fails, int n, const char *call) {
    for (int i = 0; i < n; i++)
        if (strcmp(fails[i].call, call) == 0 || strcmp(fails[i].call, "*") == 0)
            return fails[i].code;
    return NVML_SUCCESS;
}

// A call that `fail` gives the code -1 hangs, as calls into a driver in trouble do,
// until the rack says otherwise. Calls about other GPUs go on.
static const nvmlReturn_t HANGS = (nvmlReturn_t)-1;

static void wait_a_little(void) { nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); }

// ready is called with the lock held, before anything is looked up.
static nvmlReturn_t ready(const char *call) {
    if (users == 0)
        return NVML_ERROR_UNINITIALIZED;
    if (!refresh())
        return NVML_ERROR_UNKNOWN;
    if (!now->driver.loaded)
        return NVML_ERROR_DRIVER_NOT_LOADED;
    return failing(now->driver.fail, now->driver.fails, call);
}

nvmlReturn_t rack_init(const char *call) {
    pthread_mutex_lock(&lock);
    nvmlReturn_t r = NVML_ERROR_DRIVER_NOT_LOADED;
    if (refresh() && now->driver.loaded)
        r = failing(now->driver.fail, now->driver.fails, call);
    if (r == NVML_SUCCESS)
        users++;
    pthread_mutex_unlock(&lock);
    return r;
}

nvmlReturn_t rack_shutdown(void) {
    pthread_mutex_lock(&lock);
    nvmlReturn_t r = users > 0 ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
    if (users > 0)
        users--;
    pthread_mutex_unlock(&lock);
    return r;
}

nvmlReturn_t rack_driver(struct driver *out, const char *call) {
    pthread_mutex_lock(&lock);
    nvmlReturn_t r = ready(call);
    if (r == NVML_SUCCESS)
        *out = now->driver;
    pthread_mutex_unlock(&lock);
    return r;
}

nvmlReturn_t rack_count(unsigned *out, const char *call) {
    pthread_mutex_lock(&lock);
    nvmlReturn_t r = ready(call);
    if (r == NVML_SUCCESS)
        *out = (unsigned)now->gpus;
    pthread_mutex_unlock(&lock);
    return r;
}

static nvmlDevice_t handle(const char *uuid) {
    struct nvmlDevice_st *h = handles;
    while (h != NULL && strcmp(h->uuid, uuid) != 0)
        h = h->next;
    if (h == NULL && (h = calloc(1, sizeof *h)) != NULL) {
        snprintf(h->uuid, sizeof h->uuid, "%s", uuid);
        h->next = handles;
        handles = h;
    }
    return (nvmlDevice_t){h};
}

nvmlReturn_t rack_handle(const char *uuid, nvmlDevice_t *out) {
    pthread_mutex_lock(&lock);
    *out = handle(uuid);
    pthread_mutex_unlock(&lock);
    return out->handle != NULL ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

static nvmlReturn_t alive(const struct gpu *g, const char *call) {
    return g->lost ? NVML_ERROR_GPU_IS_LOST : failing(g->fail, g->fails, call);
}

static nvmlReturn_t pick_once(int (*match)(const struct gpu *, const struct mig *, const void *), const void *key, nvmlDevice_t *out,
                              const char *call) {
    pthread_mutex_lock(&lock);
    nvmlReturn_t r = ready(call);
    if (r == NVML_SUCCESS) {
        r = NVML_ERROR_NOT_FOUND;
        for (int i = 0; i < now->gpus && r == NVML_ERROR_NOT_FOUND; i++) {
            struct gpu *g = &now->gpu[i];
            const char *uuid = match(g, NULL, key) ? g->uuid : NULL;
            for (int m = 0; m < g->migs && uuid == NULL; m++)
                if (match(g, &g->mig[m], key))
                    uuid = g->mig[m].uuid;
            if (uuid == NULL)
                continue;
            r = alive(g, call);
            if (r == NVML_SUCCESS)
                *out = handle(uuid);
        }
    }
    pthread_mutex_unlock(&lock);
    return r;
}

nvmlReturn_t rack_pick(int (*match)(const struct gpu *, const struct mig *, const void *), const void *key, nvmlDevice_t *out,
                       const char *call) {
    nvmlReturn_t r;
    while ((r = pick_once(match, key, out, call)) == HANGS)
        wait_a_little();
    return r;
}

static nvmlReturn_t at_once(unsigned index, struct gpu *out, const char *call) {
    pthread_mutex_lock(&lock);
    nvmlReturn_t r = ready(call);
    if (r == NVML_SUCCESS && index >= (unsigned)now->gpus)
        r = NVML_ERROR_INVALID_ARGUMENT;
    if (r == NVML_SUCCESS) {
        *out = now->gpu[index];
        r = alive(out, call);
    }
    pthread_mutex_unlock(&lock);
    return r;
}

nvmlReturn_t rack_at(unsigned index, struct gpu *out, const char *call) {
    nvmlReturn_t r;
    while ((r = at_once(index, out, call)) == HANGS)
        wait_a_little();
    return r;
}

nvmlReturn_t rack_events(const char *uuid, struct gpu *out) {
    pthread_mutex_lock(&lock);
    nvmlReturn_t r = ready("");
    if (r == NVML_SUCCESS) {
        r = NVML_ERROR_GPU_IS_LOST;
        for (int i = 0; i < now->gpus; i++) {
            if (strcmp(now->gpu[i].uuid, uuid) != 0)
                continue;
            *out = now->gpu[i];
            r = NVML_SUCCESS;
        }
    }
    pthread_mutex_unlock(&lock);
    return r;
}

// find fills out with the handle's GPU or MIG device.
static nvmlReturn_t find(const char *uuid, struct view *out) {
    for (int i = 0; i < now->gpus; i++) {
        const struct gpu *g = &now->gpu[i];
        int is_gpu = strcmp(g->uuid, uuid) == 0;
        for (int m = 0; m < g->migs && !is_gpu; m++) {
            if (strcmp(g->mig[m].uuid, uuid) != 0)
                continue;
            out->mig = g->mig[m];
            out->is_mig = 1;
        }
        if (is_gpu || out->is_mig) {
            out->gpu = *g;
            return NVML_SUCCESS;
        }
    }
    // A MIG device that was destroyed is unknown; a GPU that went is lost.
    return strncmp(uuid, "MIG-", 4) == 0 ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_GPU_IS_LOST;
}

static nvmlReturn_t look_once(nvmlDevice_t d, struct view *out, const char *call) {
    pthread_mutex_lock(&lock);
    nvmlReturn_t r = ready(call);
    if (r == NVML_SUCCESS) {
        struct nvmlDevice_st *h = handles;
        while (h != NULL && h != d.handle)
            h = h->next;
        out->is_mig = 0;
        r = h == NULL ? NVML_ERROR_INVALID_ARGUMENT : find(h->uuid, out);
        if (r == NVML_SUCCESS)
            r = alive(&out->gpu, call);
    }
    pthread_mutex_unlock(&lock);
    return r;
}

nvmlReturn_t rack_look(nvmlDevice_t d, struct view *out, const char *call) {
    nvmlReturn_t r;
    while ((r = look_once(d, out, call)) == HANGS)
        wait_a_little();
    return r;
}

nvmlReturn_t rack_text(char *out, unsigned length, const char *value) {
    NEED(out);
    if (*value == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    if (strlen(value) >= length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(out, value);
    return NVML_SUCCESS;
}
