// Handles, identity and fixed properties of GPUs.
#include "rack.h"

#include <stdio.h>
#include <string.h>

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *deviceCount) {
    NEED(deviceCount);
    return rack_count(deviceCount, __func__);
}

nvmlReturn_t nvmlDeviceGetCount(unsigned int *deviceCount) { return nvmlDeviceGetCount_v2(deviceCount); }

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    struct gpu g;
    NEED(device);
    nvmlReturn_t r = rack_at(index, &g, __func__);
    return r != NVML_SUCCESS ? r : rack_handle(g.uuid, device);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device) { return nvmlDeviceGetHandleByIndex_v2(index, device); }

static int by_uuid(const struct gpu *g, const struct mig *m, const void *key) { return strcmp(m ? m->uuid : g->uuid, key) == 0; }

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    NEED(uuid);
    NEED(device);
    return rack_pick(by_uuid, uuid, device, __func__);
}

static int by_pci(const struct gpu *g, const struct mig *m, const void *key) {
    const unsigned *want = key;
    return m == NULL && g->domain == want[0] && g->bus == want[1] && g->device == want[2];
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *pciBusId, nvmlDevice_t *device) {
    unsigned want[3] = {0};
    NEED(pciBusId);
    NEED(device);
    if (sscanf(pciBusId, "%x:%x:%x", &want[0], &want[1], &want[2]) != 3) {
        want[0] = 0;
        if (sscanf(pciBusId, "%x:%x", &want[1], &want[2]) != 2)
            return NVML_ERROR_INVALID_ARGUMENT;
    }
    return rack_pick(by_pci, want, device, __func__);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *pciBusId, nvmlDevice_t *device) {
    return nvmlDeviceGetHandleByPciBusId_v2(pciBusId, device);
}

static int by_serial(const struct gpu *g, const struct mig *m, const void *key) { return m == NULL && strcmp(g->serial, key) == 0; }

nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device) {
    NEED(serial);
    NEED(device);
    return rack_pick(by_serial, serial, device, __func__);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    LOOK(device, v);
    return rack_text(name, length, v.is_mig ? v.mig.name : v.gpu.name);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    LOOK(device, v);
    return rack_text(uuid, length, v.is_mig ? v.mig.uuid : v.gpu.uuid);
}

nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length) {
    PHYSICAL(device, v);
    return rack_text(serial, length, v.gpu.serial);
}

nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char *version, unsigned int length) {
    PHYSICAL(device, v);
    return rack_text(version, length, v.gpu.vbios);
}

nvmlReturn_t nvmlDeviceGetBoardPartNumber(nvmlDevice_t device, char *partNumber, unsigned int length) {
    PHYSICAL(device, v);
    return rack_text(partNumber, length, v.gpu.board_part);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index) {
    NEED(index);
    LOOK(device, v);
    *index = v.gpu.index;
    for (int i = 0; v.is_mig && i < v.gpu.migs; i++)
        if (strcmp(v.gpu.mig[i].uuid, v.mig.uuid) == 0)
            *index = (unsigned)i;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minorNumber) {
    NEED(minorNumber);
    PHYSICAL(device, v);
    PRESENT(v.gpu.minor);
    *minorNumber = (unsigned)v.gpu.minor;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t *type) {
    static const struct {
        const char *name;
        nvmlBrandType_t type;
    } brands[] = {{"Tesla", NVML_BRAND_TESLA}, {"NVIDIA", NVML_BRAND_NVIDIA}, {"GeForce", NVML_BRAND_GEFORCE}};
    NEED(type);
    LOOK(device, v);
    *type = NVML_BRAND_UNKNOWN;
    for (size_t i = 0; i < sizeof brands / sizeof *brands; i++)
        if (strcmp(v.gpu.brand, brands[i].name) == 0)
            *type = brands[i].type;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    NEED(pci);
    LOOK(device, v);
    memset(pci, 0, sizeof *pci);
    pci->domain = v.gpu.domain;
    pci->bus = v.gpu.bus;
    pci->device = v.gpu.device;
    pci->pciDeviceId = v.gpu.pci_device == ABSENT ? 0 : (unsigned)v.gpu.pci_device;
    pci->pciSubSystemId = v.gpu.pci_subsystem == ABSENT ? 0 : (unsigned)v.gpu.pci_subsystem;
    snprintf(pci->busId, sizeof pci->busId, NVML_DEVICE_PCI_BUS_ID_FMT, NVML_DEVICE_PCI_BUS_ID_FMT_ARGS(pci));
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0", pci->domain & 0xFFFF, pci->bus & 0xFF, pci->device & 0x1F);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci) { return nvmlDeviceGetPciInfo_v3(device, pci); }
nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci) { return nvmlDeviceGetPciInfo_v3(device, pci); }

nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t device, unsigned int *node) {
    NEED(node);
    LOOK(device, v);
    PRESENT(v.gpu.numa);
    if (v.gpu.numa < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *node = (unsigned)v.gpu.numa;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    NEED(major);
    NEED(minor);
    LOOK(device, v);
    *major = v.gpu.major;
    *minor = v.gpu.minor_cc;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *arch) {
    NEED(arch);
    LOOK(device, v);
    int cc = v.gpu.major * 10 + v.gpu.minor_cc;
    *arch = cc >= 100  ? NVML_DEVICE_ARCH_BLACKWELL
            : cc >= 90 ? NVML_DEVICE_ARCH_HOPPER
            : cc >= 89 ? NVML_DEVICE_ARCH_ADA
            : cc >= 80 ? NVML_DEVICE_ARCH_AMPERE
            : cc >= 75 ? NVML_DEVICE_ARCH_TURING
            : cc >= 70 ? NVML_DEVICE_ARCH_VOLTA
                       : NVML_DEVICE_ARCH_PASCAL;
    return NVML_SUCCESS;
}

// FP32 cores of one SM: 64 for compute capability 7.0, 7.5, 8.0; 128 else.
// Source: CUDA C++ Programming Guide, "Compute Capabilities".
nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned int *numCores) {
    NEED(numCores);
    PHYSICAL(device, v);
    PRESENT(v.gpu.sms);
    int cc = v.gpu.major * 10 + v.gpu.minor_cc;
    long long per = v.gpu.cores_per_sm != ABSENT ? v.gpu.cores_per_sm : cc == 70 || cc == 75 || cc == 80 ? 64 : 128;
    *numCores = (unsigned)(v.gpu.sms * per);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryBusWidth(nvmlDevice_t device, unsigned int *busWidth) {
    NEED(busWidth);
    PHYSICAL(device, v);
    PRESENT(v.gpu.bus_bits);
    *busWidth = (unsigned)v.gpu.bus_bits;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *bar1Memory) {
    NEED(bar1Memory);
    LOOK(device, v);
    PRESENT(v.gpu.bar1_mib);
    bar1Memory->bar1Total = (unsigned long long)v.gpu.bar1_mib << 20;
    bar1Memory->bar1Used = 1 << 20;
    bar1Memory->bar1Free = bar1Memory->bar1Total - bar1Memory->bar1Used;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t *mode) {
    NEED(mode);
    PHYSICAL(device, v);
    *mode = v.gpu.persistence == 1;
    return NVML_SUCCESS;
}
