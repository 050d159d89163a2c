package nvidia

import (
	"fmt"
	"path/filepath"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
	"aliquot.example/internal/share"
)

// beingChanged is the problem of GPUs while another driver is being loaded.
const beingChanged = "the driver is being changed on this node"

// changing reports whether the plugin must release the driver. aliquot node requests this when the
// node is drained, before it unloads the driver's modules.
func (v *vendor) changing() bool {
	return machine.Running.Exists(filepath.Join(v.cfg.RunDir, machine.DriverChange))
}

// releaseDriver stops the MPS daemons. When they have ended, it closes the library, which it needs to stop
// them. The error reports the progress.
func (v *vendor) releaseDriver() error {
	if left := len(v.mps.converge(share.Plan{})); left > 0 {
		return withheldError(fmt.Sprintf("%s, and %d MPS daemons are being stopped", beingChanged, left))
	}
	v.lib.pause(beingChanged)
	return withheldError(beingChanged)
}

// withheldError is an error that makes the GPUs unhealthy at once, like ErrAbsent.
type withheldError string

func (e withheldError) Error() string { return string(e) }

func (withheldError) Is(target error) bool { return target == plugin.ErrAbsent }

// withheld reports all offers as unhealthy while the driver is being changed.
func (v *vendor) withheld(plan share.Plan) map[gpu.ID]plugin.State {
	states := map[gpu.ID]plugin.State{}
	for _, o := range plan.Offers {
		states[o.ID] = plugin.State{Problem: beingChanged}
	}
	return states
}
