package nvidia

import (
	"encoding/binary"

	"aliquot.example/devices/nvidia/nvml"
)

// indicatorsOf reads the health of one GPU. Indicators that the GPU or the driver does not have count
// as healthy.
func indicatorsOf(h nvml.Device) indicators {
	v := indicators{action: -1}
	if _, v.probe = h.Memory(); v.probe == nvml.NotSupported {
		v.probe = nvml.Success // GPUs that share the host's memory answer this
	}
	if v.probe != nvml.Success {
		return v
	}
	if _, r := h.PowerState(); r == nvml.GPUIsLost || r == nvml.ResetRequired {
		v.probe = r
		return v
	}
	if _, _, pending, failed, r := h.RemappedRows(); r == nvml.Success {
		v.pending, v.failed = pending, failed
	}
	if pending, r := h.RetiredPagesPending(); r == nvml.Success {
		v.pending = v.pending || pending
	}
	if worn, r := h.SRAMWorn(); r == nvml.Success {
		v.sramExceeded = worn
	}
	mode, r := h.ComputeMode()
	v.prohibited = r == nvml.Success && mode == nvml.ComputeProhibited
	v.uncorrected, _ = eccErrors(h, nvml.UncorrectedErrors)
	if n, ok := field(h, nvml.FieldRecoveryAction); ok {
		v.action = int(n)
	}
	return v
}

func eccErrors(h nvml.Device, kind nvml.ErrorKind) (uint64, bool) {
	n, r := h.ECCErrors(kind)
	return n, r == nvml.Success
}

// field reads one whole-number field value.
func field(h nvml.Device, id uint32) (uint64, bool) {
	value, r := h.Field(id)
	if r != nvml.Success || value.Return != nvml.Success {
		return 0, false
	}
	switch value.Type {
	case nvml.UnsignedInt, nvml.SignedInt:
		return uint64(binary.LittleEndian.Uint32(value.Value[:4])), true
	case nvml.UnsignedLong, nvml.UnsignedLongLong, nvml.SignedLongLong:
		return binary.LittleEndian.Uint64(value.Value[:]), true
	}
	return 0, false
}
