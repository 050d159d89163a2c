package nvml

// calls are the functions of the loaded library. Devices and event sets are pointers into the
// library's memory.
type calls struct {
	init          func() Return
	shutdown      func() Return
	driverVersion func(buffer *byte, length uint32) Return
	cudaVersion   func(version *int32) Return
	count         func(count *uint32) Return
	byIndex       func(index uint32, device *uintptr) Return

	uuid, name          func(device uintptr, buffer *byte, length uint32) Return
	pci                 func(device uintptr, info *PCI) Return
	memory              func(device uintptr, memory *Memory) Return
	memory2             func(device uintptr, memory *Memory2) Return
	computeCapability   func(device uintptr, major, minor *int32) Return
	temperature         func(device uintptr, sensor int32, celsius *uint32) Return
	clock               func(device uintptr, clock int32, mhz *uint32) Return
	utilization         func(device uintptr, percent *Utilization) Return
	remappedRows        func(device uintptr, corrected, uncorrected, pending, failed *uint32) Return
	sramErrors          func(device uintptr, errors *sramErrors) Return
	eccErrors           func(device uintptr, kind ErrorKind, counter int32, n *uint64) Return
	setComputeMode      func(device uintptr, mode ComputeMode) Return
	fieldValues         func(device uintptr, count int32, values *FieldValue) Return
	processUtilization  func(device uintptr, list *Sample, count *uint32, after uint64) Return
	migMode             func(device uintptr, now, pending *uint32) Return
	migDevice           func(device uintptr, index uint32, mig *uintptr) Return
	attributes          func(device uintptr, attributes *Attributes) Return
	supportedEvents     func(device uintptr, types *uint64) Return
	registerEvents      func(device uintptr, types uint64, set uintptr) Return
	linkState           func(device uintptr, link uint32, active *uint32) Return
	linkKind            func(device uintptr, link uint32, kind *LinkKind) Return
	linkPCI             func(device uintptr, link uint32, info *PCI) Return
	retiredPagesPending number
	minorNumber         number
	cores               number
	powerState          number
	powerUsage          number
	computeMode         number
	maxMIGDevices       number
	gpuInstance         number
	computeInstance     number

	compute, mps lister

	newEventSet  func(set *uintptr) Return
	freeEventSet func(set uintptr) Return
	wait         func(set uintptr, event *eventData, milliseconds uint32) Return
}

// number is a function that returns one unsigned number of a device.
type number = func(device uintptr, n *uint32) Return

func (c *calls) bindings() []binding {
	return []binding{
		{&c.init, []string{"nvmlInit_v2", "nvmlInit"}},
		{&c.shutdown, []string{"nvmlShutdown"}},
		{&c.driverVersion, []string{"nvmlSystemGetDriverVersion"}},
		{&c.cudaVersion, []string{"nvmlSystemGetCudaDriverVersion_v2", "nvmlSystemGetCudaDriverVersion"}},
		{&c.count, []string{"nvmlDeviceGetCount_v2", "nvmlDeviceGetCount"}},
		{&c.byIndex, []string{"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex"}},
		{&c.uuid, []string{"nvmlDeviceGetUUID"}},
		{&c.name, []string{"nvmlDeviceGetName"}},
		{&c.pci, []string{"nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2", "nvmlDeviceGetPciInfo"}},
		{&c.memory, []string{"nvmlDeviceGetMemoryInfo"}},
		{&c.memory2, []string{"nvmlDeviceGetMemoryInfo_v2"}},
		{&c.computeCapability, []string{"nvmlDeviceGetCudaComputeCapability"}},
		{&c.temperature, []string{"nvmlDeviceGetTemperature"}},
		{&c.clock, []string{"nvmlDeviceGetClockInfo"}},
		{&c.utilization, []string{"nvmlDeviceGetUtilizationRates"}},
		{&c.remappedRows, []string{"nvmlDeviceGetRemappedRows"}},
		{&c.sramErrors, []string{"nvmlDeviceGetSramEccErrorStatus"}},
		{&c.eccErrors, []string{"nvmlDeviceGetTotalEccErrors"}},
		{&c.setComputeMode, []string{"nvmlDeviceSetComputeMode"}},
		{&c.fieldValues, []string{"nvmlDeviceGetFieldValues"}},
		{&c.processUtilization, []string{"nvmlDeviceGetProcessUtilization"}},
		{&c.migMode, []string{"nvmlDeviceGetMigMode"}},
		{&c.migDevice, []string{"nvmlDeviceGetMigDeviceHandleByIndex"}},
		{&c.attributes, []string{"nvmlDeviceGetAttributes_v2", "nvmlDeviceGetAttributes"}},
		{&c.supportedEvents, []string{"nvmlDeviceGetSupportedEventTypes"}},
		{&c.registerEvents, []string{"nvmlDeviceRegisterEvents"}},
		{&c.linkState, []string{"nvmlDeviceGetNvLinkState"}},
		{&c.linkKind, []string{"nvmlDeviceGetNvLinkRemoteDeviceType"}},
		{&c.linkPCI, []string{"nvmlDeviceGetNvLinkRemotePciInfo_v2", "nvmlDeviceGetNvLinkRemotePciInfo"}},
		{&c.retiredPagesPending, []string{"nvmlDeviceGetRetiredPagesPendingStatus"}},
		{&c.minorNumber, []string{"nvmlDeviceGetMinorNumber"}},
		{&c.cores, []string{"nvmlDeviceGetNumGpuCores"}},
		{&c.powerState, []string{"nvmlDeviceGetPowerState"}},
		{&c.powerUsage, []string{"nvmlDeviceGetPowerUsage"}},
		{&c.computeMode, []string{"nvmlDeviceGetComputeMode"}},
		{&c.maxMIGDevices, []string{"nvmlDeviceGetMaxMigDeviceCount"}},
		{&c.gpuInstance, []string{"nvmlDeviceGetGpuInstanceId"}},
		{&c.computeInstance, []string{"nvmlDeviceGetComputeInstanceId"}},
		{&c.compute.v2, []string{"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"}},
		{&c.compute.v1, []string{"nvmlDeviceGetComputeRunningProcesses"}},
		{&c.mps.v2, []string{"nvmlDeviceGetMPSComputeRunningProcesses_v3",
			"nvmlDeviceGetMPSComputeRunningProcesses_v2"}},
		{&c.mps.v1, []string{"nvmlDeviceGetMPSComputeRunningProcesses"}},
		{&c.newEventSet, []string{"nvmlEventSetCreate"}},
		{&c.freeEventSet, []string{"nvmlEventSetFree"}},
		{&c.wait, []string{"nvmlEventSetWait_v2", "nvmlEventSetWait"}},
	}
}
