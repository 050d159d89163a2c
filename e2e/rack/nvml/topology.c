// How GPUs lie to each other and to the processors.
#include "rack.h"

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

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, nvmlEnableState_t *isActive) {
    NEED(isActive);
    PHYSICAL(device, v);
    PRESENT(v.gpu.nvlinks);
    if (link >= (unsigned)v.gpu.nvlinks)
        return NVML_ERROR_INVALID_ARGUMENT;
    *isActive = NVML_FEATURE_ENABLED;
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
