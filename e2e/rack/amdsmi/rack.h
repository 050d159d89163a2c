// What the fake library knows of the GPUs: the readings file that
// ALIQUOT_RACK_AMD names, read again at every call. Format: README.md.
#ifndef RACK_H
#define RACK_H

#include <stdint.h>

enum { MAX_GPUS = 64 };

struct gpu {
    unsigned domain, bus, device, function;
    char name[256];
    uint64_t device_id;
    uint32_t units, target;
    uint64_t memory_mib;
    uint32_t used_mib, busy, busy_memory, power;
    int64_t edge, junction, memory_temperature;
    uint64_t ue, ce;
    uint32_t bad_pages, bad_page_limit;
    uint32_t partitions;
    // event is "<sequence> <kind>" of the newest event.
    uint32_t sequence, kind;
    int lost;
};

struct rack {
    int init; // status of amdsmi_init
    uint32_t major, minor; // 0: as built
    int count;
    struct gpu gpu[MAX_GPUS];
};

// rack_read fills r; it returns 0, or -1 when the file cannot be read.
int rack_read(struct rack *r);

#endif
