package aliquot

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/gpu"
	machine "aliquot.example/internal/host"
)

// errNoLimit means that this node cannot limit a grant's memory.
var errNoLimit = errors.New("GPU memory cannot be limited")

// noLimit is vendor.limit for vendors without memory limits.
func noLimit(context.Context, settings, gpu.Grant, string) (string, error) { return "", errNoLimit }

// noneHeld is vendor.limits for vendors without memory limits.
func noneHeld(settings, gpu.Grant) bool { return false }

// holdMemory limits a container to the granted GPU memory, if the kernel or the GPU's driver can do so,
// and reports that in an event. Otherwise it does nothing.
func (d *Driver) holdMemory(cfg *drivers.TaskConfig, g gpu.Grant, container string) {
	set, _ := d.settings()
	v, err := vendorOf(g)
	if err != nil || !v.limits(set, g) {
		return
	}
	by, err := d.limitContainer(set, v, g, container)
	switch {
	case errors.Is(err, errNoLimit):
		d.log.Debug("no limit for the task's GPU memory", "task", cfg.Name, "error", err)
	case err != nil:
		d.log.Error("cannot limit the task's GPU memory", "task", cfg.Name, "error", err)
		d.emit(cfg, fmt.Sprintf("GPU memory is not limited: %v", err),
			map[string]string{"memory_enforcement": string(g.MemoryEnforcement)})
	default:
		d.emit(cfg, "GPU memory is limited by "+by, map[string]string{"memory_enforcement": string(gpu.LevelHard)})
	}
}

// limitContainer limits the GPU memory of a container's control group. by says what enforces the limit,
// and how much it is.
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
		return "", errors.New("the container has no cgroup v2 control group")
	}
	return v.limit(d.ctx, set, g, group)
}
