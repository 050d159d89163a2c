// Package plugin is the common part of Aliquot's Nomad device plugins: the configuration, the
// reconcile loop, device groups, reservations and statistics. A Maker describes a vendor's plugin,
// and a Vendor implements it. Nothing here depends on a vendor's library.
//
// The loop reads the inventory, makes a plan (internal/share), lets the vendor bring the host to the
// plan, and sends the device groups to Nomad when they have changed. It starts with the first
// Fingerprint call, never in SetConfig: when Nomad starts, it launches every plugin twice only to
// validate its configuration.
package plugin

import (
	"context"
	"errors"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

// Maker describes one vendor's plugin.
type Maker struct {
	// Name of the plugin and its binary, for example "aliquot-device-nvidia".
	Name   string
	Vendor gpu.Vendor
	// Modes are the values of mode in a gpu block, the default first.
	Modes []share.Mode
	// Keys and GPUKeys are the vendor's own settings, at the top level and in a gpu block.
	Keys, GPUKeys []Key
	// New validates the vendor's settings and returns the vendor. It must not touch the host,
	// because it also runs in processes that only validate. Its error is one line with the key,
	// the value and what to write instead.
	New func(Config, Host) (Vendor, error)
}

// Host is what this package provides to a vendor.
type Host struct {
	Log hclog.Logger
	// Wake makes the loop run at once, for example after a GPU reported an error.
	// It never blocks.
	Wake func()
	// Numbers keeps the GPUs' indexes.
	Numbers *Numbers
}

// ErrAbsent is wrapped by Inventory's error when the host has no hardware or no library of the
// vendor. This is a state, not a fault: the loop calls Inventory again later.
var ErrAbsent = errors.New("no GPUs of this vendor")

// Vendor is one maker's part of the plugin. One goroutine calls Inventory and Converge; others call
// Reserve and Usage at the same time.
type Vendor interface {
	// Inventory lists the host's physical GPUs, MIG devices and partitions. An error means that
	// they cannot be read now: the loop keeps the known ones, and reports them as unhealthy after
	// Patience errors. It also keeps a physical GPU that is no longer listed, as unhealthy.
	Inventory(ctx context.Context) ([]share.Found, error)
	// Converge takes steps towards the plan without waiting for their completion, and returns the
	// state of every offer by its ID. An offer without a state counts as healthy.
	Converge(ctx context.Context, plan share.Plan) map[gpu.ID]State
	// Reserve returns the vendor's part of a reservation. Its error is one line.
	Reserve(ctx context.Context, granted share.Granted) (Reservation, error)
	// Usage reads the load and the processes of the offers. It leaves out what cannot be read.
	Usage(ctx context.Context, plan share.Plan) map[gpu.ID]Usage
}

// State is the condition of one offer.
type State struct {
	// Problem says why the offer cannot take tasks. It is "" if the offer is healthy.
	Problem string
	// Starting is set while the only problem is that a daemon has just been started. The first
	// fingerprint waits a short time for it.
	Starting bool
	// Attributes are added to the group's. They must change rarely, because every change is a
	// write to Nomad's state.
	Attributes map[string]*structs.Attribute
}

// Reservation is a vendor's part of a reservation.
type Reservation struct {
	// Pipe is the host's MPS pipe directory, for gpu.Grant.Pipe.
	Pipe string
	// Env holds the vendor's variables.
	Env map[string]string
	// Mounts and Devices are for Nomad's own task drivers. They are returned to Nomad only if
	// return_mounts is set.
	Mounts  []*device.Mount
	Devices []*device.DeviceSpec
}

// Usage is the load of one offered GPU, MIG device or partition.
type Usage struct {
	// MemoryUsed is the part of MemoryTotal that is in use.
	MemoryUsed, MemoryTotal gpu.MiB
	// Busy is the percentage of the last sample period in which the GPU ran work; negative if
	// unknown.
	Busy float64
	// Metrics are further readings, such as power, temperature and error counters.
	Metrics []Metric
	// Processes on the GPU, by host PID.
	Processes []Process
}

// Metric is one reading.
type Metric struct {
	// Name is a Nomad statistic's name, such as "power" or "ecc_uncorrected".
	Name  string
	Value float64
	Unit  string
	Desc  string
}

// Process is one process that uses a GPU.
type Process struct {
	PID    int
	Memory gpu.MiB
	// Busy is the process's percentage of the GPU's time; negative if unknown.
	Busy float64
}
