// The records of AMD SMI as six releases of its header lay them out. ABI is
// 100 * major + minor: 2405, 2406, 2407, 2504, 2602 or 2605. Records that the
// device plugin does not ask for are left out. The assertions hold the sizes
// that the real headers have.
#ifndef AMDSMI_ABI_H
#define AMDSMI_ABI_H

#include <stdint.h>

#ifndef ABI
#error "define ABI, for example -DABI=2605"
#endif

#define EXPORT __attribute__((visibility("default")))
#define SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type)

typedef void *handle;

// Status codes that kept their numbers.
enum {
    OK = 0, INVAL = 1, NOT_SUPPORTED = 2, API_FAILED = 7, NOT_FOUND = 31, NOT_INIT = 32,
    DRIVER_NOT_LOADED = 34, NO_DATA = 40, INSUFFICIENT_SIZE = 41, UNKNOWN_ERROR = -1
};

#if ABI < 2600
typedef struct { uint32_t year, major, minor, release; const char *build; } version_t;
#else
typedef struct { uint32_t major, minor, release, pad; const char *build; } version_t;
#endif
SIZE(version_t, 24);

#if ABI < 2406
typedef struct {
    char market_name[64];
    uint32_t vendor_id;
    char vendor_name[64];
    uint32_t subvendor_id;
    uint64_t device_id;
    uint32_t rev_id;
    char asic_serial[32];
    uint16_t oam_id, reserved[37];
} asic_info_t;
SIZE(asic_info_t, 256);
#elif ABI < 2407
typedef struct {
    char market_name[256];
    uint32_t vendor_id;
    char vendor_name[64];
    uint32_t subvendor_id;
    uint64_t device_id;
    uint32_t rev_id;
    char asic_serial[32];
    uint32_t oam_id, reserved[18];
} asic_info_t;
SIZE(asic_info_t, 448);
#elif ABI < 2502
typedef struct {
    char market_name[256];
    uint32_t vendor_id;
    char vendor_name[64];
    uint32_t subvendor_id;
    uint64_t device_id;
    uint32_t rev_id;
    char asic_serial[32];
    uint32_t oam_id, num_of_compute_units;
    uint64_t target_graphics_version;
    uint32_t reserved[15];
} asic_info_t;
SIZE(asic_info_t, 456);
#else
typedef struct {
    char market_name[256];
    uint32_t vendor_id;
    char vendor_name[256];
    uint32_t subvendor_id;
    uint64_t device_id;
    uint32_t rev_id;
    char asic_serial[256];
    uint32_t oam_id, num_of_compute_units;
    uint64_t target_graphics_version;
    uint32_t reserved[22];
} asic_info_t;
SIZE(asic_info_t, 896);
#endif

#if ABI < 2406
typedef struct { uint32_t vram_type, vram_vendor; uint64_t vram_size; } vram_info_t;
SIZE(vram_info_t, 16);
#elif ABI < 2600
typedef struct { uint32_t vram_type, vram_vendor; uint64_t vram_size, reserved[6]; } vram_info_t;
SIZE(vram_info_t, 64);
#else
typedef struct {
    uint32_t vram_type;
    char vram_vendor[256];
    uint64_t vram_size;
    uint32_t vram_bit_width;
    uint64_t vram_max_bandwidth, reserved[37];
} vram_info_t;
SIZE(vram_info_t, 584);
#endif

typedef struct { uint32_t vram_total, vram_used, reserved[2]; } vram_usage_t;
SIZE(vram_usage_t, 16);

typedef struct { uint32_t gfx_activity, umc_activity, mm_activity, reserved[13]; } engine_usage_t;
SIZE(engine_usage_t, 64);

#if ABI < 2502
typedef struct {
    uint32_t current_socket_power, average_socket_power, gfx_voltage, soc_voltage, mem_voltage, power_limit, reserved[11];
} power_info_t;
SIZE(power_info_t, 68);
#elif ABI < 2600
typedef struct {
    uint64_t socket_power;
    uint32_t current_socket_power, average_socket_power, gfx_voltage, soc_voltage, mem_voltage, power_limit, reserved[2];
} power_info_t;
SIZE(power_info_t, 40);
#else
typedef struct {
    uint64_t socket_power;
    uint32_t current_socket_power, average_socket_power;
    uint64_t gfx_voltage, soc_voltage, mem_voltage;
    uint32_t power_limit;
    uint64_t reserved[18];
} power_info_t;
SIZE(power_info_t, 192);
#endif

typedef struct { uint64_t correctable_count, uncorrectable_count, deferred_count, reserved[5]; } error_count_t;
SIZE(error_count_t, 64);

typedef struct { uint64_t page_address, page_size; uint32_t status; } retired_page_t;
SIZE(retired_page_t, 24);

#if ABI < 2407
enum { MESSAGE = 64 };
#elif ABI < 2600
enum { MESSAGE = 96 };
#else
enum { MESSAGE = 256 };
#endif
typedef struct { handle processor; uint32_t event; char message[MESSAGE]; } event_t;
#if ABI < 2407
SIZE(event_t, 80);
#elif ABI < 2600
SIZE(event_t, 112);
#else
SIZE(event_t, 272);
#endif

#endif
