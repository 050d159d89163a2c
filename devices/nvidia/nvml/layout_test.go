//go:build cgo

package nvml

import (
	"reflect"
	"testing"

	official "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Every record has the size and the fields of NVIDIA's header, from which go-nvml's
// types are generated.
func TestLayouts(t *testing.T) {
	for _, c := range []struct {
		ours, theirs any
		fields       map[string]string
	}{
		{PCI{}, official.PciInfo{}, map[string]string{"Domain": "Domain", "Bus": "Bus", "Device": "Device", "ID": "PciDeviceId"}},
		{Memory{}, official.Memory{}, map[string]string{"Total": "Total", "Free": "Free", "Used": "Used"}},
		{Memory2{}, official.Memory_v2{}, map[string]string{"version": "Version", "Total": "Total", "Reserved": "Reserved", "Free": "Free", "Used": "Used"}},
		{Utilization{}, official.Utilization{}, map[string]string{"GPU": "Gpu", "Memory": "Memory"}},
		{Attributes{}, official.DeviceAttributes{}, map[string]string{"SMs": "MultiprocessorCount", "GPUInstanceSlices": "GpuInstanceSliceCount", "ComputeInstanceSlices": "ComputeInstanceSliceCount", "MemoryMiB": "MemorySizeMB"}},
		{FieldValue{}, official.FieldValue{}, map[string]string{"ID": "FieldId", "Type": "ValueType", "Return": "NvmlReturn", "Value": "Value"}},
		{sramErrors{}, official.EccSramErrorStatus{}, map[string]string{"version": "Version", "ThresholdExceeded": "BThresholdExceeded"}},
		{processV1{}, official.ProcessInfo_v1{}, map[string]string{"PID": "Pid", "Memory": "UsedGpuMemory"}},
		{processV2{}, official.ProcessInfo_v2{}, map[string]string{"PID": "Pid", "Memory": "UsedGpuMemory", "GPUInstance": "GpuInstanceId"}},
		{Sample{}, official.ProcessUtilizationSample{}, map[string]string{"PID": "Pid", "Time": "TimeStamp", "SM": "SmUtil"}},
	} {
		ours, theirs := reflect.TypeOf(c.ours), reflect.TypeOf(c.theirs)
		if ours.Size() != theirs.Size() {
			t.Errorf("%s has %d bytes, want %d", ours, ours.Size(), theirs.Size())
		}
		for mine, its := range c.fields {
			a, _ := ours.FieldByName(mine)
			b, ok := theirs.FieldByName(its)
			if !ok || a.Offset != b.Offset {
				t.Errorf("%s.%s is at byte %d, want %d as %s", ours, mine, a.Offset, b.Offset, its)
			}
		}
	}
	// go-nvml's own event has another type for the device, but the same fields after it.
	if size := reflect.TypeOf(eventData{}).Size(); size != 32 {
		t.Errorf("an event has %d bytes, want 32", size)
	}
}

func TestNumbers(t *testing.T) {
	for ours, theirs := range map[Return]official.Return{
		Success: official.SUCCESS, Uninitialized: official.ERROR_UNINITIALIZED, InvalidArgument: official.ERROR_INVALID_ARGUMENT,
		NotSupported: official.ERROR_NOT_SUPPORTED, NoPermission: official.ERROR_NO_PERMISSION, NotFound: official.ERROR_NOT_FOUND,
		InsufficientSize: official.ERROR_INSUFFICIENT_SIZE, DriverNotLoaded: official.ERROR_DRIVER_NOT_LOADED, Timeout: official.ERROR_TIMEOUT,
		IRQIssue: official.ERROR_IRQ_ISSUE, LibraryNotFound: official.ERROR_LIBRARY_NOT_FOUND, FunctionNotFound: official.ERROR_FUNCTION_NOT_FOUND,
		GPUIsLost: official.ERROR_GPU_IS_LOST, ResetRequired: official.ERROR_RESET_REQUIRED, OperatingSystem: official.ERROR_OPERATING_SYSTEM,
		VersionMismatch: official.ERROR_LIB_RM_VERSION_MISMATCH, OutOfMemory: official.ERROR_MEMORY, GPUNotFound: official.ERROR_GPU_NOT_FOUND,
		Unknown: official.ERROR_UNKNOWN,
	} {
		if int32(ours) != int32(theirs) {
			t.Errorf("%d, want %d", ours, theirs)
		}
	}
	for _, c := range [][2]int64{
		{int64(ComputeDefault), int64(official.COMPUTEMODE_DEFAULT)}, {int64(ComputeProhibited), int64(official.COMPUTEMODE_PROHIBITED)},
		{int64(ComputeExclusiveProcess), int64(official.COMPUTEMODE_EXCLUSIVE_PROCESS)},
		{int64(CorrectedErrors), int64(official.MEMORY_ERROR_TYPE_CORRECTED)}, {int64(UncorrectedErrors), int64(official.MEMORY_ERROR_TYPE_UNCORRECTED)},
		{EventXID, official.EventTypeXidCriticalError}, {EventDoubleBitECC, official.EventTypeDoubleBitEccError},
		{FieldRecoveryAction, official.FI_DEV_GET_GPU_RECOVERY_ACTION}, {RecoveryReset, int64(official.GPU_RECOVERY_ACTION_GPU_RESET)},
		{RecoveryReboot, int64(official.GPU_RECOVERY_ACTION_NODE_REBOOT)}, {RecoveryDrainP2P, int64(official.GPU_RECOVERY_ACTION_DRAIN_P2P)},
		{RecoveryDrainAndReset, int64(official.GPU_RECOVERY_ACTION_DRAIN_AND_RESET)},
		{int64(UnsignedInt), int64(official.VALUE_TYPE_UNSIGNED_INT)}, {int64(UnsignedLong), int64(official.VALUE_TYPE_UNSIGNED_LONG)},
		{int64(UnsignedLongLong), int64(official.VALUE_TYPE_UNSIGNED_LONG_LONG)}, {int64(SignedLongLong), int64(official.VALUE_TYPE_SIGNED_LONG_LONG)},
		{int64(SignedInt), int64(official.VALUE_TYPE_SIGNED_INT)},
	} {
		if c[0] != c[1] {
			t.Errorf("%d, want %d", c[0], c[1])
		}
	}
	if versionOf[Memory2](2) != official.STRUCT_VERSION(official.Memory_v2{}, 2) || versionOf[sramErrors](1) != official.STRUCT_VERSION(official.EccSramErrorStatus{}, 1) {
		t.Error("versions of records differ")
	}
}
