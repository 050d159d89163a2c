// The fake CUDA client and MPS server declare what they hold as files
// <rack>.d/<uuid>/<pid>: one line "key value" each of memory_mib, sm_util,
// mem_util, mps, server, gi, ci and, for MPS clients, server_pid. A file whose
// process or server is gone counts for nothing, so kill -9 frees memory.
#include "rack.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int running(long long pid) {
    if (pid <= 0)
        return 0;
    char path[64], state = 0;
    snprintf(path, sizeof path, "/proc/%lld/stat", pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return kill((int)pid, 0) == 0 || errno == EPERM;
    int got = fscanf(f, "%*d (%*[^)]) %c", &state);
    fclose(f);
    return got == 1 && state != 'Z' && state != 'X';
}

static int holder(const char *path, long long pid, struct process *out) {
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    *out = (struct process){.pid = pid, .memory_mib = 0, .sm_util = 0, .mem_util = 0, .gi = ABSENT, .ci = ABSENT};
    long long server_pid = 0, value;
    char key[32];
    while (fscanf(f, "%31s %lld", key, &value) == 2) {
        if (strcmp(key, "memory_mib") == 0)
            out->memory_mib = value;
        else if (strcmp(key, "sm_util") == 0)
            out->sm_util = value;
        else if (strcmp(key, "mem_util") == 0)
            out->mem_util = value;
        else if (strcmp(key, "mps") == 0)
            out->mps = value;
        else if (strcmp(key, "server") == 0)
            out->server = value;
        else if (strcmp(key, "gi") == 0)
            out->gi = value;
        else if (strcmp(key, "ci") == 0)
            out->ci = value;
        else if (strcmp(key, "server_pid") == 0)
            server_pid = value;
    }
    fclose(f);
    return running(pid) && (server_pid == 0 || running(server_pid));
}

int rack_holders(const struct gpu *g, struct process *out, int max) {
    const char *rack = getenv("ALIQUOT_RACK");
    char folder[4096], path[4608];
    snprintf(folder, sizeof folder, "%s.d/%s", rack != NULL ? rack : "", g->uuid);
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return 0;
    int n = 0;
    struct dirent *e;
    while (n < max && (e = readdir(dir)) != NULL) {
        char *end;
        long long pid = strtoll(e->d_name, &end, 10);
        if (*end != 0 || pid <= 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        n += holder(path, pid, &out[n]);
    }
    closedir(dir);
    return n;
}
