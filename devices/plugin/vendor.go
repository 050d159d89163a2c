// Package plugin is the one skeleton of Aliquot's Nomad device plugins: the
// configuration, the reconcile loop, device groups, reservations and statistics.
// A maker of GPUs satisfies Vendor and is described by a Maker; nothing here
// knows a vendor library.
//
// The loop reads the inventory, plans purely (internal/share), lets the vendor
// bring the host to the plan, and tells Nomad the device groups when they
// changed. It starts with the first Fingerprint call, never in SetConfig: Nomad
// launches every plugin twice when it starts, only to validate its configuration.
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
	// Modes that a gpu block may name, the default first.
	Modes []share.Mode
	// Keys and GPUKeys are the vendor's own settings, at the top and in a gpu block.
	Keys, GPUKeys []Key
	// New validates the vendor's settings and makes the vendor. It must not touch
	// the host: it runs in processes that only validate. Its error is one line that
	// names the key, the value and what to write instead.
	New func(Config, Host) (Vendor, error)
}

// Host is what the skeleton gives a vendor.
type Host struct {
	Log hclog.Logger
	// Wake makes the loop run at once, for example after a GPU reported an error.
	// It never blocks.
	Wake func()
	// Numbers keeps the GPUs' indexes.
	Numbers *Numbers
}

// ErrAbsent is wrapped by Inventory's error when the host has no hardware or no
// library of the vendor: a state, not a fault. It is looked for again later.
var ErrAbsent = errors.New("no GPUs of this vendor")

// Vendor is one maker's side of the plugin. Inventory and Converge are called by
// one goroutine; Reserve and Usage by others at the same time.
type Vendor interface {
	// Inventory lists the host's physical GPUs, MIG devices and partitions. An
	// error means that they cannot be read now: the skeleton then keeps those that
	// it knows, as unhealthy. A physical GPU that is listed no longer is kept as
	// unhealthy too.
	Inventory(ctx context.Context) ([]share.Found, error)
	// Converge brings the host nearer to the plan without waiting for it, and
	// returns the state of every offer by its ID. An offer without a state counts
	// as healthy.
	Converge(ctx context.Context, plan share.Plan) map[gpu.ID]State
	// Reserve adds what only the vendor knows to a grant. Its error is one line.
	Reserve(ctx context.Context, granted share.Granted) (Reservation, error)
	// Usage reads load and processes of the offers; what cannot be read is left out.
	Usage(ctx context.Context, plan share.Plan) map[gpu.ID]Usage
}

// State is the condition of one offer.
type State struct {
	// Problem says why the offer cannot take tasks, "" when it is healthy.
	Problem string
	// Starting is set while the problem is only that something has just been
	// started; the first fingerprint waits a little for it.
	Starting bool
	// Attributes are added to the group's. They must change rarely: every change is
	// a write to Nomad's state.
	Attributes map[string]*structs.Attribute
}

// Reservation is a vendor's part of a reservation.
type Reservation struct {
	// Pipe is the host's MPS pipe directory, for gpu.Grant.Pipe.
	Pipe string
	// Env holds the vendor's variables.
	Env map[string]string
	// Mounts and Devices are for the stock task drivers; they are returned to Nomad
	// only where the configuration says return_mounts.
	Mounts  []*device.Mount
	Devices []*device.DeviceSpec
}

// Usage is the load of one offered GPU, MIG device or partition.
type Usage struct {
	// MemoryUsed of MemoryTotal.
	MemoryUsed, MemoryTotal gpu.MiB
	// Busy is the part of the last sample period in which the GPU ran work, in
	// percent; negative when unknown.
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
	// Busy is the process's part of the GPU's time in percent; negative when unknown.
	Busy float64
}
