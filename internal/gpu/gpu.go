// Package gpu defines the terms of the suite: GPUs, slices and grants. It contains only values and
// names; nothing in it reads a clock, a file or an environment.
package gpu

import (
	"fmt"
	"strings"
)

// Vendor names a maker of GPUs, spelled as in a Nomad device request; see Makers.
type Vendor string

// DeviceType is the Nomad device type of every group, as in "nvidia/gpu".
const DeviceType = "gpu"

// MiB is an amount of memory in mebibytes (2^20 bytes).
type MiB uint64

// Bytes returns the amount in bytes.
func (m MiB) Bytes() uint64 { return uint64(m) << 20 }

// MiBOf rounds bytes down to whole mebibytes.
func MiBOf(bytes uint64) MiB { return MiB(bytes >> 20) }

func (m MiB) String() string { return fmt.Sprintf("%d MiB", uint64(m)) }

// ID names one schedulable GPU for the life of its hardware: the UUID of an
// NVIDIA GPU or MIG device ("GPU-…", "MIG-…"), the PCI address with function of
// an AMD or Intel GPU ("0000:c1:00.0"), with "-p<partition>" for a partition of it.
type ID string

// Sharing is how several tasks share one GPU.
type Sharing string

// The ways in which a GPU can be offered.
const (
	SharingNone      Sharing = "none"      // the whole GPU to one task
	SharingMPS       Sharing = "mps"       // NVIDIA Multi-Process Service, N slices
	SharingMIG       Sharing = "mig"       // an NVIDIA MIG device, one slice
	SharingCUMask    Sharing = "cu-mask"   // AMD compute-unit masks, N slices
	SharingPartition Sharing = "partition" // an AMD compute partition, one slice
	SharingFunction  Sharing = "vf"        // an SR-IOV virtual function, one slice
)

// Enforcement is the mechanism that keeps a task inside its slices.
type Enforcement string

// Enforcement mechanisms, strongest first.
const (
	EnforceMIG          Enforcement = "mig"
	EnforcePartition    Enforcement = "partition"
	EnforceFunction     Enforcement = "sr-iov"
	EnforceWhole        Enforcement = "whole" // no other task uses the GPU
	EnforceMPSNamespace Enforcement = "mps-namespace"
	EnforceMPSStatic    Enforcement = "mps-static-partition"
	EnforceMPSPercent   Enforcement = "mps-percentage"
	EnforceCUMask       Enforcement = "cu-mask"
	EnforceNone         Enforcement = "none"
)

// Level says how reliable a mechanism is: "hard" limits any task, "cooperative" limits a task that keeps
// the environment with which it was started, "none" limits nothing.
type Level string

// The levels of enforcement.
const (
	LevelHard        Level = "hard"
	LevelCooperative Level = "cooperative"
	LevelNone        Level = "none"
)

// Level returns how reliable the mechanism is.
func (e Enforcement) Level() Level {
	switch e {
	case EnforceMIG, EnforcePartition, EnforceFunction, EnforceWhole, EnforceMPSNamespace, EnforceMPSStatic:
		return LevelHard
	case EnforceMPSPercent, EnforceCUMask:
		return LevelCooperative
	default:
		return LevelNone
	}
}

// GPU describes one schedulable GPU: a physical GPU, a MIG device or an AMD partition. Fields that
// a vendor does not report are zero.
type GPU struct {
	ID     ID
	Vendor Vendor
	// Index is the vendor's ordinal on this host (NVML index, KFD order).
	Index int
	// Model is the vendor's product name, for example "NVIDIA H100 80GB HBM3".
	Model string
	// Class is the hardware class by which traffic is routed and weighed; a DNS
	// label such as "h100". See ClassOf.
	Class string
	// Memory is the memory that tasks can use, without the driver's reserve.
	Memory MiB
	// Units counts streaming multiprocessors (NVIDIA) or compute units (AMD).
	Units int
	// Target is the compile target: a compute capability such as "9.0" or a
	// gfx target such as "gfx942".
	Target string
	// PCI is the PCI address, domain:bus:device.function, lower case.
	PCI string
	// PCIDevice is the PCI device ID, for example 0x2330.
	PCIDevice uint16
	// NUMANode is the host's NUMA node next to the GPU, -1 when unknown.
	NUMANode int
	// Links are the PCI addresses of the GPUs at the far ends of direct links (NVLink, xGMI),
	// LinkSwitches those of the switches of such links. Both are sorted.
	Links, LinkSwitches []string
	// Switch is the PCI address of the PCIe switch above the GPU, "" without one.
	Switch string
	// Driver is the kernel driver's version.
	Driver string
	// Runtime is the newest CUDA or ROCm version that the driver supports.
	Runtime string
	// Parent is the physical GPU of a MIG device or partition, else "".
	Parent ID
	// Profile is the MIG profile or partition mode ("1g.10gb", "cpx/nps4"), else "".
	Profile string
	// MIG is the GPU instance and compute instance of a MIG device ("7/0"), else "".
	MIG string
}

// Slug converts any text to a DNS label: a-z, 0-9 and single dashes, in lower case, at most 63
// characters, never empty.
func Slug(s string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(s) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	out := b.String()
	if len(out) > 63 {
		out = out[:63]
	}
	out = strings.Trim(out, "-")
	if out == "" {
		return "unknown"
	}
	return out
}
