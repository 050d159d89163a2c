package aliquot

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
)

// errNoLimit says that nothing here can hold a grant's memory.
var errNoLimit = errors.New("there is no limit of GPU memory")

// noLimit is the limit of a vendor for which there is none.
func noLimit(context.Context, settings, gpu.Grant, string) (string, error) { return "", errNoLimit }

// noneHeld is the answer of a vendor whose memory nothing here can hold.
func noneHeld(settings, gpu.Grant) bool { return false }

// holdMemory has a container held to the memory that its task was granted, where the
// kernel or the GPU's driver can, and says so in an event. Where nothing can nothing
// changes.
func (d *Driver) holdMemory(cfg *drivers.TaskConfig, g gpu.Grant, container string) {
	set, _ := d.settings()
	v, err := vendorOf(g)
	if err != nil || !v.limits(set, g) {
		return
	}
	by, err := d.limitContainer(set, v, g, container)
	switch {
	case errors.Is(err, errNoLimit):
		d.log.Debug("the task's GPU memory is not held", "task", cfg.Name, "error", err)
	case err != nil:
		d.log.Error("the task's GPU memory is not held", "task", cfg.Name, "error", err)
		d.emit(cfg, fmt.Sprintf("GPU memory is not held: %v", err),
			map[string]string{"memory_enforcement": string(g.MemoryEnforcement)})
	default:
		d.emit(cfg, "GPU memory is held by "+by, map[string]string{"memory_enforcement": string(gpu.LevelHard)})
	}
}

// limitContainer limits the memory of a container's control group, and returns who holds
// it to what.
func (d *Driver) limitContainer(set settings, v vendor, g gpu.Grant, container string) (by string, err error) {
	engine, err := set.engine.client()
	if err != nil {
		return "", err
	}
	defer engine.Close()
	info, err := engine.ContainerInspect(d.ctx, container)
	if err != nil {
		return "", err
	}
	if info.State == nil || info.State.Pid == 0 {
		return "", fmt.Errorf("%w: the container has ended", errNoLimit)
	}
	group := groupOf(machine.Running, info.State.Pid)
	if group == "" {
		return "", errors.New("the container has no control group of the second version")
	}
	return v.limit(d.ctx, set, g, group)
}
