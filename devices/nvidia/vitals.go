package nvidia

import (
	"encoding/binary"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// vitalsOf reads the health of one GPU. What a GPU or driver does not tell counts
// as well.
func (l *library) vitalsOf(h nvml.Device) vitals {
	v := vitals{action: -1}
	if _, v.probe = h.GetMemoryInfo(); v.probe == nvml.ERROR_NOT_SUPPORTED {
		v.probe = nvml.SUCCESS // an answer, too: GPUs that share the host's memory give it
	}
	if v.probe != nvml.SUCCESS {
		return v
	}
	if l.has("nvmlDeviceGetPowerState") {
		if _, r := h.GetPowerState(); r == nvml.ERROR_GPU_IS_LOST || r == nvml.ERROR_RESET_REQUIRED {
			v.probe = r
			return v
		}
	}
	if l.has("nvmlDeviceGetRemappedRows") {
		if _, _, pending, failed, r := h.GetRemappedRows(); r == nvml.SUCCESS {
			v.pending, v.failed = pending, failed
		}
	}
	if l.has("nvmlDeviceGetRetiredPagesPendingStatus") {
		if pending, r := h.GetRetiredPagesPendingStatus(); r == nvml.SUCCESS {
			v.pending = v.pending || pending == nvml.FEATURE_ENABLED
		}
	}
	if l.has("nvmlDeviceGetSramEccErrorStatus") {
		if s, r := h.GetSramEccErrorStatus(); r == nvml.SUCCESS {
			v.worn = s.BThresholdExceeded != 0
		}
	}
	if l.has("nvmlDeviceGetComputeMode") {
		mode, r := h.GetComputeMode()
		v.prohibited = r == nvml.SUCCESS && mode == nvml.COMPUTEMODE_PROHIBITED
	}
	v.uncorrected, _ = l.eccErrors(h, nvml.MEMORY_ERROR_TYPE_UNCORRECTED)
	if n, ok := l.field(h, nvml.FI_DEV_GET_GPU_RECOVERY_ACTION); ok {
		v.action = int(n)
	}
	return v
}

func (l *library) eccErrors(h nvml.Device, kind nvml.MemoryErrorType) (uint64, bool) {
	if !l.has("nvmlDeviceGetTotalEccErrors") {
		return 0, false
	}
	n, r := h.GetTotalEccErrors(kind, nvml.VOLATILE_ECC)
	return n, r == nvml.SUCCESS
}

// field reads one whole-number field value.
func (l *library) field(h nvml.Device, id uint32) (uint64, bool) {
	if !l.has("nvmlDeviceGetFieldValues") {
		return 0, false
	}
	values := []nvml.FieldValue{{FieldId: id}}
	if r := h.GetFieldValues(values); r != nvml.SUCCESS || nvml.Return(values[0].NvmlReturn) != nvml.SUCCESS {
		return 0, false
	}
	raw := values[0].Value
	switch nvml.ValueType(values[0].ValueType) {
	case nvml.VALUE_TYPE_UNSIGNED_INT, nvml.VALUE_TYPE_SIGNED_INT:
		return uint64(binary.LittleEndian.Uint32(raw[:4])), true
	case nvml.VALUE_TYPE_UNSIGNED_LONG, nvml.VALUE_TYPE_UNSIGNED_LONG_LONG, nvml.VALUE_TYPE_SIGNED_LONG_LONG:
		return binary.LittleEndian.Uint64(raw[:8]), true
	}
	return 0, false
}
