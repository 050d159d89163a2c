// The rack file as the fake NVML library sees it. Format: ../README.md.
//
// Every call works on a copy of one GPU, taken under the lock of rack.c, so that
// no caller ever sees half of an edit.
#ifndef RACK_H
#define RACK_H

#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include "nvml.h"

#include <limits.h>
#include <stddef.h>

// ABSENT marks a value that the rack file does not give or gives as N/A; the
// call that would return it says NVML_ERROR_NOT_SUPPORTED.
#define ABSENT LLONG_MIN

enum { MAX_GPUS = 32, MAX_MIG = 16, MAX_EVENTS = 64, MAX_PROCESSES = 32, MAX_FAILS = 8, MAX_PROFILES = 16, MAX_HOLDERS = 128 };

struct event {
    unsigned long long seq, type, data;
    unsigned gi, ci; // 0xFFFFFFFF outside MIG
};

struct process {
    long long pid, memory_mib, sm_util, mem_util, mps, server, gi, ci;
};

struct mig {
    char uuid[96], name[96], profile[32];
    long long gi, ci, sms, memory_mib, used_mib, gi_slices, ci_slices, copy_engines, decoders;
};

struct fail {
    char call[64];
    nvmlReturn_t code;
};

// profile is one GPU instance profile that the GPU offers.
struct profile {
    unsigned id, slices, count, sms, memory_mb;
    char name[32];
};

struct gpu {
    char uuid[96], name[96], pci[32], serial[32], vbios[32], brand[16], board_part[32];
    char nvlink_to[512];
    unsigned index;
    int absent, lost;
    int major, minor_cc;
    unsigned domain, bus, device;
    long long pci_device, pci_subsystem, minor, numa, sms, cores_per_sm;
    long long memory_mib, reserved_mib, used_mib, bar1_mib, bus_bits;
    long long gpu_util, mem_util, encoder_util, decoder_util;
    long long power_mw, power_limit_mw, power_max_mw, power_min_mw, energy_mj;
    long long temperature, temperature_memory, temperature_shutdown, temperature_slowdown, temperature_max;
    long long sm_clock, mem_clock, max_sm_clock, max_mem_clock, clock_reasons, pstate, fan;
    long long pcie_gen, pcie_width, pcie_max_gen, pcie_max_width, pcie_replays;
    long long ecc, ecc_volatile_ce, ecc_volatile_ue, ecc_aggregate_ce, ecc_aggregate_ue, sram_threshold_exceeded;
    long long remapped_ce, remapped_ue, remap_pending, remap_failure;
    long long retired_sbe, retired_dbe, retired_pending;
    long long mig_mode, mig_pending, max_mig, persistence, compute_mode;
    long long nvlinks, pcie_switch, recovery_action, event_types;
    long long process_utilization;
    int migs, events, processes, fails, profiles;
    struct mig mig[MAX_MIG];
    struct event event[MAX_EVENTS];
    struct process process[MAX_PROCESSES];
    struct fail fail[MAX_FAILS];
    struct profile profile[MAX_PROFILES];
};

// view is what one call works on: a GPU and, for a MIG handle, its MIG device.
struct view {
    struct gpu gpu;
    struct mig mig;
    int is_mig;
};

struct driver {
    char version[32], cuda[16], nvml[32];
    int loaded, fails;
    struct fail fail[MAX_FAILS];
};

struct rack {
    struct driver driver;
    int gpus;
    struct gpu gpu[MAX_GPUS];
};

// rack.c
nvmlReturn_t rack_init(const char *call);
nvmlReturn_t rack_shutdown(void);
nvmlReturn_t rack_driver(struct driver *out, const char *call);
nvmlReturn_t rack_count(unsigned *out, const char *call);
// rack_pick finds a GPU (or, with_mig, a MIG device) for which match is true.
nvmlReturn_t rack_pick(int (*match)(const struct gpu *, const struct mig *, const void *), const void *key, nvmlDevice_t *out,
                       const char *call);
// rack_at copies the GPU at one index.
nvmlReturn_t rack_at(unsigned index, struct gpu *out, const char *call);
nvmlReturn_t rack_handle(const char *uuid, nvmlDevice_t *out);
// rack_look copies what the handle stands for. It fails as the real library
// does: uninitialised, no such handle, GPU lost, or what `fail` asks for.
nvmlReturn_t rack_look(nvmlDevice_t d, struct view *out, const char *call);
// rack_events copies the GPU even when it is lost: its last words still count.
nvmlReturn_t rack_events(const char *uuid, struct gpu *out);

// mig.c: the profile number that nvidia-smi shows.
unsigned rack_shown(unsigned profile);

// parse.c
int rack_parse(const char *path, struct rack *out, char *why, size_t n);

// holders.c: the processes that the fake CUDA client and MPS server declared.
int rack_holders(const struct gpu *g, struct process *out, int max);

#define LOOK(d, v)                                                                                                             \
    struct view v;                                                                                                             \
    do {                                                                                                                       \
        nvmlReturn_t look_ = rack_look(d, &v, __func__);                                                                       \
        if (look_ != NVML_SUCCESS)                                                                                             \
            return look_;                                                                                                      \
    } while (0)

// PHYSICAL is LOOK for calls that the real library refuses on MIG devices.
#define PHYSICAL(d, v)                                                                                                         \
    LOOK(d, v);                                                                                                                \
    if (v.is_mig)                                                                                                              \
    return NVML_ERROR_NOT_SUPPORTED

#define NEED(p)                                                                                                                \
    if ((p) == NULL)                                                                                                           \
    return NVML_ERROR_INVALID_ARGUMENT

// PRESENT refuses what the rack file does not give.
#define PRESENT(value)                                                                                                         \
    if ((value) == ABSENT)                                                                                                     \
    return NVML_ERROR_NOT_SUPPORTED

nvmlReturn_t rack_text(char *out, unsigned length, const char *value);

#endif
