package nvml

// Device is a GPU or a MIG device. Two values are equal when they are the same device.
type Device struct {
	lib    *Library
	handle uintptr
}

// UUID returns "GPU-..." or "MIG-...".
func (d Device) UUID() (string, Return) {
	var buffer [96]byte
	r := d.lib.calls.uuid(d.handle, &buffer[0], uint32(len(buffer)))
	return text(buffer[:]), r
}

// Name returns the model's name, such as "NVIDIA H100 80GB HBM3".
func (d Device) Name() (string, Return) {
	var buffer [96]byte
	r := d.lib.calls.name(d.handle, &buffer[0], uint32(len(buffer)))
	return text(buffer[:]), r
}

// PCI returns where the GPU is on the bus, and what it is.
func (d Device) PCI() (PCI, Return) {
	var info PCI
	r := d.lib.calls.pci(d.handle, &info)
	return info, r
}

// MinorNumber returns N of /dev/nvidiaN.
func (d Device) MinorNumber() (int, Return) { return whole(d, d.lib.calls.minorNumber) }

// Memory returns the device's memory; Used counts what the driver reserves.
func (d Device) Memory() (Memory, Return) {
	var m Memory
	r := d.lib.calls.memory(d.handle, &m)
	return m, r
}

// Memory2 returns the device's memory with the driver's reserve as a separate value.
func (d Device) Memory2() (Memory2, Return) {
	m := Memory2{version: versionOf[Memory2](2)}
	r := d.lib.calls.memory2(d.handle, &m)
	return m, r
}

// ComputeCapability returns such as 9, 0 for an H100.
func (d Device) ComputeCapability() (major, minor int, r Return) {
	var a, b int32
	r = d.lib.calls.computeCapability(d.handle, &a, &b)
	return int(a), int(b), r
}

// Cores returns the number of CUDA cores.
func (d Device) Cores() (int, Return) { return whole(d, d.lib.calls.cores) }

// PowerState returns P0 (fastest) to P15.
func (d Device) PowerState() (int, Return) { return whole(d, d.lib.calls.powerState) }

// PowerUsage returns milliwatts.
func (d Device) PowerUsage() (int, Return) { return whole(d, d.lib.calls.powerUsage) }

// Temperature returns degrees Celsius of the GPU's die.
func (d Device) Temperature() (int, Return) {
	const die = 0
	var c uint32
	r := d.lib.calls.temperature(d.handle, die, &c)
	return int(c), r
}

// SMClock returns MHz.
func (d Device) SMClock() (int, Return) {
	const sm = 1
	var mhz uint32
	r := d.lib.calls.clock(d.handle, sm, &mhz)
	return int(mhz), r
}

// Utilization returns percent of the last sample period.
func (d Device) Utilization() (Utilization, Return) {
	var u Utilization
	r := d.lib.calls.utilization(d.handle, &u)
	return u, r
}

// RemappedRows returns how many rows were remapped for corrected and for uncorrected
// errors, whether a remap waits for a reset, and whether one failed.
func (d Device) RemappedRows() (corrected, uncorrected int, pending, failed bool, r Return) {
	var c, u, p, f uint32
	r = d.lib.calls.remappedRows(d.handle, &c, &u, &p, &f)
	return int(c), int(u), p != 0, f != 0, r
}

// RetiredPagesPending reports whether pages wait for a reset to be retired.
func (d Device) RetiredPagesPending() (bool, Return) {
	pending, r := whole(d, d.lib.calls.retiredPagesPending)
	return pending != 0, r
}

// SRAMWorn reports whether the SRAM has passed its threshold of errors.
func (d Device) SRAMWorn() (bool, Return) {
	s := sramErrors{version: versionOf[sramErrors](1)}
	r := d.lib.calls.sramErrors(d.handle, &s)
	return s.ThresholdExceeded != 0, r
}

// ECCErrors counts errors of a kind since the driver was loaded.
func (d Device) ECCErrors(kind ErrorKind) (uint64, Return) {
	const sinceLoaded = 0
	var n uint64
	r := d.lib.calls.eccErrors(d.handle, kind, sinceLoaded, &n)
	return n, r
}

// ComputeMode returns which programs may use the GPU.
func (d Device) ComputeMode() (ComputeMode, Return) {
	mode, r := whole(d, d.lib.calls.computeMode)
	return ComputeMode(mode), r
}

// SetComputeMode needs root.
func (d Device) SetComputeMode(mode ComputeMode) Return {
	return d.lib.calls.setComputeMode(d.handle, mode)
}

// Field reads one field value; its own Return says whether it has one.
func (d Device) Field(id uint32) (FieldValue, Return) {
	v := FieldValue{ID: id}
	r := d.lib.calls.fieldValues(d.handle, 1, &v)
	return v, r
}

// MIGMode reports whether the GPU is in MIG mode now.
func (d Device) MIGMode() (bool, Return) {
	const enabled = 1
	var now, pending uint32
	r := d.lib.calls.migMode(d.handle, &now, &pending)
	return now == enabled, r
}

// MaxMIGDevices returns how many MIG devices the GPU can have at most.
func (d Device) MaxMIGDevices() (int, Return) { return whole(d, d.lib.calls.maxMIGDevices) }

// MIGDevice returns a MIG device by index, or NotFound.
func (d Device) MIGDevice(index int) (Device, Return) {
	m := Device{lib: d.lib}
	r := d.lib.calls.migDevice(d.handle, uint32(index), &m.handle)
	return m, r
}

// Attributes returns the size of a MIG device.
func (d Device) Attributes() (Attributes, Return) {
	var a Attributes
	r := d.lib.calls.attributes(d.handle, &a)
	return a, r
}

// GPUInstance returns the number of a MIG device's GPU instance.
func (d Device) GPUInstance() (int, Return) { return whole(d, d.lib.calls.gpuInstance) }

// ComputeInstance returns the number of a MIG device's compute instance.
func (d Device) ComputeInstance() (int, Return) { return whole(d, d.lib.calls.computeInstance) }

// LinkActive reports whether an NVLink works. InvalidArgument means that the GPU has no
// link of that number.
func (d Device) LinkActive(link int) (bool, Return) {
	var active uint32
	r := d.lib.calls.linkState(d.handle, uint32(link), &active)
	return active == 1, r
}

// LinkKind returns what an NVLink leads to.
func (d Device) LinkKind(link int) (LinkKind, Return) {
	var kind LinkKind
	r := d.lib.calls.linkKind(d.handle, uint32(link), &kind)
	return kind, r
}

// LinkPCI returns where an NVLink leads to.
func (d Device) LinkPCI(link int) (PCI, Return) {
	var info PCI
	r := d.lib.calls.linkPCI(d.handle, uint32(link), &info)
	return info, r
}

// SupportedEvents returns the types of events that the GPU can raise, as bits.
func (d Device) SupportedEvents() (uint64, Return) {
	var types uint64
	r := d.lib.calls.supportedEvents(d.handle, &types)
	return types, r
}

// RegisterEvents adds events of these types of the GPU to a set.
func (d Device) RegisterEvents(types uint64, set EventSet) Return {
	return d.lib.calls.registerEvents(d.handle, types, set.handle)
}

// whole makes a call that returns one unsigned number.
func whole(d Device, call func(uintptr, *uint32) Return) (int, Return) {
	var n uint32
	r := call(d.handle, &n)
	return int(n), r
}
