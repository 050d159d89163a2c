// How GPUs lie to each other and to the processors.
#include "rack.h"

#include <stdio.h>
#include <string.h>

// look_pair copies two physical GPUs.
static nvmlReturn_t look_pair(nvmlDevice_t a, nvmlDevice_t b, struct view *va, struct view *vb, const char *call) {
    nvmlReturn_t r = rack_look(a, va, call);
    if (r == NVML_SUCCESS)
        r = rack_look(b, vb, call);
    if (r == NVML_SUCCESS && (va->is_mig || vb->is_mig))
        r = NVML_ERROR_NOT_SUPPORTED;
    return r;
}

static nvmlGpuTopologyLevel_t level(const struct gpu *a, const struct gpu *b) {
    if (strcmp(a->uuid, b->uuid) == 0)
        return NVML_TOPOLOGY_INTERNAL;
    if (a->pcie_switch != ABSENT && a->pcie_switch == b->pcie_switch)
        return NVML_TOPOLOGY_SINGLE;
    return a->numa == b->numa ? NVML_TOPOLOGY_NODE : NVML_TOPOLOGY_SYSTEM;
}

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device1, nvmlDevice_t device2, nvmlGpuTopologyLevel_t *pathInfo) {
    struct view a, b;
    NEED(pathInfo);
    nvmlReturn_t r = look_pair(device1, device2, &a, &b, __func__);
    if (r == NVML_SUCCESS)
        *pathInfo = level(&a.gpu, &b.gpu);
    return r;
}

nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t device1, nvmlDevice_t device2, nvmlGpuP2PCapsIndex_t p2pIndex,
                                    nvmlGpuP2PStatus_t *p2pStatus) {
    struct view a, b;
    NEED(p2pStatus);
    nvmlReturn_t r = look_pair(device1, device2, &a, &b, __func__);
    if (r != NVML_SUCCESS)
        return r;
    int linked = a.gpu.nvlinks != ABSENT && a.gpu.nvlinks > 0 && b.gpu.nvlinks != ABSENT && b.gpu.nvlinks > 0;
    int near = linked || level(&a.gpu, &b.gpu) <= NVML_TOPOLOGY_NODE;
    *p2pStatus = (p2pIndex == NVML_P2P_CAPS_INDEX_NVLINK ? linked : near) ? NVML_P2P_STATUS_OK : NVML_P2P_STATUS_NOT_SUPPORTED;
    return NVML_SUCCESS;
}

// far_end reads where a link leads to: nvlink_to is a list of PCI addresses, a switch's
// with "switch/" before it, which the links lead to in turn. Without it there is one switch.
static int far_end(const struct gpu *g, unsigned link, nvmlPciInfo_t *pci) {
    char list[sizeof g->nvlink_to], *entries[64], *rest = list;
    snprintf(list, sizeof list, "%s", g->nvlink_to[0] ? g->nvlink_to : "switch/00000000:c1:00.0");
    unsigned n = 0, function;
    for (char *e; n < 64 && (e = strtok_r(rest, " ", &rest));)
        entries[n++] = e;
    const char *entry = entries[link % n], *slash = strchr(entry, '/');
    memset(pci, 0, sizeof *pci);
    sscanf(slash ? slash + 1 : entry, "%x:%x:%x.%u", &pci->domain, &pci->bus, &pci->device, &function);
    snprintf(pci->busId, sizeof pci->busId, NVML_DEVICE_PCI_BUS_ID_FMT, NVML_DEVICE_PCI_BUS_ID_FMT_ARGS(pci));
    return slash != NULL;
}

#define LINK(v, link)                                                                                                          \
    do {                                                                                                                       \
        PRESENT((v).gpu.nvlinks);                                                                                              \
        if ((link) >= (unsigned)(v).gpu.nvlinks)                                                                               \
            return NVML_ERROR_INVALID_ARGUMENT;                                                                                \
    } while (0)

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, nvmlEnableState_t *isActive) {
    NEED(isActive);
    PHYSICAL(device, v);
    LINK(v, link);
    *isActive = NVML_FEATURE_ENABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci) {
    NEED(pci);
    PHYSICAL(device, v);
    LINK(v, link);
    far_end(&v.gpu, link, pci);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo(nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci) {
    return nvmlDeviceGetNvLinkRemotePciInfo_v2(device, link, pci);
}

nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, unsigned int link, nvmlIntNvLinkDeviceType_t *type) {
    nvmlPciInfo_t pci;
    NEED(type);
    PHYSICAL(device, v);
    LINK(v, link);
    *type = far_end(&v.gpu, link, &pci) ? NVML_NVLINK_DEVICE_TYPE_SWITCH : NVML_NVLINK_DEVICE_TYPE_GPU;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, unsigned int nodeSetSize, unsigned long *nodeSet,
                                         nvmlAffinityScope_t scope) {
    (void)scope;
    NEED(nodeSet);
    if (nodeSetSize == 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    LOOK(device, v);
    if (v.gpu.numa == ABSENT || v.gpu.numa < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    memset(nodeSet, 0, nodeSetSize * sizeof *nodeSet);
    nodeSet[0] = 1UL << v.gpu.numa;
    return NVML_SUCCESS;
}

// GPUs of the rack stand alone: no fabric manager joins them.
nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t device, nvmlGpuFabricInfoV_t *gpuFabricInfo) {
    NEED(gpuFabricInfo);
    PHYSICAL(device, v);
    return NVML_ERROR_NOT_SUPPORTED;
}
