package nvidia

import (
	"fmt"
	"path/filepath"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
	"aliquot.example/internal/share"
)

// beingChanged is the problem of GPUs whose driver is about to be another one.
const beingChanged = "the driver is being changed on this node"

// changing reports whether somebody asks the plugin to let go of the driver: aliquot node
// does so before it takes out the driver's modules, when the node is drained.
func (v *vendor) changing() bool {
	return machine.Running.Exists(filepath.Join(v.cfg.RunDir, machine.DriverChange))
}

// letGo ends the MPS daemons, and closes the library when they have gone, as they are
// ended by its means. The error says how far it is.
func (v *vendor) letGo() error {
	if left := len(v.mps.converge(share.Plan{})); left > 0 {
		return withheldError(fmt.Sprintf("%s, and %d MPS daemons are being ended", beingChanged, left))
	}
	v.lib.pause(beingChanged)
	return withheldError(beingChanged)
}

// withheldError counts at once, like GPUs that are not there.
type withheldError string

func (e withheldError) Error() string { return string(e) }

func (withheldError) Is(target error) bool { return target == plugin.ErrAbsent }

// withheld calls all offers unhealthy while the driver is being changed.
func (v *vendor) withheld(plan share.Plan) map[gpu.ID]plugin.State {
	states := map[gpu.ID]plugin.State{}
	for _, o := range plan.Offers {
		states[o.ID] = plugin.State{Problem: beingChanged}
	}
	return states
}
