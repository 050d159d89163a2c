package aliquot

import (
	"context"
	"fmt"
	"strings"

	"aliquot.example/internal/gpu"
)

// vendor is one maker's side of the driver: a value in a file of its own, so that
// nothing else here compares vendors.
type vendor struct {
	of gpu.Vendor
	// present reports whether the kernel driver of the vendor's GPUs is loaded.
	present func(host) bool
	// attributes are the vendor's own of the driver's fingerprint, without prefix.
	attributes func(s settings, runtimes []string) map[string]string
	// attach collects what a container needs to use a grant, and names the way.
	attach func(s settings, g gpu.Grant, task TaskConfig, runtimes []string) (attachment, error)
	// holders lists processes that hold a grant's GPUs now; processes of other
	// containers may be among them.
	holders func(ctx context.Context, at look, g gpu.Grant) ([]int, error)
	// holds says what such a process does, as "process 12 … <GPU>".
	holds func(gpu.Grant) string
	// unseen is added to the message that no process was seen.
	unseen func(ctx context.Context, at look, g gpu.Grant) string
	// server names the server that a grant shares with others of its GPU, one name for
	// each, "" where it shares none; serverName says what it is.
	server     func(gpu.Grant) string
	serverName string
	// faulted returns the processes that a server in fault keeps, and whether it is.
	faulted func(ctx context.Context, at look, g gpu.Grant) ([]int, bool, error)
	// limits reports whether something here may hold the memory that a grant has beside
	// neighbours; limit does so for a control group and returns who holds it to what.
	limits func(settings, gpu.Grant) bool
	limit  func(ctx context.Context, s settings, g gpu.Grant, group string) (by string, err error)
	// percent is the variable in a task's device environment that holds its part of
	// the GPU's compute, "" where the granted slices alone say it.
	percent string
}

// look is what a vendor may ask to find the processes of one container.
type look struct {
	set       settings
	mps       MPS
	container string
}

// vendors are those whose GPUs this driver attaches.
var vendors = []vendor{nvidia, amd, intel}

// vendorOf returns the vendor of a grant. It fails for one that this driver does
// not know.
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

func neverFaulted(context.Context, look, gpu.Grant) ([]int, bool, error) { return nil, false, nil }

func noAttributes(settings, []string) map[string]string { return nil }
