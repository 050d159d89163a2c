package plugin

import (
	"context"
	"fmt"
	"maps"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot/internal/share"
)

// reserve resolves the IDs against the plan and adds the vendor's part.
func (l *loop) reserve(ctx context.Context, ids []string) (*device.ContainerReservation, error) {
	planned := make(chan share.Plan, 1)
	go func() { planned <- l.current(ctx) }() // asks a driver that may hang, where it was not asked before
	var plan share.Plan
	select {
	case plan = <-planned:
	case <-ctx.Done():
		return nil, fmt.Errorf("the GPUs' driver has not answered within %s; the devices take no task now", reserveTimeout)
	}
	granted, err := plan.Grant(ids)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	stalled := l.stalled
	l.mu.Unlock()
	if stalled != "" {
		return nil, fmt.Errorf("GPU %s takes no task now: %s", granted.Offers[0].ID, stalled)
	}
	r, err := l.vendor.Reserve(ctx, granted)
	if err != nil {
		return nil, err
	}
	granted.Grant.Pipe = r.Pipe
	env := granted.Grant.Env()
	maps.Copy(env, r.Env)
	out := &device.ContainerReservation{Envs: env}
	if l.config.ReturnMounts {
		out.Mounts, out.Devices = r.Mounts, r.Devices
	}
	l.log.Debug("reserved", "group", granted.Grant.Group, "slices", granted.Grant.Slices, "of", granted.Grant.Total, "memory", granted.Grant.Memory)
	return out, nil
}
