package nvml

import "unsafe"

// Return is what a function of NVML returned.
type Return int32

// What functions return: nvmlReturn_t.
const (
	Success          Return = 0
	Uninitialized    Return = 1
	InvalidArgument  Return = 2
	NotSupported     Return = 3
	NoPermission     Return = 4
	NotFound         Return = 6
	InsufficientSize Return = 7
	DriverNotLoaded  Return = 9
	Timeout          Return = 10
	IRQIssue         Return = 11
	LibraryNotFound  Return = 12
	FunctionNotFound Return = 13
	GPUIsLost        Return = 15
	ResetRequired    Return = 16
	OperatingSystem  Return = 17
	VersionMismatch  Return = 18
	OutOfMemory      Return = 20
	GPUNotFound      Return = 28
	Unknown          Return = 999
)

// ComputeMode says which programs may use a GPU.
type ComputeMode int32

// The compute modes: nvmlComputeMode_t.
const (
	ComputeDefault          ComputeMode = 0
	ComputeProhibited       ComputeMode = 2
	ComputeExclusiveProcess ComputeMode = 3
)

// ErrorKind is a kind of ECC errors.
type ErrorKind int32

// The kinds of ECC errors: nvmlMemoryErrorType_t.
const (
	CorrectedErrors   ErrorKind = 0
	UncorrectedErrors ErrorKind = 1
)

// LinkKind is what is at the far end of an NVLink.
type LinkKind int32

// What an NVLink leads to: nvmlIntNvLinkDeviceType_t.
const (
	LinkToGPU    LinkKind = 0
	LinkToSwitch LinkKind = 2
)

// MaxLinks is NVML_NVLINK_MAX_LINKS: no GPU has more links.
const MaxLinks = 18

// Types of events.
const (
	EventDoubleBitECC = 0x2
	EventXID          = 0x8
)

// FieldRecoveryAction is the field of what the driver recommends for a GPU.
const FieldRecoveryAction = 230

// Values of FieldRecoveryAction.
const (
	RecoveryNone          = 0
	RecoveryReset         = 1
	RecoveryReboot        = 2
	RecoveryDrainP2P      = 3
	RecoveryDrainAndReset = 4
)

// ValueType says how a FieldValue is to be read.
type ValueType int32

// The types of values: nvmlValueType_t.
const (
	UnsignedInt      ValueType = 1
	UnsignedLong     ValueType = 2
	UnsignedLongLong ValueType = 3
	SignedLongLong   ValueType = 4
	SignedInt        ValueType = 5
)

// PCI is nvmlPciInfo_t.
type PCI struct {
	_      [16]byte // the address in its old, shorter form
	Domain uint32
	Bus    uint32
	Device uint32
	ID     uint32   // device's number in the upper half, vendor's in the lower
	_      uint32   // subsystem
	_      [32]byte // the address
}

// Memory is nvmlMemory_t, in bytes.
type Memory struct{ Total, Free, Used uint64 }

// Memory2 is nvmlMemory_v2_t, in bytes.
type Memory2 struct {
	version                     uint32
	_                           uint32
	Total, Reserved, Free, Used uint64
}

// Utilization is nvmlUtilization_t, in percent.
type Utilization struct{ GPU, Memory uint32 }

// Attributes is nvmlDeviceAttributes_t: counts, and MiB.
type Attributes struct {
	SMs                                      uint32
	_, _, _, _, _                            uint32 // of copying, decoding, encoding, JPEG and optical flow
	GPUInstanceSlices, ComputeInstanceSlices uint32
	MemoryMiB                                uint64
}

// FieldValue is nvmlFieldValue_t.
type FieldValue struct {
	ID     uint32
	_      uint32   // scope
	_      [2]int64 // time and latency
	Type   ValueType
	Return Return
	Value  [8]byte
}

// eventData is nvmlEventData_t; the first version of the call leaves the instances as
// they were.
type eventData struct {
	Device                       uintptr
	Type, Data                   uint64
	GPUInstance, ComputeInstance uint32
}

// sramErrors is nvmlEccSramErrorStatus_v1_t.
type sramErrors struct {
	version           uint32
	_                 uint32
	_                 [11]uint64 // by kind and place
	ThresholdExceeded uint32
	_                 uint32
}

// versionOf returns the first field of a record that begins with its version.
func versionOf[T any](version uint32) uint32 {
	var record T
	return uint32(unsafe.Sizeof(record)) | version<<24
}
