package plugin

import (
	"context"
	"maps"

	"github.com/hashicorp/nomad/plugins/device"
)

// reserve resolves the IDs against the plan and adds the vendor's part.
func (l *loop) reserve(ctx context.Context, ids []string) (*device.ContainerReservation, error) {
	granted, err := l.current(ctx).Grant(ids)
	if err != nil {
		return nil, err
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
