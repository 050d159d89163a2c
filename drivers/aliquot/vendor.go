package aliquot

import (
	"context"
	"fmt"
	"strings"

	"aliquot.example/internal/gpu"
)

// vendor is a vendor's part of the driver. Each is a value in a separate file, so that no other code
// compares vendors.
type vendor struct {
	of gpu.Vendor
	// present reports whether the kernel driver of the vendor's GPUs is loaded.
	present func(host) bool
	// attributes returns the vendor's attributes for the driver's fingerprint, without prefix.
	attributes func(s settings, runtimes []string) map[string]string
	// attach collects what a container needs to use a grant, and how it is attached.
	attach func(s settings, g gpu.Grant, task TaskConfig, runtimes []string) (attachment, error)
	// holders lists processes that use a grant's GPUs now, possibly also those of other
	// containers.
	holders func(ctx context.Context, at look, g gpu.Grant) ([]int, error)
	// holds says what such a process does, as "process 12 … <GPU>".
	holds func(gpu.Grant) string
	// unseen returns a text to append to the message that no process was seen.
	unseen func(ctx context.Context, at look, g gpu.Grant) string
	// server returns a unique name of the server that a grant shares with others on its GPU, or ""
	// if it shares none. serverName is the kind of server, for messages.
	server     func(gpu.Grant) string
	serverName string
	// faulted reports whether a grant's server is in fault, and returns its clients.
	faulted func(ctx context.Context, at look, g gpu.Grant) ([]int, bool, error)
	// limits reports whether this node may be able to limit the memory of a shared grant. limit sets
	// the limit for a control group; by says what enforces it, and how much it is.
	limits func(settings, gpu.Grant) bool
	limit  func(ctx context.Context, s settings, g gpu.Grant, group string) (by string, err error)
	// percent is the variable in a task's device environment with its percentage of the GPU's
	// compute, or "" if that follows from the granted slices.
	percent string
}

// look has what a vendor needs to find the processes of one container.
type look struct {
	set       settings
	mps       MPS
	container string
}

// vendors are the vendors whose GPUs this driver attaches.
var vendors = []vendor{nvidia, amd, intel}

// vendorOf returns the vendor of a grant. It fails for an unknown vendor.
func vendorOf(g gpu.Grant) (vendor, error) {
	var names []string
	for _, v := range vendors {
		if v.of == g.Vendor {
			return v, nil
		}
		names = append(names, string(v.of))
	}
	return vendor{}, fmt.Errorf("the grant is for vendor %q: this driver attaches %s", g.Vendor,
		strings.Join(names, ", "))
}

func nothing(gpu.Grant) string { return "" }

func nothingUnseen(context.Context, look, gpu.Grant) string { return "" }

func noFaults(context.Context, look, gpu.Grant) ([]int, bool, error) { return nil, false, nil }

func noAttributes(settings, []string) map[string]string { return nil }
